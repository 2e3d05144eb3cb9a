//! Questions as AG-UI's interrupts, and what a client answers to them.
//!
//! It must never know who asks or answers. The invariant: what an interrupt's `responseSchema` allows is an answer that
//! the question takes.

use super::input::{ResumeEntry, ResumeStatus};
use outlive_core::{Answer, Question, QuestionKind, StepOutput};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A question as an interrupt. `call` is the id under which the client knows the call that it is about.
pub fn interrupt(question: &Question, call: Option<&str>) -> Value {
    let mut interrupt = json!({
        "id": question.id,
        "reason": reason(question),
        "responseSchema": schema(question),
        "metadata": { "outlive": about(question) },
    });
    let mut set = |name: &str, value: Value| interrupt[name] = value;
    if let Some(message) = message(question) {
        set("message", json!(message));
    }
    if let Some(call) = call {
        set("toolCallId", json!(call));
    }
    if let Some(due_at) = question.due_at {
        set("expiresAt", json!(due_at.to_rfc3339()));
    }
    interrupt
}

fn reason(question: &Question) -> String {
    match question.kind {
        _ if question.tool.is_some() => "tool_call".to_owned(),
        QuestionKind::Confirmation => "confirmation".to_owned(),
        QuestionKind::UserInput => "input_required".to_owned(),
        kind => format!("outlive:{kind}"),
    }
}

fn message(question: &Question) -> Option<String> {
    let own = question.message.as_deref().map(str::to_owned);
    own.or_else(|| {
        let tool = &question.tool.as_ref()?.execution;
        let what = match question.kind {
            QuestionKind::ToolConfirmation => "May",
            QuestionKind::ToolInput => "What is missing before",
            QuestionKind::ToolResult => return Some(format!("What did {} give back?", tool.tool_name)),
            _ => return Some(format!("What came of the call of {}?", tool.tool_name)),
        };
        Some(match question.kind {
            QuestionKind::ToolConfirmation => format!("{what} {} be called?", tool.tool_name),
            _ => format!("{what} {} is called?", tool.tool_name),
        })
    })
}

/// What the interrupt's own fields have no room for.
fn about(question: &Question) -> Value {
    let mut about = json!({
        "kind": question.kind,
        "answers": question.kind.answers(),
        "stepName": question.step_name,
        "stepId": question.step_id,
    });
    if !question.choices.is_empty() {
        about["choices"] = json!(question.choices);
    }
    if let Some(output) = question.output.as_deref().filter(|_| is_review(question.kind)) {
        about["output"] = json!(judged(output).content);
    }
    if let Some(failure) = &question.failure {
        about["error"] = json!({ "message": failure.message, "type": failure.kind.code() });
    }
    if question.four_eyes {
        about["fourEyes"] = json!(true);
    }
    about
}

fn is_review(kind: QuestionKind) -> bool {
    matches!(kind, QuestionKind::OutputReview | QuestionKind::IterationReview)
}

fn judged(output: &StepOutput) -> &StepOutput {
    output.steps.last().map_or(output, Arc::as_ref)
}

/// What may be answered.
fn schema(question: &Question) -> Value {
    let object =
        |fields: Value, required: &[&str]| json!({ "type": "object", "properties": fields, "required": required });
    let yes_or_no = || json!({ "type": "boolean" });
    let text = || json!({ "type": "string" });
    match question.kind {
        QuestionKind::UserInput | QuestionKind::ToolInput => {
            question.schema().unwrap_or_else(|| json!({ "type": "object" }))
        }
        QuestionKind::Confirmation | QuestionKind::ToolConfirmation => {
            object(json!({ "approved": yes_or_no(), "feedback": text() }), &["approved"])
        }
        QuestionKind::OutputReview | QuestionKind::IterationReview => object(
            json!({ "approved": yes_or_no(), "feedback": text(), "output": { "description": "In its place" } }),
            &["approved"],
        ),
        QuestionKind::RouteSelection => {
            let mut choices = json!({ "type": "array", "items": { "enum": question.choices }, "minItems": 1 });
            if !question.allows_several {
                choices["maxItems"] = json!(1);
            }
            object(json!({ "choices": choices }), &["choices"])
        }
        QuestionKind::Error => object(json!({ "decision": { "enum": ["retry", "skip", "fail"] } }), &["decision"]),
        QuestionKind::Outcome => json!({
            "anyOf": [
                object(json!({ "decision": { "enum": ["retry", "fail"] } }), &["decision"]),
                object(json!({ "result": {} }), &["result"]),
            ],
        }),
        QuestionKind::ToolResult => json!({ "description": "What the tool gave back" }),
        QuestionKind::Budget => {
            let raise_by = question.schema().map_or(Value::Null, |schema| schema["properties"]["raise_by"].clone());
            json!({
                "anyOf": [
                    object(json!({ "approved": yes_or_no(), "feedback": text() }), &["approved"]),
                    object(json!({ "raise_by": raise_by }), &["raise_by"]),
                ],
            })
        }
        QuestionKind::Definition => object(json!({ "approved": { "const": true } }), &["approved"]),
    }
}

