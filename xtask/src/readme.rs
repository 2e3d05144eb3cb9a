//! The README as a newcomer meets it: its commands are copied line by line into a shell, its example is made a project.
//!
//! Must never type a command that is not written in the README; only the port of the page's server is exchanged. The
//! invariant: what `cargo xtask test` and `cargo xtask demo` run is what the README tells a reader to type.

use crate::Problem;
use crate::cargo::Cargo;
use crate::picture::{self, Folder};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Runs the main job on the embedded store.
pub(crate) const DEMO: &str = "cargo run --locked -p outlive-cli -- demo";
/// Runs every test.
pub(crate) const TEST: &str = "cargo test --workspace --locked";

/// What the output of commands containing this text must contain.
const EXPECTED: &[(&str, &str)] = &[
    (" demo", "Completed"),
    ("outlive demo --resume", "kept from before, not run again"),
    ("outlive demo --resume", "repeated: 1"),
    ("outlive ls", "completed"),
    ("outlive show", "Content Planning Step"),
    ("outlive events", "WorkflowCompleted"),
    ("outlive output", "Week 4"),
    ("outlive run content", "Completed"),
    ("outlive run workflow.yaml", "Completed"),
    ("outlive watch @last", "Completed"),
    ("outlive workflow validate", "fine"),
    ("outlive version", "outlive "),
];
/// A shell's exit code for a process killed by SIGKILL. Only `--crash` may end so.
const KILLED: i32 = 137;
/// Where the page's server listens. The port may be taken.
const ADDRESS: &str = "127.0.0.1:7878";
/// What the page's example must have printed.
const EXAMPLE_SAYS: &str = "Bring an umbrella: it rains in Delft.\nLast city: \"Delft\"\n";

/// A newcomer's session: every command of the page in its order, in an empty folder, then its example.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Problem> {
    let path = cargo.root().join("README.md");
    let page = fs::read_to_string(path).map_err(|e| format!("README.md cannot be read: {e}"))?;
    let folder = Folder::new("newcomer")?;
    let mut shell = Shell::start(cargo, &folder.0)?;
    for command in commands(&page) {
        // The tests are a separate stage.
        if command != TEST {
            shell.copy(command)?;
        }
    }
    drop(shell);
    example(cargo, &page, &folder.0)?;
    picture::check(cargo, &folder.0.join("bin"), &folder.0, &page)
}

/// A persistent shell, like a terminal: what one line exports or starts is there in the next.
struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    root: String,
    address: String,
}

