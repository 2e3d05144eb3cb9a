//! `outlive audit`: who was refused and who did what, newest first.

use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::Settings;
use crate::store::Store;
use crate::style::{self, DIM};
use crate::{output, times};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use outlive::core::port::{Access, AuditFilter, AuditKind, AuditRecord};
use outlive::serving::audit::AuditLine;
use serde_json::json;
use std::time::Duration;

/// Show who was refused, and who cancelled, reran, deleted, created or revoked what, newest first
///
/// Servers and commands on this database append records; nothing changes or removes them.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only records of this kind, like auth_failed or run_cancel
    #[arg(long, value_name = "KIND", hide_possible_values = true, value_parser = kinds())]
    kind: Option<AuditKind>,
    /// Only by this actor (key:ID, user:ID, security_key, anonymous, cli), or by callers who are this user
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only records this recent, for example 1d
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    since: Option<Duration>,
    /// How many records at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

fn kinds() -> impl TypedValueParser<Value = AuditKind> {
    let names = AuditKind::ALL.map(AuditKind::as_str);
    PossibleValuesParser::new(names).map(|name| AuditKind::parse(&name).expect("it is one of the names"))
}

impl Audit {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let store = Store::look_at(Settings::load(global)?.db, global).await?;
        let now = times::now();
        let (records, has_more) = self.read(&store).await?;
        if global.json {
            let records: Vec<_> = records.iter().map(AuditLine::new).collect();
            output::json(&json!({ "records": records, "more": has_more }))?;
            return Ok(Exit::Done);
        }
        if records.is_empty() {
            output::note(global, format_args!("no such records in {}", store.path.display()));
        }
        for record in &records {
            output::line(shown(record, global, now))?;
        }
        if has_more {
            output::note(global, format_args!("more with: -n {}", self.limit.saturating_mul(5)));
        }
        Ok(Exit::Done)
    }

    async fn read(&self, store: &Store) -> Result<(Vec<AuditRecord>, bool), Problem> {
        let limit = self.limit as usize;
        let since = self.since.map(|since| {
            let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            outlive::core::Timestamp::from_micros(times::now().as_micros().saturating_sub(micros))
        });
        let actor = self.actor.as_deref().map(Into::into);
        let mut filter = AuditFilter { kind: self.kind, actor, since, ..AuditFilter::default() };
        let mut records = Vec::new();
        loop {
            // Ask for one more than needed to see whether there are more.
            filter.limit = u32::try_from(limit + 1 - records.len()).unwrap_or(u32::MAX);
            let page = store.db.audit(Access::All, filter.clone()).await?;
            records.extend(page.records);
            if page.next.is_none() || records.len() > limit {
                let has_more = records.len() > limit;
                records.truncate(limit);
                return Ok((records, has_more));
            }
            filter.before = page.next;
        }
    }
}

/// `3 min ago  run_cancel     requested  key:x (ada) from 127.0.0.1  POST /api/runs/{run_id}/cancel  RUN`.
fn shown(record: &AuditRecord, global: &Global, now: outlive::core::Timestamp) -> String {
    let user = record.user_id.as_deref().map(|user| format!(" ({})", style::line(user, 40))).unwrap_or_default();
    let address = record.address.map(|address| format!(" from {address}")).unwrap_or_default();
    let target = record.target.as_deref().map(|target| format!("  {}", style::line(target, 200))).unwrap_or_default();
    format!(
        "{DIM}{:<10}{DIM:#}  {:<14}  {:<20}  {}{user}{address}  {}{target}",
        times::shown(record.at, global.time_format, now),
        record.kind.as_str(),
        style::line(&record.outcome, 40),
        style::line(record.actor.as_deref().unwrap_or("-"), 80),
        style::line(&record.action, 100),
    )
}
