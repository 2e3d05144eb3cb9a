//! What tests of workflows share: random trees of every kind of container, and steps whose answers depend on nothing
//! but what they are given.
//!
//! The invariant: the same seed grows the same tree, whatever executes it.

use crate::failure::{Failure, FailureKind};
use crate::port::Executor;
use crate::question::{Answer, Question, QuestionKind};
use crate::retry::Retry;
use crate::step::{StepInput, StepOutput, StepType};
use crate::workflow::{
    Block, Condition, Definition, FieldType, ForEach, HumanReview, InvalidDefinition, Loop, OnError, OnReject,
    Parallel, Router, Step, Steps, UserInputField,
};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `limit`, which is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Hears the name of a container whenever its code is asked for a verdict.
pub type OnAsk = Arc<dyn Fn(&str) + Send + Sync>;

/// Grows trees of every kind of container, with failures that are skipped, retried and final.
pub struct Forest {
    dice: Dice,
    count: u32,
    fails: bool,
    asks: bool,
    backoff: Duration,
    step: Box<dyn Fn(&str) -> Step>,
    on_ask: OnAsk,
}

impl fmt::Debug for Forest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forest").field("dice", &self.dice).finish_non_exhaustive()
    }
}

impl Forest {
    /// The trees of a seed; `step` makes a step of a name. One seed in three has steps that fail for good, one in five
    /// steps of which only a person can say what came of them.
    pub fn new(seed: u64, step: impl Fn(&str) -> Step + 'static) -> Self {
        let backoff = Duration::from_secs(1);
        Self {
            dice: Dice(seed),
            count: 0,
            fails: seed.is_multiple_of(3),
            asks: seed % 5 == 2,
            backoff,
            step: Box::new(step),
            on_ask: Arc::new(|_| {}),
        }
    }

    /// How long the first wait before another try is.
    #[must_use]
    pub fn backoff(mut self, first: Duration) -> Self {
        self.backoff = first;
        self
    }

    /// Hears of every verdict that is asked for.
    #[must_use]
    pub fn on_ask(mut self, on_ask: OnAsk) -> Self {
        self.on_ask = on_ask;
        self
    }

    /// A workflow whose containers are nested up to `depth` deep.
    ///
    /// # Errors
    /// None that is expected: a tree grown here is sound.
    pub fn grow(mut self, depth: u32) -> Result<Definition, InvalidDefinition> {
        let blocks = self.blocks(depth);
        sequence("Random", blocks)
    }

    /// The same, led by this agent.
    ///
    /// # Errors
    /// None that is expected: a tree grown here is sound.
    pub fn grow_led(mut self, depth: u32, leader: impl Executor) -> Result<Definition, InvalidDefinition> {
        let blocks = self.blocks(depth);
        let builder = Definition::builder("Random").agent(leader);
        blocks.into_iter().fold(builder, |builder, block| builder.step(block)).build()
    }

    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}", self.count)
    }

    fn blocks(&mut self, depth: u32) -> Vec<Block> {
        (0..=self.dice.below(2)).map(|_| self.block(depth)).collect()
    }

    fn block(&mut self, depth: u32) -> Block {
        let kind = if depth == 0 { 0 } else { self.dice.below(9) };
        let times = if self.dice.below(3) == 0 { 2 } else { u32::from(self.dice.below(2) == 0) };
        let retry = Retry::times(times).backoff(self.backoff);
        let on_error = if self.fails && self.dice.below(3) > 0 { OnError::Fail } else { OnError::Skip };
        let on_error = if self.asks && self.dice.below(4) == 0 { OnError::Pause } else { on_error };
        match kind {
            1 => {
                let group = Steps::new(self.name("group")).retry(retry).on_error(on_error);
                self.blocks(depth - 1).into_iter().fold(group, Steps::step).into()
            }
            2 => {
                let parallel = Parallel::new(self.name("par")).retry(retry).on_error(on_error);
                self.blocks(depth - 1).into_iter().fold(parallel, Parallel::step).step(self.block(depth - 1)).into()
            }
            3 => {
                let (name, odd) = (self.name("cond"), self.dice.below(2) == 0);
                let heard = self.heard(&name);
                let condition = Condition::new(name).retry(retry).on_error(on_error).when(move |question| {
                    heard();
                    question.text().len().is_multiple_of(2) == odd
                });
                let condition = match self.asks_here() {
                    true => condition.human_review(HumanReview::confirmation("This way?").on_reject(OnReject::Else)),
                    false => condition,
                };
                let condition = self.blocks(depth - 1).into_iter().fold(condition, Condition::step);
                self.blocks(depth - 1).into_iter().fold(condition, Condition::otherwise).into()
            }
            4 => {
                let (name, most) = (self.name("loop"), 1 + u32::try_from(self.dice.below(3)).unwrap_or(0));
                let heard = self.heard(&name);
                let repeated = Loop::new(name).retry(retry).on_error(on_error).max_iterations(most);
                let repeated = repeated.forward_iteration_output(self.dice.below(2) == 0).until(move |question| {
                    heard();
                    question.last_text().len().is_multiple_of(3)
                });
                let repeated = match self.asks_here() {
                    true => repeated.human_review(HumanReview::iterations("Done?").on_reject(OnReject::Retry)),
                    false => repeated,
                };
                self.blocks(depth - 1).into_iter().fold(repeated, Loop::step).into()
            }
            5 => {
                let (name, several) = (self.name("router"), self.dice.below(2) == 0);
                let heard = self.heard(&name);
                let router = Router::new(name).retry(retry).on_error(on_error).select(move |question| {
                    heard();
                    let at = question.text().len() % question.choices.len();
                    let rest = if several { question.choices.len() } else { at + 1 };
                    question.choices[at..rest].to_vec()
                });
                let router = match self.asks_here() {
                    true => router.human_review(HumanReview::selection("Which?").several()),
                    false => router,
                };
                self.blocks(depth - 1).into_iter().fold(router, Router::choice).choice(self.block(depth - 1)).into()
            }
            6 => {
                let inner = sequence("Inner", self.blocks(depth - 1)).expect("a tree grown here is sound");
                let nested = Step::new(self.name("nested")).workflow(Arc::new(inner));
                nested.retry(retry).on_error(on_error).into()
            }
            7 => {
                let (name, at_once) = (self.name("each"), 1 + u32::try_from(self.dice.below(3)).unwrap_or(0));
                let heard = self.heard(&name);
                let each = ForEach::new(name).retry(retry).on_error(on_error).concurrency(at_once);
                let each = each.items(move |question| {
                    heard();
                    (0..question.text().len() % 4).map(|n| format!("item {n}")).collect::<Vec<_>>()
                });
                each.step(self.block(depth - 1)).into()
            }
            _ => {
                let fails = self.fails && self.dice.below(8) == 0;
                let asks = self.asks && self.dice.below(10) == 0;
                let name = self.name(if asks { "ask" } else { ["step", "fail"][usize::from(fails)] });
                let step = (self.step)(&name).retry(retry).on_error(on_error);
                match self.asks.then(|| self.dice.below(9)) {
                    Some(0) => step.human_review(self.review(HumanReview::confirmation("May it?"))),
                    Some(1) => {
                        let fields = [UserInputField::new("word"), UserInputField::new("count").of(FieldType::Int)];
                        step.human_review(self.review(HumanReview::user_input("What?", fields)))
                    }
                    Some(2) => step.human_review(self.review(HumanReview::output("Good?"))),
                    _ => step,
                }
                .into()
            }
        }
    }

    /// What follows from a no is left to chance.
    fn review(&mut self, review: HumanReview) -> HumanReview {
        let on_reject = [OnReject::Skip, OnReject::Skip, OnReject::Retry, OnReject::Cancel];
        review.on_reject(on_reject[usize::try_from(self.dice.below(4)).unwrap_or(0)]).max_retries(2)
    }

    fn asks_here(&mut self) -> bool {
        self.asks && self.dice.below(4) == 0
    }

    fn heard(&self, name: &str) -> impl Fn() + Send + Sync + 'static {
        let (on_ask, name) = (self.on_ask.clone(), name.to_owned());
        move || on_ask(&name)
    }
}

