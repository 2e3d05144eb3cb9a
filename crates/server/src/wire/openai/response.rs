//! A run as a response, its input as items, and what is served as models.
//!
//! It must never know where a run comes from: those that were started another way are responses too. The invariant: what
//! a response says before its run is over follows from what was accepted and where the run stands, and afterwards from
//! how it ended.

use super::request::DATA;
use super::response_id;
use outlive_core::port::Run;
use outlive_core::{
    Attachments, FailureKind, FinishReason, Media, Metrics, RunId, RunStatus, WorkflowRunOutput, content_text,
};
use serde_json::{Map, Value, json};

/// What is the same of a response for as long as it exists.
#[derive(Clone, Debug)]
pub struct Face {
    body: Map<String, Value>,
    run_id: RunId,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its result, or why there is none.
    pub run: WorkflowRunOutput,
    /// Of one that failed, [`outlive_core::FailureKind::code`].
    pub error_type: Option<String>,
    /// When it ended, in seconds since 1970.
    pub at: i64,
}

/// How a response stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Accepted, and not begun.
    Queued,
    /// At work.
    InProgress,
    /// Waiting for people, who answer elsewhere: for a client of OpenAI's it is still at work.
    Paused,
}

impl Standing {
    /// Of a run that is not over.
    pub fn of(status: RunStatus) -> Self {
        match status {
            RunStatus::Pending => Self::Queued,
            RunStatus::Paused => Self::Paused,
            RunStatus::Running | RunStatus::Completed | RunStatus::Cancelled | RunStatus::Error => Self::InProgress,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress | Self::Paused => "in_progress",
        }
    }

    fn run(self) -> RunStatus {
        match self {
            Self::Queued => RunStatus::Pending,
            Self::InProgress => RunStatus::Running,
            Self::Paused => RunStatus::Paused,
        }
    }
}

impl Face {
    /// Of a run with what it was given.
    pub fn new(run: &Run, given: &Attachments) -> Self {
        let data = given.additional_data.as_ref().map_or(&Value::Null, |data| &data[DATA]);
        let body = json!({
            "id": response_id(&run.info.run_id),
            "object": "response",
            "created_at": run.created_at.as_seconds(),
            "completed_at": null,
            "status": null,
            // A run that was started otherwise goes on without its client as well.
            "background": data["background"].as_bool().unwrap_or(true),
            "conversation": { "id": run.info.session_id },
            "error": null,
            "incomplete_details": null,
            "instructions": data["instructions"],
            "max_output_tokens": null,
            "metadata": given.metadata.as_deref().cloned().unwrap_or_default(),
            "model": run.info.workflow_id,
            "output": [],
            "parallel_tool_calls": true,
            "previous_response_id": data["previous_response_id"],
            "reasoning": { "effort": null, "summary": null },
            "store": true,
            "temperature": null,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "usage": null,
            "user": run.info.user_id,
        });
        let Value::Object(body) = body else { unreachable!("it is an object") };
        Self { body, run_id: run.info.run_id.clone() }
    }

    /// A response whose run is not over.
    pub fn unfinished(&self, standing: Standing, paused_step_name: Option<&str>) -> Value {
        let mut body = self.body.clone();
        body.insert("status".to_owned(), json!(standing.word()));
        body.insert("outlive".to_owned(), self.own(standing.run(), paused_step_name));
        Value::Object(body)
    }

    /// A response whose run is over.
    pub fn ended(&self, ended: &Ended) -> Value {
        let mut body = self.body.clone();
        let (run, end) = (&ended.run, End::of(ended));
        body.insert("status".to_owned(), json!(end.word()));
        body.insert("usage".to_owned(), usage(run.used().as_ref()));
        match end {
            End::Completed => {
                body.insert("completed_at".to_owned(), json!(ended.at));
            }
            End::Incomplete(reason) => {
                body.insert("incomplete_details".to_owned(), json!({ "reason": reason }));
            }
            End::Failed(code) => {
                body.insert("error".to_owned(), json!({ "code": code, "message": run.text() }));
            }
            End::Cancelled => {}
        }
        if let End::Completed | End::Incomplete(_) = end {
            let message = message(&self.item_id(0), end.item(), Some(&run.text()));
            let items: Vec<Value> = std::iter::once(message).chain(self.images(run)).collect();
            body.insert("output".to_owned(), json!(items));
        }
        let mut own = self.own(run.status, None);
        for (name, media) in beside(run) {
            own[name] = json!(media);
        }
        body.insert("outlive".to_owned(), own);
        Value::Object(body)
    }

    /// The images that a run has made and that are at hand, as items. OpenAI has none for other media.
    pub(super) fn images<'a>(&'a self, run: &'a WorkflowRunOutput) -> impl Iterator<Item = Value> + 'a {
        let contents = run.images.iter().flatten().filter_map(|image| Some((image, image.content.as_deref()?)));
        contents.enumerate().map(|(place, (image, content))| {
            let mut item = json!({
                "id": format!("ig_{}_{place}", self.run_id),
                "type": "image_generation_call",
                "status": "completed",
                "result": content,
            });
            let format = image.mime_type.as_deref().and_then(|kind| kind.strip_prefix("image/"));
            if let Some(format) = format.map(|format| format.trim_end_matches("+xml")) {
                item["output_format"] = json!(format);
            }
            item
        })
    }

