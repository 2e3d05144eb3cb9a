//! Questions to people: what is asked, what may be answered, and what follows from it.
//!
//! Only data and rules. Whoever asks writes a [`Question`] into the log, and whoever reads the log finds in it all that
//! an answer is judged by. It must never know a store, nor who answers. The invariant: what follows depends on the
//! question and the answer alone, so a replay comes to the same end.

use crate::budget::{BudgetUnit, Over};
use crate::event::EventKind;
use crate::failure::{Failure, FailureKind};
use crate::id::SessionId;
use crate::log::Key;
use crate::message::ToolExecution;
use crate::run::RunOutput;
use crate::step::{ExecutorKind, StepInput, StepOutput, StepType};
use crate::time::Timestamp;
use crate::workflow::{FieldType, HumanReview, OnReject, OnTimeout, UserInputField};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// Longest text of an answer in bytes: what people write, and what tools that ran outside gave back.
pub const ANSWER_LEN_MAX: usize = 1 << 20;

/// The field of a question about a budget.
const RAISE_BY: &str = "raise_by";

/// What is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// May it begin?
    #[default]
    Confirmation,
    /// What goes into these fields?
    UserInput,
    /// Is this output good?
    OutputReview,
    /// Is the Loop done after this iteration?
    IterationReview,
    /// Which of these choices?
    RouteSelection,
    /// It failed: try it again, or go on without it?
    Error,
    /// Nobody knows whether it happened: what came of it?
    Outcome,
    /// May this tool be called?
    ToolConfirmation,
    /// What goes into these arguments of a tool?
    ToolInput,
    /// A tool runs elsewhere: what did it give back?
    ToolResult,
    /// A budget has too little left for a call: may it be made?
    Budget,
    /// The definition has changed: go on with the one there is now?
    Definition,
}

impl QuestionKind {
    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::UserInput => "user_input",
            Self::OutputReview => "output_review",
            Self::IterationReview => "iteration_review",
            Self::RouteSelection => "route_selection",
            Self::Error => "error",
            Self::Outcome => "outcome",
            Self::ToolConfirmation => "tool_confirmation",
            Self::ToolInput => "tool_input",
            Self::ToolResult => "tool_result",
            Self::Budget => "budget",
            Self::Definition => "definition",
        }
    }

    /// What may be answered, as programs write it.
    pub const fn answers(self) -> &'static [&'static str] {
        match self {
            Self::Confirmation | Self::ToolConfirmation => &["approve", "reject"],
            Self::UserInput | Self::ToolInput => &["input", "reject"],
            Self::OutputReview | Self::IterationReview => &["approve", "edit", "reject"],
            Self::RouteSelection => &["choose", "reject"],
            Self::Error => &["retry", "skip", "reject"],
            Self::Outcome => &["result", "retry", "reject"],
            Self::ToolResult => &["result", "reject"],
            Self::Budget => &["approve", "input", "reject"],
            Self::Definition => &["retry"],
        }
    }

    /// Whether it is asked from inside a step, by what executes there.
    pub const fn is_of_executor(self) -> bool {
        matches!(self, Self::ToolConfirmation | Self::ToolInput | Self::ToolResult | Self::Budget)
    }
}

impl fmt::Display for QuestionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An answer. In JSON, `do` says which: `{"do": "reject", "feedback": "too long"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// Yes.
    Approve,
    /// No.
    Reject {
        /// Why; an output that is made again is made with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        feedback: Option<String>,
    },
    /// These values, by the name of the field.
    Input {
        /// The values.
        values: Map<String, Value>,
    },
    /// Yes, but with this output.
    Edit {
        /// The output.
        output: Value,
    },
    /// These choices, in the order in which they are to be executed.
    Choose {
        /// Their names.
        choices: Vec<Arc<str>>,
    },
    /// Try again.
    Retry,
    /// Go on without it.
    Skip,
    /// It happened, and this came of it.
    Result {
        /// What.
        result: Value,
    },
    /// Nobody answered in time. Nobody can give this answer.
    TimedOut,
}

impl Answer {
    /// A no, with a reason.
    pub fn reject(feedback: impl Into<String>) -> Self {
        Self::Reject { feedback: Some(feedback.into()) }
    }

    /// These values.
    ///
    /// ```
    /// use outlive_core::Answer;
    /// let answer = Answer::input([("colour", "red".into()), ("size", 3.into())]);
    /// assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"do":"input","values":{"colour":"red","size":3}}"#);
    /// ```
    pub fn input<K: Into<String>>(values: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Input { values: values.into_iter().map(|(name, value)| (name.into(), value)).collect() }
    }

    /// These choices.
    pub fn choose<T: AsRef<str>>(choices: impl IntoIterator<Item = T>) -> Self {
        Self::Choose { choices: choices.into_iter().map(|name| Arc::from(name.as_ref())).collect() }
    }

    /// The word programs read.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject { .. } => "reject",
            Self::Input { .. } => "input",
            Self::Edit { .. } => "edit",
            Self::Choose { .. } => "choose",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Result { .. } => "result",
            Self::TimedOut => "timed_out",
        }
    }
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// What.
    pub answer: Answer,
    /// Who, as far as the caller was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Arc<str>>,
    /// When.
    pub at: Timestamp,
}