fn sequence(name: &str, blocks: Vec<Block>) -> Result<Definition, InvalidDefinition> {
    blocks.into_iter().fold(Definition::builder(name), |builder, block| builder.step(block)).build()
}

/// What somebody answers to a question of a random tree: it depends on the question alone.
pub fn reply(question: &Question) -> Answer {
    let print = question.key.as_str().bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let (says_no, is_step) = (print.is_multiple_of(4), question.step_type == StepType::Step);
    match question.kind {
        QuestionKind::UserInput if says_no => Answer::reject("no idea"),
        QuestionKind::UserInput | QuestionKind::ToolInput => {
            Answer::input([("word", json!(format!("w{}", print % 10))), ("count", json!(print % 100))])
        }
        QuestionKind::RouteSelection => {
            let from = print as usize % question.choices.len().max(1);
            Answer::choose(&question.choices[from..])
        }
        // What is nested must not be tried again as often as all that is around it taken together.
        QuestionKind::Error if question.retry_count < 1 + u32::from(is_step) && !says_no => Answer::Retry,
        QuestionKind::Error => Answer::Skip,
        QuestionKind::Outcome | QuestionKind::ToolResult => Answer::Result { result: json!(format!("found {print}")) },
        QuestionKind::Definition => Answer::Retry,
        QuestionKind::OutputReview if print % 5 == 1 => Answer::Edit { output: json!(format!("edited {print}")) },
        _ if says_no => Answer::reject("try again"),
        _ => Answer::Approve,
    }
}

/// What a step of a random tree does: its answer, and what it changes in the session. Both depend on its name, its
/// attempt and what it is given, so a repetition does the same.
pub fn play(
    input: &StepInput,
    name: &str,
    attempt: u32,
    session: &Map<String, Value>,
) -> (Result<StepOutput, Failure>, Option<Value>) {
    let seen = session.get("count").and_then(Value::as_u64).unwrap_or(0);
    let number: u64 = name.trim_start_matches(char::is_alphabetic).parse().unwrap_or(0);
    if name.starts_with("ask") {
        return (Err(Failure::new(FailureKind::OutcomeUnknown, format!("{name} may have happened"))), None);
    }
    if name.starts_with("fail") || (number.is_multiple_of(5) && attempt == 1) {
        return (Err(Failure::function(format!("{name} failed at {attempt}"))), None);
    }
    let mut output = StepOutput::new(format!("{}.{name}", input.text().chars().take(40).collect::<String>()));
    output.stop = number % 23 == 22;
    (Ok(output), Some(json!({ "count": seen + 1, name: attempt })))
}
