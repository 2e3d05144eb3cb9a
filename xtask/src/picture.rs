//! The picture of the README: what a terminal shows when a run is killed and taken up again, recorded from the program.
//!
//! Must never make up a line. The invariant: what is drawn was printed; [`check`] runs the program again and compares all
//! that does not depend on chance (ids, times, where in the streamed text the kill struck).

use crate::Problem;
use crate::cargo::Cargo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where it is, from the workspace's root.
const PLACE: &str = "docs/demo.svg";

/// What is typed.
const COMMANDS: [&str; 2] = ["outlive demo --crash", "outlive demo --resume"];

const LINE_HEIGHT: usize = 19;
const COLUMN_WIDTH: f64 = 8.43;
const MARGIN: usize = 20;

/// A separate folder for a session; removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Result<Self, Problem> {
        let path = std::env::temp_dir().join(format!("outlive-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("{} cannot be made: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Records a session and draws it: of the program in the folder that is named, else of one that is built for it.
pub(crate) fn run(cargo: &Cargo, programs: &[String]) -> Result<(), Problem> {
    let folder = Folder::new("picture")?;
    let lines = match programs.first() {
        Some(programs) => record(&cargo.root().join(programs), &folder.0)?,
        None => {
            let root = folder.0.display().to_string();
            cargo.run(&["install", "--locked", "--debug", "--quiet", "--path", "crates/cli", "--root", &root])?;
            record(&folder.0.join("bin"), &folder.0)?
        }
    };
    let path = cargo.root().join(PLACE);
    fs::write(&path, draw(&lines)).map_err(|e| format!("{PLACE} cannot be written: {e}"))?;
    println!("{}", lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// Runs the program in `programs` and wants the picture and the page's sample to show what it prints.
pub(crate) fn check(cargo: &Cargo, programs: &Path, folder: &Path, page: &str) -> Result<(), Problem> {
    let printed: Vec<_> = record(programs, folder)?.iter().map(|line| plain(line)).collect();
    let drawn = fs::read_to_string(cargo.root().join(PLACE)).map_err(|e| format!("{PLACE} cannot be read: {e}"))?;
    let sample = sample(page).ok_or("README.md: no ```text block shows the kill and the resume")?;
    for (what, shown) in [(PLACE, texts(&drawn)), ("README.md", sample.lines().map(str::to_owned).collect())] {
        let (shown, printed) = (skeleton(&shown), skeleton(&printed));
        if shown != printed {
            let both = format!("shown:\n{}\nprinted:\n{}", shown.join("\n"), printed.join("\n"));
            return Err(format!("{what} shows other output than the program's: run `cargo xtask picture`\n{both}"));
        }
    }
    Ok(())
}

/// The block of the page that begins with the first command.
fn sample(page: &str) -> Option<&str> {
    let blocks = page.split("```text\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    blocks.into_iter().find(|block| block.starts_with(&format!("$ {}", COMMANDS[0])))
}

/// What a terminal shows: each command, and what it prints with its colours.
fn record(programs: &Path, folder: &Path) -> Result<Vec<String>, Problem> {
    let mut lines = Vec::new();
    for command in COMMANDS {
        let mut shell = Command::new("sh");
        // By a shell, which says of a process that was killed that it was.
        shell.args(["-c", &format!("exec 2>&1; {command} --color always --db picture.db; true")]);
        shell
            .current_dir(folder)
            .stdin(Stdio::null())
            .env_clear()
            .env("LANG", "C.UTF-8")
            .env("PATH", path_of(programs));
        let output = shell.output().map_err(|e| format!("`{command}` could not be started: {e}"))?;
        let text =
            String::from_utf8(output.stdout).map_err(|_| format!("`{command}` printed text that is not UTF-8"))?;
        lines.push(format!("$ {command}"));
        lines.extend(text.replace(" --db picture.db", "").replace("picture.db", "demo.db").lines().map(str::to_owned));
    }
    Ok(lines)
}

/// `PATH` with this folder first.
pub(crate) fn path_of(programs: &Path) -> String {
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default())
}

/// What two sessions have in common: without the lines of streamed text and of tools, which are indented, and with a mark
/// for each word that has a digit in it.
fn skeleton(lines: &[String]) -> Vec<String> {
    let mark = |word: &str| if word.contains(|c: char| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() };
    let bare = |line: &String| line.split_whitespace().map(mark).collect::<Vec<_>>().join(" ");
    let is_kept = |line: &&String| !line.starts_with("   ") && !line.trim().is_empty();
    let kept: Vec<_> = lines.iter().filter(is_kept).map(bare).collect();
    kept.into_iter().filter(|line| !matches!(line.as_str(), "Killed" | "")).collect()
}

/// A line without its escape sequences.
fn plain(line: &str) -> String {
    pieces(line).into_iter().map(|(_, text)| text).collect()
}

/// The line's texts, each with the codes that hold for it.
fn pieces(line: &str) -> Vec<(Vec<u8>, String)> {
    let mut pieces = vec![(Vec::new(), String::new())];
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        let (codes, after) = after.split_once('m').unwrap_or((after, ""));
        let last = pieces.last_mut().expect("it begins with one");
        last.1.push_str(before);
        let mut holding = last.0.clone();
        for code in codes.split(';').map(|code| code.parse().unwrap_or(0)) {
            if code == 0 {
                holding.clear();
            } else {
                holding.push(code);
            }
        }
        pieces.push((holding, String::new()));
        rest = after;
    }
    pieces.last_mut().expect("it begins with one").1.push_str(rest);
    pieces
}

/// The class of a code: what the picture's own style sheet calls it.
fn class(code: u8) -> Option<&'static str> {
    match code {
        1 => Some("b"),
        2 => Some("d"),
        31 | 91 => Some("r"),
        32 | 92 => Some("g"),
        33 | 93 => Some("y"),
        34 | 36 | 94 | 96 => Some("c"),
        _ => None,
    }
}

fn draw(lines: &[String]) -> String {
    let widest = lines.iter().map(|line| plain(line).chars().count()).max().unwrap_or_default();
    let width = (widest as f64 * COLUMN_WIDTH) as usize + 2 * MARGIN;
    let height = lines.len() * LINE_HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"outlive demo --crash, then outlive demo --resume\">\n\
         <style>text{{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d8dee9;white-space:pre}}\
         .b{{font-weight:bold}}.d{{fill:#8b95a7}}.r{{fill:#f07178}}.g{{fill:#a3be8c}}.y{{fill:#ebcb8b}}\
         .c{{fill:#88c0d0}}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1f2430\"/>\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + (number + 1) * LINE_HEIGHT - 5;
        let spans: String = pieces(line).iter().filter(|(_, text)| !text.is_empty()).map(span).collect();
        svg.push_str(&format!("<text x=\"{MARGIN}\" y=\"{y}\" xml:space=\"preserve\">{spans}</text>\n"));
    }
    svg.push_str("</svg>\n");
    svg
}

fn span((codes, text): &(Vec<u8>, String)) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let classes: Vec<_> = codes.iter().filter_map(|code| class(*code)).collect();
    match classes.is_empty() {
        true => text,
        false => format!("<tspan class=\"{}\">{text}</tspan>", classes.join(" ")),
    }
}

