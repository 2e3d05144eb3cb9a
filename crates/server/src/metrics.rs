//! Metrics for operators, in the text format that Prometheus reads.
//!
//! It owns the counters of requests and followers, and how metrics are written. It must never know a run's or a user's
//! id: every label has a few values, so that the list of metrics does not grow. The invariant: a name, once given,
//! keeps its meaning.

use crate::guard::request::REQUEST_ID;
use crate::problem::ERROR_CODE;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use outlive_core::port::{Health, Total};
use outlive_engine::stats::{BOUNDS, Durations, Histogram, Stats};
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// The classes of answers.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The methods that are told apart; the last stands for all others.
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "other"];

/// The code of a connection that was refused because its address has its share.
pub(crate) const TOO_MANY_CONNECTIONS: &str = "too_many_connections";
/// The codes of answers that refuse what is too much, or comes at a bad time.
const SHED: [&str; 12] = [
    TOO_MANY_CONNECTIONS,
    "too_many_streams",
    "too_many_failures",
    "queue_full",
    "body_too_large",
    "body_too_slow",
    "input_too_long",
    "disk_low",
    "disk_full",
    "database_busy",
    "outcome_unknown",
    "stopping",
];

/// How somebody follows a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// By Server-Sent Events.
    Sse,
    /// By the WebSocket.
    Socket,
}

const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Sse, "sse"), (Transport::Socket, "websocket")];

/// What was counted of requests and subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answers: [[AtomicU64; CLASSES.len()]; METHODS.len()],
    times: Histogram,
    shed: [AtomicU64; SHED.len()],
    subscribers: [AtomicI64; TRANSPORTS.len()],
    lagged: [AtomicU64; TRANSPORTS.len()],
    /// Audit records that were lost.
    pub(crate) audit_dropped: AtomicU64,
    /// Refusals that were not recorded because there were too many.
    pub(crate) audit_withheld: AtomicU64,
}

/// One subscription; counts from the moment it is taken until it is dropped, wherever it has been moved to.
#[derive(Debug)]
pub(crate) struct Subscriber {
    metrics: Arc<Metrics>,
    transport: Transport,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.metrics.subscribers[self.transport as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is read each time the metrics are requested.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The engine's counters.
    pub(crate) stats: Stats,
    /// The store's health.
    pub(crate) health: Health,
    /// The runs in the store, unless they could not be counted.
    pub(crate) unfinished: Option<Unfinished>,
    /// Tasks of this process.
    pub(crate) tasks: usize,
}

/// How many unfinished runs there are in the store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unfinished {
    /// Accepted, and nobody executes them.
    pub(crate) queued: u64,
    /// Begun.
    pub(crate) running: u64,
    /// Waiting for somebody.
    pub(crate) paused: u64,
    /// How long the oldest of the queued has waited, in seconds.
    pub(crate) oldest_seconds: f64,
}

/// Counts every request to `router`, and tells of each in one line at level debug.
pub(crate) fn observed(router: Router, metrics: Arc<Metrics>) -> Router {
    router.layer(from_fn_with_state(metrics, observe))
}

async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let (status, took) = (response.status(), began.elapsed());
    metrics.count(&method, status);
    metrics.times.add(took);
    if let Some(code) = response.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok()) {
        metrics.refused(code);
    }
    // The query is left out: it may hold what nobody should read. Control characters are
    // written as escapes.
    let request_id = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (method, status, millis) = (method.as_str(), status.as_u16(), took.as_secs_f64() * 1e3);
    let path = path.escape_debug();
    tracing::debug!(request_id, method, %path, status, millis, "request answered");
    response
}

