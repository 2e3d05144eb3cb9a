//! Trees of containers: what a machine says for each kind, and that a log cut anywhere leads to the same end.

use outlive_core::log::{Entry, Part, Place, Record};
use outlive_core::machine::{Task, WorkflowMachine};
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::testing::{Dice, Forest, play, reply};
use outlive_core::{
    Answer, Answered, Block, Condition, Definition, EventKind, ExecutorKind, Failure, FailureKind, ForEach, Loop,
    OnError, Parallel, Retry, Router, RunId, RunInfo, RunStatus, SessionId, Step, StepIndex, StepInput, StepOutput,
    StepType, Steps, Timestamp, Verdict, WorkerId,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_micros(1_795_404_467_000_000);

fn step(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

fn build(name: &str, blocks: Vec<Block>) -> Definition {
    blocks.into_iter().fold(Definition::builder(name), |builder, block| builder.step(block)).build().unwrap()
}

fn machine(definition: &Definition) -> WorkflowMachine {
    let info = RunInfo {
        run_id: RunId::parse("run").unwrap(),
        workflow_id: definition.id.clone(),
        workflow_name: definition.name.clone(),
        session_id: SessionId::parse("session").unwrap(),
        user_id: None,
    };
    WorkflowMachine::new(Arc::new(info), Some(definition.nodes.clone()), Some("hi".into()), Default::default(), NOW)
}

fn claim() -> Record {
    Record::Claimed { worker: WorkerId::parse("w1").unwrap(), epoch: 1, attempt: 1, at: NOW, state: None }
}

/// What a step gives back, and what it changes in the session.
type Ended = (Result<StepOutput, Failure>, Option<Value>);

/// Drives a machine the way an engine does, with executors and verdicts that answer at once, in this order: first what
/// was started first, or last.
struct Driver<'a> {
    definition: &'a Definition,
    machine: WorkflowMachine,
    log: Vec<Entry>,
    session: Map<String, Value>,
    now: Timestamp,
    last_first: bool,
    asked: usize,
    people: People,
}

/// When questions to people are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum People {
    /// Never.
    Away,
    /// Once the run rests.
    Late,
    /// As soon as they are asked.
    Early,
}

impl<'a> Driver<'a> {
    fn new(definition: &'a Definition) -> Self {
        let machine = machine(definition);
        let (log, session) = (Vec::new(), Map::new());
        Self { definition, machine, log, session, now: NOW, last_first: false, asked: 0, people: People::Away }
    }

    /// A driver that has read a log, and the session that goes with it.
    fn after(definition: &'a Definition, log: &[Entry]) -> Self {
        Self::new(definition).read(log)
    }

    fn answered(mut self, people: People) -> Self {
        self.people = people;
        self
    }

    /// Answers everything that is open.
    fn answer(&mut self) -> Vec<outlive_core::Key> {
        let mut dropped = Vec::new();
        for question in self.machine.questions() {
            let answered = Answered { answer: reply(&question), by: Some(Arc::from("ada")), at: self.now };
            question.check(&answered.answer).unwrap();
            let say = self.machine.answer(&question.key, &answered);
            dropped.extend(self.append(say));
        }
        dropped
    }

    /// The same, by a machine that does not have the definition.
    fn unbound(definition: &'a Definition, log: &[Entry]) -> Self {
        let mut driver = Self::new(definition);
        let info = driver.machine.info().clone();
        driver.machine = WorkflowMachine::new(info, None, Some("hi".into()), Default::default(), NOW);
        driver.read(log)
    }

    fn read(mut self, log: &[Entry]) -> Self {
        for entry in log {
            self.append(vec![entry.clone()]);
        }
        self
    }

    fn append(&mut self, entries: Vec<Entry>) -> Vec<outlive_core::Key> {
        let mut dropped = Vec::new();
        for mut entry in entries {
            entry.event.event_index = Some(self.log.len() as u64);
            let applied = self.machine.apply(&entry).unwrap();
            outlive_core::port::merge(&mut self.session, &applied.session);
            dropped.extend(applied.dropped);
            self.log.push(entry);
        }
        dropped
    }

    fn run(mut self, mut execute: impl FnMut(&StepInput, &str, u32, &Map<String, Value>) -> Ended) -> Self {
        let mut flights: VecDeque<Task> = VecDeque::new();
        for _ in 0..100_000 {
            let decision = self.machine.next(&claim(), 7, self.now);
            let is_idle = decision.is_idle();
            let mut dropped = self.append(decision.say);
            if self.people == People::Early && self.machine.has_questions() && self.machine.ended().is_none() {
                dropped.extend(self.answer());
            }
            flights.retain(|task| !dropped.iter().any(|key| task.key() == key || task.key().is_inside(key)));
            match decision.end {
                Some(RunStatus::Paused) if self.people != People::Away => {
                    let resumed = self.machine.resumed(&claim(), 2, self.now);
                    self.append(vec![resumed]);
                    self.answer();
                    flights.clear();
                    continue;
                }
                Some(_) => return self,
                None => {}
            }
            flights.extend(decision.start);
            if !is_idle {
                continue;
            }
            let task = if self.last_first { flights.pop_back() } else { flights.pop_front() };
            let dropped = match task {
                Some(Task::Execute(step)) => {
                    let mut session = self.session.clone();
                    outlive_core::port::merge(&mut session, &step.state);
                    let (result, state) = execute(&step.input, &step.info.step_name, step.info.attempt, &session);
                    let result = result.map(Executed::from);
                    let say = self.machine.settle(&step.info.key, result, state, 7, self.now);
                    self.append(say)
                }
                Some(Task::Ask(ask)) => {
                    self.asked += 1;
                    let verdict = self.definition.judge(&ask.key, ask.given).expect("something decides");
                    let verdict = at_once(verdict);
                    let say = self.machine.decided(&ask.key, verdict, 7, self.now);
                    self.append(say)
                }
                None => {
                    self.now = decision.wake.expect("nothing is in progress, so something must be due");
                    Vec::new()
                }
            };
            flights.retain(|task| !dropped.iter().any(|key| task.key() == key || task.key().is_inside(key)));
        }
        panic!("it does not end");
    }

    fn names(&self) -> Vec<String> {
        self.log
            .iter()
            .map(|entry| {
                let name = entry.event.origin.step_name.as_deref().unwrap_or_default();
                format!("{} {name}", entry.event.name()).trim_end().to_owned()
            })
            .collect()
    }

    fn find(&self, event: &str, step: &str) -> &Entry {
        let is_it = |entry: &&Entry| {
            entry.event.name() == event && entry.event.origin.step_name.as_deref().unwrap_or_default() == step
        };
        self.log.iter().find(is_it).unwrap_or_else(|| panic!("no {event} of {step}: {:?}", self.names()))
    }
}

