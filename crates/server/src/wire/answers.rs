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
        if self.steps.iter().any(|given| !given.contains_key("step_id")) {
            return Err(invalid("'step_id'"));
        }
        let (mut answers, mut unresolved, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for question in open {
            let answer = self.about(question, open)?.and_then(|given| read(question, given));
            let Some(answer) = answer else {
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
    pub fn disputed(&self, asked: &[(&Question, Option<&Answer>)], open: &[&Question]) -> Option<usize> {
        // What names no question is about one that is open there, or else about the last one that was.
        let mut taken: HashSet<Place<'_>> = open.iter().map(|question| Place::of(question)).collect();
        asked.iter().enumerate().rev().find_map(|(at, (question, before))| {
            let is_last = taken.insert(Place::of(question));
            // Agno's clients send what a step was told before along changed; that of a call stays.
            let named = self.by_id(question).filter(|_| is_last || question.tool.is_some());
            let given = named.or_else(|| self.by_place(question).filter(|_| is_last))?;
            let given = read(question, given)?;
            before.is_some_and(|before| disputes(&given, before)).then_some(at)
        })
    }

    /// What is said about a question.
    ///
    /// # Errors
    /// 400 when what is said names no question, and several are open at its place.
    fn about(&self, question: &Question, open: &[&Question]) -> Result<Option<&Map<String, Value>>, Problem> {
        if let Some(given) = self.by_id(question) {
            return Ok(Some(given));
        }
        let Some(given) = self.by_place(question) else { return Ok(None) };
        let place = Place::of(question);
        let fits = |other: &&&Question| Place::of(other) == place && self.by_id(other).is_none();
        let fitting: Vec<&str> = open.iter().filter(fits).map(|other| &*other.id).collect();
        match fitting.len() {
            0 | 1 => Ok(Some(given)),
            _ => Err(ambiguous(question, &fitting)),
        }
    }

    /// What names this question.
    fn by_id(&self, question: &Question) -> Option<&Map<String, Value>> {
        self.for_kind_of(question).into_iter().find(|given| id_in(given, question) == Some(&*question.id))
    }

    /// What names no question, and is about the call or the step that this one is about. A step may have been asked
    /// before, and a server may use the id of a call again: what comes last is about what is open.
    fn by_place(&self, question: &Question) -> Option<&Map<String, Value>> {
        let is_about = |given: &&Map<String, Value>| {
            let place = match &question.tool {
                Some(tool) => (call(given), "tool_call_id", &*tool.execution.tool_call_id),
                None => (*given, "step_id", &*question.step_id),
            };
            let (fields, name, id) = place;
            id_in(given, question).is_none() && text(fields, name) == Some(id) && !is_older(given, question)
        };
        self.for_kind_of(question).into_iter().rev().find(is_about)
    }

    /// All that may be about a question of its kind.
    fn for_kind_of(&self, question: &Question) -> Vec<&Map<String, Value>> {
        if question.tool.is_some() {
            let of_steps = self.steps.iter().filter_map(|step| step.get("executor_requirements")?.as_array());
            return of_steps.flatten().filter_map(Value::as_object).chain(&self.tools).collect();
        }
        let own = if question.kind == QuestionKind::Error { &self.errors } else { &self.steps };
        let is_of_calls =
            |given: &&Map<String, Value>| given.get("requires_executor_input") == Some(&Value::Bool(true));
        own.iter().filter(|given| !is_of_calls(given)).chain(&self.tools).collect()
    }
}

/// What a question is about, which others may be about too.
#[derive(PartialEq, Eq, Hash)]
enum Place<'a> {
    Call(&'a str),
    Step(&'a str),
    Failure(&'a str),
}

impl<'a> Place<'a> {
    fn of(question: &'a Question) -> Self {
        match (&question.tool, question.kind) {
            (Some(tool), _) => Self::Call(&tool.execution.tool_call_id),
            (None, QuestionKind::Error) => Self::Failure(&question.step_id),
            (None, _) => Self::Step(&question.step_id),
        }
    }
}

/// The id of the question that this names. A step's question that an agent's client answers has it for a call's id, too.
fn id_in<'a>(given: &'a Map<String, Value>, question: &Question) -> Option<&'a str> {
    let own = text(given, "question_id").or_else(|| text(given, "id"));
    own.or_else(|| text(call(given), "tool_call_id").filter(|id| *id == &*question.id))
}

/// The call in a requirement, or the call itself.
fn call(given: &Map<String, Value>) -> &Map<String, Value> {
    given.get("tool_execution").and_then(Value::as_object).unwrap_or(given)
}

fn read(question: &Question, given: &Map<String, Value>) -> Option<Answer> {
    match question.kind {
        _ if question.tool.is_some() => of_tool(question, given),
        QuestionKind::Error => decision(given),
        _ => of_step(question, given),
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

/// Whether this says of itself that it is about an earlier time. An answer to that is none to what nobody has seen yet.
fn is_older(given: &Map<String, Value>, question: &Question) -> bool {
    let count = given.get("retry_count").and_then(Value::as_u64);
    count.is_some_and(|count| count < u64::from(question.retry_count))
}

fn invalid(what: &str) -> Problem {
    let detail = format!("Invalid structure or content for step_requirements: {what}");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_answers", detail)
}

fn refused(why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "unresolved_requirements", format!("Cannot continue run - {why}"))
}

/// That an answer names none of the questions which it could be about.
fn ambiguous(question: &Question, fitting: &[&str]) -> Problem {
    let (what, name) = match &question.tool {
        Some(tool) => (format!("the call {} of {}", tool.execution.tool_call_id, tool.execution.tool_name), "id"),
        None => (format!("step '{}'", question.step_name), "question_id"),
    };
    let detail = format!(
        "Cannot continue run - {} questions are open about {what}, {}: send each requirement back with its {name}, or \
         answer them at /api/questions",
        fitting.len(),
        fitting.join(" and ")
    );
    Problem::new(StatusCode::BAD_REQUEST, "ambiguous_requirement", detail)
}

/// As Python writes a list of texts.
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}

fn text<'a>(given: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    given.get(name)?.as_str()
}

fn decision(given: &Map<String, Value>) -> Option<Answer> {
    match given.get("decision")?.as_str()? {
        "retry" => Some(Answer::Retry),
        "skip" => Some(Answer::Skip),
        _ => None,
    }
}

/// What is said to a step's question; as of a call where an agent's or a team's client sends it.
fn of_step(question: &Question, given: &Map<String, Value>) -> Option<Answer> {
    let confirmed = confirmed(given);
    if confirmed == Some(false) {
        let feedback = text(given, "rejection_feedback").map(str::to_owned);
        return Some(Answer::Reject { feedback: feedback.or_else(|| note(given)) });
    }
    match question.kind {
        QuestionKind::Confirmation => confirmed.map(|_| Answer::Approve),
        QuestionKind::UserInput => {
            let values = given.get("user_input").and_then(Value::as_object).cloned();
            Some(Answer::Input { values: values.or_else(|| filled_in(call(given)))? })
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

fn confirmed(given: &Map<String, Value>) -> Option<bool> {
    let places = [given.get("confirmation"), given.get("confirmed"), call(given).get("confirmed")];
    places.into_iter().flatten().find_map(Value::as_bool)
}

fn note(given: &Map<String, Value>) -> Option<String> {
    text(given, "confirmation_note").or_else(|| text(call(given), "confirmation_note")).map(str::to_owned)
}

fn of_tool(question: &Question, given: &Map<String, Value>) -> Option<Answer> {
    let confirmed = confirmed(given);
    if confirmed == Some(false) {
        return Some(Answer::Reject { feedback: note(given) });
    }
    match question.kind {
        QuestionKind::ToolConfirmation => confirmed.map(|_| Answer::Approve),
        QuestionKind::ToolInput => {
            let values = given.get("user_input").and_then(Value::as_object).cloned();
            Some(Answer::Input { values: values.or_else(|| filled_in(call(given)))? })
        }
        QuestionKind::ToolResult | QuestionKind::Outcome => {
            let result = given.get("external_execution_result").or_else(|| call(given).get("result"));
            match result.filter(|result| !result.is_null()) {
                Some(result) => Some(Answer::Result { result: result.clone() }),
                None => decision(given),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{ExecutorKind, Timestamp, ToolAsked, ToolCall, ToolExecution};
    use serde_json::json;

    /// A question about a call that has the same id as all others.
    fn about_call(id: &str) -> Question {
        let tool = ToolAsked {
            run_id: "run".into(),
            agent_id: "agent".into(),
            agent_name: "Agent".into(),
            agent_type: ExecutorKind::Agent,
            session_id: None,
            asked_at: Timestamp::default(),
            execution: ToolExecution::started(&ToolCall::new("call_1", "delete", "{}"), 0),
            team: None,
        };
        let kind = QuestionKind::ToolConfirmation;
        Question { id: id.into(), kind, step_name: "step".into(), tool: Some(Box::new(tool)), ..Question::default() }
    }

    fn about_step(id: &str) -> Question {
        Question { id: id.into(), step_id: "s".into(), step_name: "step".into(), ..Question::default() }
    }

    fn objects(all: Value) -> Vec<Map<String, Value>> {
        serde_json::from_value(all).expect("objects")
    }

    fn calls(all: Value) -> Requirements {
        Requirements { tools: objects(all), ..Requirements::default() }
    }

    fn steps(all: Value) -> Requirements {
        Requirements { steps: objects(all), ..Requirements::default() }
    }

    fn given(requirements: &Requirements, open: &[&Question]) -> Result<Vec<(String, &'static str)>, String> {
        let answers = requirements.answers(open).map_err(|problem| problem.words())?;
        Ok(answers.iter().map(|(id, answer)| (id.to_string(), answer.as_str())).collect())
    }

    fn said(answers: &[(&str, &'static str)]) -> Result<Vec<(String, &'static str)>, String> {
        Ok(answers.iter().map(|(id, answer)| ((*id).to_owned(), *answer)).collect())
    }

    #[test]
    fn an_answer_goes_to_the_call_that_it_names_and_to_no_other_of_the_same_id() {
        let (one, two) = (about_call("one"), about_call("two"));
        let requirement = |id: &str, yes: bool| json!({ "id": id, "tool_execution": { "tool_call_id": "call_1", "confirmed": yes }, "confirmation": yes });
        // Side by side, whichever comes first.
        for both in [
            json!([requirement("one", true), requirement("two", false)]),
            json!([requirement("two", false), requirement("one", true)]),
        ] {
            let inside = json!([{ "step_id": "s", "executor_requirements": both }]);
            for sent in [calls(both), steps(inside)] {
                assert_eq!(given(&sent, &[&one, &two]), said(&[("one", "approve"), ("two", "reject")]));
                assert_eq!(sent.disputed(&[(&one, None), (&two, None)], &[&one, &two]), None);
            }
        }
        // One after the other: what was answered is no answer to what is asked now, and none that it contradicts.
        let yes = Answer::Approve;
        let before = [(&one, Some(&yes)), (&two, None)];
        let stale = calls(json!([requirement("one", true)]));
        assert!(given(&stale, &[&two]).is_err_and(|problem| problem.contains("unresolved step requirements")));
        let no = calls(json!([requirement("two", false)]));
        assert_eq!((given(&no, &[&two]), no.disputed(&before, &[&two])), (said(&[("two", "reject")]), None));
        let late = calls(json!([requirement("one", false), requirement("two", true)]));
        assert_eq!(late.disputed(&before, &[&two]), Some(0));
    }

    #[test]
    fn a_call_alone_answers_the_one_open_question_that_it_can_be_about() {
        let (one, two) = (about_call("one"), about_call("two"));
        let call = |yes: Value| json!({ "tool_call_id": "call_1", "confirmed": yes });
        // All calls of the run, the earlier ones with their answers.
        let all = calls(json!([call(json!(true)), call(json!(false))]));
        let yes = Answer::Approve;
        let before = [(&one, Some(&yes)), (&two, None)];
        assert_eq!((given(&all, &[&two]), all.disputed(&before, &[&two])), (said(&[("two", "reject")]), None));
        let alone = calls(json!([call(json!(true))]));
        let problem = given(&alone, &[&one, &two]).expect_err("nobody knows which");
        assert!(problem.contains("one and two") && problem.contains("call_1 of delete"), "{problem}");
        // One that is named leaves the other.
        let named = calls(json!([{ "id": "one", "confirmation": false }, call(json!(true))]));
        assert_eq!(given(&named, &[&one, &two]), said(&[("one", "reject"), ("two", "approve")]));
        // Of what is open nowhere, the last that was asked.
        let other = calls(json!([call(json!(false))]));
        assert_eq!(other.disputed(&[(&one, None), (&two, Some(&yes))], &[]), Some(1));
    }

    #[test]
    fn a_requirement_of_a_step_answers_the_question_that_it_names() {
        let (one, two) = (about_step("one"), about_step("two"));
        let requirement = |id: Value, yes: bool| json!({ "step_id": "s", "question_id": id, "confirmed": yes });
        let named = steps(json!([requirement(json!("two"), false), requirement(json!("one"), true)]));
        assert_eq!(given(&named, &[&one, &two]), said(&[("one", "approve"), ("two", "reject")]));
        let earlier = steps(json!([requirement(json!("one"), true)]));
        assert!(given(&earlier, &[&two]).is_err());
        let unnamed = steps(json!([requirement(Value::Null, true)]));
        assert_eq!(given(&unnamed, &[&two]), said(&[("two", "approve")]));
        let problem = given(&unnamed, &[&one, &two]).expect_err("nobody knows which");
        assert!(problem.contains("one and two") && problem.contains("question_id"), "{problem}");
        // What is said about the calls of the same step is none.
        let mut of_calls = requirement(Value::Null, true);
        of_calls["requires_executor_input"] = json!(true);
        assert!(given(&steps(json!([of_calls])), &[&two]).is_err());
    }
}
