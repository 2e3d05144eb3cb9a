//! What a workflow file may say: its shape as Rust types, from which its JSON Schema is made.
//!
//! It must never know what a name refers to. The invariant: a value that [`super::fit`] has let pass reads as these types,
//! because both go by the same schema.

use super::mcp::McpProfile;
use outlive_agent::TeamMode;
use outlive_agent::model::ModelProfile;
use outlive_core::port::SessionPolicy;
use outlive_core::{FieldType, OnError, OnReject, OnTimeout, ToolEffect};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Things by the names they have in the file.
pub(super) type Named<T> = BTreeMap<String, T>;

/// Workflows, and the agents, teams, tools and models they are made of
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "outlive workflow file")]
pub(super) struct Document {
    /// The version of this syntax: 1
    #[schemars(range(min = 1, max = 1))]
    #[expect(dead_code, reason = "it is checked by its schema")]
    version: u64,
    /// The model of agents and teams that name none: `provider:model`, or the name of one under `models`
    pub(super) model: Option<String>,
    /// Where runs are kept: `sqlite:PATH`
    #[schemars(regex(pattern = "^sqlite:.+$"), extend("examples" = ["sqlite:runs.db"]))]
    pub(super) store: Option<String>,
    /// Models with settings, by the names under which agents and teams use them
    #[serde(default)]
    pub(super) models: Named<ModelProfile>,
    /// What models cost; the list that comes with the program unless said
    pub(super) prices: Option<Prices>,
    /// Tools of agents and teams
    #[serde(default)]
    pub(super) tools: Named<Tool>,
    /// Agents
    #[serde(default)]
    pub(super) agents: Named<Agent>,
    /// Teams
    #[serde(default)]
    pub(super) teams: Named<Team>,
    /// Workflows
    #[schemars(extend("minProperties" = 1))]
    pub(super) workflows: Named<Workflow>,
}

/// What models cost
#[derive(Debug, Deserialize, JsonSchema, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    /// The day of the list, such as 2026-11-01
    pub(super) date: String,
    /// The code of the currency, such as USD
    pub(super) currency: String,
    /// Prices by the ids of models
    pub(super) models: Named<Price>,
}

/// What a million tokens of a model cost
#[derive(Debug, Deserialize, JsonSchema, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    /// Of prompts
    #[schemars(range(min = 0))]
    pub(super) input: f64,
    /// Of prompts that the provider had cached; as any other unless said
    #[schemars(range(min = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cached_input: Option<f64>,
    /// Of answers
    #[schemars(range(min = 0))]
    pub(super) output: f64,
}

/// An HTTP request
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    /// The address; `{name}` stands for an argument
    pub(super) url: String,
    /// GET unless said
    #[schemars(with = "Option<String>", extend("enum" = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]))]
    pub(super) method: Option<String>,
    /// Headers; `${env:NAME}` stands for an environment variable
    #[serde(default)]
    pub(super) headers: Named<String>,
}

/// A tool: an HTTP request, or a command; or an MCP server, which has several
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(untagged)]
pub(super) enum Tool {
    Http(HttpTool),
    Command(CommandTool),
    Mcp(McpTools),
}

/// The tools of an MCP server, which it lists when an agent begins
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kind" = "mcp"))]
pub(super) struct McpTools {
    /// The server: a program, an address, or the name of one in the settings
    pub(super) mcp: Mcp,
    /// Takes only these of its tools
    #[serde(default)]
    pub(super) include: Vec<String>,
    /// Leaves these of its tools out
    #[serde(default)]
    pub(super) exclude: Vec<String>,
    /// Stands with `_` before the names that models see
    pub(super) prefix: Option<String>,
    /// What a repetition of a call does, for all tools: read, idempotent or once; as the server says unless said
    #[schemars(with = "Option<String>", extend("enum" = ["read", "idempotent", "once"]))]
    pub(super) effect: Option<ToolEffect>,
    /// The same for some tools, by their names
    #[schemars(with = "Named<Effect>")]
    #[serde(default)]
    pub(super) effects: Named<ToolEffect>,
    /// How long a call may take; 60s unless said
    pub(super) timeout: Option<Span>,
    /// The tools whose calls a person must allow
    #[serde(default)]
    pub(super) confirm: Vec<String>,
    /// Those for which that must be somebody else than whoever submitted the run
    #[serde(default)]
    pub(super) four_eyes: Vec<String>,
}