/// What a future that never waits gives back.
fn at_once<T>(mut future: outlive_core::port::BoxFuture<'_, T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

/// Appends a mark to what it is given.
fn mark(input: &StepInput, name: &str, _: u32, _: &Map<String, Value>) -> Ended {
    (Ok(StepOutput::new(format!("{}.{name}", input.text()))), None)
}

#[test]
fn steps_in_a_row_hand_on_what_they_made_and_the_group_hands_on_the_last() {
    let definition =
        build("Example", vec![Steps::new("group").step(step("a")).step(step("b")).into(), step("after").into()]);
    let done = Driver::new(&definition).run(mark);
    let expected = [
        "WorkflowStarted",
        "StepsExecutionStarted group",
        "StepStarted a",
        "StepCompleted a",
        "StepStarted b",
        "StepCompleted b",
        "StepsExecutionCompleted group",
        "StepStarted after",
        "StepOutput after",
        "StepCompleted after",
        "WorkflowCompleted",
    ];
    assert_eq!(done.names(), expected);
    let output = done.machine.output();
    assert_eq!(output.text(), "hi.a.b.after");
    assert_eq!(output.step_results[0].text(), "Steps group completed with 2 results");
    assert_eq!(output.step_results[0].step_type, StepType::Steps);
    let group = done.find("StepsExecutionStarted", "group").event.origin.clone();
    let inside = done.find("StepStarted", "b").event.origin.clone();
    assert_eq!((inside.parent_step_id, inside.step_index), (group.step_id, Some(StepIndex::Inside(vec![0, 1]))));
    assert_eq!(group.parent_step_id, None);
}

#[test]
fn branches_see_what_was_before_them_and_are_joined_in_the_order_of_the_definition() {
    let parallel = Parallel::new("par").step(step("p1")).step(Steps::new("p2").step(step("x")).step(step("y")));
    let definition = build("Example", vec![step("first").into(), parallel.into(), step("after").into()]);
    for last_first in [false, true] {
        let mut driver = Driver::new(&definition);
        driver.last_first = last_first;
        let done = driver.run(|input, name, attempt, session| {
            let (output, _) = mark(input, name, attempt, session);
            assert!(!input.previous_step_outputs.contains_key("p1") || name == "after");
            (output, Some(json!({ "who": name, name: session.get("who").cloned().unwrap_or_default() })))
        });
        let output = done.machine.output();
        let branches: Vec<_> = output.step_results[1].steps.iter().map(|step| step.text()).collect();
        assert_eq!(branches, ["hi.first.p1", "Steps p2 completed with 2 results"]);
        assert_eq!(output.text(), "hi.first.x.y".to_owned() + ".after", "the last branch, not the last to end");
        assert_eq!(
            output.step_results[1].text(),
            "## Parallel Execution Results\n\n### ✅ SUCCESS: p1\nhi.first.p1\n\n### ✅ SUCCESS: p2\nSteps p2 completed with 2 results"
        );
        // Each branch saw the state from before, and its own changes; the later branch wins at the join.
        assert_eq!(
            Value::Object(done.session.clone()),
            json!({ "who": "after", "p1": "first", "x": "first", "y": "x", "after": "y" })
        );
        let join = done.find("ParallelExecutionCompleted", "par");
        let Some(Record::Step { state: Some(state), .. }) = &join.record else { panic!("{join:?}") };
        assert_eq!(*state, json!({ "who": "y", "p1": "first", "x": "first", "y": "x" }), "the merge is recorded");
    }
}

/// What says of itself that it is an agent.
struct Speaker;

impl Executor for Speaker {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Agent, name: Arc::from("speaker"), id: None }
    }

    fn execute<'a>(&'a self, _: StepContext, _: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async { Err(Failure::fatal("it is never executed")) })
    }
}

#[test]
fn an_agent_after_branches_works_on_what_all_of_them_gave_back_and_a_function_on_the_last() {
    let speaks = |name| Step::new(name).executor(Speaker);
    let parallel = || {
        let nothing = Condition::new("nothing").when_always(false).step(step("never"));
        Parallel::new("par")
            .step(Steps::new("group").step(step("a")).step(step("b")))
            .step(step("lost").on_error(OnError::Skip))
            .step(nothing)
            .step(Parallel::new("inner").step(step("c")).step(step("d")))
    };
    let inner = || build("Inner", vec![speaks("first inside").into()]);
    let all = "=== group ===\nhi.a.b\n\n=== inner ===\n=== c ===\nhi.c\n\n=== d ===\nhi.d";
    let given = |blocks: Vec<Block>, asked: &str| {
        let definition = build("Example", blocks);
        let mut found = None;
        Driver::new(&definition).run(|input, name, attempt, session| {
            if name == asked {
                found = input.previous_step_content.clone().or_else(|| input.input.as_deref().cloned());
            }
            if name == "lost" { (Err(Failure::fatal("lost")), None) } else { mark(input, name, attempt, session) }
        });
        found.unwrap()
    };
    let around = || Steps::new("around").step(parallel());
    let holds = || Condition::new("holds").when_always(true).step(speaks("in it"));
    let each = || ForEach::new("each").items(|_| ["x", "y"]).step(step("item"));
    assert_eq!(given(vec![parallel().into(), speaks("next").into()], "next"), all);
    assert_eq!(given(vec![parallel().into(), step("next").into()], "next"), "hi.d");
    assert_eq!(given(vec![around().into(), speaks("next").into()], "next"), all);
    assert_eq!(given(vec![parallel().into(), holds().into()], "in it"), all);
    let nested = Step::new("nested").workflow(Arc::new(inner()));
    assert_eq!(given(vec![parallel().into(), nested.into()], "first inside"), all);
    assert_eq!(
        given(vec![each().into(), speaks("next").into()], "next"),
        "=== item ===\nx.item\n\n=== item ===\ny.item"
    );
    // What comes in between is all there is.
    assert_eq!(given(vec![parallel().into(), step("next").into(), speaks("last").into()], "last"), "hi.d.next");
    let none = Parallel::new("par").step(step("lost").on_error(OnError::Skip));
    assert_eq!(given(vec![step("a").into(), none.into(), speaks("next").into()], "next"), "hi.a");
}