/// What a run waits to hear from somebody.
///
/// It is asked once, under a key that stays the same across crashes, and has one answer for good.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Question {
    /// Its id: names it alone, without its run.
    pub id: Arc<str>,
    /// Its place in the run.
    pub key: Key,
    /// What is asked.
    pub kind: QuestionKind,
    /// The step that waits, or the container.
    pub step_name: Arc<str>,
    /// Its id.
    pub step_id: Arc<str>,
    /// Its place in the workflow, from 0; of what stands inside a container, the container's.
    pub step_index: u32,
    /// What it is.
    #[serde(skip_serializing_if = "is_step")]
    pub step_type: StepType,
    /// What people are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Arc<str>>,
    /// What is to be filled in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<UserInputField>,
    /// What may be chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Arc<str>>,
    /// Whether several may be chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allows_several: bool,
    /// What follows from a no.
    #[serde(skip_serializing_if = "is_default")]
    pub on_reject: OnReject,
    /// Until when it can be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// What follows when nobody has by then.
    #[serde(skip_serializing_if = "is_default")]
    pub on_timeout: OnTimeout,
    /// Whether somebody else than whoever submitted the run must answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub four_eyes: bool,
    /// How often its answer was a no before.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_count: u32,
    /// How often that may be; none when a no never leads to another try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// What the step is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Arc<StepInput>>,
    /// What is judged, or what stands for the step if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Arc<StepOutput>>,
    /// The agent's or team's run behind that output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Arc<RunOutput>>,
    /// What the step changed in the session's state, key by key; null removes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// What failed, or cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
    /// The budget that has too little left for a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Box<Over>>,
    /// The tool call it is about, and whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Box<ToolAsked>>,
}

/// The tool call that a question is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolAsked {
    /// The run of the agent that wants to make it.
    pub run_id: Arc<str>,
    /// That agent.
    pub agent_id: Arc<str>,
    /// Its name.
    pub agent_name: Arc<str>,
    /// Whether it is an agent, or the leader of a team.
    pub agent_type: ExecutorKind,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// The call.
    pub execution: ToolExecution,
    /// Of a member's call: the team that is the step's, whose run waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<AskingTeam>,
}

/// The team for which a member asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskingTeam {
    /// Its run.
    pub run_id: Arc<str>,
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Agno's word for what waits, as it begins a sentence.
fn titled(kind: StepType) -> String {
    format!("{kind:?}")
}

fn is_step(kind: &StepType) -> bool {
    *kind == StepType::Step
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What became of whatever waited for an answer, as the event of the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follows {
    /// It begins, goes on, is made again, or is asked again.
    GoesOn,
    /// The agent or the tool that asked hears of it. Its step goes on once all that it asks is answered.
    Heard,
    /// It is done, and what it gave back counts.
    Done,
    /// It had failed, and the run goes on without it.
    Skipped,
    /// It is left out.
    LeftOut,
    /// It has failed for good.
    Failed,
    /// The run is cancelled.
    Cancelled,
}

impl Follows {
    /// The name of the event that tells an answer.
    pub const EVENT: &str = "QuestionAnswered";

    /// What the event of an answer says; none of any other. Events that older versions wrote do not say what follows: of
    /// those, what follows as a rule.
    pub fn of(event: &EventKind) -> Option<Self> {
        let EventKind::CustomEvent { fields } = event else { return None };
        if fields.get("name")? != Self::EVENT {
            return None;
        }
        let said = fields.get("follows").and_then(|follows| Self::deserialize(follows).ok());
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, answer) = (text(fields.get("kind")), text(fields.get("answer").and_then(|answer| answer.get("do"))));
        Some(said.unwrap_or_else(|| Self::as_a_rule(&kind, &answer)))
    }

    fn as_a_rule(kind: &str, answer: &str) -> Self {
        match (kind, answer) {
            ("tool_confirmation" | "tool_input" | "tool_result" | "budget", _) => Self::Heard,
            (_, "skip") => Self::Skipped,
            ("error" | "outcome", "reject") => Self::Failed,
            (_, "reject" | "timed_out") => Self::LeftOut,
            ("output_review" | "iteration_review", _) | (_, "result") => Self::Done,
            _ => Self::GoesOn,
        }
    }
}