impl Metrics {
    fn count(&self, method: &Method, status: StatusCode) {
        let row = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.answers[row][class].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refusal with this code; other codes are not counted.
    pub(crate) fn refused(&self, code: &str) {
        if let Some(reason) = SHED.iter().position(|known| *known == code) {
            self.shed[reason].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody follows a run, until this is dropped.
    pub(crate) fn subscriber(self: &Arc<Self>, transport: Transport) -> Subscriber {
        self.subscribers[transport as usize].fetch_add(1, Ordering::Relaxed);
        Subscriber { metrics: self.clone(), transport }
    }

    /// A subscriber was too slow and has to come back or to look again.
    pub(crate) fn lagged(&self, transport: Transport) {
        self.lagged[transport as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything, as text.
    pub(crate) fn text(&self, seen: &Seen) -> String {
        let mut page = Page::default();
        let stats = &seen.stats;
        page.runs(stats);
        if let Some(unfinished) = &seen.unfinished {
            page.unfinished(unfinished);
        }
        page.models(stats);
        page.store(&seen.health);
        page.histogram("submit_seconds", "From a run's submit until it is on stable storage", &stats.submits);
        page.histogram("journal_commit_seconds", "From a commit until it is on stable storage", &stats.commits);
        page.histogram("claim_seconds", "Searches for unfinished runs", &stats.claims);
        page.histogram("recovery_seconds", "From taking over a run with a log until it resumes", &stats.recoveries);
        page.histogram("tick_lateness_seconds", "How late the engine's own timers fired", &stats.lateness);
        page.histogram("event_lag_seconds", "From a commit to a reader waiting for it", &stats.event_lags);
        page.labelled("subscribers", "Runs and lists being followed", "gauge", "transport", {
            TRANSPORTS.map(|(transport, name)| (name, self.subscribers[transport as usize].load(Ordering::Relaxed)))
        });
        page.labelled("subscriber_lagged_total", "Subscribers that were too slow", "counter", "transport", {
            TRANSPORTS.map(|(transport, name)| (name, self.lagged[transport as usize].load(Ordering::Relaxed)))
        });
        let shed = SHED.iter().zip(&self.shed).map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)));
        page.labelled("shed_total", "Requests refused because of load or bad timing", "counter", "reason", shed);
        page.gauge("tasks", "Tasks of this process", seen.tasks);
        page.name("http_requests_total", "Requests answered", "counter");
        for (method, row) in METHODS.iter().zip(&self.answers) {
            for (class, count) in CLASSES.iter().zip(row) {
                let labels = format!("{{method=\"{method}\",code=\"{class}\"}}");
                page.value("http_requests_total", &labels, count.load(Ordering::Relaxed));
            }
        }
        page.histogram("http_request_seconds", "From a request's head to its answer's head", &self.times.read());
        let audit = |count: &AtomicU64| count.load(Ordering::Relaxed);
        page.counter("audit_dropped_total", "Audit records that were lost", audit(&self.audit_dropped));
        page.counter("audit_withheld_total", "Refusals left out of the audit log", audit(&self.audit_withheld));
        page.process();
        page.0
    }
}

/// The text under construction.
#[derive(Default)]
struct Page(String);

impl Page {
    fn runs(&mut self, stats: &Stats) {
        self.counter("runs_accepted_total", "Runs accepted by this process", stats.runs_accepted);
        self.counter("runs_finished_total", "Runs that this process ended", {
            stats.runs_completed + stats.runs_failed + stats.runs_cancelled
        });
        self.counter("runs_failed_total", "Of these, those that ended ERROR", stats.runs_failed);
        self.counter(
            "runs_poisoned_total",
            "Of these, runs given up after crashing their workers",
            stats.runs_poisoned,
        );
        self.counter("runs_cancelled_total", "Of these, those that ended CANCELLED", stats.runs_cancelled);
        self.counter("runs_pruned_total", "Runs that this process deleted after their end", stats.runs_pruned);
        self.counter("pruned_bytes_total", "Bytes of their logs, inputs and outputs", stats.bytes_pruned);
        self.counter("batches_pruned_total", "Batches that this process deleted", stats.batches_pruned);
        self.counter("sessions_pruned_total", "Sessions without runs that this process deleted", stats.sessions_pruned);
        self.gauge("runs_executing", "Runs that execute in this process", stats.runs_executing);
        self.counter("runs_claimed_total", "Runs taken over from the store", stats.runs_claimed);
        self.counter("claims_empty_total", "Searches for unfinished runs that found none", stats.claims_empty);
        self.counter("lease_renew_fail_total", "Heartbeats that the store did not accept", stats.heartbeats_failed);
        self.counter("lease_lost_total", "Times this worker was declared dead", stats.leases_lost);
        self.counter("lease_fenced_write_total", "Writes refused: another worker has the run", stats.writes_fenced);
        self.counter("journal_delayed_total", "Commits tried again: disk full, store busy", stats.commits_delayed);
    }

    fn unfinished(&mut self, unfinished: &Unfinished) {
        self.gauge("runs_queued", "Runs in the store that nobody executes (counted up to 1000)", unfinished.queued);
        self.gauge("runs_running", "Runs in the store that have started (counted up to 1000)", unfinished.running);
        self.gauge("runs_paused", "Runs in the store waiting for a person (counted up to 1000)", unfinished.paused);
        self.gauge("queue_oldest_seconds", "How long the oldest queued run has waited", unfinished.oldest_seconds);
    }

    fn models(&mut self, stats: &Stats) {
        self.counter("model_calls_total", "Model calls started", stats.model_calls);
        self.counter("model_retries_total", "Model calls that failed and were retried", stats.model_retries);
        self.counter("model_aborted_total", "Model calls left without an answer", stats.model_aborted);
        self.histogram("model_seconds", "From a model call's intent to its answer, retries included", &stats.models);
        let usage = stats.usage;
        self.labelled(
            "tokens_total",
            "Tokens that models counted",
            "counter",
            "kind",
            [
                ("input", usage.input_tokens),
                ("output", usage.output_tokens),
                ("cached", usage.cache_read_tokens),
                ("reasoning", usage.reasoning_tokens),
            ],
        );
        let unknown = "Runs paused because a call that must not happen twice may have happened";
        self.counter("tool_unknown_outcome_total", unknown, stats.outcomes_unknown);
    }

    fn store(&mut self, health: &Health) {
        self.counter("db_errors_total", "Calls that the storage refused or failed", health.errors);
        self.summary("journal_batch_size", "Calls that shared a transaction", health.groups, health.groups.sum);
        let seconds = health.copies.sum.as_secs_f64();
        self.summary("checkpoint_seconds", "Copies of the write-ahead log", health.copies, seconds);
        if let Some(bytes) = health.log_bytes {
            self.gauge("wal_bytes", "Length of the write-ahead log", bytes);
            let pinned = health.log_pinned.unwrap_or_default().as_secs_f64();
            self.gauge("wal_pinned_seconds", "How long a reader has kept the write-ahead log from restarting", pinned);
        }
        if let Some(room) = health.room {
            self.gauge("disk_free_bytes", "Free disk space", room.free_bytes);
        }
    }

    /// What Prometheus's own clients tell of their process, under the same names.
    fn process(&mut self) {
        let Some(process) = Process::read() else { return };
        for (name, what, value) in [
            ("process_resident_memory_bytes", "Memory in use", process.resident_bytes),
            ("process_open_fds", "Open file descriptors", process.descriptors),
            ("process_threads", "Threads", process.threads),
        ] {
            let _ = write!(self.0, "# HELP {name} {what}\n# TYPE {name} gauge\n{name} {value}\n");
        }
    }

    fn counter(&mut self, name: &str, what: &str, value: impl Display) {
        self.name(name, what, "counter");
        self.value(name, "", value);
    }

    fn gauge(&mut self, name: &str, what: &str, value: impl Display) {
        self.name(name, what, "gauge");
        self.value(name, "", value);
    }

    fn labelled<'a>(
        &mut self,
        name: &str,
        what: &str,
        kind: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, impl Display)>,
    ) {
        self.name(name, what, kind);
        for (value, count) in values {
            self.value(name, &format!("{{{label}=\"{value}\"}}"), count);
        }
    }