#[test]
fn a_condition_takes_one_of_its_sequences_or_none() {
    let condition = |holds: bool, has_else: bool| {
        let condition = Condition::new("cond").when(move |_| holds).step(step("c1")).step(step("c2"));
        if has_else { condition.otherwise(step("e1")) } else { condition }
    };
    for (holds, has_else, content, text) in [
        (true, true, "Condition cond completed with 2 results (if branch)", "hi.before.c1.c2"),
        (false, true, "Condition cond completed with 1 results (else branch)", "hi.before.e1"),
        (false, false, "Condition cond not met - skipped 2 steps", "hi.before"),
    ] {
        let definition = build("Example", vec![step("before").into(), condition(holds, has_else).into()]);
        let done = Driver::new(&definition).run(mark);
        let output = done.machine.output();
        assert_eq!((output.step_results[1].text().as_str(), output.text().as_str()), (content, text));
        let started = done.find("ConditionExecutionStarted", "cond");
        assert!(matches!(&started.record, Some(Record::Begin { verdict: Some(Verdict::Is(is)), .. }) if *is == holds));
        assert_eq!(done.asked, 1);
    }
}

#[test]
fn a_loop_repeats_until_its_verdict_and_starts_over_or_goes_on_as_it_is_told() {
    let repeated = |forwards| {
        Loop::new("loop")
            .step(step("l1"))
            .step(step("l2"))
            .max_iterations(4)
            .until(|question| question.iteration == 3 && question.last_text().ends_with("l2"))
            .forward_iteration_output(forwards)
    };
    for (forwards, text) in [(false, "hi.l1.l2"), (true, "hi.l1.l2.l1.l2.l1.l2")] {
        let definition = build("Example", vec![repeated(forwards).into()]);
        let done = Driver::new(&definition).run(mark);
        let output = done.machine.output();
        assert_eq!(output.text(), text);
        assert_eq!(output.step_results[0].text(), "Loop loop completed 3 iterations with 6 total steps");
        let ends = done.log.iter().filter_map(|entry| match &entry.event.kind {
            EventKind::LoopIterationCompleted { iteration, should_continue, .. } => {
                Some((*iteration, *should_continue))
            }
            _ => None,
        });
        assert_eq!(ends.collect::<Vec<_>>(), [(1, true), (2, true), (3, false)]);
        let ids = done.log.iter().filter(|entry| entry.event.name() == "StepStarted");
        let ids: Vec<_> = ids.map(|entry| entry.event.origin.step_id.clone()).collect();
        assert_eq!(ids[0], ids[2], "a step has the same id in every iteration");
    }
}

#[test]
fn containers_in_a_loop_have_another_id_in_each_iteration() {
    let inner = Parallel::new("par").step(step("p"));
    let definition = build("Example", vec![Loop::new("loop").step(inner).max_iterations(2).into()]);
    let done = Driver::new(&definition).run(mark);
    let ids: Vec<_> = done.log.iter().filter(|entry| entry.event.name() == "ParallelExecutionStarted").collect();
    assert_ne!(ids[0].event.origin.step_id, ids[1].event.origin.step_id);
    assert_eq!(ids[0].event.origin.step_index, Some(StepIndex::Inside(vec![0, 0])));
}

#[test]
fn a_router_executes_what_was_chosen_in_that_order() {
    let router = |names: &'static [&'static str]| {
        Router::new("router").select(move |_| names.to_vec()).choice(step("a")).choice(step("b")).choice(step("c"))
    };
    for (names, text, content) in [
        (&["b"][..], "hi.b", "Router router completed with 1 results"),
        (&["c", "a"], "hi.c.a", "Router router completed with 2 results"),
        (&[], "", "Router router completed with 0 results"),
    ] {
        let definition = build("Example", vec![router(names).into()]);
        let output = Driver::new(&definition).run(mark).machine.output();
        assert_eq!((output.text().as_str(), output.step_results[0].text().as_str()), (text, content));
    }
    for (names, problem) in [
        (&["b", "x"][..], "it chose \"x\", which is not among its choices: a, b, c"),
        (&["b", "b"], "it chose \"b\" twice"),
    ] {
        let definition = build("Example", vec![router(names).into()]);
        let done = Driver::new(&definition).run(mark);
        assert_eq!(done.machine.output().status, RunStatus::Error);
        assert!(done.machine.output().text().contains(problem), "{}", done.machine.output().text());
        assert_eq!(done.names(), ["WorkflowStarted", "StepError router", "WorkflowError"]);
    }
}

#[test]
fn a_workflow_in_a_step_is_a_run_of_its_own_inside_the_run() {
    let inner = Arc::new(build("Inner", vec![step("i1").into(), step("i2").into()]));
    let definition =
        build("Outer", vec![step("before").into(), Step::new("nested").workflow(inner).into(), step("after").into()]);
    let done = Driver::new(&definition).run(mark);
    let expected = [
        "WorkflowStarted",
        "StepStarted before",
        "StepOutput before",
        "StepCompleted before",
        "StepStarted nested",
        "WorkflowStarted",
        "StepStarted i1",
        "StepOutput i1",
        "StepCompleted i1",
        "StepStarted i2",
        "StepOutput i2",
        "StepCompleted i2",
        "WorkflowCompleted",
        "StepCompleted nested",
        "StepStarted after",
        "StepOutput after",
        "StepCompleted after",
        "WorkflowCompleted",
    ];
    assert_eq!(done.names(), expected);
    let outer = done.find("StepStarted", "nested").event.origin.clone();
    let inside = done.find("StepStarted", "i2").event.origin.clone();
    assert_eq!((inside.nested_depth, inside.step_index), (1, Some(StepIndex::At(1))));
    assert_eq!((inside.parent_step_id, &*inside.workflow_name.unwrap()), (outer.step_id.clone(), "Inner"));
    assert_ne!(inside.run_id, outer.run_id);
    let output = done.machine.output();
    assert_eq!(output.text(), "hi.before.i1.i2.after");
    let nested = &output.step_results[1];
    assert_eq!(nested.step_run_id.as_deref(), inside.run_id.as_ref().map(RunId::as_str));
    assert_eq!(
        (nested.step_type, nested.steps.len(), nested.text().as_str()),
        (StepType::Workflow, 2, "hi.before.i1.i2")
    );
}

#[test]
fn a_failure_inside_fails_what_it_is_in_up_to_where_it_is_skipped() {
    let fails = |name: &'static str| {
        move |input: &StepInput, step: &str, attempt: u32, session: &Map<String, Value>| match step == name {
            true => (Err(Failure::fatal("no power")), None),
            false => mark(input, step, attempt, session),
        }
    };
    let inner = || Steps::new("group").step(step("a")).step(step("b")).step(step("c"));
    let definition = build("Example", vec![Parallel::new("par").step(inner()).step(step("d")).into()]);
    let done = Driver::new(&definition).run(fails("b"));
    assert_eq!(done.names()[done.names().len() - 2..], ["StepError b", "WorkflowError"]);
    let output = done.machine.output();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Error, "step \"b\": no power"));
    let group = output.step_results[0].steps.iter().find(|step| step.step_name.as_deref() == Some("group")).unwrap();
    assert_eq!(group.steps.iter().map(|step| step.success).collect::<Vec<_>>(), [true, false]);
    assert!(!output.step_results[0].success && !group.success);

    let parallel = Parallel::new("par").step(inner().on_error(OnError::Skip)).step(step("d"));
    let definition = build("Example", vec![parallel.into(), step("after").into()]);
    let done = Driver::new(&definition).run(fails("b"));
    let output = done.machine.output();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi.d.after"));
    let skipped = &output.step_results[0].steps[0];
    assert_eq!(skipped.error.as_deref(), Some("no power"));
    assert!(output.step_results[0].text().contains("### ❌ FAILURE: group"), "{}", output.step_results[0].text());
}

