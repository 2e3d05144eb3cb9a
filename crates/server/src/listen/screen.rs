//! Checks a connection's bytes before they are parsed, for what a lenient parser would pass on.
//!
//! A request whose length can be read in two ways ends at two places, and what lies between them is a request only one
//! of two servers in a row has seen. So a message with two lengths is refused, and so is a line that does not end in
//! CR LF. It knows no meaning beyond that. The invariant: the screen and the parser agree where each head begins.

/// How much of a line is looked at. The lines that matter are shorter.
const LINE_BYTES_MAX: usize = 128;

/// Follows one connection's input.
#[derive(Debug)]
pub(super) struct Screen {
    place: Place,
    line: Line,
    head: Head,
}

/// Where in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a message.
    Between,
    /// In a head.
    Head,
    /// In a body with this many bytes to come.
    Body(u64),
    /// In a body whose end only the parser knows; the connection ends with it.
    Unknown,
}

/// What one head said so far.
#[derive(Debug, Default)]
struct Head {
    has_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
    is_last: bool,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    last: Option<u8>,
    is_cut: bool,
}

impl Screen {
    /// At the beginning of a connection.
    pub(super) fn new() -> Self {
        Self { place: Place::Between, line: Line::default(), head: Head::default() }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        self.place == Place::Head
    }

    /// Whether a message has begun and its end has not been seen.
    pub(super) fn is_in_message(&self) -> bool {
        self.place != Place::Between
    }

    /// Takes the next bytes. The answer is the index of the byte at which the message turned out to be malformed.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match self.place {
                Place::Unknown => return None,
                Place::Between if matches!(bytes[at], b'\r' | b'\n') => at += 1,
                Place::Between => {
                    self.place = Place::Head;
                    self.head = Head::default();
                }
                Place::Body(left) => {
                    let here = left.min((bytes.len() - at) as u64);
                    at += here as usize;
                    self.place = if left == here { Place::Between } else { Place::Body(left - here) };
                }
                Place::Head => {
                    let rest = &bytes[at..];
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        self.line.extend(rest);
                        return None;
                    };
                    self.line.extend(&rest[..end]);
                    at += end + 1;
                    if !self.end_line() {
                        return Some(at - 1);
                    }
                }
            }
        }
        None
    }

    /// Whether the line is well formed.
    fn end_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        if line.last != Some(b'\r') {
            return false;
        }
        let text = if line.is_cut { &line.bytes[..] } else { &line.bytes[..line.bytes.len() - 1] };
        if text.is_empty() {
            self.place = self.head.body();
            return true;
        }
        if !self.head.has_request_line {
            self.head.has_request_line = true;
            self.head.is_last = text.starts_with(b"CONNECT ");
            return true;
        }
        self.head.line(text, line.is_cut)
    }
}

impl Head {
    /// Takes a header line and says whether it is well formed. What is not about length is left to the parser.
    fn line(&mut self, text: &[u8], is_cut: bool) -> bool {
        if matches!(text[0], b' ' | b'\t') {
            return false;
        }
        let Some(colon) = text.iter().position(|byte| *byte == b':') else { return true };
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = if is_cut { None } else { digits(value) };
            let is_first = self.length.is_none() && !self.is_chunked;
            self.length = length;
            return is_first && length.is_some();
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_first = self.length.is_none() && !self.is_chunked;
            self.is_chunked = true;
            return is_first && !is_cut && value.eq_ignore_ascii_case(b"chunked");
        }
        self.is_last |= name.eq_ignore_ascii_case(b"upgrade");
        true
    }

    /// What follows the head.
    fn body(&self) -> Place {
        match self.length {
            _ if self.is_chunked || self.is_last => Place::Unknown,
            None | Some(0) => Place::Between,
            Some(length) => Place::Body(length),
        }
    }
}

impl Line {
    fn extend(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        let room = LINE_BYTES_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_cut |= bytes.len() > room;
        self.last = Some(*last);
    }
}

/// A number without a sign.
fn digits(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::Screen;

    /// Whether `input` passes, given whole and byte by byte.
    fn passes(input: &str) -> bool {
        let whole = Screen::new().take(input.as_bytes());
        let mut screen = Screen::new();
        let single = input.bytes().position(|byte| screen.take(&[byte]).is_some());
        assert_eq!(whole, single, "{input:?}");
        whole.is_none()
    }

    #[test]
    fn well_formed_messages_pass() {
        assert!(passes("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(passes("\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\r\n\r\n"));
        assert!(passes("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\n0\n\n"));
        assert!(passes(&format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(500))));
    }

    #[test]
    fn a_message_with_two_lengths_does_not() {
        for lengths in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
        ] {
            assert!(!passes(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lengths}\r\n")), "{lengths:?}");
        }
        let hidden = " ".repeat(200);
        assert!(!passes(&format!("POST / HTTP/1.1\r\nContent-Length:{hidden}1\r\n\r\n")));
    }

    #[test]
    fn a_bare_line_feed_or_a_folded_line_does_not() {
        assert!(!passes("GET / HTTP/1.1\nHost: x\r\n\r\n"));
        assert!(!passes("GET / HTTP/1.1\r\nHost: x\n\r\n"));
        assert!(!passes("GET / HTTP/1.1\r\nHost: x\r\n\n"));
        assert!(!passes("GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n"));
    }

    #[test]
    fn a_second_message_in_the_same_bytes_is_looked_at_too() {
        assert!(!passes("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\n\r\n"));
        assert!(!passes("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.1\n\r\n"));
    }
}
