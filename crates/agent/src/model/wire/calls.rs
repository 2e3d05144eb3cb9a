//! Tool calls assembled from pieces.
//!
//! | a piece | belongs to |
//! |---|---|
//! | with a name, and an id or none that is open | a call of its own: a name opens a call |
//! | with the id of a call | that call |
//! | without a name and without an id | the newest call of its index; without an index, the newest of all |
//! | that repeats a whole call | nothing: it is dropped |
//!
//! It must never know an endpoint, or what a tool is. Invariant: a piece whose call is in doubt is never guessed at; it
//! makes the whole answer [`Doubt`], and so does more text for a call that is already complete.

use outlive_core::ToolCall;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Why the calls of an answer cannot be assembled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Doubt(pub(crate) String);

/// A part of a call, as it came.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) index: Option<u64>,
    /// Empty when there is none, like the next two.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
    /// Its type, where that is not a function.
    pub(crate) kind: String,
    /// What came with it that no specification names; sent back unchanged.
    pub(crate) extra: Map<String, Value>,
}

/// The calls of one answer, in progress.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: Arguments,
    extra: Map<String, Value>,
}

/// The calls of one answer, assembled.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Whole {
    pub(crate) calls: Vec<ToolCall>,
    /// What has to be sent back with each call.
    pub(crate) extras: Vec<Map<String, Value>>,
}

impl Piece {
    /// Reads a call as Chat Completions writes it, or with the function's fields beside its id.
    pub(crate) fn read(piece: &Value) -> Self {
        let mut extra = Map::new();
        let (function, known): (_, &[&str]) = match &piece["function"] {
            function @ Value::Object(_) => (function, &["index", "id", "type", "function"]),
            _ => (piece, &["index", "id", "type", "function", "name", "arguments"]),
        };
        let others = piece.as_object().into_iter().flatten().filter(|(name, _)| !known.contains(&name.as_str()));
        extra.extend(others.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())));
        Self {
            index: number(&piece["index"]),
            id: text(&piece["id"]),
            name: text(&function["name"]).trim().to_owned(),
            arguments: text(&function["arguments"]),
            kind: text(&piece["type"]).trim().to_owned(),
            extra,
        }
    }
}

/// A number, which some servers write as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// A text, or anything else as its JSON: arguments as an object are against the format, but their meaning is clear.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

impl Calls {
    /// Takes in the pieces of one event. `is_last` tells whether the event says why the answer ended: such an event may
    /// repeat everything.
    pub(crate) fn add(&mut self, pieces: Vec<Piece>, is_last: bool) -> Result<(), Doubt> {
        if is_last && self.is_repeated_by(&pieces) {
            for (call, piece) in self.calls.iter_mut().zip(pieces) {
                call.extra.extend(piece.extra);
            }
            return Ok(());
        }
        pieces.into_iter().try_for_each(|piece| self.place(piece))
    }

    /// Whether these are all calls so far once more, in order.
    fn is_repeated_by(&self, pieces: &[Piece]) -> bool {
        let same = |(call, piece): (&Open, &Piece)| {
            let is_elsewhere = call.index.zip(piece.index).is_some_and(|(known, index)| known != index);
            !is_elsewhere
                && call.name == piece.name
                && call.arguments.object().is_some_and(|known| object(&piece.arguments) == Some(known))
        };
        !pieces.is_empty() && pieces.len() == self.calls.len() && self.calls.iter().zip(pieces).all(same)
    }

    fn place(&mut self, piece: Piece) -> Result<(), Doubt> {
        match self.find(&piece)? {
            Some(at) => {
                // Some servers begin every call with an empty object and then send the real one.
                let is_only = self.calls.iter().filter(|call| call.index == self.calls[at].index).count() == 1;
                self.calls[at].take(piece, is_only)
            }
            None if !piece.name.is_empty() => {
                let Piece { index, id, name, arguments, extra, .. } = piece;
                let mut call = Open { index, id, name, arguments: Arguments::default(), extra };
                call.arguments.push(&arguments).map_err(|()| doubled(&call.name))?;
                self.calls.push(call);
                Ok(())
            }
            None if !matches!(&*piece.kind, "" | "function") && !piece.extra.is_empty() => {
                Err(Doubt(format!("a tool call of the kind {:?}, which no tool here takes", shown(&piece.kind))))
            }
            // Nothing is lost with it.
            None if piece.arguments.trim().is_empty() => Ok(()),
            None => Err(Doubt("arguments of a tool call that was never begun".to_owned())),
        }
    }

