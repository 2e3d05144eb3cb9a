//! The machines: log in, commands out.

use outlive_core::log::{Entry, Record};
use outlive_core::machine::{
    AgentCommand, AgentLimits, AgentMachine, Task, TeamCall, TeamCommand, TeamMachine, WorkflowMachine,
};
use outlive_core::port::Executed;
use outlive_core::{
    Definition, DefinitionId, Failure, FailureKind, FinishReason, Message, Metrics, ModelResponse, OnError, Retry,
    Role, RunId, RunInfo, RunStatus, SessionId, Step, StepInput, StepOutput, Timestamp, ToolCall, ToolResult, WorkerId,
};
use std::sync::Arc;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_micros(1_795_404_467_000_000);

fn step(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

fn machine(steps: Vec<Step>) -> WorkflowMachine {
    let definition = steps.into_iter().fold(Definition::builder("Example"), |b, s| b.step(s)).build().unwrap();
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

/// Runs a machine to its rest; `execute` plays the executors. Returns the log.
fn run(
    machine: &mut WorkflowMachine,
    mut execute: impl FnMut(&StepInput, u32) -> Result<StepOutput, Failure>,
) -> Vec<Entry> {
    let mut log = Vec::new();
    let mut now = NOW;
    loop {
        let decision = machine.next(&claim(), 0, now);
        let is_idle = decision.is_idle();
        apply(machine, &mut log, decision.say);
        if decision.end.is_some() {
            return log;
        }
        for task in decision.start {
            let Task::Execute(step) = task else { panic!("nothing decides here") };
            let result = execute(&step.input, step.info.attempt).map(Executed::from);
            let say = machine.settle(&step.info.key, result, None, 0, now);
            apply(machine, &mut log, say);
        }
        if is_idle {
            now = decision.wake.expect("it goes on by itself");
        }
    }
}

fn apply(machine: &mut WorkflowMachine, log: &mut Vec<Entry>, entries: Vec<Entry>) {
    for mut entry in entries {
        entry.event.event_index = Some(log.len() as u64);
        machine.apply(&entry).unwrap();
        log.push(entry);
    }
}

fn names(log: &[Entry]) -> Vec<&'static str> {
    log.iter().map(|entry| entry.event.name()).collect()
}

#[test]
fn a_sequence_of_functions_tells_agnos_story() {
    let mut machine = machine(vec![step("upper"), step("exclaim")]);
    let log = run(&mut machine, |input, _| Ok(StepOutput::new(format!("{}!", input.text()))));
    let expected = [
        "WorkflowStarted",
        "StepStarted",
        "StepOutput",
        "StepCompleted",
        "StepStarted",
        "StepOutput",
        "StepCompleted",
        "WorkflowCompleted",
    ];
    assert_eq!(names(&log), expected);
    let output = machine.output();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi!!"));
    assert_eq!(output.step_results[1].step_id, log[6].event.origin.step_id);
}

#[test]
fn folding_the_log_gives_the_machine_that_wrote_it_at_every_entry() {
    let fresh = machine(vec![step("a"), step("b"), step("c")]);
    let mut written = fresh.clone();
    let log = run(&mut written, |input, _| Ok(StepOutput::new(input.text())));
    let mut folded = fresh;
    for entry in &log {
        folded.apply(entry).unwrap();
        let text = serde_json::to_string(&folded).unwrap();
        assert_eq!(serde_json::from_str::<WorkflowMachine>(&text).unwrap(), folded);
    }
    assert_eq!(folded, written);
}

#[test]
fn a_machine_cut_after_any_entry_goes_on_to_the_same_end_without_asking_twice() {
    let fresh = machine(vec![step("a"), step("b")]);
    let mut whole = fresh.clone();
    let log = run(&mut whole, |input, _| Ok(StepOutput::new(format!("{}.", input.text()))));
    for cut in 0..=log.len() {
        let mut machine = fresh.clone();
        log[..cut].iter().for_each(|entry| drop(machine.apply(entry).unwrap()));
        let done = log[..cut].iter().filter(|e| matches!(e.record, Some(Record::Step { .. }))).count();
        let mut asked = 0;
        run(&mut machine, |input, _| {
            asked += 1;
            Ok(StepOutput::new(format!("{}.", input.text())))
        });
        assert_eq!(asked, 2 - done, "cut after {cut}");
        assert_eq!(machine.output(), whole.output(), "cut after {cut}");
    }
}

#[test]
fn a_failed_step_ends_the_run_and_is_never_its_content_under_completed() {
    let mut machine = machine(vec![step("a"), step("b")]);
    let log = run(&mut machine, |_, _| Err(Failure::fatal("no power")));
    assert_eq!(names(&log), ["WorkflowStarted", "StepStarted", "StepError", "WorkflowError"]);
    assert_eq!(machine.output().status, RunStatus::Error);
    assert_eq!(machine.output().text(), "step \"a\": no power");
}

#[test]
fn a_skipped_failure_says_so_in_its_output_and_is_nobodys_content() {
    let mut machine =
        machine(vec![step("a"), step("b").on_error(OnError::Skip), step("c"), step("d").on_error(OnError::Skip)]);
    let mut seen = Vec::new();
    let log = run(&mut machine, |input, _| {
        seen.push(input.text());
        if seen.len() % 2 == 0 {
            Err(Failure::fatal("no power"))
        } else {
            Ok(StepOutput::new(format!("{}!", input.text())))
        }
    });
    assert_eq!(seen, ["hi", "hi!", "hi!", "hi!!"]);
    assert_eq!(names(&log).iter().filter(|name| **name == "StepOutput").count(), 4);
    let output = machine.output();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi!!"));
    assert_eq!(output.step_results[3].error.as_deref(), Some("no power"));
    assert!(!output.step_results[3].success);
}

#[test]
fn a_tool_whose_outcome_nobody_knows_pauses_the_run_also_where_failures_are_skipped() {
    let mut machine = machine(vec![step("a").on_error(OnError::Skip).retry(Retry::times(3)), step("b")]);
    let log = run(&mut machine, |_, _| Err(Failure::new(FailureKind::OutcomeUnknown, "pay(5) may have run")));
    assert_eq!(names(&log).last(), Some(&"WorkflowPaused"));
    assert_eq!(machine.output().status, RunStatus::Paused);
}

#[test]
fn a_step_is_tried_again_as_often_as_allowed_and_each_attempt_has_its_own_key() {
    let retry = Retry::times(2).backoff(Duration::from_secs(10));
    let mut machine = machine(vec![step("a").retry(retry)]);
    let mut attempts = Vec::new();
    let log = run(&mut machine, |_, attempt| {
        attempts.push(attempt);
        if attempt < 3 { Err(Failure::function("not yet")) } else { Ok(StepOutput::new("there")) }
    });
    assert_eq!(attempts, [1, 2, 3]);
    let keys: Vec<_> = log.iter().filter_map(|e| Some(e.record.as_ref()?.key()?.to_string())).collect();
    assert_eq!(keys, ["0", "0", "0~2", "0~3"]);
    assert_eq!(machine.output().status, RunStatus::Completed);
}

#[test]
fn a_failure_that_repeating_cannot_mend_is_not_repeated() {
    let mut machine = machine(vec![step("a").retry(Retry::times(5))]);
    let mut asked = 0;
    run(&mut machine, |_, _| {
        asked += 1;
        Err(Failure::new(FailureKind::Auth, "wrong key"))
    });
    assert_eq!(asked, 1);
}

#[test]
fn a_step_can_stop_the_workflow() {
    let mut machine = machine(vec![step("a"), step("b")]);
    let log = run(&mut machine, |_, _| Ok(StepOutput::stop("enough")));
    assert_eq!(names(&log), ["WorkflowStarted", "StepStarted", "StepOutput", "WorkflowCompleted"]);
    assert_eq!(machine.output().text(), "enough");
}

#[test]
fn a_cancelled_run_keeps_what_was_done_and_the_partial_text() {
    let mut machine = machine(vec![step("a"), step("b")]);
    let mut log = Vec::new();
    for _ in 0..2 {
        let say = machine.next(&claim(), 0, NOW).say;
        apply(&mut machine, &mut log, say);
    }
    let say = machine.cancel("enough", &|_| Some("half an ans".to_owned()), &claim(), NOW);
    apply(&mut machine, &mut log, say);
    assert_eq!(names(&log)[2..], ["WorkflowCancelled", "WorkflowCompleted"]);
    let output = machine.output();
    assert_eq!(output.status, RunStatus::Cancelled);
    assert_eq!(output.cancellation_stage.as_deref(), Some("EXECUTING"));
    assert_eq!(output.step_results[0].text(), "half an ans");
    assert_eq!(output.step_results[0].error.as_deref(), Some("Cancelled during execution"));
}

#[test]
fn a_run_cancelled_before_it_began_says_so() {
    let mut machine = machine(vec![step("a")]);
    let mut log = Vec::new();
    let say = machine.cancel("never mind", &|_| None, &claim(), NOW);
    apply(&mut machine, &mut log, say);
    assert_eq!(machine.output().cancellation_stage.as_deref(), Some("PENDING"));
    assert_eq!(machine.next(&claim(), 0, NOW).end, Some(RunStatus::Cancelled));
}

#[test]
fn a_log_of_another_definition_is_refused_and_the_entry_named() {
    let mut old = machine(vec![step("a"), step("b")]);
    let log = run(&mut old, |input, _| Ok(StepOutput::new(input.text())));
    let mut new = machine(vec![step("a"), step("c")]);
    let refused = log.iter().find_map(|entry| new.apply(entry).err()).unwrap();
    assert_eq!((refused.event_index, refused.was.as_str()), (Some(4), "a step \"b\""));
    assert!(refused.to_string().contains("step \"c\""), "{refused}");
}

#[test]
fn appending_steps_to_a_definition_does_not_disturb_its_unfinished_runs() {
    let mut old = machine(vec![step("a"), step("b")]);
    let log = run(&mut old, |input, _| Ok(StepOutput::new(input.text())));
    let mut new = machine(vec![step("a"), step("b"), step("c")]);
    assert!(log[..6].iter().all(|entry| new.apply(entry).is_ok()));
}

#[test]
fn everything_wrong_with_a_definition_is_said_at_once() {
    let builder = Definition::builder("Bad").step(step("a")).step(step("a")).step(Step::new("empty"));
    let invalid = builder.build().unwrap_err();
    assert_eq!(invalid.problems.len(), 2, "{invalid}");
    assert!(invalid.to_string().contains("two steps are named \"a\""), "{invalid}");
    assert!(invalid.to_string().contains("step \"empty\" has 0 executors"), "{invalid}");
}

// --- agents and teams ------------------------------------------------------------------------------------------------

fn agent(limits: AgentLimits) -> AgentMachine {
    let question = Message::new(Role::User, "question", Arc::from("m0"), 0);
    AgentMachine::new(RunId::parse("agent-run").unwrap(), limits, vec![question])
}

fn call(id: &str, arguments: &str) -> ToolCall {
    ToolCall::new(id, "look", arguments)
}

#[test]
fn an_agent_calls_tools_until_the_model_answers_in_words() {
    let mut agent = agent(AgentLimits::default());
    assert_eq!(agent.next(), AgentCommand::CallModel { turn: 0 });
    agent.answered(ModelResponse::calls(vec![call("a", "{}"), call("b", "{}")]), Metrics::default(), 1);
    let AgentCommand::CallTools { turn: 0, calls } = agent.next() else { panic!("{:?}", agent.next()) };
    assert_eq!(calls.len(), 2);
    agent.tool_result(1, ToolResult::ok("second"), 2);
    let AgentCommand::CallTools { calls, .. } = agent.next() else { panic!("{:?}", agent.next()) };
    assert_eq!(calls[0].1.id, "a");
    agent.tool_result(0, ToolResult::ok("first"), 2);
    assert_eq!(agent.next(), AgentCommand::CallModel { turn: 1 });
    agent.answered(ModelResponse::text("answer"), Metrics::default(), 3);
    assert_eq!(agent.next(), AgentCommand::Done);
    let said: Vec<_> = agent.messages().iter().map(|m| m.content.as_deref().unwrap_or("-")).collect();
    assert_eq!(said, ["question", "-", "first", "second", "answer"]);
}

#[test]
fn a_model_that_asks_for_the_same_tool_for_ever_is_stopped() {
    let mut agent = agent(AgentLimits { turns_max: 5, ..AgentLimits::default() });
    let mut turns = 0;
    let failure = loop {
        match agent.next() {
            AgentCommand::CallModel { .. } => {
                turns += 1;
                agent.answered(ModelResponse::calls(vec![call("x", "{}")]), Metrics::default(), 0);
            }
            AgentCommand::CallTools { .. } => agent.tool_result(0, ToolResult::ok("again"), 0),
            AgentCommand::Done => panic!("it never answers"),
            AgentCommand::Failed(failure) => break failure,
        }
    };
    assert_eq!((turns, failure.kind), (5, FailureKind::Limit));
}

#[test]
fn calls_beyond_the_budget_are_refused_not_executed() {
    let mut agent = agent(AgentLimits { tool_calls_max: Some(1), ..AgentLimits::default() });
    agent.answered(ModelResponse::calls(vec![call("a", "{}"), call("b", "{}")]), Metrics::default(), 0);
    let AgentCommand::CallTools { calls, .. } = agent.next() else { panic!() };
    assert_eq!(calls.len(), 1);
    agent.tool_result(0, ToolResult::ok("one"), 0);
    assert!(agent.messages()[3].content.as_deref().unwrap().contains("limit of 1 tool calls"));
    assert!(agent.is_out_of_budget());
}

#[test]
fn malformed_arguments_go_back_to_the_model_a_few_times_and_then_end_the_run() {
    let mut agent = agent(AgentLimits { repairs_max: 2, ..AgentLimits::default() });
    for _ in 0..2 {
        agent.answered(ModelResponse::calls(vec![call("a", "{not json")]), Metrics::default(), 0);
        assert!(matches!(agent.next(), AgentCommand::CallModel { .. }));
    }
    agent.answered(ModelResponse::calls(vec![call("a", "[1]")]), Metrics::default(), 0);
    assert!(matches!(agent.next(), AgentCommand::Failed(f) if f.kind == FailureKind::Limit));
}

#[test]
fn a_leader_delegates_to_members_it_has_and_is_told_of_others() {
    let members = ["hn", "finance"].map(|id| DefinitionId::parse(id).unwrap());
    let mut team = TeamMachine::new(RunId::parse("t").unwrap(), AgentLimits::default(), Arc::from(members), Vec::new());
    let delegate = |arguments: &str| ToolCall::new("c", "delegate_task_to_member", arguments);
    let calls = vec![
        delegate(r#"{"member_id":"finance","task":"look"}"#),
        delegate(r#"{"member_id":"nobody","task":"look"}"#),
        delegate(r#"{"member_id":"hn","task":" "}"#),
        ToolCall::new("d", "other_tool", "{}"),
    ];
    team.answered(ModelResponse::calls(calls), Metrics::default(), 0);
    let TeamCommand::Work { calls, .. } = team.next() else { panic!() };
    assert!(matches!(&calls[0].1, TeamCall::Delegate { member: 1, task, .. } if task == "look"));
    assert!(matches!(&calls[1].1, TeamCall::Refuse { reason, .. } if reason.contains("hn, finance")));
    assert!(matches!(&calls[2].1, TeamCall::Refuse { reason, .. } if reason.contains("empty")));
    assert!(matches!(&calls[3].1, TeamCall::Tool(_)));
}

#[test]
fn a_call_in_which_the_answer_was_cut_is_not_made_and_the_model_is_told() {
    let cut = |calls: &[(&str, &str)], finish_reason| {
        let calls = calls.iter().map(|(id, arguments)| ToolCall::new(*id, "buy", *arguments)).collect();
        ModelResponse { finish_reason, ..ModelResponse::calls(calls) }
    };
    let reasons = [FinishReason::Length, FinishReason::ContentFilter, FinishReason::Cancelled];
    for (reason, unfinished) in
        reasons.into_iter().flat_map(|reason| ["", " ", "{}", "{\"num\": 1"].map(|text| (reason, text)))
    {
        let mut machine = agent(AgentLimits::default());
        machine.answered(cut(&[("a", "{\"num\":1}"), ("b", unfinished)], reason), Metrics::default(), 0);
        let AgentCommand::CallTools { calls, .. } = machine.next() else { panic!("the first call is whole") };
        assert_eq!(calls.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0], "{unfinished:?}");
        machine.tool_result(0, ToolResult::ok("done"), 0);
        let told = machine.messages().last().and_then(|message| message.content.clone()).unwrap();
        assert!(told.contains("not executed") && told.contains(reason.as_words()), "{told}");
        assert!(matches!(machine.next(), AgentCommand::CallModel { turn: 1 }));
    }
    let mut machine = agent(AgentLimits::default());
    machine.answered(cut(&[("a", "{\"num\":1}")], FinishReason::Length), Metrics::default(), 0);
    assert!(
        matches!(machine.next(), AgentCommand::CallTools { calls, .. } if calls.len() == 1),
        "nothing of it is missing"
    );

    let mut machine = agent(AgentLimits { repairs_max: 2, ..AgentLimits::default() });
    for _ in 0..3 {
        machine.answered(cut(&[("a", "")], FinishReason::Length), Metrics::default(), 0);
    }
    let AgentCommand::Failed(failure) = machine.next() else { panic!("it has an end") };
    assert!(failure.message.contains("allow more tokens"), "{}", failure.message);
}

#[test]
fn a_number_in_a_delegation_is_its_digits() {
    let members: Arc<[_]> = [DefinitionId::parse("7").unwrap()].into();
    let mut machine = TeamMachine::new(RunId::parse("r").unwrap(), AgentLimits::default(), members, Vec::new());
    let call = ToolCall::new("c", "delegate_task_to_member", r#"{"member_id":7,"task":1789}"#);
    machine.answered(ModelResponse::calls(vec![call.clone()]), Metrics::default(), 0);
    let TeamCommand::Work { calls, .. } = machine.next() else { panic!("a call was asked for") };
    assert_eq!(calls[0].1, TeamCall::Delegate { call, member: 0, task: "1789".into() });
}
