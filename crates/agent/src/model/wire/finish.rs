//! Why an answer ended, by the names servers give the reason.
//!
//! It must never know an endpoint. Invariant: an unknown name does not count as an end, so an answer that may lack its
//! rest does not pass for a whole one.

use outlive_core::FinishReason;

/// What the name of a finish reason means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// An end, and why.
    Reason(FinishReason),
    /// The server failed in the middle.
    Failed,
    /// An unknown reason.
    Unknown,
}

/// The meaning of a name; none when there is no name, or an empty one.
pub(crate) fn named(name: &str) -> Option<End> {
    let name = name.trim().to_ascii_lowercase().replace(['-', ' '], "_");
    let name = name.strip_prefix("finish_reason_").unwrap_or(&name);
    let end = match name {
        "" | "null" | "none" | "unspecified" => return None,
        "stop" | "end_turn" | "end" | "eos" | "eos_token" | "eos_found" | "stop_sequence" | "complete"
        | "completed" | "done" | "finished" | "normal" => End::Reason(FinishReason::Stop),
        "tool_calls" | "tool_call" | "tool_use" | "tool_uses" | "function_call" | "function_calls" => {
            End::Reason(FinishReason::ToolCalls)
        }
        "length"
        | "max_tokens"
        | "max_output_tokens"
        | "max_completion_tokens"
        | "max_length"
        | "model_length"
        | "token_limit"
        | "context_length"
        | "model_context_window_exceeded"
        | "limit" => End::Reason(FinishReason::Length),
        "content_filter"
        | "content_filtered"
        | "safety"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "refusal"
        | "sensitive"
        | "image_safety"
        | "image_prohibited_content"
        | "image_recitation"
        | "language"
        | "guardrail_intervened" => End::Reason(FinishReason::ContentFilter),
        "cancelled" | "canceled" | "cancel" => End::Reason(FinishReason::Cancelled),
        "unexpected_tool_call" | "too_many_tool_calls" | "missing_thought_signature" | "no_image" => End::Failed,
        name if is_failure(name) => End::Failed,
        _ => End::Unknown,
    };
    Some(end)
}

fn is_failure(name: &str) -> bool {
    let words =
        ["error", "fail", "abort", "timeout", "timed_out", "overload", "interrupt", "insufficient", "malformed"];
    words.iter().any(|word| name.contains(word))
}

/// The end described by a name and the provider's own name beside it: a failure in either counts, and what cut the
/// answer comes before a plain stop.
pub(crate) fn either(name: &str, native: &str) -> Option<End> {
    let (own, native) = (named(name), named(native));
    match (own, native) {
        (_, Some(End::Failed)) => Some(End::Failed),
        (Some(End::Reason(FinishReason::Stop) | End::Unknown), Some(End::Reason(reason)))
            if own == Some(End::Unknown) || reason.is_cut() =>
        {
            Some(End::Reason(reason))
        }
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(named(" "), None);
        assert_eq!(named("stop"), Some(End::Reason(FinishReason::Stop)));
        assert_eq!(named("MAX_TOKENS"), Some(End::Reason(FinishReason::Length)));
        assert_eq!(named("FINISH_REASON_SAFETY"), Some(End::Reason(FinishReason::ContentFilter)));
        assert_eq!(named("canceled"), Some(End::Reason(FinishReason::Cancelled)));
        for failure in ["error", "network_error", "MALFORMED_FUNCTION_CALL", "insufficient_system_resource", "abort"] {
            assert_eq!(named(failure), Some(End::Failed), "{failure}");
        }
        assert_eq!(named("banana"), Some(End::Unknown));
    }

    #[test]
    fn the_providers_own_name_is_heard_too() {
        assert_eq!(either("stop", "network_error"), Some(End::Failed));
        assert_eq!(either("stop", "MAX_TOKENS"), Some(End::Reason(FinishReason::Length)));
        assert_eq!(either("tool_calls", "STOP"), Some(End::Reason(FinishReason::ToolCalls)));
        assert_eq!(either("other", "STOP"), Some(End::Reason(FinishReason::Stop)));
        assert_eq!(either("stop", "whatever"), Some(End::Reason(FinishReason::Stop)));
        assert_eq!(either("", "network_error"), Some(End::Failed));
        assert_eq!(either("", ""), None);
    }
}
