//! A small reader of Server-Sent Events, by the WHATWG's rules, for tests.

/// One event as a reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event` field; empty when there was none.
    pub event: String,
    /// The `data` lines, joined by line feeds.
    pub data: String,
    /// The `id` field of this event.
    pub id: Option<String>,
}

/// The events of a whole stream. Comments are skipped, an event without its blank line is dropped.
pub fn parse_sse(text: &str) -> Vec<SseEvent> {
    let mut events = Vec::new();
    let mut event = SseEvent::default();
    let mut data: Vec<&str> = Vec::new();
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = unified.split('\n').collect();
    // What follows the last line end is not a line yet.
    lines.pop();
    for line in lines {
        if line.is_empty() {
            let mut done = std::mem::take(&mut event);
            if !data.is_empty() {
                done.data = data.join("\n");
                events.push(done);
            }
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.event = value.to_owned(),
            "data" => data.push(value),
            "id" if !value.contains('\0') => event.id = Some(value.to_owned()),
            _ => {}
        }
    }
    events
}
