//! The gate before a model server: how fast calls that share an address and a key may leave.
//!
//! ```text
//!          first 429                  the wait is over              the pace holds nobody up
//!  open ───────────────► shut ───────────────────────────► paced ────────────────────────────► open
//!                          ▲                                 │
//!                          └───────────── 429 ───────────────┘
//! ```
//! *Open*, it costs one look at a number. *Shut*, nobody leaves until the wait that the server asked for is over.
//! *Paced*, calls leave one by one, at first a little slower than the server last accepted them, then faster and faster
//! as long as it refuses none.
//!
//! There is one gate for each [`Limit`] in a process. It must never know a run, a request or a key. [`Pace`] decides,
//! and knows neither clock nor randomness: both are arguments.
//!
//! Invariant: a refusal that was on its way when the gate shut only makes the wait longer; it does not slow anyone down
//! twice.

use super::rates::{Rates, Window};
use outlive_core::port::{Admitted, RateLimit};
use outlive_core::{RunId, Usage};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The gate opens again when no call came for this long.
const OPEN_AFTER: Duration = Duration::from_secs(60);
/// Or when calls leave this close together.
const OPEN_BELOW: Duration = Duration::from_millis(1);
/// The wait after a refusal that names none.
const WAIT: Duration = Duration::from_secs(1);
/// The least wait that is doubled: some servers state none, or next to none.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// From the second refusal in a row, a wait that was not stated doubles; from this many, a stated one does too, but not
/// beyond this.
const PATIENCE: u32 = 5;
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The most of a wait that counts for the random tenth added to it.
const JITTERED_MAX: Duration = Duration::from_secs(10);
/// Calls leave after a refusal at this part of the rate last answered: that leaves room for others who share the limit.
const CAUTION: f64 = 0.85;
/// Calls a second, at least and when nothing is known.
const RATE_MIN: f64 = 1.0 / 60.0;
const RATE_UNKNOWN: f64 = 1.0;
/// The growth of the rate in a second, or from one call to the next where that takes longer: its value after a refusal,
/// and when nothing is known.
const GROWTH: f64 = 0.004;
const GROWTH_UNKNOWN: f64 = 1.0;
/// The growth itself doubles in this many of them.
const GROWTH_DOUBLES: f64 = 10.0;
/// With fewer calls let through than this since the last wait, the pace was far too fast.
const FEW: u64 = 3;
/// Once the gate has shut this often without an answer, the pace is not what is wrong.
const OUTAGE: u32 = 3;
/// Calls that missed their turn may leave together as long as they make up for no more than this.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Gates kept although nobody uses them.
const IDLE_GATES_MAX: usize = 1024;

/// Whose limit a call counts against: models that share one are refused together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit(u64);

impl Limit {
    /// The limit of a key at an address: the same in every process. Neither can be read from it.
    pub fn new(base_url: &str, key: &str) -> Self {
        Self::print(&format!("{}\n{key}", base_url.trim_end_matches('/')))
    }

    /// The part of it that is one model's: who says what a model may be asked in a minute means that model.
    pub(crate) fn of_model(self, model: &str) -> Self {
        Self::print(&format!("{}\n{model}", self.shared_key()))
    }

    fn print(whose: &str) -> Self {
        let print = RunId::fingerprint(whose);
        Self(u64::from_str_radix(&print[..16], 16).expect("a fingerprint is hexadecimal"))
    }

    /// Under which processes share it.
    pub(crate) fn shared_key(self) -> String {
        format!("{:016x}", self.0)
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limit")
    }
}

/// The gate of one limit; shared by everything in the process that counts against it.
pub(crate) struct Gate {
    /// Nobody needs to wait. Only a hint, for callers that may be wrong for a moment.
    is_open: AtomicBool,
    departures: Departures,
    pace: Mutex<Pace>,
    /// What left in the last minute, of models that say what they may be asked in one; by the length of that time.
    windows: Mutex<BTreeMap<Duration, Window>>,
    /// Who is next: the others wait in the order they came, and one that goes away leaves no gap.
    turn: Semaphore,
}

/// A call that may leave, identified by when it was let through.
#[derive(Debug)]
pub(crate) struct Pass {
    at: Duration,
    /// What is known of it if calls are counted by the minute.
    counted: Option<Box<Counted>>,
}

