//! Where output goes: the result to standard output, remarks to standard error. Each line is written at once, so that
//! readers see it immediately.

use crate::cli::Global;
use crate::exit::Problem;
use serde_json::Value;
use std::fmt::Display;
use std::io::{self, Write};

/// Writes to standard output, without colours where they are off.
pub(crate) fn write(text: impl Display) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    write!(stdout, "{text}")?;
    stdout.flush()
}

/// [`write()`] plus a line end.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    write(format_args!("{text}\n"))
}

/// The same for a process that executes: a reader that has gone away (`| head`) stops no run.
pub(crate) fn unless_gone<E: Into<Problem>>(written: Result<(), E>) -> Result<(), Problem> {
    match written.map_err(Into::into) {
        Err(problem) if problem.is_silent() => Ok(()),
        written => written,
    }
}

/// One JSON document, or one line of a stream of them.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{value}")?;
    stdout.flush()
}

/// A remark on standard error; nothing with `--quiet` and `--json`.
pub(crate) fn note(global: &Global, text: impl Display) {
    if !(global.quiet || global.json) {
        // Having nobody to tell is no reason to stop.
        let _ = writeln!(anstream::stderr().lock(), "{text}");
    }
}
