//! What a run asks people about the calls of a turn, and what follows from their answers.
//!
//! It must never know a tool's function. Invariant: what people see of a call is what is made of it; an answer is judged by
//! its question alone, so a replay comes to the same end.

use super::Drive;
use super::work::{Done, Given, Planned, capped, tool_call};
use crate::desk::{Asking, Caller, Notice};
use crate::tool::Tool;
use outlive_core::port::Recall;
use outlive_core::{
    Answer, EventKind, ExecutorKind, Failure, FailureKind, Key, OnReject, OnTimeout, Question, QuestionKind, Record,
    RunStatus, RunWaits, ToolAsked, ToolCall, ToolExecution, ToolResult, content_text,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

impl Drive<'_> {
    /// What is known of a call that needs people: nothing, unless its arguments cannot be used anyway.
    pub(super) fn needs_people(&self, tool: &Tool, execution: &mut ToolExecution) -> Given {
        if let Err(problem) = tool.check(execution.tool_args.clone()) {
            return Given::Ended(ToolResult::error(capped(format!("the arguments do not fit: {problem}"))));
        }
        let needs = &tool.needs;
        if needs.confirmation {
            execution.requires_confirmation = Some(true);
        } else if needs.user_input {
            tool.fill_in(&mut execution.tool_args, &Map::new());
            execution.requires_user_input = Some(true);
            execution.user_input_schema = Some(tool.input_fields().iter().map(|field| field.asked(None)).collect());
        } else {
            execution.external_execution_required = Some(true);
            execution.external_execution_silent = needs.is_silent.then_some(true);
        }
        Given::Nothing
    }

    /// Asks people for what these calls need, all at once, and returns them with what was answered.
    pub(super) async fn ask_people(
        &self,
        calls: Vec<Planned>,
        turn: &Key,
        performed: &Done,
    ) -> Result<Vec<Planned>, Failure> {
        let answers = self.put(&self.caller, calls.iter().collect(), turn.question(0), performed).await?;
        Ok(calls.into_iter().zip(answers).map(|(call, answer)| self.answered(call, answer)).collect())
    }

    /// Asks people what came of a call.
    ///
    /// # Errors
    /// That nobody knows, where nobody can be asked.
    pub(super) async fn ask_what_came(&self, call: &mut Planned, performed: &Done) -> Result<(), Failure> {
        let key = call.key.question(call.asked + 1);
        let asked = self.put(&self.place.desk.caller(), vec![call], key.clone(), performed).await;
        let answers = asked.map_err(|failure| match &call.unknown {
            Some(why) if failure.kind != FailureKind::Cancelled => self.unknown_outcome(tool_call(&call.call), why),
            _ => failure,
        })?;
        answers.into_iter().for_each(|answer| self.outcome(call, &key, answer));
        Ok(())
    }

    /// Puts questions about calls, once nothing else is at work. People are told of them under `key`, once.
    async fn put(
        &self,
        caller: &Caller,
        calls: Vec<&Planned>,
        key: Key,
        performed: &Done,
    ) -> Result<Vec<Answer>, Failure> {
        caller.until_rest().await;
        let mut questions: Vec<Asking> = calls.iter().map(|call| self.question(call)).collect();
        let requirement = |question: &Question| Some(question.tool.as_ref()?.requirement(question, None));
        let waits = RunWaits {
            content: paused_content(&questions),
            tools: calls.iter().map(|call| call.execution.clone()).collect(),
            requirements: questions.iter().filter_map(|(question, _)| requirement(question)).collect(),
        };
        // The run as it stands, for people; a member's is inside its team's.
        if let (None, Some((first, _))) = (&self.place.parent, questions.first_mut()) {
            let mut run = self.output(Some(Value::String(waits.content.clone())), RunStatus::Paused);
            run.tools.extend(performed.with(calls));
            first.run = Some(Arc::new(run));
        }
        let notice = Notice {
            key,
            origin: self.origin.clone(),
            paused: self.voice.paused(waits),
            continued: self.voice.continued(),
        };
        let answers = caller.ask(questions, Some(notice)).await?;
        Ok(answers.into_iter().map(|answered| answered.answer).collect())
    }

    /// What is asked about a call: what its tool needs, or, once that is known, what came of it.
    fn question(&self, planned: &Planned) -> Asking {
        let (question, timeout) = self.about(planned);
        let id = self.place.root.derive(question.key.as_str());
        (Question { id, ..question }, timeout)
    }

    fn about(&self, planned: &Planned) -> Asking {
        let call = tool_call(&planned.call);
        let (name, arguments) = (&call.function.name, &planned.execution.tool_args);
        let title = self.profile.title();
        let tool = self.tool(name);
        let asked = Question {
            // In Agno's words; what follows is for the model to decide.
            on_reject: OnReject::Cancel,
            four_eyes: tool.is_some_and(|tool| tool.needs.four_eyes),
            tool: Some(Box::new(self.asked(planned))),
            ..Question::default()
        };
        let told = |text: String| Some(Arc::from(text));
        let Some(tool) = tool.filter(|_| matches!(planned.given, Given::Nothing)) else {
            let failure = self.unknown_outcome(call, planned.unknown.as_deref().unwrap_or_default());
            let question = Question {
                kind: QuestionKind::Outcome,
                key: planned.key.question(planned.asked + 1),
                message: told(failure.message.clone()),
                failure: Some(Box::new(failure)),
                ..asked
            };
            return (question, None);
        };
        let needs = &tool.needs;
        let (kind, message, fields) = if needs.confirmation {
            (QuestionKind::ToolConfirmation, format!("{title} wants to call {name} with {arguments}"), Vec::new())
        } else if needs.user_input {
            let fields = tool.input_fields();
            let names = fields.iter().map(|field| &*field.name).collect::<Vec<_>>().join(", ");
            (QuestionKind::ToolInput, format!("{title} calls {name} with {arguments}: fill in {names}"), fields)
        } else {
            let message = format!("{title} waits for the result of {name}, called with {arguments}");
            (QuestionKind::ToolResult, message, Vec::new())
        };
        let on_timeout = if needs.timeout.is_some() { OnTimeout::Skip } else { OnTimeout::default() };
        let key = planned.key.question(0);
        (Question { kind, key, message: told(message), fields, on_timeout, ..asked }, needs.timeout)
    }

    fn asked(&self, planned: &Planned) -> ToolAsked {
        let (name, is_team) = (self.profile.name.clone(), self.profile.members.is_some());
        ToolAsked {
            run_id: self.run_id.to_shared(),
            agent_id: Arc::from(self.id.as_str()),
            agent_name: name,
            agent_type: if is_team { ExecutorKind::Team } else { ExecutorKind::Agent },
            session_id: self.origin.session_id.clone(),
            asked_at: self.effects().now(),
            execution: planned.execution.clone(),
            team: None,
        }
    }

    /// A call with what was answered about it.
    fn answered(&self, mut call: Planned, answer: Answer) -> Planned {
        let answered = self.asked(&call).answered(Some(&answer));
        call.execution = ToolExecution { result: None, ..answered };
        let name = &tool_call(&call.call).function.name;
        call.given = match answer {
            Answer::Input { values } => Given::Allowed(values),
            Answer::Result { result } => Given::Ended(ToolResult::ok(capped(content_text(Some(&result))))),
            Answer::Reject { feedback } => {
                // In Agno's words.
                let note = || "Tool call was rejected".to_owned();
                call.execution.confirmed = Some(false);
                call.execution.confirmation_note = Some(feedback.clone().unwrap_or_else(note));
                let told = feedback.unwrap_or_else(|| "Function call was rejected by the user".to_owned());
                Given::Ended(ToolResult::error(capped(told)))
            }
            Answer::TimedOut => {
                call.execution.confirmed = Some(false);
                let told = format!("the tool {name} was not called: nobody answered in time");
                Given::Ended(ToolResult::error(told))
            }
            Answer::Approve | Answer::Edit { .. } | Answer::Choose { .. } | Answer::Retry | Answer::Skip => {
                Given::Allowed(Map::new())
            }
        };
        // What is not made here cannot have been in flight.
        if matches!(call.given, Given::Ended(_)) {
            call.unknown = None;
        }
        call
    }

    /// A call about which people were asked when its tool still needed them.
    pub(super) fn said_before(&self, mut call: Planned, answer: Answer) -> Planned {
        let flag = match answer {
            Answer::Input { .. } => &mut call.execution.requires_user_input,
            Answer::Result { .. } => &mut call.execution.external_execution_required,
            _ => &mut call.execution.requires_confirmation,
        };
        *flag = Some(true);
        self.answered(call, answer)
    }

    /// What follows from what people say came of a call.
    fn outcome(&self, call: &mut Planned, question: &Key, answer: Answer) {
        call.asked += 1;
        let function = tool_call(&call.call).clone();
        match answer {
            Answer::Retry => {
                let key = question.word("again");
                // Begun by an earlier process: nobody knows what came of that either.
                if !matches!(self.effects().recall(&key), Recall::Nothing) {
                    return;
                }
                self.tell_again(&function, key);
                call.unknown = None;
            }
            Answer::Result { result } => {
                call.unknown = None;
                call.given = Given::Ended(ToolResult::ok(capped(content_text(Some(&result)))));
            }
            Answer::Reject { feedback } => {
                let note = feedback.map(|note| format!(": {note}")).unwrap_or_default();
                let told = format!("the tool {} did not run{note}", function.function.name);
                call.unknown = None;
                call.given = Given::Ended(ToolResult::error(capped(told)));
            }
            // No answers to such a question: it stays unknown, and is asked again.
            Answer::Approve
            | Answer::Input { .. }
            | Answer::Edit { .. }
            | Answer::Choose { .. }
            | Answer::Skip
            | Answer::TimedOut => {}
        }
    }

    /// Tells people that a call is made again because one of them said so. From here on it may have happened.
    fn tell_again(&self, call: &ToolCall, key: Key) {
        let fields = json!({
            "name": "ToolCallRetrying",
            "tool_call_id": call.id,
            "tool_name": call.function.name,
            "error_type": FailureKind::OutcomeUnknown.code(),
        });
        let fields = fields.as_object().cloned().unwrap_or_default();
        self.tell(EventKind::CustomEvent { fields }, Some(Record::Said { key }));
    }
}

