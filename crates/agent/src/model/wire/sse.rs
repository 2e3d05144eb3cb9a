//! Server-sent events: bytes in, events out.
//!
//! It must never know a provider, or what an event means. Read leniently: a byte order mark, any of the three line
//! endings, comments, a last event without its blank line and a line of bare JSON are all understood, and bytes that
//! are not UTF-8 become replacement characters.
//!
//! Invariant: every byte is looked at a bounded number of times, however the stream is cut into chunks, and only the
//! event that has not ended is held.

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its `event` field; empty if it has none.
    pub(crate) name: String,
    /// Its `data` fields, joined by line feeds.
    pub(crate) data: String,
}

/// Reads a stream of events, chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The line that has not ended.
    line: Vec<u8>,
    /// The last chunk ended in a carriage return; a line feed that follows belongs to it.
    after_return: bool,
    name: Vec<u8>,
    data: Option<Vec<u8>>,
}

impl Reader {
    /// Takes in a chunk and returns the events that ended in it.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = chunk;
        if !chunk.is_empty() && std::mem::take(&mut self.after_return) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line.extend_from_slice(&rest[..end]);
            let is_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_return {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let line = std::mem::take(&mut self.line);
            events.extend(self.take_line(&line));
        }
        self.line.extend_from_slice(rest);
        events
    }

    /// The stream is over: what is left of it, if another event had begun.
    pub(crate) fn finish(mut self) -> Vec<Event> {
        let line = std::mem::take(&mut self.line);
        let before = self.take_line(&line);
        before.into_iter().chain(self.end_event()).collect()
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Event> {
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        if line.is_empty() {
            return self.end_event();
        }
        // Servers that fail in the middle of a stream write their error without the prefix.
        if line.starts_with(b"{") {
            self.add_data(line);
            return None;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.map_or((line, &b""[..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => self.add_data(value),
            b"event" => value.clone_into(&mut self.name),
            // Comments, ids, times to reconnect after, and what no specification knows.
            _ => {}
        }
        None
    }

    fn add_data(&mut self, value: &[u8]) {
        match &mut self.data {
            None => self.data = Some(value.to_owned()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }

    fn end_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = self.data.take()?;
        Some(Event { name: text(name), data: text(data) })
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut reader = Reader::default();
        let mut events: Vec<_> = chunks.iter().flat_map(|chunk| reader.push(chunk)).collect();
        events.extend(reader.finish());
        events.into_iter().map(|event| (event.name, event.data)).collect()
    }

    fn data(stream: &str) -> Vec<String> {
        read(&[stream.as_bytes()]).into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn every_line_ending_ends_a_line_wherever_the_stream_is_cut() {
        for ending in ["\n", "\r", "\r\n"] {
            let stream =
                "\u{feff}event: a\ndata: one\n: comment\ndata: two\n\ndata:three\nid: 7\n\n".replace('\n', ending);
            let bytes = stream.as_bytes();
            let whole = read(&[bytes]);
            let expected = [("a", "one\ntwo"), ("", "three")].map(|(name, data)| (name.to_owned(), data.to_owned()));
            assert_eq!(whole, expected, "{ending:?}");
            for cut in 0..=bytes.len() {
                assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), whole, "{ending:?} cut at {cut}");
            }
            let single: Vec<_> = bytes.chunks(1).collect();
            assert_eq!(read(&single), whole, "{ending:?} byte by byte");
        }
    }

    #[test]
    fn a_last_event_needs_no_blank_line_and_empty_chunks_change_nothing() {
        assert_eq!(data("data: a"), ["a"]);
        assert_eq!(data("data: a\n\ndata: b\n"), ["a", "b"]);
        assert_eq!(read(&[b"data: a\r", b"", b"\ndata: b\r", b"\r\n"]).len(), 1);
        assert_eq!(data("event: ping\n\n: only this\n\n"), Vec::<String>::new());
    }

    #[test]
    fn a_mark_of_the_byte_order_is_skipped_also_when_it_is_cut_in_two() {
        assert_eq!(read(&[b"\xef", b"\xbb", b"\xbfdata: a\n\n"]).len(), 1);
        assert_eq!(data("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a", "b"]);
    }

    #[test]
    fn bare_json_is_data_and_broken_characters_are_replaced() {
        assert_eq!(data("{\"error\":1}\n\n"), ["{\"error\":1}"]);
        assert_eq!(read(&[b"data: a\xff\xc3", b"\xa4\n\n"]), [(String::new(), "a\u{fffd}ä".to_owned())]);
    }

    #[test]
    fn one_huge_event_in_small_chunks_is_looked_at_once() {
        let text = "x".repeat(8 << 20);
        let stream = format!("data: {text}\n\n");
        let mut reader = Reader::default();
        let mut events = Vec::new();
        // In quadratic time these half a million chunks would take hours.
        stream.as_bytes().chunks(16).for_each(|chunk| events.extend(reader.push(chunk)));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].data.len(), text.len());
    }
}
