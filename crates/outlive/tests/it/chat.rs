//! A session as a conversation, with real agents on real files: it is spoken to, interrupted and summed up, and its
//! processes die in the middle.

use outlive::WorkflowBuilder;
use outlive::agent::model::Model;
use outlive::core::{EventKind, ModelRequest, Role};
use outlive::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// What models were asked: the texts of each request's messages.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Vec<String>>>>);

impl Asked {
    fn note(&self, request: &ModelRequest) {
        let texts = request.messages.iter().filter_map(|message| message.content.clone());
        self.0.lock().unwrap().push(texts.collect());
    }

    fn all(&self) -> Vec<Vec<String>> {
        self.0.lock().unwrap().clone()
    }
}

/// Looks something up first, and then answers.
fn looks_and_answers(asked: &Asked) -> impl Model + use<> {
    let asked = asked.clone();
    ScriptedModel::from_fn("m", move |request| {
        asked.note(request);
        let has_looked = request.messages.iter().any(|message| message.role == Role::Tool);
        Ok(match has_looked {
            true => ModelResponse::text("done"),
            false => ModelResponse::calls(vec![ToolCall::new("1", "look", "{}")]),
        })
    })
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Nothing {}

/// A tool that waits for a permit.
fn look(gate: &Arc<Semaphore>) -> Tool {
    let gate = gate.clone();
    Tool::new("look", "Looks something up.", move |_: Nothing, _: ToolContext| {
        let gate = gate.clone();
        async move {
            gate.acquire().await?.forget();
            Ok::<_, Failure>("found")
        }
    })
}

async fn said(run: &RunHandle, name: &str) {
    let mut events = run.events(None);
    while timeout(PATIENCE, events.next()).await.expect("it goes on").unwrap().expect("not over").name() != name {}
}

async fn ended(run: &RunHandle) -> WorkflowRunOutput {
    timeout(PATIENCE, run.wait()).await.expect("it ends").unwrap()
}

fn on(folder: &Path, builder: WorkflowBuilder) -> Workflow {
    builder.db(SqliteDb::new(folder.join("chat.db"))).build().unwrap()
}

#[tokio::test]
async fn an_agent_hears_what_it_is_told_while_its_tool_works_also_from_another_process_and_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (asked, gate) = (Asked::default(), Arc::new(Semaphore::new(0)));
    let build = || {
        let agent = Agent::new("Writer").model(looks_and_answers(&asked)).tool(look(&gate));
        on(folder.path(), Workflow::of(agent))
    };
    let first = build();
    let run = first.run("write").session_id("ada").background().await.unwrap();
    said(&run, "ToolCallStarted").await;
    // Another process, which executes nothing of it.
    let other = build();
    let message = other.run("shorter").session_id("ada").steer().background().await.unwrap();
    assert_eq!(message.run_id(), run.run_id());
    let waits = message.steering_run_id().unwrap().clone();
    let later =
        other.run("a question for another day").session_id("ada").steer_to("nobody").background().await.unwrap();
    let later = later.steering_run_id().unwrap().clone();
    first.engine().await.unwrap().kill();
    let run_id = run.run_id().clone();
    drop((run, first));
    // The other takes it over, with what was said.
    gate.add_permits(9);
    let run = other.attach(run_id.as_str()).await.unwrap();
    let output = ended(&run).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "done"));
    let heard = asked.all().iter().filter(|texts| texts.ends_with(&["found".to_owned(), "shorter".to_owned()])).count();
    assert_eq!(heard, 1, "{:?}", asked.all());
    assert_eq!(ended(&other.attach(waits.as_str()).await.unwrap()).await.status, RunStatus::Cancelled);
    let later = ended(&other.attach(later.as_str()).await.unwrap()).await;
    assert_eq!((later.status, later.text().as_str()), (RunStatus::Completed, "done"), "it is the next run");
    other.shutdown().await.unwrap();
}