    /// How many there were and their sum; from both follows the mean of any time.
    fn summary<T>(&mut self, name: &str, what: &str, total: Total<T>, sum: impl Display) {
        self.name(name, what, "summary");
        self.value(&format!("{name}_sum"), "", sum);
        self.value(&format!("{name}_count"), "", total.count);
    }

    fn histogram(&mut self, name: &str, what: &str, durations: &Durations) {
        self.name(name, what, "histogram");
        let mut count = 0;
        for (bound, part) in BOUNDS.iter().zip(durations.parts) {
            count += part;
            self.value(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), count);
        }
        self.value(&format!("{name}_bucket"), "{le=\"+Inf\"}", durations.count());
        self.value(&format!("{name}_sum"), "", durations.sum.as_secs_f64());
        self.value(&format!("{name}_count"), "", durations.count());
    }

    fn name(&mut self, name: &str, what: &str, kind: &str) {
        let _ = write!(self.0, "# HELP outlive_{name} {what}\n# TYPE outlive_{name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "outlive_{name}{labels} {value}");
    }
}

/// What the system reports about this process.
struct Process {
    resident_bytes: u64,
    descriptors: u64,
    threads: u64,
}

impl Process {
    /// Nothing where the system has no `/proc`.
    fn read() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            resident_bytes: number("VmRSS:")? << 10,
            descriptors: std::fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            threads: number("Threads:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::Usage;
    use outlive_core::port::Room;
    use std::time::Duration;

    #[test]
    fn every_line_is_a_comment_or_a_name_and_a_number() {
        let metrics = Metrics::default();
        metrics.count(&Method::GET, StatusCode::OK);
        metrics.count(&Method::PATCH, StatusCode::NOT_FOUND);
        metrics.times.add(Duration::from_millis(3));
        metrics.refused("body_too_large");
        metrics.refused("not_found");
        let health = Health {
            room: Some(Room { free_bytes: 5, total_bytes: 9 }),
            log_bytes: Some(4),
            log_pinned: Some(Duration::from_millis(1500)),
            errors: 2,
            groups: Total { count: 3, sum: 12 },
            copies: Total { count: 1, sum: Duration::from_millis(250) },
        };
        let usage = Usage { input_tokens: 10, cache_read_tokens: 6, ..Usage::default() };
        let stats = Stats { runs_accepted: 7, usage, ..Stats::default() };
        let text = metrics.text(&Seen { stats, health, unfinished: Some(Unfinished::default()), tasks: 8 });
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, number) = line.rsplit_once(' ').expect(line);
            assert!(number.parse::<f64>().is_ok() && !name.contains(' '), "{line}");
        }
        for expected in [
            "outlive_runs_accepted_total 7\n",
            "outlive_http_requests_total{method=\"GET\",code=\"2xx\"} 1\n",
            "outlive_http_requests_total{method=\"other\",code=\"4xx\"} 1\n",
            "outlive_http_request_seconds_bucket{le=\"0.0025\"} 0\n",
            "outlive_http_request_seconds_bucket{le=\"0.005\"} 1\n",
            "outlive_http_request_seconds_bucket{le=\"+Inf\"} 1\n",
            "outlive_http_request_seconds_sum 0.003\n",
            "outlive_shed_total{reason=\"body_too_large\"} 1\n",
            "outlive_tokens_total{kind=\"input\"} 10\n",
            "outlive_tokens_total{kind=\"cached\"} 6\n",
            "outlive_db_errors_total 2\n",
            "outlive_journal_batch_size_sum 12\n",
            "outlive_journal_batch_size_count 3\n",
            "outlive_checkpoint_seconds_sum 0.25\n",
            "outlive_wal_bytes 4\n",
            "outlive_wal_pinned_seconds 1.5\n",
            "outlive_disk_free_bytes 5\n",
            "outlive_tasks 8\n",
        ] {
            assert!(text.contains(expected), "{expected}{text}");
        }
    }
}