/// What follows from an answer, for the node that waits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// It goes on, with what it was given.
    GoesOn,
    /// It begins, as this verdict says.
    Decided(crate::workflow::Verdict),
    /// It has ended, like this.
    Ends(Arc<StepOutput>),
    /// It is left out: it has no output.
    LeftOut,
    /// It is executed again.
    Again,
    /// It is asked again.
    AskedAgain,
    /// The run is cancelled.
    Cancels(String),
    /// It fails for good.
    Fails(Failure),
}

impl Question {
    /// What a function or a tool asks under a name of its own: a confirmation, or fields to fill in. Its time limit
    /// begins when it is asked.
    ///
    /// # Errors
    /// When it asks nothing.
    pub fn of_review(name: &str, review: HumanReview) -> Result<Self, Failure> {
        let question = match (review.requires_confirmation, review.requires_user_input) {
            (_, true) => Question {
                kind: QuestionKind::UserInput,
                message: review.user_input_message,
                fields: review.user_input_schema,
                ..Question::default()
            },
            (true, false) => Question { message: review.confirmation_message, ..Question::default() },
            (false, false) => {
                let problem = format!("{name:?} asks nothing: ask for a confirmation or for input");
                return Err(Failure::new(FailureKind::Definition, problem));
            }
        };
        Ok(Question { on_timeout: review.on_timeout, four_eyes: review.four_eyes, ..question })
    }

    /// What is asked when a budget has too little left for a call: may it be made, is there more, or not?
    pub fn of_budget(key: Key, who: &str, over: Over) -> Self {
        let unit = match &over.unit {
            BudgetUnit::Money(_) => FieldType::Float,
            BudgetUnit::Tokens | BudgetUnit::Calls => FieldType::Int,
        };
        let field = UserInputField::new(RAISE_BY).of(unit);
        let field = field.description(format!("how much more there is, in {}", over.unit.as_str()));
        Self {
            key,
            kind: QuestionKind::Budget,
            message: Some(Arc::from(format!("{who}: {over}"))),
            fields: vec![field],
            over: Some(Box::new(over)),
            ..Self::default()
        }
    }

    /// What an answer adds to a budget.
    pub fn raise(&self, answer: &Answer) -> Option<u64> {
        match answer {
            Answer::Input { values } => self.over.as_ref()?.unit.amount(values.get(RAISE_BY)?).ok(),
            _ => None,
        }
    }