/// What a client answered.
///
/// # Errors
/// Why it is no answer to this question, and what would be.
pub fn answer(question: &Question, entry: &ResumeEntry) -> Result<Answer, String> {
    let answer = match entry.status {
        ResumeStatus::Cancelled => Answer::Reject { feedback: None },
        ResumeStatus::Resolved => resolved(question, &entry.payload)?,
    };
    question.check(&answer)?;
    Ok(answer)
}

/// What the result of a call at the client answers.
///
/// # Errors
/// As [`answer`].
pub fn of_result(question: &Question, content: &str, is_error: bool) -> Result<Answer, String> {
    let answer = match question.kind {
        _ if is_error => Answer::reject(content),
        QuestionKind::ToolResult => Answer::Result { result: Value::String(content.to_owned()) },
        _ => {
            let payload = outlive_core::json::read(content).unwrap_or_else(|_| Value::String(content.to_owned()));
            resolved(question, &payload)?
        }
    };
    question.check(&answer)?;
    Ok(answer)
}

fn resolved(question: &Question, payload: &Value) -> Result<Answer, String> {
    // As `/api/questions` takes it.
    if payload.get("do").is_some()
        && question.kind != QuestionKind::ToolResult
        && let Ok(answer) = serde_json::from_value::<Answer>(payload.clone())
    {
        return Ok(answer);
    }
    let fits = match question.kind {
        QuestionKind::UserInput | QuestionKind::ToolInput => values(question, payload),
        QuestionKind::Confirmation | QuestionKind::ToolConfirmation => yes_or_no(payload)?,
        QuestionKind::OutputReview | QuestionKind::IterationReview => {
            match payload.get("output").filter(|output| !output.is_null()) {
                Some(output) => Some(Answer::Edit { output: output.clone() }),
                None => yes_or_no(payload)?,
            }
        }
        QuestionKind::RouteSelection => choices(payload),
        QuestionKind::Error => decision(payload),
        QuestionKind::Outcome => match payload.get("result") {
            Some(result) => Some(Answer::Result { result: result.clone() }),
            None => decision(payload),
        },
        QuestionKind::ToolResult => Some(Answer::Result { result: payload.clone() }),
        QuestionKind::Budget => match payload.as_object() {
            Some(values) if values.contains_key("raise_by") => Some(Answer::Input { values: values.clone() }),
            _ => yes_or_no(payload)?,
        },
        QuestionKind::Definition => {
            yes_or_no(payload)?.filter(|answer| *answer == Answer::Approve).map(|_| Answer::Retry)
        }
    };
    fits.ok_or_else(|| {
        format!("the payload answers no question of the kind {}: send what its responseSchema says", question.kind)
    })
}

/// Yes, or no with a reason. Agno's clients write `accepted` and `note`.
fn yes_or_no(payload: &Value) -> Result<Option<Answer>, String> {
    if payload.get("editedArgs").is_some_and(|edited| !edited.is_null()) {
        return Err("editedArgs: arguments cannot be changed here; say no, with feedback".to_owned());
    }
    let said = payload.get("approved").or_else(|| payload.get("accepted")).unwrap_or(payload).as_bool();
    let text = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(said.map(|said| match said {
        true => Answer::Approve,
        false => Answer::Reject { feedback: text("feedback").or_else(|| text("note")) },
    }))
}

/// The values of the fields, or under `values` where no field has that name.
fn values(question: &Question, payload: &Value) -> Option<Answer> {
    let values: &Map<String, Value> = payload.as_object()?;
    let is_field = question.fields.iter().any(|field| &*field.name == "values");
    let inner = values.get("values").and_then(Value::as_object).filter(|_| values.len() == 1 && !is_field);
    Some(Answer::Input { values: inner.unwrap_or(values).clone() })
}

