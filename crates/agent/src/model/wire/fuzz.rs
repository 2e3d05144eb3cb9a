//! Mutated streams: whatever a server does to its own good stream, nothing panics, and no tool is called with arguments
//! that were not sent.
//!
//! The seeds are fixed. Pieces are cut inside names, so that a piece that is lost or repeated cannot form other
//! arguments.

use super::Dialect;
use super::stream::tests::read_body;
use crate::model::{Claude, Gemini, OpenAIChat, OpenAIResponses};
use outlive_core::{FinishReason, ModelResponse, ToolSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// For each endpoint.
const STREAMS: u64 = 10_000;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Chat,
    Responses,
    Anthropic,
    Gemini,
}

/// The events of good streams, and the arguments that each tool was sent.
fn good() -> Vec<(Wire, Vec<String>, BTreeMap<&'static str, Value>)> {
    let chunk = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", json!({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}))
    };
    let open = |index: u64, id: &str, name: &str| json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]});
    let more = |index: u64, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
    let done = || "data: [DONE]\n\n".to_owned();
    let null = || Value::Null;
    let usage =
        json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}});
    let text = vec![
        chunk(json!({"role": "assistant", "content": ""}), null()),
        chunk(json!({"reasoning_content": "Hm."}), null()),
        chunk(json!({"content": "Hello \u{1f600}"}), null()),
        chunk(json!({"content": " there"}), null()),
        chunk(json!({}), json!("stop")),
        format!("data: {usage}\n\n"),
        done(),
    ];
    let calls = vec![
        chunk(open(0, "a", "buy"), null()),
        chunk(more(0, "{\"nu"), null()),
        chunk(more(0, "m\":1}"), null()),
        chunk(open(1, "b", "sell"), null()),
        chunk(more(1, "{\"nu"), null()),
        chunk(more(1, "m\":2}"), null()),
        chunk(json!({}), json!("tool_calls")),
        done(),
    ];
    let event = |kind: &str, mut fields: Value| {
        fields["type"] = json!(kind);
        format!("event: {kind}\ndata: {fields}\n\n")
    };
    let call = |id: &str, name: &str, arguments: &str| json!({"type": "function_call", "id": id, "call_id": format!("call_{id}"), "name": name, "arguments": arguments});
    let delta = |id: &str, index: u64, text: &str| {
        event("response.function_call_arguments.delta", json!({"item_id": id, "output_index": index, "delta": text}))
    };
    let (buy, sell) = (r#"{"num":1}"#, r#"{"num":2}"#);
    let output = json!([call("a", "buy", buy), call("b", "sell", sell)]);
    let items = vec![
        event("response.created", json!({"response": {"id": "r", "status": "in_progress"}})),
        event("response.output_item.added", json!({"output_index": 0, "item": call("a", "buy", "")})),
        delta("a", 0, "{\"nu"),
        delta("a", 0, "m\":1}"),
        event("response.function_call_arguments.done", json!({"item_id": "a", "output_index": 0, "arguments": buy})),
        event("response.output_item.added", json!({"output_index": 1, "item": call("b", "sell", "")})),
        delta("b", 1, "{\"nu"),
        delta("b", 1, "m\":2}"),
        event("response.output_item.done", json!({"output_index": 1, "item": call("b", "sell", sell)})),
        event("response.completed", json!({"response": {"id": "r", "status": "completed", "output": output}})),
    ];
    let mut sparse = items.clone();
    sparse[9] = event("response.completed", json!({"response": {"id": "r", "status": "completed", "output": []}}));
    let sent = BTreeMap::from([("buy", json!({"num": 1})), ("sell", json!({"num": 2}))]);
    let start =
        |index: u64, block: Value| event("content_block_start", json!({"index": index, "content_block": block}));
    let piece = |index: u64, kind: &str, name: &str, text: &str| {
        event("content_block_delta", json!({"index": index, "delta": {"type": kind, name: text}}))
    };
    let stop = |index: u64| event("content_block_stop", json!({"index": index}));
    let using = |index: u64, id: &str, name: &str| {
        start(index, json!({"type": "tool_use", "id": id, "name": name, "input": {}}))
    };
    let input = |index: u64, text: &str| piece(index, "input_json_delta", "partial_json", text);
    let blocks = vec![
        event("message_start", json!({"message": {"id": "m", "content": [], "usage": {"input_tokens": 3}}})),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        piece(0, "thinking_delta", "thinking", "Hm."),
        piece(0, "signature_delta", "signature", "signed"),
        stop(0),
        using(1, "a", "buy"),
        input(1, "{\"nu"),
        input(1, "m\":1}"),
        stop(1),
        using(2, "b", "sell"),
        input(2, "{\"nu"),
        input(2, "m\":2}"),
        stop(2),
        event("message_delta", json!({"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}})),
        event("message_stop", json!({})),
    ];
    let words = vec![
        event("message_start", json!({"message": {"id": "m", "content": [], "usage": {"input_tokens": 3}}})),
        start(0, json!({"type": "text", "text": ""})),
        event("ping", json!({})),
        piece(0, "text_delta", "text", "Hello \u{1f600}"),
        piece(0, "text_delta", "text", " there"),
        stop(0),
        event("message_delta", json!({"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}})),
        event("message_stop", json!({})),
    ];
    let candidate = |parts: Value, reason: Value| {
        let candidate = json!({"content": {"role": "model", "parts": parts}, "finishReason": reason});
        format!(
            "data: {}\n\n",
            json!({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3}, "responseId": "g"})
        )
    };
    let calling = |name: &str, num: u64| json!({"functionCall": {"name": name, "args": {"num": num}}, "thoughtSignature": "signed"});
    let parts = vec![
        candidate(json!([{"text": "Hm.", "thought": true}]), null()),
        candidate(json!([calling("buy", 1)]), null()),
        candidate(json!([calling("sell", 2)]), null()),
        candidate(json!([]), json!("STOP")),
    ];
    let said = vec![
        candidate(json!([{"text": "Hello \u{1f600}"}]), null()),
        candidate(json!([{"text": " there"}]), null()),
        candidate(json!([{"text": "", "thoughtSignature": "signed"}]), json!("STOP")),
    ];
    vec![
        (Wire::Anthropic, words, BTreeMap::new()),
        (Wire::Anthropic, blocks, sent.clone()),
        (Wire::Gemini, said, BTreeMap::new()),
        (Wire::Gemini, parts, sent.clone()),
        (Wire::Chat, text, BTreeMap::new()),
        (Wire::Chat, calls, sent.clone()),
        (Wire::Responses, items, sent.clone()),
        (Wire::Responses, sparse, sent),
    ]
}

fn tools(wire: Wire) -> [ToolSpec; 2] {
    let mut parameters = json!({"type": "object", "properties": {"num": {"type": "integer", "default": 10}}});
    if wire == Wire::Anthropic {
        // A call that says nothing of its input has an empty one, which this tool does not take.
        parameters["required"] = json!(["num"]);
    }
    ["buy", "sell"].map(|name| ToolSpec {
        name: name.to_owned(),
        description: String::new(),
        parameters: parameters.clone(),
    })
}

/// Drops, repeats, moves or separates whole events; the content of each stays as it was.
fn shuffle(events: &mut Vec<String>, chance: &mut Chance) {
    for _ in 0..=chance.below(3) {
        if events.is_empty() {
            return;
        }
        let (at, other) = (chance.below(events.len()), chance.below(events.len()));
        match chance.below(7) {
            0 => drop(events.remove(at)),
            1 => events.insert(other, events[at].clone()),
            2 => events.swap(at, other),
            3 => events.truncate(at),
            4 => events.insert(at, ": comment\n\ndata: keepalive\n\n".to_owned()),
            5 => events[at] = events[at].replace("\n\n", "\n"),
            _ => events[at] = events[at].replace('\n', if chance.below(2) == 0 { "\r\n" } else { "\r" }),
        }
    }
}

/// Mutates bytes, which changes the events themselves.
fn corrupt(body: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..=chance.below(4) {
        if body.is_empty() {
            return;
        }
        let at = chance.below(body.len());
        match chance.below(5) {
            0 => body[at] ^= 1 << chance.below(8),
            1 => drop(body.remove(at)),
            2 => body.insert(at, chance.next() as u8),
            3 => body.truncate(at),
            _ => {
                let end = (at + chance.below(40)).min(body.len());
                let again = body[at..end].to_vec();
                let to = chance.below(body.len());
                body.splice(to..to, again);
            }
        }
    }
}

fn in_chunks(body: Vec<u8>, chance: &mut Chance) -> Vec<Vec<u8>> {
    let size = 1 + chance.below(body.len() + 1);
    body.chunks(size).map(<[u8]>::to_vec).collect()
}

/// The calls that an agent would make from an answer.
fn made<'a>(answer: &'a ModelResponse, tools: &[ToolSpec]) -> Vec<(&'a str, Value)> {
    let calls = answer.tool_calls.iter().filter_map(|call| Some((&*call.function.name, call.arguments().ok()?)));
    let fits = |name: &str, arguments: &Value| {
        tools.iter().all(|tool| tool.name != name || outlive_core::check(arguments, &tool.parameters).is_ok())
    };
    let calls = calls.filter(|(name, arguments)| fits(name, arguments));
    // In a cut answer the last call is made only if it has arguments.
    let is_cut = answer.finish_reason.is_cut();
    calls.filter(|(_, arguments)| !is_cut || arguments.as_object().is_some_and(|object| !object.is_empty())).collect()
}

#[tokio::test(start_paused = true)]
async fn mutated_chat_streams_neither_panic_nor_make_up_a_call() {
    mutate(&OpenAIChat::new("x").api_key(""), Wire::Chat).await;
}

#[tokio::test(start_paused = true)]
async fn mutated_responses_streams_neither_panic_nor_make_up_a_call() {
    mutate(&OpenAIResponses::new("x").api_key(""), Wire::Responses).await;
}

#[tokio::test(start_paused = true)]
async fn mutated_anthropic_streams_neither_panic_nor_make_up_a_call() {
    mutate(&Claude::new("x").api_key(""), Wire::Anthropic).await;
}

#[tokio::test(start_paused = true)]
async fn mutated_gemini_streams_neither_panic_nor_make_up_a_call() {
    mutate(&Gemini::new("x").api_key(""), Wire::Gemini).await;
}

async fn mutate(dialect: &impl Dialect, wire: Wire) {
    let good: Vec<_> = good().into_iter().filter(|(of, ..)| *of == wire).collect();
    let tools = tools(wire);
    let (mut answered, mut with_calls) = (0, 0);
    for seed in 0..STREAMS {
        let mut chance = Chance(seed);
        let (_, events, sent) = &good[chance.below(good.len())];
        let mut events = events.clone();
        let is_corrupt = chance.below(3) == 0;
        if !is_corrupt {
            shuffle(&mut events, &mut chance);
        }
        let mut body = events.concat().into_bytes();
        if is_corrupt {
            corrupt(&mut body, &mut chance);
        }
        let shown = String::from_utf8_lossy(&body).into_owned();
        let chunks = in_chunks(body, &mut chance);
        let Ok(answer) = read_body(dialect, &tools, chunks).await else { continue };
        answered += 1;
        with_calls += usize::from(!answer.tool_calls.is_empty());
        for (name, arguments) in made(&answer, &tools) {
            let is_sent = match is_corrupt {
                false => sent.get(name) == Some(&arguments),
                // What the bytes now say counts as sent.
                true => arguments.as_object().is_some_and(|fields| {
                    fields.values().all(|value| shown.contains(value.to_string().trim_matches('"')))
                        && (!fields.is_empty() || shown.contains("{}") || !sent.contains_key(name))
                }),
            };
            assert!(is_sent, "seed {seed}: {name} {arguments} of\n{shown}");
        }
        assert!(answer.finish_reason != FinishReason::ToolCalls || !answer.tool_calls.is_empty(), "seed {seed}");
    }
    assert!(answered > 1_000 && with_calls > 500, "{answered} answers, {with_calls} with calls: too few to mean much");
}
