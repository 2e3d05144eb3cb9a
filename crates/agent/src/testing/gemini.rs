//! An answer in the format of Google's `generateContent`, whole or as the events of a stream, also as servers that speak
//! almost like it.

use super::decide::Decision;
use super::quirk::Quirk;
use super::wire::{Draft, Written, pieces};
use serde_json::{Value, json};

impl Draft<'_> {
    pub(super) fn gemini(&self) -> Written {
        let thought = self.thought.map(|thought| json!({"text": thought, "thought": true}));
        let (streamed, mut whole): (Vec<Vec<Value>>, Vec<Value>) = match self.decision {
            Decision::Text(text) => {
                let pieces = pieces(text, self.chunks).iter().map(|piece| vec![json!({ "text": piece })]).collect();
                (pieces, vec![json!({ "text": text })])
            }
            Decision::Calls(calls) => {
                let calls: Vec<_> = calls.iter().enumerate().map(|(at, call)| self.gemini_call(at, call)).collect();
                (vec![calls.clone()], calls)
            }
        };
        whole.splice(0..0, thought.clone());
        let reason = if self.is_refusal { "SAFETY" } else { "STOP" };
        let streamed: Vec<_> = thought.map(|thought| vec![thought]).into_iter().chain(streamed).collect();
        let last = streamed.len().saturating_sub(1);
        let frames = streamed
            .into_iter()
            .enumerate()
            .map(|(at, parts)| format!("data: {}", self.candidate(parts, (at == last).then_some(reason))));
        Written { frames: frames.collect(), whole: self.candidate(whole, Some(reason)) }
    }

    /// Only the first of several calls is signed.
    fn gemini_call(&self, at: usize, (name, arguments): &(String, Value)) -> Value {
        let mut part = json!({"functionCall": {"name": name, "args": arguments}});
        if at == 0 {
            part["thoughtSignature"] = json!("signed-thought");
        }
        part
    }

    /// A whole small answer.
    fn candidate(&self, parts: Vec<Value>, reason: Option<&str>) -> Value {
        let (input_tokens, output_tokens) = self.tokens();
        let thoughts = if self.thought.is_some() { 7 } else { 0 };
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        if let Some(reason) = reason {
            candidate["finishReason"] = json!(reason);
        }
        json!({
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": input_tokens, "candidatesTokenCount": output_tokens,
                "thoughtsTokenCount": thoughts, "cachedContentTokenCount": 1,
                "totalTokenCount": input_tokens + output_tokens + thoughts,
            },
            "modelVersion": self.request["model"], "responseId": format!("resp-{:08}", self.number),
        })
    }
}

/// The events as a server with this quirk sends them; none for a quirk that this format has no room for.
pub(super) fn quirky(quirk: Quirk, draft: &Draft<'_>) -> Option<Vec<Value>> {
    let mut events = Vec::new();
    let mut tell = |parts: Vec<Value>| events.push(draft.candidate(parts, None));
    match draft.decision {
        Decision::Text(_) => {
            let said = quirk.pieces(draft);
            let text = |piece: &Value| json!({ "text": piece });
            match quirk {
                Quirk::ThinkTags | Quirk::TextAtTheEnd | Quirk::BareEvents => return None,
                Quirk::Parts => {
                    let Decision::Text(whole) = draft.decision else { return None };
                    tell(vec![json!({"text": "Let me see.", "thought": true})]);
                    tell(pieces(whole, 2).iter().map(|half| json!({ "text": half })).collect());
                    tell(vec![json!({"text": "", "thoughtSignature": "signed"})]);
                }
                Quirk::AllReasoning => {
                    said.iter().for_each(|piece| tell(vec![json!({"text": piece, "thought": true})]));
                }
                Quirk::EmptyReason | Quirk::ErrorEvent => said.iter().take(1).for_each(|piece| tell(vec![text(piece)])),
                _ => said.iter().for_each(|piece| tell(vec![text(piece)])),
            }
        }
        Decision::Calls(calls) => {
            if matches!(quirk, Quirk::OneIndex | Quirk::ChangingIds | Quirk::ArgumentsAtTheEnd) {
                return None;
            }
            let parts: Vec<_> = calls
                .iter()
                .enumerate()
                .map(|(at, call)| {
                    let mut part = draft.gemini_call(at, call);
                    let is_last = at + 1 == calls.len();
                    let function = part["functionCall"].as_object_mut().expect("a call");
                    if quirk == Quirk::LostArguments || quirk == Quirk::CutCall && is_last {
                        function.remove("args");
                    }
                    if quirk == Quirk::NamelessCall && at == 0 {
                        function.remove("name");
                    }
                    part
                })
                .collect();
            tell(parts);
        }
    }
    let reason = match quirk {
        Quirk::EmptyReason => "",
        Quirk::ErrorEvent => {
            events.push(json!({"error": {"code": 500, "message": "CUDA out of memory", "status": "INTERNAL"}}));
            return Some(events);
        }
        Quirk::FailureReason => "MALFORMED_FUNCTION_CALL",
        Quirk::UnknownReason => "banana",
        Quirk::Length | Quirk::CutCall => "MAX_TOKENS",
        Quirk::ContentFilter => "SAFETY",
        Quirk::Cancelled => "CANCELLED",
        _ => "STOP",
    };
    let mut last = draft.candidate(Vec::new(), Some(reason));
    match (quirk, draft.decision) {
        (Quirk::FailureReason, _) => last["candidates"][0]["finishMessage"] = json!("network_error"),
        (Quirk::FailureBeside, _) => last["error"] = json!({"code": 503, "message": "network_error"}),
        (Quirk::RepeatedCalls, Decision::Calls(calls)) => {
            let calls =
                calls.iter().map(|(name, arguments)| json!({"functionCall": {"name": name, "args": arguments}}));
            last["candidates"][0]["content"]["parts"] = calls.collect();
        }
        _ => {}
    }
    events.push(last);
    Some(events)
}