    /// Why an answer cannot be one to this question, in words for whoever gave it.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        let may = self.kind.answers();
        if !may.contains(&answer.as_str()) {
            return Err(format!(
                "it asks for {}: answer with one of {}, not {}",
                self.kind,
                may.join(", "),
                answer.as_str()
            ));
        }
        match answer {
            Answer::Input { values } => {
                UserInputField::check_all(&self.fields, values)?;
                match (&self.over, values.get(RAISE_BY)) {
                    (Some(over), Some(by)) if self.kind == QuestionKind::Budget => match over.unit.amount(by) {
                        Ok(0) => Err(format!("Field '{RAISE_BY}' must be more than 0: a budget can only be raised")),
                        Ok(_) => Ok(()),
                        Err(problem) => Err(format!("Field '{RAISE_BY}' is {by}: {problem}")),
                    },
                    _ => Ok(()),
                }
            }
            Answer::Choose { choices } => self.check_choices(choices),
            _ => Ok(()),
        }
    }

    /// Why this person may not answer, in words for them. `of` is whoever submitted the run.
    ///
    /// # Errors
    /// Under four eyes, when it is the same person, or when one of the two is not known.
    pub fn check_person(&self, by: Option<&str>, of: Option<&str>) -> Result<(), String> {
        let why = match (by, of) {
            _ if !self.four_eyes => return Ok(()),
            (Some(by), Some(of)) if by != of => return Ok(()),
            (Some(by), Some(_)) => format!("{by} submitted the run, so somebody else must answer"),
            (None, _) => "somebody else than whoever submitted the run must answer: say who answers".to_owned(),
            (_, None) => "somebody else than whoever submitted the run must answer, and the run does not say who that \
                was: cancel it, and submit it with a user_id"
                .to_owned(),
        };
        Err(why)
    }

    fn check_choices(&self, choices: &[Arc<str>]) -> Result<(), String> {
        let known = || self.choices.iter().map(|choice| &**choice).collect::<Vec<_>>().join(", ");
        if let Some(unknown) = choices.iter().find(|choice| !self.choices.contains(choice)) {
            return Err(format!("{unknown:?} cannot be chosen: choose from {}", known()));
        }
        let twice = choices.iter().enumerate().find(|(at, choice)| choices[..*at].contains(choice));
        match twice {
            Some((_, name)) => Err(format!("{name:?} is chosen twice: a choice can be executed once")),
            None if choices.len() > 1 && !self.allows_several => {
                Err(format!("one choice is asked for, not {}: choose one of {}", choices.len(), known()))
            }
            None => Ok(()),
        }
    }

    /// Whether a step that waits for this answer is executed again, and if so whether that is another attempt.
    pub fn executes_again(&self, answer: &Answer) -> Option<bool> {
        match self.effect(answer) {
            Effect::Again => Some(true),
            Effect::GoesOn if self.key.is_named() || self.tool.is_some() || self.kind.is_of_executor() => Some(false),
            _ => None,
        }
    }

    /// What follows from an answer.
    pub(crate) fn effect(&self, answer: &Answer) -> Effect {
        use QuestionKind::*;
        match (self.kind, answer) {
            (_, Answer::TimedOut) => self.too_late(),
            // Whoever asked decides what follows.
            _ if self.key.is_named() => Effect::GoesOn,
            (ToolConfirmation | ToolInput | ToolResult | Budget | Definition, _) => Effect::GoesOn,
            (Confirmation, Answer::Approve) if self.step_type == StepType::Condition => {
                Effect::Decided(crate::workflow::Verdict::Is(true))
            }
            (RouteSelection, Answer::Choose { choices }) => {
                Effect::Decided(crate::workflow::Verdict::Names(choices.clone()))
            }
            (OutputReview | IterationReview, Answer::Approve) => self.ends(None),
            (OutputReview | IterationReview, Answer::Edit { output }) => self.ends(Some(output)),
            // Of a step; a tool's outcome is for its agent to hear.
            (Outcome, Answer::Result { result }) if self.tool.is_none() => self.ends(Some(result)),
            (Outcome, Answer::Reject { .. }) if self.tool.is_none() => Effect::Fails(self.failed()),
            (Outcome, _) if self.tool.is_some() => Effect::GoesOn,
            (Error | Outcome, Answer::Retry) => Effect::Again,
            (Error, Answer::Skip) => self.ends(None),
            (Error, Answer::Reject { .. }) => Effect::Fails(self.failed()),
            (_, Answer::Reject { .. }) => self.rejected(),
            _ => Effect::GoesOn,
        }
    }

    /// The same for those who look on.
    pub(crate) fn follows(&self, answer: &Answer) -> Follows {
        match self.effect(answer) {
            Effect::GoesOn if self.tool.is_some() || self.kind.is_of_executor() => Follows::Heard,
            Effect::GoesOn | Effect::Decided(_) | Effect::Again | Effect::AskedAgain => Follows::GoesOn,
            Effect::Ends(_) if self.kind == QuestionKind::Error => Follows::Skipped,
            Effect::Ends(_) => Follows::Done,
            Effect::LeftOut => Follows::LeftOut,
            Effect::Cancels(_) => Follows::Cancelled,
            Effect::Fails(_) => Follows::Failed,
        }
    }

    fn ends(&self, content: Option<&Value>) -> Effect {
        let output = self.output.clone().unwrap_or_default();
        Effect::Ends(match content {
            Some(content) => Arc::new(StepOutput { content: Some(content.clone()), ..(*output).clone() }),
            None => output,
        })
    }

    fn failed(&self) -> Failure {
        self.failure.as_deref().cloned().unwrap_or_default()
    }

    fn rejected(&self) -> Effect {
        let is_left = self.max_retries.is_none_or(|most| self.retry_count < most);
        match self.on_reject {
            OnReject::Retry if self.kind == QuestionKind::IterationReview => Effect::GoesOn,
            OnReject::Retry if !is_left => Effect::Cancels(self.cancelled("was rejected too often")),
            OnReject::Retry if self.kind == QuestionKind::OutputReview => Effect::Again,
            OnReject::Retry => Effect::AskedAgain,
            OnReject::Cancel => Effect::Cancels(self.cancelled("was rejected")),
            OnReject::Else if self.step_type == StepType::Condition => {
                Effect::Decided(crate::workflow::Verdict::Is(false))
            }
            OnReject::Else | OnReject::Skip => Effect::LeftOut,
        }
    }

    /// Nobody has answered in time.
    fn too_late(&self) -> Effect {
        match self.on_timeout {
            OnTimeout::Cancel => Effect::Cancels(self.cancelled("was not answered in time")),
            // An executor hears of it, and tells its model.
            _ if self.key.is_named() || self.tool.is_some() => Effect::GoesOn,
            OnTimeout::Skip => match self.kind {
                QuestionKind::Error => self.ends(None),
                _ => Effect::LeftOut,
            },
            OnTimeout::Approve => match self.kind {
                QuestionKind::Error | QuestionKind::Outcome => Effect::Again,
                QuestionKind::RouteSelection => {
                    Effect::Decided(crate::workflow::Verdict::Names(self.choices.iter().take(1).cloned().collect()))
                }
                _ => self.effect(&Answer::Approve),
            },
        }
    }

    /// In Agno's words.
    fn cancelled(&self, why: &str) -> String {
        format!("Workflow cancelled: {} '{}' {why}", titled(self.step_type), self.step_name)
    }

    /// What people need of it to answer: without what only its step needs.
    #[must_use]
    pub fn for_people(&self) -> Self {
        Self { input: None, run: None, state: None, ..self.clone() }
    }

    /// The output that is judged: of an iteration, the last thing it made.
    pub(crate) fn judged(&self) -> Option<&Arc<StepOutput>> {
        let output = self.output.as_ref()?;
        output.steps.last().filter(|_| self.kind == QuestionKind::IterationReview).or(Some(output))
    }

    /// A schema of what may go into its fields: JSON Schema, of an object.
    pub fn schema(&self) -> Option<Value> {
        (!self.fields.is_empty()).then(|| UserInputField::schema(&self.fields))
    }

    /// As Agno's clients read it and send it back: a `StepRequirement`, or an `ErrorRequirement`.
    pub fn requirement(&self, answered: Option<&Answered>) -> Value {
        let answer = answered.map(|answered| &answered.answer);
        if self.kind == QuestionKind::Error {
            return self.error_requirement(answer);
        }
        let is_review = matches!(self.kind, QuestionKind::OutputReview | QuestionKind::IterationReview);
        let is_choice = self.kind == QuestionKind::RouteSelection;
        let is_tool = self.tool.is_some();
        let asks_for_input = self.kind == QuestionKind::UserInput;
        let confirms = is_review
            || matches!(self.kind, QuestionKind::Confirmation | QuestionKind::Definition | QuestionKind::Budget)
            || (self.kind == QuestionKind::Outcome && !is_tool);
        let confirmed = match answer {
            Some(
                Answer::Approve | Answer::Edit { .. } | Answer::Result { .. } | Answer::Retry | Answer::Input { .. },
            ) if confirms => Some(true),
            Some(Answer::Reject { .. }) if !is_tool => Some(false),
            _ => None,
        };
        let message = |is_asked: bool| self.message.as_deref().filter(|_| is_asked);
        let mut fields = json!({
            "step_id": self.step_id,
            "step_name": self.step_name,
            "step_index": self.step_index,
            "step_type": self.step_type,
            "requires_confirmation": confirms,
            "confirmation_message": message(confirms),
            "confirmed": confirmed,
            "on_reject": self.on_reject,
            "requires_user_input": asks_for_input,
            "user_input_message": message(asks_for_input || is_choice),
            "user_input": Value::Null,
            "requires_route_selection": is_choice,
            "available_choices": Value::Null,
            "allow_multiple_selections": self.allows_several,
            "selected_choices": Value::Null,
            "requires_output_review": is_review,
            "output_review_message": message(is_review),
            "is_post_execution": is_review,
            "rejection_feedback": Value::Null,
            "retry_count": self.retry_count,
            "max_retries": self.max_retries,
            "timeout_at": self.due_at.map(Timestamp::to_rfc3339),
            "on_timeout": self.on_timeout,
        });
        let all = fields.as_object_mut().expect("it is an object");
        if is_choice {
            all.insert("available_choices".into(), json!(self.choices));
        }
        if asks_for_input {
            let values = match answer {
                Some(Answer::Input { values }) => Some(values),
                _ => None,
            };
            let schema = self.fields.iter().map(|field| field.asked(values.and_then(|all| all.get(&*field.name))));
            all.insert("user_input_schema".into(), schema.collect());
        }
        match answer {
            Some(Answer::Input { values }) if asks_for_input => drop(all.insert("user_input".into(), json!(values))),
            Some(Answer::Choose { choices }) => drop(all.insert("selected_choices".into(), json!(choices))),
            Some(Answer::Reject { feedback: Some(feedback) }) if !is_tool => {
                all.insert("rejection_feedback".into(), json!(feedback));
            }
            Some(Answer::Edit { output }) => drop(all.insert("edited_output".into(), output.clone())),
            _ => {}
        }
        if let Some(input) = self.input.as_ref().filter(|_| !is_tool) {
            all.insert("step_input".into(), json!(input));
        }
        if let Some(output) = self.judged().filter(|_| is_review) {
            all.insert("step_output".into(), json!(output));
        }
        if let Some(tool) = &self.tool {
            all.insert("requires_executor_input".into(), json!(true));
            all.insert("executor_requirements".into(), json!([tool.requirement(self, answer)]));
            let (run_id, id, name) = tool.executor();
            let kind = if tool.team.is_some() { ExecutorKind::Team } else { tool.agent_type };
            all.insert("executor_id".into(), json!(id));
            all.insert("executor_name".into(), json!(name));
            all.insert("executor_run_id".into(), json!(run_id));
            all.insert("executor_type".into(), json!(kind));
            if let Some(session_id) = &tool.session_id {
                all.insert("executor_session_id".into(), json!(session_id));
            }
        }
        if let Some(failure) = self.failure.as_deref() {
            all.insert("reason".into(), json!(failure.message));
            all.insert("error_type".into(), json!(failure.kind.code()));
        }
        // A step may ask again, and several things at once: they are told apart by this. Calls have ids of their own.
        if !is_tool {
            all.insert("question_id".into(), json!(self.id));
        }
        fields
    }

    fn error_requirement(&self, answer: Option<&Answer>) -> Value {
        let failure = self.failed();
        let decision = answer.map(|answer| match answer {
            Answer::Retry => "retry",
            Answer::Skip => "skip",
            _ => "fail",
        });
        json!({
            "step_id": self.step_id,
            "step_name": self.step_name,
            "step_index": self.step_index,
            "error_message": failure.message,
            "error_type": failure.kind.code(),
            "retry_count": self.retry_count,
            "decision": decision,
            "question_id": self.id,
        })
    }
}