#[tokio::test]
async fn whoever_comes_after_a_run_that_was_interrupted_knows_what_it_had_said() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Asked::default();
    let model = {
        let asked = asked.clone();
        ScriptedModel::from_fn("m", move |request| {
            asked.note(request);
            Ok(ModelResponse::text("fine"))
        })
    };
    // Says something, and then thinks for ever.
    let slow = Step::function("Storyteller", |context, input| async move {
        if input.input_text() == "a long story" {
            context.say("Once upon a time");
            tokio::time::sleep(PATIENCE * 2).await;
        }
        Ok::<_, Failure>(input.text())
    });
    let agent = Agent::new("Friend").model(model);
    let builder = Workflow::builder("Talk").add_workflow_history_to_steps(true);
    let workflow = on(folder.path(), builder.step(slow).step(Step::new("Talk").agent(agent)));
    let first = workflow.run("a long story").session_id("ada").background().await.unwrap();
    said(&first, "RunContent").await;
    let second = workflow.run("a short one").session_id("ada").interrupt().background().await.unwrap();
    assert_eq!(ended(&first).await.status, RunStatus::Cancelled);
    assert_eq!(ended(&second).await.status, RunStatus::Completed);
    let expected = "<workflow_history_context>\n[Workflow Run-1]\nUser input: a long story\n\
        Workflow output (interrupted): Once upon a time\n\n</workflow_history_context>\n\na short one";
    assert_eq!(asked.all(), [[expected.to_owned()]]);
    workflow.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_summary_is_made_once_however_often_its_step_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let (asked, gate, sums) = (Asked::default(), Arc::new(Semaphore::new(3)), Arc::new(AtomicUsize::new(0)));
    let build = || {
        let sums = sums.clone();
        let summarizer = ScriptedModel::from_fn("sum", move |_| {
            sums.fetch_add(1, Ordering::Relaxed);
            Ok(ModelResponse::text("They spoke of one and two."))
        });
        let agent = Agent::new("Writer").model(looks_and_answers(&asked)).tool(look(&gate));
        let builder = Workflow::builder("Sums").add_workflow_history_to_steps(true).num_history_runs(1);
        on(folder.path(), builder.summarize_history(summarizer).step(Step::new("Write").agent(agent)))
    };
    let first = build();
    for text in ["one", "two", "three"] {
        first.run(text).session_id("ada").await.unwrap();
    }
    assert_eq!(sums.load(Ordering::Relaxed), 1, "with the third");
    let run = first.run("four").session_id("ada").background().await.unwrap();
    said(&run, "ToolCallStarted").await;
    assert_eq!(sums.load(Ordering::Relaxed), 2);
    let run_id = run.run_id().clone();
    first.engine().await.unwrap().kill();
    drop((run, first));
    gate.add_permits(1);
    let second = build();
    let output = ended(&second.attach(run_id.as_str()).await.unwrap()).await;
    assert_eq!(output.status, RunStatus::Completed, "{}", output.text());
    assert_eq!(sums.load(Ordering::Relaxed), 2, "it is in the log");
    let question = asked.all().last().unwrap()[0].clone();
    assert!(
        question
            .contains("[Summary of earlier runs]\nThey spoke of one and two.\n\n[Workflow Run-1]\nUser input: three\n")
    );
    let state = second.get_session_state("ada").await.unwrap();
    assert_eq!(state["session_summary"]["summary"], "They spoke of one and two.");
    let told = read_names(&second, &run_id).await;
    assert_eq!(
        told.iter().filter(|name| **name == "RunStarted").count(),
        2,
        "the summarizer's and the agent's: {told:?}"
    );
    second.shutdown().await.unwrap();
}

/// What a guardrail masks.
const MAIL: &str = "ada@example.org";

/// An agent whose guardrail masks what it is asked; it says nothing of it.
fn masks(asked: &Asked, name: &str) -> Agent {
    Agent::new(name).model(answers(asked, "read")).pre_hook(PiiGuardrail::new().mask_pii(true))
}

fn answers(asked: &Asked, text: &'static str) -> impl Model + use<> {
    let asked = asked.clone();
    ScriptedModel::from_fn("m", move |request| {
        asked.note(request);
        Ok(ModelResponse::text(text))
    })
}

impl Asked {
    /// What was asked since the last time, all in one; nobody was asked what is masked.
    fn masked(&self) -> String {
        let texts = std::mem::take(&mut *self.0.lock().unwrap()).concat().join("\n");
        assert!(!texts.contains(MAIL), "{texts}");
        texts
    }
}

