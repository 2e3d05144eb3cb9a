//! Who speaks in events: an agent, or a team's leader, whose events have other names.

use crate::profile::Profile;
use outlive_core::{
    ContentDelta, EventKind, ModelDelta, ModelInfo, ModelRequestDone, PostHookEvent, PreHookEvent, RunDone, RunFailed,
    RunInput, RunWaits, ToolErrorEvent, ToolEvent,
};
use serde_json::Value;
use std::sync::Arc;

/// Who speaks in events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    Agent,
    Team,
}

impl Voice {
    pub(super) fn of(profile: &Profile) -> Self {
        match profile.members {
            None => Self::Agent,
            Some(_) => Self::Team,
        }
    }

    pub(super) fn started(self, model: ModelInfo) -> EventKind {
        match self {
            Voice::Agent => EventKind::RunStarted(model),
            Voice::Team => EventKind::TeamRunStarted(model),
        }
    }

    pub(super) fn hook_started(self, hook: &Arc<str>, is_output: bool) -> EventKind {
        let pre = || PreHookEvent { pre_hook_name: hook.clone(), run_input: None };
        let post = || PostHookEvent { post_hook_name: hook.clone() };
        match (self, is_output) {
            (Voice::Agent, false) => EventKind::PreHookStarted(pre()),
            (Voice::Team, false) => EventKind::TeamPreHookStarted(pre()),
            (Voice::Agent, true) => EventKind::PostHookStarted(post()),
            (Voice::Team, true) => EventKind::TeamPostHookStarted(post()),
        }
    }

    /// `changed` is the input that takes the place of the old one.
    pub(super) fn hook_completed(self, hook: &Arc<str>, is_output: bool, changed: Option<&Value>) -> EventKind {
        let run_input = changed.map(|input| RunInput { input_content: input.clone() });
        let pre = || PreHookEvent { pre_hook_name: hook.clone(), run_input };
        let post = || PostHookEvent { post_hook_name: hook.clone() };
        match (self, is_output) {
            (Voice::Agent, false) => EventKind::PreHookCompleted(pre()),
            (Voice::Team, false) => EventKind::TeamPreHookCompleted(pre()),
            (Voice::Agent, true) => EventKind::PostHookCompleted(post()),
            (Voice::Team, true) => EventKind::TeamPostHookCompleted(post()),
        }
    }

    pub(super) fn request_started(self, model: ModelInfo) -> EventKind {
        match self {
            Voice::Agent => EventKind::ModelRequestStarted(model),
            Voice::Team => EventKind::TeamModelRequestStarted(model),
        }
    }

    pub(super) fn request_completed(self, done: ModelRequestDone) -> EventKind {
        match self {
            Voice::Agent => EventKind::ModelRequestCompleted(done),
            Voice::Team => EventKind::TeamModelRequestCompleted(done),
        }
    }

    pub(super) fn content(self, delta: ModelDelta) -> EventKind {
        let mut content = ContentDelta { content_type: "str".to_owned(), ..ContentDelta::default() };
        match delta {
            ModelDelta::Content(text) => content.content = Some(text),
            ModelDelta::Reasoning(text) => content.reasoning_content = text,
            ModelDelta::Begun(ids) => content.model_provider_data = Some(ids),
        }
        match self {
            Voice::Agent => EventKind::RunContent(ContentDelta { workflow_agent: Some(false), ..content }),
            Voice::Team => EventKind::TeamRunContent(content),
        }
    }

    pub(super) fn content_completed(self) -> EventKind {
        match self {
            Voice::Agent => EventKind::RunContentCompleted,
            Voice::Team => EventKind::TeamRunContentCompleted,
        }
    }

    pub(super) fn tool_started(self, event: ToolEvent) -> EventKind {
        match self {
            Voice::Agent => EventKind::ToolCallStarted(event),
            Voice::Team => EventKind::TeamToolCallStarted(event),
        }
    }

    pub(super) fn tool_completed(self, event: ToolEvent) -> EventKind {
        match self {
            Voice::Agent => EventKind::ToolCallCompleted(event),
            Voice::Team => EventKind::TeamToolCallCompleted(event),
        }
    }

    pub(super) fn tool_error(self, event: ToolErrorEvent) -> EventKind {
        match self {
            Voice::Agent => EventKind::ToolCallError(event),
            Voice::Team => EventKind::TeamToolCallError(event),
        }
    }

    pub(super) fn completed(self, done: RunDone) -> EventKind {
        match self {
            Voice::Agent => EventKind::RunCompleted(Box::new(done)),
            Voice::Team => EventKind::TeamRunCompleted(Box::new(done)),
        }
    }

    pub(super) fn paused(self, waits: RunWaits) -> EventKind {
        match self {
            Voice::Agent => EventKind::RunPaused(waits),
            Voice::Team => EventKind::TeamRunPaused(waits),
        }
    }

    pub(super) fn continued(self) -> EventKind {
        match self {
            Voice::Agent => EventKind::RunContinued,
            Voice::Team => EventKind::TeamRunContinued,
        }
    }

    pub(super) fn error(self, failed: RunFailed) -> EventKind {
        match self {
            Voice::Agent => EventKind::RunError(failed),
            Voice::Team => EventKind::TeamRunError(failed),
        }
    }
}