#[test]
fn a_container_that_is_tried_again_forgets_what_was_inside_it_and_asks_anew() {
    let condition = Condition::new("cond").when(|_| true).step(step("a")).step(step("b")).retry(Retry::times(2));
    let definition = build("Example", vec![condition.into()]);
    let mut seen = Vec::new();
    let done = Driver::new(&definition).run(|input, name, attempt, session| {
        seen.push(name.to_owned());
        let fails = name == "b" && seen.iter().filter(|name| *name == "b").count() < 3;
        if fails { (Err(Failure::function("not yet")), None) } else { mark(input, name, attempt, session) }
    });
    assert_eq!(seen, ["a", "b", "a", "b", "a", "b"]);
    assert_eq!((done.asked, done.machine.output().text().as_str()), (3, "hi.a.b"));
    let keys = done.log.iter().filter_map(|entry| match &entry.record {
        Some(Record::Begin { key, .. }) => Some(key.to_string()),
        _ => None,
    });
    assert_eq!(keys.collect::<Vec<_>>(), ["0", "0~2", "0~3"]);
    assert!(done.names().contains(&"CustomEvent cond".to_owned()), "it says so");
}

#[test]
fn a_container_past_its_time_fails_and_what_is_in_progress_is_dropped() {
    let parallel = Parallel::new("par").step(step("quick")).step(step("slow")).timeout(Duration::from_secs(5));
    let definition = build("Example", vec![parallel.into()]);
    let mut driver = Driver::new(&definition);
    // Begun, and nothing ends in time.
    let mut started = Vec::new();
    loop {
        let decision = driver.machine.next(&claim(), 0, NOW);
        let is_idle = decision.is_idle();
        driver.append(decision.say);
        started.extend(decision.start);
        if is_idle {
            assert_eq!(decision.wake, Some(NOW + Duration::from_secs(5)));
            break;
        }
    }
    let late = NOW + Duration::from_secs(5);
    let say = driver.machine.next(&claim(), 0, late).say;
    driver.append(say);
    assert_eq!(driver.machine.ended(), Some(RunStatus::Error));
    let text = driver.machine.output().text();
    assert_eq!(text, "Parallel \"par\" took longer than its limit of 5000 ms");
    let key = started[0].key().clone();
    let late_end = driver.machine.settle(&key, Ok(StepOutput::new("late").into()), None, 0, late);
    assert!(late_end.is_empty() || driver.machine.ended().is_some());
}

#[test]
fn a_verdict_that_comes_too_late_is_dropped() {
    let repeated = Loop::new("loop").step(step("a")).until(|_| true).timeout(Duration::from_secs(5));
    let definition = build("Example", vec![repeated.retry(Retry::times(1)).into()]);
    let mut driver = Driver::new(&definition);
    let mut ask = None;
    while ask.is_none() {
        let decision = driver.machine.next(&claim(), 0, NOW);
        driver.append(decision.say);
        for task in decision.start {
            match task {
                Task::Execute(step) => {
                    let done = Ok(StepOutput::new("done").into());
                    let say = driver.machine.settle(&step.info.key, done, None, 0, NOW);
                    driver.append(say);
                }
                Task::Ask(asked) => ask = Some(asked),
            }
        }
    }
    let late = NOW + Duration::from_secs(5);
    let say = driver.machine.next(&claim(), 0, late).say;
    let key = ask.unwrap().key;
    assert_eq!(driver.append(say), std::slice::from_ref(&key), "nobody waits for it any longer");
    let retried = driver.log.len();
    assert!(driver.names().contains(&"CustomEvent loop".to_owned()));
    let say = driver.machine.decided(&key, Ok(Verdict::Is(true)), 0, late);
    driver.append(say);
    assert_eq!(driver.log.len(), retried, "{:?}", driver.names());
    let wake = driver.machine.next(&claim(), 0, late).wake.unwrap();
    assert!(wake > late && wake <= late + Duration::from_secs(1), "only the next attempt is due");
    driver.now = late;
    assert_eq!(driver.run(mark).machine.output().text(), "hi.a");
}

#[test]
fn nothing_is_due_for_what_has_ended() {
    let inner = Steps::new("quick").step(step("a")).timeout(Duration::from_secs(5));
    let parallel = Parallel::new("par").step(inner).step(step("slow").retry(Retry::times(1)));
    let definition = build("Example", vec![parallel.into()]);
    let mut driver = Driver::new(&definition);
    let fails = |name: &str| name == "slow";
    loop {
        let decision = driver.machine.next(&claim(), 0, NOW);
        let is_idle = decision.is_idle();
        driver.append(decision.say);
        for task in decision.start {
            let Task::Execute(step) = task else { panic!("{task:?}") };
            let later = Failure { retry_after_ms: Some(60_000), ..Failure::function("not yet") };
            let result = if fails(&step.info.step_name) { Err(later) } else { Ok(StepOutput::new("a").into()) };
            let say = driver.machine.settle(&step.info.key, result, None, 0, NOW);
            driver.append(say);
        }
        if is_idle {
            assert!(decision.wake.unwrap() >= NOW + Duration::from_secs(60), "{:?}", decision.wake);
            break;
        }
    }
}

#[test]
fn a_log_of_another_kind_of_node_does_not_fit() {
    let was = build("Example", vec![Steps::new("a").step(step("x")).into(), step("b").into()]);
    let log = Driver::new(&was).run(mark).log;
    let fails_at = |is: Vec<Block>| {
        let definition = build("Example", is);
        let mut machine = machine(&definition);
        log.iter().find_map(|entry| machine.apply(entry).err()).map(|mismatch| mismatch.to_string())
    };
    let same = fails_at(vec![Steps::new("a").step(step("x")).into(), step("b").into()]);
    assert_eq!(same, None);
    for (is, problem) in [
        (
            vec![Parallel::new("a").step(step("x")).into(), step("b").into()],
            "steps[0]: was a Steps \"a\", is a Parallel \"a\" (entry 1)",
        ),
        (vec![step("a").into(), step("b").into()], "steps[0]: was a Steps \"a\", is a function step \"a\" (entry 1)"),
        (
            vec![Steps::new("z").step(step("x")).into(), step("b").into()],
            "steps[0]: was a Steps \"a\", is a Steps \"z\" (entry 1)",
        ),
        (
            vec![Steps::new("a").step(step("y")).into(), step("b").into()],
            "steps[0].steps[\"a\"].steps[0]: was a step \"x\", is a function step \"y\" (entry 2)",
        ),
        (
            vec![step("b").into(), Steps::new("a").step(step("x")).into()],
            "steps[0]: was a Steps \"a\", is a function step \"b\" (entry 1)",
        ),
        (vec![Steps::new("a").step(step("x")).into()], "steps[1]: was a step \"b\", is nothing (entry 5)"),
        (
            vec![Steps::new("a").step(step("x")).into(), Steps::new("b").step(step("x")).into()],
            "steps[1]: was a step \"b\", is a Steps \"b\" (entry 5)",
        ),
    ] {
        assert_eq!(fails_at(is).unwrap(), format!("definition changed: {problem}"));
    }
}