/// A call that is counted by the minute.
#[derive(Debug)]
pub(crate) struct Counted {
    window: Duration,
    /// Its number among those of the window.
    number: u64,
    /// What it has of the rate that processes share.
    pub(crate) admitted: Option<(Arc<RateLimit>, Admitted)>,
}

/// What the gate answers to the next in line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    Go,
    /// Ask again after this time.
    Wait(Duration),
}

impl Gate {
    /// The gate of this limit.
    pub(crate) fn of(limit: Limit) -> Arc<Self> {
        static GATES: LazyLock<Mutex<HashMap<Limit, Arc<Gate>>>> = LazyLock::new(Mutex::default);
        let mut gates = lock(&GATES);
        if gates.len() >= IDLE_GATES_MAX && !gates.contains_key(&limit) {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_open.load(Ordering::Relaxed));
        }
        gates.entry(limit).or_insert_with(|| Arc::new(Gate::new())).clone()
    }

    fn new() -> Self {
        Self {
            is_open: AtomicBool::new(true),
            departures: Departures::default(),
            pace: Mutex::default(),
            windows: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// Lets a call through if nobody has to wait.
    pub(crate) fn pass(&self) -> Option<Pass> {
        self.is_open.load(Ordering::Relaxed).then(|| self.depart(now()))
    }

    /// The same, unless the call must be counted by the minute and so has to queue.
    pub(crate) fn pass_unless(&self, counts: bool) -> Option<Pass> {
        if counts { None } else { self.pass() }
    }

    /// Waits until all who came before have left; the result is passed to [`Gate::next`].
    ///
    /// # Cancel safety
    /// Dropping it gives up the place in line.
    pub(crate) async fn queue(&self) -> SemaphorePermit<'_> {
        self.turn.acquire().await.expect("a gate is never taken down")
    }

    /// Whether the next in line may leave now; `chance` is any random bits.
    pub(crate) fn next(&self, _place: &SemaphorePermit<'_>, chance: u64) -> Result<Pass, Duration> {
        let now = now();
        let mut pace = lock(&self.pace);
        let next = pace.next(&self.departures, now, chance);
        self.is_open.store(pace.is_open(), Ordering::Relaxed);
        drop(pace);
        match next {
            Next::Go => Ok(self.depart(now)),
            Next::Wait(wait) => Err(wait),
        }
    }

    /// For how long only refusals have come back, up to the last of them.
    pub(crate) fn silence(&self) -> Duration {
        lock(&self.pace).silence()
    }

    /// A call was answered.
    pub(crate) fn answered(&self, pass: &Pass) {
        if !self.is_open.load(Ordering::Relaxed) {
            lock(&self.pace).answered(pass.at, now());
        }
    }

    /// A call was refused with 429, with the wait that the server asks for; returns how long the gate is now shut.
    pub(crate) fn refused(&self, pass: &Pass, wait: Option<Duration>, chance: u64) -> Duration {
        self.departures.take_back(pass.at);
        let now = now();
        let mut pace = lock(&self.pace);
        let counted = pass.counted.as_ref().map(|counted| counted.window);
        pace.refused(pass.at, wait, now, chance, counted);
        self.is_open.store(false, Ordering::Relaxed);
        pace.shut_until.saturating_sub(now)
    }

    fn depart(&self, at: Duration) -> Pass {
        self.departures.add(at);
        Pass { at, counted: None }
    }

    /// How long the next in line has to wait for room in the minute; nothing when there is some.
    pub(crate) fn full(&self, _place: &SemaphorePermit<'_>, rates: Rates, tokens: u64) -> Option<Duration> {
        lock(&self.windows).entry(rates.window).or_default().wait(rates, tokens, now())
    }

    /// The next in line leaves with this pass, and may use so many tokens.
    pub(crate) fn count(
        &self,
        _place: &SemaphorePermit<'_>,
        pass: Pass,
        rates: Rates,
        tokens: u64,
        admitted: Option<(Arc<RateLimit>, Admitted)>,
    ) -> Pass {
        let window = rates.window;
        let number = lock(&self.windows).entry(window).or_default().leave(tokens, now());
        Pass { counted: Some(Box::new(Counted { window, number, admitted })), ..pass }
    }

    /// The call was answered, and used this much. Gives what it has of the rate that processes share, and how many tokens
    /// it used, if that is known.
    pub(crate) fn had(&self, pass: Pass, usage: Usage) -> Option<(Arc<RateLimit>, Admitted, u64)> {
        let tokens = usage.total_tokens.max(usage.input_tokens + usage.output_tokens);
        let Counted { window, number, admitted } = *pass.counted.filter(|_| tokens > 0)?;
        if let Some(window) = lock(&self.windows).get_mut(&window) {
            window.had(number, tokens);
        }
        admitted.map(|(limit, call)| (limit, call, tokens))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time since the process first asked for it.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Instant::now().saturating_duration_since(*START)
}

/// How many calls left in each tenth of a second, except those refused. Counting takes no lock.
struct Departures([AtomicU64; Departures::SLOTS]);

impl Default for Departures {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Self::SLOTS])
    }
}

