//! Rates that processes share: what leaves all of them together is what the server takes, and nearly all of it.

use crate::stage::{input, workflow};
use outlive_core::port::{Admitted, RateLimit, StepContext};
use outlive_core::testing::Dice;
use outlive_core::{Failure, Step, StepInput, StepOutput};
use outlive_db::{Fault, InMemoryDb, Operation};
use outlive_engine::Engine;
use outlive_engine::testing::{SimulatedClock, TroubledDb, poll_and_drop};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const MINUTE: Duration = Duration::from_secs(60);
/// Tokens in a minute.
const LIMIT: u64 = 60_000;

fn limit(requests: Option<u64>, tokens: Option<u64>) -> Arc<RateLimit> {
    Arc::new(RateLimit { key: Arc::from("server"), requests, tokens, window: MINUTE })
}

/// A call that has left: when, whose, and how many tokens it used.
type Departure = (Duration, usize, u64);

/// The calls of all processes.
#[derive(Clone)]
struct Server {
    begun: Instant,
    /// In every second time of this length calls are held up on their way, those of a twentieth of it until its end.
    held: Option<Duration>,
    departures: Arc<Mutex<Vec<Departure>>>,
}

impl Server {
    fn new() -> Self {
        Self { begun: Instant::now(), held: None, departures: Arc::default() }
    }

    fn departures(&self) -> Vec<Departure> {
        let mut departures = self.departures.lock().unwrap().clone();
        departures.sort();
        departures
    }

    /// When a call is there that leaves now.
    fn arrival(&self) -> Duration {
        let at = self.begun.elapsed();
        let held = self.held.filter(|window| (at.as_millis() / window.as_millis()).is_multiple_of(2));
        held.map_or(at, |window| {
            let part = window / 20;
            part * (u32::try_from(at.as_micros() / part.as_micros()).unwrap() + 1)
        })
    }

    /// How many of them a server refuses that counts like this, which leaves out what it refuses.
    fn refused(&self, limit: &RateLimit, sliding: bool) -> usize {
        let (mut taken, mut refused): (Vec<(Duration, u64)>, usize) = (Vec::new(), 0);
        let window = |at: Duration| at.as_millis() / limit.window.as_millis();
        for (at, _, tokens) in self.departures() {
            taken.retain(|(other, _)| if sliding { *other + limit.window > at } else { window(*other) == window(at) });
            let sum = taken.iter().map(|(_, tokens)| tokens).sum::<u64>();
            let has_room = limit.tokens.is_none_or(|most| sum + tokens <= most)
                && limit.requests.is_none_or(|most| (taken.len() as u64) < most);
            if has_room { taken.push((at, tokens)) } else { refused += 1 }
        }
        refused
    }

    /// The tokens that were used in this time.
    fn used(&self, from: Duration, to: Duration) -> u64 {
        self.departures().iter().filter(|(at, ..)| (from..to).contains(at)).map(|(.., tokens)| tokens).sum()
    }
}

/// A process whose calls never end: one after the other asks for its share, and each takes a while to be answered. It uses
/// between a half and all of what it may use.
async fn process(
    db: InMemoryDb,
    clock: SimulatedClock,
    number: usize,
    server: &Server,
    limit: Arc<RateLimit>,
) -> Engine {
    let server = server.clone();
    let calls = Step::function("calls", move |context: StepContext, _: Arc<StepInput>| {
        let (server, limit) = (server.clone(), limit.clone());
        async move {
            let mut dice = Dice(number as u64);
            loop {
                let tokens = 200 + dice.below(800);
                match context.effects.admit(&limit, tokens).await {
                    Err(wait) => sleep(wait).await,
                    Ok(call) => {
                        let call = call.expect("it is shared");
                        let used = tokens / 2 + dice.below(tokens / 2 + 1);
                        server.departures.lock().unwrap().push((server.arrival(), number, used));
                        let latency = Duration::from_millis(100 + dice.below(900));
                        let (effects, limit) = (context.effects.clone(), limit.clone());
                        tokio::spawn(async move {
                            sleep(latency).await;
                            effects.admitted(&limit, call, Some(used));
                        });
                    }
                }
            }
            #[expect(unreachable_code, reason = "says what the function gives")]
            Ok::<_, Failure>(StepOutput::new(""))
        }
    });
    let definition = workflow([calls]);
    let builder = Engine::builder(Arc::new(db)).workflow(definition.clone()).clock(Arc::new(clock));
    let engine = builder.start().await.unwrap();
    engine.submit(&definition.id, input("go")).await.unwrap();
    engine
}

