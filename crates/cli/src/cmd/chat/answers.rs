//! Answers as people type them at a prompt: `yes`, `no, too long`, a choice, one field after the other.
//!
//! It must never give an answer. The invariant: only what the question says may be answered comes of it.

use super::super::answer::{field, output, result};
use super::super::questions::{field_line, field_names, headline};
use crate::style;
use outlive::client::QuestionSummary;
use outlive::core::{Answer, content_text};
use serde_json::{Map, Value};

/// How much of an output is shown that is to be judged.
const OUTPUT_CHARS: usize = 4_000;

/// What a line has come to.
#[derive(Debug)]
pub(super) enum Said {
    Answer(Answer),
    /// Another field is to be filled in.
    More,
}

/// What is asked, and what may be typed.
pub(super) fn told(question: &QuestionSummary) -> String {
    let mut lines = vec![headline(question)];
    if let Some(tool) = &question.tool {
        lines.push(format!("  {} {}", style::line(&tool.name, 128), style::line(&tool.arguments.to_string(), 2_000)));
    }
    if let Some(judged) = &question.output {
        let text: String = style::clean(&content_text(Some(judged))).chars().take(OUTPUT_CHARS).collect();
        lines.extend(text.lines().map(|line| format!("  | {line}")));
    }
    for (place, choice) in question.choices.iter().enumerate() {
        lines.push(format!("  {}. {}", place + 1, style::line(choice, 200)));
    }
    let words: Vec<_> = question.answers.iter().filter_map(|answer| words(answer, question)).collect();
    lines.push(format!("  Answer with {}; /later leaves it open", words.join(", ")));
    lines.join("\n")
}

/// What to type for an answer of this kind.
fn words(answer: &str, question: &QuestionSummary) -> Option<&'static str> {
    Some(match answer {
        "approve" => "yes",
        "reject" => "no, or no and why",
        "input" => "the fields below",
        "edit" => "edit and other words",
        "choose" if question.allows_several => "names or numbers with commas between them",
        "choose" => "a name or a number",
        "retry" => "retry",
        "skip" => "skip",
        "result" => "result and what came of it",
        // A newer version's.
        _ => return None,
    })
}

/// An answer that is being typed.
pub(super) struct Filled<'a> {
    question: &'a QuestionSummary,
    values: Map<String, Value>,
    /// The fields that are still to be filled in, the next one last.
    fields: Vec<&'a str>,
}

impl<'a> Filled<'a> {
    pub(super) fn new(question: &'a QuestionSummary) -> Self {
        let takes_input = question.answers.iter().any(|answer| answer == "input");
        let schema = question.schema.as_ref().filter(|_| takes_input);
        let mut fields = schema.map(field_names).unwrap_or_default();
        fields.reverse();
        Self { question, values: Map::new(), fields }
    }

    /// What to ask next, if it is a field.
    pub(super) fn next(&self) -> Option<String> {
        let name = self.fields.last()?;
        let optional = if self.is_optional(name) { "; - leaves it out" } else { "" };
        Some(format!("  {}{optional}", field_line(name, self.question.schema.as_ref()?)))
    }

    fn is_optional(&self, name: &str) -> bool {
        let required = self.question.schema.as_ref().and_then(|schema| schema["required"].as_array());
        !required.is_some_and(|names| names.iter().any(|required| required == name))
    }

    fn may(&self, answer: &str) -> bool {
        self.question.answers.iter().any(|known| known == answer)
    }

