//! Agno's requirements as they come back from a client, read as answers to a run's open questions.
//!
//! Only the answer in a requirement is read: everything else in it, which is ours, may come back changed or not at all.
//! It must never know a run or a request.

use crate::problem::Problem;
use axum::http::StatusCode;
use outlive_core::{Answer, Question, QuestionKind};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;

/// What a client sends to continue a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requirements {
    /// A workflow's, one for each step that waits.
    pub steps: Vec<Map<String, Value>>,
    /// A workflow's about failures. Agno has no field for them.
    pub errors: Vec<Map<String, Value>>,
    /// An agent's or a team's about tool calls, or the calls themselves.
    pub tools: Vec<Map<String, Value>>,
}

impl Requirements {
    /// The answers to all of these questions.
    ///
    /// # Errors
    /// 400 in Agno's words when one of them is not answered, or its answer does not fit.
    pub fn answers(&self, open: &[&Question]) -> Result<Vec<(Arc<str>, Answer)>, Problem> {
        if let Some(missing) = self.steps.iter().find(|given| !given.contains_key("step_id")) {
            let _ = missing;
            return Err(invalid("'step_id'"));
        }
        let (mut answers, mut unresolved, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for question in open {
            let Some(answer) = self.answer(question) else {
                let missing = if question.kind == QuestionKind::Error { &mut failures } else { &mut unresolved };
                missing.push(&*question.step_name);
                continue;
            };
            if let Err(problem) = question.check(&answer) {
                let what = match answer {
                    Answer::Input { .. } => format!("Invalid user_input for step '{}': {problem}", question.step_name),
                    _ => problem,
                };
                return Err(invalid(&what));
            }
            answers.push((question.id.clone(), answer));
        }
        match (unresolved.as_slice(), failures.as_slice()) {
            ([], []) => Ok(answers),
            ([], failures) => Err(refused(&format!("unresolved error requirements: {}", list(failures)))),
            (steps, _) => Err(refused(&format!("unresolved step requirements: {}", list(steps)))),
        }
    }

    /// The newest question of a run, by its place among all that it has asked, that was settled otherwise than it is
    /// answered here, so that this answer would be lost without a word. Clients send earlier answers along: those are the
    /// same.
    pub fn disputed(&self, asked: &[(&Question, Option<&Answer>)]) -> Option<usize> {
        let mut steps = HashSet::new();
        asked.iter().enumerate().rev().find_map(|(at, (question, before))| {
            // The last requirement of a step is about the last that it has asked.
            let is_last =
                question.tool.is_some() || steps.insert((&question.step_id, question.kind == QuestionKind::Error));
            let given = self.answer(question).filter(|_| is_last)?;
            before.is_some_and(|before| disputes(&given, before)).then_some(at)
        })
    }

    fn answer(&self, question: &Question) -> Option<Answer> {
        if question.tool.is_some() {
            let of_steps = self.steps.iter().filter_map(|step| step.get("executor_requirements")?.as_array());
            let of_steps = of_steps.flatten().filter_map(Value::as_object);
            return of_steps
                .chain(&self.tools)
                .find(|given| is_of_tool(given, question))
                .and_then(|given| of_tool(question, given));
        }
        let all = if question.kind == QuestionKind::Error { &self.errors } else { &self.steps };
        let same =
            |given: &&Map<String, Value>, name: &str, id: &str| given.get(name).and_then(Value::as_str) == Some(id);
        let by_id = all.iter().find(|given| same(given, "question_id", &question.id));
        // A step may have been asked before: the last of its requirements is the one that is open.
        let is_about =
            |given: &&Map<String, Value>| same(given, "step_id", &question.step_id) && !is_older(given, question);
        let by_step = || all.iter().rev().find(is_about);
        let given = by_id.or_else(by_step)?;
        match question.kind {
            QuestionKind::Error => decision(given),
            _ => of_step(question, given),
        }
    }
}

/// Whether an answer says something else than the one before. Values and texts may come back changed; a yes, a no and a
/// choice do not.
fn disputes(given: &Answer, before: &Answer) -> bool {
    let says_no = |answer: &Answer| matches!(answer, Answer::Reject { .. });
    match (given, before) {
        (_, Answer::TimedOut) => true,
        (Answer::Retry | Answer::Skip, Answer::Retry | Answer::Skip)
        | (Answer::Choose { .. }, Answer::Choose { .. }) => given != before,
        _ => says_no(given) != says_no(before),
    }
}

/// Whether this says of itself that it is about something else that the step has asked, or about an earlier time. An answer
/// to that is none to what nobody has seen yet.
fn is_older(given: &Map<String, Value>, question: &Question) -> bool {
    let is_of_another = given.get("question_id").and_then(Value::as_str).is_some_and(|id| *id != *question.id);
    let count = given.get("retry_count").and_then(Value::as_u64);
    is_of_another || count.is_some_and(|count| count < u64::from(question.retry_count))
}

fn invalid(what: &str) -> Problem {
    let detail = format!("Invalid structure or content for step_requirements: {what}");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_answers", detail)
}

fn refused(why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "unresolved_requirements", format!("Cannot continue run - {why}"))
}

