//! `outlive doctor`: checks everything a server needs and reports what it found. It changes and repairs nothing.

use super::size;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::{self, Settings, TABLE};
use crate::style::{self, Mark};
use crate::times::{self, TimeFormat};
use crate::{files, output, runs, store};
use clap::Args;
use outlive::core::port::{Pruned, RetentionStore, RunFilter};
use outlive::db::{Inspection, LogInspection, SqliteDb};
use outlive::{McpProfile, Otlp};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Check the settings, the database and its disk space
///
/// The whole file is read, which takes a moment if it is large. Exit code 0 when all is well, even with remarks; 1 when
/// the database is damaged or not ours; 7 when a setting is invalid; 6 when the named server does not answer.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

/// With this many pages not yet in the database, some reader is holding the write-ahead log (64 MB).
const LOG_PAGES_MAX: u64 = 16_384;
/// With less free space than this, runs soon stall.
const FREE_BYTES_MIN: u64 = 512 << 20;
/// Descriptors a process needs besides those for its connections.
const DESCRIPTORS_BESIDE: u64 = 64;

/// The result of one check.
struct Finding {
    name: &'static str,
    detail: String,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Remark,
    Bad(Exit),
}

impl Finding {
    fn fine(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, detail: detail.into(), verdict: Verdict::Fine }
    }

    fn remark(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, detail: detail.into(), verdict: Verdict::Remark }
    }

    fn bad(name: &'static str, problem: &Problem) -> Self {
        Self { name, detail: problem.text(), verdict: Verdict::Bad(problem.exit) }
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Fine => "ok",
            Verdict::Remark => "remark",
            Verdict::Bad(_) => "bad",
        }
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "verdict": self.word(), "detail": self.detail })
    }

    fn print(&self) -> Result<(), Problem> {
        let mark = match self.verdict {
            Verdict::Fine => Mark::Done,
            Verdict::Remark => Mark::Paused,
            Verdict::Bad(_) => Mark::Failed,
        };
        // Align the detail's lines under each other.
        let detail = style::clean(&self.detail).replace('\n', "\n                  ");
        Ok(output::line(format_args!(" {} {:<14} {detail}", mark.shown(), self.name))?)
    }
}

impl Doctor {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let mut findings = vec![Finding::fine("program", format!("outlive {}", env!("CARGO_PKG_VERSION")))];
        match Settings::load(global) {
            Ok(mut settings) => {
                findings.push(about_settings(&mut settings));
                findings.extend(about_variables());
                findings.extend(about_models(&settings));
                findings.extend(about_mcp(&settings));
                findings.extend(about_server(&settings).await);
                findings.push(about_traces());
                findings.extend(about_descriptors(&settings));
                findings.extend(about_database(&settings).await);
                findings.extend(about_space(&settings.db));
            }
            Err(problem) => findings.push(Finding::bad("settings", &problem)),
        }
        if global.json {
            let is_well = !findings.iter().any(|finding| matches!(finding.verdict, Verdict::Bad(_)));
            output::json(
                &json!({ "ok": is_well, "findings": findings.iter().map(Finding::json).collect::<Vec<_>>() }),
            )?;
        } else {
            findings.iter().try_for_each(Finding::print)?;
        }
        let bad = findings.iter().find_map(|finding| match finding.verdict {
            Verdict::Bad(exit) => Some(exit),
            Verdict::Fine | Verdict::Remark => None,
        });
        Ok(bad.unwrap_or(Exit::Done))
    }
}

/// Where settings come from, and which ones were chosen.
fn about_settings(settings: &mut Settings) -> Finding {
    let files: Vec<_> = Settings::files().iter().map(|path| path.display().to_string()).collect();
    let mut detail = match files.is_empty() {
        false => format!("from {}", files.join(" and ")),
        true => format!("no {} here or above", settings::FILE_NAME),
    };
    for setting in TABLE {
        let origin = settings.origin(setting.name);
        let shown = (setting.place)(settings).shown();
        // `--db` empties the server that it overrides.
        if origin != settings::Origin::Default && !shown.is_empty() {
            detail.push_str(&format!("\n{} = {shown} ({origin})", setting.name));
        }
    }
    Finding::fine("settings", detail)
}

