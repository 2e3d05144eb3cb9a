//! What a step's agents and tools ask people: gathered until nothing else of the step is at work, and then asked all at
//! once.
//!
//! A step that waits for people leaves memory, with everything in it. So whoever asks puts its questions on the desk, and
//! the desk asks when all others have ended or ask too. It must never know what a question is about.
//!
//! Invariant: people are asked while no call of the step is in flight, so none is lost while they think.

use futures::channel::oneshot;
use futures::stream::{FuturesUnordered, StreamExt};
use outlive_core::port::{Effects, Execution, Recall};
use outlive_core::{Answered, EventKind, Failure, FailureKind, Key, Origin, Question, Record, Timestamp};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// How often a time limit is looked at while people are asked.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Where everything inside one step puts its questions.
#[derive(Clone, Debug)]
pub(crate) struct Desk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What can be at work at the same time: each run that is not waiting for its calls, and each call.
    hands: usize,
    /// Who waits, by its number; more than once when it asks for several things at once.
    waiting: Vec<(u64, u64)>,
    /// Who waits for what it has had executed elsewhere, by its number.
    elsewhere: Vec<(u64, u64)>,
    /// That nobody does anything else was told.
    is_told: bool,
    /// What is to be asked.
    open: Vec<Request>,
    /// Those who say what they ask once nobody is at work.
    tickets: Vec<(u64, oneshot::Sender<()>)>,
    next: u64,
    /// What calls say meanwhile.
    told: Vec<(EventKind, Origin)>,
    /// Of whoever attends to the desk: a tool may ask on a thread of its own.
    attending: Option<Waker>,
    /// Nobody attends to it any more.
    is_closed: bool,
}

/// A question, and how long its answer is waited for from when it is asked.
pub(crate) type Asking = (Question, Option<Duration>);

#[derive(Debug)]
struct Request {
    number: u64,
    questions: Vec<Asking>,
    notice: Option<Notice>,
    answers: oneshot::Sender<Result<Vec<Answered>, Failure>>,
}

/// What is told once when questions are asked, and when they are answered.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) key: Key,
    pub(crate) origin: Origin,
    pub(crate) paused: EventKind,
    pub(crate) continued: EventKind,
}

/// Somebody who can ask: a run, or a call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    desk: Desk,
    number: u64,
    begun: Instant,
    /// How long it has waited for people, by a clock of its own.
    waits: Execution,
    /// The names it has used.
    names: Execution,
    /// The run is stopping here, and it was told so.
    is_stopped: Arc<AtomicBool>,
    /// Nobody waits for it any more, so it has nothing to ask.
    is_gone: Arc<AtomicBool>,
}

/// Turns away on drop whoever still asks at a desk that nobody attends to.
struct Attending<'a>(&'a Desk);

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let turned_away = (std::mem::take(&mut state.open), std::mem::take(&mut state.tickets));
        drop(state);
        drop(turned_away);
    }
}

/// Turns away on drop whoever still asks as this caller.
struct Leaving(Caller);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.0.desk.lock();
        self.0.is_gone.store(true, Ordering::Relaxed);
        let own = state.waiting.extract_if(.., |(caller, _)| *caller == self.0.number);
        let own: Vec<u64> = own.map(|(_, number)| number).collect();
        let asked: Vec<Request> = state.open.extract_if(.., |request| own.contains(&request.number)).collect();
        drop(state);
        drop(asked);
    }
}

/// An answer that is waited for. Dropped, its caller is at work again.
struct Wait<'a> {
    caller: &'a Caller,
    number: u64,
}

/// Somebody waits for what is executed elsewhere. Dropped, it is at work again.
struct Elsewhere<'a> {
    caller: &'a Caller,
    number: u64,
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        let mut state = self.caller.desk.lock();
        state.elsewhere.retain(|(_, number)| *number != self.number);
        state.is_told = false;
    }
}