#[test]
fn a_step_that_stops_ends_everything_around_it_in_its_workflow() {
    let stops = |input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>| match name {
        "stop" => (Ok(StepOutput::stop("enough")), None),
        _ => mark(input, name, attempt, session),
    };
    let group = Steps::new("group").step(step("a")).step(step("stop")).step(step("never"));
    let repeated = Loop::new("loop").step(group).max_iterations(5);
    let definition = build("Example", vec![repeated.into(), step("later").into()]);
    let done = Driver::new(&definition).run(stops);
    assert!(!done.names().iter().any(|name| name.contains("never") || name.contains("later")), "{:?}", done.names());
    let output = done.machine.output();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "enough"));
    assert!(output.step_results[0].stop);
}

#[test]
fn a_cancelled_run_keeps_what_its_branches_did_and_what_completed_ones_changed() {
    let parallel = Parallel::new("par").step(step("quick")).step(step("slow"));
    let definition = build("Example", vec![parallel.into()]);
    let mut driver = Driver::new(&definition);
    let mut started = Vec::new();
    while started.len() < 2 {
        let decision = driver.machine.next(&claim(), 0, NOW);
        driver.append(decision.say);
        started.extend(decision.start);
    }
    let key = started[0].key().clone();
    let say = driver.machine.settle(&key, Ok(StepOutput::new("q").into()), Some(json!({ "quick": 1 })), 0, NOW);
    driver.append(say);
    assert!(driver.session.is_empty(), "before the join, nothing reaches the session");
    let say = driver.machine.cancel("enough", &|_| Some("half".to_owned()), &claim(), NOW);
    driver.append(say);
    let output = driver.machine.output();
    assert_eq!(output.status, RunStatus::Cancelled);
    let steps = &output.step_results[0].steps;
    assert_eq!(steps.iter().map(|step| step.text()).collect::<Vec<_>>(), ["q", "half"]);
    assert_eq!(Value::Object(driver.session), json!({ "quick": 1 }));
}

#[test]
fn each_item_of_a_list_is_worked_on_a_few_at_a_time_and_joined_in_order() {
    let each = ForEach::new("each").items(|_| ["a", "b", "c", "d", "e"]).step(step("body")).concurrency(2);
    let definition = build("Example", vec![each.into(), step("after").into()]);
    for last_first in [false, true] {
        let mut driver = Driver::new(&definition);
        driver.last_first = last_first;
        let done = driver.run(mark);
        let output = done.machine.output();
        assert_eq!(output.step_results[0].text(), "ForEach each completed 5 items");
        let results: Vec<_> = output.step_results[0].inside().map(|(_, output)| output.text()).collect();
        assert_eq!(results, ["a.body", "b.body", "c.body", "d.body", "e.body"]);
        assert_eq!(output.text(), "e.body.after");
        let (mut open, mut most) = (0_usize, 0);
        for entry in &done.log {
            let is_body = entry.event.origin.step_name.as_deref() == Some("body");
            open += usize::from(is_body && entry.event.name() == "StepStarted");
            open -= usize::from(is_body && entry.event.name() == "StepCompleted");
            most = most.max(open);
        }
        assert_eq!(most, 2);
        assert_eq!(done.asked, 1);
    }
}

#[test]
fn a_list_comes_from_an_earlier_step_or_an_expression_and_items_may_fail() {
    let list = step("list");
    let pick = |input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>| match name {
        "list" => (Ok(StepOutput::new(json!([1, "two", { "three": 3 }]))), None),
        "body" if input.text() == "two" => (Err(Failure::fatal("not two")), None),
        _ => mark(input, name, attempt, session),
    };
    let each = ForEach::new("each").items_of("list").step(step("body").on_error(OnError::Skip));
    let definition = build("Example", vec![Steps::new("group").step(list).step(each).into()]);
    let output = Driver::new(&definition).run(pick).machine.output();
    let each = &output.step_results[0].steps[1];
    assert_eq!(each.text(), "ForEach each completed 3 items, 1 of them failed");
    let results: Vec<_> = each.inside().map(|(_, output)| (output.success, output.text())).collect();
    assert_eq!(results[0], (true, "1.body".to_owned()));
    assert_eq!(results[1], (false, "Step skipped due to error: not two".to_owned()));
    assert_eq!(results[2], (true, "{\"three\":3}.body".to_owned()));

    let each = ForEach::new("each").items_cel("[input, input + '!'].filter(x, x != '')").step(step("body"));
    let output = Driver::new(&build("Example", vec![each.into()])).run(mark).machine.output();
    assert_eq!(output.step_results[0].steps[1].text(), "hi!.body");

    let empty = ForEach::new("each").items(|_| Vec::<String>::new()).step(step("body"));
    let output = Driver::new(&build("Example", vec![empty.into()])).run(mark).machine.output();
    assert_eq!(
        (output.status, output.step_results[0].text().as_str()),
        (RunStatus::Completed, "ForEach each completed 0 items")
    );

    let none = ForEach::new("each").items_of("nobody").step(step("body"));
    let output = Driver::new(&build("Example", vec![none.into()])).run(mark).machine.output();
    assert!(output.text().contains("step \"nobody\" has no output before it"), "{}", output.text());
    let long = ForEach::new("each").items(|_| vec![0; 100_001]).step(step("body"));
    let output = Driver::new(&build("Example", vec![long.into()])).run(mark).machine.output();
    assert!(output.text().contains("its list has 100001 items, the limit is 100000"), "{}", output.text());
}