/// As Python writes a list of texts.
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}

fn text(given: &Map<String, Value>, name: &str) -> Option<String> {
    given.get(name)?.as_str().map(str::to_owned)
}

fn decision(given: &Map<String, Value>) -> Option<Answer> {
    match given.get("decision")?.as_str()? {
        "retry" => Some(Answer::Retry),
        "skip" => Some(Answer::Skip),
        _ => None,
    }
}

fn of_step(question: &Question, given: &Map<String, Value>) -> Option<Answer> {
    let confirmed = given.get("confirmed").and_then(Value::as_bool);
    if confirmed == Some(false) {
        return Some(Answer::Reject { feedback: text(given, "rejection_feedback") });
    }
    match question.kind {
        QuestionKind::Confirmation => confirmed.map(|_| Answer::Approve),
        QuestionKind::UserInput => {
            let values = given.get("user_input").and_then(Value::as_object).cloned();
            Some(Answer::Input { values: values.or_else(|| filled_in(given))? })
        }
        QuestionKind::OutputReview | QuestionKind::IterationReview => {
            let edited = given.get("edited_output").filter(|output| !output.is_null());
            match edited {
                Some(output) => Some(Answer::Edit { output: output.clone() }),
                None => confirmed.map(|_| Answer::Approve),
            }
        }
        QuestionKind::RouteSelection => {
            let chosen = given.get("selected_choices")?.as_array()?.iter().filter_map(Value::as_str);
            Some(Answer::Choose { choices: chosen.map(Arc::from).collect() })
        }
        QuestionKind::Outcome => match given.get("result").filter(|result| !result.is_null()) {
            Some(result) => Some(Answer::Result { result: result.clone() }),
            None => decision(given),
        },
        QuestionKind::Budget => match given.get("user_input").and_then(Value::as_object) {
            Some(values) if !values.is_empty() => Some(Answer::Input { values: values.clone() }),
            _ => confirmed.map(|_| Answer::Approve),
        },
        QuestionKind::Definition => confirmed.map(|_| Answer::Retry),
        QuestionKind::Error | QuestionKind::ToolConfirmation | QuestionKind::ToolInput | QuestionKind::ToolResult => {
            None
        }
    }
}

/// The values in a schema whose fields were filled in.
fn filled_in(given: &Map<String, Value>) -> Option<Map<String, Value>> {
    let fields = given.get("user_input_schema")?.as_array()?;
    let values: Map<String, Value> = fields
        .iter()
        .filter_map(|field| Some((field.get("name")?.as_str()?.to_owned(), field.get("value")?.clone())))
        .filter(|(_, value)| !value.is_null())
        .collect();
    (!values.is_empty()).then_some(values)
}

/// Whether this is about the call that a question is about: a requirement, or the call itself.
fn is_of_tool(given: &Map<String, Value>, question: &Question) -> bool {
    let Some(tool) = &question.tool else { return false };
    let call = given.get("tool_execution").and_then(Value::as_object).unwrap_or(given);
    let same = |fields: &Map<String, Value>, name: &str, id: &str| fields.get(name).and_then(Value::as_str) == Some(id);
    same(given, "id", &question.id) || same(call, "tool_call_id", &tool.execution.tool_call_id)
}

fn of_tool(question: &Question, given: &Map<String, Value>) -> Option<Answer> {
    let call = given.get("tool_execution").and_then(Value::as_object).unwrap_or(given);
    let confirmed = given.get("confirmation").or_else(|| call.get("confirmed")).and_then(Value::as_bool);
    if confirmed == Some(false) {
        let note = text(given, "confirmation_note").or_else(|| text(call, "confirmation_note"));
        return Some(Answer::Reject { feedback: note });
    }
    match question.kind {
        QuestionKind::ToolConfirmation => confirmed.map(|_| Answer::Approve),
        QuestionKind::ToolInput => {
            let values = given.get("user_input").and_then(Value::as_object).cloned();
            Some(Answer::Input { values: values.or_else(|| filled_in(call))? })
        }
        QuestionKind::ToolResult | QuestionKind::Outcome => {
            let result = given.get("external_execution_result").or_else(|| call.get("result"));
            match result.filter(|result| !result.is_null()) {
                Some(result) => Some(Answer::Result { result: result.clone() }),
                None => decision(given),
            }
        }
        _ => None,
    }
}
