//! `outlive keys`: the credentials of callers, kept in the database as digests.
//!
//! The invariant: a key's text is printed once, when it is created, and kept nowhere.

use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::Settings;
use crate::style::{self, DIM};
use crate::{output, store, times};
use clap::{Args, Subcommand};
use outlive::SqliteKeys;
use outlive::core::port::{Access, AuditKind, ScheduleFilter, ScheduleStore, StoredSchedule};
use outlive::db::SqliteDb;
use outlive::serving::auth::key::{KeyRecord, KeyStore, NewKey};
use outlive::serving::auth::scope::{KNOWN, Scopes, is_known, known};
use serde_json::{Value, json};
use std::time::Duration;

/// Creates a key that works for the verbs about runs.
pub(super) const MINT: &str = "keys mint --scope runs:read,runs:write,workflows:run,questions:read,questions:answer";
/// How many letters a mistyped scope may differ by.
const TYPO_MAX: usize = 3;

/// Create, list and revoke API keys
///
/// A server on this database requires one of them from its next start; once it runs with keys, creating and revoking
/// them takes effect at once.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Mint(Mint),
    Ls(Ls),
    Revoke(Revoke),
}

/// Create a key and print it, only this once
#[derive(Debug, Args)]
#[command(after_help = scopes())]
struct Mint {
    /// What its holder may do: one of the scopes below, several with commas between; may be given several times
    #[arg(long, value_name = "SCOPE", required = true, value_delimiter = ',', value_parser = scope)]
    scope: Vec<String>,
    /// Whose runs and sessions its holder reaches [default: everybody's]
    #[arg(long, value_name = "USER", value_parser = super::user)]
    user: Option<String>,
    /// When it expires, for example 30d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    expires: Option<Duration>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

/// List keys, oldest first, including those that have ended
#[derive(Debug, Args)]
struct Ls {}

/// Revoke a key for good, on every server at once
#[derive(Debug, Args)]
struct Revoke {
    /// Its id, from `outlive keys ls`
    #[arg(value_name = "ID")]
    id: String,
}

impl Keys {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let settings = Settings::load(global)?;
        if !settings.db.exists() && !matches!(self.verb, Verb::Mint(_)) {
            let message = format!("no database at {}", settings.db.display());
            let problem = Problem::new(Exit::NotFound, "database_not_found", message);
            return Err(problem.hint("name the file with --db"));
        }
        if !settings.db.exists() {
            output::note(global, format_args!("Making the database {}", settings.db.display()));
        }
        let db = store::handle(&settings)?;
        let db = if matches!(self.verb, Verb::Ls(_)) { db.read_only() } else { db };
        let keys = SqliteKeys::new(db.clone());
        match &self.verb {
            Verb::Mint(mint) => mint.run(&db, &keys, global).await,
            Verb::Ls(Ls {}) => list(&keys, global).await,
            Verb::Revoke(revoke) => revoke.run(&db, &keys, global).await,
        }
    }
}

impl Mint {
    async fn run(&self, db: &SqliteDb, keys: &SqliteKeys, global: &Global) -> Result<Exit, Problem> {
        let now = times::now();
        let new = NewKey {
            name: self.name.clone().unwrap_or_default(),
            scopes: Scopes::parse(self.scope.iter().map(String::as_str)),
            user_id: self.user.as_deref().map(Into::into),
            expires_at: self.expires.map(|period| now + period),
        };
        let (secret, record) = KeyRecord::mint(new, now);
        let document = json(&record);
        keys.add(record.clone()).await?;
        // Record it before printing: no key may exist without a record.
        store::note(db, AuditKind::KeyMint, "done", "outlive keys mint", &record.id).await?;
        if global.json {
            let mut document = document;
            document["key"] = json!(secret.expose());
            output::json(&document)?;
        } else {
            output::note(global, format_args!("Key {}; it is shown this once:", record.id));
            output::line(secret.expose())?;
        }
        Ok(Exit::Done)
    }
}

impl Revoke {
    async fn run(&self, db: &SqliteDb, keys: &SqliteKeys, global: &Global) -> Result<Exit, Problem> {
        if !keys.revoke(&self.id, times::now()).await? {
            let problem = Problem::new(Exit::NotFound, "key_not_found", format!("there is no key {}", self.id));
            return Err(problem.hint(format!("see them all with: {}", global.command("keys ls"))));
        }
        store::note(db, AuditKind::KeyRevoke, "done", "outlive keys revoke", &self.id).await?;
        let left = self.schedules(db, keys).await?;
        if global.json {
            let ids: Vec<&str> = left.iter().map(|schedule| &*schedule.id).collect();
            output::json(&json!({ "id": self.id, "revoked": true, "schedules": ids }))?;
            return Ok(Exit::Done);
        }
        output::line(format_args!("{} revoked", style::line(&self.id, 60)))?;
        if !left.is_empty() {
            let pause = global.command("schedule pause ID");
            output::note(global, format_args!("Its user's schedules still make runs; to stop one: {pause}"));
        }
        for schedule in &left {
            output::line(format_args!("  {}  {}", schedule.id, style::line(&schedule.name, 60)))?;
        }
        Ok(Exit::Done)
    }

