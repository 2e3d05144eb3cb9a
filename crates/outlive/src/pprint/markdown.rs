//! Text in lines of a given number of terminal columns: Markdown with attributes, or plain words.
//!
//! It knows nothing of runs. The invariant: no line is wider than requested, whatever the text; a word wider than a
//! line is broken.

use anstyle::{AnsiColor, Style};
use minimad::{Composite, CompositeStyle, Line, TableRow};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A text in one style.
type Span = (Style, String);

/// Readable on a dark and on a light background: attributes and the terminal's own colours.
const CODE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));

/// Columns between the cells of a table.
const RULE: &str = " │ ";

/// The narrowest column: the widest characters take two.
const COLUMN_MIN: usize = 2;

/// Columns that a text takes on a terminal.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// The beginning of `text` that fits into this many columns.
pub(super) fn fitting(text: &str, width: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or_default();
        used > width
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// The plain text, its lines broken between words.
pub(super) fn plain(text: &str, width: usize) -> Vec<String> {
    text.lines().flat_map(|line| wrapped(&[(Style::new(), line.to_owned())], indent(line), "", width)).collect()
}

/// Headings, emphasis, lists, quotes, code and tables.
pub(super) fn rendered(text: &str, width: usize) -> Vec<String> {
    let parsed = minimad::parse_text(text, minimad::Options::default());
    let mut lines = Vec::new();
    let mut table = Vec::new();
    for line in &parsed.lines {
        match line {
            Line::TableRow(row) => table.push(Some(row)),
            Line::TableRule(_) => table.push(None),
            Line::Normal(composite) => {
                lines.extend(laid_out(&std::mem::take(&mut table), width));
                lines.extend(paragraph(composite, width));
            }
            Line::HorizontalRule => {
                lines.extend(laid_out(&std::mem::take(&mut table), width));
                lines.push("─".repeat(width));
            }
            Line::CodeFence(_) => {}
        }
    }
    lines.extend(laid_out(&table, width));
    lines
}

fn paragraph(composite: &Composite<'_>, width: usize) -> Vec<String> {
    let (first, rest) = match composite.style {
        CompositeStyle::Paragraph | CompositeStyle::Header(_) => (String::new(), String::new()),
        CompositeStyle::ListItem(depth) => bullet("• ", depth),
        CompositeStyle::OrderedListItem { level, index } => bullet(&format!("{index}. "), level),
        CompositeStyle::Quote => ("▌ ".to_owned(), "▌ ".to_owned()),
        CompositeStyle::Code => {
            let text: String = composite.compounds.iter().map(|compound| compound.src).collect();
            return chopped(&text, width).into_iter().map(|line| styled(CODE, &line)).collect();
        }
    };
    let is_header = matches!(composite.style, CompositeStyle::Header(_));
    wrapped(&spans(composite, is_header), &first, &rest, width)
}

/// The prefix of an item's first line, and of its other lines.
fn bullet(mark: &str, depth: u8) -> (String, String) {
    let indent = "  ".repeat(usize::from(depth));
    let first = format!("{indent}{mark}");
    let rest = " ".repeat(columns(&first));
    (first, rest)
}

fn spans(composite: &Composite<'_>, is_bold: bool) -> Vec<Span> {
    let style = |compound: &minimad::Compound<'_>| {
        let style = if compound.code { CODE } else { Style::new() };
        let style = if compound.bold || is_bold { style.bold() } else { style };
        let style = if compound.italic { style.italic() } else { style };
        if compound.strikeout { style.strikethrough() } else { style }
    };
    composite.compounds.iter().map(|compound| (style(compound), compound.src.to_owned())).collect()
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The blanks that a line begins with.
fn indent(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches(' ').len()]
}

/// Words of several styles, in lines. `first` precedes the first line, `rest` the others.
fn wrapped(spans: &[Span], first: &str, rest: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    // Drop a margin that leaves no room for words.
    let margin = |text: &str| fitting(text, width / 2).to_owned();
    let (mut line, rest) = (margin(first), margin(rest));
    let mut used = columns(&line);
    let mut is_begun = false;
    for word in words(spans) {
        let length: usize = word.iter().map(|(_, text)| columns(text)).sum();
        if is_begun && used + 1 + length > width {
            lines.push(std::mem::replace(&mut line, rest.clone()));
            (used, is_begun) = (columns(&rest), false);
        }
        if is_begun {
            line.push(' ');
            used += 1;
        }
        is_begun = true;
        for (style, text) in word {
            let mut left = text.as_str();
            while used + columns(left) > width {
                let part = fitting(left, width - used);
                line.push_str(&styled(style, part));
                left = &left[part.len()..];
                lines.push(std::mem::replace(&mut line, rest.clone()));
                used = columns(&rest);
            }
            line.push_str(&styled(style, left));
            used += columns(left);
        }
    }
    lines.push(line);
    lines
}

