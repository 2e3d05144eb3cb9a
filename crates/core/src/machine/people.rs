//! What a run asks people and what they answer: which nodes wait, what was decided for those that go on, and how long
//! it took.
//!
//! The log keeps every question and every answer; this is their fold. It must never know who answers, or how an answer
//! gets here. Invariants: a question has one answer for good, and waiting for people counts towards no time limit.

use super::frame::Frame;
use super::workflow::{Applied, Open, WorkflowMachine};
use crate::event::{EventKind, Origin, RunEvent};
use crate::failure::{Failure, FailureKind};
use crate::log::{Entry, Key, Part, Record};
use crate::port::Executed;
use crate::question::{Answer, Answered, AskingTeam, Effect, Follows, Question, QuestionKind};
use crate::step::{ExecutorKind, StepIndex, StepInput, StepOutput, StepType};
use crate::time::Timestamp;
use crate::workflow::{HumanReview, Node, OnError, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a run has asked people. Most runs ask nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct People {
    /// What waits, and for which answers. Steps among it are open too.
    waiting: BTreeMap<Key, Vec<Arc<Question>>>,
    /// What was answered for nodes that have not ended, by the key of their first attempt.
    given: BTreeMap<Key, Given>,
    /// Everything asked so far, in order.
    asked: Vec<(Arc<Question>, Option<Answered>)>,
    /// Where the run paused last.
    paused: Option<(u32, Arc<str>, Option<String>)>,
    /// The answer after which the run ends.
    ends: Option<Ends>,
    /// Since when the run, and containers whose time is limited, have had something inside that waits.
    since: BTreeMap<Key, Timestamp>,
    /// How long the run has waited before, in microseconds.
    waited: u64,
}

/// How an answer ends a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Ends {
    Cancelled(String),
    Failed(Key, Failure),
}

/// What was answered for one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Given {
    /// How many questions it has asked.
    asked: u32,
    is_confirmed: bool,
    input: Option<Map<String, Value>>,
    verdict: Option<Verdict>,
    /// How often its output was refused, or a question answered with a no that asks again.
    refused: u32,
    /// Why its last output was refused, and what that was.
    review: Option<(Option<String>, Option<Value>)>,
    /// A Loop: the last iteration that was judged.
    iteration: u32,
}

impl WorkflowMachine {
    fn people_mut(&mut self) -> &mut People {
        self.people.get_or_insert_default()
    }

    /// Whether a node waits for an answer.
    pub fn is_waiting(&self, key: &Key) -> bool {
        self.people.as_ref().is_some_and(|people| people.waiting.contains_key(key))
    }

    /// Whether people are asked what came of a node.
    pub(super) fn is_outcome_asked(&self, key: &Key) -> bool {
        let open = self.people.as_ref().and_then(|people| people.waiting.get(key));
        open.is_some_and(|open| open.iter().any(|question| question.kind == QuestionKind::Outcome))
    }

    pub(super) fn is_waiting_inside(&self, outer: &Key) -> bool {
        self.people.as_ref().is_some_and(|people| people.waiting.keys().any(|key| key == outer || key.is_inside(outer)))
    }

    /// Whether it is a function that works there, which may have given up what it has asked.
    pub fn is_function(&self, key: &Key) -> bool {
        matches!(self.node(key), Some(Node::Step(step)) if step.executor_type == ExecutorKind::Function)
    }

    /// Whether this question is open.
    pub fn is_asked(&self, key: &Key) -> bool {
        self.find_question(key).is_some()
    }

    /// Whether anything waits for people.
    pub fn has_questions(&self) -> bool {
        self.people.as_ref().is_some_and(|people| !people.waiting.is_empty())
    }