/// For the schema alone.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes")]
enum Effect {
    Read,
    Idempotent,
    Once,
}

/// An MCP server, or the name of one in the settings: of a table `[mcp.NAME]` of outlive.toml
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Mcp {
    Named(String),
    Described(McpProfile),
}

macro_rules! tool {
    ($(#[$meta:meta])* $Name:ident $kind:literal { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(extend("x-kind" = $kind))]
        pub(super) struct $Name {
            $($body)*
            /// What it does, for the model
            pub(super) description: String,
            /// JSON Schema of its arguments, an object
            pub(super) arguments: Option<Map<String, Value>>,
            /// What a repetition of a call does: read changes nothing, idempotent is harmless with the same key, once must
            /// never start twice; a GET is read unless said
            #[schemars(with = "Option<String>", extend("enum" = ["read", "idempotent", "once"]))]
            pub(super) effect: Option<ToolEffect>,
            /// How long a call may take; 60s unless said
            pub(super) timeout: Option<Span>,
            /// Whether a person must allow each call
            pub(super) confirm: Option<bool>,
            /// Whether that must be somebody else than whoever submitted the run
            pub(super) four_eyes: Option<bool>,
            /// The arguments that a person fills in
            #[serde(default)]
            pub(super) user_input: Vec<String>,
        }
    };
}

tool! {
    /// A tool that is an HTTP request
    HttpTool "http" {
        /// The request. Arguments that its address does not name go into the query of a GET, HEAD or DELETE, and else into the
        /// body as JSON
        pub(super) http: Http,
    }
}

tool! {
    /// A tool that is a program of this machine; needs --allow-commands
    CommandTool "command" {
        /// The program and its arguments, without a shell; `{name}` stands for an argument of the call. It is given all
        /// arguments as JSON on standard input
        #[schemars(length(min = 1))]
        pub(super) command: Vec<String>,
        /// Environment variables that it is given besides PATH, HOME and the like
        #[serde(default)]
        pub(super) env: Vec<String>,
    }
}

/// One text, or a list of texts
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Lines {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Lines {
    pub(super) fn all(&self) -> Vec<String> {
        match self {
            Lines::None => Vec::new(),
            Lines::One(text) => vec![text.clone()],
            Lines::Many(texts) => texts.clone(),
        }
    }
}

/// What of earlier runs of the session is seen
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// How many earlier runs; with 0 none
    pub(super) runs: Option<u32>,
}

macro_rules! thinker {
    ($(#[$meta:meta])* $Name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $Name {
            $($body)*
            /// Its name; what it is called in the file unless said
            pub(super) name: Option<String>,
            /// Its id; made from the name unless said
            pub(super) id: Option<String>,
            /// Its model: `provider:model`, or the name of one under `models`
            pub(super) model: Option<String>,
            /// Models that are asked when its own has failed, in this order
            #[serde(default)]
            pub(super) fallbacks: Vec<String>,
            /// What it is for
            pub(super) role: Option<String>,
            /// What comes first in its system message
            pub(super) description: Option<String>,
            /// What it is told to do
            #[serde(default)]
            #[schemars(with = "Option<OneOrMany>")]
            pub(super) instructions: Lines,
            /// What the answer should look like, in words
            pub(super) expected_output: Option<String>,
            /// Its tools: hackernews, yfinance, or those under `tools`
            #[serde(default)]
            pub(super) tools: Vec<String>,
            /// JSON Schema that its input must fit
            pub(super) input: Option<Map<String, Value>>,
            /// JSON Schema that its answer must fit
            pub(super) output: Option<Map<String, Value>>,
            /// How often an answer that does not fit is sent back; twice unless said, with 0 never
            pub(super) output_retries: Option<u32>,
            /// What is checked before it is asked
            #[schemars(with = "Vec<Guardrail>")]
            #[serde(default)]
            pub(super) guardrails: Vec<Guardrail>,
            /// Whether to ask for Markdown
            pub(super) markdown: Option<bool>,
            /// Tool calls in one run, at most; with 0 none
            pub(super) tool_call_limit: Option<u32>,
            /// Tool calls of one answer that are made at once, at most; 32 unless said
            #[schemars(range(min = 1))]
            pub(super) tool_calls_at_once: Option<u32>,
            /// Model calls in one run, at most; 50 unless said
            #[schemars(range(min = 1))]
            pub(super) turns_max: Option<u32>,
            /// Whether the answer is streamed; it is unless said
            pub(super) stream: Option<bool>,
            /// Shows it what it was asked and answered in earlier runs of the session
            pub(super) history: Option<History>,
            /// Whether its system message ends with the session's state
            pub(super) session_state: Option<bool>,
            /// Whether {name} in what it is told stands for what the session's state has under that name; it does unless said
            pub(super) resolve_in_context: Option<bool>,
            /// How patiently a model call is repeated
            pub(super) retry: Option<Retry>,
            /// How long one attempt at a model call may take
            pub(super) timeout: Option<Span>,
        }
    };
}

thinker! {
    /// An agent
    Agent {}
}

thinker! {
    /// A team: a leader, which the settings are about, and members
    Team {
        /// Agents and teams, by their names in the file
        #[schemars(length(min = 1))]
        pub(super) members: Vec<String>,
        /// How leader and members work together; coordinate unless said
        #[schemars(with = "Option<String>", extend("enum" = ["coordinate", "route", "broadcast", "tasks"]))]
        pub(super) mode: Option<TeamMode>,
        /// With tasks: how often the leader may answer while tasks are left
        #[schemars(range(min = 1))]
        pub(super) max_iterations: Option<u32>,
    }
}

/// For the schema alone: without the choice of nothing.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Lines")]
#[expect(dead_code, reason = "it only describes")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// What is checked
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Guardrail {
    PromptInjection,
    Pii,
}

/// A workflow
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Workflow {
    /// Its name; what it is called in the file unless said
    pub(super) name: Option<String>,
    /// Its id; made from the name unless said
    pub(super) id: Option<String>,
    /// What it is for
    pub(super) description: Option<String>,
    /// JSON Schema that inputs must fit
    pub(super) input: Option<Map<String, Value>>,
    /// What it does, in order
    #[schemars(length(min = 1))]
    pub(super) steps: Vec<Node>,
    /// Longest time for a run
    pub(super) timeout: Option<Span>,
    /// Runs that execute at once, at most
    #[schemars(range(min = 1))]
    pub(super) concurrency: Option<u32>,
    /// What the state of new sessions starts with
    #[serde(default)]
    pub(super) session_state: Map<String, Value>,
    /// What happens to a run that does not say itself, when its session has an unfinished one; queue unless said
    #[schemars(with = "Option<String>", extend("enum" = ["queue", "reject", "parallel", "interrupt", "steer"]))]
    pub(super) session_policy: Option<SessionPolicy>,
    /// The agent or team that hears what is sent to a run with steer, by its name in the file; whoever executes unless said
    pub(super) steer_to: Option<String>,
    /// How long runs that have ended are kept, beside what the settings say
    pub(super) retention: Option<Retention>,
    /// Shows steps what earlier runs of the session were asked and came to
    pub(super) history: Option<WorkflowHistory>,
    /// What runs may use
    #[serde(default)]
    pub(super) budgets: Vec<Budget>,
    /// An agent that leads: it is asked first, and answers itself or has the steps executed
    pub(super) leader: Option<Leader>,
    /// When runs are made by themselves, while a process serves the file
    #[serde(default)]
    pub(super) schedules: Named<Schedule>,
}

/// How long runs that have ended are kept: one goes as soon as either limit does not keep it
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retention {
    /// Those that ended longer ago go; with 0s each as soon as it has ended
    pub(super) max_age: Option<SpanOrNone>,
    /// Those accepted last stay, this many; with 0 none
    pub(super) max_runs: Option<u64>,
}

/// What of earlier runs of the session steps see
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkflowHistory {
    /// How many earlier runs; 3 unless said, with 0 none but what they are summed up to
    pub(super) runs: Option<u32>,
    /// About how many tokens they may take
    #[schemars(range(min = 1))]
    pub(super) max_tokens: Option<u32>,
    /// The model that sums up those that are left out
    pub(super) summarize: Option<String>,
}

/// What a step sees of earlier runs, whatever its workflow says
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum StepHistory {
    /// Whether it sees them
    Whether(bool),
    /// What it sees of them
    Shown(StepHistoryShown),
}

/// What a step sees of earlier runs
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StepHistoryShown {
    /// How many earlier runs; with 0 none
    pub(super) runs: Option<u32>,
    /// About how many tokens they may take
    #[schemars(range(min = 1))]
    pub(super) max_tokens: Option<u32>,
}

/// An agent that leads a workflow
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Leader {
    /// Its model: `provider:model`, or the name of one under `models`
    pub(super) model: Option<String>,
    /// Its name; Workflow Agent unless said
    pub(super) name: Option<String>,
    /// Its id; made from the name unless said
    pub(super) id: Option<String>,
    /// What it is told besides how to lead
    #[serde(default)]
    #[schemars(with = "Option<OneOrMany>")]
    pub(super) instructions: Lines,
    /// What it sees of earlier runs of the session; 5 runs unless said, none with 0
    pub(super) history: Option<History>,
    /// Model calls in one run, at most; 50 unless said
    #[schemars(range(min = 1))]
    pub(super) turns_max: Option<u32>,
    /// Whether its answer is streamed; it is unless said
    pub(super) stream: Option<bool>,
    /// How patiently a model call is repeated
    pub(super) retry: Option<Retry>,
    /// How long one attempt at a model call may take
    pub(super) timeout: Option<Span>,
}

/// What may be used, and by whom together
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// How much: `5 USD`, `200000 tokens` or `100 calls`
    #[schemars(regex(pattern = r"^[^ ]+ ([A-Z]{3}|tokens|calls)$"), extend("examples" = ["5 USD"]))]
    pub(super) limit: String,
    /// Whose use is counted together
    #[schemars(extend("enum" = ["run", "session", "user", "all"]))]
    pub(super) per: String,
    /// Whether each day begins anew
    pub(super) daily: Option<bool>,
    /// By whose clocks days begin, such as Europe/Berlin; UTC unless said
    pub(super) time_zone: Option<String>,
    /// Counted together with the budgets of this name of other workflows
    pub(super) shared: Option<String>,
}