#[test]
fn a_branch_that_fails_before_it_begins_has_ended() {
    let undecided = || Router::new("router").select(|_| "x").choice(step("a")).on_error(OnError::Skip);
    let parallel = Parallel::new("par").step(undecided()).step(step("b"));
    let each = ForEach::new("each").items(|_| ["1", "2", "3"]).step(undecided()).concurrency(1);
    let definition = build("Example", vec![parallel.into(), each.into()]);
    let done = Driver::new(&definition).run(mark);
    let output = done.machine.output();
    assert_eq!(output.status, RunStatus::Completed);
    let ended = |place: usize| output.step_results[place].inside().map(|(_, one)| one.success).collect::<Vec<_>>();
    assert_eq!((ended(0), ended(1)), (vec![false, true], vec![false; 3]));
    assert_eq!(done.asked, 1 + 1 + 3, "each verdict is asked for once");
}

#[test]
fn expressions_decide_and_their_mistakes_are_problems() {
    let blocks = || -> Vec<Block> {
        let polish = Loop::new("polish").step(step("draft")).max_iterations(5).forward_iteration_output(true);
        vec![
            Condition::new("urgent?").when_cel("input.contains('hi')").step(step("yes")).otherwise(step("no")).into(),
            polish.until_cel("current_iteration == 3 && all_success && size(step_outputs['draft']) > 3").into(),
            Router::new("channel")
                .select_cel("previous_step_outputs['urgent?'] != '' ? [step_choices[1], 'post'] : 'post'")
                .choice(step("post"))
                .choice(step("article"))
                .into(),
        ]
    };
    let definition = build("Example", blocks());
    let done = Driver::new(&definition).run(mark);
    assert_eq!(done.machine.output().text(), "hi.yes.draft.draft.draft.article.post");
    let node = serde_json::to_value(&definition.nodes[0]).unwrap();
    assert_eq!((&node["evaluator"], &node["evaluator_type"]), (&json!("input.contains('hi')"), &json!("cel")));

    let builder = Definition::builder("Bad")
        .step(Condition::new("c").when_cel("inptu == 'x'").step(step("a")))
        .step(Loop::new("l").until_cel("last_step_content.contains(").step(step("a")));
    let text = builder.build().unwrap_err().to_string();
    assert!(text.contains("Condition \"c\": ") && text.contains("input") && text.contains("line 1"), "{text}");
    assert!(text.contains("Loop \"l\": "), "{text}");

    let failing = Condition::new("c").when_cel("additional_data.kind == 'x'").step(step("a"));
    let output = Driver::new(&build("Fails", vec![failing.into()])).run(mark).machine.output();
    assert_eq!(output.status, RunStatus::Error);
    assert!(
        output.text().contains("Condition \"c\" could not decide") && output.text().contains("kind"),
        "{}",
        output.text()
    );
}

#[test]
fn everything_wrong_with_a_tree_is_said_at_once_and_where() {
    let empty = Parallel::new("par");
    let undecided = Condition::new("cond").step(step("a")).step(step("a"));
    let deep = (0..40).fold(Steps::new("s").step(step("x")), |inner, _| Steps::new("s").step(inner));
    let builder = Definition::builder("Bad")
        .step(Loop::new("loop").max_iterations(0).step(empty))
        .step(undecided)
        .step(Router::new("router").select(|_| "a"))
        .step(deep)
        .step(ForEach::new("each").concurrency(0).step(step("a")).step(step("b")))
        .step(Step::new("both").workflow(Arc::new(build("In", vec![step("x").into()]))).executor(function()));
    let invalid = builder.build().unwrap_err();
    let text = invalid.to_string();
    for problem in [
        "Loop \"loop\": it has no iterations",
        "Loop \"loop\": Parallel \"par\": it has no branches",
        "Condition \"cond\": nothing decides for it: say how with .when(..)",
        "Condition \"cond\": two steps are named \"a\"",
        "Router \"router\": it has no choices",
        "nested more than 32 deep",
        "ForEach \"each\": it works on no item",
        "ForEach \"each\": it has several bodies",
        "ForEach \"each\": nothing decides for it: say how with .items(..)",
        "step \"both\" has 2 executors",
    ] {
        assert!(text.contains(problem), "{problem}: {text}");
    }
}

fn function() -> impl outlive_core::port::Executor {
    outlive_core::Function::new("f", |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

// --- random trees ----------------------------------------------------------------------------------------------------

/// Everything that must not depend on crashes, nor on which sibling ends first.
fn ending(driver: &Driver<'_>) -> Value {
    let mut output = driver.machine.output();
    // The runs of nested workflows stand in the order in which they ended.
    output.step_executor_runs.sort_by(|one, other| one.run_id.cmp(&other.run_id));
    let mut value = json!({ "output": &output, "session": driver.session });
    strip_times(&mut value);
    // Where it paused before it ended depends on when people answer.
    if output.status.is_terminal() {
        let told = value["output"].as_object_mut().unwrap();
        for field in ["paused_step_index", "paused_step_name", "pause_kind", "cancellation_stage"] {
            told.remove(field);
        }
    }
    // They stand in the order in which they ended.
    if let Some(runs) = value["output"]["step_executor_runs"].as_array_mut() {
        runs.sort_by_key(|run| run["run_id"].to_string());
    }
    value
}

fn strip_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("duration");
            fields.remove("created_at");
            fields.values_mut().for_each(strip_times);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_times),
        _ => {}
    }
}

/// Where a log is cut: after every entry if it is short, else after some.
fn cuts(log: &[Entry], dice: &mut Dice) -> Vec<usize> {
    let length = log.len();
    let cuts: BTreeSet<usize> = match length < 16 {
        true => (0..length).collect(),
        false => (0..4).map(|_| usize::try_from(dice.below(length as u64)).unwrap()).collect(),
    };
    // A failure and what follows from it share a commit, which is read back whole.
    let is_commit =
        |cut: &usize| !matches!(log[..*cut].last(), Some(last) if matches!(last.record, Some(Record::Failed { .. })));
    cuts.into_iter().filter(is_commit).collect()
}