/// Variables that look like settings but are not.
fn about_variables() -> Option<Finding> {
    let secrets = [settings::TOKEN, super::serve::WEBHOOK_SECRET].map(str::to_owned);
    let known: Vec<String> = TABLE.iter().map(settings::Setting::variable).chain(secrets).collect();
    let is_stray = |name: &String| name.starts_with("OUTLIVE_") && !known.contains(name);
    let mut stray: Vec<String> =
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(is_stray).collect();
    stray.sort();
    let nearest = |name: &str| {
        let name = name.trim_start_matches("OUTLIVE_").to_ascii_lowercase();
        let name = name.replacen("limits_", "limits.", 1).replacen("engine_", "engine.", 1);
        let name = name.replacen("retention_", "retention.", 1);
        let known = settings::nearest(&name).and_then(|known| TABLE.iter().find(|setting| setting.name == known));
        known.map(|known| format!(", did you mean {}?", known.variable())).unwrap_or_default()
    };
    let lines: Vec<_> = stray.iter().map(|name| format!("{name} is not a setting{}", nearest(name))).collect();
    (!lines.is_empty()).then(|| Finding::remark("environment", lines.join("\n")))
}

/// What the models that have names lack. No server is asked.
fn about_models(settings: &Settings) -> Option<Finding> {
    let mut lines = Vec::new();
    let mut lacks = false;
    for (name, profile) in &settings.models.0 {
        // What is wrong with a profile was refused with the settings.
        let Ok(resolved) = settings.models.resolve(name) else { continue };
        let problems: Vec<_> =
            std::iter::once(&resolved.model).chain(&resolved.fallbacks).flat_map(|model| model.problems()).collect();
        lacks |= !problems.is_empty();
        let state = if problems.is_empty() { "ready".to_owned() } else { problems.join("; ") };
        lines.push(format!("{name} = {}: {state}", profile.model));
    }
    let finding = if lacks { Finding::remark } else { Finding::fine };
    (!lines.is_empty()).then(|| finding("models", lines.join("\n")))
}

/// What the MCP servers that have names lack. None is started or asked.
fn about_mcp(settings: &Settings) -> Option<Finding> {
    let outbound = match files::outbound(settings) {
        Ok(outbound) => outbound,
        Err(problem) => return Some(Finding::bad("mcp", &problem)),
    };
    let mut lacks = false;
    let lines = settings.servers.iter().map(|(name, server)| {
        let problems = server.lacks(&outbound);
        lacks |= !problems.is_empty();
        let state = match (&problems[..], &server.url) {
            ([], Some(_)) => "ready".to_owned(),
            ([], None) => "ready, where commands are allowed (--allow-commands)".to_owned(),
            _ => problems.join("; "),
        };
        format!("{name} = {}: {state}", mcp_server(server))
    });
    let lines: Vec<_> = lines.collect();
    let finding = if lacks { Finding::remark } else { Finding::fine };
    (!lines.is_empty()).then(|| finding("mcp", lines.join("\n")))
}

/// A server, in a line.
pub(crate) fn mcp_server(server: &McpProfile) -> String {
    style::line(server.url.as_deref().unwrap_or(&server.command.join(" ")), 200)
}

/// Whether the server that the other verbs use answers and admits this caller.
async fn about_server(settings: &Settings) -> Option<Finding> {
    if settings.server.is_empty() {
        return None;
    }
    let asked = async {
        let client = runs::client(settings)?;
        client.runs(&RunFilter { limit: 1, ..RunFilter::default() }).await?;
        Ok::<_, Problem>(format!("{} answers", client.server()))
    };
    Some(match asked.await {
        Ok(detail) => Finding::fine("server", detail),
        Err(problem) => Finding::bad("server", &problem),
    })
}

/// Where spans go, as OpenTelemetry's own variables say. An address may hold a credential, so it is not shown.
fn about_traces() -> Finding {
    match Otlp::from_env() {
        Ok(otlp) if otlp.is_on() => Finding::fine("traces", "sent to the collector that OTEL_EXPORTER_OTLP_… names"),
        Ok(_) => Finding::fine("traces", "not sent: OTEL_EXPORTER_OTLP_ENDPOINT names no collector"),
        Err(error) => Finding::bad("traces", &error.into()),
    }
}

/// The file, as far as it is readable.
async fn about_database(settings: &Settings) -> Vec<Finding> {
    let path = settings.db.display();
    if !settings.db.exists() {
        return vec![Finding::fine("database", format!("none yet at {path}; it is created on first use"))];
    }
    let inspected = async {
        let db = store::handle(settings)?.read_only();
        let found = db.inspect().await?;
        let keys = db.keys().await?.len();
        let kept = if found.faults.is_empty() { Some(about_retention(settings, &db).await?) } else { None };
        Ok::<_, Problem>((found, keys, kept))
    };
    match inspected.await {
        Err(problem) => vec![Finding::bad("database", &problem)],
        Ok((found, keys, kept)) if found.faults.is_empty() => {
            let size = size(found.bytes);
            let keys = style::counted(keys, "API key");
            vec![
                Finding::fine("database", format!("{path}, format {}, {size}, {keys}", found.format)),
                Finding::fine("sqlite", found.sqlite_version.clone()),
                Finding::fine("integrity", "the whole file was read and is sound"),
                about_log(&found.log),
                about_free_pages(&found),
            ]
            .into_iter()
            .chain(kept)
            .collect()
        }
        Ok((found, ..)) => {
            let message = format!("{path} is damaged: {}", found.faults.join("; "));
            let problem = Problem::new(Exit::Other, "database_corrupt", message).hint("restore the file from a backup");
            vec![Finding::bad("integrity", &problem)]
        }
    }
}