    /// The ids of the questions that are open.
    pub fn open_questions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.people.iter().flat_map(|people| people.waiting.values().flatten()).map(|question| &question.id)
    }

    /// What is open, in the order of the definition.
    pub fn questions(&self) -> Vec<Arc<Question>> {
        let mut waiting: Vec<_> = self.people.iter().flat_map(|people| &people.waiting).collect();
        waiting.sort_by(|(one, _), (other, _)| one.in_order(other));
        waiting.into_iter().flat_map(|(_, questions)| questions.clone()).collect()
    }

    /// The outputs that are being judged of what stands directly in the workflow.
    pub(super) fn judged_at_top(&self) -> Vec<Arc<StepOutput>> {
        let waiting = self.people.iter().flat_map(|people| &people.waiting).filter(|(key, _)| key.is_top());
        let is_review = |question: &&Arc<Question>| {
            matches!(question.kind, QuestionKind::OutputReview | QuestionKind::IterationReview)
        };
        let judged = waiting.flat_map(|(_, questions)| questions).filter(is_review);
        judged.filter_map(|question| question.output.clone()).collect()
    }

    /// Everything asked so far, with its answers, in order.
    pub(super) fn asked(&self) -> &[(Arc<Question>, Option<Answered>)] {
        self.people.as_ref().map_or(&[], |people| &people.asked)
    }

    /// Where the run paused last: the place, the name, and the kind of pause.
    pub(super) fn paused(&self) -> Option<&(u32, Arc<str>, Option<String>)> {
        self.people.as_ref()?.paused.as_ref()
    }

    pub(super) fn note_pause(&mut self, index: u32, name: &Arc<str>, kind: Option<&String>) {
        self.people_mut().paused = Some((index, name.clone(), kind.cloned()));
    }

    /// How much of its time a run has spent, waiting for people left out.
    pub fn time_spent(&self, now: Timestamp) -> Duration {
        let Some(started) = self.started_at else { return Duration::ZERO };
        let waited = self.people.as_ref().map_or(Duration::ZERO, |people| {
            let open = people.since.get(&Key::run()).map_or(Duration::ZERO, |since| now.since(*since));
            Duration::from_micros(people.waited) + open
        });
        now.since(started).saturating_sub(waited)
    }

    // Folding.

    /// A node waits.
    pub(super) fn wait_for(&mut self, key: &Key, questions: &[Arc<Question>], at: Timestamp) {
        let is_limited = |outer: &Key| match self.open.get(outer) {
            Some(Open::Container(frame)) => frame.own().deadline.is_some(),
            _ => false,
        };
        let mut limited: Vec<Key> = self.ancestors(key).chain([key.clone()]).filter(is_limited).collect();
        limited.push(Key::run());
        let first = key.attempt(1);
        let people = self.people_mut();
        for outer in limited {
            people.since.entry(outer).or_insert(at);
        }
        people.given.entry(first).or_default().asked += u32::try_from(questions.len()).unwrap_or(u32::MAX);
        people.asked.extend(questions.iter().map(|question| (question.clone(), None)));
        people.waiting.entry(key.clone()).or_default().extend(questions.iter().cloned());
        // What was over when it asked, it does not wait for.
        if let Some(Open::Step(step)) = self.open.get_mut(key) {
            step.sleeps.retain(|due_at| *due_at > at);
        }
    }

    /// Forgets what a node that ended, or begins again, was asked and told; `inside` only: what is inside it.
    pub(super) fn forget_people(&mut self, key: &Key, inside: bool) {
        let Some(people) = &mut self.people else { return };
        let first = key.attempt(1);
        let is_gone = |known: &Key| known.is_inside(key) || known.is_inside(&first) || (!inside && *known == first);
        people.given.retain(|known, _| !is_gone(known));
        let is_over = |known: &Key| known == key || known.is_inside(key);
        // What it failed for is settled around it.
        people.ends.take_if(|ends| matches!(ends, Ends::Failed(failed, _) if is_over(failed)));
        let over = people.waiting.extract_if(.., |known, _| is_over(known));
        self.agenda.void.extend(over.flat_map(|(_, questions)| questions).map(|question| question.id.clone()));
    }

    /// Ends the waits that are over: what is limited in time has as much of it left as before.
    pub(super) fn end_waits(&mut self, at: Timestamp) {
        let Some(people) = &self.people else { return };
        let over: Vec<(Key, Timestamp)> = people
            .since
            .iter()
            .filter(|(outer, _)| !self.is_waiting_inside(outer))
            .map(|(outer, since)| (outer.clone(), *since))
            .collect();
        for (outer, since) in over {
            let people = self.people_mut();
            people.since.remove(&outer);
            let waited = at.since(since);
            if outer == Key::run() {
                people.waited += u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
            } else {
                self.postpone(&outer, waited);
            }
        }
    }

    /// Somebody answered.
    pub(super) fn answered(&mut self, key: &Key, answered: &Answered) -> Applied {
        let Some((node, question)) = self.take_question(key, answered) else { return Applied::default() };
        let first = node.attempt(1);
        let effect = question.effect(&answered.answer);
        let mut applied = Applied::default();
        let given = self.people_mut().given.entry(first.clone()).or_default();
        match effect {
            Effect::GoesOn => match (&answered.answer, question.kind) {
                (_, QuestionKind::IterationReview) => {
                    let iteration = key.parts().filter_map(|part| match part {
                        Part::Iteration(iteration) => Some(iteration),
                        _ => None,
                    });
                    given.iteration = iteration.last().unwrap_or_default();
                    given.review = Some(refusal(&question, &answered.answer));
                }
                (Answer::Input { values }, QuestionKind::UserInput) => given.input = Some(values.clone()),
                // Of input that nobody gave in time, nothing is known.
                (_, QuestionKind::Confirmation | QuestionKind::UserInput) => given.is_confirmed = true,
                _ => {}
            },
            Effect::Decided(verdict) => {
                given.is_confirmed = true;
                given.verdict = Some(verdict);
            }
            Effect::AskedAgain => given.refused += 1,
            Effect::Ends(output) => {
                self.runs.extend(question.run.clone());
                if let (Some(Open::Container(frame)), Answer::Edit { output }) =
                    (self.open.get_mut(&node), &answered.answer)
                {
                    frame.content = Some(output.clone());
                }
                let state = question.state.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
                applied = self.end(&node, &output, state);
            }
            Effect::LeftOut => applied = self.leave_out(&node),
            Effect::Again => {
                if question.kind == QuestionKind::OutputReview {
                    given.refused += 1;
                    given.review = Some(refusal(&question, &answered.answer));
                }
                // At once, whatever the clock of whoever answered says.
                applied.dropped = self.again(&node, node.attempt_number(), Timestamp::default());
            }
            Effect::Cancels(reason) => self.people_mut().ends = Some(Ends::Cancelled(reason)),
            Effect::Fails(failure) => self.people_mut().ends = Some(Ends::Failed(node.clone(), failure)),
        }
        // Whatever waits for nothing more is looked at; what has not begun, by what it is in.
        if !self.is_waiting(&node) {
            let is_open = self.open.contains_key(&node);
            let looked_at = if is_open { node.clone() } else { self.parent_key(&node) };
            self.look_at(looked_at);
        } else if self.is_function(&node)
            && let Some(Open::Step(step)) = self.open.get_mut(&node)
        {
            // It may wait for this answer alone: what else it has asked, it may have given up.
            step.sleeps.push(Timestamp::default());
            self.look_at(node);
        }
        self.end_waits(answered.at);
        applied
    }

    /// Takes an open question from the node that waits for its answer.
    fn take_question(&mut self, key: &Key, answered: &Answered) -> Option<(Key, Arc<Question>)> {
        let (node, place) = self.find_question(key)?;
        let people = self.people.as_mut()?;
        let open = people.waiting.get_mut(&node)?;
        let question = open.remove(place);
        if open.is_empty() {
            people.waiting.remove(&node);
        }
        if let Some((_, answer)) = people.asked.iter_mut().rev().find(|(asked, _)| asked.key == *key) {
            *answer = Some(answered.clone());
        }
        Some((node, question))
    }

    /// The node that waits for an answer to this question, and the question's place among those of that node.
    fn find_question(&self, key: &Key) -> Option<(Key, usize)> {
        let waiting = &self.people.as_ref()?.waiting;
        let place = |questions: &[Arc<Question>]| questions.iter().position(|question| question.key == *key);
        let outer = std::iter::successors(Some(key.clone()), Key::outer);
        let near = outer.into_iter().find_map(|outer| Some((place(waiting.get(&outer)?)?, outer)));
        // What a function named belongs to all attempts at its step.
        let far = || waiting.iter().find_map(|(node, questions)| Some((place(questions)?, node.clone())));
        near.or_else(far).map(|(place, node)| (node, place))
    }

    /// A node has no part in the run.
    fn leave_out(&mut self, key: &Key) -> Applied {
        let (_, dropped) = self.forget(key);
        self.forget_people(key, false);
        let parent = self.parent_key(key);
        self.frame_mut(&parent).child_left_out(key);
        self.look_at(parent);
        Applied { dropped, ..Applied::default() }
    }

    // Asking.

    /// How an answer ends the run, if one does.
    pub(super) fn ended_by_answer(&self, claim: &Record, chance: u64, at: Timestamp) -> Option<Vec<Entry>> {
        match self.people.as_ref()?.ends.as_ref()? {
            Ends::Cancelled(reason) => Some(self.cancel_by_answer(reason, claim, at)),
            Ends::Failed(key, failure) => {
                let failure = Failure { retryable: false, ..failure.clone() };
                Some(self.failed_for_good(key, &failure, chance, at))
            }
        }
    }

    fn given(&self, key: &Key) -> Option<&Given> {
        self.people.as_ref()?.given.get(&key.attempt(1))
    }

    /// What people have decided for a container.
    pub(super) fn given_verdict(&self, key: &Key) -> Option<Verdict> {
        self.given(key)?.verdict.clone()
    }

    /// How many attempts at a step were made because a person had asked for another.
    pub(super) fn refused(&self, key: &Key) -> u32 {
        self.given(key).map_or(0, |given| given.refused)
    }

    /// Adds what people said about a step, or about the last iteration of a Loop around it, to what it is given.
    pub(super) fn add_given(&self, key: &Key, input: &mut StepInput) {
        if self.people.is_none() {
            return;
        }
        let given = self.given(key);
        let mut said = Map::new();
        if let Some(values) = given.and_then(|given| given.input.as_ref()) {
            said.insert("user_input".into(), json!(values));
        }
        let of_loops = || self.ancestors(key).find_map(|outer| self.given(&outer)?.review.as_ref());
        if let Some((feedback, previous)) = given.and_then(|given| given.review.as_ref()).or_else(of_loops) {
            if let Some(feedback) = feedback {
                said.insert("rejection_feedback".into(), json!(feedback));
            }
            said.insert("previous_output".into(), json!(previous));
        }
        if said.is_empty() {
            return;
        }
        match &mut input.additional_data {
            Some(Value::Object(data)) => data.extend(said),
            data => *data = Some(Value::Object(said)),
        }
    }

    /// What has to be answered before a node begins.
    pub(super) fn asks_first(&self, key: &Key, node: &Node, at: Timestamp) -> Option<Entry> {
        let review = node.review()?;
        let given = self.given(key);
        let is_router = matches!(node, Node::Router(_));
        if review.requires_confirmation && !given.is_some_and(|given| given.is_confirmed) {
            let question = Question {
                message: review.confirmation_message.clone(),
                ..self.question(key, node, QuestionKind::Confirmation, Some(review), at)
            };
            let event = EventKind::StepPaused {
                requires_confirmation: true,
                confirmation_message: question.message.clone(),
                requires_user_input: false,
                user_input_message: None,
                user_input_schema: None,
            };
            return Some(self.asks(key, event, question, at));
        }
        if !review.requires_user_input {
            return None;
        }
        if is_router && given.is_none_or(|given| given.verdict.is_none()) {
            let question = Question {
                message: review.user_input_message.clone(),
                choices: node.children(false).iter().map(|choice| choice.name().clone()).collect(),
                allows_several: review.allow_multiple_selections,
                ..self.question(key, node, QuestionKind::RouteSelection, Some(review), at)
            };
            let event = EventKind::RouterPaused {
                available_choices: question.choices.clone(),
                user_input_message: question.message.clone(),
                allow_multiple_selections: question.allows_several,
            };
            return Some(self.asks(key, event, question, at));
        }
        if !is_router && given.is_none_or(|given| given.input.is_none() && !given.is_confirmed) {
            let question = Question {
                message: review.user_input_message.clone(),
                fields: review.user_input_schema.clone(),
                ..self.question(key, node, QuestionKind::UserInput, Some(review), at)
            };
            let event = EventKind::StepPaused {
                requires_confirmation: false,
                confirmation_message: None,
                requires_user_input: true,
                user_input_message: question.message.clone(),
                user_input_schema: Some(question.fields.iter().map(|field| field.asked(None)).collect()),
            };
            return Some(self.asks(key, event, question, at));
        }
        None
    }

    /// The entry that has a step's output judged.
    pub(super) fn asks_about(
        &self,
        key: &Key,
        executed: &Executed,
        output: &Arc<StepOutput>,
        state: &Option<Value>,
        at: Timestamp,
    ) -> Option<Entry> {
        let node = self.node(key)?;
        let review = node.review().filter(|review| review.requires_output_review)?;
        let mut question = Question {
            message: review.output_review_message.clone(),
            output: Some(output.clone()),
            run: executed.run.clone(),
            state: state.clone(),
            ..self.question(key, node, QuestionKind::OutputReview, Some(review), at)
        };
        with_output(&mut question, output);
        Some(self.asks_for_review(key, question, at))
    }

    /// The entry that has a Loop's iteration judged, if it is to be and was not.
    pub(super) fn asks_about_iteration(
        &self,
        key: &Key,
        node: &Node,
        frame: &Frame,
        most: u32,
        at: Timestamp,
    ) -> Option<Entry> {
        let review = node.review().filter(|review| review.requires_iteration_review)?;
        let (own, name) = (frame.own(), node.name());
        let iteration = own.iteration;
        let is_judged = self.given(key).is_some_and(|given| given.iteration >= iteration);
        if iteration == 0 || is_judged {
            return None;
        }
        let told = format!("Loop {name} completed iteration {iteration}/{most}");
        let output = Arc::new(StepOutput {
            step_name: Some(name.clone()),
            step_id: own.origin.step_id.clone(),
            step_type: StepType::Loop,
            steps: own.rounds.iter().flatten().cloned().collect(),
            ..StepOutput::new(told)
        });
        let usual = || Arc::from(format!("Loop '{name}' completed iteration {iteration}/{most}. Continue?"));
        let mut question = Question {
            message: Some(review.iteration_review_message.clone().unwrap_or_else(usual)),
            output: Some(output.clone()),
            max_retries: None,
            ..self.question(key, node, QuestionKind::IterationReview, Some(review), at)
        };
        question.key = key.iteration(iteration).question(0);
        question.id = self.info.run_id.derive(question.key.as_str());
        with_output(&mut question, &output);
        Some(self.asks_for_review(key, question, at))
    }

    fn asks_for_review(&self, key: &Key, question: Question, at: Timestamp) -> Entry {
        let event = EventKind::StepOutputReview {
            output_review_message: question.message.clone(),
            requires_output_review: true,
        };
        self.asks(key, event, question, at)
    }

    /// The entry that asks what to do about a failure.
    pub(super) fn asks_after(&self, key: &Key, node: &Node, failure: &Failure, at: Timestamp) -> Entry {
        let content = format!("Step skipped due to error: {}", failure.message);
        let state = self.container(key).map(|_| self.state_of_branches(key)).filter(|state| !state.is_empty());
        let question = Question {
            message: Some(Arc::from(failure.message.as_str())),
            output: Some(Arc::new(self.failed_output(key, node, &content, failure))),
            failure: Some(Box::new(failure.clone())),
            state: state.map(Value::Object),
            retry_count: key.attempt_number() - 1,
            ..self.question(key, node, QuestionKind::Error, node.review(), at)
        };
        self.asks(key, EventKind::StepError { error: failure.message.clone() }, question, at)
    }

    /// The entry that asks what came of a step, which nobody knows.
    pub(super) fn asks_what_came(&self, key: &Key, node: &Node, failure: &Failure, at: Timestamp) -> Entry {
        let (executor_name, executor_type) = match node {
            Node::Step(step) => (step.executor_name.clone(), Some(step.executor_type)),
            _ => (node.name().clone(), None),
        };
        let origin = self.origin(key, node.name(), node.container().is_some());
        let output = StepOutput {
            step_name: Some(node.name().clone()),
            step_id: origin.step_id.clone(),
            step_type: node.kind(),
            executor_type,
            executor_name: executor_type.map(|_| executor_name.clone()),
            ..StepOutput::default()
        };
        let question = Question {
            message: Some(Arc::from(failure.message.as_str())),
            output: Some(Arc::new(output)),
            failure: Some(Box::new(failure.clone())),
            four_eyes: node.review().is_some_and(|review| review.four_eyes),
            ..self.question(key, node, QuestionKind::Outcome, None, at)
        };
        let event = EventKind::StepExecutorPaused {
            executor_id: None,
            executor_name,
            executor_run_id: None,
            executor_type: executor_type.unwrap_or(ExecutorKind::Function),
            executor_requirements: vec![question.requirement(None)],
        };
        self.asks(key, event, question, at)
    }

    /// What is asked from inside a step, by its function, or by an agent about the calls it wants to make; nothing when
    /// all of it has been asked before. The step is executed again once everything is answered.
    pub fn asked_inside(&mut self, key: &Key, questions: Vec<Question>, at: Timestamp) -> Vec<Entry> {
        if !self.parks(key) || questions.is_empty() {
            return Vec::new();
        }
        let Some(node) = self.node(key) else { return Vec::new() };
        let review = node.review();
        // A member asks for its team.
        let team = match node {
            Node::Step(step) if step.executor_type == ExecutorKind::Team => Some(AskingTeam {
                run_id: self.info.run_id.derive_run(key.speaker(ExecutorKind::Team.as_str()).as_str()).to_shared(),
                id: step.executor_id.clone().unwrap_or_default(),
                name: step.executor_name.clone(),
            }),
            _ => None,
        };
        let complete = |mut question: Question| {
            if let Some(tool) = &mut question.tool {
                tool.team = team.clone().filter(|team| team.run_id != tool.run_id);
            }
            let own = self.question(key, node, question.kind, review, at);
            let id = self.info.run_id.derive(question.key.as_str());
            Question {
                id,
                step_name: own.step_name,
                step_id: own.step_id,
                step_index: own.step_index,
                step_type: own.step_type,
                input: own.input,
                // What a second person must allow, nobody gets around inside.
                four_eyes: question.four_eyes || own.four_eyes,
                ..question
            }
        };
        let questions: Vec<Arc<Question>> =
            questions.into_iter().map(|question| Arc::new(complete(question))).collect();
        let tools: Vec<Value> =
            questions.iter().filter_map(|question| Some(question.tool.as_ref()?.requirement(question, None))).collect();
        let event = match questions.iter().find_map(|question| question.tool.as_ref()) {
            Some(tool) => EventKind::StepExecutorPaused {
                executor_id: Some(tool.executor().1.clone()),
                executor_name: tool.executor().2.clone(),
                executor_run_id: Some(tool.executor().0.clone()),
                executor_type: match node {
                    Node::Step(step) => step.executor_type,
                    _ => ExecutorKind::Function,
                },
                executor_requirements: tools,
            },
            None => {
                let first = questions.first();
                let asks_for_input = first.is_some_and(|question| question.kind == QuestionKind::UserInput);
                let message = first.and_then(|question| question.message.clone());
                EventKind::StepPaused {
                    requires_confirmation: !asks_for_input,
                    confirmation_message: message.clone().filter(|_| !asks_for_input),
                    requires_user_input: asks_for_input,
                    user_input_message: message.filter(|_| asks_for_input),
                    user_input_schema: first
                        .filter(|_| asks_for_input)
                        .map(|question| question.fields.iter().map(|field| field.asked(None)).collect()),
                }
            }
        };
        vec![self.asks_all(key, event, questions, at)]
    }

    /// The entry that asks whether to go on with a definition that has changed.
    pub(super) fn question_of_definition(&self, reason: &str, next_index: u64) -> Question {
        let name = self.nodes.get(self.at()).map_or_else(|| Arc::from(""), |node| node.name().clone());
        Question {
            message: Some(Arc::from(reason)),
            failure: Some(Box::new(Failure::new(FailureKind::Definition, reason))),
            kind: QuestionKind::Definition,
            step_name: name,
            step_index: self.root.at,
            ..self.bare(&Key::run().word("definition").question(u32::try_from(next_index).unwrap_or(u32::MAX)))
        }
    }

    fn bare(&self, key: &Key) -> Question {
        Question { id: self.info.run_id.derive(key.as_str()), key: key.clone(), ..Question::default() }
    }

    /// What every question of a node says.
    fn question(
        &self,
        key: &Key,
        node: &Node,
        kind: QuestionKind,
        review: Option<&Arc<HumanReview>>,
        at: Timestamp,
    ) -> Question {
        let origin = self.origin(key, node.name(), node.container().is_some());
        let given = self.given(key);
        let is_step = node.kind() == StepType::Step;
        let usual = is_step.then_some(HumanReview::MAX_RETRIES);
        Question {
            kind,
            step_name: node.name().clone(),
            step_id: origin.step_id.unwrap_or_else(|| Arc::from("")),
            step_index: match origin.step_index {
                Some(StepIndex::At(at)) => at,
                Some(StepIndex::Inside(places)) => places.first().copied().unwrap_or_default(),
                None => 0,
            },
            step_type: node.kind(),
            on_reject: review.map_or_else(Default::default, |review| review.on_reject_at(node)),
            on_timeout: review.map_or_else(Default::default, |review| review.on_timeout),
            four_eyes: review.is_some_and(|review| review.four_eyes),
            due_at: review.and_then(|review| review.timeout_ms).map(|limit| at + Duration::from_millis(limit)),
            retry_count: given.map_or(0, |given| given.refused),
            max_retries: review.and_then(|review| review.max_retries).or(usual),
            input: Some(Arc::new(self.step_input(key))),
            ..self.bare(&key.question(given.map_or(0, |given| given.asked)))
        }
    }

    fn asks(&self, key: &Key, event: EventKind, question: Question, at: Timestamp) -> Entry {
        self.asks_all(key, event, vec![Arc::new(question)], at)
    }

    fn asks_all(&self, key: &Key, event: EventKind, questions: Vec<Arc<Question>>, at: Timestamp) -> Entry {
        let name = self.node(key).map_or_else(|| Arc::from(""), |node| node.name().clone());
        let origin = self.origin(key, &name, self.node(key).is_some_and(|node| node.container().is_some()));
        let event = RunEvent { created_at: at.as_seconds(), kind: event, origin, event_index: None };
        Entry::recorded(event, Record::Waiting { key: key.clone(), questions, at })
    }

    /// The entries that follow from an answer; none when it is not open.
    pub fn answer(&self, key: &Key, answered: &Answered) -> Vec<Entry> {
        let Some((node, place)) = self.find_question(key) else { return Vec::new() };
        let node = &node;
        let Some(open) = self.people.as_ref().and_then(|people| people.waiting.get(node)) else { return Vec::new() };
        let (question, is_last) = (&open[place], open.len() == 1);
        let of_node = self.node(node);
        let origin = match of_node {
            Some(found) => self.origin(node, found.name(), found.container().is_some()),
            None => Origin::workflow(&self.info),
        };
        let event =
            |kind| RunEvent { created_at: answered.at.as_seconds(), kind, origin: origin.clone(), event_index: None };
        let mut say = vec![entry_of(question, answered, origin.clone())];
        let goes_on = matches!(
            question.effect(&answered.answer),
            Effect::GoesOn | Effect::Again | Effect::AskedAgain | Effect::Decided(Verdict::Is(true))
        );
        let Some(found) = of_node.filter(|_| goes_on) else { return say };
        match (question.tool.is_some(), found) {
            (true, Node::Step(step)) if is_last => say.push(Entry::event(event(EventKind::StepExecutorContinued {
                executor_name: step.executor_name.clone(),
                executor_type: step.executor_type,
            }))),
            (true, _) => {}
            (false, _) => say.push(Entry::event(event(EventKind::StepContinued))),
        }
        say
    }

    /// The entry that keeps an answer of a run that cannot be folded now: what follows from it follows once it can.
    pub fn keep(&self, question: &Question, answered: &Answered) -> Entry {
        entry_of(question, answered, Origin::workflow(&self.info))
    }

    /// Whether a person is asked what to do about a failure of this node.
    pub(super) fn asks_on_error(node: &Node) -> bool {
        node.on_error() == OnError::Pause
    }
}

