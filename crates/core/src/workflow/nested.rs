//! A workflow as a step of another: a run inside the run, with its own id, events and outputs. It shares the session.

use super::container::{Container, Ending, Next, output_of, sequence};
use super::{Node, Settings, Verdict};
use crate::event::EventKind;
use crate::id::DefinitionId;
use crate::log::Key;
use crate::machine::Frame;
use crate::step::{ExecutorKind, StepOutput};
use std::sync::Arc;

/// Another workflow, as data.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowNode {
    /// The step's name and how patiently it is run.
    pub settings: Settings,
    /// The workflow.
    pub workflow_id: DefinitionId,
    /// Its name.
    pub workflow_name: Arc<str>,
    /// Its steps.
    pub steps: Vec<Node>,
}

impl Container for WorkflowNode {
    fn begun(&self, _: Option<&Verdict>) -> EventKind {
        EventKind::WorkflowStarted
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        sequence(&key.sequence("w"), frame, self.steps.len())
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let output = StepOutput {
            content: frame.content.clone(),
            executor_type: Some(ExecutorKind::Workflow),
            executor_name: Some(self.workflow_name.clone()),
            // A workflow that stops itself does not stop the one around it.
            stop: false,
            ..output_of(String::new(), &frame.results)
        };
        Ending { event: EventKind::step_completed(Arc::new(output.clone())), output }
    }
}
