//! What an agent has executed: the steps of the workflow that it leads, and workflows that it has as tools.
//!
//! It must never know what a step is. Invariant: a workflow is asked for once its call is on disk, and under its key, so
//! that a call which is made again finds what it asked for.

use super::work::{Given, capped};
use super::{Drive, goes_up};
use crate::prompt::{QUERY, RUN_WORKFLOW_TOOL, run_workflow_tool};
use crate::tool::Tool;
use outlive_core::log::Called;
use outlive_core::machine::CalledEnd;
use outlive_core::{
    ContentDelta, Definition, EventKind, Failure, Key, ModelDelta, RunId, ToolCall, ToolResult, coerce, content_text,
};
use serde_json::{Map, Value};
use std::sync::Arc;

impl Drive<'_> {
    /// Whether this call has the steps executed of the workflow that it leads.
    pub(super) fn leads(&self, call: &ToolCall) -> bool {
        self.profile.leads.is_some() && call.function.name == RUN_WORKFLOW_TOOL
    }

    /// A piece of its answer, as an event.
    pub(super) fn piece(&self, delta: ModelDelta) -> EventKind {
        match self.voice.content(delta) {
            EventKind::RunContent(piece) if self.profile.leads.is_some() => {
                EventKind::RunContent(ContentDelta { workflow_agent: Some(true), ..piece })
            }
            piece => piece,
        }
    }

    /// Has the steps executed, and waits for what they come to.
    pub(super) async fn run_steps(&self, call: &ToolCall, key: &Key) -> Result<ToolResult, Failure> {
        let query = match query_of(call) {
            Ok(query) => query,
            Err(problem) => return Ok(ToolResult::error(format!("the arguments do not fit: {problem}"))),
        };
        self.durable().await?;
        match self.effects().run_steps(key, query).await {
            Ok(content) => Ok(ToolResult::ok(capped(content_text(content.as_ref())))),
            Err(failure) if goes_up(&failure) => Err(failure),
            Err(failure) => Ok(ToolResult::error(capped(failure.message))),
        }
    }

    /// The workflow that this call has executed inside the run, if the tool is one and there is a run.
    pub(super) fn workflow_of(&self, call: &ToolCall) -> Option<(&Tool, Arc<Definition>)> {
        self.place.workflow?;
        let tool = self.tool(&call.function.name)?;
        Some((tool, tool.workflow()?))
    }

    /// Has a workflow executed, and waits for its end. Gives back what the model is told, and what the workflow changed
    /// in the session.
    pub(super) async fn run_workflow(
        &self,
        (tool, workflow): (&Tool, Arc<Definition>),
        call: &ToolCall,
        given: &Given,
        key: &Key,
    ) -> Result<(ToolResult, Option<Value>), Failure> {
        let called = match self.called(tool, &workflow, call, given) {
            Ok(called) => called,
            Err(problem) => return Ok((ToolResult::error(capped(problem)), None)),
        };
        let Some(around) = self.place.workflow else { return Ok((ToolResult::error("there is no run here"), None)) };
        self.durable().await?;
        let caller = self.place.desk.caller();
        let ended = {
            let _waits = caller.waits_for_others();
            let work = self.effects().run_workflow(&around.step.key, key, &workflow, called);
            self.within(tool.timeout, &caller, work).await
        };
        match ended {
            Ok(Ok(ended)) => Ok(told(ended)),
            Ok(Err(failure)) => Err(failure),
            Err(limit) => {
                let problem = format!("the workflow {:?} has not ended within {limit:?}", workflow.name);
                Ok((ToolResult::error(problem), None))
            }
        }
    }

    fn called(&self, tool: &Tool, workflow: &Definition, call: &ToolCall, given: &Given) -> Result<Called, String> {
        let mut arguments =
            call.arguments().map_err(|problem| format!("the arguments are not a JSON object: {problem}"))?;
        if let Given::Allowed(values) = given {
            tool.fill_in(&mut arguments, values);
        }
        let (input, additional_data) = tool.asks_workflow(arguments)?;
        let input = workflow.accept_input(Some(input)).map_err(|invalid| invalid.to_string())?;
        Ok(Called { additional_data, state: self.changed(), ..Called::new(input.unwrap_or_default()) })
    }

    /// What was changed in the session's state by now, and is not recorded with a step.
    pub(super) fn changed(&self) -> Map<String, Value> {
        let mut changed = self.place.changed.clone();
        if let Some(Value::Object(own)) = self.state.patch() {
            changed.extend(own);
        }
        changed
    }
}

/// What the model is told of a workflow's end, and what the workflow changed in the session.
fn told(ended: CalledEnd) -> (ToolResult, Option<Value>) {
    let mut result = match &ended.output.error {
        Some(error) => ToolResult::error(capped(error.clone())),
        None => ToolResult::ok(capped(content_text(ended.content.as_ref()))),
    };
    result.child_run_id = ended.output.step_run_id.as_deref().and_then(|id| RunId::parse(id).ok());
    (result, Some(ended.state).filter(|state| !state.is_empty()).map(Value::Object))
}

/// What the steps are to work on.
fn query_of(call: &ToolCall) -> Result<Value, String> {
    let arguments = coerce(call.arguments()?, &run_workflow_tool().parameters).map_err(|misfit| misfit.to_string())?;
    match &arguments[QUERY] {
        Value::String(query) if !query.trim().is_empty() => Ok(arguments[QUERY].clone()),
        _ => Err(format!("{QUERY} must be a text that says what is asked")),
    }
}