impl ToolAsked {
    /// What the step runs, which waits: the run, its id and its name.
    pub(crate) fn executor(&self) -> (&Arc<str>, &Arc<str>, &Arc<str>) {
        match &self.team {
            Some(team) => (&team.run_id, &team.id, &team.name),
            None => (&self.run_id, &self.agent_id, &self.agent_name),
        }
    }

    /// As Agno's clients read it: a `RunRequirement`.
    pub fn requirement(&self, question: &Question, answer: Option<&Answer>) -> Value {
        let mut requirement = json!({
            "id": question.id,
            "created_at": self.asked_at.to_rfc3339(),
            "tool_execution": self.answered(answer),
        });
        let all = requirement.as_object_mut().expect("it is an object");
        if self.team.is_some() {
            all.insert("member_agent_id".into(), json!(self.agent_id));
            all.insert("member_agent_name".into(), json!(self.agent_name));
            all.insert("member_run_id".into(), json!(self.run_id));
        }
        match answer {
            Some(Answer::Approve) => drop(all.insert("confirmation".into(), json!(true))),
            Some(Answer::Reject { feedback }) => {
                all.insert("confirmation".into(), json!(false));
                all.insert("confirmation_note".into(), json!(feedback));
            }
            Some(Answer::Result { result }) => drop(all.insert("external_execution_result".into(), result.clone())),
            _ => {}
        }
        requirement
    }

