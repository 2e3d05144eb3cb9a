//! What may be a secret, in the text of a file: by its look, or by what it is called.
//!
//! It must never know the syntax. The invariant: what is doubtful counts as a secret where it would be repeated, and as none
//! where a file would be refused for it.

use super::yaml::Misread;
use outlive_agent::model::is_secret_name;
use outlive_core::Redactor;
use std::ops::RangeInclusive;

/// What is said of a secret, whatever it is.
pub(super) const MESSAGE: &str = "this looks like a secret, and a file is stored with its runs: put it into the environment and \
     write ${env:NAME} in a header, name its variable with api_key_variable, or give it to a command with env";

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

/// Whether some of it looks like a secret.
pub(super) fn is_in(text: &str) -> bool {
    Redactor::default().text(text) != text || holds_key(text)
}

/// Whether a word of it looks like a key.
fn holds_key(text: &str) -> bool {
    text.split(|c: char| !is_part(c)).any(|word| {
        let rest = BEGINNINGS.iter().find_map(|(beginning, least)| Some((word.strip_prefix(beginning)?, *least)));
        rest.is_some_and(|(rest, least)| rest.len() >= least && rest.contains(|c: char| c.is_ascii_digit()))
    })
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Whether a word of a command gives a secret in clear: `--password=…`, `TOKEN=…`.
pub(super) fn is_in_word_of_command(word: &str) -> bool {
    word.split_whitespace()
        .any(|word| word.split_once('=').is_some_and(|(name, value)| is_option_of_secret(name) && is_in_clear(value)))
}

/// Whether the word of a command behind `--password` is one in clear.
pub(super) fn is_behind_option(option: &str, word: &str) -> bool {
    option.starts_with("--") && is_option_of_secret(option) && is_in_clear(word) && !word.starts_with('-')
}

/// What is called so in a command. `--key`, `--sig` and `--auth` choose something more often, and `--token-file` is none.
fn is_option_of_secret(name: &str) -> bool {
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric()).replace('-', "_").to_ascii_lowercase();
    let last = name.rsplit('_').next().unwrap_or_default();
    !["key", "auth", "sig"].contains(&&*name) && is_secret_name(&name) && is_secret_name(last)
}

/// Not a place for an argument, a variable of a shell or a path.
fn is_in_clear(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'']);
    !value.is_empty() && !value.contains(['$', '{', '(']) && !value.starts_with(['/', '.', '~', '@', '%', '<'])
}

/// Whether it has the form of an environment variable's name, as people write them: `HOUSE_KEY`, or `http_proxy`.
pub(super) fn is_variable(name: &str) -> bool {
    let is_small = name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    !name.is_empty() && (is_small || is_variable_of_key(name))
}

/// The same, of one that holds a key: only capitals, for a key itself may have no others than small letters.
pub(super) fn is_variable_of_key(name: &str) -> bool {
    let is_one = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    name.bytes().all(is_one) && name.starts_with(|c: char| !c.is_ascii_digit()) && !holds_key(name)
}

/// The lines of a text that may be repeated beside what is wrong with them.
pub(super) struct Excerpts {
    lines: Vec<String>,
    hidden: Vec<RangeInclusive<usize>>,
}

impl Excerpts {
    pub(super) fn new<'m>(text: &str, found: impl IntoIterator<Item = &'m Misread>) -> Self {
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
        let hidden = found.into_iter().filter_map(|misread| Some(misread.at.line..=misread.hides_to?));
        Self { lines: text.lines().map(str::to_owned).collect(), hidden: hidden.collect() }
    }

    /// The line of this number, unless it may hold a secret.
    pub(super) fn line(&self, number: usize) -> Option<&str> {
        let place = number.checked_sub(1)?;
        let line = self.lines.get(place)?;
        let before = self.lines[..place].iter().rev().find(|line| !line.trim().is_empty());
        let is_hidden = self.hidden.iter().any(|lines| lines.contains(&number))
            || is_in(line)
            || gives_secret(line)
            || before.is_some_and(|before| ends_with_name(before));
        (!is_hidden).then_some(line)
    }
}

