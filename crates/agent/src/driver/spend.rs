//! What a turn of the model may use: reserved before it leaves, settled when it has ended. Where a budget has too little
//! left, people are asked.
//!
//! It must never know what is left of a budget. Invariant: what was asked about a turn is found again by its number, so a
//! replay asks the same and goes by the same answers.

use super::{Chosen, Drive, halted, read};
use outlive_core::port::{Recall, Refused, Reservation};
use outlive_core::{
    Answer, EventKind, Failure, FailureKind, Key, Message, ModelResponse, Over, Question, Record, Spend, Spending,
    Usage,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tokens that an answer may have of a model that was given no limit.
const ANSWER_UNKNOWN: u64 = 4096;
/// Bytes of text that make a token, at least.
const TOKEN_BYTES: u64 = 3;
/// Tokens around each message.
const MESSAGE_TOKENS: u64 = 8;
/// Tokens of an image or a file.
const MEDIA_TOKENS: u64 = 2000;

/// What is written down about one call of a model.
pub(super) struct Tab {
    key: Key,
    model: String,
    /// What it may use at most.
    spend: Spend,
    /// Budgets that do not hold it up: people have said so.
    forced: BTreeSet<Arc<str>>,
    /// How often people were asked about it, and one more.
    asks: u32,
}

impl Drive<'_> {
    /// What its run may use, where that is limited.
    fn limited(&self) -> Option<&Spending> {
        self.effects().spending().map(|spending| &**spending).filter(|spending| !spending.budgets.is_empty())
    }

    /// What is to be written down about a call; nothing where nothing is limited.
    pub(super) fn tab(&self, chosen: &Chosen, key: &Key) -> Option<Box<Tab>> {
        let spending = self.limited()?;
        let (input_tokens, output_tokens) = (self.prompt_tokens(), answer_tokens(chosen));
        // At most, the provider puts all of the prompt into its cache.
        let usage = Usage { input_tokens, output_tokens, cache_write_tokens: input_tokens, ..Usage::default() };
        let spend = spending.of_call(&chosen.info.model, usage);
        let model = chosen.info.model.clone();
        Some(Box::new(Tab { key: key.clone(), model, spend, forced: BTreeSet::new(), asks: 1 }))
    }

    /// How many tokens a call may have, prompt and answer together.
    pub(super) fn call_tokens(&self, chosen: &Chosen) -> u64 {
        self.prompt_tokens().saturating_add(answer_tokens(chosen))
    }

    /// How many tokens the prompt has, or somewhat more.
    fn prompt_tokens(&self) -> u64 {
        let text = |message: &Message| {
            let calls = message.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
            message.content.as_ref().map_or(0, String::len) + calls.sum::<usize>()
        };
        let messages = self.machine.messages();
        let json = |value: serde_json::Result<String>| value.map_or(0, |text| text.len());
        let tools: usize = self.offered().iter().map(|tool| json(serde_json::to_string(tool))).sum();
        let shape = self.profile.output.as_ref().map_or(0, |shape| json(serde_json::to_string(&shape.schema)));
        let bytes = messages.iter().map(text).sum::<usize>() + tools + shape;
        let media: usize = messages.iter().map(|message| message.images.len() + message.files.len()).sum();
        (bytes as u64).div_ceil(TOKEN_BYTES) + messages.len() as u64 * MESSAGE_TOKENS + media as u64 * MEDIA_TOKENS
    }

    /// Reserves what a call may use, and tells that it leaves. Asks people where there is too little.
    ///
    /// # Errors
    /// What a person did not allow, in the words of the budget; or that the run may not go on here.
    pub(super) async fn reserve(&self, tab: &mut Tab, told: EventKind) -> Result<(), Failure> {
        loop {
            let question = tab.key.question(tab.asks);
            let key = question.word("over");
            // What an earlier process found is what is asked, whatever is left by now.
            let over = match self.effects().recall(&key) {
                Recall::Done(value) => read(&key, &value)?,
                _ => {
                    let call = Reservation {
                        key: tab.key.clone(),
                        spend: tab.spend,
                        forced: tab.forced.clone(),
                        told: told.clone(),
                        over: key,
                        origin: self.origin.clone(),
                    };
                    match self.effects().reserve(call).await {
                        Ok(()) => return Ok(()),
                        Err(Refused::Halted(halt)) => return Err(halted(halt)),
                        Err(Refused::Over(over)) => *over,
                    }
                }
            };
            self.ask_for_more(tab, question, over).await?;
            tab.asks += 1;
        }
    }

    async fn ask_for_more(&self, tab: &mut Tab, key: Key, over: Over) -> Result<(), Failure> {
        let who = format!("{}, model {}", self.profile.title(), tab.model);
        let name = over.name.clone();
        let question = Question {
            id: self.place.root.derive(key.as_str()),
            ..Question::of_budget(key.clone(), &who, over.clone())
        };
        let answers = self.caller.ask(vec![(question.clone(), None)], None).await?;
        let Some(answered) = answers.into_iter().next() else { return Ok(()) };
        match (question.raise(&answered.answer), &answered.answer) {
            (Some(amount), _) => {
                let key = key.word("raised");
                if matches!(self.effects().recall(&key), Recall::Nothing) {
                    let fields = json!({
                        "name": "BudgetRaised",
                        "budget": over.budget,
                        "unit": over.unit,
                        "by": over.unit.number(amount),
                    });
                    let fields = fields.as_object().cloned().unwrap_or_default();
                    self.effects().raise(&name, amount);
                    self.tell(EventKind::CustomEvent { fields }, Some(Record::Said { key }));
                }
            }
            (None, Answer::Reject { feedback }) => {
                let by = answered.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
                let note = feedback.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
                let message = format!("model {}: {over}; it was not allowed{by}{note}", tab.model);
                return Err(Failure::new(FailureKind::Budget, message));
            }
            (None, _) => drop(tab.forced.insert(name)),
        }
        Ok(())
    }

    /// What is told when a call leaves that had begun before.
    pub(super) fn reserved_again(chosen: &Chosen) -> EventKind {
        let fields = json!({ "name": "BudgetReserved", "model": chosen.info.model });
        EventKind::CustomEvent { fields: fields.as_object().cloned().unwrap_or_default() }
    }

    /// A call has been answered: what it used is known, unless its server has not said so.
    pub(super) fn settle(&self, chosen: &Chosen, tab: Option<&Tab>, response: &mut ModelResponse) {
        let Some(spending) = self.effects().spending() else { return };
        let model = &chosen.info.model;
        let is_counted = response.usage != Usage::default();
        if is_counted {
            response.cost = spending.cost(model, response.usage).map(|nanos| nanos as f64 / 1e9);
        }
        if let Some(tab) = tab {
            let spent = if is_counted { spending.of_call(model, response.usage) } else { tab.spend };
            self.effects().settle(&tab.key, spent);
        }
    }

    /// A call has failed for good: what it may have used stays spent, unless its server did nothing.
    pub(super) fn unsettled(&self, tab: Option<&Tab>, failure: &Failure) {
        if let Some(tab) = tab.filter(|_| !may_have_cost(failure)) {
            self.effects().settle(&tab.key, Spend::default());
        }
    }
}

/// How many tokens an answer may have.
fn answer_tokens(chosen: &Chosen) -> u64 {
    chosen.model.max_output_tokens().unwrap_or(ANSWER_UNKNOWN)
}

/// Whether a server may have answered, and counts it, although nobody has the answer.
pub(super) fn may_have_cost(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Timeout | FailureKind::Truncated | FailureKind::BadResponse)
}