#[tokio::test(start_paused = true)]
async fn four_processes_use_nearly_all_that_a_server_takes_and_are_not_refused() {
    for limit in [limit(None, Some(LIMIT)), limit(Some(90), Some(LIMIT * 10))] {
        let (db, clock, server) = (InMemoryDb::new(), SimulatedClock::start(), Server::new());
        let mut engines = Vec::new();
        for number in 0..4 {
            let own = if number == 0 { db.clone() } else { db.another_process() };
            engines.push(process(own, clock, number, &server, limit.clone()).await);
        }
        sleep(4 * MINUTE).await;
        assert_eq!([true, false].map(|sliding| server.refused(&limit, sliding)), [0, 0], "{limit:?}");
        // After the first minute.
        let (used, calls) = (server.used(MINUTE, 4 * MINUTE), server.departures());
        let calls = calls.iter().filter(|(at, ..)| (MINUTE..4 * MINUTE).contains(at)).count() as u64;
        let is_nearly_all =
            |most: Option<u64>, used: u64, part: u64| most.is_some_and(|most| used * 100 > 3 * most * part);
        let full = [is_nearly_all(limit.tokens, used, 90), is_nearly_all(limit.requests, calls, 90)];
        assert!(full.contains(&true), "{used} tokens and {calls} calls in three minutes of {limit:?}");
        // Where all wait, each has its part.
        let mut parts = BTreeMap::new();
        let later = server.departures().into_iter().filter(|(at, ..)| *at >= MINUTE);
        later.for_each(|(_, number, tokens)| *parts.entry(number).or_insert(0) += tokens);
        let all: u64 = parts.values().sum();
        assert!(parts.len() == 4 && parts.values().all(|part| part * 100 / all > 20), "{parts:?}");
        engines.iter().for_each(Engine::kill);
    }
}

