//! Steps that make a call: over HTTP, or of a program.
//!
//! It must never know a file. The invariants: a call carries the same idempotency key whenever its step is executed again;
//! one that must never start twice is not made again after a crash by itself, people are asked.

use outlive_agent::tool::Call;
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, Recall, StepContext};
use outlive_core::{ExecutorKind, Failure, FailureKind, Secret, StepInput, StepOutput, StepType, ToolEffect, json};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a call may take when its step has no time limit.
const LONGEST: Duration = Duration::from_secs(600);
/// What the call is recorded as.
const NAME: &str = "call";

/// A call as a step.
pub(super) struct CallStep {
    pub(super) name: Arc<str>,
    pub(super) call: Call,
    pub(super) effect: ToolEffect,
}

impl Executor for CallStep {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Function, name: self.name.clone(), id: None }
    }

    fn word(&self) -> &'static str {
        match self.call {
            Call::Http(_) => "request",
            Call::Command(_) => "command",
        }
    }

    fn problems(&self) -> Vec<String> {
        self.call.problems()
    }

    fn secrets(&self) -> Vec<Secret> {
        self.call.secrets()
    }

    fn starts_once(&self) -> bool {
        self.effect == ToolEffect::Once
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let given = given(&input);
            let made = async {
                let key = context.idempotency_key();
                let places = places(&input, &self.call.names());
                let made = self.call.make(&places, &given, &key, context.run.run_id.as_str());
                match tokio::time::timeout(LONGEST, made).await {
                    Ok(Err(lost)) if lost.kind == FailureKind::Truncated => {
                        Err(self.broken_off(lost.kind, lost.message))
                    }
                    Ok(made) => made,
                    Err(_) => {
                        let why = format!("it has not ended within {} minutes", LONGEST.as_secs() / 60);
                        Err(self.broken_off(FailureKind::Timeout, why))
                    }
                }
            };
            let text = match self.effect {
                ToolEffect::Read | ToolEffect::Idempotent => made.await?,
                ToolEffect::Once => {
                    // Each attempt that somebody wants is a call of its own.
                    let name = format!("{NAME} {}", context.step.attempt);
                    let started = context.step.key.attempt(1).named(&name);
                    if matches!(context.effects.recall(&started), Recall::Started) {
                        return Err(Failure::outcome_unknown("the process was lost during its call"));
                    }
                    // However it failed, it has started.
                    let given_up = |failure: Failure| Failure { retryable: false, ..failure };
                    context.once(&name, || made).await.map_err(given_up)?
                }
            };
            Ok(Executed::from(output(text)))
        })
    }
}

impl CallStep {
    /// A call that was sent, and of which nothing more is heard.
    fn broken_off(&self, kind: FailureKind, why: String) -> Failure {
        if self.starts_once() { Failure::outcome_unknown(why) } else { Failure::new(kind, why) }
    }
}

/// What a step is given, as JSON.
fn given(input: &StepInput) -> Value {
    let outputs = input.previous_step_outputs.iter().map(|(name, output)| (name.to_string(), told(output)));
    json!({
        "input": input.input.as_deref(),
        "previous_step_content": input.previous_step_content,
        "previous_step_outputs": outputs.collect::<Map<String, Value>>(),
        "additional_data": input.additional_data,
    })
}

/// What an earlier step gave back; of a Parallel or a ForEach, a list of what each branch did.
fn told(output: &StepOutput) -> Value {
    match output.step_type {
        StepType::Parallel => output.steps.iter().map(|branch| json!(branch.given_back())).collect(),
        StepType::Step => output.text().into(),
        _ => json!(output.given_back()),
    }
}

/// Of `{input}`, `{previous_step_content}` and the fields of the run's input, what the call has places for.
fn places(input: &StepInput, names: &[&str]) -> Map<String, Value> {
    let fields = input.input.as_deref().and_then(Value::as_object);
    let place = |name: &&str| {
        let value = match *name {
            "input" => Value::String(input.input_text()),
            "previous_step_content" => Value::String(input.text()),
            name => fields?.get(name)?.clone(),
        };
        Some(((*name).to_owned(), value))
    };
    names.iter().filter_map(place).collect()
}

/// JSON that is more than a text is read, anything else is text.
fn output(text: String) -> StepOutput {
    let is_json = text.trim_start().starts_with(['{', '[']);
    match is_json.then(|| json::read(&text)) {
        Some(Ok::<Value, _>(value)) => StepOutput::from(value),
        _ => StepOutput::from(text),
    }
}
