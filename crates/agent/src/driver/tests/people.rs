//! What tools ask people: before a call, during a call, and after a crash.

use super::*;
use crate::tool::problems;
use outlive_core::{FieldType, HumanReview, OnTimeout, Timestamp, UserInputField};

/// A log in which this person answers.
fn with(person: impl Fn(&Question) -> Option<Answer> + Send + Sync + 'static, log: Log) -> Arc<Log> {
    Arc::new(Log { person: Some(Arc::new(person)), ..log })
}

fn answered(answer: Answer) -> impl Fn(&Question) -> Option<Answer> + Send + Sync + Clone + 'static {
    move |_| Some(answer.clone())
}

/// The usual answer to each kind.
fn agreeable(question: &Question) -> Option<Answer> {
    Some(match question.kind {
        QuestionKind::ToolInput => Answer::input([("to", "grace".into())]),
        QuestionKind::ToolResult => Answer::Result { result: json!({ "printed": 3 }) },
        QuestionKind::Outcome => Answer::Retry,
        _ => Answer::Approve,
    })
}

#[derive(Deserialize, JsonSchema)]
struct Mail {
    /// Who gets it.
    to: String,
    subject: String,
    #[serde(default)]
    copies: Option<u32>,
}

fn mail() -> Tool {
    Tool::new("mail", "for tests", |mail: Mail, _: ToolContext| async move {
        Ok::<_, Failure>(format!("{} to {} ({:?})", mail.subject, mail.to, mail.copies))
    })
}

