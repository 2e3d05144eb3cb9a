//! The one list of settings. The invariant: every limit of the server and option of the engine is here, unless it makes
//! no sense on a command line.

use super::Settings;
use super::value::Place;

/// One setting.
pub(crate) struct Setting {
    /// Its name in the file: the part before the dot is the heading.
    pub(crate) name: &'static str,
    /// What it means.
    pub(crate) about: &'static str,
    /// Where its value is stored.
    pub(crate) place: for<'a> fn(&'a mut Settings) -> Place<'a>,
}

impl Setting {
    /// Its environment variable: `OUTLIVE_LIMITS_HEADERS_MAX` for `limits.headers_max`.
    pub(crate) fn variable(&self) -> String {
        format!("OUTLIVE_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

/// The setting with this name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name == name)
}

const fn setting(name: &'static str, about: &'static str, place: for<'a> fn(&'a mut Settings) -> Place<'a>) -> Setting {
    Setting { name, about, place }
}

/// Every setting.
pub(crate) const TABLE: &[Setting] = &[
    setting("db", "the database file", |s| Place::File(&mut s.db)),
    setting("server", "the server to ask instead of opening the database", |s| Place::Text(&mut s.server)),
    setting("session_table", "the table of sessions, if not the file's own", |s| Place::Text(&mut s.session_table)),
    setting("addr", "where to listen", |s| Place::Text(&mut s.addr)),
    setting("allow_hosts", "host names to answer to, besides those of this machine", |s| {
        Place::List(&mut s.allow_hosts)
    }),
    setting("allow_origins", "origins of web pages that may call", |s| Place::List(&mut s.allow_origins)),
    setting("trusted_proxies", "addresses and networks of proxies trusted to say who their clients are", |s| {
        Place::List(&mut s.trusted_proxies)
    }),
    setting("proxy_header", "the header in which they say it: X-Forwarded-For or Forwarded", |s| {
        Place::Text(&mut s.proxy_header)
    }),
    setting("webhook_hosts", "hosts with ports that webhooks may be sent to, besides public https ones", |s| {
        Place::List(&mut s.webhook_hosts)
    }),
    setting("tool_hosts", "hosts with ports that HTTP tools of files may ask, besides public https ones", |s| {
        Place::List(&mut s.tool_hosts)
    }),
    setting("execute", "whether to execute runs", |s| Place::Switch(&mut s.engine.execute)),
    setting("log", "what to log: a level, or levels by module", |s| Place::Text(&mut s.log)),
    setting("log_format", "how log lines look: text or json", |s| Place::Format(&mut s.log_format)),
    setting("limits.connections_max", "connections at the same time", |s| Place::Count(&mut s.limits.connections_max)),
    setting("limits.connections_per_address_max", "of these, from one address; behind a proxy, its requests", |s| {
        Place::Count(&mut s.limits.connections_per_address_max)
    }),
    setting("limits.header_bytes_max", "longest head of a request", |s| Place::Count(&mut s.limits.header_bytes_max)),
    setting("limits.headers_max", "most header lines", |s| Place::Count(&mut s.limits.headers_max)),
    setting("limits.uri_bytes_max", "longest URI", |s| Place::Count(&mut s.limits.uri_bytes_max)),
    setting("limits.body_bytes_max", "longest body that is not multipart", |s| {
        Place::Count(&mut s.limits.body_bytes_max)
    }),
    setting("limits.multipart_bytes_max", "longest multipart body", |s| {
        Place::Count(&mut s.limits.multipart_bytes_max)
    }),
    setting("limits.header_period", "time for the head of a request", |s| Place::Period(&mut s.limits.header_period)),
    setting("limits.body_idle_period", "longest pause inside a body", |s| {
        Place::Period(&mut s.limits.body_idle_period)
    }),
    setting("limits.body_rate_min", "slowest body, in bytes a second", |s| Place::Rate(&mut s.limits.body_rate_min)),
    setting("limits.body_grace", "time before the slowest rate applies", |s| Place::Period(&mut s.limits.body_grace)),
    setting("limits.write_idle_period", "longest time a client may leave an answer unread", |s| {
        Place::Period(&mut s.limits.write_idle_period)
    }),
    setting("limits.keep_alive_period", "longest time between two requests", |s| {
        Place::Period(&mut s.limits.keep_alive_period)
    }),
    setting("limits.drain_period", "time for requests in flight at shutdown", |s| {
        Place::Period(&mut s.limits.drain_period)
    }),
    setting("limits.socket_auth_period", "time to authenticate on a WebSocket", |s| {
        Place::Period(&mut s.limits.socket_auth_period)
    }),
    setting("limits.recheck_period", "how often an open stream's credential is checked again", |s| {
        Place::Period(&mut s.limits.recheck_period)
    }),
    setting("limits.streams_per_caller_max", "event streams per caller", |s| {
        Place::Count(&mut s.limits.streams_per_caller_max)
    }),
    setting("retention.max_age", "how long a run is kept after its end", |s| {
        Place::Age(&mut s.engine.retention.max_age)
    }),
    setting("retention.max_runs", "how many of the runs that have ended are kept", |s| {
        Place::Most(&mut s.engine.retention.max_runs)
    }),
    setting("retention.max_bytes", "while the database takes more, the runs accepted first go", |s| {
        Place::Size(&mut s.engine.retention.max_bytes)
    }),
    setting("retention.sessions_max_age", "how long a session without runs is kept after its last change", |s| {
        Place::Age(&mut s.engine.retention.sessions_max_age)
    }),
    setting("engine.retention_period", "time between searches for runs that nobody is to keep", |s| {
        Place::Period(&mut s.engine.retention_period)
    }),
    setting("engine.runs_max", "runs executed at the same time", |s| Place::Count(&mut s.engine.runs_max)),
    setting("engine.queued_max", "runs that may wait for their turn", |s| Place::Count(&mut s.engine.queued_max)),
    setting("engine.blocking_max", "threads for functions that block", |s| Place::Count(&mut s.engine.blocking_max)),
    setting("engine.submits_max", "submits on their way to the store", |s| Place::Count(&mut s.engine.submits_max)),
    setting("engine.commits_max", "commits on their way to the store", |s| Place::Count(&mut s.engine.commits_max)),
    setting("engine.input_bytes_max", "longest input of a run", |s| Place::Count(&mut s.engine.input_bytes_max)),
    setting("engine.disk_free_min", "free disk space, in bytes, below which no run is accepted", |s| {
        Place::Rate(&mut s.engine.disk_free_min)
    }),
    setting("engine.disk_free_percent_max", "on a small disk, at most this part is kept free, in percent", |s| {
        Place::Percent(&mut s.engine.disk_free_percent_max)
    }),
    setting("engine.lease_period", "how long a lease lasts without a heartbeat", |s| {
        Place::Period(&mut s.engine.lease_period)
    }),
    setting("engine.heartbeat_period", "time between heartbeats", |s| Place::Period(&mut s.engine.heartbeat_period)),
    setting("engine.scan_period", "time between searches for runs nobody executes", |s| {
        Place::Period(&mut s.engine.scan_period)
    }),
    setting("engine.stream_period", "streamed text is stored after this time at the latest", |s| {
        Place::Period(&mut s.engine.stream_period)
    }),
    setting("engine.park_after", "a run in a longer back-off leaves memory", |s| {
        Place::Period(&mut s.engine.park_after)
    }),
    setting("engine.claims_max", "claims without progress before a run is given up", |s| {
        Place::SmallCount(&mut s.engine.claims_max)
    }),
    setting("engine.shutdown_grace", "how long a shutdown waits for calls in flight", |s| {
        Place::Period(&mut s.engine.shutdown_grace)
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Given, Origin};

    #[test]
    fn what_is_shown_of_a_setting_can_be_given_again() {
        let mut settings = Settings::default();
        for setting in TABLE {
            let shown = (setting.place)(&mut settings).shown();
            settings.set(setting.name, Given::Text(shown.clone()), Origin::Default).unwrap_or_else(|problem| {
                panic!("{} = {shown:?}: {problem:?}", setting.name);
            });
            assert_eq!((setting.place)(&mut settings).shown(), shown);
        }
    }

    #[test]
    fn every_limit_and_every_option_is_a_setting() {
        let settings = Settings::default();
        let fields = |shown: String| -> Vec<String> {
            let names = shown.lines().filter_map(|line| line.trim().split_once(": ").map(|(name, _)| name.to_owned()));
            names.collect()
        };
        for (heading, names) in [
            ("limits", fields(format!("{:#?}", settings.limits))),
            ("engine", fields(format!("{:#?}", settings.engine))),
        ] {
            assert!(names.len() > 5, "{names:?}");
            for name in names {
                // `execute` has no heading, retention has one of its own, and a secret is not a setting.
                let is_elsewhere = matches!(name.as_str(), "execute" | "secrets" | "retention");
                let is_there = is_elsewhere
                    || [heading, "retention"].iter().any(|heading| find(&format!("{heading}.{name}")).is_some());
                assert!(is_there, "{heading}.{name} is no setting");
            }
        }
    }

    #[test]
    fn no_number_may_stop_everything() {
        let mut settings = Settings::default();
        for (name, given) in [
            ("engine.runs_max", Given::Number(0)),
            ("engine.claims_max", Given::Number(-1)),
            ("limits.drain_period", Given::Text("0s".to_owned())),
            ("limits.headers_max", Given::Text("many".to_owned())),
            ("execute", Given::Number(1)),
            ("engine.disk_free_percent_max", Given::Number(100)),
            ("log_format", Given::Text("xml".to_owned())),
            ("retention.max_age", Given::Text("0s".to_owned())),
            ("retention.max_age", Given::Text("long".to_owned())),
            ("retention.max_runs", Given::Number(-1)),
            ("retention.max_bytes", Given::Text("2 elephants".to_owned())),
        ] {
            assert!(settings.set(name, given, Origin::Default).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_kept_is_written_as_people_write_it() {
        let mut settings = Settings::default();
        for (name, given, shown) in [
            ("retention.max_age", "30d", "30d"),
            ("retention.max_age", "1.5h", "5400s"),
            ("retention.max_age", "none", "none"),
            ("retention.max_runs", "0", "0"),
            ("retention.max_bytes", "2GB", "2000000000"),
            ("retention.max_bytes", "1.5 GiB", "1610612736"),
            ("retention.sessions_max_age", "36h", "36h"),
        ] {
            settings.set(name, Given::Text(given.to_owned()), Origin::Default).expect("it is valid");
            let setting = find(name).expect("it is a setting");
            assert_eq!((setting.place)(&mut settings).shown(), shown, "{name} = {given}");
        }
    }
}