/// What a run says while it waits, in Agno's words.
fn paused_content(questions: &[Asking]) -> String {
    let asks = |kind| questions.iter().any(|(question, _)| question.kind == kind);
    let is_shown = |execution: &ToolExecution| execution.external_execution_silent != Some(true);
    let mut tools = questions.iter().filter(|(question, _)| question.kind == QuestionKind::ToolResult);
    let waits_openly = tools.any(|(question, _)| question.tool.as_ref().is_some_and(|tool| is_shown(&tool.execution)));
    let wishes = [
        (asks(QuestionKind::ToolConfirmation), "confirmation"),
        (asks(QuestionKind::ToolInput), "user input"),
        (waits_openly, "external execution"),
    ];
    let wishes: Vec<_> = wishes.into_iter().filter(|(is_wished, _)| *is_wished).map(|(_, wish)| wish).collect();
    match *wishes {
        [] if asks(QuestionKind::Outcome) => "I have called a tool, but I need to know what came of it.".to_owned(),
        [] => String::new(),
        ["external execution"] => "I have tools to execute, but it needs external execution.".to_owned(),
        [one] => format!("I have tools to execute, but I need {one}."),
        [one, other] => format!("I have tools to execute, but I need {one} or {other}."),
        [first, second, third, ..] => {
            format!("I have tools to execute, but I need {first}, {second}, or {third}.")
        }
    }
}