    /// Takes a line.
    ///
    /// # Errors
    /// Why it is no answer, in words.
    pub(super) fn take(&mut self, typed: &str) -> Result<Said, String> {
        let (first, rest) = typed.split_once([' ', ',', ':']).unwrap_or((typed, ""));
        let rest = rest.trim_start_matches([' ', ',', ':']).trim();
        let answer = match first.to_lowercase().as_str() {
            // Fields are filled in as they are.
            _ if !self.fields.is_empty() && !self.declines(first) => return self.fill(typed),
            "yes" | "y" | "ok" | "approve" if self.may("approve") && rest.is_empty() => Answer::Approve,
            "no" | "n" | "reject" if self.may("reject") => {
                Answer::Reject { feedback: Some(rest.to_owned()).filter(|rest| !rest.is_empty()) }
            }
            "retry" if self.may("retry") && rest.is_empty() => Answer::Retry,
            "skip" if self.may("skip") && rest.is_empty() => Answer::Skip,
            "edit" if self.may("edit") && !rest.is_empty() => {
                let edited = output(self.question, rest).map_err(|problem| problem.message().to_owned())?;
                Answer::Edit { output: edited }
            }
            "result" if self.may("result") && !rest.is_empty() => {
                let result = result(rest.to_owned()).map_err(|problem| problem.message().to_owned())?;
                Answer::Result { result }
            }
            _ if self.may("choose") => self.chosen(typed)?,
            _ => {
                let words: Vec<_> = self.question.answers.iter().filter_map(|one| words(one, self.question)).collect();
                return Err(format!("That is not an answer here: it takes {}", words.join(", ")));
            }
        };
        Ok(Said::Answer(answer))
    }

    /// Whether a word declines what is asked before any field is filled in.
    fn declines(&self, first: &str) -> bool {
        self.values.is_empty() && matches!(first.to_lowercase().as_str(), "no" | "reject") && self.may("reject")
    }

    fn fill(&mut self, typed: &str) -> Result<Said, String> {
        if let Some(name) = self.fields.last().copied() {
            if typed != "-" || !self.is_optional(name) {
                let value = field(self.question, name, typed).map_err(|problem| problem.message().to_owned())?;
                self.values.insert(name.to_owned(), value);
            }
            self.fields.pop();
        }
        match self.fields.is_empty() {
            true => Ok(Said::Answer(Answer::Input { values: std::mem::take(&mut self.values) })),
            false => Ok(Said::More),
        }
    }

    fn chosen(&self, typed: &str) -> Result<Answer, String> {
        let known = &self.question.choices;
        let meant = |word: &str| {
            let by_number = word.parse::<usize>().ok().and_then(|place| known.get(place.checked_sub(1)?));
            let by_name = known.iter().find(|choice| choice.eq_ignore_ascii_case(word));
            let wrong = || format!("{word:?} is none of the choices{}", meant_choice(word, known));
            by_name.or(by_number).cloned().ok_or_else(wrong)
        };
        // A name may have a comma itself.
        let whole = known.iter().find(|choice| choice.eq_ignore_ascii_case(typed));
        let words: Vec<_> = match whole {
            Some(choice) => vec![choice.as_str()],
            None => typed.split(',').map(str::trim).filter(|word| !word.is_empty()).collect(),
        };
        if words.len() > 1 && !self.question.allows_several {
            return Err("Choose one".to_owned());
        }
        Ok(Answer::choose(words.into_iter().map(meant).collect::<Result<Vec<_>, _>>()?))
    }
}