#[test]
fn a_random_tree_cut_after_any_entry_comes_to_the_same_end() {
    let mut statuses = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    let mut asked: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..1_600 {
        let definition = Forest::new(seed, step).grow(1 + u32::try_from(seed % 4).unwrap()).unwrap();
        let whole = Driver::new(&definition).answered(People::Late).run(play);
        let expected = ending(&whole);
        *statuses.entry(whole.machine.output().status.as_str()).or_insert(0) += 1;
        for entry in &whole.log {
            *kinds.entry(entry.event.name()).or_insert(0) += 1;
            let Some(Record::Waiting { questions, .. }) = &entry.record else { continue };
            for question in questions {
                for part in question.key.parts() {
                    let place = match part {
                        Part::Node { place: Place::Branch(_), .. } => "in a Parallel",
                        Part::Node { place: Place::Item(_), .. } => "in a ForEach",
                        Part::Node { place: Place::Choice(_), .. } => "in a Router",
                        Part::Iteration(_) => "in a Loop",
                        Part::Sequence("w") => "in a nested workflow",
                        _ => continue,
                    };
                    *asked.entry(place).or_insert(0) += 1;
                }
                *asked.entry(question.kind.as_str()).or_insert(0) += 1;
            }
        }
        // The order in which siblings end changes nothing but the order of the log.
        let mut driver = Driver::new(&definition).answered(People::Early);
        driver.last_first = true;
        let other = driver.run(play);
        // Where a branch fails for good, those that have not ended yet are dropped: then the order decides.
        let names = whole.names();
        let has = |event: &str| names.iter().any(|name| name.starts_with(event));
        let ends_early = has("StepError") || whole.machine.output().status == RunStatus::Cancelled;
        let is_a_race = ends_early && has("ParallelExecutionStarted");
        if !is_a_race {
            assert!(ending(&other) == expected, "seed {seed} ends differently in the other order: {names:#?}");
        }
        for cut in cuts(&whole.log, &mut Dice(seed)) {
            let after = Driver::after(&definition, &whole.log[..cut]).answered(People::Late);
            let text = serde_json::to_string(&after.machine).unwrap();
            assert_eq!(serde_json::from_str::<WorkflowMachine>(&text).unwrap(), after.machine, "seed {seed}");
            if !is_a_race {
                assert!(
                    ending(&after.run(play)) == expected,
                    "seed {seed} ends differently, cut after {cut}: {names:#?}"
                );
            }
            let mut cancelled = Driver::after(&definition, &whole.log[..cut]);
            let say = cancelled.machine.cancel("enough", &|_| None, &claim(), NOW);
            cancelled.append(say);
            assert_eq!(cancelled.machine.output().status, RunStatus::Cancelled, "seed {seed}, cancelled after {cut}");
            // Without its definition a run can be folded and cancelled all the same.
            let mut unbound = Driver::unbound(&definition, &whole.log[..cut]);
            let say = unbound.machine.cancel("enough", &|_| None, &claim(), NOW);
            unbound.append(say);
            assert_eq!(unbound.session, cancelled.session, "seed {seed}, cut after {cut}");
        }
    }
    assert!(statuses["COMPLETED"] > 1_000 && statuses["ERROR"] > 50, "{statuses:?}");
    for kind in ["Parallel", "Steps", "Condition", "Loop", "Router"] {
        assert!(kinds[&*format!("{kind}ExecutionCompleted")] > 100, "{kinds:?}");
    }
    for place in ["in a Parallel", "in a ForEach", "in a Router", "in a Loop", "in a nested workflow"] {
        assert!(asked.get(place).is_some_and(|questions| *questions > 20), "{place}: {asked:?}");
    }
}

/// Steps named `ask` wait for an answer; the others mark what they are given.
fn ask(input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>) -> Ended {
    match name.strip_prefix("ask") {
        Some(_) => (Err(Failure::new(FailureKind::OutcomeUnknown, format!("{name} may have run"))), None),
        None => mark(input, name, attempt, session),
    }
}

fn open_requirements(done: &Driver<'_>) -> Vec<(String, String)> {
    let Some(EventKind::WorkflowPaused { step_requirements: Some(all), .. }) = done.log.last().map(|e| &e.event.kind)
    else {
        panic!("it is not paused: {:?}", done.names());
    };
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_else(|| panic!("{name} in {one}")).to_owned();
    all.iter().map(|one| (text(one, "step_name"), text(one, "reason"))).collect()
}

#[test]
fn a_step_that_waits_for_an_answer_lets_its_siblings_go_on_and_the_run_rests_when_only_answers_are_missing() {
    let deep = Loop::new("loop").max_iterations(3).step(step("l")).step(step("ask2")).step(step("never"));
    let parallel = Parallel::new("par")
        .step(step("ask1"))
        .step(Steps::new("group").step(step("a")).step(step("b")))
        .step(deep)
        .step(step("flaky").retry(Retry::times(1).backoff(Duration::from_secs(60))));
    let definition = build("Example", vec![step("first").into(), parallel.into(), step("after").into()]);
    let play = |input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>| match (name, attempt) {
        ("flaky", 1) => (Err(Failure::function("not yet")), None),
        _ => ask(input, name, attempt, session),
    };
    for last_first in [false, true] {
        let mut driver = Driver::new(&definition);
        driver.last_first = last_first;
        let done = driver.run(play);
        let names = done.names();
        for ended in ["StepCompleted a", "StepCompleted b", "StepsExecutionCompleted group", "StepCompleted l"] {
            assert!(names.iter().any(|name| name == ended), "{ended} is missing in {names:?}");
        }
        assert!(names.iter().any(|name| name == "StepCompleted flaky"), "a back-off goes on too: {names:?}");
        assert!(!names.iter().any(|name| name.ends_with("never") || name.ends_with("after")), "{names:?}");
        let told = |name: &str| names.iter().filter(|told| *told == name).count();
        assert_eq!(
            (told("StepExecutorPaused ask1"), told("StepExecutorPaused ask2"), told("WorkflowPaused")),
            (1, 1, 1)
        );
        let expected = [("ask1", "ask1 may have run"), ("ask2", "ask2 may have run")];
        assert_eq!(open_requirements(&done), expected.map(|(name, why)| (name.to_owned(), why.to_owned())));
        assert_eq!(done.machine.output().status, RunStatus::Paused);
        for cut in 1..done.log.len() {
            let after = Driver::after(&definition, &done.log[..cut]).run(play);
            assert_eq!(ending(&after), ending(&done), "cut after {cut}");
        }
    }
}

#[test]
fn a_verdict_that_waits_for_an_answer_lets_its_siblings_go_on_too() {
    let doubts = |name: &str| Condition::new(name).when_async(|_| async { Err::<bool, _>(doubt()) }).step(step("c"));
    let until = Loop::new("loop").max_iterations(2).step(step("l")).until_async(|_| async { Err::<bool, _>(doubt()) });
    let parallel = Parallel::new("par").step(doubts("cond")).step(until).step(Steps::new("group").step(step("a")));
    let definition = build("Example", vec![parallel.into()]);
    let done = Driver::new(&definition).run(mark);
    assert!(done.names().iter().any(|name| name == "StepsExecutionCompleted group"));
    let waiting: Vec<_> = open_requirements(&done).into_iter().map(|(name, _)| name).collect();
    assert_eq!(waiting, ["cond", "loop"]);
    assert_eq!(done.asked, 2, "each was asked once");
    for cut in 1..done.log.len() {
        assert_eq!(ending(&Driver::after(&definition, &done.log[..cut]).run(mark)), ending(&done), "cut after {cut}");
    }
}

fn doubt() -> Failure {
    Failure::new(FailureKind::OutcomeUnknown, "nobody knows")
}