impl Departures {
    const SLOTS: usize = 64;
    const SLOT: Duration = Duration::from_millis(100);
    /// The time over which the rate is taken.
    const WINDOW: Duration = Duration::from_secs(1);

    fn tick(at: Duration) -> u64 {
        u64::try_from(at.as_millis() / Self::SLOT.as_millis()).unwrap_or(u64::MAX) & 0xffff_ffff
    }

    fn slot(&self, tick: u64) -> &AtomicU64 {
        &self.0[tick as usize % Self::SLOTS]
    }

    /// A slot holds the tick it counts and the count. Two threads that begin a slot at once may lose one call.
    fn change(&self, at: Duration, change: impl Fn(u64) -> u64) {
        let tick = Self::tick(at);
        let update = |slot: u64| {
            let count = if slot >> 32 == tick { slot & 0xffff_ffff } else { 0 };
            // A slot that already counts a later time is not turned back.
            (slot >> 32 <= tick).then(|| tick << 32 | change(count) & 0xffff_ffff)
        };
        // An error only means that nothing was changed.
        let _ = self.slot(tick).fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    fn add(&self, at: Duration) {
        self.change(at, |count| count + 1);
    }

    fn take_back(&self, at: Duration) {
        self.change(at, |count| count.saturating_sub(1));
    }

    /// The most in one second, either the second before this time or the one after.
    fn peak(&self, at: Duration) -> u64 {
        let (tick, second) =
            (Self::tick(at), u64::try_from(Self::WINDOW.as_millis() / Self::SLOT.as_millis()).unwrap_or(10));
        let count = |tick: u64| {
            let slot = self.slot(tick).load(Ordering::Relaxed);
            if slot >> 32 == tick { slot & 0xffff_ffff } else { 0 }
        };
        let first = (tick + 1).saturating_sub(second)..=tick;
        first.map(|first| (first..first + second).map(count).sum()).max().unwrap_or(0)
    }
}

/// Decides when the next in line may leave.
#[derive(Debug, Default)]
struct Pace {
    phase: Phase,
    /// Nobody leaves before this.
    shut_until: Duration,
    /// When the gate last shut, and when the refused call had left.
    shut_at: Duration,
    refused_left_at: Duration,
    answered_at: Duration,
    /// How often the gate was shut since the last answer.
    shut: u32,
    /// Calls let through since the last wait was over.
    left: u64,
    /// Calls a second.
    rate: f64,
    /// How much of the rate is added in a second.
    growth: f64,
    /// When the rate was last checked.
    grown_at: Duration,
    /// When the next call may leave.
    due: Duration,
    /// The gate is shut for a refusal that slows nobody down, and when it last was.
    is_forgiven: bool,
    forgiven_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    Shut,
    Paced,
}

impl Pace {
    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    fn silence(&self) -> Duration {
        if self.is_open() { Duration::ZERO } else { self.shut_at.saturating_sub(self.answered_at) }
    }

    fn next(&mut self, departures: &Departures, now: Duration, chance: u64) -> Next {
        if self.phase == Phase::Shut {
            if now < self.shut_until {
                return Next::Wait(self.shut_until - now);
            }
            match self.is_forgiven {
                true => self.phase = Phase::Open,
                false => self.set_pace(departures, now),
            }
        }
        if self.phase == Phase::Open {
            return Next::Go;
        }
        self.grow(now);
        let interval = Duration::from_secs_f64(1.0 / self.rate);
        if interval < OPEN_BELOW || now.saturating_sub(self.due) >= OPEN_AFTER {
            self.phase = Phase::Open;
            return Next::Go;
        }
        if now < self.due {
            return Next::Wait(self.due - now);
        }
        // A tenth more or less, so that processes that share a limit do not move in step.
        let jittered = interval.mul_f64(0.9 + share(chance) / 5.0);
        self.due = self.due.max(now.saturating_sub(CATCH_UP)) + jittered;
        self.left += 1;
        Next::Go
    }