/// An agent that asks for one tool and then answers; the count of calls.
fn careful(change: impl Fn(Tool) -> Tool) -> (Agent, Arc<AtomicUsize>) {
    let model = ScriptedModel::replies([calls([("delete", r#"{"of":"/x"}"#)]), text("done")]);
    let count = Arc::new(AtomicUsize::new(0));
    (Agent::new("Careful").model(model).tool(change(counting("delete", &count))), count)
}

/// An agent whose turn has a call of each kind.
fn all_kinds() -> (Agent, ScriptedModel, Arc<AtomicUsize>) {
    let model = ScriptedModel::replies([
        calls([
            ("price", r#"{"of":"ACME"}"#),
            ("delete", r#"{"of":"/x"}"#),
            ("mail", r#"{"subject":"hi","to":"mallory"}"#),
            ("print", r#"{"of":"it"}"#),
        ]),
        text("done"),
    ]);
    let count = Arc::new(AtomicUsize::new(0));
    let delete = counting("delete", &count).requires_confirmation().effect(ToolEffect::Idempotent);
    let print = Tool::external::<Of>("print", "for tests");
    let tools = [counting("price", &count), delete, mail().user_input_fields(["to"]), print];
    (Agent::new("Careful").model(model.clone()).tools(tools), model, count)
}

/// Runs it straight, and again from each entry on, with the same person. Returns the whole log.
async fn cut<E: Executor>(make: impl Fn() -> E, person: Person) -> (Vec<Entry>, RunOutput) {
    let whole = Arc::new(Log { person: Some(person.clone()), ..Log::default() });
    let expected = run(&make(), &whole).await;
    let entries = whole.entries();
    for end in 0..=entries.len() {
        let log = Arc::new(Log { person: Some(person.clone()), ..Log::after(&entries[..end]) });
        assert_eq!(run(&make(), &log).await, expected, "after {end} entries");
        assert_told_once(&log.entries(), &entries);
        // The same, but whoever asks goes away first, as often as there are questions.
        let mut left = entries[..end].to_vec();
        loop {
            let log = Arc::new(Log::after(&left));
            let ended = execute(&make(), &log, "AI trends").await;
            left = log.entries();
            match ended {
                Ok(executed) => {
                    assert_eq!(*executed.run.unwrap(), expected, "left after {end} entries");
                    break;
                }
                Err(failure) => assert_eq!(failure.kind, FailureKind::Cancelled),
            }
            let known: BTreeSet<Key> = log.answers.lock().unwrap().keys().cloned().collect();
            for open in questions(&left).iter().filter(|question| !known.contains(&question.key)) {
                let answered =
                    Answered { answer: person(open).unwrap(), by: Some("ada".into()), at: Timestamp::default() };
                let record = Record::Answered { key: open.key.clone(), answered };
                log.append(EventKind::StepContinued, &Origin::default(), Some(record));
            }
            left = log.entries();
        }
    }
    (entries, expected)
}

fn paused(entries: &[Entry]) -> Vec<outlive_core::RunWaits> {
    let waits = entries.iter().filter_map(|entry| match &entry.event.kind {
        EventKind::RunPaused(waits) | EventKind::TeamRunPaused(waits) => Some(waits.clone()),
        _ => None,
    });
    waits.collect()
}

#[tokio::test]
async fn four_eyes_of_a_tool_hold_for_all_that_is_asked_about_its_calls_and_in_them() {
    let asks = |tool: Tool| async move {
        let model = ScriptedModel::replies([calls([("delete", r#"{"of":"/x"}"#)]), text("done")]);
        let log = Arc::new(Log::default());
        failed(&Agent::new("Careful").model(model).tool(tool), &log).await;
        questions(&log.entries()).iter().map(|question| question.four_eyes).collect::<Vec<_>>()
    };
    let count = Arc::new(AtomicUsize::new(0));
    let inside = || {
        Tool::new("delete", "for tests", |_: Of, context: ToolContext| async move {
            context.ask("sure", HumanReview::confirmation("Sure?")).await?;
            Ok::<_, Failure>("deleted")
        })
    };
    let doubtful = || {
        let silent = Tool::new("delete", "for tests", |_: Of, _: ToolContext| async {
            std::future::pending::<()>().await;
            Ok::<_, Failure>("never")
        });
        silent.effect(ToolEffect::Once).timeout(Duration::from_millis(1))
    };
    let tools = || {
        [
            counting("delete", &count).requires_confirmation(),
            counting("delete", &count).requires_user_input(),
            counting("delete", &count).external_execution(),
            inside(),
            doubtful(),
        ]
    };
    for (plain, guarded) in tools().into_iter().zip(tools().map(Tool::four_eyes)) {
        assert_eq!((asks(plain).await, asks(guarded).await), (vec![false], vec![true]));
    }
}

#[tokio::test]
async fn a_tool_that_requires_confirmation_is_called_once_a_person_has_agreed() {
    let (agent, count) = careful(Tool::requires_confirmation);
    let log = Arc::new(Log::default());
    assert_eq!(failed(&agent, &log).await.kind, FailureKind::Cancelled);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    let begun = ["RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "RunPaused", "StepPaused"];
    assert_eq!(log.names(), begun);
    let asked = questions(&log.entries());
    let question = &asked[0];
    assert_eq!(
        (asked.len(), question.kind, question.key.as_str()),
        (1, QuestionKind::ToolConfirmation, "0/agent/t0/0/q0")
    );
    assert_eq!(question.id, RunId::parse("run-1").unwrap().derive(question.key.as_str()));
    let tool = question.tool.as_deref().unwrap();
    assert_eq!((&*tool.agent_id, &*tool.agent_name), ("careful", "Careful"));
    assert_eq!(tool.execution.tool_args, json!({ "of": "/x" }));
    let run_now = question.run.as_ref().unwrap();
    assert_eq!(
        (run_now.status, run_now.content.clone()),
        (RunStatus::Paused, Some("I have tools to execute, but I need confirmation.".into()))
    );
    assert_eq!(run_now.tools[0].requires_confirmation, Some(true));
    assert_eq!(run_now.messages.last().unwrap().tool_calls.len(), 1);
    let waits = &paused(&log.entries())[0];
    assert_eq!(waits.content, "I have tools to execute, but I need confirmation.");
    assert_eq!(waits.requirements, [tool.requirement(question, None)]);
    assert_eq!(waits.requirements[0]["id"], json!(question.id));
    assert_eq!(waits.tools[0].confirmed, None);

    let (agent, count) = careful(Tool::requires_confirmation);
    let log = with(answered(Answer::Approve), Log::after(&log.entries()));
    let output = super::run(&agent, &log).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let names = log.names();
    assert_eq!(
        names[begun.len()..][..4],
        ["StepContinued", "RunContinued", "ToolCallStarted", "ToolCallCompleted"],
        "{names:?}"
    );
    let started = log.entries().into_iter().find_map(|entry| match entry.event.kind {
        EventKind::ToolCallStarted(started) => Some(started.tool),
        _ => None,
    });
    let started = started.unwrap();
    assert_eq!((started.requires_confirmation, started.confirmed), (Some(true), Some(true)));
    assert_eq!((output.tools[0].requires_confirmation, output.tools[0].confirmed), (Some(false), Some(true)));
    assert_eq!(output.tools[0].result.as_deref(), Some("delete of /x"));
}

#[tokio::test]
async fn what_needs_nobody_is_done_and_then_everything_else_is_asked_at_once() {
    let (entries, output) = cut(|| all_kinds().0, Arc::new(agreeable)).await;
    let waiting = entries.iter().filter(|entry| matches!(entry.record, Some(Record::Waiting { .. }))).count();
    let kinds: Vec<_> = questions(&entries).iter().map(|question| question.kind).collect();
    assert_eq!(
        (waiting, kinds),
        (1, vec![QuestionKind::ToolConfirmation, QuestionKind::ToolInput, QuestionKind::ToolResult])
    );
    let place = |name: &str| entries.iter().position(|entry| entry.event.name() == name).unwrap();
    assert!(place("ToolCallCompleted") < place("RunPaused"), "the price needs nobody");
    let told: Vec<_> = output.tools.iter().map(|tool| tool.result.clone().unwrap()).collect();
    assert_eq!(told, ["price of ACME", "delete of /x", "hi to grace (None)", r#"{"printed":3}"#]);
    let waits = paused(&entries);
    assert_eq!(waits.len(), 1);
    assert_eq!(
        waits[0].content,
        "I have tools to execute, but I need confirmation, user input, or external execution."
    );
    let run_now = questions(&entries)[0].run.clone().unwrap();
    assert_eq!(run_now.tools.len(), 4, "with what was done before");
    let [_, _, mailed, printed] = &output.tools[..] else { panic!("four calls: {:?}", output.tools) };
    assert_eq!(mailed.tool_args, json!({ "subject": "hi", "to": "grace" }));
    assert_eq!((mailed.requires_user_input, mailed.answered), (Some(false), Some(true)));
    assert_eq!(mailed.user_input_schema.as_ref().unwrap()[0]["value"], "grace");
    assert_eq!(printed.external_execution_required, Some(true));
    let input = &questions(&entries)[1];
    assert_eq!(
        input.tool.as_ref().unwrap().execution.tool_args,
        json!({ "subject": "hi" }),
        "what the model may fill in"
    );
    assert_eq!(*input.fields, [UserInputField::new("to").description("Who gets it.")]);
}

#[tokio::test]
async fn a_no_and_a_silence_reach_the_model() {
    let note = |feedback: Option<&str>| Answer::Reject { feedback: feedback.map(str::to_owned) };
    let rejected = Some("Tool call was rejected");
    let silence = "the tool delete was not called: nobody answered in time";
    type Change = fn(Tool) -> Tool;
    let ways: [Change; 3] = [Tool::requires_confirmation, Tool::requires_user_input, Tool::external_execution];
    for change in ways {
        let change = move |tool| change(tool).answer_timeout(Duration::from_secs(60));
        for (answer, told, noted) in [
            (note(Some("keep it")), "keep it", Some("keep it")),
            (note(None), "Function call was rejected by the user", rejected),
            (Answer::TimedOut, silence, None),
        ] {
            let (entries, output) = cut(|| careful(change).0, Arc::new(answered(answer))).await;
            let question = &questions(&entries)[0];
            assert_eq!(question.on_timeout, OnTimeout::Skip, "the run goes on");
            assert_eq!(question.due_at, Some(Timestamp::from_micros(1_700_000_060_000_000)));
            let tool = &output.tools[0];
            assert_eq!(tool.result.as_deref(), Some(told));
            assert_eq!(
                (tool.tool_call_error, tool.confirmed, tool.confirmation_note.as_deref()),
                (Some(true), Some(false), noted)
            );
            assert_eq!(output.content, Some("done".into()));
        }
        let (agent, count) = careful(change);
        super::run(&agent, &with(answered(note(None)), Log::default())).await;
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
}

/// A team whose leader deletes and delegates to two members at once, of whom one asks.
fn careful_team() -> Team {
    let leader = ScriptedModel::replies([
        calls([
            ("delete", r#"{"of":"/all"}"#),
            ("delegate_task_to_member", r#"{"member_id":"careful","task":"a"}"#),
            ("delegate_task_to_member", r#"{"member_id":"quick","task":"b"}"#),
            ("delegate_task_to_member", r#"{"member_id":"other","task":"c"}"#),
        ]),
        text("all done"),
    ]);
    let (careful, _) = careful(|tool| tool.requires_confirmation().effect(ToolEffect::Idempotent));
    let other_model = ScriptedModel::replies([calls([("print", r#"{"of":"it"}"#)]), text("printed")]);
    let other = Agent::new("Other").model(other_model).tool(Tool::external::<Of>("print", "for tests"));
    let quick = Agent::new("Quick").model(ScriptedModel::replies([text("quickly")]));
    let delete = counting("delete", &Arc::default()).requires_confirmation().effect(ToolEffect::Idempotent);
    Team::new("Team").model(leader).tool(delete).members([careful, quick, other])
}

#[tokio::test]
async fn members_and_their_leader_ask_while_nothing_of_the_step_is_in_flight() {
    let (entries, output) = cut(careful_team, Arc::new(agreeable)).await;
    let asked: Vec<_> = questions(&entries).iter().map(|question| question.key.to_string()).collect();
    assert_eq!(asked, ["0/team/t0/0/q0", "0/team/t0/1/m/t0/0/q0", "0/team/t0/3/m/t0/0/q0"]);
    let is_waiting = |entry: &&Entry| matches!(entry.record, Some(Record::Waiting { .. }));
    assert_eq!(entries.iter().filter(is_waiting).count(), 1, "both levels at once");
    let waiting = entries.iter().position(|entry| is_waiting(&entry)).unwrap();
    let quick = entries.iter().position(|entry| {
        entry.event.name() == "RunCompleted" && entry.event.origin.agent_name.as_deref() == Some("Quick")
    });
    assert!(quick.unwrap() < waiting, "nobody is asked while a member is at work");
    let agents: Vec<_> =
        questions(&entries).iter().map(|question| question.tool.as_ref().unwrap().agent_name.to_string()).collect();
    assert_eq!(agents, ["Team", "Careful", "Other"]);
    assert_eq!(paused(&entries).len(), 3);
    assert_eq!(output.content, Some("all done".into()));
    let runs: Vec<_> = questions(&entries).iter().map(|question| question.run.is_some()).collect();
    assert_eq!(runs, [true, false, false]);
}

#[tokio::test]
async fn a_once_call_of_unknown_outcome_is_asked_about_and_what_people_say_holds() {
    let make = || careful(|tool| tool.effect(ToolEffect::Once));
    let whole = Arc::new(Log::default());
    super::run(&make().0, &whole).await;
    let entries = whole.entries();
    let started = entries.iter().position(|entry| entry.event.name() == "ToolCallStarted").unwrap();
    let crashed = &entries[..=started];
    let cases = [
        (Answer::Result { result: "gone".into() }, "gone", false, 0),
        (Answer::reject("checked"), "the tool delete did not run: checked", true, 0),
        (Answer::Reject { feedback: None }, "the tool delete did not run", true, 0),
        (Answer::Retry, "delete of /x", false, 1),
    ];
    for (answer, told, is_error, times) in cases {
        let (agent, count) = make();
        let log = with(answered(answer), Log::after(crashed));
        let output = super::run(&agent, &log).await;
        let question = &questions(&log.entries())[0];
        assert_eq!((question.kind, question.key.as_str()), (QuestionKind::Outcome, "0/agent/t0/0/q1"));
        assert!(question.tool.is_some() && question.failure.as_ref().unwrap().kind == FailureKind::OutcomeUnknown);
        assert_eq!(output.tools[0].result.as_deref(), Some(told));
        assert_eq!((output.tools[0].tool_call_error, count.load(Ordering::SeqCst)), (Some(is_error), times));
        assert_eq!(paused(&log.entries())[0].content, "I have called a tool, but I need to know what came of it.");
        // Wherever the next process begins, nothing is asked or called twice, but for a call that was in flight again.
        let told_again = log.entries();
        for end in crashed.len()..=told_again.len() {
            let (agent, again) = make();
            let log = with(agreeable, Log::after(&told_again[..end]));
            let is_new = |entry: &&Entry| matches!(&entry.record, Some(Record::Answered { .. }));
            let has_answer = told_again[..end].iter().any(|entry| is_new(&entry));
            let resumed = super::run(&agent, &log).await;
            if has_answer {
                assert_eq!(resumed.tools[0].result.as_deref(), Some(told), "after {end} entries");
            }
            let in_flight = told_again[..end].last().is_some_and(|entry| entry.event.name() == "CustomEvent");
            let expected = if in_flight && has_answer { 2 } else { 1 };
            assert_eq!(questions(&log.entries()).len(), expected, "after {end} entries");
            if in_flight && has_answer {
                assert_eq!(questions(&log.entries())[1].key.as_str(), "0/agent/t0/0/q2");
            }
            assert!(again.load(Ordering::SeqCst) <= 1);
        }
    }
}

#[tokio::test]
async fn a_confirmed_call_in_flight_at_a_crash_is_not_made_again_by_itself() {
    let make = || careful(Tool::requires_confirmation);
    let whole = with(agreeable, Log::default());
    let expected = super::run(&make().0, &whole).await;
    let entries = whole.entries();
    let started = entries.iter().position(|entry| entry.event.name() == "ToolCallStarted").unwrap();
    let (agent, count) = make();
    let log = Arc::new(Log::after(&entries[..=started]));
    assert_eq!(failed(&agent, &log).await.kind, FailureKind::Cancelled);
    let keys: Vec<_> = questions(&log.entries()).iter().map(|question| question.key.to_string()).collect();
    assert_eq!((keys, count.load(Ordering::SeqCst)), (vec!["0/agent/t0/0/q0".into(), "0/agent/t0/0/q1".into()], 0));
    let output = super::run(&make().0, &with(agreeable, Log::after(&log.entries()))).await;
    assert_eq!(output, expected);
}

/// A tool that asks before it does what it does, and counts how often it began.
fn asking(count: &Arc<AtomicUsize>, review: HumanReview) -> Tool {
    let count = count.clone();
    Tool::new("order", "for tests", move |wanted: Of, context: ToolContext| {
        count.fetch_add(1, Ordering::SeqCst);
        let review = review.clone();
        async move {
            let answer = context.ask("budget", review).await?;
            Ok::<_, Failure>(format!("{} {}", wanted.of, answer.as_str()))
        }
    })
}

fn buyer(tool: Tool) -> Agent {
    let model =
        ScriptedModel::replies([calls([("order", r#"{"of":"tea"}"#), ("order", r#"{"of":"rice"}"#)]), text("done")]);
    Agent::new("Buyer").model(model).tool(tool)
}

#[tokio::test]
async fn a_tool_asks_in_the_middle_of_a_call() {
    let review = || HumanReview::confirmation("More than 20?").timeout(Duration::from_secs(5));
    let count = Arc::new(AtomicUsize::new(0));
    let make = || buyer(asking(&count, review()));
    let (entries, output) = cut(make, Arc::new(agreeable)).await;
    let waiting = entries.iter().filter(|entry| matches!(entry.record, Some(Record::Waiting { .. }))).count();
    let asked = questions(&entries);
    let keys: Vec<_> = asked.iter().map(|question| question.key.as_str()).collect();
    assert_eq!((waiting, keys), (1, vec!["0/agent/t0/0/k:budget", "0/agent/t0/1/k:budget"]), "at once");
    assert_eq!(asked[0].message.as_deref(), Some("More than 20?"));
    assert_eq!(asked[0].due_at, Some(Timestamp::from_micros(1_700_000_005_000_000)));
    assert!(asked[0].tool.is_none());
    let told: Vec<_> = output.tools.iter().map(|tool| tool.result.clone().unwrap()).collect();
    assert_eq!(told, ["tea approve", "rice approve"]);
    let silent = with(answered(Answer::TimedOut), Log::default());
    assert_eq!(super::run(&make(), &silent).await.tools[0].result.as_deref(), Some("tea timed_out"));

    let count = Arc::new(AtomicUsize::new(0));
    let once = buyer(asking(&count, review()).effect(ToolEffect::Once));
    let log = with(agreeable, Log::default());
    let output = super::run(&once, &log).await;
    assert!(
        output.tools[0].result.as_deref().unwrap().contains("require confirmation"),
        "{:?}",
        output.tools[0].result
    );
    assert!(questions(&log.entries()).is_empty());
    let nothing = buyer(asking(&count, HumanReview::default()));
    let told = super::run(&nothing, &with(agreeable, Log::default())).await.tools[0].result.clone().unwrap();
    assert!(told.contains("asks nothing"), "{told}");
    let alone = buyer(asking(&count, review())).run("x").await.ok().unwrap().tools[0].result.clone().unwrap();
    assert!(alone.contains("nobody can be asked here"), "{alone}");
    let context = crate::tool::ToolContext::new("key", RunId::parse("run-1").unwrap(), SessionState::default());
    assert_eq!(context.ask("x", review()).await.err().map(|failure| failure.kind), Some(FailureKind::Definition));
}

#[tokio::test(start_paused = true)]
async fn no_time_passes_while_people_think() {
    let count = Arc::new(AtomicUsize::new(0));
    let hour = Duration::from_secs(3600);
    let tool = asking(&count, HumanReview::confirmation("More than 20?")).timeout(Duration::from_secs(5));
    let log = Arc::new(Log { person: Some(Arc::new(agreeable)), thinks: hour, ..Log::default() });
    let step = context(&log);
    let input = StepInput { input: Some(Arc::new("x".into())), ..StepInput::default() };
    let executed = buyer(tool).execute(step.clone(), Arc::new(input)).await.unwrap();
    assert_eq!(executed.run.unwrap().tools[0].result.as_deref(), Some("tea approve"));
    assert!(!step.execution.waited(log.now()).1, "nobody is asked any more");
    // After the answer, what is left of the time passes as before.
    let late = Tool::new("order", "for tests", |_: Of, context: ToolContext| async move {
        context.ask("budget", HumanReview::confirmation("More than 20?")).await?;
        std::future::pending::<Result<(), Failure>>().await
    });
    let log = Arc::new(Log { person: Some(Arc::new(agreeable)), thinks: hour, ..Log::default() });
    let begun = tokio::time::Instant::now();
    let output = super::run(&buyer(late.timeout(Duration::from_secs(5))), &log).await;
    assert_eq!(output.tools[0].result.as_deref(), Some("the tool order has not answered within 5s"));
    assert!(begun.elapsed() >= hour + Duration::from_secs(5));
}

#[tokio::test]
async fn a_tool_that_hears_of_the_end_cannot_go_on() {
    let stubborn = Tool::new("order", "for tests", |_: Of, context: ToolContext| async move {
        let answer = context.ask("budget", HumanReview::confirmation("More than 20?")).await;
        Ok::<_, Failure>(answer.map_or("never mind", |_| "fine"))
    });
    let log = Arc::new(Log::default());
    assert_eq!(failed(&buyer(stubborn), &log).await.kind, FailureKind::Cancelled);
    assert!(!log.names().contains(&"ToolCallCompleted"), "{:?}", log.names());
}

#[tokio::test]
async fn nobody_is_asked_about_arguments_that_do_not_fit() {
    let count = Arc::new(AtomicUsize::new(0));
    for change in [Tool::requires_confirmation, Tool::external_execution] {
        let model = ScriptedModel::replies([calls([("delete", r#"{"of":{"not":"text"}}"#)]), text("done")]);
        let log = with(agreeable, Log::default());
        let output = super::run(&Agent::new("A").model(model).tool(change(counting("delete", &count))), &log).await;
        assert!(output.tools[0].result.as_deref().unwrap().contains("do not fit"), "{:?}", output.tools[0].result);
        assert!(questions(&log.entries()).is_empty());
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_tool_says_what_it_needs_of_people() {
    let tool = || mail();
    assert_eq!(tool().requires_confirmation().effect, ToolEffect::Once, "by itself");
    assert_eq!(tool().requires_confirmation().effect(ToolEffect::Read).effect, ToolEffect::Read);
    assert_eq!(tool().effect(ToolEffect::Idempotent).requires_confirmation().effect, ToolEffect::Idempotent);
    assert_eq!(tool().user_input_fields(["to"]).effect, ToolEffect::Idempotent);
    let filled = tool().requires_user_input();
    assert_eq!(filled.spec().parameters["properties"], json!({}));
    let fields = filled.input_fields();
    let typed: Vec<_> = fields.iter().map(|field| (&*field.name, field.field_type, field.required)).collect();
    assert_eq!(typed.len(), 3);
    assert!(
        typed.contains(&("copies", FieldType::Int, false)) && typed.contains(&("to", FieldType::Str, true)),
        "{typed:?}"
    );
    let both = problems(&[tool().requires_confirmation().external_execution()]);
    assert!(both[0].contains("confirmation and external execution at once"), "{both:?}");
    let unknown = problems(&[tool().user_input_fields(["nobody"])]);
    assert!(unknown[0].contains("no argument \"nobody\""), "{unknown:?}");
    let agent = Agent::new("A").model(ScriptedModel::new([])).tools([tool().requires_confirmation()]);
    assert_eq!(agent.describe()["tools"]["tools"][0]["requires_confirmation"], true);
}

#[tokio::test]
async fn a_silent_external_tool_does_not_say_that_it_waits() {
    let log = Arc::new(Log::default());
    failed(&careful(Tool::external_execution_silent).0, &log).await;
    let waits = paused(&log.entries());
    assert_eq!((waits[0].content.as_str(), waits[0].tools[0].external_execution_silent), ("", Some(true)));
}

#[tokio::test]
async fn a_recorded_answer_holds_when_the_tool_does_not_need_people_any_more() {
    let whole = with(answered(Answer::reject("keep it")), Log::default());
    let expected = super::run(&careful(Tool::requires_confirmation).0, &whole).await;
    let entries = whole.entries();
    let last = entries.iter().position(|entry| matches!(entry.record, Some(Record::Answered { .. }))).unwrap();
    for end in last + 1..=entries.len() {
        let (agent, count) = careful(|tool| tool);
        let output = super::run(&agent, &Arc::new(Log::after(&entries[..end]))).await;
        assert_eq!(count.load(Ordering::SeqCst), 0, "a no is a no, after {end} entries");
        assert_eq!(output, expected, "after {end} entries");
    }
    // What a person has filled in holds too, and what was done elsewhere.
    type Change = fn(Tool) -> Tool;
    let make = |change: Change| {
        let model = ScriptedModel::replies([calls([("mail", r#"{"subject":"hi"}"#)]), text("done")]);
        Agent::new("Careful").model(model).tool(change(mail()))
    };
    let ways: [(Change, &str); 2] =
        [(|tool| tool.user_input_fields(["to"]), "hi to grace (None)"), (Tool::external_execution, r#"{"printed":3}"#)];
    for (change, told) in ways {
        let model = ScriptedModel::replies([calls([("mail", r#"{"subject":"hi","to":"ada"}"#)]), text("done")]);
        let agent = |tool| Agent::new("Careful").model(model.clone()).tool(tool);
        let whole = with(agreeable, Log::default());
        super::run(&agent(change(mail())), &whole).await;
        let entries = whole.entries();
        let last = entries.iter().position(|entry| matches!(entry.record, Some(Record::Answered { .. }))).unwrap();
        let output = super::run(&make(|tool| tool), &Arc::new(Log::after(&entries[..=last]))).await;
        assert_eq!(output.tools[0].result.as_deref(), Some(told));
    }
}

/// As [`asking`], on a thread of its own.
fn asking_on_a_thread(count: &Arc<AtomicUsize>) -> Tool {
    let count = count.clone();
    Tool::blocking("order", "for tests", move |wanted: Of, context: ToolContext| {
        count.fetch_add(1, Ordering::SeqCst);
        let answer = context.block_on(context.ask("budget", HumanReview::confirmation("More than 20?")))?;
        Ok::<_, Failure>(format!("{} {}", wanted.of, answer.as_str()))
    })
}

#[tokio::test]
async fn a_tool_that_blocks_asks_in_the_middle_of_a_call() {
    let count = Arc::new(AtomicUsize::new(0));
    let make = || buyer(asking_on_a_thread(&count));
    let output = super::run(&make(), &with(agreeable, Log::default())).await;
    let told: Vec<_> = output.tools.iter().map(|tool| tool.result.clone().unwrap()).collect();
    assert_eq!(told, ["tea approve", "rice approve"]);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // Where the run leaves, nobody waits on its thread for ever.
    assert_eq!(failed(&make(), &Arc::new(Log::default())).await.kind, FailureKind::Cancelled);
}

#[tokio::test]
async fn who_asks_when_nobody_waits_any_more_is_turned_away() {
    let (sender, heard) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let late = Tool::blocking("order", "for tests", move |_: Of, context: ToolContext| {
        gate.lock().unwrap().recv().unwrap();
        let answer = context.block_on(context.ask("budget", HumanReview::confirmation("More than 20?")));
        sender.send(answer.map_err(|failure| failure.kind)).unwrap();
        Ok::<_, Failure>("too late")
    });
    let model = ScriptedModel::replies([calls([("order", r#"{"of":"tea"}"#)]), text("done")]);
    let agent = Agent::new("Buyer").model(model).tool(late.timeout(Duration::from_millis(20)));
    let log = with(agreeable, Log::default());
    let output = super::run(&agent, &log).await;
    assert!(output.tools[0].result.as_deref().unwrap().contains("has not answered within"));
    go.send(()).unwrap();
    let told = tokio::task::spawn_blocking(move || heard.recv().unwrap()).await.unwrap();
    assert_eq!(told, Err(FailureKind::Cancelled));
    assert!(questions(&log.entries()).is_empty(), "nobody was asked");
}