/// When runs are made, by cron
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedule {
    /// Minute, hour, day of the month, month, day of the week
    pub(super) cron: String,
    /// By whose clocks; UTC unless said
    pub(super) time_zone: Option<String>,
    /// The input of its runs
    #[serde(default)]
    pub(super) input: Value,
    /// The session of its runs; each has its own unless said
    pub(super) session: Option<String>,
    /// What becomes of times that pass while no process is there; one run for all of them unless said
    #[schemars(with = "Option<String>", extend("enum" = ["skip", "one", "all"]))]
    pub(super) catch_up: Option<String>,
    /// What happens while its run before has not come to rest; skip unless said
    #[schemars(with = "Option<String>", extend("enum" = ["skip", "queue", "allow"]))]
    pub(super) overlap: Option<String>,
    /// The priority of its runs
    pub(super) priority: Option<i8>,
    /// The concurrency key of its runs
    pub(super) concurrency_key: Option<String>,
}

/// How often and how patiently something is tried again
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    /// Tries after the first; with 0 none
    pub(super) times: u32,
    /// The wait before the second try, doubled with each further one; 1s unless said, with 0s at once
    pub(super) backoff: Option<SpanOrNone>,
    /// The longest wait; 5m unless said
    pub(super) backoff_max: Option<Span>,
}