    /// The call with what was answered.
    pub fn answered(&self, answer: Option<&Answer>) -> ToolExecution {
        let mut execution = self.execution.clone();
        match answer {
            Some(Answer::Approve) => execution.confirmed = Some(true),
            Some(Answer::Reject { feedback }) => {
                execution.confirmed = Some(false);
                execution.confirmation_note.clone_from(feedback);
            }
            Some(Answer::Input { values }) => {
                execution.answered = Some(true);
                if let Some(args) = execution.tool_args.as_object_mut() {
                    args.extend(values.clone());
                }
                for field in execution.user_input_schema.iter_mut().filter_map(Value::as_array_mut).flatten() {
                    let value = field["name"].as_str().and_then(|name| values.get(name)).cloned();
                    field["value"] = value.unwrap_or_default();
                }
            }
            Some(Answer::Result { result }) => {
                execution.result = Some(crate::run::content_text(Some(result)));
            }
            _ => {}
        }
        execution
    }
}

/// The requirements of a run's questions, as Agno's clients read them: those of one agent's tool calls in one turn lie
/// in one `StepRequirement`. Errors stand apart.
pub(crate) fn requirements(asked: &[(Arc<Question>, Option<Answered>)]) -> (Vec<Value>, Vec<Value>) {
    let (mut steps, mut errors): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for (question, answered) in asked {
        let requirement = question.requirement(answered.as_ref());
        if question.kind == QuestionKind::Error {
            errors.push(requirement);
            continue;
        }
        let same = steps.last_mut().filter(|last| {
            question.tool.is_some()
                && last.get("executor_run_id") == requirement.get("executor_run_id")
                && last["step_id"] == requirement["step_id"]
        });
        match same.and_then(|last| last["executor_requirements"].as_array_mut()) {
            Some(tools) => tools.extend(requirement["executor_requirements"].as_array().cloned().unwrap_or_default()),
            None => steps.push(requirement),
        }
    }
    (steps, errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_told_and_of_old_events_what_follows_as_a_rule() {
        let told = |fields: Value| {
            let fields = fields.as_object().cloned().unwrap_or_default();
            Follows::of(&EventKind::CustomEvent { fields })
        };
        let event =
            |kind: &str, answer: &str| json!({ "name": Follows::EVENT, "kind": kind, "answer": { "do": answer } });
        for (kind, answer, follows) in [
            ("confirmation", "approve", Follows::GoesOn),
            ("confirmation", "timed_out", Follows::LeftOut),
            ("output_review", "approve", Follows::Done),
            ("output_review", "reject", Follows::LeftOut),
            ("outcome", "result", Follows::Done),
            ("outcome", "reject", Follows::Failed),
            ("error", "skip", Follows::Skipped),
            ("error", "retry", Follows::GoesOn),
            ("tool_confirmation", "reject", Follows::Heard),
            ("budget", "reject", Follows::Heard),
        ] {
            assert_eq!(told(event(kind, answer)), Some(follows), "{kind} {answer}");
        }
        let mut said = event("output_review", "timed_out");
        for follows in [Follows::Done, Follows::Cancelled, Follows::LeftOut] {
            said["follows"] = json!(follows);
            assert_eq!(told(said.clone()), Some(follows));
        }
        said["name"] = json!("RunResumed");
        assert_eq!(told(said), None);
    }

    #[test]
    fn what_follows_from_silence_is_what_the_question_says() {
        let follows =
            |kind, on_timeout| Question { kind, on_timeout, ..Question::default() }.follows(&Answer::TimedOut);
        use QuestionKind::{Confirmation, Error, IterationReview, OutputReview, ToolInput};
        for (kind, on_timeout, expected) in [
            (OutputReview, OnTimeout::Approve, Follows::Done),
            (IterationReview, OnTimeout::Approve, Follows::Done),
            (OutputReview, OnTimeout::Skip, Follows::LeftOut),
            (OutputReview, OnTimeout::Cancel, Follows::Cancelled),
            (Confirmation, OnTimeout::Approve, Follows::GoesOn),
            (Confirmation, OnTimeout::Skip, Follows::LeftOut),
            (Error, OnTimeout::Skip, Follows::Skipped),
            (Error, OnTimeout::Approve, Follows::GoesOn),
            (ToolInput, OnTimeout::Cancel, Follows::Cancelled),
        ] {
            assert_eq!(follows(kind, on_timeout), expected, "{kind} {on_timeout:?}");
        }
    }
}