/// Whether a reader keeps the log from restarting.
fn about_log(log: &LogInspection) -> Finding {
    let left = log.pages.saturating_sub(log.copied);
    let pages = format!("{} pages, {left} of them not yet in the database", log.pages);
    let readers =
        if log.readers.is_empty() { String::new() } else { format!("\nread at this moment by {}", log.readers) };
    if left > LOG_PAGES_MAX {
        let advice = "an open read transaction holds it, and it grows until that transaction ends";
        Finding::remark("log", format!("{pages}: {advice}{readers}"))
    } else {
        Finding::fine("log", format!("{pages}{readers}"))
    }
}

fn about_free_pages(found: &Inspection) -> Finding {
    let free = format!("{} of the file are free", size(found.free_bytes));
    if found.is_incremental {
        Finding::fine("free pages", format!("{free} and are returned to the disk while it is idle"))
    } else {
        Finding::remark("free pages", format!("{free} and stay in the file: it shrinks with outlive db vacuum"))
    }
}

/// What is kept, by the settings here, and what was deleted so far, by whomever.
async fn about_retention(settings: &Settings, db: &SqliteDb) -> Result<Finding, Problem> {
    let retention = settings.engine.retention;
    let now = times::now();
    let mut lines = vec![if retention.is_unlimited() {
        "every run is kept, unless its workflow says otherwise: retention.max_age limits it".to_owned()
    } else {
        let age = |age: Duration| times::ahead(now + age, now).trim_start_matches("in ").to_owned();
        let limits = [
            retention.max_age.map(|max| format!("for {} after their end", age(max))),
            retention.max_runs.map(|max| format!("the last {max}")),
            retention.max_bytes.map(|max| format!("as long as the file has no more than {} in use", size(max))),
        ];
        format!("runs are kept {}", limits.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }];
    let used = db.used_bytes().await?;
    lines.push(format!("{} of the file are in use", size(used)));
    for Pruned { scope, runs, bytes, at } in db.pruned().await? {
        let of = if scope.is_empty() { String::new() } else { format!(" of {}", style::line(&scope, 60)) };
        let last = times::shown(at, TimeFormat::Relative, now);
        let (runs, bytes) = (style::counted(usize::try_from(runs).unwrap_or(usize::MAX), "run"), size(bytes));
        lines.push(format!("{runs}{of} were deleted so far ({bytes}); last looked {last}"));
    }
    Ok(Finding::fine("retention", lines.join("\n")))
}

#[cfg(unix)]
fn about_space(path: &Path) -> Option<Finding> {
    // The directory may not exist yet; the nearest existing one above is presumably on the same disk.
    let here = std::env::current_dir().ok()?.join(path);
    let directory = here.ancestors().skip(1).find(|directory| directory.is_dir())?;
    let space = rustix::fs::statvfs(directory).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let detail = format!("{} free in {}", size(free), directory.display());
    Some(if free < FREE_BYTES_MIN {
        Finding::remark("disk", format!("{detail}; runs stall when it is full"))
    } else {
        Finding::fine("disk", detail)
    })
}

#[cfg(not(unix))]
fn about_space(_: &Path) -> Option<Finding> {
    None
}

/// Whether the system allows the server its configured number of connections.
#[cfg(unix)]
fn about_descriptors(settings: &Settings) -> Option<Finding> {
    let Some(allowed) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else {
        return Some(Finding::fine("descriptors", "no limit"));
    };
    let wanted = settings.limits.connections_max as u64 + DESCRIPTORS_BESIDE;
    Some(if allowed < wanted {
        let detail = format!(
            "{allowed} allowed, limits.connections_max needs {wanted}: raise it (ulimit -n {wanted}) or lower the setting"
        );
        Finding::remark("descriptors", detail)
    } else {
        Finding::fine("descriptors", format!("{allowed} allowed"))
    })
}

#[cfg(not(unix))]
fn about_descriptors(_: &Settings) -> Option<Finding> {
    None
}