/// What a person is asked, and what follows
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Review {
    /// Asks before it begins, with this text
    pub(super) confirm: Option<String>,
    /// A step: has fields filled in before it begins, with this text; a router: has a person choose
    pub(super) ask: Option<String>,
    /// The fields
    #[serde(default)]
    pub(super) fields: Vec<Field>,
    /// A router: whether several may be chosen
    pub(super) several: Option<bool>,
    /// A step: has its output judged, with this text
    pub(super) output: Option<String>,
    /// A loop: asks after each iteration whether it is done, with this text
    pub(super) iterations: Option<String>,
    /// What follows from a no; a router cancels and everything else is skipped unless said
    #[schemars(with = "Option<String>", extend("enum" = ["skip", "cancel", "retry", "else"]))]
    pub(super) on_reject: Option<OnReject>,
    /// How often an output is made again, or a question asked again; 3 unless said, with 0 never
    pub(super) max_retries: Option<u32>,
    /// How long an answer is waited for; for ever unless said
    pub(super) expires_in: Option<Span>,
    /// What follows then; cancel unless said
    #[schemars(with = "Option<String>", extend("enum" = ["cancel", "skip", "approve"]))]
    pub(super) on_timeout: Option<OnTimeout>,
    /// Whether somebody else than whoever submitted the run must answer
    pub(super) four_eyes: Option<bool>,
}

