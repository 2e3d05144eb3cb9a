//! What stands where it must not: secrets in clear, and variables where nothing replaces them.
//!
//! A secret is known by its look, or by what it is called. It must never show what it has found.

use super::{At, Misread, What, yaml};
use outlive_agent::model::{holds_secret, is_secret_name};
use outlive_core::Redactor;

/// What stands where it must not in a text that was read as this: secrets, and variables where nothing replaces them.
pub(in crate::file) fn out_of_place(node: &yaml::Node, text: &str) -> Vec<Misread> {
    let mut looking = Looking { redactor: Redactor::new([]), path: Vec::new(), found: Vec::new() };
    looking.look(node);
    // What is behind a # is stored too.
    for (number, line) in text.lines().enumerate() {
        if let Some((column, _)) = comment(line).filter(|(_, comment)| looking.is_secret(comment)) {
            looking.secret(At { line: number + 1, column });
        }
    }
    looking.found
}

struct Looking<'a> {
    redactor: Redactor,
    path: Vec<&'a str>,
    found: Vec<Misread>,
}

/// How the keys of providers and services begin, besides those that are redacted everywhere, and how many letters and
/// digits follow at least.
const BEGINNINGS: [(&str, usize); 16] = [
    ("AIza", 30),
    ("AKIA", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("gsk_", 20),
    ("hf_", 20),
    ("nvapi-", 20),
    ("r8_", 20),
    ("sk_live_", 16),
    ("xai-", 20),
    ("xoxb-", 16),
    ("xoxp-", 16),
    ("npm_", 30),
];
/// Keys under which people write whole sentences.
const PROSE: [&str; 5] = ["instructions", "role", "description", "expected_output", "input"];

impl<'a> Looking<'a> {
    fn look(&mut self, node: &'a yaml::Node) {
        match &node.what {
            What::Scalar { text, .. } => self.look_at(node.at, text),
            What::List(items) => items.iter().for_each(|item| self.look(item)),
            What::Map(fields) => {
                for (key, value) in fields {
                    if self.is_secret(&key.text) {
                        self.secret(key.at);
                    }
                    self.path.push(&key.text);
                    self.look(value);
                    self.path.pop();
                }
            }
        }
    }

    fn look_at(&mut self, at: At, text: &str) {
        let is_header = self.path.iter().rev().nth(1) == Some(&"headers");
        let is_variable = text.contains("${env:");
        let name = self.path.last().copied().unwrap_or_default();
        let is_named = is_secret_name(name) && !text.trim().is_empty();
        let is_credential = is_header && is_named;
        let is_password = self.path.contains(&"parameters") && is_named;
        let is_prose = self.path.iter().any(|key| PROSE.contains(key));
        let has_address = !is_prose && text.split_whitespace().any(|word| word.contains("://") && holds_secret(word));
        let is_misnamed = names_variable(text) || text.contains("${ENV:");
        if is_header && is_misnamed && !self.is_secret(text) {
            self.found.push(Misread::new(at, "an environment variable is written ${env:NAME} here"));
        } else if self.is_secret(text) || (is_credential && !is_variable) || is_password || has_address {
            self.secret(at);
        } else if is_variable && !is_header {
            let message = "${env:NAME} is replaced in headers only: write the value out, or give a command the variable \
                           with env";
            self.found.push(Misread::new(at, message));
        } else if !is_header && names_variable(text) && !is_prose {
            let message = "no variable is replaced here, and there is no shell: write the value out";
            self.found.push(Misread::new(at, message));
        }
    }

    fn is_secret(&self, text: &str) -> bool {
        self.redactor.text(text) != text || is_key(text)
    }

    fn secret(&mut self, at: At) {
        let message = "this looks like a secret, and a file is stored with its runs: put it into the environment and \
                       write ${env:NAME} in a header, or name its variable with api_key_variable";
        self.found.push(Misread::new(at, message));
    }
}

/// Whether a word of it looks like a key.
fn is_key(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.split(|c: char| !is_part(c)).any(|word| {
        let rest = BEGINNINGS.iter().find_map(|(beginning, least)| Some((word.strip_prefix(beginning)?, *least)));
        rest.is_some_and(|(rest, least)| rest.len() >= least && rest.contains(|c: char| c.is_ascii_digit()))
    })
}

/// What is behind a `#`, and its column; perhaps text in quotes that has one.
fn comment(line: &str) -> Option<(usize, &str)> {
    let is_begin = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let at = line.match_indices('#').map(|(at, _)| at).find(|at| is_begin(*at))?;
    Some((line[..at].chars().count() + 1, &line[at..]))
}

/// Whether it holds `${NAME}`.
fn names_variable(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
    };
    text.split("${").skip(1).any(|rest| rest.split_once('}').is_some_and(|(name, _)| is_name(name)))
}