    /// The schedules of the key's user that make runs: no key is needed for that.
    async fn schedules(&self, db: &SqliteDb, keys: &SqliteKeys) -> Result<Vec<StoredSchedule>, Problem> {
        let record = keys.list().await?.into_iter().find(|record| *record.id == *self.id);
        let Some(user) = record.and_then(|record| record.key.user_id) else { return Ok(Vec::new()) };
        let mut filter = ScheduleFilter { limit: 1_000, ..ScheduleFilter::default() };
        let mut left = Vec::new();
        loop {
            let page = db.schedules(Access::User(user.clone()), filter.clone()).await?;
            left.extend(page.schedules.into_iter().filter(|schedule| schedule.next_due.is_some()));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(left),
            }
        }
    }
}

async fn list(keys: &SqliteKeys, global: &Global) -> Result<Exit, Problem> {
    let records = keys.list().await?;
    if global.json {
        output::json(&json!({ "keys": records.iter().map(json).collect::<Vec<_>>() }))?;
        return Ok(Exit::Done);
    }
    if records.is_empty() {
        output::note(global, format_args!("No keys yet; make one with: {}", global.command(MINT)));
    }
    for record in &records {
        let user = record.key.user_id.as_deref().map(|user| format!(" user {}", style::line(user, 40)));
        let used = match record.last_used_at {
            Some(at) => format!("used {}", times::shown(at, global.time_format, times::now())),
            None => "never used".to_owned(),
        };
        let scopes = record.key.scopes.to_string();
        output::line(format_args!(
            "{}  {:<8} {}…  {scopes}{}  {DIM}{used}  {}{DIM:#}",
            record.id,
            state(record),
            record.prefix,
            user.unwrap_or_default(),
            style::line(&record.key.name, 40)
        ))?;
    }
    Ok(Exit::Done)
}

fn state(record: &KeyRecord) -> &'static str {
    match (record.revoked_at, record.is_valid(times::now())) {
        (Some(_), _) => "revoked",
        (None, true) => "valid",
        (None, false) => "expired",
    }
}

/// A key as JSON, without its text, which is not stored.
fn json(record: &KeyRecord) -> Value {
    json!({
        "id": record.id,
        "prefix": record.prefix,
        "name": record.key.name,
        "scopes": record.key.scopes.iter().collect::<Vec<_>>(),
        "user_id": record.key.user_id,
        "state": state(record),
        "created_at": times::rfc3339(record.created_at),
        "expires_at": record.key.expires_at.map(times::rfc3339),
        "last_used_at": record.last_used_at.map(times::rfc3339),
        "revoked_at": record.revoked_at.map(times::rfc3339),
    })
}

/// A scope that some route requires. Any other would make a key that opens nothing.
fn scope(text: &str) -> Result<String, String> {
    let text = text.trim();
    if is_known(text) {
        return Ok(text.to_owned());
    }
    Err(match nearest(text) {
        Some(nearest) => format!("there is no such scope; did you mean {nearest}?"),
        None => "there is no such scope; see them all with: outlive keys mint --help".to_owned(),
    })
}

/// The scope that `text` probably means. An id in it is kept where the scope allows one.
fn nearest(text: &str) -> Option<String> {
    let parts: Vec<_> = text.split(':').collect();
    let (asked, id) = match parts[..] {
        [resource, id, action] => (format!("{resource}:{action}"), Some(id)),
        _ => (text.to_owned(), None),
    };
    let distance = |known: &String| strsim::damerau_levenshtein(&asked, known);
    let known = known().min_by_key(distance).filter(|known| distance(known) <= TYPO_MAX)?;
    let with_id = id.map(|id| known.replacen(':', &format!(":{id}:"), 1));
    Some(with_id.filter(|text| is_known(text)).unwrap_or(known))
}

/// What `mint --help` says about scopes.
fn scopes() -> String {
    let mut text = "Scopes:\n".to_owned();
    for known in KNOWN {
        let names: Vec<_> = known.actions.iter().map(|action| format!("{}:{action}", known.resource)).collect();
        text.push_str(&format!("  {:<46} {}\n", names.join(" "), known.about));
    }
    text.push_str(
        "\nOf workflows, agents and teams a scope can name one: workflows:ID:run. \
         An action can be a *: runs:* is all of runs.\n\n\
         What the verbs need on a server:\n  \
         ls, show, watch, events, output                runs:read\n  \
         cancel                                         runs:write\n  \
         prune                                          runs:delete\n  \
         questions                                      questions:read\n  \
         approve, reject, answer                        questions:read and questions:answer\n  \
         run, rerun, retry, fork, batch                 runs:read, runs:write and workflows:run\n  \
         (for an agent or a team, agents:run or teams:run instead)\n  \
         schedule                                       schedules:read, schedules:write; to make runs, as for run\n  \
         budgets                                        runs:read; raise: budgets:raise, too\n\n\
         A key with a user reaches what is that user's. Whoever is to answer what other users' runs ask, and not in \
         their name, needs all_questions:answer and a user of their own.\n\n\
         Example: outlive keys mint --scope runs:read,runs:write,workflows:run --expires 30d",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_scope_has_a_suggestion_and_nonsense_has_none() {
        assert_eq!(nearest("workflow:run").as_deref(), Some("workflows:run"));
        assert_eq!(nearest("workflow:echo:run").as_deref(), Some("workflows:echo:run"));
        assert_eq!(nearest("runs:run-1:read").as_deref(), Some("runs:read"));
        assert_eq!(nearest("banana:peel"), None);
    }
}