impl Review {
    /// Whether anybody is asked anything.
    pub(super) fn asks(&self) -> bool {
        [&self.confirm, &self.ask, &self.output, &self.iterations].into_iter().any(Option::is_some)
    }
}

/// A field that a person fills in
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Field {
    /// Its name
    pub(super) name: String,
    /// What it takes; str unless said
    #[serde(rename = "type")]
    #[schemars(with = "Option<String>", extend("enum" = ["str", "int", "float", "bool", "list", "dict"]))]
    pub(super) field_type: Option<FieldType>,
    /// What it is for
    pub(super) description: Option<String>,
    /// Whether it must be filled in; it must unless said
    pub(super) required: Option<bool>,
    /// The values it takes
    #[serde(default)]
    pub(super) allowed: Vec<Value>,
}

/// A step, or a container of steps; its first key says which
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Node {
    Step(Box<Step>),
    Sequence(Sequence),
    Parallel(Parallel),
    Loop(Loop),
    Condition(Condition),
    Router(Router),
    ForEach(ForEach),
}

/// What every node has.
#[derive(Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) name: &'a str,
    pub(super) description: Option<&'a str>,
    pub(super) retry: Option<&'a Retry>,
    pub(super) timeout: Option<Span>,
    pub(super) on_error: Option<OnError>,
    pub(super) review: Option<&'a Review>,
}

macro_rules! node {
    ($(#[$meta:meta])* $Name:ident $kind:literal $field:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(extend("x-kind" = $kind))]
        pub(super) struct $Name {
            /// Its name, unique among its siblings
            #[serde(rename = $kind)]
            #[schemars(length(min = 1))]
            pub(super) $field: String,
            $($body)*
            /// What it is for
            pub(super) description: Option<String>,
            /// How often it is tried again
            pub(super) retry: Option<Retry>,
            /// Longest time for one attempt
            pub(super) timeout: Option<Span>,
            /// What its failure does; fail unless said
            #[schemars(with = "Option<String>", extend("enum" = ["fail", "skip", "pause"]))]
            pub(super) on_error: Option<OnError>,
            /// Where it asks a person
            pub(super) review: Option<Review>,
        }

        impl $Name {
            pub(super) fn common(&self) -> Common<'_> {
                Common {
                    name: &self.$field,
                    description: self.description.as_deref(),
                    retry: self.retry.as_ref(),
                    timeout: self.timeout,
                    on_error: self.on_error,
                    review: self.review.as_ref(),
                }
            }
        }
    };
}

node! {
    /// A step: one agent, team, function, workflow, HTTP request or command
    Step "step" name {
        /// The agent that works in it
        pub(super) agent: Option<String>,
        /// The team that works in it
        pub(super) team: Option<String>,
        /// The function that is executed, registered by the program that reads the file
        pub(super) function: Option<String>,
        /// The workflow that is executed
        pub(super) workflow: Option<String>,
        /// The HTTP request that is made. With POST, PUT or PATCH its body is what the step is given, as JSON
        pub(super) http: Option<Http>,
        /// The program that is executed, with its arguments and without a shell; needs --allow-commands. It is given what
        /// the step is given as JSON on standard input
        pub(super) command: Option<Vec<String>>,
        /// Environment variables that the command is given besides PATH, HOME and the like
        #[serde(default)]
        pub(super) env: Vec<String>,
        /// What a repetition of its request or command does: read changes nothing, idempotent is harmless with the same key,
        /// once must never start twice; a GET is read unless said
        #[schemars(with = "Option<String>", extend("enum" = ["read", "idempotent", "once"]))]
        pub(super) effect: Option<ToolEffect>,
        /// What it sees of earlier runs of the session, whatever its workflow says
        pub(super) history: Option<StepHistory>,
    }
}

