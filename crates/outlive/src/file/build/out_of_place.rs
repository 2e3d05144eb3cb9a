//! What stands where it must not: secrets in clear, and variables where nothing replaces them.
//!
//! It must never show what it has found.

use super::{At, Misread, What, yaml};
use outlive_core::Redactor;

/// What stands where it must not: secrets, and variables where nothing replaces them.
pub(in crate::file) fn out_of_place(node: &yaml::Node) -> Vec<Misread> {
    let mut looking = Looking { redactor: Redactor::new([]), path: Vec::new(), found: Vec::new() };
    looking.look(node);
    looking.found
}

struct Looking<'a> {
    redactor: Redactor,
    path: Vec<&'a str>,
    found: Vec<Misread>,
}

/// Headers whose values are credentials.
const CREDENTIALS: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"];
/// Keys under which people write whole sentences.
const PROSE: [&str; 5] = ["instructions", "role", "description", "expected_output", "input"];

impl<'a> Looking<'a> {
    fn look(&mut self, node: &'a yaml::Node) {
        match &node.what {
            What::Scalar { text, .. } => self.look_at(node.at, text),
            What::List(items) => items.iter().for_each(|item| self.look(item)),
            What::Map(fields) => {
                for (key, value) in fields {
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
        let carries = is_header && CREDENTIALS.iter().any(|known| known.eq_ignore_ascii_case(name));
        if self.redactor.text(text) != text || (carries && !is_variable) {
            let message = "this looks like a secret, and a file is stored with its runs: put it into the environment and \
                           write ${env:NAME} in a header, or name its variable with api_key_variable";
            self.found.push(Misread::new(at, message));
        } else if is_variable && !is_header {
            let message = "${env:NAME} is replaced in headers only: write the value out, or give a command the variable \
                           with env";
            self.found.push(Misread::new(at, message));
        } else if !is_header && names_variable(text) && !self.path.iter().any(|key| PROSE.contains(key)) {
            let message = "no variable is replaced here, and there is no shell: write the value out";
            self.found.push(Misread::new(at, message));
        }
    }
}

/// Whether it holds `${NAME}`.
fn names_variable(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
    };
    text.split("${").skip(1).any(|rest| rest.split_once('}').is_some_and(|(name, _)| is_name(name)))
}
