//! How things look: marks, colours and text made safe for a terminal. A colour never carries information that a mark or
//! a word does not.

use anstyle::{AnsiColor, Color, Style};
use outlive::RunStatus;
use std::sync::OnceLock;

const fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(color)))
}

pub(crate) const RED: Style = color(AnsiColor::Red);
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const BOLD: Style = Style::new().bold();
const GREEN: Style = color(AnsiColor::Green);
const YELLOW: Style = color(AnsiColor::Yellow);
const BLUE: Style = color(AnsiColor::Blue);

/// A sign for a state; a word where the locale has no UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Not started.
    Open,
    /// Running.
    Active,
    /// Started, but nobody is executing it.
    Interrupted,
    /// Waiting for a person.
    Paused,
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Done earlier, not repeated.
    Kept,
}

impl Mark {
    pub(crate) fn of(status: RunStatus) -> Self {
        match status {
            RunStatus::Pending => Mark::Open,
            RunStatus::Running => Mark::Active,
            RunStatus::Paused => Mark::Paused,
            RunStatus::Completed => Mark::Done,
            RunStatus::Cancelled => Mark::Cancelled,
            RunStatus::Error => Mark::Failed,
        }
    }

    /// The sign, or a word with the same meaning.
    pub(crate) fn text(self, has_utf8: bool) -> &'static str {
        let (sign, word) = match self {
            Mark::Open => ("–", "open"),
            Mark::Active => ("●", "run"),
            Mark::Interrupted => ("!", "lost"),
            Mark::Paused => ("‖", "wait"),
            Mark::Done => ("✓", "ok"),
            Mark::Failed => ("✕", "FAIL"),
            Mark::Cancelled => ("⊘", "cancel"),
            Mark::Kept => ("↷", "kept"),
        };
        if has_utf8 { sign } else { word }
    }

    /// The sign in its colour, for this process's locale.
    pub(crate) fn shown(self) -> String {
        let style = match self {
            Mark::Open => DIM,
            Mark::Active | Mark::Kept => BLUE,
            Mark::Interrupted | Mark::Paused | Mark::Cancelled => YELLOW,
            Mark::Done => GREEN,
            Mark::Failed => RED,
        };
        format!("{style}{}{style:#}", self.text(has_utf8()))
    }
}

/// Separates parts of a line.
pub(crate) fn dot() -> &'static str {
    if has_utf8() { " · " } else { ", " }
}

/// Marks an omission.
pub(crate) fn ellipsis() -> &'static str {
    if has_utf8() { "…" } else { "..." }
}

/// Precedes a result.
pub(crate) fn arrow() -> &'static str {
    if has_utf8() { "→" } else { "->" }
}

/// A status as we spell it: lower case.
pub(crate) fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Pending => "pending",
        RunStatus::Running => "running",
        RunStatus::Paused => "paused",
        RunStatus::Completed => "completed",
        RunStatus::Cancelled => "cancelled",
        RunStatus::Error => "error",
    }
}

/// Whether the locale can show more than ASCII.
pub(crate) fn has_utf8() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        is_utf8_locale(locale.as_deref())
    })
}

/// Systems without locales in their environment show UTF-8.
fn is_utf8_locale(locale: Option<&str>) -> bool {
    let Some(locale) = locale else { return cfg!(any(windows, target_os = "macos")) };
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// `text` without anything a terminal could interpret as a command: model output and names are not trusted.
pub(crate) fn clean(text: &str) -> String {
    let is_harmless = |c: &char| {
        let turns_direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        matches!(c, '\n' | '\t') || !(c.is_control() || turns_direction)
    };
    anstream::adapter::strip_str(text).to_string().chars().filter(is_harmless).collect()
}

/// [`clean`] on one line, at most `length` characters long.
pub(crate) fn line(text: &str, length: usize) -> String {
    let text = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(length) {
        None => text,
        Some((end, _)) => format!("{}{}", &text[..end], ellipsis()),
    }
}

/// `1.9k`: a count short enough for a line.
pub(crate) fn short_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

/// `1 member`, `2 members`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// As much of a run's id as people need: the part with the millisecond. Other ids are shown whole.
pub(crate) fn short_id(id: &str) -> &str {
    match id.split_at_checked(13) {
        Some((start, rest)) if id.len() == 36 && rest.starts_with('-') && id.is_ascii() => start,
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_word_without_a_utf8_locale() {
        assert_eq!(Mark::Done.text(true), "✓");
        assert_eq!(Mark::Failed.text(false), "FAIL");
        assert!(is_utf8_locale(Some("de_DE.UTF-8")) && is_utf8_locale(Some("C.utf8")));
        assert!(!is_utf8_locale(Some("POSIX")) && !is_utf8_locale(Some("C")));
    }

    #[test]
    fn text_from_outside_cannot_command_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\u{7}c\u{9b}\u{202e}d\r\n\te"), "abcd\n\te");
        assert_eq!(line("one\n two\u{1b}[31m three", 7), format!("one two{}", if has_utf8() { "…" } else { "..." }));
    }

    #[test]
    fn an_id_of_ours_is_cut_after_its_time() {
        assert_eq!(short_id("0193a5c7-4b1e-7c31-9d55-0f6f2f1a9b21"), "0193a5c7-4b1e");
        assert_eq!(short_id("order-17"), "order-17");
    }
}
