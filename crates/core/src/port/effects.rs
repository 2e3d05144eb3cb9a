//! The one way work reaches the world and the log: every call is recorded, and no recorded call is made again.
//!
//! An executor never hears of storage. It says what it is about to do, waits until that is durable, does it, and says how
//! it ended. The engine's implementation keeps the run log; an agent that runs alone has one that keeps nothing.

use super::{BoxFuture, RateLimit};
use crate::budget::{Over, Spend, Spending};
use crate::event::EventKind;
use crate::event::Origin;
use crate::failure::{Failure, FailureKind};
use crate::history::HistoryRun;
use crate::log::{Called, Key, Record, RunEnded};
use crate::machine::CalledEnd;
use crate::message::Media;
use crate::question::{Answered, Question};
use crate::time::Timestamp;
use crate::workflow::Definition;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The run may not go on here: its lease is lost, it is being cancelled, or the store has failed. Return at once and do
/// nothing more; whatever the executor returns after this is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt;

/// What the log knows of a key.
#[derive(Clone, Debug)]
pub enum Recall {
    /// Nothing: it never started.
    Nothing,
    /// It started before a crash and its outcome is unknown.
    Started,
    /// It ended, like this.
    Done(Arc<RawValue>),
    /// It is the run of an agent or a team, and ended like this.
    Run(Arc<RunEnded>),
}

/// Who can be spoken to while a run executes.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// The agent or the team.
    pub id: &'a str,
    /// Whether it hears what is said to nobody in particular: a step's agent, or the leader of its team.
    pub leads: bool,
    /// What its events are about.
    pub origin: &'a Origin,
}

/// What was said to an agent or a team while its run executes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SteeringMessage {
    /// The run that it would have been.
    pub run_id: Arc<str>,
    /// The text or object.
    pub content: Value,
    /// To whom; none when to nobody in particular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Arc<str>>,
    /// Who heard it, once somebody has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard_by: Option<Arc<str>>,
    /// Images that came with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Media>,
    /// Files that came with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Media>,
}

/// A call that is about to leave, and what it may use.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// Whose.
    pub key: Key,
    /// What it may use at most.
    pub spend: Spend,
    /// Names of budgets that do not hold it up: people have said so.
    pub forced: BTreeSet<Arc<str>>,
    /// What is told when there is room.
    pub told: EventKind,
    /// Where it is recorded when there is none.
    pub over: Key,
    /// Who makes it.
    pub origin: Origin,
}

/// What a call has of a rate that processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// How many tokens it may use.
    pub tokens: u64,
    /// Until when its share counts.
    pub counts_until: Timestamp,
}

/// Why a reservation was not made.
#[derive(Clone, Debug)]
pub enum Refused {
    /// The run may not go on here.
    Halted(Halt),
    /// A budget has too little left.
    Over(Box<Over>),
}

/// A step's access to the world.
pub trait Effects: Send + Sync {
    /// The time, from the injected clock.
    fn now(&self) -> Timestamp;

    /// What an earlier process recorded for `key`. Only the first question about a key is answered from the log; once
    /// this process has begun with a key, the executor keeps track of it itself. A key that a function named itself is
    /// answered always, until its step has ended, whichever process recorded it.
    fn recall(&self, key: &Key) -> Recall;

    /// Appends an entry. It becomes durable with the next commit: when [`Effects::durable`] is awaited, or as soon as
    /// the run has nothing else to do.
    fn tell(&self, kind: EventKind, origin: &Origin, record: Option<Record>);

    /// Appends a piece of streamed text. Pieces of one origin are merged for 20 to 50 ms before they are written.
    fn stream(&self, kind: EventKind, origin: &Origin);

    /// Waits until everything said so far is on stable storage, and checks that this process still holds the lease.
    ///
    /// # Errors
    /// [`Halt`] when it cannot be stored, or the lease is gone.
    fn durable(&self) -> BoxFuture<'_, Result<(), Halt>>;

    /// What its run may use, where that is limited or its cost is counted.
    fn spending(&self) -> Option<&Arc<Spending>> {
        None
    }