/// A crowd that leaves when a window opens, and is held up, is still there when it has left a window ago.
#[tokio::test(start_paused = true)]
async fn windows_are_filled_evenly_so_calls_that_are_held_up_are_hardly_refused() {
    // The shorter the window, the longer a call holds what it may use and does not.
    for (seconds, percent) in [(5, 85), (10, 89), (60, 90)] {
        let window = Duration::from_secs(seconds);
        let limit = Arc::new(RateLimit { window, ..(*limit(None, Some(LIMIT))).clone() });
        let (db, clock) = (InMemoryDb::new(), SimulatedClock::start());
        let server = Server { held: Some(window), ..Server::new() };
        let mut engines = Vec::new();
        for number in 0..4 {
            engines.push(process(db.another_process(), clock, number, &server, limit.clone()).await);
        }
        sleep(5 * window).await;
        let (refused, calls) = (server.refused(&limit, true), server.departures().len());
        assert!(refused * 100 < calls, "{refused} of {calls} calls in windows of {window:?}");
        assert_eq!(server.refused(&limit, false), 0, "{window:?}");
        let used = server.used(window, 5 * window);
        assert!(used * 100 > 4 * LIMIT * percent, "{used} tokens in four windows of {window:?}");
        // No part of a window brings much more than its part of them.
        let part = window / 16;
        let most = (32..80).map(|number| server.used(part * number, part * (number + 1))).max().unwrap();
        assert!(most * 16 < LIMIT * 3, "{most} tokens in {part:?}");
        engines.iter().for_each(Engine::kill);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_process_had_returns_and_a_lone_one_has_it_all() {
    let (db, clock, server, limit) =
        (InMemoryDb::new(), SimulatedClock::start(), Server::new(), limit(None, Some(LIMIT)));
    let doomed = process(db.another_process(), clock, 1, &server, limit.clone()).await;
    let left = process(db.clone(), clock, 0, &server, limit.clone()).await;
    sleep(2 * MINUTE).await;
    doomed.kill();
    db.crash(&doomed.worker());
    sleep(3 * MINUTE).await;
    assert_eq!(server.refused(&limit, true), 0);
    let used = server.used(3 * MINUTE, 5 * MINUTE);
    assert!(used * 100 > 2 * LIMIT * 90, "{used} tokens in two minutes");
    left.kill();
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_cost_a_transaction() {
    let (db, clock) = (InMemoryDb::new(), SimulatedClock::start());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    db.faults(Arc::new(move |operation| {
        let is_meant = matches!(operation, Operation::TakeShare | Operation::ReturnShares);
        count.fetch_add(usize::from(is_meant), Ordering::Relaxed);
        None
    }));
    let made = Arc::new(AtomicUsize::new(0));
    let calls = made.clone();
    let step = Step::function("calls", move |context: StepContext, _: Arc<StepInput>| {
        let calls = calls.clone();
        async move {
            let limit = limit(Some(6000), Some(LIMIT * 10));
            for _ in 0..3000 {
                let call = context.effects.admit(&limit, 100).await.expect("there is room").expect("it is shared");
                context.effects.admitted(&limit, call, Some(90));
                calls.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(12)).await;
            }
            Ok::<_, Failure>(StepOutput::new("done"))
        }
    });
    let definition = workflow([step]);
    let builder = Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).clock(Arc::new(clock));
    let engine = builder.start().await.unwrap();
    let run = engine.submit(&definition.id, input("go")).await.unwrap();
    assert_eq!(run.wait().await.unwrap().text(), "done");
    let (made, asked) = (made.load(Ordering::Relaxed), asked.load(Ordering::Relaxed));
    assert!(made == 3000 && asked * 20 < made, "{asked} transactions for {made} calls");
    engine.shutdown().await.unwrap();
}

/// What calls were told.
type Answers = Arc<Mutex<Vec<Result<Option<Admitted>, Duration>>>>;

/// Asks in a function, and tells what comes of it.
fn asks(answers: &Answers) -> Step {
    let answers = answers.clone();
    Step::function("asks", move |context: StepContext, input: Arc<StepInput>| {
        let answers = answers.clone();
        async move {
            let limit = limit(None, Some(100));
            let times: usize = input.text().parse().unwrap();
            let admitted = match times {
                0 => context.effects.admit(&limit, 80).await,
                times => match poll_and_drop(context.effects.admit(&limit, 80), times).await {
                    Some(admitted) => admitted,
                    None => return Ok(StepOutput::new("dropped")),
                },
            };
            answers.lock().unwrap().push(admitted);
            Ok::<_, Failure>(StepOutput::new("asked"))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_share_whose_caller_went_away_serves_the_next() {
    let mut dropped = 0;
    for times in 1.. {
        let answers = Answers::default();
        let db = TroubledDb::yielding(Arc::new(InMemoryDb::new()));
        let definition = workflow([asks(&answers)]);
        let builder = Engine::builder(db).workflow(definition.clone()).clock(Arc::new(SimulatedClock::start()));
        let engine = builder.start().await.unwrap();
        let said = engine.submit(&definition.id, input(&times.to_string())).await.unwrap().wait().await.unwrap().text();
        dropped += usize::from(said == "dropped");
        if said == "asked" {
            break;
        }
        // What was begun finishes without its caller.
        sleep(Duration::from_millis(10)).await;
        engine.submit(&definition.id, input("0")).await.unwrap().wait().await.unwrap();
        let answers = std::mem::take(&mut *answers.lock().unwrap());
        assert!(
            matches!(answers[0], Ok(Some(Admitted { tokens: 80, .. }))),
            "dropped after {times} polls: {answers:?}"
        );
        engine.shutdown().await.unwrap();
    }
    assert!(dropped > 0, "there is an await to be dropped at");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_lets_nobody_through_and_gives_nothing_out_twice() {
    for fault in [Fault::Refuse(outlive_core::port::DbErrorKind::Busy), Fault::LoseReply] {
        let (db, answers) = (InMemoryDb::new(), Answers::default());
        let fails = Arc::new(AtomicUsize::new(1));
        let left = fails.clone();
        db.faults(Arc::new(move |operation| {
            let is_meant = operation == Operation::TakeShare;
            let fails =
                is_meant && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            fails.then_some(fault)
        }));
        let definition = workflow([asks(&answers)]);
        let builder = Engine::builder(Arc::new(db)).workflow(definition.clone());
        let engine = builder.clock(Arc::new(SimulatedClock::start())).start().await.unwrap();
        for _ in 0..2 {
            engine.submit(&definition.id, input("0")).await.unwrap().wait().await.unwrap();
        }
        let answers = std::mem::take(&mut *answers.lock().unwrap());
        assert_eq!(answers[0], Err(Duration::from_secs(1)), "{fault:?}");
        // A share whose reply was lost counts until its time has passed.
        assert_eq!(answers[1].is_ok(), fault != Fault::LoseReply, "{fault:?}: {answers:?}");
        engine.shutdown().await.unwrap();
    }
}
