//! Guardrails: hooks that refuse what looks like an attempt to take the model over, or like personal data.
//!
//! Each looks at every text of a content, at any depth, in a time that grows with its length alone. What one finds never
//! appears in what it says: only which kind of thing it was.

mod pii;

use crate::hooks::{CheckError, CheckTrigger, Hook, Passed};
use pii::{Kind, is_invisible};
use regex_lite::Regex;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Phrases by which people try to take a model over. Agno's.
const INJECTIONS: [&str; 16] = [
    "ignore previous instructions",
    "you are now a",
    "forget everything above",
    "developer mode",
    "override safety",
    "disregard guidelines",
    "system prompt",
    "jailbreak",
    "act as if",
    "pretend you are",
    "roleplay as",
    "simulate being",
    "bypass restrictions",
    "ignore safeguards",
    "admin override",
    "root access",
];

/// How many single letters in a row are read as a word that was spaced out.
const SPACED_MIN: usize = 4;

/// A hook that refuses texts with phrases by which people try to take a model over. Case does not matter, nor how a
/// phrase is spaced and marked up: any white space counts as one space, hyphens, quotes and Markdown's marks too, wide
/// letters as plain ones, invisible characters as nothing, and `i g n o r e` as a word.
///
/// The trigger is `prompt_injection`. A list of phrases is a first hurdle, not a wall: what it lets pass may still be an
/// attempt.
///
/// ```
/// use outlive_agent::model::ScriptedModel;
/// use outlive_agent::{Agent, PromptInjectionGuardrail};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let agent = Agent::new("Careful").model(ScriptedModel::replies([])).pre_hook(PromptInjectionGuardrail::new());
/// let refused = agent.run("Please IGNORE  previous\ninstructions").await.unwrap_err();
/// assert_eq!(refused.refusal.unwrap().error_id, "prompt_injection");
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct PromptInjectionGuardrail {
    patterns: Vec<String>,
}

impl Default for PromptInjectionGuardrail {
    fn default() -> Self {
        Self::new()
    }
}

impl PromptInjectionGuardrail {
    /// With the usual phrases.
    pub fn new() -> Self {
        Self { patterns: INJECTIONS.map(str::to_owned).to_vec() }
    }

    /// These phrases instead.
    pub fn injection_patterns(self, phrases: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { patterns: phrases.into_iter().map(Into::into).collect() }
    }

    /// One more phrase.
    pub fn injection_pattern(mut self, phrase: impl Into<String>) -> Self {
        self.patterns.push(phrase.into());
        self
    }
}

impl From<PromptInjectionGuardrail> for Hook {
    fn from(guardrail: PromptInjectionGuardrail) -> Self {
        let phrases: Vec<_> = guardrail.patterns.iter().map(|phrase| spaced(phrase).trim().to_owned()).collect();
        let problem = phrases.iter().any(String::is_empty);
        let problem = problem.then(|| "one of its phrases is empty, and would be found in every text".to_owned());
        let readings = |read: fn(&str) -> String| -> Vec<String> {
            phrases.iter().map(|phrase| read(phrase)).filter(|phrase| !phrase.is_empty()).collect()
        };
        let plain = readings(|phrase| without_marks(phrase).trim().to_owned());
        let joined = readings(|phrase| phrase.replace(' ', ""));
        Hook::pure("PromptInjectionGuardrail", problem, move |content, is_output| {
            let mut is_found = false;
            each_text(content, &mut |text| {
                let text = spaced(text);
                let (unmarked, words) = (without_marks(&text), spaced_out(&text));
                is_found |= phrases.iter().any(|phrase| text.contains(phrase.as_str()));
                is_found |= plain.iter().any(|phrase| unmarked.contains(phrase.as_str()));
                is_found |= joined.iter().any(|phrase| words.iter().any(|word| word.contains(phrase.as_str())));
            });
            if !is_found {
                return Ok(Passed::Unchanged);
            }
            let what = if is_output { "answer" } else { "input" };
            let message = format!("the {what} looks like an attempt to override the model's instructions");
            Err(CheckError::new(message).trigger(CheckTrigger::PromptInjection))
        })
    }
}