    /// Reserves what a call may use, of all budgets or none, and appends its intent ([`Record::Reserved`]) in the same
    /// commit. Ready when that is durable. Where there is no room, it is recorded instead that there was none: an [`Over`]
    /// as the result of [`Reservation::over`].
    ///
    /// # Errors
    /// [`Refused`].
    ///
    /// # Cancel safety
    /// What was reserved stays reserved.
    fn reserve(&self, call: Reservation) -> BoxFuture<'_, Result<(), Refused>> {
        self.tell(call.told, &call.origin, Some(Record::Reserved { key: call.key, spend: call.spend }));
        Box::pin(async { self.durable().await.map_err(Refused::Halted) })
    }

    /// A call that this process has reserved for has ended and used this much, with what is told next.
    fn settle(&self, key: &Key, spent: Spend) {
        let _ = (key, spent);
    }

    /// People have added to the budget of this name, with what is told next.
    fn raise(&self, name: &str, amount: u64) {
        let _ = (name, amount);
    }

    /// Lets a call count against a rate that processes share, with as many tokens as it may use; nothing where no other
    /// process can be. Whoever is admitted makes the call at once, or gives back what it has.
    ///
    /// # Errors
    /// After which time to ask again, when there is no room.
    ///
    /// # Cancel safety
    /// What was taken for it is there for the next call.
    fn admit<'a>(
        &'a self,
        limit: &'a Arc<RateLimit>,
        tokens: u64,
    ) -> BoxFuture<'a, Result<Option<Admitted>, Duration>> {
        let _ = (limit, tokens);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// A call that was admitted has used so many tokens; none when it was not made after all.
    fn admitted(&self, limit: &Arc<RateLimit>, call: Admitted, used: Option<u64>) {
        let _ = (limit, call, used);
    }

    /// Waits without holding up anything else in the run.
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()>;

    /// Returns as soon as nothing new may start here (when [`Effects::durable`] would halt): a task that waits for its
    /// time to start something gives up then.
    fn halted(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Whether what its run has begun elsewhere, and would find again, is for nobody: the run was cancelled, or its time
    /// is over. Where no run is found again, always.
    fn abandons(&self) -> bool {
        true
    }

    /// Has `work`, which may block, done on a thread of its own, of which there is a bounded number; ready when it is
    /// done. When this is dropped, work that has begun goes on, and nobody waits for it. Where there are no threads, it
    /// is done at once.
    ///
    /// # Errors
    /// When it cannot be begun.
    fn on_thread(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), Failure>> {
        work();
        Box::pin(async { Ok(()) })
    }

    /// Asks people, from inside the step `step`, and waits for all of their answers. A question that was answered before,
    /// under the same key, is not asked again. The step executes nothing meanwhile: once nothing of its run does, the run
    /// leaves memory, and the step is executed again from its beginning when there is an answer.
    ///
    /// # Errors
    /// When nobody can be asked here, and [`FailureKind::Cancelled`] when the run stops here.
    ///
    /// # Cancel safety
    /// The questions stay asked.
    fn ask<'a>(&'a self, step: &'a Key, questions: Vec<Question>) -> BoxFuture<'a, Result<Vec<Answered>, Failure>> {
        let _ = (step, questions);
        let problem = "nobody can be asked here: only a step of a workflow with a database can wait for people";
        Box::pin(async move { Err(Failure::new(FailureKind::Definition, problem)) })
    }

    /// Has the steps of the run executed on `input`, for the agent that leads it: its call `call` asks for them. Waits for
    /// what they come to, the run's result. The same call finds the steps that it has called for, whichever process
    /// executes them.
    ///
    /// # Errors
    /// When the steps are not to be had for this call, and [`FailureKind::Cancelled`] when the run stops here.
    ///
    /// # Cancel safety
    /// The steps go on with the run, and with it alone.
    fn run_steps<'a>(&'a self, call: &'a Key, input: Value) -> BoxFuture<'a, Result<Option<Value>, Failure>> {
        let _ = (call, input);
        let problem = "there are no steps here: an agent can lead only a workflow that it was given to with .agent(..)";
        Box::pin(async move { Err(Failure::new(FailureKind::Definition, problem)) })
    }

    /// Has a workflow executed inside the run, for the call `call` of the step `step`, whose executor names it among its
    /// [workflows](super::Executor::workflows), and waits for its end. The same call finds the workflow that it has
    /// begun, whichever process executes it.
    ///
    /// # Errors
    /// When it cannot be executed here, and [`FailureKind::Cancelled`] when the run stops here. A workflow that failed is
    /// no error: its end says so.
    ///
    /// # Cancel safety
    /// What has begun goes on until its step ends.
    fn run_workflow<'a>(
        &'a self,
        step: &'a Key,
        call: &'a Key,
        workflow: &'a Definition,
        called: Called,
    ) -> BoxFuture<'a, Result<CalledEnd, Failure>> {
        let _ = (step, call, workflow, called);
        let problem =
            "no workflow can be executed here: only a step of a workflow with a database can have one executed";
        Box::pin(async move { Err(Failure::new(FailureKind::Definition, problem)) })
    }

    /// Everything that the step `step` does waits for workflows that it has had executed.
    fn rests(&self, step: &Key) {
        let _ = step;
    }

    /// What was answered to the question under this key, while its step is in progress; nothing when it was not asked.
    fn answered(&self, key: &Key) -> Option<Answered> {
        let _ = key;
        None
    }

    /// Takes in what was said to whoever speaks here while the run executes, oldest first, and records it under `key`. What
    /// it heard in an attempt at its step that failed comes again.
    /// Only a key under which nothing was recorded before is asked about.
    fn take_in(&self, listener: &Listener<'_>, key: &Key) -> Vec<SteeringMessage> {
        let _ = (listener, key);
        Vec::new()
    }

    /// Fresh random bits.
    fn chance(&self) -> u64;

    /// The newest `limit` earlier runs of this session that completed, or were interrupted once they had begun, oldest
    /// first: those accepted before this run that had ended when it first asked. The same every time it asks, also in
    /// another process, but for runs that were deleted meanwhile. At most 1,000; none where there is no session.
    ///
    /// # Errors
    /// When the session cannot be read.
    fn history(&self, limit: u32) -> BoxFuture<'_, Result<Vec<HistoryRun>, Failure>> {
        let _ = limit;
        Box::pin(async { Ok(Vec::new()) })
    }
}
