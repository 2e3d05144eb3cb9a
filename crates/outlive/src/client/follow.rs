//! A run's events, through as many connections as it takes.
//!
//! ```text
//! open after the last event ──► frames ──► events, each in its turn ──► the run's last
//!        ▲                                     │
//!        └────── pause ◄── lost, restarted, out of turn
//! ```
//! It must never keep events: those it has returned are the caller's, the others are the server's. Invariant: indexes
//! come without gaps or repetition, whatever happens to connections.

use super::connection::Connection;
use super::error::ClientError;
use super::retry::Retry;
use super::shape::RunSummary;
use futures::stream::{BoxStream, Stream, StreamExt, unfold};
use outlive_core::{RunEvent, RunId, RunStatus, json};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A run's events in order, without gaps or repetition; also a [`Stream`]. Dropping it changes nothing.
pub struct Following {
    events: BoxStream<'static, Result<RunEvent, ClientError>>,
}

impl Following {
    pub(super) fn new(connection: Arc<Connection>, run_id: RunId, after: Option<u64>, retry: Retry) -> Self {
        let next_index = after.map_or(0, |after| after.saturating_add(1));
        let reading = Reading { connection, run_id, next_index, frames: None, retry, is_over: false };
        let events = unfold(reading, |mut reading| async move {
            let event = reading.next().await?;
            Some((event, reading))
        });
        Self { events: events.fuse().boxed() }
    }

    /// The next event, waiting for it if necessary; `None` when the run has ended or is paused, or after an error.
    ///
    /// # Cancel safety
    /// Safe: an event that was not returned comes with the next call.
    ///
    /// # Errors
    /// When the server refuses, or retrying is pointless: see [`super::Client::follow`].
    pub async fn next(&mut self) -> Result<Option<RunEvent>, ClientError> {
        self.events.next().await.transpose()
    }
}

impl Stream for Following {
    type Item = Result<RunEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(context)
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Following")
    }
}

struct Reading {
    connection: Arc<Connection>,
    run_id: RunId,
    next_index: u64,
    frames: Option<Frames>,
    retry: Retry,
    is_over: bool,
}

/// Notices beside events.
#[derive(Deserialize)]
struct Notice {
    event: String,
    #[serde(default)]
    error: String,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<RunEvent, ClientError>> {
        while !self.is_over {
            match self.attempt().await {
                Ok(Some(event)) => {
                    self.retry.succeeded();
                    self.next_index += 1;
                    self.is_over = event.is_terminal();
                    return Some(Ok(event));
                }
                Ok(None) => self.is_over = true,
                Err(error) => {
                    self.frames = None;
                    if let Err(error) = self.retry.pause(error).await {
                        self.is_over = true;
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }

    /// The next event of this connection, or of a new one; `None` when there can be no more.
    async fn attempt(&mut self) -> Result<Option<RunEvent>, ClientError> {
        let mut frames = match self.frames.take() {
            Some(frames) => frames,
            None => self.open().await?,
        };
        while let Some(data) = frames.next(&self.connection).await? {
            if let Some(event) = self.read(&data)? {
                self.frames = Some(frames);
                return Ok(Some(event));
            }
        }
        if self.has_everything().await? { Ok(None) } else { Err(self.connection.unreachable("the stream ended early")) }
    }

    async fn open(&mut self) -> Result<Frames, ClientError> {
        let after = self.next_index.checked_sub(1).map(|after| ("after", after.to_string()));
        let path = ["api", "runs", self.run_id.as_str(), "stream"];
        let response = self.connection.open(&path, after.as_slice()).await?;
        self.retry.answered();
        Ok(Frames { response, lines: Lines::default() })
    }

    /// The event, if its index is next. `None` for one already seen, and for notices.
    fn read(&self, data: &str) -> Result<Option<RunEvent>, ClientError> {
        let garbled = |why: &str| self.connection.garbled(why, &HeaderMap::new());
        let event: RunEvent = match json::read_stored(data) {
            Ok(event) => event,
            Err(_) => return self.notice(data).map(|()| None),
        };
        match event.event_index {
            Some(index) if index == self.next_index => Ok(Some(event)),
            Some(index) if index < self.next_index => Ok(None),
            Some(_) => Err(garbled("an event is missing from the stream")),
            None => Err(garbled("an event has no index")),
        }
    }

    fn notice(&self, data: &str) -> Result<(), ClientError> {
        let garbled = |why: &str| self.connection.garbled(why, &HeaderMap::new());
        let notice: Notice =
            serde_json::from_str(data).map_err(|_| garbled("the stream contains something that is not an event"))?;
        match notice.event.as_str() {
            // The server ended the stream; reconnecting shows whether it still admits us.
            "auth_expired" => Err(self.connection.unreachable(notice.error)),
            "error" => Err(garbled(&notice.error)),
            // Event names begin with a capital letter: this one is newer than this program.
            name if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
                Err(garbled("the stream has an event that this version cannot read"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the run is at rest and all of its events have been returned.
    async fn has_everything(&self) -> Result<bool, ClientError> {
        let run: RunSummary = self.connection.get(&["api", "runs", self.run_id.as_str()], &[]).await?;
        let is_at_rest = run.status.is_terminal() || run.status == RunStatus::Paused;
        Ok(is_at_rest && run.next_index <= self.next_index)
    }
}

/// Server-Sent Events of one answer.
struct Frames {
    response: Response,
    lines: Lines,
}

impl Frames {
    /// The data of the next frame; `None` at the stream's end. An incomplete last frame is dropped.
    async fn next(&mut self, connection: &Connection) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(data) = self.lines.frame() {
                let garbled = |_| connection.garbled("the stream is not text", self.response.headers());
                return String::from_utf8(data).map(Some).map_err(garbled);
            }
            let limit = connection.answer_bytes_max();
            if self.lines.len() > limit {
                let why = format!("an event has more than {limit} bytes");
                return Err(connection.garbled(why, self.response.headers()));
            }
            let Some(chunk) = connection.chunk(&mut self.response).await? else { return Ok(None) };
            self.lines.add(&chunk);
        }
    }
}

/// Lines as they arrive, and the data of their frame. Only `data` matters: it contains the event's name and index.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// How many bytes have been searched for a line end.
    searched: usize,
    data: Vec<u8>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.data.len()
    }

    /// The data of a whole frame, if there is one.
    fn frame(&mut self) -> Option<Vec<u8>> {
        while let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=self.searched + end).collect();
            self.searched = 0;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() && !self.data.is_empty() {
                return Some(std::mem::take(&mut self.data));
            }
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        self.searched = self.bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&str]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.add(piece.as_bytes());
            found.extend(std::iter::from_fn(|| lines.frame()).map(|data| String::from_utf8(data).expect("text")));
        }
        found
    }

    #[test]
    fn frames_are_found_wherever_the_network_cuts_them() {
        let text = "event: A\ndata: {\"a\":1}\nid: 0\n\n: keep-alive\n\nevent: B\r\ndata:{\"b\":\r\ndata: 2}\r\n\r\ndata: half";
        let whole = frames(&[text]);
        assert_eq!(whole, ["{\"a\":1}", "{\"b\":\n2}"]);
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(frames(&[first, second]), whole, "{cut}");
        }
    }
}
