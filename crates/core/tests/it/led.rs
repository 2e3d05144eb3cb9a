//! Runs that an agent leads: what the machine says, and that a log cut anywhere leads to the same end.

use outlive_core::log::{Entry, Record};
use outlive_core::machine::{Fit, Task, WorkflowMachine};
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::{
    Definition, ExecutorKind, Failure, Key, Registry, RunId, RunInfo, RunStatus, SessionId, Step, StepInput,
    StepOutput, Structure, Timestamp, WorkerId,
};
use serde_json::{Value, json};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::from_micros(1_795_404_467_000_000);

struct Leader(ExecutorKind);

impl Executor for Leader {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: self.0, name: Arc::from("The Leader"), id: Some("leader".parse().unwrap()) }
    }

    fn execute<'a>(&'a self, _: StepContext, _: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async { Err(Failure::function("machines execute nothing")) })
    }
}

fn step(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

fn led() -> Definition {
    Definition::builder("Led").agent(Leader(ExecutorKind::Agent)).step(step("one")).step(step("two")).build().unwrap()
}

fn unled() -> Definition {
    Definition::builder("Led").step(step("one")).step(step("two")).build().unwrap()
}

fn machine(definition: Option<&Definition>) -> WorkflowMachine {
    let info = RunInfo {
        run_id: RunId::parse("run").unwrap(),
        workflow_id: "led".parse().unwrap(),
        workflow_name: Arc::from("Led"),
        session_id: SessionId::parse("session").unwrap(),
        user_id: None,
    };
    let nodes = definition.map(|definition| definition.nodes.clone());
    let machine = WorkflowMachine::new(Arc::new(info), nodes, Some("hi".into()), Default::default(), NOW);
    machine.with_leader(definition.and_then(|definition| definition.leader.clone()))
}

fn claim() -> Record {
    Record::Claimed { worker: WorkerId::parse("w1").unwrap(), epoch: 1, attempt: 1, at: NOW, state: None }
}

fn call(number: u32) -> Key {
    Key::leader().speaker("agent").turn(number).call(0)
}

/// A run in progress. Its leader asks for the steps on this query, or answers at once.
struct Run {
    machine: WorkflowMachine,
    log: Vec<Entry>,
    query: Option<&'static str>,
    /// What each step was given.
    given: Vec<String>,
}

impl Run {
    fn new(definition: &Definition, query: Option<&'static str>) -> Self {
        Self { machine: machine(Some(definition)), log: Vec::new(), query, given: Vec::new() }
    }

    fn after(mut self, log: &[Entry]) -> Self {
        self.append(log.to_vec());
        self
    }

    fn append(&mut self, entries: Vec<Entry>) {
        for mut entry in entries {
            entry.event.event_index = Some(self.log.len() as u64);
            self.machine.apply(&entry).unwrap();
            self.log.push(entry);
        }
    }

    fn settle(&mut self, key: &Key, text: String) {
        let ended = Ok(Executed::from(StepOutput::new(text)));
        let say = self.machine.settle(key, ended, None, 7, NOW);
        self.append(say);
    }

    /// To its end.
    fn end(mut self) -> Self {
        let mut waits = false;
        for _ in 0..100 {
            let decision = self.machine.next(&claim(), 7, NOW);
            let is_idle = decision.is_idle();
            self.append(decision.say);
            if decision.end.is_some() {
                return self;
            }
            for task in decision.start {
                let Task::Execute(step) = task else { panic!("nothing is asked") };
                match (self.query, step.info.key == Key::leader()) {
                    (_, false) => {
                        self.given.push(step.input.text());
                        self.settle(&step.info.key, format!("{}.{}", step.input.text(), step.info.step_name));
                    }
                    (None, true) => self.settle(&step.info.key, format!("no need, {}", step.input.text())),
                    (Some(query), true) => {
                        let say = self.machine.call_steps(&call(0), json!(query), NOW).unwrap();
                        self.append(say);
                        waits = true;
                    }
                }
            }
            if is_idle && waits {
                let came = self.machine.called_back().expect("the steps have come to something");
                waits = false;
                self.settle(&Key::leader(), format!("it is {}", came.unwrap()));
            }
        }
        panic!("it does not end");
    }

    fn names(&self) -> Vec<&str> {
        self.log.iter().map(|entry| entry.event.name()).collect()
    }
}

#[test]
fn a_leader_that_answers_by_itself_gives_the_run_its_result() {
    let run = Run::new(&led(), None).end();
    assert_eq!(run.names(), ["WorkflowAgentStarted", "WorkflowAgentCompleted", "WorkflowCompleted"]);
    let output = run.machine.output();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "no need, hi"));
    assert!(output.step_results.is_empty());
}

#[test]
fn a_leader_has_the_steps_work_on_its_query_and_they_give_the_run_its_result() {
    let run = Run::new(&led(), Some("a dog")).end();
    let step = ["StepStarted", "StepOutput", "StepCompleted"];
    let around = [&["WorkflowAgentStarted", "WorkflowStarted"][..], &step, &step];
    let expected = [around.concat(), vec!["WorkflowAgentCompleted", "WorkflowCompleted"]].concat();
    assert_eq!(run.names(), expected);
    assert_eq!(run.given, ["a dog", "a dog.one"]);
    let output = run.machine.output();
    assert_eq!(output.text(), "a dog.one.two");
    assert_eq!(output.input, Some("hi".into()));
    // Steps stand where they would without a leader.
    let alone = Run::new(&unled(), None).end();
    let place = |run: &Run| {
        let started = run.log.iter().filter(|entry| entry.event.name() == "StepStarted");
        started.map(|entry| entry.event.origin.clone()).collect::<Vec<_>>()
    };
    assert_eq!(place(&run), place(&alone));
}