impl Shell {
    fn start(cargo: &Cargo, folder: &Path) -> Result<Self, Problem> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(|e| format!("no port is free: {e}"))?.to_string();
        let mut command = Command::new("sh");
        let is_ours =
            |name: &str| ["OUTLIVE_", "OPENAI_", "OTEL_", "OS_SECURITY_KEY"].iter().any(|b| name.starts_with(b));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_ours)) {
            command.env_remove(name);
        }
        command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("PATH", picture::path_of(&folder.join("bin"))).env("CARGO_INSTALL_ROOT", folder);
        command.env("XDG_CONFIG_HOME", folder).env("OUTLIVE_ADDR", &address).env("LANG", "C.UTF-8");
        let mut child = command.spawn().map_err(|e| format!("`sh` could not be started: {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let root = cargo.root().display().to_string();
        let mut shell = Self { child, input, output: BufReader::new(output), root, address };
        // Anything still running ends with the shell.
        shell.say("exec 2>&1; trap 'kill $! 2>/dev/null' EXIT")?;
        Ok(shell)
    }

    /// Types a line of the page, shows its output and judges it. Cargo commands run in the checkout.
    fn copy(&mut self, line: &str) -> Result<(), Problem> {
        println!("$ {line}");
        let typed = line.replace(ADDRESS, &self.address);
        match typed.starts_with("cargo ") {
            true => self.say(&format!("(cd '{}' && {typed})", self.root))?,
            false => self.say(&typed)?,
        }
        let mut printed = String::new();
        if typed.ends_with('&') {
            self.read_until("Listening on ", &mut printed)?;
            return Ok(());
        }
        self.say(&format!("echo \"{MARK}$?\""))?;
        let end = self.read_until(MARK, &mut printed)?;
        let code: i32 = end.trim().parse().map_err(|_| format!("`{line}` ended with {end:?}"))?;
        judge(line, code, &printed)
    }

    fn say(&mut self, line: &str) -> Result<(), Problem> {
        let input = self.input.as_mut().expect("it is open until the end");
        writeln!(input, "{line}").and_then(|()| input.flush()).map_err(|e| format!("the shell is gone: {e}"))
    }

    /// Shows and collects lines up to one that contains `mark`, and returns what follows the mark.
    fn read_until(&mut self, mark: &str, printed: &mut String) -> Result<String, Problem> {
        loop {
            let mut line = String::new();
            let length = self.output.read_line(&mut line).map_err(|e| format!("its output cannot be read: {e}"))?;
            if length == 0 {
                return Err(format!("the shell ended, after printing:\n{printed}"));
            }
            if let Some((before, after)) = line.split_once(mark) {
                printed.push_str(before);
                return Ok(after.to_owned());
            }
            print!("{line}");
            printed.push_str(&line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// What no command prints.
const MARK: &str = "\u{1}ended ";

fn judge(line: &str, code: i32, printed: &str) -> Result<(), Problem> {
    let is_killed = line.contains("--crash");
    if code != if is_killed { KILLED } else { 0 } {
        return Err(format!("`{line}` ended with {code}, after printing:\n{printed}"));
    }
    let missing = EXPECTED.iter().find(|(part, text)| line.contains(part) && !is_killed && !printed.contains(text));
    match missing {
        Some((_, text)) => Err(format!("`{line}` ended well but its output does not contain `{text}`:\n{printed}")),
        None => Ok(()),
    }
}

/// Makes a project of the page's first Rust and TOML, beside the checkout, and runs it. Who depends on the crate builds it
/// with fewer features than the workspace does: that too goes without a warning.
fn example(cargo: &Cargo, page: &str, folder: &Path) -> Result<(), Problem> {
    let program = block(page, "rust,no_run").ok_or("README.md: no ```rust,no_run block")?;
    let dependencies = block(page, "toml").ok_or("README.md: no ```toml block")?;
    let root = cargo.root().display().to_string();
    let dependencies = dependencies.replace("../outlive/", &format!("{root}/"));
    let package = "[package]\nname = \"packing\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    let workspace = fs::read_to_string(cargo.root().join("Cargo.toml")).map_err(|e| format!("Cargo.toml: {e}"))?;
    // With the workspace's profile, much of what its own commands have built is there.
    let manifest = format!("{package}\n{dependencies}\n{}", sections(&workspace, "profile.dev"));
    let project = folder.join("packing");
    let write = || {
        fs::create_dir_all(project.join("src"))?;
        fs::write(project.join("Cargo.toml"), manifest)?;
        fs::write(project.join("src/main.rs"), program)?;
        // Use the workspace's versions, so that nothing is fetched.
        fs::copy(cargo.root().join("Cargo.lock"), project.join("Cargo.lock")).map(drop)
    };
    write().map_err(|e| format!("the example's project cannot be written: {e}"))?;
    println!("$ cargo run    (the example of the README)");
    let mut command = cargo.command(&["run", "--quiet", "--offline"]);
    command.current_dir(&project).env("CARGO_TARGET_DIR", cargo.root().join("target"));
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("cargo could not be started: {e}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    print!("{complaints}{printed}");
    match output.status.success() && printed == EXAMPLE_SAYS {
        true if complaints.contains("warning: ") => Err("the example was built with a warning".to_owned()),
        true => Ok(()),
        false => Err(format!("the example ended with {} and printed {printed:?}, not {EXAMPLE_SAYS:?}", output.status)),
    }
}

/// The tables of a manifest that have this name, or one that begins with it.
fn sections(manifest: &str, name: &str) -> String {
    let mut is_wanted = false;
    let lines = manifest.lines().filter(|line| {
        if let Some(table) = line.strip_prefix('[') {
            is_wanted = table.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ']']));
        }
        is_wanted
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The page's first block of this language.
fn block<'a>(page: &'a str, language: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("```{language}\n"))?;
    rest.split_once("```").map(|(block, _)| block)
}

/// The words after `cargo` in one of the README's commands.
pub(crate) fn arguments(command: &str) -> Vec<&str> {
    command.split_whitespace().skip(1).collect()
}

/// The commands in the page's ```sh blocks, in order.
pub(crate) fn commands(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page.lines().map(str::trim) {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            found.push(line);
        }
    }
    found
}

/// The page must contain the two commands, the demonstration first.
pub(crate) fn check(page: &str) -> Vec<Problem> {
    let commands = commands(page);
    let mut problems = Vec::new();
    if commands.first() != Some(&DEMO) {
        problems.push(format!("README.md: its first command must be `{DEMO}`"));
    }
    if !commands.contains(&TEST) {
        problems.push(format!("README.md: no ```sh block names `{TEST}`"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_sh_blocks_are_commands() {
        let page = "text\n```sh\n# a comment\nfirst one\n```\n```text\nnot this\n```\n```sh\nsecond\n```\n";
        assert_eq!(commands(page), ["first one", "second"]);
    }

    #[test]
    fn a_page_with_both_commands_is_fine() {
        assert_eq!(check(&format!("```sh\n{DEMO}\n{TEST}\n```")), Vec::<Problem>::new());
    }

    #[test]
    fn a_page_that_lost_a_command_is_found() {
        assert_eq!(check(&format!("```sh\n{TEST}\n```")).len(), 1);
        assert_eq!(check(&format!("```sh\n{DEMO}\n```")).len(), 1);
        assert_eq!(check(&format!("```text\n{DEMO}\n{TEST}\n```")).len(), 2);
        assert_eq!(check(&format!("```sh\n{TEST}\n{DEMO}\n```")).len(), 1, "the demonstration comes first");
    }

    #[test]
    fn a_command_is_judged_by_its_code_and_its_output() {
        assert!(judge(DEMO, 0, "Run ID: 1\nCompleted\n").is_ok());
        assert!(judge(DEMO, 0, "Run ID: 1\n").is_err());
        assert!(judge("outlive ls", 3, "completed").is_err());
        assert!(judge("outlive demo --crash", KILLED, "").is_ok());
        assert!(judge("outlive demo --crash", 0, "Completed").is_err());
    }

    #[test]
    fn the_tables_of_a_name_are_found() {
        let manifest = "[package]\nname = \"a\"\n[profile.dev]\ndebug = 1\n\n[profile.development]\nlto = true\n\
                        [profile.dev.package]\nb.debug = 0\n[profile.test]\ndebug = 2\n";
        let expected = "[profile.dev]\ndebug = 1\n\n[profile.dev.package]\nb.debug = 0\n";
        assert_eq!(sections(manifest, "profile.dev"), expected);
    }

    #[test]
    fn the_first_block_of_a_language_is_found() {
        let page = "```text\nno\n```\n```toml\n[dependencies]\n```\n```toml\nlater\n```\n";
        assert_eq!(block(page, "toml"), Some("[dependencies]\n"));
        assert_eq!(block(page, "rust"), None);
    }
}