#[tokio::test]
async fn what_a_guardrail_masked_stays_masked_for_every_model_that_reads_the_session_later() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Asked::default();
    let build = || {
        let writer = Agent::new("Writer").model(answers(&asked, "written")).add_history_to_context(true);
        let look = Step::function("Look", |context, input| async move {
            let before = context.history(10).await?;
            let said: Vec<_> = before.iter().map(|run| run.input_text()).collect();
            Ok::<_, Failure>(format!("{}; {}", input.text(), said.join(", ")))
        });
        let builder = Workflow::builder("Desk").num_history_runs(1).summarize_history(answers(&asked, "a summary"));
        let builder = builder.step(Step::new("Read").agent(masks(&asked, "Reader")));
        // Whoever comes after it has no guardrail, and has never seen what was masked.
        let builder = builder.step(look).step(Step::new("Write").agent(writer).add_workflow_history(true));
        on(folder.path(), builder)
    };
    let ask = |workflow: &Workflow, number: u32| workflow.run(format!("{number}: I am {MAIL}")).session_id("ada");
    let first = build();
    for number in 1..=3 {
        ask(&first, number).await.unwrap();
        let told = asked.masked();
        assert!(told.contains(&format!("{number}: I am ****")), "{told}");
        // Shown as the one before, summed up, and told by the function.
        let before = format!("User input: {}: I am ****", number - 1);
        assert_eq!((told.contains(&before), told.contains("a summary")), (number > 1, number > 2), "{told}");
        assert!(told.contains("1: I am *****"), "{told}");
    }
    // A process that takes the run over reads the session anew.
    let run = ask(&first, 4).background().await.unwrap();
    said(&run, "PreHookStarted").await;
    let run_id = run.run_id().clone();
    first.engine().await.unwrap().kill();
    drop((run, first));
    let second = build();
    let output = ended(&second.attach(run_id.as_str()).await.unwrap()).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "written"));
    assert!(asked.masked().contains("4: I am ****"));
    // What the caller sent is kept as it was.
    assert_eq!(output.input.unwrap(), format!("4: I am {MAIL}"));
    let state = second.get_session_state("ada").await.unwrap();
    assert_eq!(state["session_summary"]["summary"], "a summary");
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_leads_and_one_that_was_interrupted_are_told_what_was_asked_as_it_was_masked() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Asked::default();
    let leads = {
        let asked = asked.clone();
        ScriptedModel::from_fn("lead", move |request| {
            // Its own question is its own to see; what it is told of earlier ones is not.
            let system = request.messages.iter().find(|message| message.role == Role::System).unwrap();
            asked.0.lock().unwrap().push(vec![system.content.clone().unwrap()]);
            Ok(match request.messages.iter().any(|message| message.role == Role::Tool) {
                true => ModelResponse::text("done"),
                false => ModelResponse::calls(vec![ToolCall::new("1", "run_workflow", r#"{"query": "go on"}"#)]),
            })
        })
    };
    let builder = Workflow::builder("Newsroom").agent(WorkflowAgent::new(leads).num_history_runs(3));
    let workflow = on(folder.path(), builder.step(Step::new("Read").agent(masks(&asked, "Reader"))));
    for number in 1..=2 {
        workflow.run(format!("{number}: I am {MAIL}")).session_id("ada").await.unwrap();
        let told = asked.masked();
        assert_eq!(told.contains("User input: 1: I am ****"), number == 2, "{told}");
    }
    workflow.shutdown().await.unwrap();

    // Another session of another workflow: the same agent remembers what it was asked when it was interrupted.
    let (gate, talked) = (Arc::new(Semaphore::new(0)), Asked::default());
    let talker = Agent::new("Talker").model(looks_and_answers(&talked)).tool(look(&gate)).add_history_to_context(true);
    let builder = Workflow::builder("Talk").step(Step::new("Talk").agent(talker));
    let workflow = on(folder.path(), builder.step(Step::new("Read").agent(masks(&asked, "Reader"))));
    let first = workflow.run(format!("I am {MAIL}")).session_id("bob").background().await.unwrap();
    said(&first, "ToolCallStarted").await;
    let second = workflow.run("And now?").session_id("bob").interrupt().background().await.unwrap();
    assert_eq!(ended(&first).await.status, RunStatus::Cancelled);
    gate.add_permits(9);
    assert_eq!(ended(&second).await.status, RunStatus::Completed);
    asked.masked();
    let last = talked.all().pop().unwrap().join("\n");
    assert!(!last.contains(MAIL), "{last}");
    workflow.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_said_to_a_run_that_executes_is_masked_as_what_it_was_asked_would_be() {
    let folder = tempfile::tempdir().unwrap();
    let (asked, gate) = (Asked::default(), Arc::new(Semaphore::new(0)));
    let build = || {
        let writer = Agent::new("Writer").model(looks_and_answers(&asked)).tool(look(&gate));
        let builder = Workflow::builder("Desk").step(Step::new("Read").agent(masks(&asked, "Reader")));
        on(folder.path(), builder.step(Step::new("Write").agent(writer)))
    };
    let first = build();
    let run = first.run("write").session_id("ada").background().await.unwrap();
    said(&run, "ToolCallStarted").await;
    first.run(format!("Write to {MAIL}")).session_id("ada").steer().background().await.unwrap();
    let run_id = run.run_id().clone();
    first.engine().await.unwrap().kill();
    drop((run, first));
    gate.add_permits(9);
    let second = build();
    assert_eq!(ended(&second.attach(run_id.as_str()).await.unwrap()).await.status, RunStatus::Completed);
    let told = asked.masked();
    assert!(told.contains("Write to ****"), "{told}");
    let db = second.engine().await.unwrap().db().clone();
    let log = outlive::engine::testing::read_log(&*db, &run_id).await;
    assert!(!log.iter().any(|entry| serde_json::to_string(entry).unwrap().contains(MAIL)));
    second.shutdown().await.unwrap();
}

async fn read_names(workflow: &Workflow, run_id: &outlive::core::RunId) -> Vec<&'static str> {
    let db = workflow.engine().await.unwrap().db().clone();
    let log = outlive::engine::testing::read_log(&*db, run_id).await;
    let is_quiet = |kind: &EventKind| matches!(kind, EventKind::RunContent(_));
    log.iter().filter(|entry| !is_quiet(&entry.event.kind)).map(|entry| entry.event.name()).collect()
}
