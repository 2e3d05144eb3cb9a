//! The `outlive` command: a demonstration, and verbs for runs in a database or behind a server: start, list, show,
//! follow, cancel.
//!
//! It has no rules of its own: statuses, results and logs are read through the library. Standard output carries the
//! result, standard error everything else.

mod cli;
mod cmd;
mod demo;
mod exit;
mod files;
mod fold;
mod graph;
mod inputs;
mod lines;
mod log;
mod output;
mod progress;
mod runs;
mod settings;
mod stop;
mod store;
mod style;
mod table;
mod times;

use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Command};
use exit::{Exit, Problem};
use log::Log;
use settings::Settings;
use std::process::ExitCode;

/// A run allocates many small, short-lived objects on one thread and frees them on another (decision 014).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    report_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    cli.global.color.apply();
    let done = start(&cli);
    let exit = done.unwrap_or_else(|problem| problem.report(cli.global.json));
    ExitCode::from(exit as u8)
}

fn start(cli: &Cli) -> Result<Exit, Problem> {
    if !matches!(cli.command, Command::Version(_)) {
        Settings::take_env_file(&cli.global)?;
    }
    let log = Log::start(cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let done = cmd::run(cli, &log).await;
        // Programs that this process has started end with it.
        outlive::agent::tool::MCPTools::close_sessions().await;
        done
    });
    // Once it has answered, a command does not wait for other work in this process: everything is on disk.
    runtime.shutdown_background();
    done
}

/// Help and version are results; with `--json`, a mistake in the arguments is a problem like any other.
fn refuse(error: &clap::Error) -> ExitCode {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let is_json = std::env::args_os().any(|argument| argument == "--json");
    if is_json && !is_help {
        let text = error.render().to_string();
        let (first, rest) = text.trim().split_once("\n\n").unwrap_or((text.trim(), ""));
        let problem = Problem::new(Exit::Usage, "usage", first.trim_start_matches("error: ").trim());
        return ExitCode::from(problem.hint(rest.trim()).report(true) as u8);
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
}

/// A panic is our bug: print a short report instead of a backtrace, unless `RUST_BACKTRACE` asks for one.
fn report_panics() {
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        use std::io::Write;
        let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        let said = panic.payload_as_str().unwrap_or("no message");
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(
            std::io::stderr(),
            "outlive {version} hit a bug{place}: {said}\n\
             Everything acknowledged is on disk; runs resume in the next process.\n\
             For a report, please run it again with RUST_BACKTRACE=1"
        );
    }));
}
