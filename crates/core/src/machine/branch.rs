//! A branch or an item that ended, in as little room as it takes: a ForEach keeps ten thousand of them for its join.
//!
//! It must never know what a container makes of it. The invariant: what comes out is what went in.

use crate::id;
use crate::step::{ExecutorKind, StepOutput, StepType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A branch that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Branch {
    /// A step that says no more than its content.
    Plain(Box<Plain>),
    /// Any other step.
    Step(Arc<StepOutput>),
    /// One that gives on something else than its output's content, or has changed the session.
    Other(Box<Other>),
}

/// What not every output has alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plain {
    content: Option<Value>,
    step_name: Option<Arc<str>>,
    step_id: [u8; 16],
    executor_type: Option<ExecutorKind>,
    executor_name: Option<Arc<str>>,
}

/// What has to be kept as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Other {
    output: Arc<StepOutput>,
    content: Option<Value>,
    state: Map<String, Value>,
}

impl Branch {
    /// `content` is what it gives on, `state` what was changed inside it and has not been merged.
    pub(super) fn new(output: Arc<StepOutput>, content: Option<Value>, state: Map<String, Value>) -> Self {
        let is_own = state.is_empty() && content.as_ref() == own_content(&output);
        match is_own.then(|| Plain::id_of(&output)) {
            None => Self::Other(Box::new(Other { output, content, state })),
            Some(None) => Self::Step(output),
            Some(Some(step_id)) => Self::Plain(Box::new(Plain {
                content,
                step_name: output.step_name.clone(),
                step_id,
                executor_type: output.executor_type,
                executor_name: output.executor_name.clone(),
            })),
        }
    }

    /// Its output.
    pub(crate) fn output(&self) -> Arc<StepOutput> {
        match self {
            Self::Plain(plain) => Arc::new(plain.output()),
            Self::Step(output) => output.clone(),
            Self::Other(other) => other.output.clone(),
        }
    }

    /// What it gives on.
    pub(super) fn content(&self) -> Option<&Value> {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        match self {
            Self::Plain(plain) => plain.content.as_ref(),
            Self::Step(output) => own_content(output),
            Self::Other(other) => other.content.as_ref(),
        }
    }

    /// What was changed in the session inside it.
    pub(super) fn state(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Plain(_) | Self::Step(_) => None,
            Self::Other(other) => Some(&other.state),
        }
    }
}

/// What a step gives on.
fn own_content(output: &StepOutput) -> Option<&Value> {
    output.content.as_ref().filter(|_| output.success)
}

impl Plain {
    /// The step's id, if its output can be told by this.
    fn id_of(output: &StepOutput) -> Option<[u8; 16]> {
        match output {
            StepOutput {
                content: _,
                step_name: _,
                step_id: Some(step_id),
                step_type: StepType::Step,
                executor_type: _,
                executor_name: _,
                step_run_id: None,
                images: None,
                videos: None,
                audio: None,
                files: None,
                metrics: None,
                success: true,
                error: None,
                stop: false,
                is_paused: false,
                steps,
            } if steps.is_empty() => id::uuid_bytes(step_id),
            _ => None,
        }
    }

    fn output(&self) -> StepOutput {
        StepOutput {
            content: self.content.clone(),
            step_name: self.step_name.clone(),
            step_id: Some(id::from_uuid_bytes(self.step_id)),
            executor_type: self.executor_type,
            executor_name: self.executor_name.clone(),
            ..StepOutput::default()
        }
    }
}

#[cfg(test)]
thread_local! {
    static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this test has looked for what a branch gives on.
#[cfg(test)]
pub(super) fn looks() -> usize {
    LOOKS.with(std::cell::Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_what_went_in() {
        let id = "6f0e1c7a-3c5d-5e8f-9a0b-1c2d3e4f5a6b";
        let plain = StepOutput {
            step_name: Some(Arc::from("item")),
            step_id: Some(Arc::from(id)),
            executor_type: Some(ExecutorKind::Function),
            executor_name: Some(Arc::from("greet")),
            ..StepOutput::new("hello")
        };
        let nothing = StepOutput { content: None, ..plain.clone() };
        let others = [
            StepOutput { step_id: Some(Arc::from(id.to_uppercase())), ..plain.clone() },
            StepOutput { step_id: Some(Arc::from("an id of its own")), ..plain.clone() },
            StepOutput { step_id: None, ..plain.clone() },
            StepOutput { success: false, error: Some("no".to_owned()), ..plain.clone() },
            StepOutput { stop: true, ..plain.clone() },
            StepOutput { is_paused: true, ..plain.clone() },
            StepOutput { images: Some(Vec::new()), ..plain.clone() },
            StepOutput { metrics: Some(Box::default()), ..plain.clone() },
            StepOutput { step_run_id: Some(Arc::from(id)), ..plain.clone() },
            StepOutput { step_type: StepType::Steps, ..plain.clone() },
            StepOutput { steps: vec![Arc::new(plain.clone())], ..plain.clone() },
        ];
        let changed = Map::from_iter([("seen".to_owned(), Value::from(1))]);
        for (place, output) in [plain, nothing].into_iter().chain(others).enumerate() {
            let own = own_content(&output).cloned();
            for (content, state) in
                [(own.clone(), Map::new()), (own, changed.clone()), (Some(Value::from("inner")), Map::new())]
            {
                let branch = Branch::new(Arc::new(output.clone()), content.clone(), state.clone());
                assert_eq!((&*branch.output(), branch.content()), (&output, content.as_ref()));
                assert_eq!(branch.state().cloned().unwrap_or_default(), state);
                let is_plain = place < 2 && state.is_empty() && content == output.content;
                assert_eq!(matches!(branch, Branch::Plain(_)), is_plain, "{output:?}");
            }
        }
    }
}