/// `: did you mean "Post"?`, if one is near.
fn meant_choice(word: &str, known: &[String]) -> String {
    let distance = |choice: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &choice.to_lowercase());
    match known.iter().map(|choice| (distance(choice), choice)).min() {
        Some((far, choice)) if far <= 3.min(word.chars().count() / 2) => format!(": did you mean {choice:?}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn question(kind: &str, answers: &[&str], more: Value) -> QuestionSummary {
        let mut shape = json!({
            "question_id": "q", "run_id": "r", "workflow_id": "w", "session_id": "s", "state": "open", "kind": kind,
            "answers": answers, "step_name": "Step", "asked_at": "2026-11-27T12:00:00Z",
        });
        shape.as_object_mut().into_iter().for_each(|shape| shape.extend(more.as_object().cloned().unwrap_or_default()));
        serde_json::from_value(shape).expect("it is a question")
    }

    /// What these lines come to.
    fn answered(question: &QuestionSummary, lines: &[&str]) -> Result<Option<Answer>, String> {
        let mut filled = Filled::new(question);
        for line in lines {
            match filled.take(line)? {
                Said::Answer(answer) => return Ok(Some(answer)),
                Said::More => {}
            }
        }
        Ok(None)
    }

    #[test]
    fn a_yes_and_a_no_with_a_reason() {
        let asked = question("confirmation", &["approve", "reject"], json!({}));
        for yes in ["yes", "Y", "ok", "approve"] {
            assert_eq!(answered(&asked, &[yes]), Ok(Some(Answer::Approve)), "{yes}");
        }
        assert_eq!(answered(&asked, &["no"]), Ok(Some(Answer::Reject { feedback: None })));
        for no in ["no, too long", "n too long", "reject: too long"] {
            assert_eq!(answered(&asked, &[no]), Ok(Some(Answer::reject("too long"))), "{no}");
        }
        for other in ["yes but not today", "perhaps", "retry", "edit x"] {
            let why = answered(&asked, &[other]).expect_err(other);
            assert!(why.contains("it takes yes, no, or no and why"), "{why}");
        }
    }

    #[test]
    fn choices_go_by_name_or_number() {
        let one = question("selection", &["choose"], json!({ "choices": ["Post", "Article, long"] }));
        assert_eq!(answered(&one, &["post"]), Ok(Some(Answer::choose(["Post"]))));
        assert_eq!(answered(&one, &["2"]), Ok(Some(Answer::choose(["Article, long"]))));
        assert_eq!(answered(&one, &["article, long"]), Ok(Some(Answer::choose(["Article, long"]))));
        assert_eq!(answered(&one, &["1, 2"]), Err("Choose one".to_owned()));
        assert_eq!(
            answered(&one, &["Psot"]),
            Err("\"Psot\" is none of the choices: did you mean \"Post\"?".to_owned())
        );
        assert!(answered(&one, &["0"]).is_err() && answered(&one, &["3"]).is_err());
        let more = json!({ "choices": ["A", "B", "C"], "allows_several": true });
        let several = question("selection", &["choose"], more);
        assert_eq!(answered(&several, &["c, 1"]), Ok(Some(Answer::choose(["C", "A"]))));
    }

    #[test]
    fn fields_are_filled_in_one_after_the_other() {
        let schema = json!({
            "type": "object",
            "required": ["a", "b"],
            "properties": { "a": { "type": "string" }, "b": { "type": "integer" }, "c": { "type": "boolean" } },
        });
        let asked = question("user_input", &["input", "reject"], json!({ "schema": schema }));
        let values = json!({ "a": "yes", "b": 3 });
        let expected = Answer::Input { values: values.as_object().cloned().unwrap_or_default() };
        assert_eq!(answered(&asked, &["yes", "3", "-"]), Ok(Some(expected)));
        assert_eq!(answered(&asked, &["yes", "3"]), Ok(None), "the last one may be left out, and is asked for");
        let why = answered(&asked, &["yes", "three"]).expect_err("it is no number");
        assert!(why.contains("field b takes JSON of the type integer"), "{why}");
        assert_eq!(answered(&asked, &["no, thanks"]), Ok(Some(Answer::reject("thanks"))));
    }

    #[test]
    fn failures_are_tried_again_left_out_or_have_a_result() {
        let asked = question("outcome", &["retry", "skip", "result"], json!({}));
        assert_eq!(answered(&asked, &["retry"]), Ok(Some(Answer::Retry)));
        assert_eq!(answered(&asked, &["skip"]), Ok(Some(Answer::Skip)));
        assert_eq!(
            answered(&asked, &["result {\"sum\": 3}"]),
            Ok(Some(Answer::Result { result: json!({ "sum": 3 }) }))
        );
        assert!(answered(&asked, &["result"]).is_err());
        let judged = question("output_review", &["approve", "reject", "edit"], json!({ "output": "draft" }));
        assert_eq!(answered(&judged, &["edit Better: so"]), Ok(Some(Answer::Edit { output: json!("Better: so") })));
        assert!(told(&judged).contains("  | draft"), "{}", told(&judged));
    }
}