#[test]
fn a_failure_of_a_sibling_ends_the_run_and_what_waits_with_it() {
    let parallel = Parallel::new("par").step(step("ask1")).step(step("bad"));
    let definition = build("Example", vec![parallel.into()]);
    let play = |input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>| match name {
        "bad" => (Err(Failure::new(FailureKind::Auth, "wrong key")), None),
        _ => ask(input, name, attempt, session),
    };
    let done = Driver::new(&definition).run(play);
    assert_eq!(done.machine.output().status, RunStatus::Error);
    // A container that is tried again forgets what waited inside it.
    let group = Parallel::new("par").step(step("ask1")).step(step("flaky")).retry(Retry::times(1));
    let definition = build("Example", vec![group.into()]);
    let play = |input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>| match name {
        "flaky" => (Err(Failure::function("not yet")), None),
        _ => ask(input, name, attempt, session),
    };
    let done = Driver::new(&definition).run(play);
    let names = done.names();
    assert_eq!(names.iter().filter(|name| *name == "StepExecutorPaused ask1").count(), 2, "{names:?}");
    assert_eq!(done.machine.output().status, RunStatus::Error, "{names:?}");
}

#[test]
fn what_waits_at_a_later_attempt_lets_the_run_rest_too() {
    let once_more = || Retry::times(1).backoff(Duration::from_secs(60));
    // A step, and a container that was to decide: each fails once, and waits when it is tried again.
    let play = |input: &StepInput, name: &str, attempt: u32, session: &Map<String, Value>| match attempt {
        1 if name.starts_with("ask") => (Err(Failure::function("not yet")), None),
        _ => ask(input, name, attempt, session),
    };
    let asked = Arc::new(AtomicU32::new(0));
    let doubts = move |_| {
        let failure = if asked.fetch_add(1, Ordering::Relaxed) == 0 { Failure::function("not yet") } else { doubt() };
        async { Err::<bool, _>(failure) }
    };
    let cond = Condition::new("cond").when_async(doubts).step(step("c")).retry(once_more());
    for block in [step("ask1").retry(once_more()).into(), cond.into()] {
        let definition = build("Example", vec![block]);
        let done = Driver::new(&definition).run(play);
        assert_eq!((done.machine.output().status, open_requirements(&done).len()), (RunStatus::Paused, 1));
        let waits = done.log.len() - 1;
        let after = Driver::after(&definition, &done.log[..waits]).run(play);
        assert_eq!(ending(&after), ending(&done));
    }
}

/// Each step changes a key of its own and one that all change; what it is named `fails` fails.
fn changing(fails: &'static str) -> impl Fn(&StepInput, &str, u32, &Map<String, Value>) -> Ended {
    move |input, name, _, _| {
        let name = if name == "item" { input.text() } else { name.to_owned() };
        match name == fails {
            true => (Err(Failure::fatal("no power")), None),
            false => (Ok(StepOutput::new(name.clone())), Some(json!({ name.as_str(): 1, "last": name }))),
        }
    }
}

#[test]
fn what_completed_branches_changed_outlives_a_container_around_theirs_that_is_skipped() {
    let each = || ForEach::new("each").items(|_| ["one", "two", "three"]).concurrency(1).step(step("item"));
    let expected = json!({ "a": 1, "one": 1, "two": 1, "last": "two" });
    for deep in [false, true] {
        let inside = || match deep {
            false => Steps::new("group").step(step("a")).step(each()),
            true => Steps::new("group").step(step("a")).step(Condition::new("yes").when_always(true).step(each())),
        };
        let definition = build("Example", vec![inside().on_error(OnError::Skip).into(), step("after").into()]);
        let mut done = Driver::new(&definition).run(changing("three"));
        assert_eq!(done.machine.output().status, RunStatus::Completed);
        assert_eq!(done.session.remove("after"), Some(json!(1)));
        done.session.insert("last".to_owned(), json!("two"));
        assert_eq!(Value::Object(done.session), expected, "skipped, deep: {deep}");

        // The same where a person says that it is to be skipped.
        let definition = build("Example", vec![inside().on_error(OnError::Pause).into()]);
        let mut asking = Driver::new(&definition).run(changing("three"));
        let key = asking.machine.questions()[0].key.clone();
        let answered = Answered { answer: Answer::Skip, by: None, at: NOW };
        let say = asking.machine.answer(&key, &answered);
        asking.append(say);
        assert_eq!(Value::Object(asking.session), expected, "left out by a person, deep: {deep}");

        // And where the whole run ends with it.
        let definition = build("Example", vec![inside().into()]);
        let failed = Driver::new(&definition).run(changing("three"));
        assert_eq!(failed.machine.output().status, RunStatus::Error);
        assert_eq!(Value::Object(failed.session), expected, "failed, deep: {deep}");
    }
}

#[test]
fn of_branches_at_different_depths_the_later_one_in_the_definition_wins() {
    let outer = || {
        let inner = Parallel::new("inner").step(step("inside")).step(step("fails"));
        let group = Steps::new("group").step(step("g")).step(inner);
        Parallel::new("outer").step(step("early")).step(group).step(step("late"))
    };
    let (skips, fails) = (outer().on_error(OnError::Skip), outer());
    for block in [skips, fails] {
        let definition = build("Example", vec![block.into()]);
        let done = Driver::new(&definition).run(changing("fails"));
        let all = ["early", "inside", "late"].map(|name| (name.to_owned(), json!(1)));
        let expected = all.into_iter().chain([("last".to_owned(), json!("late"))]).collect();
        assert_eq!(done.session, expected, "{:?}", done.names());
    }
}

#[test]
fn of_several_steps_with_a_name_the_one_whose_container_ended_last_is_found() {
    // By name, the second container comes before the first.
    let group = |name: &str| Steps::new(name).step(step("draft"));
    let each = ForEach::new("each").items_of("draft").step(step("item"));
    let blocks = vec![group("z").into(), group("a").into(), step("reads").into(), each.into()];
    let definition = build("Example", blocks);
    let (mut drafts, mut read) = (0, Vec::new());
    let done = Driver::new(&definition).run(|input, name, _, _| {
        drafts += u32::from(name == "draft");
        let kept: StepInput = serde_json::from_str(&serde_json::to_string(input).unwrap()).unwrap();
        assert_eq!(&kept, input, "its order outlives its text");
        read.extend(input.output("draft").filter(|_| name == "reads").map(|draft| draft.text()));
        (Ok(StepOutput::new(if name == "draft" { format!("[{drafts}]") } else { input.text() })), None)
    });
    assert_eq!(read, ["[2]"]);
    let items = &done.machine.output().step_results[3].steps;
    assert_eq!(items.iter().map(|item| item.text()).collect::<Vec<_>>(), ["2"], "a list is found in the same way");
}
