//! Where our answers differ from the recorded ones on purpose: the one list of it.
//!
//! A difference is a line of the comparer's, or the end of one after a dot, so that one entry holds wherever a shape is
//! used. The same list in words is `docs/differences-from-agno.md`.

use Occurs::{Always, AtTimes};
use std::collections::BTreeSet;

/// Whether a listed difference must be found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occurs {
    /// In every replay.
    Always,
    /// When the server is as fast as it was then, or faster.
    AtTimes,
}

/// A difference that is meant.
pub(crate) struct Listed {
    /// The comparer's lines, or their ends.
    pub(crate) lines: &'static [&'static str],
    /// The recordings where it occurs, and in which exchanges; none for any.
    pub(crate) at: &'static [(&'static str, &'static [usize])],
    /// Whether each of the lines must be found.
    pub(crate) occurs: Occurs,
    /// Why.
    pub(crate) why: &'static str,
}

const ANY: &[usize] = &[];

/// All of them.
pub(crate) const LISTED: &[Listed] = &[
    Listed {
        lines: &["detail.input: is missing"],
        at: &[
            ("agents_teams", ANY),
            ("errors", ANY),
            ("run_background_poll", ANY),
            ("run_background_stream_resume", ANY),
            ("sessions", ANY),
        ],
        occurs: Always,
        why: "a refused value is not repeated: it may be a secret, and it may be large",
    },
    Listed {
        lines: &["step_results.step_type: was null, is string"],
        at: &[("errors", &[1]), ("resume_from_database", &[7]), ("run_background_poll", &[23, 24])],
        occurs: Always,
        why: "a step that failed is a step",
    },
    Listed {
        lines: &["status: was 404, is 200"],
        at: &[("meta", &[23])],
        occurs: Always,
        why: "AG-UI is always spoken, and its clients ask GET /status whether it is",
    },
    Listed {
        lines: &["detail.ctx: is missing"],
        at: &[("sessions", &[11, 12])],
        occurs: Always,
        why: "the bounds stand in the message",
    },
    Listed {
        lines: &["progress: is new"],
        at: &[("run_background_poll", ANY)],
        occurs: Always,
        why: "a running run says at which step it is",
    },
    Listed {
        lines: &["progress: is new"],
        at: &[("workflow_agent", &[5, 9]), ("agents_teams", &[3, 12, 21]), ("cancel", &[2, 3, 14])],
        occurs: AtTimes,
        why: "a running run says at which step it is",
    },
    Listed {
        lines: &["metrics.time_to_first_token: is new"],
        at: &[
            ("workflow_agent", ANY),
            ("hitl", ANY),
            ("agents_teams", ANY),
            ("run_background_poll", ANY),
            ("run_foreground", ANY),
            ("sessions", ANY),
            ("step_kinds", ANY),
            ("store_events", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "models are always asked for a stream, whether or not the client asked for one",
    },
    Listed {
        lines: &["messages.metrics.duration: is new"],
        at: &[("store_events", ANY), ("websocket", ANY)],
        occurs: Always,
        why: "each model call is timed, also in a streamed run",
    },
    Listed {
        lines: &["TeamModelRequestCompleted.time_to_first_token: is new"],
        at: &[("run_background_stream_resume", &[1]), ("websocket", &[10])],
        occurs: Always,
        why: "a turn that calls tools has a first token too",
    },
    Listed {
        lines: &["messages.tool_args: is new"],
        at: &[
            ("agents_teams", ANY),
            ("run_background_poll", ANY),
            ("run_foreground", ANY),
            ("sessions", ANY),
            ("step_kinds", ANY),
            ("store_events", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "the arguments of a call without any are written as an empty object",
    },
    Listed {
        lines: &["tools.metrics.start_time: is missing", "tools.metrics.end_time: is missing"],
        at: &[
            ("workflow_agent", ANY),
            ("agents_teams", ANY),
            ("run_background_poll", ANY),
            ("run_foreground", ANY),
            ("sessions", ANY),
            ("step_kinds", ANY),
            ("store_events", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "a tool call keeps its duration; when it ran stands in its events",
    },
    Listed {
        lines: &["tools.child_run_id: was null, is string"],
        at: &[
            ("agents_teams", ANY),
            ("run_background_poll", ANY),
            ("run_foreground", ANY),
            ("sessions", ANY),
            ("step_kinds", ANY),
        ],
        occurs: Always,
        why: "a leader's call of a member names the member's run",
    },
    Listed {
        lines: &["session_state.current_session_id: is missing", "session_state.current_run_id: is missing"],
        at: &[
            ("workflow_agent", ANY),
            ("agents_teams", ANY),
            ("run_background_poll", ANY),
            ("run_foreground", ANY),
            ("sessions", ANY),
            ("step_kinds", ANY),
            ("store_events", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "the state of a session is its users': ids stand beside it",
    },
    Listed {
        lines: &["session_state.current_user_id: is missing"],
        at: &[("run_background_poll", ANY), ("run_foreground", ANY), ("sessions", ANY), ("websocket", ANY)],
        occurs: Always,
        why: "the state of a session is its users': ids stand beside it",
    },
    Listed {
        lines: &["RunContent.content: is missing", "RunContent.model_provider_data: is missing"],
        at: &[("workflow_agent", &[3]), ("agents_teams", &[1, 6]), ("step_kinds", &[26])],
        occurs: Always,
        why: "a provider's ids come once, as a piece of their own, not with every piece of an answer",
    },
    Listed {
        lines: &["TeamRunContent.model_provider_data: is missing"],
        at: &[("step_kinds", &[26])],
        occurs: Always,
        why: "a provider's ids come once, as a piece of their own, not with every piece of an answer",
    },
    Listed {
        lines: &["WorkflowCompleted.metadata: is missing"],
        at: &[
            ("workflow_agent", ANY),
            ("hitl", ANY),
            ("auth_jwt", ANY),
            ("auth_security_key", ANY),
            ("errors", ANY),
            ("run_foreground", ANY),
            ("step_kinds", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "AgentOS writes empty metadata where a client waits and none where it does not; here the paths are one",
    },
    Listed {
        lines: &["metadata: is new"],
        at: &[
            ("workflow_agent", ANY),
            ("hitl", ANY),
            ("cancel", &[11]),
            ("resume_from_database", ANY),
            ("run_background_stream_resume", ANY),
            ("store_events", ANY),
        ],
        occurs: Always,
        why: "AgentOS writes empty metadata where a client waits and none where it does not; here the paths are one",
    },
    Listed {
        lines: &["step_executor_runs.tools: is new"],
        at: &[("store_events", &[2])],
        occurs: Always,
        why: "AgentOS writes an empty list of tools for some runs; here the paths are one",
    },
    Listed {
        lines: &["WorkflowCompleted.step_executor_runs: is missing"],
        at: &[
            ("hitl", ANY),
            ("errors", &[12]),
            ("resume_from_database", ANY),
            ("run_background_stream_resume", ANY),
            ("run_foreground", ANY),
            ("step_kinds", ANY),
            ("store_events", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "the runs of agents are told of as they happen and read with the run; the last event does not repeat them",
    },
    Listed {
        lines: &["StepOutput.step_id: is new"],
        at: &[
            ("workflow_agent", ANY),
            ("hitl", ANY),
            ("auth_jwt", ANY),
            ("auth_security_key", ANY),
            ("errors", ANY),
            ("run_background_stream_resume", ANY),
            ("run_foreground", ANY),
            ("step_kinds", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "every event of a step names it",
    },
    Listed {
        lines: &["CustomEvent.run_id: is new"],
        at: &[("step_kinds", &[22])],
        occurs: Always,
        why: "every event names its run",
    },
    Listed {
        lines: &["WorkflowError.error_type: is new"],
        at: &[
            ("errors", ANY),
            ("resume_from_database", ANY),
            ("run_background_stream_resume", ANY),
            ("websocket", ANY),
        ],
        occurs: Always,
        why: "programs are told the kind of a failure",
    },
    Listed {
        lines: &["events: is empty"],
        at: &[
            ("hitl", ANY),
            ("hitl_loop_retry", ANY),
            ("cancel", &[11]),
            ("resume_from_database", &[7]),
            ("run_background_stream_resume", &[8]),
            ("websocket", &[9, 18]),
        ],
        occurs: Always,
        why: "events are read from the run's log, which every run has; they are not stored a second time in the run",
    },
    Listed {
        lines: &["events.tool.metrics.start_time: is missing", "events.tool.metrics.end_time: is missing"],
        at: &[("store_events", &[1, 2])],
        occurs: Always,
        why: "a tool call keeps its duration; when it ran stands in its events",
    },
    Listed {
        lines: &["events.step_executor_runs: is missing"],
        at: &[("store_events", &[1, 2])],
        occurs: Always,
        why: "the runs of agents are told of as they happen and read with the run; the last event does not repeat them",
    },
    Listed {
        lines: &["events.member_responses.events: is new"],
        at: &[("store_events", &[2])],
        occurs: Always,
        why: "AgentOS leaves the empty list of a member's events out of some answers; here the paths are one",
    },
    // Functions as workflows.
    Listed {
        lines: &[
            "audio: is new",
            "files: is new",
            "images: is new",
            "videos: is new",
            "step_results: is new",
            "step_results: were 0, are 1",
            r#"order: was ["WorkflowStarted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
        ],
        at: &[("run_foreground", &[6, 7])],
        occurs: Always,
        why: "a workflow that is one function has one step, which is what makes the function's end durable",
    },
    // Failures.
    Listed {
        lines: &[
            "status: was 200, is 500",
            r#"order: was ["WorkflowStarted", "StepStarted", "StepStarted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "CustomEvent", "CustomEvent", "CustomEvent", "StepError", "WorkflowError"]"#,
            "ModelRequestStarted: was told 4 times, is told 0 times",
            "RunError: was told 4 times, is told 0 times",
            "RunStarted: was told 4 times, is told 0 times",
            "TeamModelRequestStarted: was told 4 times, is told 1 times",
            "TeamRunError: was told 4 times, is told 1 times",
            "TeamRunStarted: was told 4 times, is told 1 times",
            r#"StepStarted.step_name: was "Content Planning Step", is "Research Step""#,
        ],
        at: &[("model_unreachable", ANY)],
        occurs: Always,
        why: "a step that fails ends the run as ERROR; the call of the model is tried again, not the whole step",
    },
    Listed {
        lines: &[
            r#"order: was ["WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "CustomEvent", "CustomEvent", "CustomEvent", "StepOutput", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "CustomEvent", "CustomEvent", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["WorkflowStarted", "StepStarted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "StepOutput", "WorkflowCompleted"]"#,
            r#"order: was ["WorkflowStarted", "StepStarted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "CustomEvent", "CustomEvent", "CustomEvent", "StepOutput", "WorkflowCompleted"]"#,
        ],
        at: &[("errors", &[4, 6, 8, 11])],
        occurs: Always,
        why: "a retry and a skipped failure are told of",
    },
    Listed {
        lines: &[r#"order: was [], is ["CustomEvent", "CustomEvent", "CustomEvent"]"#],
        at: &[("agents_teams", &[32])],
        occurs: Always,
        why: "a retry is told of",
    },
    Listed {
        lines: &["WorkflowCompleted.content: is missing"],
        at: &[("errors", &[8, 11, 12])],
        occurs: Always,
        why: "an error's text is never content",
    },
    Listed {
        lines: &["content: is missing"],
        at: &[("errors", &[9, 10])],
        occurs: Always,
        why: "an error's text is never content",
    },
    Listed {
        lines: &[
            "step_executor_runs: is missing",
            "step_results.executor_name: was string, is null",
            "step_results.executor_type: was string, is null",
            r#"step_results.executor_type: was "agent", is null"#,
            "step_executor_runs: was there, is null",
            "step_results.metrics: was object, is null",
            "step_results.step_run_id: was string, is null",
        ],
        at: &[("errors", &[9, 10])],
        occurs: Always,
        why: "an agent's run that failed is in the log alone, not among the runs of the steps",
    },
    Listed {
        lines: &[r#"WorkflowCompleted.step_results.executor_type: was "agent", is null"#],
        at: &[("errors", &[12])],
        occurs: Always,
        why: "an agent's run that failed is in the log alone, not among the runs of the steps",
    },
    Listed {
        lines: &["WorkflowCompleted.step_results.success: was true, is false"],
        at: &[("errors", &[12])],
        occurs: Always,
        why: "a stream that ends with an error is a failed call, not a short answer",
    },
    Listed {
        lines: &[
            r#"content: was "Step skipped due to error: scripted step failure!", is "X!""#,
            r#"content: was "Step boom failed but skipped!", is "x!""#,
        ],
        at: &[("errors", &[3, 4, 5])],
        occurs: Always,
        why: "an error's text is never content: after a step that was skipped comes what was before it",
    },
    Listed {
        lines: &[
            r#"content: was "Background execution failed: scripted step failure", is "step \"boom\": scripted step failure""#,
            r#"content: was "scripted step failure", is "step \"boom\": scripted step failure""#,
        ],
        at: &[("resume_from_database", &[7]), ("run_background_poll", &[23, 24])],
        occurs: AtTimes,
        why: "why a run failed is read without its steps, and is the same whoever executed it",
    },
    Listed {
        lines: &[r#"step_executor_runs.status: was "CANCELLED", is "COMPLETED""#],
        at: &[("store_events", &[1]), ("websocket", &[9])],
        occurs: Always,
        why: "an agent or a team that has answered is COMPLETED, also where its answer was streamed",
    },
    Listed {
        lines: &["messages: is missing", "session_state: is missing", "metrics.duration: is missing"],
        at: &[("agents_teams", &[31])],
        occurs: Always,
        why: "an agent's run that failed is in the log alone: its messages are not kept",
    },
    Listed {
        lines: &[
            r#"order: was ["WorkflowStarted", "StepStarted", "StepCompleted", "WorkflowCompleted"], is ["WorkflowStarted", "StepStarted", "CustomEvent", "CustomEvent", "CustomEvent", "StepOutput", "WorkflowCompleted"]"#,
            "ModelRequestCompleted: was told 1 times, is told 0 times",
            "RunCompleted: was told 1 times, is told 0 times",
            "RunContentCompleted: was told 1 times, is told 0 times",
            "RunError: was told 0 times, is told 1 times",
        ],
        at: &[("errors", &[12])],
        occurs: Always,
        why: "a stream that ends with an error is a failed call, not a short answer",
    },
    Listed {
        lines: &["metadata.agno_component_version: is missing"],
        at: &[("errors", &[21])],
        occurs: Always,
        why: "a component has one version, the one that is served",
    },
    Listed {
        lines: &["status: was 200, is 400", "media type: was text/event-stream; charset=utf-8, is application/json"],
        at: &[("errors", &[23])],
        occurs: Always,
        why: "an input that does not fit is refused before there is a run, with or without a stream",
    },
    // Cancelling.
    Listed {
        lines: &["step_results.content: was string, is null"],
        at: &[("cancel", &[11])],
        occurs: Always,
        why: "a step that was cut off has no content but what its model had written",
    },
    Listed {
        lines: &[r#"step_results.content: was "slept 1.0", is null"#],
        at: &[("cancel", &[10, 11])],
        occurs: Always,
        why: "a step that was cut off has no content but what its model had written",
    },
    Listed {
        lines: &["step_executor_runs: is missing", "step_executor_runs: was there, is null"],
        at: &[("cancel", &[15])],
        occurs: Always,
        why: "the call in flight is dropped, so the team's run has no end",
    },
    // Runs and resumes.
    Listed {
        lines: &["status: was 422, is 200"],
        at: &[("run_background_poll", &[4])],
        occurs: Always,
        why: "a run is found by its id alone",
    },
    Listed {
        lines: &[
            r#"order: was ["replay"], is ["catch_up", "WorkflowStarted", "StepStarted", "subscribed", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["replay"], is ["replay", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            "replay.last_event_index_requested: is new",
            "replay.total_buffered: is new",
        ],
        at: &[("run_background_stream_resume", &[10, 13])],
        occurs: Always,
        why: "every run can be followed, also one that was started without a stream",
    },
    Listed {
        lines: &["replay.last_event_index_requested: is new", "replay.total_buffered: is new"],
        at: &[("resume_from_database", ANY)],
        occurs: Always,
        why: "a restart changes nothing: what is resumed is always the log",
    },
    Listed {
        lines: &[
            r#"order: was ["replay", "WorkflowStarted", "StepStarted", "StepCompleted", "StepStarted", "StepCompleted", "WorkflowCompleted"], is ["replay", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["replay", "WorkflowStarted", "StepStarted", "StepCompleted", "StepStarted", "StepCompleted", "WorkflowCompleted"], is ["replay", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["replay", "WorkflowStarted", "StepStarted", "StepCompleted", "StepStarted", "StepCompleted", "WorkflowCompleted"], is ["replay", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["replay"], is ["replay", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["error"], is ["replay", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["replay", "WorkflowStarted", "StepStarted", "StepCompleted", "StepStarted", "StepError", "WorkflowError"], is ["replay", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepError", "WorkflowError"]"#,
            r#"order: was ["connected", "error"], is ["connected", "replay"]"#,
        ],
        at: &[("resume_from_database", ANY)],
        occurs: Always,
        why: "a restart changes nothing: the same events under the same indices, by the run's id alone, on a socket too",
    },
    Listed {
        lines: &[r#"order: was ["connected", "error"], is ["connected", "catch_up"]"#],
        at: &[("websocket", &[17])],
        occurs: Always,
        why: "every run can be followed, also one that was started without a stream",
    },
    Listed {
        lines: &["the socket: was closed, says error"],
        at: &[("websocket", &[1, 2])],
        occurs: Always,
        why: "a frame that is no JSON object is answered; the socket is closed when many of them come",
    },
    Listed {
        lines: &[
            "form of StepStarted: was Sse, is Bare",
            "form of StepOutput: was Sse, is Bare",
            "form of StepCompleted: was Sse, is Bare",
            "form of WorkflowCompleted: was Sse, is Bare",
        ],
        at: &[("websocket", &[13])],
        occurs: Always,
        why: "a reconnect replaces the subscription of the same socket, so no event comes twice; an index beyond the end \
              is the end",
    },
    // Sessions.
    Listed {
        lines: &[
            "data.total_tokens: is missing",
            "data.metrics.details: is missing",
            "data.metrics.input_tokens: is missing",
            "data.metrics.output_tokens: is missing",
            "data.metrics.total_tokens: is missing",
        ],
        at: &[("sessions", &[6, 9])],
        occurs: Always,
        why: "sums over all runs of a session are in its detail; a list does not read every run of every session",
    },
    Listed {
        lines: &["data: is empty"],
        at: &[("sessions", &[8])],
        occurs: Always,
        why: "sessions are found by the name they were given, not by the first input that is shown in its place",
    },
    Listed {
        lines: &["status: was 500, is 422"],
        at: &[("sessions", &[13])],
        occurs: Always,
        why: "pages count from 1",
    },
    Listed {
        lines: &[
            "agent_session_id: is missing",
            "chat_history: is missing",
            "metrics: is missing",
            "session_data: is new",
            "workflow_data: is new",
            "workflow_id: is new",
        ],
        at: &[("sessions", &[17])],
        occurs: Always,
        why: "a session has the shape of its own kind, whatever kind is asked for",
    },
    Listed {
        lines: &["media type: was application/json, is none"],
        at: &[("sessions", &[36, 37, 38])],
        occurs: Always,
        why: "an answer without a body has no media type",
    },
    // People.
    Listed {
        lines: &["QuestionAnswered: is new", "RunResumed: is new"],
        at: &[("hitl", &[21]), ("websocket", &[19])],
        occurs: Always,
        why: "an answer is told of, and so is that the run goes on",
    },
    Listed {
        lines: &["WorkflowPaused: is new"],
        at: &[("hitl", &[17, 19, 21, 52, 57, 62, 67])],
        occurs: Always,
        why: "every reader is told that the run waits, not only the one in the foreground",
    },
    Listed {
        lines: &["WorkflowPaused.metadata: is missing"],
        at: &[("hitl", &[15, 43, 49, 50, 55, 60, 65, 80]), ("websocket", &[19])],
        occurs: Always,
        why: "as with WorkflowCompleted: the paths are one",
    },
    Listed {
        lines: &["WorkflowPaused.step_executor_runs: is missing"],
        at: &[("hitl", &[15, 43, 49, 50, 55, 60, 65, 80])],
        occurs: Always,
        why: "as with WorkflowCompleted: they are read with the run",
    },
    Listed {
        lines: &[
            "RouterPaused.step_id: is new",
            "StepPaused.step_id: is new",
            "StepContinued.step_id: is new",
            "StepOutputReview.step_id: is new",
        ],
        at: &[("hitl", &[43, 60, 61, 62, 64, 65, 67])],
        occurs: Always,
        why: "every event of a container names it",
    },
    Listed {
        lines: &["metrics.duration: was null, is float"],
        at: &[("websocket", &[18]), ("hitl", ANY), ("hitl_loop_retry", ANY)],
        occurs: Always,
        why: "the duration of a run that asked people is known",
    },
    Listed {
        lines: &["files: is new"],
        at: &[("hitl", ANY), ("hitl_loop_retry", &[2])],
        occurs: Always,
        why: "what a run made is shown whole, whether or not it was continued",
    },
    Listed {
        lines: &["audio: is new", "images: is new", "videos: is new"],
        at: &[("hitl", &[14, 29])],
        occurs: Always,
        why: "what a run made is shown whole, whether or not it was cancelled",
    },
    Listed {
        lines: &[
            "detail: was \"background=true continuation is only available for durably-submitted workflow runs (a paused queue ticket); this run has none. Retry without background, or submit the workflow with background=true and a durable queue.\", is \"background=true is not needed to continue a run: answer its questions at /api/questions, which does not wait, or retry without background\"",
        ],
        at: &[("hitl", &[8])],
        occurs: Always,
        why: "there is no second queue: the words name what there is",
    },
    Listed {
        lines: &["step_requirements.question_id: is new"],
        at: &[("websocket", &[18]), ("hitl", ANY), ("hitl_loop_retry", ANY)],
        occurs: Always,
        why: "a requirement says which question it is about",
    },
    Listed {
        lines: &["error_requirements.question_id: is new"],
        at: &[("hitl", &[45, 47])],
        occurs: Always,
        why: "a requirement says which question it is about",
    },
    Listed {
        lines: &["step_requirements.confirmed: was bool, is null", "step_requirements.confirmed: was true, is null"],
        at: &[("hitl", &[29])],
        occurs: Always,
        why: "an answer to a run that was cancelled is not taken",
    },
    Listed {
        lines: &["status: was 200, is 400"],
        at: &[("hitl", &[40])],
        occurs: Always,
        why: "a choice that is not offered is refused, and the run still asks; in Agno the run completes without a route",
    },
    Listed {
        lines: &["status: was 400, is 200"],
        at: &[("hitl", &[48])],
        occurs: Always,
        why: "a failure that asks people can be answered; in Agno such a run never goes on",
    },
    Listed {
        lines: &["content: is missing", r#"content: was "No steps executed", is null"#],
        at: &[("hitl", &[77])],
        occurs: Always,
        why: "a run that made nothing has no content",
    },
    Listed {
        lines: &[
            "requirements.tool_execution.result: was string, is null",
            "requirements.tool_execution.tool_call_error: was bool, is null",
        ],
        at: &[("agents_teams", &[28]), ("hitl", &[79])],
        occurs: Always,
        why: "a requirement holds what was asked and answered; what the call gave is in `tools`",
    },
    Listed {
        lines: &["requirements.tool_execution.requires_confirmation: was false, is true"],
        at: &[("hitl", &[79])],
        occurs: Always,
        why: "a requirement holds what was asked and answered; that the call asks no more is in `tools`",
    },
    Listed {
        lines: &["step_executor_runs: were 2, are 1"],
        at: &[("hitl", &[79])],
        occurs: Always,
        why: "an agent's run that paused and went on is one run",
    },
    Listed {
        lines: &["step_requirements.confirmed: was true, is false"],
        at: &[("hitl", &[36])],
        occurs: Always,
        why: "a no stays a no, although the client sends it back as a yes with its answer to what was asked next",
    },
    Listed {
        lines: &[r#"error_requirements.error_type: was "RuntimeError", is "function_error""#],
        at: &[("hitl", &[45, 47, 49])],
        occurs: Always,
        why: "programs are told the kind of a failure, which is the same in every language",
    },
    Listed {
        lines: &["requirements.confirmation: is new"],
        at: &[("agents_teams", &[28])],
        occurs: Always,
        why: "an answer stands in the requirement, whichever way it was sent",
    },
    Listed {
        lines: &["tools.metrics: was null, is object"],
        at: &[("agents_teams", &[28]), ("hitl", &[79])],
        occurs: Always,
        why: "a tool call keeps its duration",
    },
    Listed {
        lines: &["RunContentCompleted: was told 1 times, is told 0 times"],
        at: &[("hitl", &[80])],
        occurs: Always,
        why: "an answer is complete once, at its end",
    },
    Listed {
        lines: &["ModelRequestCompleted.time_to_first_token: is new"],
        at: &[("hitl", &[80])],
        occurs: Always,
        why: "a turn that calls tools has a first token too",
    },
    Listed {
        lines: &[
            "RunContinued.event_index: is missing",
            "ToolCallStarted.event_index: is missing",
            "ToolCallCompleted.event_index: is missing",
            "ModelRequestStarted.event_index: is missing",
            "RunContent.event_index: is missing",
            "ModelRequestCompleted.event_index: is missing",
            "RunContentCompleted.event_index: is missing",
            "RunCompleted.event_index: is missing",
        ],
        at: &[("hitl", &[81])],
        occurs: Always,
        why: "a stream that nobody can come back to has no indices, also after a pause",
    },
    // An agent that leads.
    Listed {
        lines: &[
            r#"order: was ["WorkflowAgentStarted", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted", "WorkflowAgentCompleted"], is ["WorkflowAgentStarted", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowAgentCompleted", "WorkflowCompleted"]"#,
            r#"order: was ["connected", "WorkflowAgentStarted", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted", "WorkflowAgentCompleted"], is ["connected", "WorkflowAgentStarted", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowAgentCompleted"]"#,
        ],
        at: &[("workflow_agent", &[2, 11, 12])],
        occurs: Always,
        why: "WorkflowCompleted is the last event of every run, so that nobody who stops reading there misses any",
    },
    Listed {
        lines: &[
            "ModelRequestStarted: was told 0 times, is told 2 times",
            "ModelRequestCompleted: was told 0 times, is told 2 times",
            "RunContent: was told 0 times, is told 1 times",
            "ToolCallStarted: was told 0 times, is told 1 times",
            "ToolCallCompleted: was told 0 times, is told 1 times",
        ],
        at: &[("workflow_agent", &[2, 11, 12])],
        occurs: Always,
        why: "what the agent that leads does is told like what every other agent does",
    },
    Listed {
        lines: &[
            "ModelRequestStarted: was told 0 times, is told 1 times",
            "ModelRequestCompleted: was told 0 times, is told 1 times",
        ],
        at: &[("workflow_agent", &[3])],
        occurs: Always,
        why: "what the agent that leads does is told like what every other agent does",
    },
    Listed {
        lines: &[
            "RunStarted: was told 0 times, is told 1 times",
            "RunContentCompleted: was told 0 times, is told 1 times",
            "RunCompleted: was told 0 times, is told 1 times",
        ],
        at: &[("workflow_agent", &[2, 3, 11, 12])],
        occurs: Always,
        why: "what the agent that leads does is told like what every other agent does",
    },
    Listed {
        lines: &[
            "RunContent.agent_name: is new",
            "RunContent.workflow_id: is new",
            "RunContent.workflow_run_id: is new",
        ],
        at: &[("workflow_agent", &[3])],
        occurs: Always,
        why: "every event of an agent names it and its run",
    },
    Listed {
        lines: &["WorkflowAgentStarted.run_id: is new"],
        at: &[("workflow_agent", &[2, 3])],
        occurs: Always,
        why: "a run has its id before anything of it is told",
    },
    Listed {
        lines: &["workflow_agent_run.agent_name: is new"],
        at: &[("workflow_agent", ANY)],
        occurs: Always,
        why: "the agent that leads has a name and an id of its own, the same in every run",
    },
    Listed {
        lines: &["metrics: is new", "metrics.duration: was null, is float"],
        at: &[("workflow_agent", ANY)],
        occurs: Always,
        why: "a run that is led has what every run has",
    },
    Listed {
        lines: &["audio: is new", "files: is new", "images: is new", "videos: is new", "events: is missing"],
        at: &[("workflow_agent", &[0, 1])],
        occurs: Always,
        why: "a run that is led is answered like every run",
    },
    // Access.
    Listed {
        lines: &[
            r#"order: was ["connected", "auth_required", "auth_error", "authenticated", "authenticated", "pong", "error", "authenticated", "authenticated", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"], is ["connected", "auth_required", "auth_error", "authenticated", "pong", "error", "authenticated", "WorkflowStarted", "StepStarted", "StepOutput", "StepCompleted", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]"#,
        ],
        at: &[("auth_jwt", &[73])],
        occurs: Always,
        why: "a token is acknowledged once",
    },
    Listed {
        lines: &["available_models: is empty"],
        at: &[("auth_jwt", &[59])],
        occurs: Always,
        why: "models are shown to those who may see the agents that use them",
    },
    // Discovery.
    Listed {
        lines: &[
            "name: is new",
            "evals.dbs: is empty",
            "learning.dbs: is empty",
            "memory.dbs: is empty",
            "metrics.dbs: is empty",
        ],
        at: &[("auth_jwt", &[59, 67]), ("auth_security_key", &[21]), ("meta", &[3])],
        occurs: Always,
        why: "what is not offered is not announced",
    },
    Listed {
        lines: &["steps.team.id: is new", "steps.team.members.id: is new", "steps.agent.id: is new"],
        at: &[("meta", &[5])],
        occurs: Always,
        why: "agents and teams have ids wherever they stand",
    },
    Listed {
        lines: &["steps.steps.agent.id: is new"],
        at: &[("meta", &[6])],
        occurs: Always,
        why: "agents and teams have ids wherever they stand",
    },
    Listed {
        lines: &[
            "tools.parameters.required: is missing",
            "tools.parameters.additionalProperties: is new",
            "tools.parameters.properties.num_stories.default: is new",
            "tools.parameters.properties.num_stories.minimum: is new",
            "tools.parameters.properties.member_id.enum: is new",
            "input_schema.properties.depth.title: is missing",
            "input_schema.properties.depth.format: is new",
            "input_schema.properties.topic.title: is missing",
        ],
        at: &[("meta", &[5, 9, 14, 15, 17, 18])],
        occurs: Always,
        why: "schemas come from Rust types, and say all that these know",
    },
    Listed {
        lines: &["status: was 404, is 200"],
        at: &[("meta", &[22])],
        occurs: Always,
        why: "readiness is another thing than life: /ready",
    },
    Listed {
        lines: &["status: was 200, is 403", "media type: was text/plain; charset=utf-8, is application/json"],
        at: &[("meta", &[25])],
        occurs: Always,
        why: "no page of another origin is let in unless it is listed",
    },
];

/// Sorts what differs into listed and not.
pub(crate) struct Judge {
    recording: &'static str,
    unlisted: Vec<String>,
    /// Places in [`LISTED`], and in the entry's lines.
    seen: BTreeSet<(usize, usize)>,
}

impl Judge {
    /// For this recording.
    pub(crate) fn of(recording: &str) -> Self {
        let recording = super::REPLAYED.into_iter().find(|known| *known == recording).unwrap();
        Self { recording, unlisted: Vec::new(), seen: BTreeSet::new() }
    }

    /// Takes note of what differs in one exchange.
    pub(crate) fn see(&mut self, exchange: usize, place: &str, lines: Vec<String>) {
        for line in lines {
            let plain = line.replace("[].", ".").replace("[]:", ":");
            let plain = plain.trim_start_matches('.');
            let entries = LISTED.iter().enumerate().filter(|(_, listed)| self.is_at(listed, Some(exchange)));
            let places =
                entries.flat_map(|(at, listed)| listed.lines.iter().enumerate().map(move |(n, end)| (at, n, end)));
            let matching: Vec<_> = places.filter(|(_, _, end)| is_end(plain, end)).map(|(at, n, _)| (at, n)).collect();
            if matching.is_empty() {
                self.unlisted.push(format!("  #{exchange} {place}: {line}"));
            }
            self.seen.extend(matching);
        }
    }

    fn is_at(&self, listed: &Listed, exchange: Option<usize>) -> bool {
        listed.at.iter().any(|(recording, exchanges)| {
            let is_in = |exchange| exchanges.is_empty() || exchanges.contains(&exchange);
            *recording == self.recording && exchange.is_none_or(is_in)
        })
    }

    /// What is not as it was and not as it is listed.
    pub(crate) fn report(self) -> Vec<String> {
        let mut report = self.unlisted.clone();
        let must_occur = |listed: &Listed| listed.occurs == Always && self.is_at(listed, None);
        for (at, listed) in LISTED.iter().enumerate().filter(|(_, listed)| must_occur(listed)) {
            let lines = listed.lines.iter().enumerate();
            for (_, line) in lines.filter(|(n, _)| !self.seen.contains(&(at, *n))) {
                report.push(format!("  is listed but does not occur any more: {line} ({})", listed.why));
            }
        }
        report
    }
}

/// Whether `end` is the line, or all of it after one of its dots.
fn is_end(line: &str, end: &str) -> bool {
    line.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[test]
fn a_difference_that_is_not_listed_is_reported() {
    let mut judge = Judge::of("session_state");
    judge.see(0, "GET /", vec!["status: was 200, is 500".to_owned()]);
    assert_eq!(judge.report(), ["  #0 GET /: status: was 200, is 500"]);
}

#[test]
fn a_listed_difference_that_does_not_occur_is_reported() {
    let report = Judge::of("meta").report();
    assert!(report.iter().any(|line| line.contains("does not occur any more: status: was 404, is 200")), "{report:?}");
    let mut judge = Judge::of("meta");
    judge.see(22, "GET /ready", vec!["status: was 404, is 200".to_owned()]);
    assert_eq!(judge.report().len(), report.len() - 1);
}

#[test]
fn a_listed_difference_is_one_in_its_exchange_alone() {
    let mut judge = Judge::of("meta");
    judge.see(21, "GET /nope", vec!["status: was 404, is 200".to_owned()]);
    assert!(judge.report().contains(&"  #21 GET /nope: status: was 404, is 200".to_owned()));
}
