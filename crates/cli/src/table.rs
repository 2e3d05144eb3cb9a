//! A table that fits the terminal: columns are shortened while they stay readable, then the least important ones are
//! left out. If the width is unknown, nothing is shortened.
//!
//! It must never know what its cells mean.

use crate::style;
use std::io::IsTerminal;
use unicode_width::UnicodeWidthStr;

/// Between two columns.
const GAP: &str = "  ";

/// A column.
pub(crate) struct Column {
    pub(crate) head: &'static str,
    /// Minimum readable width. Columns without a number are never shortened.
    pub(crate) width_min: Option<usize>,
    /// When space is short, columns with the lowest rank are dropped first; those of rank [`KEPT`] stay.
    pub(crate) rank: u8,
}

/// The rank of columns that are never left out.
pub(crate) const KEPT: u8 = u8::MAX;

/// The maximum line width: `COLUMNS`, else the terminal's width, else no limit.
pub(crate) fn width() -> Option<usize> {
    let set = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|width| *width > 0);
    let measured = || {
        let is_terminal = std::io::stdout().is_terminal();
        terminal_size::terminal_size().filter(|_| is_terminal).map(|(width, _)| usize::from(width.0))
    };
    set.or_else(measured)
}

/// The rows below their headings, in lines of at most `width` columns. Columns without any text are left out.
pub(crate) fn table<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: Option<usize>) -> String {
    let natural = |place: usize| {
        let cells = rows.iter().map(|row| row[place].width()).max().unwrap_or_default();
        (cells > 0).then(|| cells.max(columns[place].head.width()))
    };
    let widths = fit(columns, std::array::from_fn(natural), width);
    let heads = columns.each_ref().map(|column| column.head.to_owned());
    let bold = style::BOLD;
    let mut text = format!("{bold}{}{bold:#}\n", line(&heads, &widths));
    for row in rows {
        text.push_str(&line(row, &widths));
        text.push('\n');
    }
    text
}

/// Shortens and drops columns until the line fits.
fn fit<const N: usize>(columns: &[Column; N], natural: [Option<usize>; N], width: Option<usize>) -> [Option<usize>; N] {
    let Some(limit) = width else { return natural };
    let mut wanted = natural;
    loop {
        let mut widths = wanted;
        while total(&widths) > limit {
            let can_shrink = |place: &usize| {
                widths[*place].zip(columns[*place].width_min).is_some_and(|(width, width_min)| width > width_min)
            };
            let Some(widest) = (0..N).filter(can_shrink).max_by_key(|place| widths[*place]) else { break };
            widths[widest] = widths[widest].map(|width| width - 1);
        }
        let is_spare = |place: &usize| wanted[*place].is_some() && columns[*place].rank != KEPT;
        let least = (0..N).filter(is_spare).min_by_key(|place| columns[*place].rank);
        match least {
            Some(least) if total(&widths) > limit => wanted[least] = None,
            _ => return widths,
        }
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    shown.clone().sum::<usize>() + GAP.len() * shown.count().saturating_sub(1)
}

fn line<const N: usize>(cells: &[String; N], widths: &[Option<usize>; N]) -> String {
    let shown = cells.iter().zip(widths).filter_map(|(cell, width)| {
        let width = (*width)?;
        let cell = cut(cell, width);
        let gap = " ".repeat(width.saturating_sub(cell.width()));
        Some(cell + &gap)
    });
    shown.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
}

/// As much text as `width` columns hold, with a mark where something is missing.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mark = style::ellipsis();
    let room = width.saturating_sub(mark.width());
    let mut shown = String::new();
    for c in text.chars() {
        shown.push(c);
        if shown.width() > room {
            shown.pop();
            break;
        }
    }
    shown.truncate(shown.trim_end().len());
    shown + mark
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { head: "ID", width_min: None, rank: KEPT },
        Column { head: "NAME", width_min: Some(6), rank: 1 },
        Column { head: "AGE", width_min: None, rank: 2 },
    ];

    fn rows() -> [[String; 3]; 2] {
        [["a1", "a name of twenty-one c", "3 s"], ["b22", "漢字漢字", "14 min"]].map(|row| row.map(str::to_owned))
    }

    fn lines(width: Option<usize>) -> Vec<String> {
        let text = anstream::adapter::strip_str(&table(&COLUMNS, &rows(), width)).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn without_a_limit_nothing_is_shortened() {
        let lines = lines(None);
        assert_eq!(lines[1], "a1   a name of twenty-one c  3 s");
        assert_eq!(lines[2], "b22  漢字漢字                14 min", "wide characters count twice");
    }

    #[test]
    fn a_table_fits_whatever_the_width_is_and_keeps_what_matters_most() {
        for width in 3..40 {
            for line in lines(Some(width)) {
                assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
        let mark = style::ellipsis();
        assert_eq!(lines(Some(24))[1], format!("a1   {:<11}  3 s", cut("a name of twenty-one c", 11)));
        assert!(lines(Some(24))[1].contains(mark));
        assert_eq!(lines(Some(12))[2], "b22  14 min", "the name cannot be read in what is left");
        assert_eq!(lines(Some(5))[2], "b22");
    }

    #[test]
    fn a_column_without_text_is_left_out() {
        let rows = [["a".to_owned(), String::new(), "b".to_owned()]];
        let text = anstream::adapter::strip_str(&table(&COLUMNS, &rows, None)).to_string();
        assert_eq!(text, "ID  AGE\na   b\n");
    }
}
