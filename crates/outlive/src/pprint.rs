//! Shows a run on the terminal: its answer in a box, with Markdown rendered, and a line about the run below it.
//!
//! It reads a [`WorkflowRunOutput`] and nothing else. Text from a model is not trusted: none of it reaches the terminal
//! as a control sequence.

mod markdown;

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use outlive_core::{RunStatus, WorkflowRunOutput};
use serde_json::Value;

/// Whether the answer's Markdown is rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Markdown {
    /// Headings, lists, tables and emphasis as a terminal can show them.
    #[default]
    Render,
    /// The text as the model wrote it.
    Plain,
}

/// Lines longer than this are hard to read, however wide the terminal is.
const WIDTH_MAX: usize = 100;

/// The assumed width of a terminal that does not report one.
const WIDTH_UNKNOWN: usize = 80;

/// A box narrower than this has no room for words.
const WIDTH_MIN: usize = 24;

/// Prints a run to standard output: a box with its answer on a terminal, plain text anywhere else.
///
/// `None` prints that there is no such run. `NO_COLOR` and `CLICOLOR_FORCE` are honoured; without colours the output is
/// plain text. A reader that goes away (`| head`) is not an error.
pub fn pprint_run_response<'a>(run: impl Into<Option<&'a WorkflowRunOutput>>, markdown: Markdown) {
    use std::io::Write;
    let color = anstream::AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    let columns = terminal_size::terminal_size().map_or(WIDTH_UNKNOWN, |(columns, _)| usize::from(columns.0));
    let text = render_run_response(run, markdown, columns, color);
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// What [`pprint_run_response`] prints. With `color` a box for a terminal `width` columns wide (24 to 100 are used, a
/// wider box is hard to read); without it plain text, whatever the width: no escape codes, no box, no line broken.
pub fn render_run_response<'a>(
    run: impl Into<Option<&'a WorkflowRunOutput>>,
    markdown: Markdown,
    width: usize,
    color: bool,
) -> String {
    let Some(run) = run.into() else {
        return "no such run\n".to_owned();
    };
    let answer = answer(run);
    let footer = footer(run);
    if !color {
        return format!("{}\n\n{footer}\n", answer.trim_end());
    }
    let width = width.clamp(WIDTH_MIN, WIDTH_MAX);
    let is_markdown = markdown == Markdown::Render && run.status == RunStatus::Completed;
    let lay_out = if is_markdown { markdown::rendered } else { markdown::plain };
    let body = lay_out(answer.trim_end(), width - 4);
    let title = clean(&run.workflow_name).replace('\n', " ");
    let dim = Style::new().dimmed();
    format!("{}{dim}{footer}{dim:#}\n", boxed(&title, &body, border(run.status), width))
}

/// The content, or a line in place of it. Free of control characters.
fn answer(run: &WorkflowRunOutput) -> String {
    let content = match &run.content {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => clean(text),
        Some(other) => clean(&serde_json::to_string_pretty(other).unwrap_or_else(|_| other.to_string())),
    };
    match run.status {
        RunStatus::Pending | RunStatus::Running | RunStatus::Paused if content.is_empty() => {
            format!("no content yet ({})", run.status)
        }
        RunStatus::Completed if content.is_empty() => "completed without content".to_owned(),
        RunStatus::Error if content.is_empty() => "the run failed without saying why".to_owned(),
        RunStatus::Cancelled if content.is_empty() => "the run was cancelled".to_owned(),
        RunStatus::Error => format!("error: {content}"),
        RunStatus::Pending | RunStatus::Running | RunStatus::Paused | RunStatus::Completed | RunStatus::Cancelled => {
            content
        }
    }
}

/// `run 0193… · COMPLETED · 4.6 s · 1.9k tokens`, as far as it is known.
fn footer(run: &WorkflowRunOutput) -> String {
    let mut parts = vec![format!("run {}", run.run_id), run.status.to_string()];
    if let Some(metrics) = &run.metrics {
        parts.extend(metrics.duration.map(|seconds| format!("{seconds:.1} s")));
        let steps = metrics.steps.values().filter_map(|step| step.metrics.as_ref());
        let tokens: u64 = steps.map(|metrics| metrics.usage.total_tokens).sum();
        parts.extend((tokens > 0).then(|| format!("{} tokens", short_count(tokens))));
    }
    parts.join(" · ")
}