#[test]
fn a_led_run_cut_after_any_entry_comes_to_the_same_end() {
    for query in [None, Some("a dog")] {
        let whole = Run::new(&led(), query).end();
        for cut in 0..=whole.log.len() {
            let run = Run::new(&led(), query).after(&whole.log[..cut]).end();
            assert_eq!(run.machine.output(), whole.machine.output(), "cut at {cut}");
            let ends =
                |run: &Run| run.log.iter().filter(|entry| matches!(entry.record, Some(Record::Step { .. }))).count();
            assert_eq!(ends(&run), ends(&whole), "cut at {cut}: nothing ends twice");
            // Folded without the definition, as by whoever cancels it.
            let mut unbound = machine(None);
            whole.log[..cut].iter().for_each(|entry| drop(unbound.apply(entry).unwrap()));
            let mut bound = machine(Some(&led()));
            whole.log[..cut].iter().for_each(|entry| drop(bound.apply(entry).unwrap()));
            assert_eq!(unbound.output(), bound.output(), "cut at {cut}");
        }
    }
}

#[test]
fn the_steps_are_executed_once_in_a_run_and_for_its_leader_alone() {
    let mut run = Run::new(&led(), Some("a dog"));
    let say = run.machine.next(&claim(), 7, NOW).say;
    run.append(say);
    run.machine.next(&claim(), 7, NOW);
    let say = run.machine.call_steps(&call(0), json!("a dog"), NOW).unwrap();
    assert_eq!(say.len(), 1);
    run.append(say);
    assert!(run.machine.call_steps(&call(0), json!("a dog"), NOW).unwrap().is_empty(), "it is the same call");
    let refused = run.machine.call_steps(&call(1), json!("a cat"), NOW).unwrap_err();
    assert!(refused.message.contains("executed once") && !refused.retryable, "{refused:?}");
    for (definition, key) in [(led(), Key::step(0).speaker("agent").turn(0).call(0)), (unled(), call(0))] {
        let refused = machine(Some(&definition)).call_steps(&key, json!("a cat"), NOW).unwrap_err();
        assert!(refused.message.contains(".agent(..)"), "{refused:?}");
    }
}

#[test]
fn a_log_of_a_led_run_fits_no_definition_without_a_leader_nor_the_other_way_round() {
    let mismatch = |log: &[Entry], definition: &Definition| {
        let (mut fit, mut machine) = (Fit::new(None), machine(Some(definition)));
        let applied = log.iter().try_for_each(|entry| fit.apply(&mut machine, entry).map(drop));
        applied.and_then(|()| fit.end(&machine)).err().map(|mismatch| mismatch.to_string())
    };
    let called = Run::new(&led(), Some("a dog")).end().log;
    let told = "definition changed: agent: was one that leads the workflow, is none (entry 1)";
    assert_eq!(mismatch(&called, &unled()).as_deref(), Some(told));
    assert_eq!(mismatch(&called, &led()), None);
    let begun = Record::Said { key: Key::leader().speaker("agent").word("started") };
    let begun = Entry { record: Some(begun), ..called[0].clone() };
    let told = "definition changed: agent: was one that leads the workflow, is none";
    assert_eq!(mismatch(&[called[0].clone(), begun], &unled()).as_deref(), Some(told));
    let alone = Run::new(&unled(), None).end().log;
    let told = "definition changed: agent: was none, is one that leads the workflow (entry 1)";
    assert_eq!(mismatch(&alone, &led()).as_deref(), Some(told));
}

#[test]
fn a_leader_is_in_the_json_and_in_the_hash_and_is_read_again() {
    let definition = led();
    let json = definition.to_json();
    assert_eq!(json["agent"], json!({ "agent_id": "leader", "name": "The Leader" }));
    assert_ne!(definition.hash, unled().hash);
    assert_eq!(Structure::from_json(&json).unwrap().hash, definition.hash);
    assert_eq!(definition.deep_copy().build().unwrap().hash, definition.hash);
    let registry = ["one", "two"]
        .into_iter()
        .fold(Registry::new(), |registry, name| registry.function(name, |_, _| async { Ok::<_, Failure>("again") }));
    let missing = Definition::from_json(&json, &registry).unwrap_err().problems;
    assert_eq!(missing, [r#"agent: no agent "leader" is registered: add it with .agent(..)"#]);
    let again = Definition::from_json(&json, &registry.agent(Leader(ExecutorKind::Agent))).unwrap();
    assert_eq!((&again.hash, again.to_json()), (&definition.hash, json.clone()));
    assert!(again.executor(&Key::leader()).is_some());
    let mut nameless = json;
    nameless["agent"] = json!({ "name": "Somebody" });
    assert_eq!(Structure::from_json(&nameless).unwrap_err().problems, ["agent.agent_id: it is missing"]);
}

#[test]
fn what_cannot_be_led_is_said_when_it_is_built() {
    let schema = outlive_core::InputSchema::new(json!({}), Ok::<Value, String>);
    let team = Definition::builder("Led").agent(Leader(ExecutorKind::Team)).input_schema(schema).step(step("one"));
    let inner = Definition::builder("Outer").step(Step::new("inner").workflow(led()));
    let problems = [team.build().unwrap_err().problems, inner.build().unwrap_err().problems].concat();
    for (problem, word) in problems.iter().zip(["input schema", "only an agent can lead", "is led by an agent"]) {
        assert!(problem.contains(word), "{problem}");
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
}