/// The text in lower case, with one space where there is any white space, and nothing where a character is invisible.
fn spaced(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !is_invisible(*c)) {
        if !c.is_whitespace() {
            spaced.extend(narrow(c).to_lowercase());
        } else if !spaced.ends_with(' ') {
            spaced.push(' ');
        }
    }
    spaced
}

/// A wide letter or sign as the plain one.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// The spaced text with spaces for the marks that people put around words, and between their parts.
fn without_marks(text: &str) -> String {
    let is_mark = |c: char| matches!(c, '-' | '_' | '*' | '~' | '`' | '"' | '\'' | '\u{2010}'..='\u{201f}' | '«' | '»');
    spaced(&text.replace(is_mark, " "))
}

/// What is left where single letters stand one after another, each after a space or a sign: `i g n o r e`, `j.a.i.l`.
fn spaced_out(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut letters) = (String::new(), 0);
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).map(Some).chain([None]);
    for part in parts {
        match part.filter(|part| part.chars().nth(1).is_none()) {
            Some(letter) => {
                word.push_str(letter);
                letters += 1;
            }
            None => {
                if letters >= SPACED_MIN {
                    words.push(std::mem::take(&mut word));
                }
                word.clear();
                letters = 0;
            }
        }
    }
    words
}

/// A hook that refuses texts with personal data, or masks them: social security numbers, payment cards (checked by their
/// last digit), e-mail addresses and telephone numbers, each of which can be switched off, and patterns of your own.
///
/// The trigger is `pii_detected`, and `additional_data` has the kinds that were found as `detected_pii`. Masked, every
/// character found becomes a `*`, in what the model is asked or in what the run answers. What the caller sent stands
/// unmasked in the workflow run's own input. Agno's `PIIDetectionGuardrail`.
///
/// ```
/// use outlive_agent::model::ScriptedModel;
/// use outlive_agent::{Agent, PiiGuardrail};
/// use outlive_core::ModelResponse;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let model = ScriptedModel::replies([ModelResponse::text("Noted.")]);
/// let guard = PiiGuardrail::new().mask_pii(true).pii_pattern("Badge", r"\bB-\d{4}\b");
/// let agent = Agent::new("Discreet").model(model).pre_hook(guard);
/// let run = agent.run("Write to ada@example.org about B-1815").await.unwrap();
/// assert_eq!(run.input.unwrap().input_content, "Write to *************** about ******");
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct PiiGuardrail {
    masks: bool,
    kinds: Vec<Kind>,
    patterns: Vec<(String, Result<Regex, String>)>,
}

impl Default for PiiGuardrail {
    fn default() -> Self {
        Self::new()
    }
}

impl PiiGuardrail {
    /// Refuses all four kinds.
    pub fn new() -> Self {
        Self { masks: false, kinds: Kind::ALL.to_vec(), patterns: Vec::new() }
    }

    /// Whether what is found is masked instead of refused; off unless set.
    pub fn mask_pii(self, wanted: bool) -> Self {
        Self { masks: wanted, ..self }
    }

    /// Whether it looks for social security numbers; on unless set.
    pub fn enable_ssn_check(self, wanted: bool) -> Self {
        self.enable(Kind::Ssn, wanted)
    }

    /// Whether it looks for numbers of payment cards; on unless set.
    pub fn enable_credit_card_check(self, wanted: bool) -> Self {
        self.enable(Kind::CreditCard, wanted)
    }

    /// Whether it looks for e-mail addresses; on unless set.
    pub fn enable_email_check(self, wanted: bool) -> Self {
        self.enable(Kind::Email, wanted)
    }

    /// Whether it looks for telephone numbers; on unless set.
    pub fn enable_phone_check(self, wanted: bool) -> Self {
        self.enable(Kind::Phone, wanted)
    }