fn short_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

fn border(status: RunStatus) -> Style {
    let color = match status {
        RunStatus::Completed => AnsiColor::Green,
        RunStatus::Error => AnsiColor::Red,
        RunStatus::Cancelled => AnsiColor::Yellow,
        RunStatus::Pending | RunStatus::Running | RunStatus::Paused => AnsiColor::Blue,
    };
    Style::new().fg_color(Some(color.into()))
}

/// The lines of `body` in a rounded box with a title, `width` columns wide.
fn boxed(title: &str, body: &[String], border: Style, width: usize) -> String {
    let title = markdown::fitting(title, width - 6);
    let rule = "─".repeat(width - 5 - markdown::columns(title));
    let mut out = format!("{border}╭─ {title} {rule}╮{border:#}\n");
    for line in body {
        let columns = markdown::columns(&anstream::adapter::strip_str(line).to_string());
        let gap = " ".repeat((width - 4).saturating_sub(columns));
        out.push_str(&format!("{border}│{border:#} {line}{gap} {border}│{border:#}\n"));
    }
    out.push_str(&format!("{border}╰{}╯{border:#}\n", "─".repeat(width - 2)));
    out
}

/// `text` without escape sequences, control characters and direction overrides. Tabs become spaces, so that columns can
/// be counted.
fn clean(text: &str) -> String {
    let is_harmless = |c: &char| {
        *c == '\n'
            || !(c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}'))
    };
    let visible = anstream::adapter::strip_str(text).to_string();
    visible.replace('\t', "    ").chars().filter(is_harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{DefinitionId, Metrics, RunId, RunInfo, RunMetrics, SessionId, StepMetrics, Usage};

    fn run(status: RunStatus, content: Option<Value>) -> WorkflowRunOutput {
        let info = RunInfo {
            run_id: RunId::parse("run-1").unwrap(),
            workflow_id: DefinitionId::parse("content-creation").unwrap(),
            workflow_name: "Content Creation".into(),
            session_id: SessionId::parse("session-1").unwrap(),
            user_id: None,
        };
        let output = WorkflowRunOutput::pending(&info, None, 0);
        WorkflowRunOutput { status, content, ..output }
    }

    fn completed(text: &str) -> WorkflowRunOutput {
        run(RunStatus::Completed, Some(text.into()))
    }

    fn in_box(run: &WorkflowRunOutput, markdown: Markdown, width: usize) -> String {
        anstream::adapter::strip_str(&render_run_response(run, markdown, width, true)).to_string()
    }

    #[test]
    fn a_completed_run_stands_in_a_rounded_box_titled_with_its_workflow() {
        let mut run = completed("# Plan\n\n- first\n- **second**");
        let mut metrics = RunMetrics { duration: Some(4.62), ..RunMetrics::default() };
        let usage = Usage { total_tokens: 1_930, ..Usage::default() };
        let step = StepMetrics {
            step_name: "Plan".into(),
            executor_type: "agent".into(),
            executor_name: "Planner".into(),
            metrics: Some(Metrics { usage, ..Metrics::default() }),
        };
        metrics.steps.insert("Plan".into(), step);
        run.metrics = Some(metrics);
        assert_eq!(
            in_box(&run, Markdown::Render, 32),
            "╭─ Content Creation ───────────╮\n\
             │ Plan                         │\n\
             │                              │\n\
             │ • first                      │\n\
             │ • second                     │\n\
             ╰──────────────────────────────╯\n\
             run run-1 · COMPLETED · 4.6 s · 1.9k tokens\n"
        );
    }

    #[test]
    fn every_line_of_the_box_has_the_same_width_in_columns() {
        let text = "# 日本語の見出し\n\nwide 漢字 and 🦀 and a very long line that has to be broken because nothing else helps\n\n\
                    | a | b |\n|---|---|\n| one | a cell with many words in it that needs several lines |\n\n\
                    ```rust\nlet x = 1;\n```\n> quoted\n\n---\n1. one\n2. two\n";
        for (width, markdown) in [(24, Markdown::Render), (60, Markdown::Render), (60, Markdown::Plain)] {
            let shown = in_box(&completed(text), markdown, width);
            let lines: Vec<_> = shown.lines().collect();
            for line in &lines[..lines.len() - 1] {
                assert_eq!(markdown::columns(line), width, "{markdown:?} {width}: {line}\n{shown}");
            }
        }
    }

    #[test]
    fn a_wide_terminal_does_not_make_long_lines() {
        let shown = in_box(&completed("words ".repeat(200).trim_end()), Markdown::Render, 400);
        let widest = shown.lines().map(markdown::columns).max();
        assert_eq!(widest, Some(WIDTH_MAX));
    }

    #[test]
    fn markdown_is_left_alone_when_it_is_not_to_be_rendered() {
        assert!(in_box(&completed("**bold** # text"), Markdown::Plain, 40).contains("**bold** # text"));
        assert!(in_box(&completed("**bold** text"), Markdown::Render, 40).contains("│ bold text "));
    }

    #[test]
    fn without_colours_the_content_is_plain_text_of_any_length() {
        let line = "**word** ".repeat(100);
        let shown = render_run_response(&completed(&line), Markdown::Render, 40, false);
        assert_eq!(shown, format!("{}\n\nrun run-1 · COMPLETED\n", line.trim_end()));
    }

    #[test]
    fn a_failed_run_says_error_in_red_and_its_text_is_no_markdown() {
        let failed = run(RunStatus::Error, Some("call_the_model failed: **429**".into()));
        assert!(in_box(&failed, Markdown::Render, 60).contains("│ error: call_the_model failed: **429** "));
        let red = Style::new().fg_color(Some(AnsiColor::Red.into())).to_string();
        assert!(render_run_response(&failed, Markdown::Render, 60, true).starts_with(&red));
        assert!(render_run_response(&failed, Markdown::Render, 60, false).contains("· ERROR"));
    }

    #[test]
    fn a_cancelled_run_is_yellow_and_says_so() {
        let cancelled = run(RunStatus::Cancelled, None);
        let yellow = Style::new().fg_color(Some(AnsiColor::Yellow.into())).to_string();
        let shown = render_run_response(&cancelled, Markdown::Render, 60, true);
        assert!(shown.starts_with(&yellow));
        assert!(shown.contains("the run was cancelled"));
    }

    #[test]
    fn a_run_that_is_not_over_and_one_that_does_not_exist_say_so() {
        let shown = render_run_response(&run(RunStatus::Running, None), Markdown::Render, 60, false);
        assert_eq!(shown, "no content yet (RUNNING)\n\nrun run-1 · RUNNING\n");
        assert_eq!(render_run_response(None, Markdown::Render, 60, true), "no such run\n");
    }

    #[test]
    fn structured_content_is_shown_as_indented_json() {
        let run = run(RunStatus::Completed, Some(serde_json::json!({"title": "Plan"})));
        let shown = render_run_response(&run, Markdown::Render, 60, false);
        assert!(shown.starts_with("{\n  \"title\": \"Plan\"\n}\n"), "{shown}");
    }

    #[test]
    fn nothing_a_model_wrote_reaches_the_terminal_as_a_control_sequence() {
        let evil = "a\u{1b}[2Jb\u{1b}]0;title\u{7}c\u{9b}31md\re\u{8}f\u{202e}g\0h\u{1b}]8;;http://x\u{1b}\\link";
        for color in [false, true] {
            for markdown in [Markdown::Render, Markdown::Plain] {
                let mut run = completed(evil);
                run.workflow_name = "evil\u{1b}[31m\u{7}name".into();
                let shown = render_run_response(&run, markdown, 60, color);
                let visible = anstream::adapter::strip_str(&shown).to_string();
                assert!(!visible.contains(|c: char| c != '\n' && c.is_control()), "{visible:?}");
                assert!(!shown.contains("[2J") && !shown.contains("]0;") && !shown.contains('\u{202e}'), "{shown:?}");
                assert!(visible.contains('a') && visible.contains("link"), "{visible:?}");
            }
        }
    }
}