fn choices(payload: &Value) -> Option<Answer> {
    let chosen = payload.get("choices").unwrap_or(payload);
    let names: Vec<&str> = match chosen {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    Some(Answer::choose(names))
}

fn decision(payload: &Value) -> Option<Answer> {
    match payload.get("decision").unwrap_or(payload).as_str()? {
        "retry" => Some(Answer::Retry),
        "skip" => Some(Answer::Skip),
        "fail" => Some(Answer::Reject { feedback: None }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{FieldType, UserInputField};

    fn of(kind: QuestionKind) -> Question {
        let fields = match kind {
            QuestionKind::UserInput | QuestionKind::ToolInput => vec![UserInputField::new("colour")],
            QuestionKind::Budget => vec![UserInputField::new("raise_by").of(FieldType::Int)],
            _ => Vec::new(),
        };
        let choices = vec![Arc::from("left"), Arc::from("right")];
        Question { id: Arc::from("q"), kind, fields, choices, ..Question::default() }
    }

    fn entry(payload: Value) -> ResumeEntry {
        ResumeEntry { interrupt_id: "q".to_owned(), status: ResumeStatus::Resolved, payload }
    }

    #[test]
    fn each_kind_is_answered_as_its_schema_says() {
        let reject = |feedback: &str| Answer::reject(feedback);
        for (kind, payload, expected) in [
            (QuestionKind::Confirmation, json!({ "approved": true }), Answer::Approve),
            (QuestionKind::Confirmation, json!(true), Answer::Approve),
            (QuestionKind::ToolConfirmation, json!({ "accepted": false, "note": "no" }), reject("no")),
            (QuestionKind::UserInput, json!({ "colour": "red" }), Answer::input([("colour", "red".into())])),
            (
                QuestionKind::ToolInput,
                json!({ "values": { "colour": "red" } }),
                Answer::input([("colour", "red".into())]),
            ),
            (
                QuestionKind::OutputReview,
                json!({ "approved": true, "output": "x" }),
                Answer::Edit { output: json!("x") },
            ),
            (QuestionKind::IterationReview, json!({ "approved": false, "feedback": "more" }), reject("more")),
            (QuestionKind::RouteSelection, json!({ "choices": ["left"] }), Answer::choose(["left"])),
            (QuestionKind::RouteSelection, json!("right"), Answer::choose(["right"])),
            (QuestionKind::Error, json!({ "decision": "retry" }), Answer::Retry),
            (QuestionKind::Error, json!({ "decision": "fail" }), Answer::Reject { feedback: None }),
            (QuestionKind::Outcome, json!({ "result": 3 }), Answer::Result { result: json!(3) }),
            (QuestionKind::ToolResult, json!({ "do": "x" }), Answer::Result { result: json!({ "do": "x" }) }),
            (QuestionKind::Definition, json!({ "approved": true }), Answer::Retry),
            (QuestionKind::Error, json!({ "do": "skip" }), Answer::Skip),
        ] {
            assert_eq!(answer(&of(kind), &entry(payload.clone())), Ok(expected), "{kind} {payload}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (kind, payload) in [
            (QuestionKind::Confirmation, json!({})),
            (QuestionKind::ToolConfirmation, json!({ "approved": true, "editedArgs": {} })),
            (QuestionKind::UserInput, json!({ "colour": 3 })),
            (QuestionKind::RouteSelection, json!(["up"])),
            (QuestionKind::Error, json!({ "decision": "dance" })),
            (QuestionKind::Definition, json!({ "approved": false })),
        ] {
            assert!(answer(&of(kind), &entry(payload.clone())).is_err(), "{kind} {payload}");
        }
    }

    #[test]
    fn giving_up_is_a_no_where_there_is_one() {
        let given_up = |kind| {
            let entry = ResumeEntry { status: ResumeStatus::Cancelled, ..entry(Value::Null) };
            answer(&of(kind), &entry)
        };
        assert_eq!(given_up(QuestionKind::UserInput), Ok(Answer::Reject { feedback: None }));
        assert!(given_up(QuestionKind::Definition).is_err());
    }

    #[test]
    fn an_interrupt_says_what_is_asked_and_how_to_answer() {
        let question = Question { message: Some(Arc::from("Which colour?")), ..of(QuestionKind::UserInput) };
        let told = interrupt(&question, None);
        assert_eq!(told["id"], "q");
        assert_eq!(told["reason"], "input_required");
        assert_eq!(told["message"], "Which colour?");
        assert_eq!(told["responseSchema"]["required"], json!(["colour"]));
        assert_eq!(told["metadata"]["outlive"]["answers"], json!(["input", "reject"]));
        assert_eq!(interrupt(&of(QuestionKind::Error), None)["reason"], "outlive:error");
    }
}