impl Desk {
    /// A desk for one who is at work.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            hands: 1,
            waiting: Vec::new(),
            elsewhere: Vec::new(),
            is_told: false,
            open: Vec::new(),
            tickets: Vec::new(),
            next: 0,
            told: Vec::new(),
            attending: None,
            is_closed: false,
        })))
    }

    pub(crate) fn caller(&self) -> Caller {
        let mut state = self.lock();
        state.next += 1;
        let (waits, names) = (Execution::default(), Execution::default());
        Caller {
            desk: self.clone(),
            number: state.next,
            begun: Instant::now(),
            waits,
            names,
            is_stopped: Arc::default(),
            is_gone: Arc::default(),
        }
    }

    /// Has something told of a call that is at work.
    pub(crate) fn tell(&self, event: EventKind, origin: Origin) {
        let mut state = self.lock();
        if !state.is_closed {
            state.told.push((event, origin));
            state.attending.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn take_told(&self) -> Vec<(EventKind, Origin)> {
        std::mem::take(&mut self.lock().told)
    }

    /// One who is at work has this many do its work, and waits for them.
    pub(crate) fn share(&self, hands: usize) {
        self.lock().hands += hands.saturating_sub(1);
    }

    /// One of several has ended.
    pub(crate) fn ends(&self) {
        self.lock().hands -= 1;
    }

    /// Does a step's work, and asks what it asks. `execution` is the step's: its time stands still meanwhile.
    pub(crate) async fn attend<T>(
        &self,
        effects: &dyn Effects,
        step: &Key,
        execution: Option<&Execution>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        let _attending = Attending(self);
        // Most steps ask nothing.
        let mut asking = None;
        std::future::poll_fn(|cx| {
            loop {
                // Before what is told of the same calls' ends.
                for (event, origin) in self.take_told() {
                    effects.tell(event, &origin, None);
                }
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(done);
                }
                if let Some(requests) = self.take_at_rest(cx) {
                    if requests.is_empty() {
                        continue;
                    }
                    let asked = Box::pin(self.put(effects, step, execution, requests));
                    asking.get_or_insert_with(FuturesUnordered::new).push(asked);
                }
                if self.takes_rest() {
                    effects.rests(step);
                }
                match asking.as_mut().map(|asking| asking.poll_next_unpin(cx)) {
                    // Whoever waited goes on.
                    Some(Poll::Ready(Some(()))) => {}
                    Some(Poll::Ready(None) | Poll::Pending) | None => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// What is to be asked, when nobody is at work. None of it, when somebody goes on first and says what it asks.
    fn take_at_rest(&self, cx: &Context<'_>) -> Option<Vec<Request>> {
        let mut state = self.lock();
        if !state.attending.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.attending = Some(cx.waker().clone());
        }
        let waiting: BTreeSet<u64> = state.waiting.iter().map(|(caller, _)| *caller).collect();
        if waiting.len() < state.hands || (state.open.is_empty() && state.tickets.is_empty()) {
            return None;
        }
        let tickets = std::mem::take(&mut state.tickets);
        if tickets.is_empty() {
            return Some(std::mem::take(&mut state.open));
        }
        state.waiting.retain(|(_, number)| !tickets.iter().any(|(ticket, _)| ticket == number));
        for (_, ticket) in tickets {
            // Nobody may be waiting any more.
            let _ = ticket.send(());
        }
        Some(Vec::new())
    }

    /// Whether all there is to do is to wait for what is executed elsewhere: told once. People are asked afterwards, so
    /// that nobody is at work while they think.
    fn takes_rest(&self) -> bool {
        let mut state = self.lock();
        if state.elsewhere.is_empty() || state.is_told {
            return false;
        }
        let waiting: BTreeSet<u64> = state.waiting.iter().chain(&state.elsewhere).map(|(caller, _)| *caller).collect();
        state.is_told = waiting.len() >= state.hands;
        state.is_told
    }

    /// Asks, and hands out the answers.
    async fn put(&self, effects: &dyn Effects, step: &Key, execution: Option<&Execution>, mut requests: Vec<Request>) {
        // In which order they came is chance.
        requests.sort_by(|one, other| one.place().cmp(&other.place()));
        let now = effects.now();
        for notice in requests.iter().filter_map(|request| request.notice.as_ref()) {
            notice.tell_once(effects, "paused", &notice.paused);
        }
        let questions = requests.iter().flat_map(|request| &request.questions);
        let questions =
            questions.map(|(question, limit)| Question { due_at: limit.map(|limit| now + limit), ..question.clone() });
        if let Some(execution) = execution {
            execution.asks(now);
        }
        let asked = effects.ask(step, questions.collect()).await;
        if let Some(execution) = execution {
            execution.is_answered(effects.now());
        }
        if asked.is_ok() {
            for notice in requests.iter().filter_map(|request| request.notice.as_ref()) {
                notice.tell_once(effects, "continued", &notice.continued);
            }
        }
        let mut answers = asked.map(Vec::into_iter);
        // All are at work again before the first of them is.
        let numbers: Vec<u64> = requests.iter().map(|request| request.number).collect();
        self.lock().waiting.retain(|(_, number)| !numbers.contains(number));
        for request in requests {
            let own = match &mut answers {
                Ok(answers) => Ok(answers.by_ref().take(request.questions.len()).collect()),
                Err(failure) => Err(failure.clone()),
            };
            // Nobody may be waiting any more.
            let _ = request.answers.send(own);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn place(&self) -> Option<&Key> {
        self.questions.first().map(|(question, _)| &question.key)
    }
}

impl Notice {
    fn tell_once(&self, effects: &dyn Effects, word: &'static str, event: &EventKind) {
        let key = self.key.word(word);
        if matches!(effects.recall(&key), Recall::Nothing) {
            effects.tell(event.clone(), &self.origin, Some(Record::Said { key }));
        }
    }
}

impl Caller {
    /// The names it has used.
    pub(crate) fn names(&self) -> &Execution {
        &self.names
    }

    /// The same caller, with no names used yet.
    pub(crate) fn again(&self) -> Self {
        Self { names: Execution::default(), ..self.clone() }
    }

    /// Asks nothing any more once this is dropped.
    pub(crate) fn until_dropped(&self) -> impl Drop + use<> {
        Leaving(self.clone())
    }

    /// Whether it was told that the run is stopping here: what it makes of that means nothing.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// What is left of its time; nothing once that is up, and never while it waits for people.
    pub(crate) fn left(&self, limit: Duration) -> Option<Duration> {
        let (waited, waits) = self.waits.waited(self.now());
        let left = limit.saturating_sub(self.begun.elapsed().saturating_sub(waited));
        let shortest = if waits { LOOK_PERIOD } else { Duration::ZERO };
        Some(left.max(shortest)).filter(|left| !left.is_zero())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// Waits until nobody else is at work.
    pub(crate) async fn until_rest(&self) {
        let (sender, rest) = oneshot::channel();
        let wait = self.wait(|number, state| state.tickets.push((number, sender)));
        // Nobody sends when the desk is gone, and then nobody asks.
        let _ = rest.await;
        drop(wait);
    }

    /// Waits for what it has had executed elsewhere, until this is dropped.
    pub(crate) fn waits_for_others(&self) -> impl Drop {
        let mut state = self.desk.lock();
        state.next += 1;
        let number = state.next;
        state.elsewhere.push((self.number, number));
        Elsewhere { caller: self, number }
    }

    fn wait(&self, put: impl FnOnce(u64, &mut State)) -> Wait<'_> {
        let mut state = self.desk.lock();
        state.next += 1;
        let number = state.next;
        if !state.is_closed && !self.is_gone.load(Ordering::Relaxed) {
            state.waiting.push((self.number, number));
            put(number, &mut state);
            state.attending.iter().for_each(Waker::wake_by_ref);
        }
        drop(state);
        self.waits.asks(self.now());
        Wait { caller: self, number }
    }

    /// Asks, and waits for all answers.
    ///
    /// # Errors
    /// As [`Effects::ask`].
    pub(crate) async fn ask(&self, questions: Vec<Asking>, notice: Option<Notice>) -> Result<Vec<Answered>, Failure> {
        let (sender, answers) = oneshot::channel();
        let wait = self.wait(|number, state| {
            state.open.push(Request { number, questions, notice, answers: sender });
        });
        let answers = answers.await;
        drop(wait);
        answers
            .unwrap_or_else(|_| Err(Failure::new(FailureKind::Cancelled, "the run may not go on in this process")))
            .inspect_err(|failure| {
                self.is_stopped.fetch_or(failure.kind == FailureKind::Cancelled, Ordering::Relaxed);
            })
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.caller.waits.is_answered(self.caller.now());
        let mut state = self.caller.desk.lock();
        state.waiting.retain(|(_, number)| *number != self.number);
        state.open.retain(|request| request.number != self.number);
        state.tickets.retain(|(number, _)| *number != self.number);
    }
}