/// Why an output was refused, and what that was.
fn refusal(question: &Question, answer: &Answer) -> (Option<String>, Option<Value>) {
    let feedback = match answer {
        Answer::Reject { feedback } => feedback.clone(),
        _ => None,
    };
    (feedback, question.judged().and_then(|output| output.content.clone()))
}

/// The entry that says what somebody answered.
fn entry_of(question: &Question, answered: &Answered, origin: Origin) -> Entry {
    let mut fields = Map::new();
    fields.insert("name".into(), json!(Follows::EVENT));
    fields.insert("question_id".into(), json!(question.id));
    fields.insert("kind".into(), json!(question.kind));
    fields.insert("answer".into(), json!(answered.answer));
    fields.insert("by".into(), json!(answered.by));
    fields.insert("follows".into(), json!(question.follows(&answered.answer)));
    let kind = EventKind::CustomEvent { fields };
    let event = RunEvent { created_at: answered.at.as_seconds(), kind, origin, event_index: None };
    Entry::recorded(event, Record::Answered { key: question.key.clone(), answered: answered.clone() })
}

/// The output that is judged stands among those that came before, as Agno's clients expect.
fn with_output(question: &mut Question, output: &Arc<StepOutput>) {
    if let (Some(input), Some(name)) = (&mut question.input, &output.step_name) {
        Arc::make_mut(input).previous_step_outputs.insert_mut(name.clone(), output.clone());
    }
}