/// Whether something stands behind the name of a secret.
fn gives_secret(line: &str) -> bool {
    names(line).any(|(name, rest)| match rest.trim_start_matches(['"', '\'', ' ']).chars().next() {
        Some(':' | '=') => rest.contains(|c: char| c.is_alphanumeric()),
        Some(_) => name.starts_with("--"),
        None => false,
    })
}

/// Whether the value of the last name may stand on the lines below.
fn ends_with_name(line: &str) -> bool {
    let is_sign = |c: char| matches!(c, ':' | '=' | '"' | '\'' | ' ' | '|' | '>' | '-' | '+' | ',');
    names(line).any(|(_, rest)| rest.chars().all(is_sign))
}

/// The names of secrets in a line, each with what stands behind it.
fn names(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = line.char_indices().filter(|(at, c)| {
        let end = at + c.len_utf8();
        is_part(*c) && !line[end..].starts_with(is_part)
    });
    ends.filter_map(|(at, _)| {
        let (before, rest) = line.split_at(at + 1);
        let name = before.rsplit(|c: char| !is_part(c)).next()?;
        (is_secret_name(name.trim_start_matches('-')) && !name.ends_with("_variable")).then_some((name, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::super::yaml::At;
    use super::*;

    #[test]
    fn a_word_of_a_command_is_a_secret_by_its_name() {
        for word in ["--password=hunter2", "--api-key=hunter2", "PGPASSWORD=hunter2 psql", "--token='hunter2'"] {
            assert!(is_in_word_of_command(word), "{word}");
        }
        for word in [
            "--password={password}",
            "--token=$TOKEN",
            "--password-file=/run/x",
            "--key=2",
            "--sort-key=name",
            "--secret-id=house",
            "--token=",
            "--password=/run/secrets/x",
            "password",
            "token=read(1)",
        ] {
            assert!(!is_in_word_of_command(word), "{word}");
        }
        assert!(is_behind_option("--password", "hunter2") && !is_behind_option("--password", "--verbose"));
        assert!(!is_behind_option("--password", "{password}") && !is_behind_option("--key", "2"));
    }

    #[test]
    fn names_of_variables_have_a_form() {
        assert!(["HOUSE_KEY", "_A1", "http_proxy"].into_iter().all(is_variable));
        assert!(!["hunter2", "Hunter", "1A", "", "A-B", "AKIAABCDEFGHIJKLMNOP1"].into_iter().any(is_variable));
        assert!(is_variable_of_key("HOUSE_KEY") && !is_variable_of_key("hunter"));
    }

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_repeated() {
        let repeated = |text: &str, number| Excerpts::new(text, &[]).line(number).map(str::to_owned);
        for line in [
            "password: hunter2",
            "  headers: { X-Api-Key: hunter2, x: y: z }",
            "{ \"api_key\": \"hunter2\" }",
            "command: [x, --password, hunter2]",
            "x: sk-abcdefghijklmnop1234",
            "x: gsk_abcdefghijklmnop12345678",
        ] {
            assert_eq!(repeated(line, 1), None, "{line}");
        }
        assert_eq!(repeated("password:\n  hunter2", 2), None);
        assert_eq!(repeated("password: >-\n\n  hunter2\nmodel: demo", 3), None);
        assert_eq!(repeated("a: 1\rpassword: hunter2\rb: 2", 1).as_deref(), Some("a: 1"));
        for line in ["model: demo", "api_key_variable: HOUSE_KEY", "# the password is elsewhere", "step: é, agent: b"]
        {
            assert_eq!(repeated(line, 1).as_deref(), Some(line));
        }
        let found = [Misread::hiding(At { line: 1, column: 4 }, 2, MESSAGE)];
        let of = Excerpts::new("a: one\n  two\nb: 1", &found);
        assert_eq!((of.line(1), of.line(2), of.line(3), of.line(4)), (None, None, Some("b: 1"), None));
    }
}
