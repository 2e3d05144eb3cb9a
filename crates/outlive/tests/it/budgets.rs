//! Budgets: what calls reserve and use, whoever executes them, and what people are asked when too little is left.

use outlive::core::log::{Entry, Record};
use outlive::core::port::{Access, BudgetFilter, BudgetStanding, Clock, Db};
use outlive::core::testing::Dice;
use outlive::core::{EventKind, ModelRequest, Role, Timestamp, ToolCall, Usage};
use outlive::engine::Submit;
use outlive::engine::testing::{Moment, TroubledDb, broken_invariants, read_log};
use outlive::prelude::*;
use outlive::{FailureKind, OpenQuestion, Options, Prices, QuestionKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Of simulated time: longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Tokens of one answer.
const USED: Usage = Usage {
    input_tokens: 20,
    output_tokens: 10,
    total_tokens: 30,
    reasoning_tokens: 0,
    cache_read_tokens: 0,
    cache_write_tokens: 0,
    audio_input_tokens: 0,
    audio_output_tokens: 0,
    audio_total_tokens: 0,
};

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Look {
    #[expect(dead_code, reason = "the tool says the same about everything")]
    topic: String,
}

/// Looks something up until it has asked `turns` times, and then answers.
fn oracle(turns: usize) -> ScriptedModel {
    let script = move |request: &ModelRequest| {
        let asked = request.messages.iter().filter(|message| message.role == Role::Assistant).count() + 1;
        let answer = match asked < turns {
            true => {
                let call = ToolCall::new(format!("call-{asked}"), "look", json!({ "topic": "it" }).to_string());
                ModelResponse::calls(vec![call])
            }
            false => ModelResponse::text(format!("asked {asked} times")),
        };
        Ok(ModelResponse { usage: USED, ..answer })
    };
    ScriptedModel::from_fn("oracle", script).max_output_tokens(40).delay(Duration::from_millis(20))
}

fn agent(name: &str, model: &ScriptedModel) -> Step {
    let look = Tool::new("look", "Looks something up", |_: Look, _| async { Ok::<_, Failure>("all about it") });
    Step::new(name).agent(Agent::new(name).model(model.clone()).tool(look).retry(outlive::Retry::times(2)))
}

fn limited(db: Arc<dyn Db>, model: &ScriptedModel, budgets: &[Budget]) -> Workflow {
    let builder = Workflow::builder("Research").shared_db(db).step(agent("Ask", model));
    budgets.iter().cloned().fold(builder, outlive::WorkflowBuilder::budget).build().unwrap()
}

async fn rests(workflow: &Workflow, run_id: &str) -> WorkflowRunOutput {
    let run = workflow.attach(run_id).await.unwrap();
    timeout(PATIENCE, run.wait()).await.expect("it rests").unwrap()
}

async fn only_question(workflow: &Workflow, run_id: &str) -> OpenQuestion {
    let output = rests(workflow, run_id).await;
    assert_eq!(output.status, RunStatus::Paused, "{output:?}");
    let mut open = workflow.attach(run_id).await.unwrap().questions().await.unwrap();
    assert_eq!(open.len(), 1, "{open:?}");
    open.remove(0)
}

/// Reads accounts: subject and unit, and where they stand.
async fn standings(db: &dyn Db) -> BTreeMap<(String, String), BudgetStanding> {
    let page = db.budgets(Access::All, BudgetFilter { limit: 1000, ..BudgetFilter::default() }).await.unwrap();
    let line = |stored: outlive::core::port::StoredBudget| {
        let account = stored.account;
        ((account.subject.to_string(), account.unit.as_str().to_owned()), stored.standing)
    };
    page.budgets.into_iter().map(line).collect()
}

/// What a log says of the accounts in tokens: what is reserved and not settled, and what was used.
fn owed(log: &[Entry]) -> (u64, u64) {
    let (mut open, mut lost, mut settled) = (BTreeMap::new(), 0, 0);
    for entry in log {
        match (&entry.record, &entry.event.kind) {
            // What its process had reserved stays so.
            (Some(Record::Claimed { .. }), _) => lost += std::mem::take(&mut open).into_values().sum::<u64>(),
            (Some(Record::Reserved { key, spend }), _) => {
                lost += open.insert(key.clone(), spend.tokens).unwrap_or_default();
            }
            (Some(Record::Result { key, .. }), EventKind::ModelRequestCompleted(done)) => {
                open.remove(key).expect("what has an answer was reserved for, by the same process");
                settled += done.total_tokens;
            }
            _ => {}
        }
    }
    (lost + open.into_values().sum::<u64>(), settled)
}

/// It is always the same time.
struct Stopped(Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn raise(amount: impl Into<Value>) -> Answer {
    Answer::input([("raise_by", amount.into())])
}

/// Whatever is answered, and whoever is there when it is: what follows is the same.
#[tokio::test(start_paused = true)]
async fn past_a_budget_a_call_becomes_a_question() {
    let table: &[(&[Answer], RunStatus, &str, u64)] = &[
        (&[Answer::Approve], RunStatus::Completed, "asked 3 times", 3),
        (&[raise(1)], RunStatus::Completed, "asked 3 times", 3),
        (&[Answer::reject("we are poor")], RunStatus::Error, "we are poor", 2),
    ];
    for (answers, status, words, used) in table {
        for is_killed in [false, true] {
            let db = InMemoryDb::new();
            let model = oracle(3);
            let shared: Arc<dyn Db> = Arc::new(db.clone());
            let budgets = [Budget::calls(2).per_run(), Budget::tokens(100_000).per_user()];
            let mut workflow = limited(shared.clone(), &model, &budgets);
            workflow.run("hi").run_id("r1").user_id("ada").background().await.unwrap();
            for answer in *answers {
                let question = only_question(&workflow, "r1").await;
                let asked = &question.question;
                assert_eq!(asked.kind, QuestionKind::Budget);
                let message = asked.message.as_deref().unwrap();
                assert!(message.contains("2 calls per run") && message.contains("model oracle"), "{message}");
                let answered = [(question.id().clone(), answer.clone())];
                if is_killed {
                    let engine = workflow.engine().await.unwrap();
                    engine.kill();
                    db.crash(&engine.worker());
                    // Nobody executes it when it is answered.
                    let idle = Workflow::builder("Research").shared_db(shared.clone()).step(agent("Ask", &model));
                    let idle = idle.options(Options { execute: false, ..Options::default() }).build().unwrap();
                    idle.continue_run("r1", answered, Some("eve")).await.unwrap();
                    idle.shutdown().await.unwrap();
                    workflow = limited(shared.clone(), &model, &budgets);
                } else {
                    workflow.continue_run("r1", answered, Some("eve")).await.unwrap();
                }
            }
            let output = rests(&workflow, "r1").await;
            let place = format!("{answers:?}, killed: {is_killed}");
            assert_eq!(output.status, *status, "{place}: {output:?}");
            assert!(output.text().contains(words), "{place}: {}", output.text());
            assert_eq!(model.calls() as u64, *used, "{place}");
            if *status == RunStatus::Error {
                assert!(output.text().contains("2 calls per run") && output.text().contains("by eve"), "{output:?}");
            }
            let run_id = output.run_id.clone();
            let log = read_log(&*shared, &run_id).await;
            assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "{place}");
            let answered: Vec<_> =
                log.iter().filter(|entry| matches!(entry.record, Some(Record::Answered { .. }))).collect();
            assert_eq!(answered.len(), answers.len(), "a person's answer is recorded");
            let all = standings(&*shared).await;
            assert_eq!(all[&("r1".to_owned(), "calls".to_owned())].settled, *used, "{place}");
            let of_user = all[&("ada".to_owned(), "tokens".to_owned())];
            assert_eq!((of_user.reserved, of_user.settled), owed(&log), "{place}");
            workflow.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_raises_nothing_is_refused_and_the_question_stays() {
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let workflow = limited(db, &oracle(2), &[Budget::calls(1).per_session()]);
    workflow.run("hi").run_id("r1").background().await.unwrap();
    let question = only_question(&workflow, "r1").await;
    for (answer, problem) in [
        (raise(0), "more than 0"),
        (raise(-1), "must not be below 0"),
        (raise("much"), "expected int"),
        (Answer::input([("more", Value::from(1))]), "was not asked for"),
        (Answer::Skip, "approve, input, reject"),
    ] {
        let refused = workflow.continue_run("r1", [(question.id().clone(), answer.clone())], None).await;
        let error = refused.expect_err("it raises nothing").to_string();
        assert!(error.contains(problem), "{answer:?}: {error}");
    }
    let answered = [(question.id().clone(), raise(1))];
    workflow.continue_run("r1", answered, None).await.unwrap();
    assert_eq!(rests(&workflow, "r1").await.status, RunStatus::Completed);
    workflow.shutdown().await.unwrap();
}

/// Too little is raised: another question. Once more and forced.
#[tokio::test(start_paused = true)]
async fn a_call_is_asked_about_until_there_is_enough() {
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let (model, budgets) = (oracle(1), [Budget::tokens(10).per_run(), Budget::tokens(20).per_session()]);
    let workflow = limited(db.clone(), &model, &budgets);
    workflow.run("hi").run_id("r1").background().await.unwrap();
    // The run's, twice; then the session's, for this call only.
    let mut asked = Vec::new();
    for answer in [raise(1), Answer::Approve, Answer::Approve] {
        let question = only_question(&workflow, "r1").await;
        asked.push(question.question.over.clone().expect("it says which budget"));
        workflow.continue_run("r1", [(question.id().clone(), answer)], None).await.unwrap();
    }
    let limits: Vec<_> = asked.iter().map(|over| (&*over.name, over.limit)).collect();
    assert_eq!(limits, [("tokens/run", 10), ("tokens/run", 11), ("tokens/session", 20)]);
    assert_eq!(rests(&workflow, "r1").await.status, RunStatus::Completed);
    assert_eq!(model.calls(), 1);
    let all = standings(&*db).await;
    let of_run = all[&("r1".to_owned(), "tokens".to_owned())];
    assert_eq!((of_run.raised, of_run.reserved, of_run.settled), (1, 0, 30));
    workflow.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_stands_beside_a_call_that_is_asked_about_goes_on() {
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let (hungry, modest) = (oracle(3), oracle(1));
    let slow = Step::function("Slow", |_, _| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, Failure>("done")
    });
    let beside = Parallel::new("Side by side").step(agent("Hungry", &hungry)).step(agent("Modest", &modest)).step(slow);
    let workflow = Workflow::builder("Research").shared_db(db.clone()).step(beside);
    let workflow = workflow.budget(Budget::calls(3).per_run()).build().unwrap();
    let run = workflow.run("hi").run_id("r1").background().await.unwrap();
    // It is asked long before the others are done, and the run is still RUNNING.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let open = run.questions().await.unwrap();
    assert_eq!(open.len(), 1, "{open:?}");
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert_eq!((stored.status, modest.calls(), hungry.calls()), (RunStatus::Running, 1, 2));
    // An early answer lets its branch go on.
    workflow.continue_run("r1", [(open[0].id().clone(), Answer::Approve)], None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(hungry.calls(), 3);
    assert_eq!(rests(&workflow, "r1").await.status, RunStatus::Completed);
    workflow.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_without_cost_leaves_nothing_spent_and_one_cut_off_does() {
    // Of what kind the first failure is, how often a call is reserved for, and what of that stays spent.
    for (kind, calls, left) in [
        (FailureKind::Unavailable, 1, 0),
        (FailureKind::RateLimit, 1, 0),
        (FailureKind::Timeout, 2, 1),
        (FailureKind::Truncated, 2, 1),
        (FailureKind::Auth, 1, 0),
    ] {
        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let script = move |_: &ModelRequest| match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Err(Failure::new(kind, "no")),
            _ => Ok(ModelResponse { usage: USED, ..ModelResponse::text("yes") }),
        };
        let model = ScriptedModel::from_fn("oracle", script);
        let workflow = limited(db.clone(), &model, &[Budget::calls(10).per_run(), Budget::tokens(9_000_000).per_run()]);
        workflow.run("hi").run_id("r1").background().await.unwrap();
        let output = rests(&workflow, "r1").await;
        let is_answered = kind != FailureKind::Auth;
        assert_eq!(output.status == RunStatus::Completed, is_answered, "{kind:?}: {output:?}");
        let log = read_log(&*db, &output.run_id).await;
        let reserved = log.iter().filter(|entry| matches!(entry.record, Some(Record::Reserved { .. }))).count();
        assert_eq!(reserved, calls, "{kind:?}");
        let standing = standings(&*db).await[&("r1".to_owned(), "calls".to_owned())];
        assert_eq!((standing.reserved, standing.settled), (left, u64::from(is_answered)), "{kind:?}");
        workflow.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_without_budgets_says_nothing_of_them() {
    let logs = async |budgets: &[Budget]| {
        let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
        let workflow = limited(db.clone(), &oracle(2), budgets);
        workflow.run("hi").run_id("r1").session_id("s1").background().await.unwrap();
        let output = rests(&workflow, "r1").await;
        workflow.shutdown().await.unwrap();
        (read_log(&*db, &output.run_id).await, standings(&*db).await)
    };
    let (free, none) = logs(&[]).await;
    let (counted, some) = logs(&[Budget::calls(9).per_run()]).await;
    assert!(none.is_empty() && some.len() == 1);
    assert!(!free.iter().any(|entry| matches!(entry.record, Some(Record::Reserved { .. }))));
    // With room, both tell the same.
    let names = |log: &[Entry]| log.iter().map(|entry| entry.event.name()).collect::<Vec<_>>();
    assert_eq!(names(&free), names(&counted));
}

/// One process after another, each killed at a random place in the log, and people who answer: what the accounts hold is
/// what the logs say.
#[tokio::test(start_paused = true)]
async fn after_random_crashes_accounts_hold_what_the_logs_say() {
    const CRASHES: u64 = 1000;
    let (mut crashes, mut questions, mut lost) = (0, 0, 0);
    for seed in 0.. {
        if crashes >= CRASHES {
            break;
        }
        let mut dice = Dice(seed);
        let db = InMemoryDb::new();
        let budgets = [
            Budget::tokens(150 + dice.below(350)).per_run(),
            Budget::tokens(300 + dice.below(600)).per_user_per_day(),
            Budget::calls(2 + dice.below(10)).per_session(),
        ];
        let model = oracle(2);
        let build = |db: Arc<dyn Db>| {
            let both = Parallel::new("Both").step(agent("One", &model)).step(agent("Other", &model));
            let builder = Workflow::builder("Research").shared_db(db).step(both);
            let options = Options { claims_max: 100, scan_period: Duration::from_millis(20), ..Options::default() };
            budgets.iter().cloned().fold(builder.options(options), outlive::WorkflowBuilder::budget).build().unwrap()
        };
        let shared: Arc<dyn Db> = Arc::new(db.clone());
        let run_id: outlive::RunId = "r1".parse().unwrap();
        let output = loop {
            let stored = shared.run_line(Access::All, run_id.clone()).await.unwrap();
            let index = stored.map_or(0, |run| run.next_index) + 1 + dice.below(8);
            let moment = if dice.below(2) == 0 { Moment::Before } else { Moment::After };
            let troubled = TroubledDb::crashing(shared.clone(), index, moment);
            let workflow = build(troubled.clone());
            let submitted = workflow.run("hi").run_id("r1").session_id("s1").user_id("ada").idempotency_key("k");
            let people = async {
                submitted.background().await.unwrap();
                loop {
                    let output = rests(&workflow, "r1").await;
                    if output.status != RunStatus::Paused {
                        return output;
                    }
                    for question in workflow.attach("r1").await.unwrap().questions().await.unwrap() {
                        questions += 1;
                        let over = question.question.over.clone().unwrap();
                        let answer = if dice.below(3) == 0 { Answer::Approve } else { raise(over.wanted) };
                        workflow.continue_run("r1", [(question.id().clone(), answer)], Some("eve")).await.unwrap();
                    }
                }
            };
            let ended = tokio::select! {
                output = people => Some(output),
                () = troubled.crashed() => None,
            };
            if let Some(output) = ended {
                workflow.shutdown().await.unwrap();
                break output;
            }
            crashes += 1;
            let engine = workflow.engine().await.unwrap();
            engine.kill();
            db.crash(&engine.worker());
        };
        assert_eq!(output.status, RunStatus::Completed, "seed {seed}: {output:?}");
        let log = read_log(&*shared, &output.run_id).await;
        assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "seed {seed}");
        let (reserved, settled) = owed(&log);
        lost += u64::from(reserved > 0);
        let all = standings(&*shared).await;
        for subject in ["r1", "ada"] {
            let standing = all[&(subject.to_owned(), "tokens".to_owned())];
            assert_eq!((standing.reserved, standing.settled), (reserved, settled), "seed {seed}, {subject}");
        }
        let calls = log.iter().filter(|entry| matches!(entry.record, Some(Record::Reserved { .. }))).count();
        assert_eq!(all[&("s1".to_owned(), "calls".to_owned())].used(), calls as u64, "seed {seed}");
    }
    assert!(questions > 100 && lost > 50, "{questions} questions were asked, {lost} runs lost a reservation");
}

/// Several processes spend the budget of one user at the same time, and are killed meanwhile.
#[tokio::test(start_paused = true)]
async fn processes_that_share_a_store_never_pass_a_limit_together() {
    // Each run makes two calls, so there are thousands of them.
    const TRIALS: u64 = 400;
    let mut full = 0;
    for seed in 0..TRIALS {
        let mut dice = Dice(seed);
        let limit = 2 + dice.below(6);
        let db = InMemoryDb::new();
        let budget = Budget::calls(limit).per_user();
        let model = oracle(2);
        let mut processes = Vec::new();
        let ids: Vec<String> = (0..4).map(|number| format!("r{number}")).collect();
        for number in 0..2 {
            let own: Arc<dyn Db> = Arc::new(if number == 0 { db.clone() } else { db.another_process() });
            let workflow = limited(own, &model, std::slice::from_ref(&budget));
            for id in &ids[2 * number..][..2] {
                workflow.run("hi").run_id(id).user_id("ada").background().await.unwrap();
            }
            processes.push(workflow);
        }
        tokio::time::sleep(Duration::from_millis(1 + dice.below(60))).await;
        let engine = processes[0].engine().await.unwrap();
        engine.kill();
        db.crash(&engine.worker());
        for id in &ids {
            let output = rests(&processes[1], id).await;
            assert!(matches!(output.status, RunStatus::Completed | RunStatus::Paused), "seed {seed}: {output:?}");
        }
        let standing = standings(&db).await[&("ada".to_owned(), "calls".to_owned())];
        assert!(standing.used() <= limit, "seed {seed}: {standing:?} of {limit}");
        full += u64::from(standing.used() == limit);
        processes[1].shutdown().await.unwrap();
    }
    assert!(full > TRIALS / 2, "it was used up {full} times");
}

/// What a fork keeps costs nothing, and what it makes again is told before and counted as its own.
#[tokio::test(start_paused = true)]
async fn a_fork_of_a_run_with_budgets_pays_for_what_it_makes_again() {
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let model = oracle(3);
    let workflow = limited(db.clone(), &model, &[Budget::calls(3).per_run()]);
    workflow.run("hi").run_id("r1").background().await.unwrap();
    assert_eq!(rests(&workflow, "r1").await.status, RunStatus::Completed);
    let run = workflow.attach("r1").await.unwrap();
    let log = read_log(&*db, run.run_id()).await;
    for at in 0..log.len() as u64 {
        let ended = log[..usize::try_from(at).unwrap()].iter();
        let kept = ended.filter(|entry| entry.event.name() == "ModelRequestCompleted").count();
        let preview = run.fork(at).preview().await.unwrap();
        let count = |calls: &[outlive::core::fork::ForkCall]| {
            calls.iter().filter(|call| call.kind == outlive::core::fork::CallKind::Model).count()
        };
        assert_eq!((count(&preview.kept), count(&preview.again)), (kept, 3 - kept), "at {at}");
        let before = model.calls();
        let fork = run.fork(at).run_id(format!("fork-{at}")).background().await.unwrap();
        let output = timeout(PATIENCE, fork.wait()).await.expect("it ends").unwrap();
        assert_eq!((output.status, output.text()), (RunStatus::Completed, "asked 3 times".to_owned()), "at {at}");
        assert_eq!(model.calls() - before, 3 - kept, "at {at}");
        let account = (format!("fork-{at}"), "calls".to_owned());
        let used = standings(&*db).await.get(&account).map_or(0, |standing| standing.settled);
        assert_eq!(used, 3 - kept as u64, "at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn money_goes_by_the_prices_and_runs_say_what_they_cost() {
    let prices = r#"{"date":"2026-11-01","currency":"EUR","models":{"oracle":{"input":1000,"output":2000}}}"#;
    let prices = Arc::new(Prices::parse(prices).unwrap());
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let build = |budget: Budget| {
        let builder = Workflow::builder("Research").shared_db(db.clone()).step(agent("Ask", &oracle(2)));
        builder.prices(prices.clone()).budget(budget).build().unwrap()
    };
    let workflow = build(Budget::money(10.0, "EUR").per_run());
    workflow.run("hi").run_id("r1").background().await.unwrap();
    let output = rests(&workflow, "r1").await;
    // Two calls, each 20 tokens at 0.001 and 10 at 0.002.
    let metrics = output.metrics.clone().unwrap().steps["Ask"].metrics.clone().unwrap();
    assert_eq!(metrics.cost, Some(0.08));
    assert_eq!(metrics.details["model"][0].cost, Some(0.08));
    let standing = standings(&*db).await[&("r1".to_owned(), "EUR".to_owned())];
    assert_eq!((standing.reserved, standing.settled), (0, 80_000_000));
    workflow.shutdown().await.unwrap();

    let workflow = build(Budget::money(0.05, "EUR").per_run());
    workflow.run("hi").run_id("r2").background().await.unwrap();
    let question = only_question(&workflow, "r2").await;
    let message = question.question.message.clone().unwrap();
    assert!(message.contains("0.05 EUR per run"), "{message}");
    workflow.continue_run("r2", [(question.id().clone(), raise(1.5))], None).await.unwrap();
    assert_eq!(rests(&workflow, "r2").await.status, RunStatus::Completed);
    let standing = standings(&*db).await[&("r2".to_owned(), "EUR".to_owned())];
    assert_eq!((standing.raised, standing.settled), (1_500_000_000, 80_000_000));
    workflow.shutdown().await.unwrap();
}

#[test]
fn a_budget_that_cannot_be_kept_is_refused_when_the_workflow_is_built() {
    let build = |budgets: &[Budget]| {
        let builder = Workflow::builder("Research").db(InMemoryDb::new()).step(agent("Ask", &oracle(1)));
        let built = budgets.iter().cloned().fold(builder, outlive::WorkflowBuilder::budget).build();
        built.expect_err("it cannot be kept").to_string()
    };
    let unknown = build(&[Budget::usd(5.0).per_run()]);
    assert!(unknown.contains("\"oracle\"") && unknown.contains(".prices("), "{unknown}");
    let currency = build(&[Budget::money(5.0, "EUR").per_run()]);
    assert!(currency.contains("EUR") && currency.contains("USD"), "{currency}");
    let twice = build(&[Budget::calls(5).per_run(), Budget::calls(6).per_run()]);
    assert!(twice.contains("two budgets calls/run"), "{twice}");
    assert!(build(&[Budget::calls(0).per_day()]).contains("more than 0"));
    assert!(build(&[Budget::usd(f64::NAN).per_run()]).contains("more than 0"));
    assert!(build(&[Budget::usd(1e300).per_run()]).contains("more than can be counted"));
    let zone = build(&[Budget::calls(5).per_day().time_zone("Europe/Berlinn")]);
    assert!(zone.contains("calls/all/day@Europe/Berlinn") && zone.contains("is not a time zone"), "{zone}");
    assert!(build(&[Budget::calls(5).per_run().time_zone("UTC")]).contains("make it one per day"));

    let inner = Workflow::builder("Inner").step(agent("Ask", &oracle(1))).budget(Budget::calls(1).per_run());
    let outer = Workflow::builder("Outer").db(InMemoryDb::new()).step(inner.definition().unwrap()).build();
    let nested = outer.expect_err("they would not count").to_string();
    assert!(nested.contains("\"Inner\"") && nested.contains("outer"), "{nested}");
}

#[test]
fn budgets_are_part_of_a_definition_as_json() {
    let build = || Workflow::builder("Research").db(InMemoryDb::new()).step(agent("Ask", &oracle(1)));
    let workflow =
        build().budget(Budget::tokens(500).per_user_per_day()).budget(Budget::calls(3).per_run().shared("x"));
    let workflow = workflow.budget(Budget::calls(9).per_day().time_zone("Europe/Berlin"));
    let json = workflow.build().unwrap().to_json();
    let expected = json!([
        { "limit": 500, "unit": "tokens", "per": "user", "daily": true },
        { "limit": 3, "unit": "calls", "per": "run", "shared": "x" },
        { "limit": 9, "unit": "calls", "per": "all", "daily": true, "time_zone": "Europe/Berlin" },
    ]);
    assert_eq!(json["budgets"], expected);
    let registry = Registry::new().agent(Agent::new("Ask").model(oracle(1)));
    let read = Workflow::from_json(&json, &registry).db(InMemoryDb::new()).build().unwrap();
    assert_eq!(read.to_json(), json);
    assert_eq!(read.deep_copy().build().unwrap().to_json(), json);
    // They are no part of what a run is pinned to: who runs it may change them.
    let (free, limited) = (build().build().unwrap(), read);
    assert_eq!(free.definition().hash, limited.definition().hash);

    let mut bad = json.clone();
    bad["budgets"] = json!([{ "limit": -1, "unit": "tokens", "per": "run" }]);
    let error = Workflow::from_json(&bad, &registry).db(InMemoryDb::new()).build().expect_err("it is no limit");
    assert!(error.to_string().contains("budgets: the limit of a budget is -1: it must not be below 0"), "{error}");
    bad["budgets"] = json!([{ "limit": 1, "unit": "tokens", "per": "all", "daily": true, "time_zone": "Mars/X" }]);
    let error = Workflow::from_json(&bad, &registry).db(InMemoryDb::new()).build().expect_err("it is no zone");
    assert!(error.to_string().contains("\"Mars/X\" is not a time zone"), "{error}");
}

/// Whoever answers is told why an amount cannot be added, and the question stays open.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_added_to_a_budget_is_refused_in_words_that_say_why() {
    let money = Budget::usd(1e-9).per_run();
    for (budget, table) in [
        (
            money,
            [
                (json!(1e300), "it is more than can be counted: at most 9223372036.00 USD"),
                (json!(-1e300), "it must not be below 0"),
                (json!(1e-300), "it is less than can be counted: at least 0.000000001 USD"),
                (json!(0), "must be more than 0"),
            ],
        ),
        (
            Budget::calls(1).per_run(),
            [
                (json!(u64::MAX), "it is more than can be counted: at most 9223372036854775807 calls"),
                (json!(-1), "it must not be below 0"),
                (json!(1.5), "raise_by"),
                (json!(1e300), "raise_by"),
            ],
        ),
    ] {
        let (model, db) = (oracle(2), Arc::new(InMemoryDb::new()));
        let builder = Workflow::builder("Research").shared_db(db).step(agent("Ask", &model)).budget(budget.clone());
        let prices =
            r#"{ "date": "2026-11-01", "currency": "USD", "models": { "oracle": { "input": 1, "output": 1 } } }"#;
        let workflow = builder.prices(Prices::parse(prices).unwrap()).build().unwrap();
        workflow.run("so?").run_id("r1").background().await.unwrap();
        let question = only_question(&workflow, "r1").await;
        for (by, why) in table {
            let error = question.answer(raise(by.clone())).await.expect_err("it is no amount").to_string();
            assert!(error.contains(why) && error.contains("raise_by"), "{budget}, {by}: {error}");
        }
        only_question(&workflow, "r1").await;
        workflow.shutdown().await.unwrap();
    }
}

/// What was used on a day counts no more on the next, by the clocks of the budget's time zone, whichever process calls.
#[tokio::test]
async fn a_budget_of_a_day_begins_anew_at_midnight_in_its_time_zone() {
    let folder = tempfile::tempdir().unwrap();
    let build = |now: i64| {
        let model = oracle(1);
        let budget = Budget::calls(1).per_day().time_zone("Europe/Berlin");
        let definition = Workflow::builder("Research").step(agent("Ask", &model)).budget(budget).definition().unwrap();
        let db: Arc<dyn Db> = Arc::new(SqliteDb::new(folder.path().join("days.db")));
        Engine::builder(db).clock(Arc::new(Stopped(Timestamp::from_seconds(now)))).workflow(definition)
    };
    // 2026-03-28T23:00:00Z. The day on which clocks are put forward has 23 hours there.
    let midnight = 1_774_738_800;
    let mut found = Vec::new();
    for (number, now) in [-60, 0, 23 * 3_600 - 60, 23 * 3_600].into_iter().enumerate() {
        let engine = build(midnight + now).start().await.unwrap();
        let submit = Submit { run_id: Some(format!("r{number}")), ..Submit::default() };
        let run = engine.submit(&"research".parse().unwrap(), submit).await.unwrap();
        found.push(run.wait().await.unwrap().status);
        engine.shutdown().await.unwrap();
    }
    assert_eq!(found, [RunStatus::Completed, RunStatus::Completed, RunStatus::Paused, RunStatus::Completed]);
    let db: Arc<dyn Db> = Arc::new(SqliteDb::new(folder.path().join("days.db")));
    db.open().await.unwrap();
    let accounts = db.budgets(Access::All, BudgetFilter::default()).await.unwrap().budgets;
    let days: Vec<_> = accounts.iter().map(|stored| stored.account.day.clone().unwrap()).collect();
    assert_eq!(days.iter().map(|day| &**day).collect::<Vec<_>>(), ["2026-03-28", "2026-03-29", "2026-03-30"]);
    assert!(accounts.iter().all(|stored| stored.account.time_zone.as_deref() == Some("Europe/Berlin")));
}