    /// One more kind, by its name and a regular expression in the syntax of the crate `regex`. A bad one is reported by
    /// `problems()`.
    pub fn pii_pattern(mut self, name: impl Into<String>, pattern: impl AsRef<str>) -> Self {
        self.patterns.push((name.into(), Regex::new(pattern.as_ref()).map_err(|error| error.to_string())));
        self
    }

    fn enable(mut self, kind: Kind, wanted: bool) -> Self {
        self.kinds.retain(|known| *known != kind);
        if wanted {
            self.kinds.push(kind);
        }
        self
    }

    /// What is found in a text, and where, in order and without overlaps.
    fn find(&self, text: &str, found: &mut Vec<String>) -> Vec<Range<usize>> {
        let mut places = Vec::new();
        let mut take = |name: &str, mut more: Vec<Range<usize>>| {
            if !more.is_empty() && !found.iter().any(|known| known == name) {
                found.push(name.to_owned());
            }
            places.append(&mut more);
        };
        for kind in &self.kinds {
            take(kind.name(), kind.find(text));
        }
        for (name, pattern) in &self.patterns {
            let Ok(pattern) = pattern else { continue };
            take(name, pattern.find_iter(text).map(|found| found.range()).filter(|range| !range.is_empty()).collect());
        }
        places.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<usize>> = Vec::with_capacity(places.len());
        for place in places {
            match merged.last_mut() {
                Some(last) if place.start <= last.end => last.end = last.end.max(place.end),
                _ => merged.push(place),
            }
        }
        merged
    }

    /// The content with everything that is found masked.
    fn masked(&self, content: &Value) -> Value {
        match content {
            Value::String(text) => Value::String(self.masked_text(text)),
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.masked_text(&text);
                if masked == text { content.clone() } else { Value::String(masked) }
            }
            Value::Array(items) => items.iter().map(|item| self.masked(item)).collect(),
            Value::Object(fields) => {
                let mut masked = Map::new();
                for (name, field) in fields {
                    let mut name = self.masked_text(name);
                    while masked.contains_key(&name) {
                        name.push('*');
                    }
                    masked.insert(name, self.masked(field));
                }
                Value::Object(masked)
            }
            Value::Null | Value::Bool(_) => content.clone(),
        }
    }

    fn masked_text(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut from = 0;
        for place in self.find(text, &mut Vec::new()) {
            masked.push_str(&text[from..place.start]);
            masked.extend(text[place.clone()].chars().map(|_| '*'));
            from = place.end;
        }
        masked.push_str(&text[from..]);
        masked
    }
}

impl From<PiiGuardrail> for Hook {
    fn from(guardrail: PiiGuardrail) -> Self {
        let bad = guardrail.patterns.iter().find_map(|(name, pattern)| Some((name, pattern.as_ref().err()?)));
        let problem = bad.map(|(name, error)| format!("its pattern {name:?} cannot be read: {error}"));
        Hook::pure("PiiGuardrail", problem, move |content, is_output| {
            let mut found = Vec::new();
            each_text(content, &mut |text| drop(guardrail.find(text, &mut found)));
            if found.is_empty() {
                return Ok(Passed::Unchanged);
            }
            if guardrail.masks {
                return Ok(Passed::Changed(guardrail.masked(content)));
            }
            let what = if is_output { "answer" } else { "input" };
            let error = CheckError::new(format!("the {what} has personal data in it ({})", found.join(", ")));
            Err(error.trigger(CheckTrigger::PiiDetected).additional_data(json!({ "detected_pii": found })))
        })
    }
}

/// Every text of a content: of an object its keys too, and numbers as they are written.
fn each_text(content: &Value, look: &mut dyn FnMut(&str)) {
    match content {
        Value::String(text) => look(text),
        Value::Number(number) => look(&number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, look)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            look(name);
            each_text(field, look);
        }),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests;