node! {
    /// Steps one after the other, under one name
    Sequence "sequence" name {
        /// The steps
        #[schemars(length(min = 1))]
        pub(super) steps: Vec<Node>,
    }
}

node! {
    /// Steps at the same time
    Parallel "parallel" name {
        /// The branches
        #[schemars(length(min = 1))]
        pub(super) steps: Vec<Node>,
    }
}

node! {
    /// Steps repeated until something holds, or a number of times
    Loop "loop" name {
        /// The steps
        #[schemars(length(min = 1))]
        pub(super) steps: Vec<Node>,
        /// Iterations, at most
        #[schemars(range(min = 1))]
        pub(super) max_iterations: u32,
        /// CEL: ends after an iteration for which this holds
        pub(super) until: Option<String>,
        /// Whether an iteration starts with what the one before gave back
        pub(super) forward_output: Option<bool>,
    }
}

node! {
    /// Steps if something holds, and others if not
    Condition "condition" name {
        /// CEL: what must hold. Left out where a person confirms
        pub(super) when: Option<String>,
        /// The steps then
        #[schemars(length(min = 1))]
        pub(super) then: Vec<Node>,
        /// The steps otherwise
        #[serde(rename = "else", default)]
        pub(super) otherwise: Vec<Node>,
    }
}

node! {
    /// The choices that are named
    Router "router" name {
        /// CEL: the name of a choice, or a list of names. Left out where a person chooses
        pub(super) select: Option<String>,
        /// What there is to choose from
        #[schemars(length(min = 1))]
        pub(super) choices: Vec<Node>,
    }
}

node! {
    /// Steps for each item of a list
    ForEach "for_each" name {
        /// CEL: the list
        pub(super) items: Option<String>,
        /// The earlier step whose output is the list
        pub(super) items_of: Option<String>,
        /// Items at the same time, at most; 8 unless said
        #[schemars(range(min = 1))]
        pub(super) concurrency: Option<u32>,
        /// What is done with each
        #[schemars(length(min = 1))]
        pub(super) steps: Vec<Node>,
    }
}

/// A length of time that is more than none: `500ms`, `30s`, `5m`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// The same, and none: `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanOrNone(pub(super) Duration);

impl Span {
    /// What such a text looks like.
    pub(super) const PATTERN: &str = "^0*[1-9][0-9]*(ms|s|m|h|d)$";

    /// None when it is no such text.
    fn parse(text: &str) -> Option<Self> {
        SpanOrNone::parse(text).map(|SpanOrNone(length)| Self(length)).filter(|Self(length)| !length.is_zero())
    }
}

impl SpanOrNone {
    /// What such a text looks like.
    pub(super) const PATTERN: &str = "^[0-9]+(ms|s|m|h|d)$";

    /// None when it is no such text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let (number, unit) = text.split_at(digits);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        // Longer than anybody waits.
        let most = 100 * 365 * 86_400_000_u64;
        let millis = number.parse::<u64>().ok()?.checked_mul(millis).filter(|millis| *millis <= most)?;
        Some(Self(Duration::from_millis(millis)))
    }
}

macro_rules! span {
    ($Name:ident $schema:literal $about:literal) => {
        impl<'de> Deserialize<'de> for $Name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $Name::parse(&text).ok_or_else(|| serde::de::Error::custom("write a duration such as 30s"))
            }
        }

        impl JsonSchema for $Name {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": $about,
                    "type": "string",
                    "pattern": $Name::PATTERN,
                    "examples": ["30s", "5m"],
                })
            }
        }
    };
}

span!(Span "Duration" "A length of time: 500ms, 30s, 5m, 2h or 7d");
span!(SpanOrNone "DurationOrNone" "A length of time, or none: 0s, 500ms, 30s, 5m, 2h or 7d");
