//! Runs that ask people: what follows from each answer, and that none is lost, whoever executes the run.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::{Access, QuestionFilter, QuestionState, RunStore, StepContext};
use outlive_core::testing::Dice;
use outlive_core::{
    Answer, Block, Condition, Definition, EventKind, Failure, FailureKind, FieldType, ForEach, HumanReview, Loop,
    OnError, OnReject, OnTimeout, Parallel, QuestionKind, Retry, Router, RunId, RunStatus, SessionId, Step, StepInput,
    StepOutput, Steps, UserInputField, WorkflowRunOutput,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{broken_invariants, read_log, row_equals_fold};
use outlive_engine::{Engine, Error, OpenQuestion, Options, RunHandle, Submit};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(1_800);

fn build(blocks: impl IntoIterator<Item = Block>) -> Arc<Definition> {
    let builder = blocks.into_iter().fold(Definition::builder("Example"), |builder, block| builder.step(block));
    Arc::new(builder.build().unwrap())
}

/// A step that says what it was given besides its input, and how often it was executed.
fn tells(name: &'static str) -> Step {
    Step::function(name, move |context: StepContext, input: Arc<StepInput>| async move {
        let more = input.additional_data.as_ref().map_or(String::new(), |data| format!(" {data}"));
        Ok::<_, Failure>(format!("{}.{name}{}{more}", input.text(), context.step.attempt))
    })
}

fn fails(name: &'static str, times: u32) -> Step {
    Step::function(name, move |context: StepContext, input: Arc<StepInput>| async move {
        match context.step.attempt {
            attempt if attempt <= times => Err(Failure::function(format!("attempt {attempt} failed"))),
            _ => Ok(format!("{}.{name}", input.text())),
        }
    })
}

async fn paused(run: &RunHandle) -> Vec<OpenQuestion> {
    let output = timeout(2 * LONG, run.wait()).await.expect("it rests").unwrap();
    assert_eq!(output.status, RunStatus::Paused, "{output:?}");
    run.questions().await.unwrap()
}

async fn only(run: &RunHandle) -> OpenQuestion {
    let mut open = paused(run).await;
    assert_eq!(open.len(), 1, "{open:?}");
    open.remove(0)
}

async fn ended(run: &RunHandle) -> WorkflowRunOutput {
    timeout(2 * LONG, run.wait()).await.expect("it rests").unwrap()
}

/// The log is sound, the row is its fold, and nothing is open.
async fn is_sound(db: &InMemoryDb, definition: &Definition, run: &RunHandle) {
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    let log = read_log(db, run.run_id()).await;
    assert_eq!(broken_invariants(&log, &run.get().await.unwrap().unwrap()), Vec::<String>::new());
    assert!(row_equals_fold(db, &stored, definition, &log).await);
    assert!(run.questions().await.unwrap().is_empty() || stored.status == RunStatus::Paused);
}

fn yes() -> Answer {
    Answer::Approve
}

fn no() -> Answer {
    Answer::reject("too long")
}

/// Runs a workflow, gives these answers one after the other, and returns how it ended.
async fn with_answers(blocks: Vec<Block>, answers: &[Answer]) -> WorkflowRunOutput {
    let definition = build(blocks);
    let mut ends = Vec::new();
    // Once in one process, once with a fresh one for every answer.
    for is_killed in [false, true] {
        let db = InMemoryDb::new();
        let mut current = engine(&db, &definition).await;
        let run_id = current.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
        for answer in answers {
            let question = only(&current.attach(run_id.clone())).await;
            if is_killed {
                current.kill();
                db.crash(&current.worker());
            }
            let (id, by) = (question.id().clone(), Some(Arc::from("ada")));
            if is_killed {
                // Nobody executes the run when it is answered.
                let idle = engine_with(&db, &definition, Options { execute: false, ..Options::default() }).await;
                idle.answer([(id, answer.clone())], by).await.unwrap();
                idle.shutdown().await.unwrap();
                current = engine(&db, &definition).await;
            } else {
                current.answer([(id, answer.clone())], by).await.unwrap();
            }
        }
        let run = current.attach(run_id);
        ends.push(ended(&run).await);
        is_sound(&db, &definition, &run).await;
        current.shutdown().await.unwrap();
    }
    let plain = |output: &WorkflowRunOutput| {
        let mut value = serde_json::to_value(output).unwrap();
        for field in ["run_id", "session_id", "created_at", "metrics", "step_requirements", "error_requirements"] {
            value.as_object_mut().unwrap().remove(field);
        }
        strip_ids(&mut value);
        value
    };
    let killed = ends.pop().unwrap();
    let straight = ends.pop().unwrap();
    assert_eq!(plain(&straight), plain(&killed));
    straight
}

fn strip_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for id in
                ["step_id", "step_run_id", "run_id", "parent_run_id", "session_id", "workflow_step_id", "created_at"]
            {
                fields.remove(id);
            }
            fields.values_mut().for_each(strip_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_ids),
        Value::String(text) if text.starts_with("Run ") => text.clear(),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_what_follows_from_it() {
    let confirmed = |on_reject| tells("a").human_review(HumanReview::confirmation("Really?").on_reject(on_reject));
    let filled = || {
        let size = UserInputField::new("size").of(FieldType::Int).optional();
        tells("a").human_review(HumanReview::user_input("Which?", [UserInputField::new("colour"), size]))
    };
    let judged = |on_reject| tells("a").human_review(HumanReview::output("OK?").on_reject(on_reject).max_retries(1));
    let chosen = || Router::new("pick").choice(tells("x")).choice(tells("y"));
    let one = || chosen().human_review(HumanReview::selection("Which?"));
    let many = || chosen().human_review(HumanReview::selection("Which?").several());
    let taken = || {
        let condition = Condition::new("cond").step(tells("x")).otherwise(tells("y"));
        condition.human_review(HumanReview::confirmation("Take it?").on_reject(OnReject::Else))
    };
    let rounds = |on_reject| {
        Loop::new("loop")
            .step(tells("l"))
            .max_iterations(3)
            .human_review(HumanReview::iterations("Done?").on_reject(on_reject))
    };
    let flaky = |times| fails("f", times).on_error(OnError::Pause);
    let completed = RunStatus::Completed;
    let table: Vec<(Vec<Block>, Vec<Answer>, RunStatus, &str)> = vec![
        (vec![confirmed(OnReject::Skip).into()], vec![yes()], completed, "hi.a1"),
        (
            vec![tells("b").into(), confirmed(OnReject::Skip).into(), tells("c").into()],
            vec![no()],
            completed,
            "hi.b1.c1",
        ),
        (
            vec![confirmed(OnReject::Cancel).into()],
            vec![no()],
            RunStatus::Cancelled,
            "Workflow cancelled: Step 'a' was rejected",
        ),
        (vec![confirmed(OnReject::Retry).into()], vec![no(), yes()], completed, "hi.a1"),
        (
            vec![filled().into()],
            vec![Answer::input([("colour", json!("red")), ("size", json!(3))])],
            completed,
            r#"hi.a1 {"user_input":{"colour":"red","size":3}}"#,
        ),
        (vec![filled().into(), tells("b").into()], vec![no()], completed, "hi.b1"),
        (vec![judged(OnReject::Skip).into(), tells("b").into()], vec![yes()], completed, "hi.a1.b1"),
        (
            vec![judged(OnReject::Skip).into(), tells("b").into()],
            vec![Answer::Edit { output: json!("new") }],
            completed,
            "new.b1",
        ),
        (vec![judged(OnReject::Skip).into(), tells("b").into()], vec![no()], completed, "hi.b1"),
        (
            vec![judged(OnReject::Retry).into()],
            vec![no(), yes()],
            completed,
            r#"hi.a2 {"previous_output":"hi.a1","rejection_feedback":"too long"}"#,
        ),
        (
            vec![judged(OnReject::Retry).into()],
            vec![no(), no()],
            RunStatus::Cancelled,
            "Workflow cancelled: Step 'a' was rejected too often",
        ),
        (vec![one().into()], vec![Answer::choose(["y"])], completed, "hi.y1"),
        (vec![many().into()], vec![Answer::choose(["y", "x"])], completed, "hi.y1.x1"),
        (vec![one().into()], vec![no()], RunStatus::Cancelled, "Workflow cancelled: Router 'pick' was rejected"),
        (vec![taken().into()], vec![yes()], completed, "hi.x1"),
        (vec![taken().into()], vec![no()], completed, "hi.y1"),
        (vec![rounds(OnReject::Skip).into(), tells("b").into()], vec![yes()], completed, "hi.l1.b1"),
        (vec![rounds(OnReject::Skip).into(), tells("b").into()], vec![no()], completed, "hi.b1"),
        (
            vec![rounds(OnReject::Retry).into()],
            vec![no(), yes()],
            completed,
            r#"hi.l1 {"previous_output":"hi.l1","rejection_feedback":"too long"}"#,
        ),
        (
            vec![rounds(OnReject::Retry).into()],
            vec![Answer::Reject { feedback: None }, no()],
            completed,
            r#"hi.l1 {"previous_output":"hi.l1 {\"previous_output\":\"hi.l1\"}","rejection_feedback":"too long"}"#,
        ),
        (vec![flaky(1).into()], vec![Answer::Retry], completed, "hi.f"),
        (vec![flaky(2).into()], vec![Answer::Retry, Answer::Retry], completed, "hi.f"),
        (vec![flaky(1).into(), tells("b").into()], vec![Answer::Skip], completed, "hi.b1"),
        (vec![flaky(1).into()], vec![no()], RunStatus::Error, "step \"f\": attempt 1 failed"),
        (
            vec![fails("f", 2).retry(Retry::times(1)).on_error(OnError::Pause).into()],
            vec![Answer::Retry],
            completed,
            "hi.f",
        ),
    ];
    for (number, (blocks, answers, status, text)) in table.into_iter().enumerate() {
        let output = with_answers(blocks, &answers).await;
        assert_eq!((output.status, output.text().as_str()), (status, text), "row {number}: {answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_and_answered_is_in_the_log_and_in_the_run() {
    let db = InMemoryDb::new();
    let guarded = append("guarded", &Calls::default()).human_review(HumanReview::confirmation("Really?"));
    let definition = build([append("before", &Calls::default()).into(), guarded.into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let question = only(&run).await;
    assert_eq!((question.question.kind, question.state), (QuestionKind::Confirmation, QuestionState::Open));
    assert_eq!(question.question.message.as_deref(), Some("Really?"));
    let paused = run.get().await.unwrap().unwrap();
    assert_eq!((paused.paused_step_index, paused.pause_kind.as_deref()), (Some(1), Some("step")));
    let required = &paused.step_requirements.unwrap()[0];
    assert_eq!(required["confirmed"], Value::Null);
    assert_eq!(required["step_input"]["previous_step_content"], "hi before");
    question.by("ada").approve().await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.text(), "hi before guarded");
    assert_eq!(output.step_requirements.unwrap()[0]["confirmed"], true);
    assert_eq!(output.paused_step_name, None);
    let log = read_log(&db, run.run_id()).await;
    let names: Vec<_> = log.iter().map(|entry| entry.event.name()).filter(|name| *name != "CustomEvent").collect();
    let expected = "WorkflowStarted StepStarted StepOutput StepCompleted StepPaused WorkflowPaused StepContinued \
        StepStarted StepOutput StepCompleted WorkflowCompleted";
    assert_eq!(names.join(" "), expected);
    let told = log.iter().find_map(|entry| match &entry.event.kind {
        EventKind::CustomEvent { fields } if fields["name"] == "QuestionAnswered" => Some(fields.clone()),
        _ => None,
    });
    let told = told.expect("the stream says who answered");
    assert_eq!((&told["by"], &told["answer"]["do"]), (&json!("ada"), &json!("approve")));
    let kept = engine.question(told["question_id"].as_str().unwrap()).await.unwrap().unwrap();
    assert_eq!(kept.state, QuestionState::Answered);
    assert_eq!(kept.answered.unwrap().by.as_deref(), Some("ada"));
}

#[tokio::test(start_paused = true)]
async fn of_two_answers_one_wins_and_the_other_learns_whose_it_was() {
    let db = InMemoryDb::new();
    let definition = build([tells("a").human_review(HumanReview::confirmation("Really?")).into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let question = only(&run).await.by("ada");
    question.approve().await.unwrap();
    question.approve().await.expect("the same once more changes nothing");
    let error = question.clone().by("bob").reject("no").await.unwrap_err();
    let Error::AlreadyAnswered(asked) = &error else { panic!("{error:?}") };
    assert_eq!(asked.answered.as_ref().unwrap().by.as_deref(), Some("ada"));
    assert!(error.to_string().contains("was answered before: approve, by ada at "), "{error}");
    assert_eq!(ended(&run).await.text(), "hi.a1");
    question.approve().await.expect("also when the run is over");
    let error = engine.answer([(Arc::from("nobodys"), yes())], None).await.unwrap_err();
    assert!(matches!(error, Error::QuestionNotFound(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_fit_is_refused_by_name_and_nothing_happens() {
    let db = InMemoryDb::new();
    let size = UserInputField::new("size").of(FieldType::Int).allowed([38.into(), 40.into()]);
    let review = HumanReview::user_input("Which?", [UserInputField::new("colour"), size]);
    let definition = build([tells("a").human_review(review).into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let question = only(&run).await;
    for (answer, problem) in [
        (Answer::input([("size", json!(38))]), "Required field 'colour' is missing or empty"),
        (Answer::input([("colour", json!(3)), ("size", json!(38))]), "Field 'colour' expected str, got int"),
        (Answer::input([("colour", json!("red")), ("size", json!(39))]), "Field 'size' must be one of [38,40], got 39"),
        (
            Answer::input([("colour", json!("red")), ("size", json!(38)), ("x", json!(1))]),
            "Field 'x' was not asked for",
        ),
        (yes(), "asks for user_input: answer with one of input, reject, not approve"),
        (Answer::input([("colour", json!("x".repeat(2 << 20))), ("size", json!(38))]), "the limit is 1048576"),
    ] {
        let error = question.answer(answer).await.unwrap_err();
        assert!(matches!(error, Error::InvalidAnswer { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    assert_eq!(run.get().await.unwrap().unwrap().status, RunStatus::Paused);
    question.input([("colour", json!("red")), ("size", json!(38))]).await.unwrap();
    assert_eq!(ended(&run).await.status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn siblings_go_on_and_an_early_answer_lets_its_branch_go_on() {
    let db = InMemoryDb::new();
    let asks = || {
        outlive_core::Steps::new("group").step(tells("a").human_review(HumanReview::confirmation("?"))).step(tells("b"))
    };
    let parallel = Parallel::new("par").step(asks()).step(slow("slow", LONG));
    let definition = build([parallel.into(), tells("after").into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(run.get().await.unwrap().unwrap().status, RunStatus::Running, "a sibling executes");
    let open = run.questions().await.unwrap();
    open[0].approve().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let log = read_log(&db, run.run_id()).await;
    let has = |event: &str, step: &str| {
        log.iter().any(|entry| entry.event.name() == event && entry.event.origin.step_name.as_deref() == Some(step))
    };
    assert!(has("StepCompleted", "b") && !has("StepCompleted", "slow"), "its branch went on");
    let output = ended(&run).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi.after1"));
    is_sound(&db, &definition, &run).await;
}

#[tokio::test(start_paused = true)]
async fn several_questions_are_open_at_once_and_each_is_answered_by_itself() {
    let db = InMemoryDb::new();
    let each = ForEach::new("each").items(|_| ["x", "y", "z"]).concurrency(3);
    let each = each.step(tells("a").human_review(HumanReview::confirmation("?")));
    let judged = tells("b").human_review(HumanReview::output("Good?"));
    let definition = build([Parallel::new("par").step(each).step(judged).into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let open = paused(&run).await;
    assert_eq!(open.len(), 4);
    for (count, question) in open.iter().enumerate() {
        assert_eq!(paused(&run).await.len(), 4 - count);
        question.approve().await.unwrap();
    }
    let output = ended(&run).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi.b1"));
    is_sound(&db, &definition, &run).await;
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_time_is_up_has_what_follows_from_that() {
    let late = |on_timeout| HumanReview::confirmation("?").timeout(LONG).on_timeout(on_timeout);
    let table: Vec<(Block, RunStatus, &str)> = vec![
        (tells("a").human_review(late(OnTimeout::Approve)).into(), RunStatus::Completed, "hi.a1.b1"),
        (tells("a").human_review(late(OnTimeout::Skip)).into(), RunStatus::Completed, "hi.b1"),
        (
            tells("a").human_review(late(OnTimeout::Cancel)).into(),
            RunStatus::Cancelled,
            "Workflow cancelled: Step 'a' was not answered in time",
        ),
        (
            Router::new("pick")
                .choice(tells("x"))
                .choice(tells("y"))
                .human_review(HumanReview::selection("?").timeout(LONG).on_timeout(OnTimeout::Approve))
                .into(),
            RunStatus::Completed,
            "hi.x1.b1",
        ),
        (
            tells("a").human_review(HumanReview::output("?").timeout(LONG).on_timeout(OnTimeout::Skip)).into(),
            RunStatus::Completed,
            "hi.b1",
        ),
    ];
    for (block, status, text) in table {
        let db = InMemoryDb::new();
        let definition = build([block, tells("b").into()]);
        let engine = engine(&db, &definition).await;
        let begun = Instant::now();
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        let question = only(&run).await;
        tokio::time::sleep(LONG - Duration::from_secs(10)).await;
        assert_eq!(run.get().await.unwrap().unwrap().status, RunStatus::Paused, "it may still be answered");
        tokio::time::sleep(Duration::from_secs(20)).await;
        let output = ended(&run).await;
        assert_eq!((output.status, output.text().as_str()), (status, text));
        assert!(begun.elapsed() < LONG + Duration::from_secs(60), "{:?}", begun.elapsed());
        let late = if question.question.choices.is_empty() { yes() } else { Answer::choose(["x"]) };
        let error = question.answer(late).await.unwrap_err();
        assert!(error.to_string().contains("was not answered in time"), "{error}");
        is_sound(&db, &definition, &run).await;
        let log = read_log(&db, run.run_id()).await;
        let told = log.iter().filter_map(|entry| match &entry.event.kind {
            EventKind::CustomEvent { fields } => fields.get("taken_over").cloned(),
            _ => None,
        });
        assert!(told.clone().count() > 0 && told.into_iter().all(|is_so| is_so == false), "it went on by itself");
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_says_whether_a_run_was_taken_over_or_had_come_to_rest() {
    let taken_over = |log: &[outlive_core::log::Entry]| -> Vec<bool> {
        let told = log.iter().filter_map(|entry| match &entry.event.kind {
            EventKind::CustomEvent { fields } => fields.get("taken_over")?.as_bool(),
            _ => None,
        });
        told.collect()
    };
    let (db, asks) = (InMemoryDb::new(), tells("a").human_review(HumanReview::confirmation("?")));
    let definition = build([asks.into(), slow("b", LONG).into()]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    let question = only(&run).await;
    first.shutdown().await.unwrap();
    // Another worker goes on with what had paused, and a third takes over what the second had begun.
    let second = engine(&db, &definition).await;
    second.answer([(question.id().clone(), yes())], None).await.unwrap();
    while read_log(&db, run.run_id()).await.iter().filter(|entry| entry.event.name() == "StepStarted").count() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    second.kill();
    db.crash(&second.worker());
    let third = engine(&db, &definition).await;
    let run = third.attach(run.run_id().clone());
    assert_eq!(ended(&run).await.status, RunStatus::Completed);
    assert_eq!(taken_over(&read_log(&db, run.run_id()).await), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_people_counts_towards_no_time_limit() {
    let limit = Duration::from_secs(60);
    let asks = || tells("a").human_review(HumanReview::confirmation("?"));
    let inside = Step::function("inside", |context: StepContext, _: Arc<StepInput>| async move {
        let answer = context.ask("sure", HumanReview::confirmation("Sure?")).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        Ok::<_, Failure>(answer.as_str())
    });
    let in_time = Parallel::new("par").step(asks()).step(slow("s", Duration::from_secs(40))).timeout(limit);
    for (block, at_rest) in [
        (Block::from(in_time), true),
        (Block::from(Parallel::new("par").step(asks()).timeout(limit)), true),
        (Block::from(inside.timeout(limit)), true),
    ] {
        let db = InMemoryDb::new();
        let definition = Arc::new(
            Definition::builder("Example")
                .step(block)
                .step(slow("after", Duration::from_secs(10)))
                .timeout(Duration::from_secs(100))
                .build()
                .unwrap(),
        );
        let engine = engine(&db, &definition).await;
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        tokio::time::sleep(2 * LONG).await;
        let open = run.questions().await.unwrap();
        assert_eq!(run.get().await.unwrap().unwrap().status == RunStatus::Paused, at_rest);
        open[0].approve().await.unwrap();
        let output = ended(&run).await;
        assert_eq!(output.status, RunStatus::Completed, "{output:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_function_asks_and_hears_the_same_whoever_executes_it() {
    let calls = Calls::default();
    let asks = |calls: &Calls| {
        let calls = calls.clone();
        Step::function("pay", move |context: StepContext, _: Arc<StepInput>| {
            let calls = calls.clone();
            async move {
                let quote: String = context.once("quote", || async { Ok("9,000".to_owned()) }).await?;
                calls.note();
                let first = context.ask("pay", HumanReview::confirmation(format!("Pay {quote}?"))).await?;
                let fields = [UserInputField::new("iban")];
                let second = context.ask("where", HumanReview::user_input("Where to?", fields)).await?;
                let Answer::Input { values } = second else { return Err(Failure::fatal("no account")) };
                Ok::<_, Failure>(format!("{quote} {} {}", first.as_str(), values["iban"]))
            }
        })
    };
    for is_killed in [false, true] {
        let db = InMemoryDb::new();
        let definition = workflow([asks(&calls)]);
        let mut current = engine(&db, &definition).await;
        let run_id = current.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
        for answer in [yes(), Answer::input([("iban", json!("DE1"))])] {
            let run = current.attach(run_id.clone());
            only(&run).await.answer(answer).await.unwrap();
            if is_killed {
                current.kill();
                db.crash(&current.worker());
                current = engine(&db, &definition).await;
            }
        }
        let run = current.attach(run_id);
        assert_eq!(ended(&run).await.text(), "9,000 approve \"DE1\"");
        is_sound(&db, &definition, &run).await;
    }
    let twice = Step::function("twice", |context: StepContext, _: Arc<StepInput>| async move {
        context.ask("same", HumanReview::confirmation("?")).await?;
        context.ask("same", HumanReview::confirmation("?")).await.map(|answer| answer.as_str())
    });
    let db = InMemoryDb::new();
    let definition = workflow([twice]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    only(&run).await.approve().await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.status, RunStatus::Error);
    assert!(output.text().contains("is used twice"), "{}", output.text());
}

#[tokio::test(start_paused = true)]
async fn a_function_that_waits_beside_a_sibling_goes_on_where_it_is() {
    let db = InMemoryDb::new();
    let calls = Calls::default();
    let begun = calls.clone();
    let asks = Step::function("asks", move |context: StepContext, _: Arc<StepInput>| {
        begun.note();
        async move {
            let (first, second) = tokio::join!(
                context.ask("one", HumanReview::confirmation("One?")),
                context.ask("two", HumanReview::confirmation("Two?")),
            );
            Ok::<_, Failure>(format!("{} {}", first?.as_str(), second?.as_str()))
        }
    });
    let definition = build([Parallel::new("par").step(asks).step(slow("slow", LONG)).into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let open = run.questions().await.unwrap();
    assert_eq!(open.len(), 2);
    open[0].approve().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    open[1].reject("no").await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.step_results[0].steps[0].text(), "approve reject");
    assert_eq!(calls.count(), 1, "it was not executed again");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_is_cancelled_and_its_questions_are_void() {
    let db = InMemoryDb::new();
    let definition = build([tells("a").human_review(HumanReview::confirmation("?")).into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let question = only(&run).await;
    run.cancel("enough").await.unwrap();
    assert_eq!(ended(&run).await.status, RunStatus::Cancelled);
    let error = question.approve().await.unwrap_err();
    assert!(error.to_string().contains("needs no answer any more"), "{error}");
    assert!(run.questions().await.unwrap().is_empty());
    let all = QuestionFilter { with_settled: true, ..QuestionFilter::default() };
    assert_eq!(engine.questions(all).await.unwrap().questions[0].state, QuestionState::Void);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_workflow_has_changed_goes_on_once_a_person_says_so_and_it_fits_again() {
    let db = InMemoryDb::new();
    let asks = || tells("a").human_review(HumanReview::confirmation("?"));
    let before = build([tells("first").into(), asks().into()]);
    let after = build([tells("other").into(), asks().into()]);
    let first = engine(&db, &before).await;
    let run_id = first.submit(&before.id, input("hi")).await.unwrap().run_id().clone();
    only(&first.attach(run_id.clone())).await.approve().await.unwrap();
    first.kill();
    db.crash(&first.worker());
    let second = engine(&db, &after).await;
    let question = loop {
        let open = paused(&second.attach(run_id.clone())).await;
        if let Some(question) = open.into_iter().find(|question| question.question.kind == QuestionKind::Definition) {
            break question;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    question.retry().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let again = paused(&second.attach(run_id.clone())).await;
    assert_eq!(again[0].question.kind, QuestionKind::Definition, "it does not fit yet");
    second.shutdown().await.unwrap();
    let third = engine(&db, &before).await;
    let run = third.attach(run_id);
    run.questions().await.unwrap()[0].retry().await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.text(), "hi.first1.a1", "{output:?} {:?}", run.questions().await.unwrap());
}

/// What a person tried, and whether it was done.
struct Tried {
    by: Arc<str>,
    /// The answers of one call.
    answers: Vec<(Arc<str>, Answer)>,
    is_done: bool,
}

/// One trial of everything at once, on a run that asks twice: whoever comes first, the run ends once and soundly, or is
/// gone, and of one call's answers all count or none.
async fn trial(seed: u64) {
    let mut dice = Dice(seed);
    let db = InMemoryDb::new();
    let asks = |name| tells(name).human_review(HumanReview::confirmation("?").on_reject(OnReject::Cancel));
    let parallel = Parallel::new("par").step(asks("a")).step(tells("b")).step(asks("c"));
    let definition = build([parallel.into(), tells("after").into()]);
    let options = Options { scan_period: Duration::from_millis(20), ..Options::default() };
    let first = engine_with(&db, &definition, options.clone()).await;
    let second = engine_with(&db, &definition, options).await;
    let request = Submit { session_id: Some("s".to_owned()), ..input("hi") };
    let run = first.submit(&definition.id, request).await.unwrap();
    let ids: Vec<Arc<str>> = paused(&run).await.iter().map(|question| question.id().clone()).collect();
    let (one, other) = (ids[0].clone(), ids[1].clone());
    let mut tasks = tokio::task::JoinSet::new();
    let (mut cancels, mut deletes) = (false, false);
    for number in 0..5u64 {
        let engine = if dice.below(2) == 0 { first.clone() } else { second.clone() };
        let (wait, what) = (Duration::from_millis(dice.below(4)), dice.below(12));
        let run_id = run.run_id().clone();
        let answers = match what {
            0 | 1 => vec![(one.clone(), yes())],
            2 | 3 => vec![(other.clone(), yes())],
            4 => vec![(one.clone(), no())],
            5..=7 => vec![(one.clone(), yes()), (other.clone(), yes())],
            8 => vec![(one.clone(), yes()), (other.clone(), no())],
            _ => Vec::new(),
        };
        cancels |= what == 9 || what == 10;
        deletes |= what == 11;
        tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            let by: Arc<str> = Arc::from(format!("p{number}"));
            let is_done = match what {
                0..=8 => engine.answer(answers.clone(), Some(by.clone())).await.is_ok(),
                9 | 10 => engine.cancel(&run_id, "enough").await.is_ok(),
                _ => engine.delete_sessions(vec![SessionId::parse("s").unwrap()], true).await.is_ok(),
            };
            Tried { by, answers, is_done }
        });
    }
    let mut all = Vec::new();
    while let Some(tried) = tasks.join_next().await {
        all.push(tried.unwrap());
    }
    if db.run(Access::All, run.run_id().clone()).await.unwrap().is_none() {
        assert!(deletes, "seed {seed}");
        return;
    }
    // Whatever nobody has answered is answered now.
    let end = loop {
        match timeout(LONG, run.wait()).await.unwrap_or_else(|_| panic!("seed {seed}: it does not end")) {
            Ok(output) if output.status == RunStatus::Paused => {
                for question in run.questions().await.unwrap() {
                    question.by("late").approve().await.unwrap();
                }
            }
            Ok(output) => break output,
            Err(Error::RunNotFound(_)) if deletes => return,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    };
    assert!(end.status.is_terminal(), "seed {seed}: {end:?}");
    is_sound(&db, &definition, &run).await;
    let mut asked = Vec::new();
    for id in &ids {
        asked.push(first.question(id).await.unwrap().unwrap());
    }
    let given = |id: &Arc<str>| asked.iter().find(|asked| asked.id() == id).and_then(|asked| asked.answered.clone());
    assert!(asked.iter().all(|asked| asked.state != QuestionState::Open), "seed {seed}");
    for Tried { by, answers, is_done } in all {
        let counts = |(id, answer): &(Arc<str>, Answer)| {
            given(id).is_some_and(|given| given.by.as_ref() == Some(&by) && given.answer == *answer)
        };
        assert!(answers.iter().all(|answer| counts(answer) == is_done), "seed {seed}: {by} {answers:?} {is_done}");
    }
    let says_no = ids.iter().any(|id| given(id).is_some_and(|given| given.answer != yes()));
    match end.status {
        RunStatus::Completed => assert!(!says_no, "seed {seed}"),
        _ => assert!(says_no || cancels, "seed {seed}: {end:?}"),
    }
}

#[test]
fn answers_cancels_and_deletions_at_once_leave_one_sound_end() {
    for seed in 0..1_000 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(trial(seed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_has_answered_or_has_not() {
    for polls in 0..40 {
        let db = InMemoryDb::new();
        let definition = build([tells("a").human_review(HumanReview::confirmation("?")).into()]);
        let engine = engine(&db, &definition).await;
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        let question = only(&run).await;
        {
            let mut answering = Box::pin(question.approve());
            for _ in 0..polls {
                if futures::poll!(&mut answering).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let state = engine.question(question.id()).await.unwrap().unwrap().state;
        if polls > 0 {
            assert_eq!(state, QuestionState::Answered, "once polled, it is carried out ({polls})");
            assert_eq!(ended(&run).await.status, RunStatus::Completed);
        } else {
            assert_eq!(state, QuestionState::Open);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn someone_elses_questions_do_not_exist() {
    let db = InMemoryDb::new();
    let definition = build([tells("a").human_review(HumanReview::confirmation("?")).into()]);
    let engine = engine(&db, &definition).await;
    let request = Submit { user_id: Some("ada".to_owned()), ..input("hi") };
    let run = engine.submit(&definition.id, request).await.unwrap();
    let question = only(&run).await;
    let bob: Engine = engine.for_user("bob");
    assert!(bob.questions(QuestionFilter::default()).await.unwrap().questions.is_empty());
    assert!(bob.question(question.id()).await.unwrap().is_none());
    let error = bob.answer([(question.id().clone(), yes())], None).await.unwrap_err();
    assert!(matches!(error, Error::QuestionNotFound(_)), "{error:?}");
    let ada = engine.for_user("ada");
    ada.answer([(question.id().clone(), yes())], None).await.unwrap();
    assert_eq!(ended(&run).await.status, RunStatus::Completed);
    let _: (RunId, StepOutput) = (run.run_id().clone(), StepOutput::default());
}

/// Fails until its container has been begun anew.
fn fails_at_first(name: &'static str) -> Step {
    Step::function(name, move |context: StepContext, input: Arc<StepInput>| async move {
        context.state.set("tried", context.step.key.to_string());
        match context.step.key.as_str().contains('~') {
            true => Ok(format!("{}.{name}", input.text())),
            false => Err(Failure::fatal(format!("{name} is broken"))),
        }
    })
}

/// A container of its name, and what the run comes to when it is tried again.
type Kind = (&'static str, Box<dyn Fn() -> Block>, &'static str);

#[tokio::test(start_paused = true)]
async fn a_container_that_fails_is_asked_about_as_a_step_is() {
    let broken = || fails_at_first("f");
    let pause = OnError::Pause;
    let inner = move || Arc::new(Definition::builder("Inner").step(broken()).build().unwrap());
    let undecided = Condition::new("cond").when(|_| -> bool { panic!("no idea") }).step(tells("x")).on_error(pause);
    let containers: [Kind; 7] = [
        ("group", Box::new(move || Steps::new("group").step(broken()).on_error(pause).into()), "hi.f.b1"),
        (
            "par",
            Box::new(move || Parallel::new("par").step(tells("p")).step(broken()).on_error(pause).into()),
            "hi.f.b1",
        ),
        (
            "cond",
            Box::new(move || Condition::new("cond").when_always(true).step(broken()).on_error(pause).into()),
            "hi.f.b1",
        ),
        (
            "loop",
            Box::new(move || Loop::new("loop").step(broken()).max_iterations(1).on_error(pause).into()),
            "hi.f.b1",
        ),
        (
            "pick",
            Box::new(move || Router::new("pick").select(|_| "f").choice(broken()).on_error(pause).into()),
            "hi.f.b1",
        ),
        (
            "each",
            Box::new(move || ForEach::new("each").items(|_| ["x"]).step(broken()).on_error(pause).into()),
            "x.f.b1",
        ),
        ("nested", Box::new(move || Step::new("nested").workflow(inner()).on_error(pause).into()), "hi.f.b1"),
    ];
    for (name, block, text) in &containers {
        let blocks = || vec![block(), tells("b").into()];
        let retried = with_answers(blocks(), &[Answer::Retry]).await;
        assert_eq!((retried.status, retried.text().as_str()), (RunStatus::Completed, *text), "{name}");
        let left_out = with_answers(blocks(), &[Answer::Skip]).await;
        assert_eq!((left_out.status, left_out.text().as_str()), (RunStatus::Completed, "hi.b1"), "{name}");
        let error = left_out.step_results[0].error.clone();
        assert!(error.is_some_and(|error| error.contains("f is broken")), "{name}: {left_out:?}");
        let given_up = with_answers(blocks(), &[no()]).await;
        assert_eq!(given_up.status, RunStatus::Error, "{name}");
        assert!(given_up.text().contains("f is broken"), "{name}: {}", given_up.text());
    }
    // One that cannot decide has not begun.
    let output = with_answers(vec![undecided.into(), tells("b").into()], &[Answer::Skip]).await;
    assert_eq!(output.text(), "hi.b1");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_asked_about_ends_what_is_inside_and_begins_anew_as_a_whole() {
    let db = InMemoryDb::new();
    let (begun, calls) = (Calls::default(), Calls::default());
    let noted = begun.clone();
    let stays = Step::function("stays", move |context: StepContext, _: Arc<StepInput>| {
        noted.note();
        let is_first = !context.step.key.as_str().contains('~');
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            Ok::<_, Failure>("stayed")
        }
    });
    let asks = || tells("a").human_review(HumanReview::confirmation("Inside?"));
    let late = Steps::new("late").step(slow("wait", Duration::from_secs(5))).step(fails_at_first("f"));
    let parallel = Parallel::new("par").step(stays).step(asks()).step(append("done", &calls)).step(late);
    let definition =
        build([parallel.on_error(OnError::Pause).timeout(Duration::from_secs(60)).into(), tells("b").into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let question = only(&run).await;
    assert_eq!((question.question.kind, &*question.question.step_name), (QuestionKind::Error, "par"));
    assert_eq!(question.question.message.as_deref(), Some("step \"f\": f is broken"));
    let all = QuestionFilter { with_settled: true, ..QuestionFilter::default() };
    let asked = engine.questions(all).await.unwrap().questions;
    assert_eq!(asked[0].state, QuestionState::Void, "what was asked inside needs no answer");
    // Its time stands still, and begins anew with it.
    tokio::time::sleep(2 * LONG).await;
    question.retry().await.unwrap();
    let inside = only(&run).await;
    assert_eq!(inside.question.kind, QuestionKind::Confirmation);
    inside.approve().await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.status, RunStatus::Completed, "{output:?}");
    assert_eq!((begun.count(), calls.count()), (2, 2), "all of it was begun anew");
    is_sound(&db, &definition, &run).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_around_a_step_that_is_given_up_has_its_say() {
    let asked = || fails("f", 9).on_error(OnError::Pause);
    let skipped = Steps::new("group").step(asked()).on_error(OnError::Skip);
    let output = with_answers(vec![skipped.into(), tells("b").into()], &[no()]).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi.b1"));
    // First about the step, then about what it is in.
    let both = || Steps::new("group").step(asked()).on_error(OnError::Pause);
    let output = with_answers(vec![both().into(), tells("b").into()], &[no(), Answer::Skip]).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi.b1"));
    let output = with_answers(vec![both().into(), tells("b").into()], &[no(), no()]).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Error, "step \"f\": attempt 1 failed"));
}

#[tokio::test(start_paused = true)]
async fn waiting_that_a_siblings_failure_ends_counts_towards_no_time_limit() {
    let asks = tells("a").human_review(HumanReview::confirmation("?"));
    let late = Step::function("late", |_, _: Arc<StepInput>| async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        Err::<String, _>(Failure::fatal("no"))
    });
    let parallel = Parallel::new("par").step(asks).step(late).on_error(OnError::Skip);
    let definition = Arc::new(
        Definition::builder("Example")
            .step(parallel)
            .step(slow("after", Duration::from_secs(50)))
            .timeout(Duration::from_secs(100))
            .build()
            .unwrap(),
    );
    let db = InMemoryDb::new();
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.status, RunStatus::Completed, "{output:?}");
}

#[tokio::test(start_paused = true)]
async fn input_that_nobody_gives_in_time_is_not_asked_for_again() {
    let review = HumanReview::user_input("Which?", [UserInputField::new("colour")]);
    let step = tells("a").human_review(review.timeout(LONG).on_timeout(OnTimeout::Approve));
    let db = InMemoryDb::new();
    let definition = build([step.into()]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    only(&run).await;
    tokio::time::sleep(LONG + Duration::from_secs(20)).await;
    assert_eq!(ended(&run).await.text(), "hi.a1");
}

#[tokio::test(start_paused = true)]
async fn whoever_submitted_a_run_does_not_answer_under_four_eyes() {
    let db = InMemoryDb::new();
    let guarded = tells("a").human_review(HumanReview::confirmation("?").four_eyes());
    let inside = Step::function("inside", |context: StepContext, _: Arc<StepInput>| async move {
        let answer = context.ask("sure", HumanReview::confirmation("Sure?").four_eyes()).await?;
        Ok::<_, Failure>(answer.as_str())
    });
    // What a step's own four eyes guard is also what is asked inside it.
    let around = Step::function("around", |context: StepContext, _: Arc<StepInput>| async move {
        context.ask("sure", HumanReview::confirmation("Sure?")).await?;
        Ok::<_, Failure>("approve")
    });
    let around = around.human_review(HumanReview::confirmation("?").four_eyes());
    let doubtful = Step::function("doubtful", |_, _: Arc<StepInput>| async {
        Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "it may have been paid"))
    });
    let doubtful = doubtful.human_review(HumanReview::confirmation("?").four_eyes());
    let definition = build([around.into(), doubtful.into()]);
    let engine = engine(&db, &definition).await;
    let request = Submit { user_id: Some("ada".to_owned()), ..input("hi") };
    let run = engine.submit(&definition.id, request.clone()).await.unwrap();
    for answer in [yes(), yes(), yes(), Answer::Result { result: "it was".into() }] {
        let question = only(&run).await;
        let error = question.clone().by("ada").answer(answer.clone()).await.unwrap_err();
        assert!(matches!(error, Error::NotYoursToAnswer { .. }), "{error:?}");
        question.by("bob").answer(answer).await.unwrap();
    }
    assert_eq!(ended(&run).await.text(), "it was");

    let db = InMemoryDb::new();
    let definition = build([guarded.into(), inside.into()]);
    let engine = self::engine(&db, &definition).await;
    let run = engine.submit(&definition.id, request).await.unwrap();
    for _ in 0..2 {
        let question = only(&run).await;
        for (by, problem) in [(Some("ada"), "ada submitted the run"), (None, "say who answers")] {
            let answers = [(question.id().clone(), yes())];
            let error = engine.answer(answers, by.map(Arc::from)).await.unwrap_err();
            assert!(matches!(error, Error::NotYoursToAnswer { .. }), "{error:?}");
            assert!(error.to_string().contains(problem), "{error}");
        }
        assert_eq!(only(&run).await.state, QuestionState::Open, "nothing happened");
        question.by("bob").approve().await.unwrap();
    }
    assert_eq!(ended(&run).await.text(), "approve");
    // A fork is no way around it: neither with another answer, nor with something else under the same answers.
    let at = read_log(&db, run.run_id()).await.len() as u64 - 1;
    for fork in [run.fork("a").answer(yes()), run.fork("inside").input("more"), run.fork("inside").output("done")] {
        for by in [Some("ada"), None] {
            let fork = by.into_iter().fold(fork.clone(), |fork, by| fork.by(by));
            let refused = [fork.preview().await.unwrap_err(), fork.background().await.unwrap_err()];
            assert!(refused.iter().all(|error| matches!(error, Error::NotYoursToAnswer { .. })), "{refused:?}");
        }
        fork.by("bob").preview().await.unwrap();
    }
    run.fork(at).background().await.unwrap();
    run.fork(0).input("from the beginning, where all is asked again").background().await.unwrap();
    // Nobody can tell two people apart where one is not known.
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let error = only(&run).await.by("bob").approve().await.unwrap_err();
    assert!(error.to_string().contains("submit it with a user_id"), "{error}");
    let silent = HumanReview::confirmation("?").four_eyes().timeout(LONG).on_timeout(OnTimeout::Approve);
    let problem = Definition::builder("Example").step(tells("a").human_review(silent)).build().unwrap_err().to_string();
    assert!(problem.contains("four eyes"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn what_was_approved_under_four_eyes_is_executed_once_however_often_the_run_is_forked() {
    let db = InMemoryDb::new();
    let calls = Calls::default();
    let review = || HumanReview::confirmation("?").four_eyes();
    let pays = |name: &'static str| {
        let calls = calls.clone();
        Step::function(name, move |_, _: Arc<StepInput>| {
            calls.note();
            async { Ok::<_, Failure>("paid") }
        })
    };
    let begun = calls.clone();
    let asks = Step::function("asks", move |context: StepContext, _: Arc<StepInput>| {
        let begun = begun.clone();
        async move {
            context.ask("sure", HumanReview::confirmation("Sure?").four_eyes()).await?;
            begun.note();
            Ok::<_, Failure>("paid")
        }
    });
    let chosen =
        Condition::new("chosen").when_always(true).step(tells("before")).step(pays("in")).human_review(review());
    let repeated = Loop::new("repeated").max_iterations(1).step(pays("each")).human_review(review());
    let beside = Parallel::new("beside").step(pays("one").human_review(review())).step(tells("other")).step(asks);
    let blocks = [pays("first").human_review(review()).into(), chosen.into(), repeated.into(), beside.into()];
    let definition = build(blocks);
    let engine = engine(&db, &definition).await;
    let request = Submit { user_id: Some("ada".to_owned()), ..input("hi") };
    let run = engine.submit(&definition.id, request).await.unwrap();
    while ended(&run).await.status == RunStatus::Paused {
        for question in run.questions().await.unwrap() {
            question.by("bob").approve().await.unwrap();
        }
    }
    assert_eq!(ended(&run).await.status, RunStatus::Completed);
    let paid = calls.count();
    assert_eq!(paid, 5);
    for at in 0..read_log(&db, run.run_id()).await.len() as u64 {
        let fork = run.fork(at).by("ada").background().await.unwrap();
        let status = ended(&fork).await.status;
        assert_eq!(calls.count(), paid, "at {at}: nobody has approved it again");
        is_sound(&db, &definition, &fork).await;
        if status == RunStatus::Paused {
            assert!(!fork.questions().await.unwrap().is_empty(), "at {at}");
            fork.cancel("enough").await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_approved_under_four_eyes_and_cancelled_is_asked_again_when_it_is_tried_again() {
    let db = InMemoryDb::new();
    let calls = Calls::default();
    let (begun, at_work) = (calls.clone(), Arc::new(tokio::sync::Notify::new()));
    let told = at_work.clone();
    let pays = Step::function("pays", move |_, _: Arc<StepInput>| {
        begun.note();
        told.notify_one();
        std::future::pending::<Result<String, Failure>>()
    });
    let definition = build([pays.human_review(HumanReview::confirmation("?").four_eyes()).into()]);
    let engine = engine(&db, &definition).await;
    let request = Submit { user_id: Some("ada".to_owned()), ..input("hi") };
    let run = engine.submit(&definition.id, request).await.unwrap();
    only(&run).await.by("bob").approve().await.unwrap();
    at_work.notified().await;
    run.cancel("enough").await.unwrap();
    assert_eq!(ended(&run).await.status, RunStatus::Cancelled);
    let again = run.retry().by("ada").background().await.unwrap();
    only(&again).await;
    assert_eq!(calls.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_approved_under_four_eyes_and_failed_inside_is_asked_again_when_it_is_tried_again() {
    let db = InMemoryDb::new();
    let calls = Calls::default();
    let review = || HumanReview::confirmation("?").four_eyes();
    let pays = || append("pays", &calls);
    let broken = |on_error| fails("fails", u32::MAX).on_error(on_error);
    let containers: [(Block, RunStatus); 4] = [
        (
            Parallel::new("p").step(pays()).step(broken(OnError::Skip)).human_review(review()).into(),
            RunStatus::Completed,
        ),
        (
            Loop::new("l").max_iterations(1).step(broken(OnError::Skip)).step(pays()).human_review(review()).into(),
            RunStatus::Completed,
        ),
        (
            Condition::new("c")
                .when_always(true)
                .step(Steps::new("s").step(pays()).step(broken(OnError::Fail)))
                .human_review(review())
                .into(),
            RunStatus::Error,
        ),
        (Parallel::new("p").step(pays()).step(broken(OnError::Fail)).human_review(review()).into(), RunStatus::Error),
    ];
    for (container, status) in containers {
        let definition = build([container]);
        let engine = engine(&db, &definition).await;
        let request = Submit { user_id: Some("ada".to_owned()), ..input("hi") };
        let run = engine.submit(&definition.id, request).await.unwrap();
        only(&run).await.by("bob").approve().await.unwrap();
        assert_eq!(ended(&run).await.status, status);
        let paid = calls.count();
        let again = run.retry().by("ada").background().await.unwrap();
        only(&again).await;
        assert_eq!(calls.count(), paid, "nobody has approved it again");
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_blocks_asks_and_goes_on_in_place_or_from_its_beginning() {
    for is_beside in [false, true] {
        let db = InMemoryDb::new();
        let calls = Calls::default();
        let begun = calls.clone();
        let pays = Step::blocking("pay", move |context, _| {
            begun.note();
            let first = context.block_on(context.ask("one", HumanReview::confirmation("One?")))?;
            let second = context.block_on(context.ask("two", HumanReview::confirmation("Two?")))?;
            Ok(format!("{} {}", first.as_str(), second.as_str()))
        });
        let gate = Arc::new(tokio::sync::Notify::new());
        let opens = gate.clone();
        let beside = Step::function("beside", move |_, _: Arc<StepInput>| {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok::<_, Failure>("")
            }
        });
        let parallel = Parallel::new("par").step(pays);
        let definition = build([if is_beside { parallel.step(beside) } else { parallel.step(tells("b")) }.into()]);
        let options = Options { scan_period: Duration::from_millis(20), ..Options::default() };
        let engine =
            Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).options(options).start().await.unwrap();
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        let mut events = run.events(None).through_pauses();
        for answer in [yes(), no()] {
            let asked = |name: &str| if is_beside { name == "StepPaused" } else { name == "WorkflowPaused" };
            while !asked(timeout(LONG, events.next()).await.unwrap().unwrap().unwrap().name()) {}
            run.questions().await.unwrap()[0].answer(answer).await.unwrap();
        }
        if is_beside {
            while timeout(LONG, events.next()).await.unwrap().unwrap().unwrap().name() != "StepCompleted" {}
            opens.notify_one();
        }
        let output = ended(&run).await;
        assert_eq!(output.step_results[0].steps[0].text(), "approve reject");
        assert_eq!(calls.count(), if is_beside { 1 } else { 3 }, "at rest it is executed again for each answer");
        engine.shutdown().await.unwrap();
    }
}