    /// The wait is over: from now on calls leave at the rate last answered, with some caution.
    fn set_pace(&mut self, departures: &Departures, now: Duration) {
        // By now every refusal is in: what is still counted was answered, or is being answered.
        let answered = departures.peak(self.refused_left_at) as f64 / Departures::WINDOW.as_secs_f64();
        let (rate, growth) = match (self.rate, answered) {
            (0.0, 0.0) => (RATE_UNKNOWN, GROWTH_UNKNOWN),
            (0.0, answered) => (answered * CAUTION, GROWTH),
            // Nothing is answered at all any more, which says nothing about the pace.
            (rate, _) if self.left <= 1 && self.shut >= OUTAGE => (rate, GROWTH),
            (rate, answered) if self.left < FEW || (answered == 0.0 && rate > 1.0) => (rate / 2.0, GROWTH),
            // A pace below one a second leaves nothing to count in a second.
            (rate, answered) => (rate.min(answered.max(1.0)) * CAUTION, GROWTH),
        };
        self.rate = rate.max(RATE_MIN);
        self.growth = growth;
        (self.grown_at, self.due) = (now, now);
        self.left = 0;
        self.phase = Phase::Paced;
    }

    fn grow(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.grown_at).as_secs_f64() * self.rate.min(1.0);
        self.rate *= 1.0 + self.growth * passed;
        self.growth *= 2f64.powf(passed / GROWTH_DOUBLES);
        self.grown_at = now;
    }

    /// A call that had left before the gate shut says nothing about what the server does now.
    fn answered(&mut self, left_at: Duration, now: Duration) {
        if left_at > self.shut_at {
            self.answered_at = now;
            self.shut = 0;
        }
    }

    /// A call was refused that had left then; `counted` is the time that such calls are counted over, if they are: what
    /// leaves is known to be what the server takes, unless others use it too, who are refused again soon.
    fn refused(
        &mut self,
        left_at: Duration,
        stated: Option<Duration>,
        now: Duration,
        chance: u64,
        counted: Option<Duration>,
    ) {
        match self.phase {
            // It left before the gate shut, and what it says has been taken into account.
            Phase::Paced if left_at <= self.shut_at => return,
            Phase::Open if self.is_forgiven && left_at <= self.shut_at => return,
            Phase::Shut => {}
            Phase::Open | Phase::Paced => {
                self.is_forgiven = false;
                if self.phase == Phase::Open {
                    self.answered_at = now;
                    self.rate = 0.0;
                    // Once in that time, it is taken for a chance.
                    let is_rare =
                        |window: Duration| self.forgiven_at.is_none_or(|last| now.saturating_sub(last) > window);
                    if counted.is_some_and(is_rare) {
                        (self.is_forgiven, self.forgiven_at) = (true, Some(now));
                    }
                }
                self.phase = Phase::Shut;
                self.shut_at = now;
                self.refused_left_at = left_at;
                self.shut += 1;
            }
        }
        let (wait, patience) = stated.map_or((WAIT, 1), |stated| (stated, PATIENCE));
        let doubled = wait.max(WAIT_MIN) * 2u32.pow(self.shut.saturating_sub(patience).min(16));
        let wait = wait.max(doubled.min(WAIT_MAX));
        // On top of what was asked for, so that callers told the same wait do not all come back at once.
        let jitter = wait.min(JITTERED_MAX).mul_f64(share(chance) / 10.0);
        self.shut_until = self.shut_until.max(now + wait + jitter);
    }
}