    /// The id of the message that is so many messages after the first.
    pub(super) fn item_id(&self, place: u64) -> String {
        match place {
            0 => format!("msg_{}", self.run_id),
            place => format!("msg_{}_{place}", self.run_id),
        }
    }

    /// What OpenAI's responses do not have.
    fn own(&self, status: RunStatus, paused_step_name: Option<&str>) -> Value {
        let mut own = json!({ "run_id": self.run_id, "status": status });
        if let Some(name) = paused_step_name {
            own["paused_step_name"] = json!(name);
        }
        own
    }
}

/// How a run that is over ended, as its response has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    /// Something cut the last answer short.
    Incomplete(&'static str),
    Cancelled,
    Failed(&'static str),
}

impl End {
    pub(super) fn of(Ended { run, error_type, .. }: &Ended) -> Self {
        match run.status {
            RunStatus::Completed => {
                let last = run.step_executor_runs.last().or(run.workflow_agent_run.as_ref());
                // An answer that is not the run's own does not cut it short.
                let cut = last.filter(|last| last.content == run.content).and_then(|last| last.finish_reason);
                match cut.and_then(FinishReason::if_cut) {
                    Some(FinishReason::ContentFilter) => Self::Incomplete("content_filter"),
                    Some(_) => Self::Incomplete("max_output_tokens"),
                    None => Self::Completed,
                }
            }
            RunStatus::Cancelled => Self::Cancelled,
            RunStatus::Error | RunStatus::Pending | RunStatus::Running | RunStatus::Paused => {
                let is = |kind: FailureKind| error_type.as_deref() == Some(kind.code());
                Self::Failed(match () {
                    () if is(FailureKind::InputCheck) => "invalid_prompt",
                    () if is(FailureKind::RateLimit) => "rate_limit_exceeded",
                    () => "server_error",
                })
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }

    /// Its event. There is none for a cancelled response; one that is incomplete is the nearest, and its status says more.
    pub(super) fn event(self) -> &'static str {
        match self {
            Self::Completed => "response.completed",
            Self::Incomplete(_) | Self::Cancelled => "response.incomplete",
            Self::Failed(_) => "response.failed",
        }
    }

    /// The status of its message.
    pub(super) fn item(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete(_) | Self::Cancelled | Self::Failed(_) => "incomplete",
        }
    }
}

/// A message of the assistant's, with this text in it, if any yet.
pub(super) fn message(id: &str, status: &str, text: Option<&str>) -> Value {
    let content: Vec<Value> = text.map(output_text).into_iter().collect();
    json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
}

/// A text as a part of a message.
pub(super) fn output_text(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// The media that a run has made and that no item of OpenAI's has room for.
fn beside(run: &WorkflowRunOutput) -> impl Iterator<Item = (&'static str, Vec<&Media>)> {
    let images = run.images.iter().flatten().filter(|image| image.content.is_none()).collect();
    let others = [("videos", &run.videos), ("audio", &run.audio), ("files", &run.files)];
    let others = others.map(|(name, media)| (name, media.iter().flatten().collect()));
    let kinds = std::iter::once(("images", images)).chain(others);
    kinds.filter(|(_, media): &(_, Vec<_>)| !media.is_empty())
}

fn usage(used: Option<&Metrics>) -> Value {
    let used = used.map(|used| used.usage).unwrap_or_default();
    json!({
        "input_tokens": used.input_tokens,
        "input_tokens_details": {
            "cached_tokens": used.cache_read_tokens,
            "cache_write_tokens": used.cache_write_tokens,
        },
        "output_tokens": used.output_tokens,
        "output_tokens_details": { "reasoning_tokens": used.reasoning_tokens },
        "total_tokens": used.total_tokens,
    })
}

/// What a run was asked, as a list of items: one message, as the workflow was given it.
pub fn input_items(run_id: &RunId, input: Option<&Value>, given: &Attachments) -> Value {
    let text = json!({ "type": "input_text", "text": content_text(input) });
    let images = given.images.iter().flatten().map(|image| {
        let detail = image.detail.as_deref().unwrap_or("auto");
        json!({ "type": "input_image", "image_url": address(image), "detail": detail, "file_id": null })
    });
    let files = given.files.iter().flatten().map(|file| {
        json!({
            "type": "input_file",
            "filename": file.filename,
            "file_url": file.url,
            "file_data": file.content.as_ref().and(address(file)),
            "file_id": null,
        })
    });
    let content: Vec<Value> = std::iter::once(text).chain(images).chain(files).collect();
    let item = json!({
        "id": format!("msg_in_{run_id}"),
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": content,
    });
    list(vec![item])
}

/// Where a medium is, also when it is here.
fn address(media: &Media) -> Option<String> {
    let inline = || {
        let kind = media.mime_type.as_deref().unwrap_or("application/octet-stream");
        Some(format!("data:{kind};base64,{}", media.content.as_deref()?))
    };
    media.url.clone().or_else(inline)
}

/// All of a list, in one page.
pub fn list(items: Vec<Value>) -> Value {
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first, last) = (id(items.first()), id(items.last()));
    json!({ "object": "list", "data": items, "first_id": first, "last_id": last, "has_more": false })
}

/// A workflow, agent or team as a model.
pub fn model(id: &str, created: i64) -> Value {
    json!({ "id": id, "object": "model", "created": created, "owned_by": "outlive" })
}

/// That a response is no more.
pub fn deleted(id: &str) -> Value {
    json!({ "id": id, "object": "response", "deleted": true })
}