    /// The call that a piece continues; none when it begins one, or would have to.
    fn find(&self, piece: &Piece) -> Result<Option<usize>, Doubt> {
        if !piece.id.is_empty() {
            return self.find_by_id(piece);
        }
        let newest = match piece.index {
            Some(_) => self.calls.iter().rposition(|call| call.index == piece.index || call.index.is_none()),
            None => self.calls.len().checked_sub(1),
        };
        let Some(at) = newest else { return Ok(None) };
        if piece.name.is_empty() {
            return Ok(Some(at));
        }
        // Some servers repeat the name with every piece; a complete call, or one with another name, is not continued.
        let call = &self.calls[at];
        let goes_on = call.name == piece.name && (!call.arguments.is_whole() || call.is_repeated_by(piece));
        let begins_anew = object(&piece.arguments).is_some() && !call.arguments.is_blank();
        Ok((goes_on && (!begins_anew || call.is_repeated_by(piece))).then_some(at))
    }

    fn find_by_id(&self, piece: &Piece) -> Result<Option<usize>, Doubt> {
        let same_name = |call: &Open| piece.name.is_empty() || call.name == piece.name;
        let is_it = |call: &&Open| call.id == piece.id && same_name(call);
        // Some servers give every call of an answer the same id.
        let place = |call: &Open| piece.index.is_none() || call.index.is_none() || call.index == piece.index;
        let known = self.calls.iter().rposition(|call| is_it(&call) && place(call));
        let known = known.or_else(|| {
            self.calls.iter().rposition(|call| is_it(&call) && (piece.name.is_empty() || call.is_repeated_by(piece)))
        });
        if known.is_some() || !piece.name.is_empty() {
            return Ok(known);
        }
        // An id that comes late belongs to the call that has none; one that changes with every piece, to the only call.
        let mut of_index = self.calls.iter().enumerate().filter(|(_, call)| call.index == piece.index);
        match (of_index.next_back(), of_index.next_back()) {
            (Some((at, call)), _) if call.id.is_empty() => Ok(Some(at)),
            (Some((at, _)), None) if piece.index.is_some() => Ok(Some(at)),
            (None, _) if piece.arguments.trim().is_empty() => Ok(None),
            _ => Err(Doubt(format!("arguments for the tool call {:?}, which was never begun", shown(&piece.id)))),
        }
    }

    /// The calls in the order in which they were begun, each with a distinct id.
    pub(crate) fn finish(self, answer_id: &str) -> Whole {
        let mut whole = Whole::default();
        let mut taken = HashSet::new();
        for (place, call) in self.calls.into_iter().enumerate() {
            let id = if call.id.is_empty() { format!("call_{answer_id}_{place}") } else { call.id };
            whole.calls.push(ToolCall::new(unique(id, &mut taken), call.name, call.arguments.text));
            whole.extras.push(call.extra);
        }
        whole
    }
}

/// The id, or one like it that no other call of the answer has.
pub(crate) fn unique(id: String, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{id}_{number}"));
    let id = std::iter::once(id.clone()).chain(numbered).find(|id| !taken.contains(id)).unwrap_or(id);
    taken.insert(id.clone());
    id
}

impl Open {
    fn is_repeated_by(&self, piece: &Piece) -> bool {
        let known = self.arguments.object();
        known.is_some() && known == object(&piece.arguments)
    }

    fn take(&mut self, piece: Piece, is_only_one_of_index: bool) -> Result<(), Doubt> {
        if self.id.is_empty() {
            self.id = piece.id;
        }
        if self.index.is_none() {
            self.index = piece.index;
        }
        self.extra.extend(piece.extra);
        let named = !piece.name.is_empty();
        let is_empty = self.arguments.object().is_some_and(|known| known.is_empty());
        if is_empty && is_only_one_of_index && self.index.is_some() && piece.arguments.trim_start().starts_with('{') {
            self.arguments = Arguments::default();
        }
        if self.arguments.is_whole() {
            let known = self.arguments.object();
            let repeats = piece.arguments.trim().is_empty() || object(&piece.arguments) == known;
            return if repeats { Ok(()) } else { Err(doubled(&self.name)) };
        }
        // A piece that repeats the name and has a whole object is what the unfinished pieces before it were meant to
        // say.
        if named && object(&piece.arguments).is_some() {
            self.arguments = Arguments::default();
        }
        self.arguments.push(&piece.arguments).map_err(|()| doubled(&self.name))
    }
}

