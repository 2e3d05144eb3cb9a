//! Arguments, percentiles, and what the operating system says of a process.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

/// The command line: a workload and `--name value` pairs.
pub(crate) struct Arguments {
    pub(crate) workload: String,
    options: HashMap<String, String>,
}

impl Arguments {
    pub(crate) fn from_env() -> Self {
        let mut words = std::env::args().skip(1);
        let workload = words.next().unwrap_or_else(|| "table".to_owned());
        let mut options = HashMap::new();
        while let Some(name) = words.next() {
            options.insert(name.trim_start_matches("--").to_owned(), words.next().unwrap_or_default());
        }
        Self { workload, options }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str, default: usize) -> usize {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    pub(crate) fn numbers(&self, name: &str, default: &str) -> Vec<usize> {
        self.text(name).unwrap_or(default).split(',').filter_map(|text| text.trim().parse().ok()).collect()
    }
}

/// The folder for data.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("PEER_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Median, 99th percentile and maximum, in milliseconds.
pub(crate) fn latencies(samples: &mut [Duration]) -> Value {
    samples.sort_unstable();
    let at = |share: f64| {
        let last = samples.len().saturating_sub(1);
        samples.get((last as f64 * share).round() as usize).map_or(0.0, |d| (d.as_secs_f64() * 1e6).round() / 1e3)
    };
    json!({ "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "samples": samples.len() })
}

pub(crate) fn rounded(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

/// Resident bytes of this process.
pub(crate) fn rss_bytes() -> u64 {
    rss_bytes_of("self")
}

/// Resident bytes of a process, by its id; 0 when there is none.
pub(crate) fn rss_bytes_of(process: impl Display) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time of this process, user and system.
pub(crate) fn cpu() -> Duration {
    cpu_of("self")
}

/// CPU time of a process, user and system, in steps of 10 ms; zero when there is none.
pub(crate) fn cpu_of(process: impl Display) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Prints one JSON line at once: the reader may be a program that waits for it.
#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
pub(crate) fn report(value: &Value) {
    use std::io::Write;
    println!("{value}");
    let _ = std::io::stdout().flush();
}
