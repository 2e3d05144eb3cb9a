//! Log lines, on standard error: how much, in which form, and without secrets.
//!
//! ```text
//! tracing ──► one line ──► redaction: what the environment holds, what the engine knows, what looks like a credential ──► stderr
//! ```
//! It must never hold back or lose a line. The invariant: no line reaches standard error without redaction.

use crate::cli::{Cli, Command};
use crate::exit::Problem;
use crate::settings::{self, LogFormat, Origin, Settings};
use outlive::Engine;
use outlive::core::{Redactor, Secret};
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

/// Name endings of variables that hold secrets.
const SECRET_ENDINGS: [&str; 5] = ["KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIALS"];

/// Where log lines go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log(Arc<Lines>);

struct Lines {
    format: LogFormat,
    environment: Redactor,
    /// The redaction of the engine this process executes with, once it has one.
    engine: OnceLock<Arc<Redactor>>,
}

impl Log {
    /// Starts logging: warnings, more with `-v`, or what `OUTLIVE_LOG` says. For long-running commands, `outlive.toml`
    /// may say it too.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(crate) fn start(cli: &Cli) -> Result<Self, Problem> {
        let settings = match &cli.command {
            Command::Serve(serve) => serve.settings(&cli.global)?,
            Command::Dev(dev) => dev.settings(&cli.global)?,
            Command::Worker(worker) => worker.settings(&cli.global)?,
            _ => Settings::for_logging(),
        };
        let is_overruled = matches!(settings.origin("log"), Origin::File(_)) && cli.global.verbose > 0;
        let wanted = Some(settings.log.trim()).filter(|text| !text.is_empty() && !is_overruled);
        let level = match cli.global.verbose {
            0 => "warn",
            1 => "info",
            _ => "debug",
        };
        let wanted = wanted.unwrap_or(level);
        let filter = wanted.parse::<Targets>().map_err(|error| {
            settings::configuration(format!("OUTLIVE_LOG cannot be read: {error}"))
                .hint("write a level, or levels by module: OUTLIVE_LOG=info,outlive_engine=debug")
        })?;
        // It would log what MCP servers send.
        let filter = if wanted.contains("rmcp") { filter } else { filter.with_target("rmcp", LevelFilter::OFF) };
        let environment = Redactor::new(secrets(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        ));
        let log = Self(Arc::new(Lines { format: settings.log_format, environment, engine: OnceLock::new() }));
        let is_plain = anstream::AutoStream::choice(&io::stderr()) == anstream::ColorChoice::Never;
        let lines = tracing_subscriber::fmt::layer().with_writer(log.clone());
        let lines = match settings.log_format {
            LogFormat::Text => lines.with_ansi(!is_plain).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        };
        registry().with(lines.with_filter(filter)).init();
        Ok(log)
    }

    /// From now on also removes what this engine keeps out of its store.
    pub(crate) fn know(&self, engine: &Engine) {
        // A process has one executing engine; a second one would know no other secrets.
        let _ = self.0.engine.set(engine.redactor());
    }
}

/// The secret values of these variables.
fn secrets(variables: impl Iterator<Item = (String, String)>) -> impl Iterator<Item = Secret> {
    let is_secret = |name: &str| SECRET_ENDINGS.iter().any(|ending| name.to_ascii_uppercase().ends_with(ending));
    variables.filter(move |(name, _)| is_secret(name)).map(|(_, value)| Secret::new(value))
}

impl Lines {
    fn clean<'t>(&self, line: &'t str) -> Cow<'t, str> {
        let redactors = std::iter::once(&self.environment).chain(self.engine.get().map(|redactor| &**redactor));
        redactors.fold(Cow::Borrowed(line), |line, redactor| {
            if redactor.is_clean(&line) {
                return line;
            }
            let mut clean = match self.format {
                LogFormat::Text => redactor.text(&line).into_owned(),
                LogFormat::Json => redactor.json(&line).into_owned(),
            };
            if !clean.ends_with('\n') {
                clean.push('\n');
            }
            Cow::Owned(clean)
        })
    }
}

/// Takes one line.
pub(crate) struct Line<'a>(&'a Lines);

impl Write for Line<'_> {
    /// The subscriber hands over a whole line at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        io::stderr().lock().write_all(self.0.clean(&line).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const KEY: &str = "planted-canary/with \"quotes\" and\nlines";

    fn lines(format: LogFormat) -> Lines {
        let variables = [("SOME_API_KEY", KEY), ("HOME", "/home/of-nobody"), ("other_token", "token-of-another")];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Lines { format, environment: Redactor::new(secrets(variables)), engine: OnceLock::new() }
    }

    #[test]
    fn variables_that_hold_secrets_are_known_by_their_names() {
        let text = lines(LogFormat::Text);
        assert_eq!(text.clean("a token-of-another in /home/of-nobody\n"), "a [redacted] in /home/of-nobody\n");
    }

    #[test]
    fn a_line_loses_secrets_in_both_forms_and_stays_one() {
        let text = lines(LogFormat::Text);
        assert!(matches!(text.clean("nothing\n"), Cow::Borrowed("nothing\n")));
        let line = text.clean(&format!("WARN error={KEY:?} at x with {KEY}\n")).into_owned();
        assert_eq!(line, "WARN error=\"[redacted]\" at x with [redacted]\n");
        let json_lines = lines(LogFormat::Json);
        let line =
            format!("{}\n", json!({ "error": format!("it said\n{KEY}"), "inner": json!({ "key": KEY }).to_string() }));
        let clean = json_lines.clean(&line).into_owned();
        assert!(clean.ends_with("}\n") && clean.lines().count() == 1, "{clean}");
        let read: Value = serde_json::from_str(&clean).unwrap();
        assert_eq!(read, json!({ "error": "it said\n[redacted]", "inner": "{\"key\":\"[redacted]\"}" }));
    }

    #[test]
    fn what_looks_like_a_credential_goes_whoever_it_belongs_to() {
        let line = lines(LogFormat::Text).clean("sent Bearer abcdefghijklmnopqrst\n").into_owned();
        assert_eq!(line, "sent Bearer [redacted]\n");
    }
}