/// The lines of a picture as texts.
fn texts(svg: &str) -> Vec<String> {
    let lines = svg.lines().filter_map(|line| line.strip_prefix("<text ")?.split_once('>')?.1.strip_suffix("</text>"));
    let bare = |line: &str| {
        let mut parts = line.split('<');
        let mut text = parts.next().unwrap_or_default().to_owned();
        parts.for_each(|part| text.push_str(part.split_once('>').map_or("", |(_, after)| after)));
        text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    };
    lines.map(bare).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_drawn_can_be_read_again() {
        let recorded = lines("$ outlive demo\n \u{1b}[32m✓\u{1b}[0m Step <1> & more\n\n   \u{1b}[2mtool\u{1b}[0m end");
        let plain: Vec<_> = recorded.iter().map(|line| super::plain(line)).collect();
        assert_eq!(texts(&draw(&recorded)), plain);
        assert_eq!(plain[1], " ✓ Step <1> & more");
        assert!(draw(&recorded).contains("<tspan class=\"g\">✓</tspan> Step &lt;1&gt; &amp; more"));
    }

    #[test]
    fn two_sessions_are_alike_where_only_chance_differs() {
        let one = lines("$ outlive demo\nRun     01a2\n ✓ Step   2.1 s\n   streamed te\nKilled\nrepeated: 1");
        let other = lines("$ outlive demo\nRun 99ff\n ✓ Step 13.0 s\n   streamed text, more\nrepeated: 1");
        assert_eq!(skeleton(&one), skeleton(&other));
        assert_ne!(skeleton(&one), skeleton(&lines("$ outlive demo\nRun 99ff\n ✕ Step 13.0 s\nrepeated: 1")));
    }

    #[test]
    fn the_sample_is_the_block_that_begins_with_the_first_command() {
        let page = "```text\nother\n```\n```text\n$ outlive demo --crash\nKilled\n```\n";
        assert_eq!(sample(page), Some("$ outlive demo --crash\nKilled\n"));
        assert_eq!(sample("```text\nother\n```"), None);
    }
}
