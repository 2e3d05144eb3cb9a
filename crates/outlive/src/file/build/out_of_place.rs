//! What stands where it must not: secrets in clear, and variables where nothing replaces them.
//!
//! A secret is known by its look, or by what it is called. It must never show what it has found.

use super::super::secrets::{self, is_behind_option, is_in_word_of_command, is_variable, is_variable_of_key};
use super::{At, Misread, What, yaml};
use outlive_agent::model::{holds_secret, is_secret_name};
use std::sync::Arc;

/// What stands where it must not in a text that was read as this: secrets, and variables where nothing replaces them.
pub(in crate::file) fn out_of_place(node: &yaml::Node, text: &str) -> Vec<Misread> {
    let mut looking = Looking { path: Vec::new(), found: Vec::new() };
    looking.look(node);
    // What is behind a # is stored too.
    for (place, line) in text.lines().enumerate() {
        if let Some((column, _)) = comment(line).filter(|(_, comment)| secrets::is_in(comment)) {
            looking.secret(At { line: place + 1, column }, place + 1);
        }
    }
    looking.found
}

struct Looking<'a> {
    path: Vec<&'a str>,
    found: Vec<Misread>,
}

/// Keys under which people write whole sentences.
const PROSE: [&str; 5] = ["instructions", "role", "description", "expected_output", "input"];

/// What is said where the name of a variable is wanted and something else stands.
const NO_VARIABLE: &str = "here stands the name of an environment variable, such as HOUSE_KEY, and never a secret: this has not the \
     form of one, and so is not repeated";

impl<'a> Looking<'a> {
    fn look(&mut self, node: &'a yaml::Node) {
        match &node.what {
            What::Scalar { text, .. } => self.look_at(node, text),
            What::List(items) => {
                items.iter().for_each(|item| self.look(item));
                if self.path.last() == Some(&"command") {
                    self.look_at_options(items);
                }
            }
            What::Map(fields) => {
                for (key, value) in fields {
                    if secrets::is_in(&key.text) {
                        self.secret(key.at, value.last_line);
                    }
                    self.path.push(&key.text);
                    self.look(value);
                    self.path.pop();
                }
                self.look_at_env(fields);
            }
        }
    }

    fn look_at(&mut self, node: &yaml::Node, text: &str) {
        let is_header = self.path.iter().rev().nth(1) == Some(&"headers");
        let is_variable = text.contains("${env:");
        if self.is_secret(text, is_header) {
            self.secret(node.at, node.last_line);
        } else if self.lacks_name(text, is_header) {
            self.found.push(Misread::hiding(node.at, node.last_line, NO_VARIABLE));
        } else if is_header && is_misnamed(text) {
            self.found.push(Misread::new(node.at, "an environment variable is written ${env:NAME} here"));
        } else if is_variable && !is_header {
            let message = "${env:NAME} is replaced in headers only: write the value out, or give a command the variable \
                           with env";
            self.found.push(Misread::new(node.at, message));
        } else if !is_header && names_variable(text) && !self.is_prose() {
            let message = "no variable is replaced here, and there is no shell: write the value out";
            self.found.push(Misread::new(node.at, message));
        }
    }

    fn is_prose(&self) -> bool {
        self.path.iter().any(|key| PROSE.contains(key))
    }

    fn is_secret(&self, text: &str, is_header: bool) -> bool {
        let name = self.path.last().copied().unwrap_or_default();
        let is_named = is_secret_name(name) && !text.trim().is_empty();
        let is_credential = is_header && is_named && !text.contains("${env:") && !is_misnamed(text);
        let is_password = self.path.contains(&"parameters") && is_named;
        let has_address =
            || !self.is_prose() && text.split_whitespace().any(|word| word.contains("://") && holds_secret(word));
        let is_of_command = || name == "command" && is_in_word_of_command(text);
        secrets::is_in(text) || is_credential || is_password || has_address() || is_of_command()
    }

    /// Whether the name of a variable is wanted where this stands, and it has not the form of one.
    fn lacks_name(&self, text: &str, is_header: bool) -> bool {
        match self.path.last().copied() {
            Some("api_key_variable") => text != "none" && !is_variable_of_key(text),
            _ if is_header => {
                let mut named = text.split("${env:").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
                named.any(|name| !name.is_empty() && !is_variable(name))
            }
            _ => false,
        }
    }

    /// The variables that a command is given.
    fn look_at_env(&mut self, fields: &[(yaml::Key, Arc<yaml::Node>)]) {
        let named = |name: &str| fields.iter().find(|(key, _)| key.text == name).map(|(_, value)| &value.what);
        let (Some(_), Some(What::List(variables))) = (named("command"), named("env")) else { return };
        for node in variables {
            if let What::Scalar { text, .. } = &node.what
                && !is_variable(text)
                && !secrets::is_in(text)
            {
                self.found.push(Misread::hiding(node.at, node.last_line, NO_VARIABLE));
            }
        }
    }

    /// What stands behind `--password` in a command.
    fn look_at_options(&mut self, items: &[Arc<yaml::Node>]) {
        for pair in items.windows(2) {
            let [option, word] = pair else { continue };
            if let (What::Scalar { text: option, .. }, What::Scalar { text, .. }) = (&option.what, &word.what)
                && is_behind_option(option, text)
            {
                self.secret(word.at, word.last_line);
            }
        }
    }

    fn secret(&mut self, at: At, last_line: usize) {
        self.found.push(Misread::hiding(at, last_line, secrets::MESSAGE));
    }
}

/// What is behind a `#`, and its column; perhaps text in quotes that has one.
fn comment(line: &str) -> Option<(usize, &str)> {
    let is_begin = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let at = line.match_indices('#').map(|(at, _)| at).find(|at| is_begin(*at))?;
    Some((line[..at].chars().count() + 1, &line[at..]))
}

/// Whether it holds a variable as others write it.
fn is_misnamed(text: &str) -> bool {
    names_variable(text) || text.contains("${ENV:")
}

/// Whether it holds `${NAME}`.
fn names_variable(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
    };
    text.split("${").skip(1).any(|rest| rest.split_once('}').is_some_and(|(name, _)| is_name(name)))
}