/// A number from 0 to 1.
fn share(chance: u64) -> f64 {
    (chance >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: Duration = Duration::from_millis(1);

    /// How a server counts.
    #[derive(Clone, Copy, Debug)]
    enum Counts {
        /// In any time of this length.
        Sliding(Duration),
        /// Anew at each multiple of it.
        Windows(Duration),
        /// What is not used in this time is saved up for a burst.
        Bucket(Duration),
    }

    /// A server that takes `most` calls in a time.
    struct Server {
        most: usize,
        counts: Counts,
        taken: VecDeque<Duration>,
        saved: f64,
        asked_at: Duration,
        stated: Option<Duration>,
        /// Until an answer, and until a refusal, is back.
        latency: (Duration, Duration),
    }

    impl Server {
        fn new(most: usize, counts: Counts) -> Self {
            let (stated, latency) = (Some(Duration::from_secs(2)), (5 * MS, 2 * MS));
            let (taken, asked_at) = (VecDeque::new(), Duration::ZERO);
            Self { most, counts, taken, saved: most as f64, asked_at, stated, latency }
        }

        fn takes(&mut self, now: Duration) -> bool {
            let window = |at: Duration, length: Duration| at.as_nanos() / length.as_nanos();
            match self.counts {
                Counts::Bucket(length) => {
                    let more = (now - self.asked_at).div_duration_f64(length) * self.most as f64;
                    self.saved = (self.saved + more).min(self.most as f64);
                    self.asked_at = now;
                    let takes = self.saved >= 1.0;
                    self.saved -= if takes { 1.0 } else { 0.0 };
                    return takes;
                }
                Counts::Sliding(length) => self.taken.retain(|taken| now - *taken < length),
                Counts::Windows(length) => self.taken.retain(|taken| window(*taken, length) == window(now, length)),
            }
            let takes = self.taken.len() < self.most;
            self.taken.extend(takes.then_some(now));
            takes
        }
    }

    /// What happened.
    #[derive(Debug, Default, PartialEq)]
    struct Outcome {
        answered: usize,
        /// Sent before the first wait was over.
        first: usize,
        sent: usize,
        refused_later: usize,
        took: Duration,
    }

    /// Calls, one after the other, through one gate.
    struct World {
        pace: Pace,
        departures: Departures,
        chance: u64,
        now: Duration,
        outcome: Outcome,
    }

    impl World {
        fn new(chance: u64) -> Self {
            let now = Duration::from_secs(5);
            Self { pace: Pace::default(), departures: Departures::default(), chance, now, outcome: Outcome::default() }
        }

        /// Sends so many calls, one more each `apart`, until each has its answer or the time is over.
        fn send(&mut self, server: &mut Server, calls: usize, apart: Duration, limit: Duration) -> Outcome {
            self.outcome = Outcome::default();
            let (begun, mut waiting, mut asked, mut opened) = (self.now, 0, 0, false);
            let mut under_way: Vec<(Duration, Duration, bool)> = Vec::new();
            while self.outcome.answered < calls && self.now - begun < limit {
                let now = self.now;
                self.outcome.took = now - begun;
                while asked < calls && begun + apart * asked as u32 <= now {
                    asked += 1;
                    waiting += 1;
                }
                for (_, left_at, is_answered) in under_way.extract_if(.., |(back_at, ..)| *back_at <= now) {
                    if is_answered {
                        self.pace.answered(left_at, now);
                        self.outcome.answered += 1;
                    } else {
                        self.chance = self.chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                        self.departures.take_back(left_at);
                        self.pace.refused(left_at, server.stated, now, self.chance, None);
                        waiting += 1;
                    }
                }
                let mut next_at = if asked < calls { begun + apart * asked as u32 } else { Duration::MAX };
                while waiting > 0 {
                    self.chance = self.chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    if let Next::Wait(wait) = self.pace.next(&self.departures, now, self.chance) {
                        next_at = next_at.min(now + wait + MS);
                        break;
                    }
                    waiting -= 1;
                    opened |= self.pace.phase == Phase::Paced;
                    let takes = server.takes(now);
                    self.departures.add(now);
                    self.outcome.sent += 1;
                    self.outcome.first += usize::from(!opened);
                    self.outcome.refused_later += usize::from(opened && !takes);
                    let latency = if takes { server.latency.0 } else { server.latency.1 };
                    under_way.push((now + latency, now, takes));
                }
                let back_at = under_way.iter().map(|(back_at, ..)| *back_at).min();
                self.now = next_at.min(back_at.unwrap_or(Duration::MAX)).max(now + Duration::from_nanos(1));
            }
            self.now = begun + self.outcome.took;
            std::mem::take(&mut self.outcome)
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    /// Two hundred at once at a server that takes twenty a second, however it counts and however slow it is.
    #[test]
    fn a_crowd_gets_through_in_little_more_than_its_time_and_is_hardly_refused() {
        let latencies = [(5, 2), (300, 40), (8000, 100)];
        for counts in [Counts::Sliding(SECOND), Counts::Windows(SECOND), Counts::Bucket(SECOND)] {
            for (answer, refusal) in latencies.map(|(answer, refusal)| (answer * MS, refusal * MS)) {
                for chance in 0..4 {
                    let mut server = Server { latency: (answer, refusal), ..Server::new(20, counts) };
                    let outcome = World::new(chance).send(&mut server, 200, Duration::ZERO, MINUTE);
                    let case = format!("{counts:?} {answer:?} {chance} {outcome:?}");
                    assert_eq!(outcome.answered, 200, "{case}");
                    assert!(outcome.took - answer <= 15 * SECOND, "{case}");
                    assert!(outcome.refused_later * 10 <= outcome.sent - outcome.first, "{case}");
                }
            }
        }
    }

    #[test]
    fn the_pace_finds_every_limit_and_keeps_near_it() {
        // Calls, taken in a time, the wait that is stated; at most so many times the ideal time, and so many refused.
        let cases = [
            (20, Counts::Sliding(SECOND), 4000, Some(2), 1.5, 0.05),
            (20, Counts::Windows(SECOND), 4000, Some(2), 1.5, 0.05),
            (1, Counts::Sliding(SECOND), 60, Some(1), 2.5, 0.2),
            (500, Counts::Sliding(SECOND), 5000, Some(1), 1.5, 0.05),
            (60, Counts::Windows(MINUTE), 300, Some(30), 2.0, 0.3),
            (60, Counts::Sliding(MINUTE), 300, Some(10), 2.5, 0.3),
            (3, Counts::Sliding(MINUTE), 90, Some(10), 2.0, 0.3),
            (20, Counts::Sliding(SECOND), 400, None, 1.5, 0.1),
        ];
        for (most, counts, calls, stated, times, share) in cases {
            let (Counts::Sliding(length) | Counts::Windows(length) | Counts::Bucket(length)) = counts;
            let mut server = Server { stated: stated.map(Duration::from_secs), ..Server::new(most, counts) };
            let ideal = length.mul_f64(calls as f64 / most as f64);
            let outcome = World::new(7).send(&mut server, calls, Duration::ZERO, 10 * ideal);
            let case = format!("{most} in {counts:?}: {outcome:?}");

            assert_eq!(outcome.answered, calls, "{case}");
            assert!(outcome.took <= ideal.mul_f64(times), "{case}");
            assert!(outcome.refused_later as f64 <= (outcome.sent - outcome.first) as f64 * share, "{case}");
        }
    }
    #[test]
    fn a_server_that_refuses_everything_is_asked_less_and_less() {
        let mut server = Server { stated: None, ..Server::new(0, Counts::Sliding(SECOND)) };
        let mut world = World::new(7);
        let outcome = world.send(&mut server, 50, Duration::ZERO, 10 * MINUTE);
        assert_eq!((outcome.answered, outcome.first), (0, 50));
        assert!((10..=20).contains(&outcome.refused_later), "{outcome:?}");
        assert!(world.pace.silence() > 8 * MINUTE, "who waits can tell that it is in vain");
        server.most = 20;
        world.send(&mut server, 50, Duration::ZERO, 10 * MINUTE);
        assert_eq!(world.pace.silence(), Duration::ZERO);
    }

    #[test]
    fn a_gate_opens_again_and_forgets() {
        let mut server = Server::new(20, Counts::Sliding(SECOND));
        let mut world = World::new(7);
        world.send(&mut server, 100, Duration::ZERO, MINUTE);
        assert_eq!(world.pace.phase, Phase::Paced);
        world.now += MINUTE + SECOND;
        world.send(&mut server, 1, Duration::ZERO, MINUTE);
        assert!(world.pace.is_open());
        // The limit is gone: nobody has to wait.
        server.most = 2000;
        let outcome = world.send(&mut server, 1000, Duration::ZERO, MINUTE);
        assert_eq!((outcome.sent, outcome.took), (1000, server.latency.0));
    }

    #[test]
    fn an_outage_is_forgotten_when_it_is_over() {
        let mut server = Server::new(20, Counts::Sliding(SECOND));
        let mut world = World::new(7);
        world.send(&mut server, 100, Duration::ZERO, MINUTE);
        server.most = 0;
        let outcome = world.send(&mut server, 100, Duration::ZERO, 5 * MINUTE);
        assert!(outcome.sent < 20, "{outcome:?}");
        server.most = 20;
        let outcome = world.send(&mut server, 100, Duration::ZERO, 10 * MINUTE);
        assert_eq!(outcome.answered, 100);
        assert!(outcome.took < 2 * MINUTE, "{outcome:?}");
    }

    #[test]
    fn the_pace_grows_while_nobody_is_refused() {
        let mut server = Server::new(20, Counts::Sliding(SECOND));
        let mut world = World::new(7);
        world.send(&mut server, 60, Duration::ZERO, MINUTE);
        server.most = 10_000;
        let outcome = world.send(&mut server, 1000, Duration::ZERO, 10 * MINUTE);
        assert_eq!((outcome.answered, outcome.refused_later), (1000, 0));
        assert!(outcome.took < 45 * SECOND, "at the old rate it would be a minute: {outcome:?}");
    }

    #[test]
    fn others_who_use_the_same_limit_are_made_room_for() {
        let mut server = Server::new(20, Counts::Sliding(SECOND));
        let mut world = World::new(7);
        world.send(&mut server, 100, Duration::ZERO, MINUTE);
        server.most = 5;
        let outcome = world.send(&mut server, 200, Duration::ZERO, 10 * MINUTE);
        assert_eq!(outcome.answered, 200);
        assert!(outcome.refused_later <= 20, "{outcome:?}");
    }

    #[test]
    fn a_refusal_that_was_on_its_way_slows_nobody_down_twice() {
        let (mut pace, departures) = (Pace::default(), Departures::default());
        let at = |ms: u32| SECOND * 10 + MS * ms;
        for ms in 0..20 {
            departures.add(at(ms * 10));
        }
        pace.refused(at(190), Some(SECOND), at(200), 0, None);
        assert_eq!(pace.next(&departures, at(700), 0), Next::Wait(500 * MS));
        // Later news make the wait longer, and nothing else.
        pace.refused(at(180), Some(SECOND), at(400), 0, None);
        pace.refused(at(170), Some(50 * MS), at(500), 0, None);
        assert_eq!(pace.next(&departures, at(700), 0), Next::Wait(700 * MS));
        assert_eq!(pace.next(&departures, at(1400), 0), Next::Go);
        let rate = pace.rate;
        pace.refused(at(160), Some(SECOND), at(1410), 0, None);
        assert_eq!((pace.phase, pace.rate), (Phase::Paced, rate));
    }

    #[test]
    fn a_wait_that_is_not_stated_doubles_until_an_answer_and_has_an_end() {
        let (mut pace, departures) = (Pace::default(), Departures::default());
        let mut now = SECOND;
        let mut refuse = |pace: &mut Pace| {
            pace.refused(now, None, now, 0, None);
            let begun = std::mem::replace(&mut now, pace.shut_until);
            assert_eq!(pace.next(&departures, now, 0), Next::Go);
            now += MS;
            (now - begun).as_secs()
        };
        let waits: Vec<_> = (0..8).map(|_| refuse(&mut pace)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.answered(SECOND, 2 * MINUTE);
        assert_eq!(refuse(&mut pace), 60, "that was a call from before");
        pace.answered(60 * MINUTE, 60 * MINUTE);
        assert_eq!(refuse(&mut pace), 1);
    }

    #[test]
    fn a_stated_wait_is_obeyed_and_doubles_only_when_it_proves_too_short_again_and_again() {
        let waits = |stated: Duration| {
            let (mut pace, departures, mut now) = (Pace::default(), Departures::default(), SECOND);
            [(); 8].map(|()| {
                pace.refused(now, Some(stated), now, 0, None);
                let wait = pace.shut_until - now;
                assert_eq!(pace.next(&departures, pace.shut_until, 0), Next::Go);
                now = pace.shut_until + MS;
                wait
            })
        };
        assert_eq!(waits(10 * MS), [10, 10, 10, 10, 10, 20, 40, 80].map(|ms| ms * MS));
        assert_eq!(
            waits(Duration::ZERO),
            waits(10 * MS),
            "none is stated by some, and a server is not asked without end"
        );
        assert_eq!(waits(20 * SECOND), [20, 20, 20, 20, 20, 40, 60, 60].map(|seconds| seconds * SECOND));
        assert_eq!(waits(2 * MINUTE), [2 * MINUTE; 8]);
    }

    #[test]
    fn chance_adds_to_a_wait_and_never_takes_from_it() {
        for (chance, most) in [(0, 2000), (u64::MAX / 2, 2100), (u64::MAX, 2200)] {
            let mut pace = Pace::default();
            pace.refused(SECOND, Some(2 * SECOND), SECOND, chance, None);
            let wait = (pace.shut_until - SECOND).as_millis();
            assert!((2000..=most).contains(&wait), "{wait}");
        }
        let mut pace = Pace::default();
        pace.refused(SECOND, Some(60 * MINUTE), SECOND, u64::MAX, None);
        assert!(pace.shut_until <= 61 * SECOND * 60, "an hour is not made two");
    }

    #[test]
    fn of_counted_calls_one_refusal_slows_nobody_down_and_the_next_does() {
        let (mut pace, departures) = (Pace::default(), Departures::default());
        let at = |seconds: u32| SECOND * seconds;
        pace.refused(at(100), Some(SECOND), at(100), 0, Some(MINUTE));
        assert_eq!(pace.next(&departures, at(100), 0), Next::Wait(SECOND));
        assert_eq!(pace.next(&departures, at(101), 0), Next::Go);
        assert!(pace.is_open());
        // It was on its way.
        pace.refused(at(99), Some(SECOND), at(102), 0, Some(MINUTE));
        assert!(pace.is_open());
        // Rare enough.
        pace.refused(at(161), Some(SECOND), at(161), 0, Some(MINUTE));
        assert_eq!((pace.next(&departures, at(162), 0), pace.is_open()), (Next::Go, true));
        // Somebody else uses the limit.
        pace.refused(at(200), Some(SECOND), at(200), 0, Some(MINUTE));
        assert_eq!((pace.next(&departures, at(201), 0), pace.phase), (Next::Go, Phase::Paced));
        // Calls that nobody counts slow down at once.
        let mut pace = Pace::default();
        pace.refused(at(100), Some(SECOND), at(100), 0, None);
        assert_eq!((pace.next(&departures, at(101), 0), pace.phase), (Next::Go, Phase::Paced));
    }

    #[test]
    fn departures_are_counted_by_the_second_and_old_ones_forgotten() {
        let departures = Departures::default();
        for ms in [0, 10, 500, 950, 1600, 9990, 10_000] {
            departures.add(MS * ms);
        }
        let peaks = [0, 500, 950, 1600, 2500, 5000, 10_000].map(|ms| departures.peak(MS * ms));
        assert_eq!(peaks, [4, 4, 4, 2, 1, 0, 2]);
        departures.take_back(MS * 9990);
        departures.take_back(MS * 500);
        departures.take_back(MS * 500);
        assert_eq!([500, 10_000].map(|ms| departures.peak(MS * ms)), [3, 1]);
        // The place of the very first is used again.
        departures.add(MS * 6400);
        assert_eq!(departures.peak(Duration::ZERO), 1);
    }

    #[test]
    fn a_first_refusal_that_comes_late_does_not_hide_what_was_answered() {
        for late in [0, 500, 2000, 5000] {
            let (mut pace, departures) = (Pace::default(), Departures::default());
            let (left, back) = (SECOND * 10, SECOND * 10 + MS * late);
            (0..200).for_each(|_| departures.add(left));
            for _ in 0..180 {
                departures.take_back(left);
                pace.refused(left, Some(2 * SECOND), back, 0, None);
            }
            assert_eq!(pace.next(&departures, back + 2 * SECOND, 0), Next::Go);
            assert_eq!(pace.rate, 20.0 * CAUTION, "{late} ms late");
        }
    }

    #[test]
    fn one_limit_has_one_gate_and_says_nothing_of_its_key() {
        let limit = |url, key| Limit::new(url, key);
        let gate = Gate::of(limit("https://a.example/v1", "key"));
        assert!(Arc::ptr_eq(&gate, &Gate::of(limit("https://a.example/v1/", "key"))));
        assert!(!Arc::ptr_eq(&gate, &Gate::of(limit("https://a.example/v1", "other"))));
        assert!(!Arc::ptr_eq(&gate, &Gate::of(limit("https://b.example/v1", "key"))));
        let model = |name: &str| limit("https://a.example/v1/", "key").of_model(name);
        assert!(model("a") == model("a") && model("a") != model("b") && !Arc::ptr_eq(&gate, &Gate::of(model("a"))));
        assert_eq!(format!("{:?}", limit("https://a.example/v1", "key")), "Limit");
    }
}
