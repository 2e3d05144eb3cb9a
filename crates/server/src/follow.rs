//! What a client that follows a run is sent, and in which order: notices, missed events, live events.
//!
//! It knows no socket and no text format; SSE and WebSocket both read from here. The invariant: events come in order of
//! their index, without repetition and without gaps but for what the workflow does not show, whatever notices come
//! between them.

use outlive_core::{EventSettings, RunEvent, RunId, RunStatus};
use outlive_engine::{Error, EventStream, Reader};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// One thing a client is sent.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// An event of the run.
    Event(Box<RunEvent>),
    /// A notice about the following itself, named by its `event` field.
    Notice(Value),
}

/// How a client comes back; Agno's two ways differ in their words and in what a finished run is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `POST …/resume`: a finished run gives what was missed.
    Resume,
    /// `reconnect` on a socket: a finished run gives everything again, because a client of Agno's relies on it.
    Reconnect,
}

/// A run being followed.
pub(crate) struct Follow {
    reader: Reader,
    run_id: RunId,
    events: EventStream,
    /// Frames that come before anything else.
    first: VecDeque<Value>,
    /// The index of the next event, as far as it is known.
    next_index: u64,
    /// How many stored events a client that came back has.
    seen: u64,
    /// Says that the past is over, once `next_index` has got there.
    subscribed: Option<(u64, Value)>,
    /// What of the log is told.
    settings: EventSettings,
}

impl Follow {
    /// From the run's first event on, without notices.
    pub(crate) fn from_start(reader: &Reader, run_id: RunId) -> Self {
        Self::after(reader, run_id, None)
    }

    /// From the event after index `after` on, without notices.
    pub(crate) fn after(reader: &Reader, run_id: RunId, after: Option<u64>) -> Self {
        let events = reader.events(&run_id, after);
        let next_index = after.map_or(0, |after| after.saturating_add(1));
        let (reader, first, settings) = (reader.clone(), VecDeque::new(), EventSettings::default());
        Self { reader, run_id, events, first, next_index, seen: next_index, subscribed: None, settings }
    }

    /// Tells what a workflow with these settings has its streams tell.
    pub(crate) fn telling(self, settings: EventSettings) -> Self {
        Self { settings, ..self }
    }

    /// Follows on when the run is paused, until it has ended.
    pub(crate) fn through_pauses(self) -> Self {
        Self { events: self.events.through_pauses(), ..self }
    }

    /// From where a client left off, with Agno's frames around it.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], or the store's.
    pub(crate) async fn resume(reader: &Reader, run_id: RunId, after: Option<u64>, way: Way) -> Result<Self, Error> {
        let standing = reader.standing(&run_id).await?.ok_or_else(|| Error::RunNotFound(run_id.clone()))?;
        let (status, count) = (standing.status, standing.next_index);
        let is_over = status.is_terminal() || status == RunStatus::Paused;
        let asked = after.filter(|_| !(is_over && way == Way::Reconnect));
        // A client cannot have seen what does not exist yet: it would wait for ever past the end.
        let after = asked.and_then(|asked| Some(asked.min(count.checked_sub(1)?)));
        let missed = count.saturating_sub(after.map_or(0, |after| after.saturating_add(1)));
        let mut follow = Self::after(reader, run_id.clone(), after);
        if is_over {
            follow.first.push_back(replay(&run_id, status, way, asked, missed, count));
            return Ok(follow);
        }
        if missed > 0 {
            follow.first.push_back(json!({
                "event": "catch_up",
                "run_id": run_id,
                "status": "running",
                "missed_events": missed,
                "current_event_count": count,
                "message": format!("Catching up on {missed} missed events."),
            }));
        }
        let words = match way {
            Way::Resume => "Receiving live events.",
            Way::Reconnect => "You will receive new events as they occur.",
        };
        let subscribed = json!({
            "event": "subscribed",
            "run_id": run_id,
            "status": "running",
            "current_event_count": count,
            "message": format!("Subscribed to workflow run. {words}"),
        });
        follow.subscribed = Some((count, subscribed));
        Ok(follow)
    }

    /// The run.
    pub(crate) fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The index the next event will have, at least.
    pub(crate) fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Gives every stored event that a client that came back has to `look`.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) async fn look_back(&self, mut look: impl FnMut(RunEvent)) -> Result<(), Error> {
        let mut events = self.reader.events(&self.run_id, None);
        let mut index = 0;
        // All of them are stored, so this waits for none.
        while index < self.seen {
            let Some(event) = events.next().await? else { break };
            index = event.event_index.map_or(index, |index| index + 1);
            look(event);
        }
        Ok(())
    }

    /// What comes next; `None` when the run is at rest.
    ///
    /// # Cancel safety
    /// Safe: what was not returned comes with the next call.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) async fn next(&mut self) -> Result<Option<Told>, Error> {
        if let Some(frame) = self.first.pop_front() {
            return Ok(Some(Told::Notice(frame)));
        }
        loop {
            let next_index = self.next_index;
            if let Some((_, frame)) = self.subscribed.take_if(|(from, _)| *from <= next_index) {
                return Ok(Some(Told::Notice(frame)));
            }
            let Some(event) = self.events.next().await? else { return Ok(None) };
            self.next_index = event.event_index.map_or(self.next_index, |index| index + 1);
            if self.settings.streams(&event) {
                return Ok(Some(Told::Event(Box::new(event))));
            }
        }
    }

    /// How many events are stored that this client was not told yet.
    pub(crate) async fn lag(&self) -> u64 {
        let standing = self.reader.standing(&self.run_id).await.ok().flatten();
        standing.map_or(0, |standing| standing.next_index.saturating_sub(self.next_index))
    }
}

fn replay(run_id: &RunId, status: RunStatus, way: Way, after: Option<u64>, missed: u64, count: u64) -> Value {
    match way {
        Way::Resume => json!({
            "event": "replay",
            "run_id": run_id,
            "status": status,
            "total_events": missed,
            "total_buffered": count,
            "last_event_index_requested": after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX)),
            "message": format!("Run {status}. Replaying {missed} missed events (of {count} total)."),
        }),
        Way::Reconnect => json!({
            "event": "replay",
            "run_id": run_id,
            "status": status,
            "total_events": count,
            "message": format!("Run {status}. Replaying all events."),
        }),
    }
}