/// The words, each in its pieces of one style.
fn words(spans: &[Span]) -> Vec<Vec<Span>> {
    let mut words: Vec<Vec<Span>> = Vec::new();
    let mut is_open = false;
    for (style, text) in spans {
        for (place, piece) in text.split(' ').enumerate() {
            is_open &= place == 0;
            if piece.is_empty() {
                continue;
            }
            match words.last_mut().filter(|_| is_open) {
                Some(word) => word.push((*style, piece.to_owned())),
                None => words.push(vec![(*style, piece.to_owned())]),
            }
            is_open = true;
        }
        is_open &= !text.ends_with(' ');
    }
    words
}

/// A line of code: broken where it must be, with nothing left out.
fn chopped(line: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = line;
    while columns(left) > width {
        let part = fitting(left, width);
        lines.push(part.to_owned());
        left = &left[part.len()..];
    }
    lines.push(left.to_owned());
    lines
}

/// A table, a rule where it has one. `None` among the rows is a rule.
fn laid_out(rows: &[Option<&TableRow<'_>>], width: usize) -> Vec<String> {
    let count = rows.iter().flatten().map(|row| row.cells.len()).max().unwrap_or_default();
    let Some(room) =
        width.checked_sub(columns(RULE) * count.saturating_sub(1)).filter(|room| *room >= COLUMN_MIN * count)
    else {
        // There is no room for columns: one cell below the other.
        let cells = rows.iter().flatten().flat_map(|row| &row.cells);
        return cells.flat_map(|cell| wrapped(&spans(cell, false), "", "", width)).collect();
    };
    let natural = |column: usize| {
        let cells = rows.iter().flatten().filter_map(|row| row.cells.get(column));
        let length = |cell: &Composite<'_>| cell.compounds.iter().map(|compound| columns(compound.src)).sum::<usize>();
        cells.map(length).max().unwrap_or_default().max(COLUMN_MIN)
    };
    let mut widths: Vec<_> = (0..count).map(natural).collect();
    while widths.iter().sum::<usize>() > room {
        let widest = widths.iter_mut().max().expect("a table that is too wide has columns");
        *widest -= 1;
    }
    rows.iter().flat_map(|row| row.map_or_else(|| vec![rule(&widths)], |row| cells(row, &widths))).collect()
}

fn rule(widths: &[usize]) -> String {
    widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("─┼─")
}

/// One row: as many lines as its longest cell needs.
fn cells(row: &TableRow<'_>, widths: &[usize]) -> Vec<String> {
    let empty = Composite::from(Vec::new());
    let cell = |column: usize| row.cells.get(column).unwrap_or(&empty);
    let columns_of: Vec<Vec<String>> =
        widths.iter().enumerate().map(|(column, width)| wrapped(&spans(cell(column), false), "", "", *width)).collect();
    let height = columns_of.iter().map(Vec::len).max().unwrap_or_default();
    let line = |number: usize| {
        let part = |(lines, width): (&Vec<String>, &usize)| {
            let text = lines.get(number).map(String::as_str).unwrap_or_default();
            let gap = width.saturating_sub(columns(&anstream::adapter::strip_str(text).to_string()));
            format!("{text}{}", " ".repeat(gap))
        };
        columns_of.iter().zip(widths).map(part).collect::<Vec<_>>().join(RULE)
    };
    (0..height).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[String]) -> Vec<String> {
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn every_kind_of_block_is_laid_out() {
        let text = "# Plan\n\nSome **bold** and `code`.\n* one that is too long for a line\n1. first\n> said\n\n```\nlet x = 1;\n```\n---\n| a | b |\n|---|---|\n| cell | another cell |\n";
        let expected = [
            "Plan",
            "",
            "Some bold and code.",
            "• one that is too",
            "  long for a line",
            "1. first",
            "▌ said",
            "",
            "let x = 1;",
            "────────────────────",
            "a    │ b",
            "─────┼─────────────",
            "cell │ another cell",
        ];
        assert_eq!(shown(&rendered(text, 20)), expected);
        assert!(rendered("**bold**", 20)[0].contains("\u{1b}[1m"), "{:?}", rendered("**bold**", 20));
    }

    #[test]
    fn words_in_several_styles_stay_words_and_lines_are_broken_between_them() {
        assert_eq!(shown(&rendered("un**believ**able news", 12)), ["unbelievable", "news"]);
        assert_eq!(shown(&rendered("see `a b` **here**, now", 80)), ["see a b here, now"]);
        assert_eq!(shown(&plain("  two  blanks\n\nend", 80)), ["  two blanks", "", "end"]);
    }

    #[test]
    fn no_line_is_too_wide_whatever_the_text() {
        let texts = [
            "averyveryverylongwordthatnobodycanread and 漢字漢字漢字漢字漢字漢字",
            "| 漢字 | many words in a cell | x | y | z | a | b |\n| 1 | 2 |\n",
            "        deeply indented text that goes on",
            "* * * nested",
            "```\n漢字漢字漢字漢字漢字漢字漢字漢字\n```",
            "###### heading with **bold *and italic* text** in it",
        ];
        for text in texts {
            for width in [8, 9, 20, 33] {
                for line in rendered(text, width).into_iter().chain(plain(text, width)) {
                    let shown = anstream::adapter::strip_str(&line).to_string();
                    assert!(columns(&shown) <= width, "{width}: {shown:?}");
                }
            }
        }
    }
}
