//! The ways in which servers speak almost like the formats they speak, by name, for every endpoint.
//!
//! A quirk takes what the server would have said and says it as such a server does. It must never know what a client
//! makes of it.

use super::decide::Decision;
use super::openai::PlannedAnswer;
use super::wire::{Draft, Format};
use super::{anthropic, gemini};
use serde_json::{Value, json};

macro_rules! quirks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A way to speak almost like a format; see the directive `QUIRK` of [`super::OpenAiServer`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Quirk {
            $($(#[$doc])* $variant,)*
        }

        impl Quirk {
            /// Every quirk.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in a directive.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

quirks! {
    /// Every piece of every call has the same index, later pieces have an empty id or none.
    OneIndex = "one-index",
    /// The last event repeats every call whole.
    RepeatedCalls = "repeated-calls",
    /// The id of a call changes with every piece.
    ChangingIds = "changing-ids",
    /// The arguments come only in the last event of a call.
    ArgumentsAtTheEnd = "arguments-at-the-end",
    /// The arguments of calls are lost.
    LostArguments = "lost-arguments",
    /// Arguments come whose call was never begun.
    NamelessCall = "nameless-call",
    /// The answer is cut at its token limit before the arguments of its last call.
    CutCall = "cut-call",
    /// The finish reason is empty in every event, and the connection is cut.
    EmptyReason = "empty-reason",
    /// The finish reason is a failure.
    FailureReason = "failure-reason",
    /// A failure comes with the finish reason.
    FailureBeside = "failure-beside",
    /// The finish reason is one that nobody knows.
    UnknownReason = "unknown-reason",
    /// An error in place of an event, and then a polite end.
    ErrorEvent = "error-event",
    /// The answer was cut at its token limit.
    Length = "length",
    /// The answer was cut by a filter.
    ContentFilter = "content-filter",
    /// The answer was cancelled at the provider.
    Cancelled = "cancelled",
    /// Content is a list of parts, mixed with plain texts, thinking among them.
    Parts = "parts",
    /// Thinking is in the content, between tags.
    ThinkTags = "think-tags",
    /// The whole answer is reasoning.
    AllReasoning = "all-reasoning",
    /// Reasoning and signatures come with calls, in fields that no specification names.
    Signed = "signed",
    /// The text is complete only in its last event.
    TextAtTheEnd = "text-at-the-end",
    /// A byte order mark comes first.
    ByteOrderMark = "byte-order-mark",
    /// Lines end in carriage returns.
    CarriageReturns = "carriage-returns",
    /// Comments, `data: keepalive` and pings come between the events.
    Keepalives = "keepalives",
    /// The last event lacks its blank line.
    NoBlankLine = "no-blank-line",
    /// A character outside the basic plane is cut into its halves.
    Halves = "halves",
    /// Events are named on the stream alone, or not at all.
    BareEvents = "bare-events",
    /// An error body in a list, with a wait in its details.
    ErrorList = "error-list",
    /// A page with status 200.
    Page = "page",
    /// A redirect that would make a GET of the request.
    Moved = "moved",
}

impl Quirk {
    /// The quirk of this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|quirk| quirk.name() == name)
    }

    /// The answer as such a server gives it; none where the format has no room for the quirk.
    pub(super) fn speak(self, draft: &Draft<'_>, format: Format) -> Option<PlannedAnswer> {
        match self {
            Quirk::ErrorList => {
                let details = json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.02s"}]);
                let error = json!({"code": 429, "message": "Quota of the tier exceeded", "details": details});
                return Some(PlannedAnswer::json(429, &json!([{ "error": error }])));
            }
            Quirk::Page => {
                let page = "<!doctype html><html><head><title>Sign in to continue</title></head></html>";
                let mut answer = PlannedAnswer::events(page);
                answer.headers = vec![("content-type".to_owned(), "text/html".to_owned())];
                return Some(answer);
            }
            Quirk::Moved => {
                let moved = PlannedAnswer::json(301, &json!({}));
                return Some(moved.header("location", "/v2/elsewhere?token=hidden-token"));
            }
            _ => {}
        }
        let events = match format {
            Format::Chat => self.chat(draft),
            Format::Responses => self.responses(draft),
            Format::Anthropic => anthropic::quirky(self, draft)?,
            Format::Gemini => gemini::quirky(self, draft)?,
        };
        let done = if format == Format::Chat { "data: [DONE]\n\n" } else { "" };
        let mut stream = String::new();
        for event in &events {
            stream += &match (format, self) {
                (Format::Responses | Format::Anthropic, Quirk::BareEvents) => {
                    let mut event = event.clone();
                    let kind = event.as_object_mut().and_then(|fields| fields.remove("type")).unwrap_or_default();
                    format!("event:{}\ndata:{event}\n\n", kind.as_str().unwrap_or_default())
                }
                (_, Quirk::Keepalives) => {
                    format!(
                        ": still here\n\ndata: keepalive\n\nevent: ping\ndata: {{\"type\":\"ping\"}}\n\ndata: {event}\n\n"
                    )
                }
                _ => format!("data: {event}\n\n"),
            };
        }
        stream += if self == Quirk::EmptyReason { "" } else { done };
        let stream = match self {
            Quirk::ByteOrderMark => format!("\u{feff}{stream}"),
            Quirk::CarriageReturns => stream.replace('\n', "\r"),
            Quirk::NoBlankLine => stream.trim_end().trim_end_matches("data: [DONE]").trim_end().to_owned(),
            Quirk::Halves => stream.replace("HALF1", "\\ud83d").replace("HALF2", "\\ude00"),
            _ => stream,
        };
        let answer = PlannedAnswer::events(stream);
        Some(if self == Quirk::EmptyReason { answer.cut() } else { answer })
    }

    /// The text in pieces, as the quirk cuts it.
    pub(super) fn pieces(self, draft: &Draft<'_>) -> Vec<Value> {
        let Decision::Text(text) = draft.decision else { return Vec::new() };
        let middle = text.chars().count() / 2;
        let (first, second): (String, String) =
            (text.chars().take(middle).collect(), text.chars().skip(middle).collect());
        match self {
            Quirk::ThinkTags => {
                vec![json!("<thi"), json!("nk>Let me s"), json!("ee.</th"), json!("ink>\n"), json!(text)]
            }
            Quirk::Parts => vec![
                json!([{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}]),
                json!([{"type": "text", "text": first}]),
                json!([second]),
            ],
            Quirk::Halves => vec![json!(text), json!(" HALF1"), json!("HALF2")],
            _ => vec![json!(first), json!(second)],
        }
    }

    fn chat(self, draft: &Draft<'_>) -> Vec<Value> {
        let chunk = |delta: Value, reason: Value| {
            json!({"id": format!("chatcmpl-{}", draft.number), "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        };
        let open = if self == Quirk::EmptyReason { json!("") } else { Value::Null };
        let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), open.clone())];
        let mut said: Vec<_> = self.pieces(draft).into_iter().map(|piece| json!({"content": piece})).collect();
        match self {
            Quirk::AllReasoning => {
                said.iter_mut().for_each(|delta| *delta = json!({"content": "", "reasoning": delta["content"]}));
            }
            Quirk::TextAtTheEnd => said.truncate(1),
            Quirk::EmptyReason | Quirk::ErrorEvent => said.truncate(1),
            _ => {}
        }
        events.extend(said.into_iter().map(|delta| chunk(delta, open.clone())));
        if let Decision::Calls(calls) = draft.decision {
            events.extend(self.chat_calls(draft, calls).into_iter().map(|delta| chunk(delta, open.clone())));
        }
        let is_text = matches!(draft.decision, Decision::Text(_));
        let mut last = chunk(json!({}), json!(if is_text { "stop" } else { "tool_calls" }));
        let choice = &mut last["choices"][0];
        match (self, draft.decision) {
            (Quirk::EmptyReason, _) => return events,
            (Quirk::ErrorEvent, _) => {
                events.push(json!({"object": "error", "message": "CUDA out of memory", "code": 500}));
                return events;
            }
            (Quirk::FailureReason, _) => {
                choice["finish_reason"] = json!("error");
                choice["native_finish_reason"] = json!("network_error");
            }
            (Quirk::FailureBeside, _) => choice["native_finish_reason"] = json!("network_error"),
            (Quirk::UnknownReason, _) => choice["finish_reason"] = json!("banana"),
            (Quirk::Length | Quirk::CutCall, _) => choice["finish_reason"] = json!("length"),
            (Quirk::ContentFilter, _) => choice["finish_reason"] = json!("content_filter"),
            (Quirk::Cancelled, _) => choice["finish_reason"] = json!("cancelled"),
            (Quirk::TextAtTheEnd, Decision::Text(text)) => {
                choice.as_object_mut().map(|choice| choice.remove("delta"));
                choice["message"] = json!({"role": "assistant", "content": text});
            }
            (Quirk::RepeatedCalls, Decision::Calls(calls)) => {
                choice["delta"] = json!({"tool_calls": whole_calls(draft, calls)});
            }
            (Quirk::ArgumentsAtTheEnd, Decision::Calls(calls)) => {
                choice.as_object_mut().map(|choice| choice.remove("delta"));
                choice["message"] = json!({"role": "assistant", "tool_calls": whole_calls(draft, calls)});
            }
            _ => {}
        }
        events.push(last);
        events
    }

    fn chat_calls(self, draft: &Draft<'_>, calls: &[(String, Value)]) -> Vec<Value> {
        let mut deltas = Vec::new();
        if self == Quirk::Signed {
            let detail = |text: &str| json!([{"type": "reasoning.text", "index": 0, "text": text, "format": "x"}]);
            deltas.push(json!({"reasoning_content": "I must ", "reasoning_details": detail("I must ")}));
            deltas.push(json!({"reasoning_content": "buy.", "reasoning_details": detail("buy.")}));
        }
        for (at, (name, arguments)) in calls.iter().enumerate() {
            let index = if self == Quirk::OneIndex { 0 } else { at };
            let id = format!("call_{}_{at}", draft.number);
            let written = arguments.to_string();
            let (first, second) = written.split_at(written.len() / 2);
            let is_last = at + 1 == calls.len();
            let mut begin =
                json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
            if self == Quirk::Signed {
                begin["extra_content"] = json!({"google": {"thought_signature": format!("signature-{at}")}});
            }
            if self == Quirk::NamelessCall && at == 0 {
                begin["function"]["name"] = Value::Null;
            }
            deltas.push(json!({ "tool_calls": [begin] }));
            let lost =
                matches!(self, Quirk::LostArguments | Quirk::ArgumentsAtTheEnd) || self == Quirk::CutCall && is_last;
            let pieces = if lost { vec![""] } else { vec![first, second] };
            for (number, piece) in pieces.into_iter().enumerate() {
                let mut more = json!({"index": index, "function": {"arguments": piece}});
                match self {
                    Quirk::OneIndex => (more["id"], more["function"]["name"]) = (json!(""), Value::Null),
                    Quirk::ChangingIds => more["id"] = json!(format!("random_{at}_{number}")),
                    _ => {}
                }
                deltas.push(json!({ "tool_calls": [more] }));
            }
        }
        deltas
    }

    fn responses(self, draft: &Draft<'_>) -> Vec<Value> {
        let id = format!("resp_{}", draft.number);
        let mut events = vec![json!({"type": "response.created", "response": {"id": id, "status": "in_progress"}})];
        let mut output = Vec::new();
        match draft.decision {
            Decision::Text(text) => self.responses_text(text, draft, &mut events, &mut output),
            Decision::Calls(calls) => self.responses_calls(draft, calls, &mut events, &mut output),
        }
        let mut response = json!({"id": id, "object": "response", "status": "completed", "output": output});
        let mut kind = "response.completed";
        match self {
            Quirk::EmptyReason => return events,
            Quirk::ErrorEvent => {
                events.push(json!({"object": "error", "message": "CUDA out of memory", "code": 500}));
                return events;
            }
            Quirk::FailureReason => {
                kind = "response.failed";
                response["status"] = json!("failed");
                response["error"] = json!({"code": "server_error", "message": "network_error"});
            }
            Quirk::FailureBeside => {
                response["error"] = json!({"code": "server_error", "message": "network_error"});
            }
            Quirk::UnknownReason => response["status"] = json!("banana"),
            Quirk::Length | Quirk::CutCall => {
                (kind, response["status"]) = ("response.incomplete", json!("incomplete"));
                response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            }
            Quirk::ContentFilter => {
                (kind, response["status"]) = ("response.incomplete", json!("incomplete"));
                response["incomplete_details"] = json!({"reason": "content_filter"});
            }
            Quirk::Cancelled => (kind, response["status"]) = ("response.cancelled", json!("cancelled")),
            _ => {}
        }
        events.push(json!({"type": kind, "response": response}));
        events
    }

    fn responses_text(self, text: &str, draft: &Draft<'_>, events: &mut Vec<Value>, output: &mut Vec<Value>) {
        let mut pieces = self.pieces(draft);
        let part = |text: &str| json!({"type": "output_text", "text": text});
        if matches!(self, Quirk::AllReasoning | Quirk::Parts) {
            let thought = if self == Quirk::Parts { "Let me see." } else { text };
            let summary = json!([{"type": "summary_text", "text": thought}]);
            let item = json!({"type": "reasoning", "id": "rs_1", "summary": summary});
            events.push(json!({"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "output_index": 0,
                "summary_index": 0, "delta": thought}));
            events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": item}));
            output.push(item);
        }
        if self == Quirk::AllReasoning {
            return;
        }
        match self {
            Quirk::TextAtTheEnd | Quirk::EmptyReason | Quirk::ErrorEvent => pieces.truncate(1),
            Quirk::Parts => pieces = vec![json!(text)],
            _ => {}
        }
        let index = output.len();
        events.push(json!({"type": "response.output_item.added", "output_index": index,
            "item": {"type": "message", "id": null, "role": "assistant", "content": []}}));
        let place = |kind: &str, field: &str, value: &Value| json!({"type": kind, "item_id": null, "output_index": index, "content_index": 0, field: value});
        let joined: String = pieces.iter().filter_map(Value::as_str).collect();
        events.extend(pieces.iter().map(|piece| place("response.output_text.delta", "delta", piece)));
        if matches!(self, Quirk::EmptyReason | Quirk::ErrorEvent) {
            return;
        }
        if self == Quirk::TextAtTheEnd {
            events.push(place("response.output_text.done", "text", &json!(text)));
            return;
        }
        let content = match self {
            Quirk::Parts => {
                let (first, second) = text.split_at(text.len() / 2);
                json!([first, part(second)])
            }
            _ => json!([part(&joined)]),
        };
        output.push(json!({"type": "message", "role": "assistant", "content": content}));
    }

    fn responses_calls(
        self,
        draft: &Draft<'_>,
        calls: &[(String, Value)],
        events: &mut Vec<Value>,
        output: &mut Vec<Value>,
    ) {
        if self == Quirk::Signed {
            output.push(json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "opaque", "summary": []}));
        }
        let offset = output.len();
        for (at, (name, arguments)) in calls.iter().enumerate() {
            let written = arguments.to_string();
            let is_cut = self == Quirk::CutCall && at + 1 == calls.len();
            let lost = self == Quirk::LostArguments || is_cut;
            let one_index = self == Quirk::OneIndex;
            let id = if one_index { json!(format!("fc_{at}")) } else { Value::Null };
            let index = if one_index { 0 } else { at + offset };
            let item = |arguments: &str| {
                let mut item = json!({"type": "function_call", "id": id, "name": name, "arguments": arguments,
                    "call_id": format!("call_{}_{at}", draft.number)});
                if self == Quirk::Signed {
                    item["extra_content"] = json!({"google": {"thought_signature": format!("signature-{at}")}});
                }
                if is_cut {
                    item["status"] = json!("incomplete");
                }
                item
            };
            if self != Quirk::NamelessCall {
                events.push(json!({"type": "response.output_item.added", "output_index": index, "item": item("")}));
            }
            let more = |kind: &str, field: &str, value: &str, number: usize| {
                let id = if self == Quirk::ChangingIds { json!(format!("random_{at}_{number}")) } else { id.clone() };
                json!({"type": kind, "item_id": id, "output_index": index, field: value})
            };
            let delta = "response.function_call_arguments.delta";
            if !lost && self != Quirk::ArgumentsAtTheEnd {
                let (first, second) = written.split_at(written.len() / 2);
                events.push(more(delta, "delta", first, 1));
                events.push(more(delta, "delta", second, 2));
            }
            let done = "response.function_call_arguments.done";
            match self {
                Quirk::ArgumentsAtTheEnd => events.push(more(done, "arguments", &written, 3)),
                Quirk::RepeatedCalls => {
                    events.push(more(done, "arguments", &written, 3));
                    events.push(more(done, "arguments", &written, 3));
                    events.push(
                        json!({"type": "response.output_item.done", "output_index": index, "item": item(&written)}),
                    );
                }
                _ => {}
            }
            let says_nothing = lost || matches!(self, Quirk::ArgumentsAtTheEnd | Quirk::OneIndex | Quirk::ChangingIds);
            if self != Quirk::NamelessCall {
                output.push(item(if says_nothing { "" } else { &written }));
            }
        }
    }
}

fn whole_calls(draft: &Draft<'_>, calls: &[(String, Value)]) -> Vec<Value> {
    let whole = |(at, (name, arguments)): (usize, &(String, Value))| {
        json!({"index": at, "id": format!("call_{}_{at}", draft.number), "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}})
    };
    calls.iter().enumerate().map(whole).collect()
}