fn doubled(name: &str) -> Doubt {
    Doubt(format!("more arguments for a call of {:?} that was already whole", shown(name)))
}

/// A name or an id as an error may show it.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

fn object(text: &str) -> Option<Map<String, Value>> {
    outlive_core::json::read(text).ok()
}

/// Arguments in progress, which know when their object is closed.
#[derive(Debug, Default)]
struct Arguments {
    text: String,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    is_closed: bool,
}

impl Arguments {
    /// Adds to them; an error when they were already complete and this adds something.
    fn push(&mut self, piece: &str) -> Result<(), ()> {
        for byte in piece.bytes() {
            if self.is_closed && !byte.is_ascii_whitespace() {
                return Err(());
            }
            self.take(byte);
        }
        self.text.push_str(piece);
        Ok(())
    }

    fn take(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.in_text => self.is_escaped = true,
            b'"' => self.in_text = !self.in_text,
            b'{' | b'[' if !self.in_text => self.depth += 1,
            b'}' | b']' if !self.in_text => {
                self.depth = self.depth.saturating_sub(1);
                self.is_closed = self.depth == 0;
            }
            _ => {}
        }
    }

    fn is_whole(&self) -> bool {
        self.is_closed
    }

    fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    fn object(&self) -> Option<Map<String, Value>> {
        if self.is_closed { object(&self.text) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The calls that these events make, as `id name arguments`.
    fn put_together(events: &[Value]) -> Result<Vec<String>, Doubt> {
        let mut calls = Calls::default();
        for (number, event) in events.iter().enumerate() {
            let pieces = event.as_array().into_iter().flatten().map(Piece::read).collect();
            calls.add(pieces, number + 1 == events.len())?;
        }
        let whole = calls.finish("x");
        Ok(whole
            .calls
            .iter()
            .map(|call| format!("{} {} {}", call.id, call.function.name, call.function.arguments))
            .collect())
    }

    fn piece(index: Value, id: Value, name: Value, arguments: Value) -> Value {
        json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    #[test]
    fn pieces_find_their_call() {
        let null = || Value::Null;
        let cases = [
            (
                "all at index 0, later pieces with an empty id",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!(""))]),
                    json!([piece(json!(0), json!(""), json!(""), json!("{\"num\":"))]),
                    json!([piece(json!(0), json!(""), null(), json!("1}"))]),
                    json!([piece(json!(0), json!("b"), json!("sell"), null())]),
                    json!([piece(json!(0), json!(""), json!(""), json!("{\"num\":2}"))]),
                ],
                vec!["a buy {\"num\":1}", "b sell {\"num\":2}"],
            ),
            (
                "interleaved by index",
                vec![
                    json!([
                        piece(json!(0), json!("a"), json!("buy"), null()),
                        piece(json!(1), json!("b"), json!("buy"), null())
                    ]),
                    json!([piece(json!(1), null(), null(), json!("{\"num\":2}"))]),
                    json!([piece(json!(0), null(), null(), json!("{\"num\":1}"))]),
                ],
                vec!["a buy {\"num\":1}", "b buy {\"num\":2}"],
            ),
            (
                "the last event repeats the call, with or without its id",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\": "))]),
                    json!([piece(json!(0), null(), null(), json!("1}"))]),
                    json!([piece(json!(0), json!("z"), json!("buy"), json!("{\"num\":1}"))]),
                ],
                vec!["a buy {\"num\": 1}"],
            ),
            (
                "the last event has a call like the first, at an index of its own",
                vec![
                    json!([piece(json!(0), json!("a"), json!("roll"), json!("{}"))]),
                    json!([piece(json!(1), json!("b"), json!("roll"), json!("{}"))]),
                ],
                vec!["a roll {}", "b roll {}"],
            ),
            (
                "the same without ids",
                vec![
                    json!([piece(json!(0), null(), json!("roll"), json!("{}"))]),
                    json!([piece(json!(1), null(), json!("roll"), json!("{}"))]),
                ],
                vec!["call_x_0 roll {}", "call_x_1 roll {}"],
            ),
            (
                "a call is repeated before the end",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}"))]),
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}"))]),
                    json!([]),
                ],
                vec!["a buy {\"num\":1}"],
            ),
            (
                "name and id in every piece",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\""))]),
                    json!([piece(json!(0), json!("a"), json!("buy"), json!(":1}"))]),
                    json!([]),
                ],
                vec!["a buy {\"num\":1}"],
            ),
            (
                "the name alone in every piece",
                vec![
                    json!([piece(json!(0), null(), json!("buy"), json!("{\"num\""))]),
                    json!([piece(json!(0), null(), json!("buy"), json!(":1}"))]),
                    json!([piece(json!(0), null(), json!("buy"), json!("{\"num\":2}"))]),
                    json!([]),
                ],
                vec!["call_x_0 buy {\"num\":1}", "call_x_1 buy {\"num\":2}"],
            ),
            (
                "another id with every piece",
                vec![
                    json!([piece(json!(0), json!("r1"), json!("buy"), json!(""))]),
                    json!([piece(json!(0), json!("r2"), null(), json!("{\"num\":"))]),
                    json!([piece(json!(0), json!("r3"), null(), json!("1}"))]),
                ],
                vec!["r1 buy {\"num\":1}"],
            ),
            (
                "one id for all calls",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}"))]),
                    json!([piece(json!(1), json!("a"), json!("buy"), json!("{\"num\":2}"))]),
                    json!([]),
                ],
                vec!["a buy {\"num\":1}", "a_2 buy {\"num\":2}"],
            ),
            (
                "no index and no id",
                vec![
                    json!([piece(null(), null(), json!("buy"), json!("{\"num\":"))]),
                    json!([piece(null(), null(), null(), json!("1}"))]),
                    json!([piece(null(), null(), json!("sell"), json!({"num": 2}))]),
                ],
                vec!["call_x_0 buy {\"num\":1}", "call_x_1 sell {\"num\":2}"],
            ),
            (
                "two equal calls that the server tells apart by id",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{}"))]),
                    json!([piece(json!(0), json!("b"), json!("buy"), json!("{}"))]),
                    json!([]),
                ],
                vec!["a buy {}", "b buy {}"],
            ),
            (
                "an empty object first, then the real one",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{}"))]),
                    json!([piece(json!(0), null(), null(), json!("{\"num\":"))]),
                    json!([piece(json!(0), null(), null(), json!("1}"))]),
                ],
                vec!["a buy {\"num\":1}"],
            ),
            (
                "the last event is the first to say it whole",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num"))]),
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}"))]),
                ],
                vec!["a buy {\"num\":1}"],
            ),
        ];
        for (what, events, expected) in cases {
            assert_eq!(put_together(&events), Ok(expected.into_iter().map(str::to_owned).collect()), "{what}");
        }
    }

    #[test]
    fn a_piece_in_doubt_is_never_guessed_at() {
        let null = || Value::Null;
        let cases = [
            ("a nameless beginning", vec![json!([piece(json!(0), json!("a"), null(), json!("{\"num\":1}"))])]),
            (
                "an index that was never begun",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!(""))]),
                    json!([piece(json!(1), null(), null(), json!("{\"num\":1}"))]),
                ],
            ),
            (
                "more for a call that is whole",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}"))]),
                    json!([piece(json!(0), null(), null(), json!("{\"num\":2}"))]),
                ],
            ),
            (
                "the end of the first call after the second",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":"))]),
                    json!([piece(json!(0), json!("b"), json!("sell"), json!("{\"num\":2}"))]),
                    json!([piece(json!(0), null(), null(), json!("1}"))]),
                ],
            ),
            (
                "a strange id among several calls of one index",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!(""))]),
                    json!([piece(json!(0), json!("b"), json!("sell"), json!(""))]),
                    json!([piece(json!(0), json!("c"), null(), json!("{\"num\":1}"))]),
                ],
            ),
            (
                "a call that is repeated with other arguments",
                vec![
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}"))]),
                    json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":2}"))]),
                ],
            ),
            (
                "two objects in one piece",
                vec![json!([piece(json!(0), json!("a"), json!("buy"), json!("{\"num\":1}{\"num\":1}"))])],
            ),
        ];
        for (what, events) in cases {
            assert!(put_together(&events).is_err(), "{what}: {:?}", put_together(&events));
        }
    }

    #[test]
    fn what_no_specification_names_is_kept_beside_its_call() {
        let signed = json!({
            "index": 0, "id": "a", "type": "function", "function": {"name": "buy", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "opaque"}}, "note": null,
        });
        let mut calls = Calls::default();
        calls.add(vec![Piece::read(&signed)], false).expect("a whole call");
        let whole = calls.finish("x");
        assert_eq!(Value::Object(whole.extras[0].clone()), json!({"extra_content": signed["extra_content"]}));
    }
}
