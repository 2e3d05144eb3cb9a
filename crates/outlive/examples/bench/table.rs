//! Runs every workload in a process of its own and prints one Markdown table: figure, target, raw limit of the same run.

use crate::measure::Arguments;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
pub(crate) fn print(arguments: &Arguments) {
    let rounds = arguments.number("rounds", 3);
    let n = arguments.number("n", 20_000).to_string();
    let mut throughput: Vec<(Value, Value)> = Vec::new();
    for _ in 0..rounds {
        throughput.push((workload(&["W1", "--n", &n]), workload(&["raw"])));
    }
    throughput.sort_by(|a, b| figure(&a.0, "/runs_per_s").total_cmp(&figure(&b.0, "/runs_per_s")));
    let (w1, raw) = throughput.swap_remove(throughput.len() / 2);
    // So many that most are after the log has begun anew, as it has for the raw commits beside them.
    let w2 = workload(&["W2", "--n", "1000"]);
    let w3 = workload(&["W3", "--past", "1,10000"]);
    let w4 = workload(&["W4"]);
    let w4_few = workload(&["W4", "--callers", "256"]);
    let w5 = workload(&["W5"]);
    let w6 = killed_and_recovered();
    let w7 = cold_start();
    let w8 = workload(&["W8"]);
    let l1 = workload(&["L1"]);
    let r1 = workload(&["R1"]);
    let s1 = workload(&["S1"]);
    let s2 = workload(&["S2"]);
    let s3 = workload(&["S3"]);
    let d1 = workload(&["D1"]);
    let d2 = workload(&["D2"]);
    let q1 = workload(&["Q1"]);
    let t1 = workload(&["T1"]);
    let [f1, f2] = ["F1", "F2"].map(|name| workload(&[name]));
    let [g1, g2, g3, g4] = ["G1", "G2", "G3", "G4"].map(|name| workload(&[name]));
    println!("| figure | measured | target | measured beside it |\n| --- | --- | --- | --- |");
    let row = |figure: &str, measured: String, target: &str, beside: String| {
        println!("| {figure} | {measured} | {target} | {beside} |");
    };
    let get = |value: &Value, path: &str| shown(figure(value, path));
    row("runs/s, three no-op steps", get(&w1, "/runs_per_s"), "≥ 4,000", format!("median of {rounds}, {n} runs each"));
    row(
        "CPU per run",
        format!("{} ms", get(&w1, "/cpu_ms_per_run")),
        "≤ 0.3 ms",
        "all of the process, the submitting client too".into(),
    );
    let grouped = figure(&raw, "/grouped100/rows_per_s");
    let share = figure(&w1, "/entries_per_s") / grouped.max(1.0) * 100.0;
    row(
        "log entries/s",
        get(&w1, "/entries_per_s"),
        "≥ 50 % of raw rows/s",
        format!("raw SQLite in groups of 100: {grouped:.0} rows/s; {share:.0} %"),
    );
    let idle = figure(&w2, "/idle/p50_ms");
    let (paced, paired) = (figure(&w2, "/paced/p50_ms"), figure(&w2, "/idle_raw/p50_ms"));
    let single = figure(&raw, "/single/p50_ms");
    row(
        "submit, idle, p50",
        format!("{idle} ms"),
        "≤ 3 × raw commit",
        format!(
            "raw SQLite commit, p50: {single} ms; {:.1} ×; the two in turn: {paced} ms and {paired} ms; {:.1} ×",
            idle / single,
            paced / paired
        ),
    );
    row(
        "submit with 1,000 runs in flight, p99",
        format!("{} ms", get(&w2, "/held1000/p99_ms")),
        "≤ 20 ms",
        format!("p50 {} ms", get(&w2, "/held1000/p50_ms")),
    );
    row(
        "submit during a burst of 1,000, p99",
        format!("{} ms", get(&w2, "/burst1000_probe/p99_ms")),
        "–",
        format!("p50 {} ms", get(&w2, "/burst1000_probe/p50_ms")),
    );
    let (one, many) = (figure(&w3, "/1/p50_ms"), figure(&w3, "/10000/p50_ms"));
    row("poll, 1 finished run, p50", format!("{one} ms"), "≤ 0.2 ms", format!("p99 {} ms", get(&w3, "/1/p99_ms")));
    row("poll, 10,000 finished runs, p50", format!("{many} ms"), "≤ 1.2 × with one", format!("{:.2} ×", many / one));
    for (callers, w4) in [("all submitted at once", &w4), ("256 callers", &w4_few)] {
        let name = format!("10,000 runs waiting 10 s, {callers}: over the ideal");
        row(
            &name,
            format!("{} s", get(w4, "/over_ideal_s")),
            "≤ 1 s",
            format!("accepted in {} s", get(w4, "/accept_s")),
        );
        let (name, peak) = (format!("memory per waiting run, {callers}"), get(w4, "/rss_peak_mb"));
        row(&name, format!("{} B", get(w4, "/rss_bytes_per_run")), "≤ 8,192 B", format!("process {peak} MiB at most"));
    }
    row(
        "event to subscriber, p99",
        format!("{} ms", get(&w5, "/latency/p99_ms")),
        "≤ 5 ms",
        format!("p50 {} ms", get(&w5, "/latency/p50_ms")),
    );
    row("events/s to one subscriber", get(&w5, "/events_per_s"), "≥ 20,000", "each durable before it is seen".into());
    row(
        "recovered after `kill -9`",
        format!("{} of {}", get(&w6, "/completed"), get(&w6, "/of")),
        "all of 200",
        format!("finished steps repeated: {}", get(&w6, "/repeated")),
    );
    row(
        "first progress after restart",
        format!("{} s", get(&w6, "/t_first_progress_s")),
        "≤ 0.5 s",
        format!("all done after {} s", get(&w6, "/t_last_done_s")),
    );
    row(
        "process start to first accepted run",
        format!("{} ms", get(&w7, "/accepted_ms")),
        "≤ 50 ms",
        format!("idle process {} MiB", get(&w7, "/rss_idle_mb")),
    );
    row(
        "submit with a reader that holds the log for 60 s, p99",
        format!("{} × without", get(&w8, "/ratio")),
        "≤ 3 ×",
        format!(
            "{} ms, without {} ms; log {} MiB, warnings: {}",
            get(&w8, "/held/p99_ms"),
            get(&w8, "/free/p99_ms"),
            get(&w8, "/log_mib"),
            get(&w8, "/warnings")
        ),
    );
    row(
        "200 runs at once at a model server that takes 20 calls/s",
        format!("{} × the ideal time", get(&l1, "/over_ideal")),
        "≤ 1.5 ×",
        format!("{} of {} completed in {} s", get(&l1, "/completed"), get(&l1, "/n"), get(&l1, "/wall_s")),
    );
    row(
        "– of its calls after the first wave refused",
        format!("{} %", get(&l1, "/later_refused_percent")),
        "≤ 10 %",
        format!("{} in the first wave, {} in all", get(&l1, "/first_wave"), get(&l1, "/requests")),
    );
    row(
        "4 processes share 60,000 tokens a minute at a model server: used",
        format!("{} %", get(&r1, "/used_percent")),
        "> 90 %",
        format!("{} calls in {} minutes, after the first", get(&r1, "/calls"), get(&r1, "/windows")),
    );
    row(
        "– of their calls refused",
        format!("{} %", get(&r1, "/refused_percent")),
        "< 1 %",
        format!("{} of {}", get(&r1, "/refused"), get(&r1, "/calls")),
    );
    row(
        "on disk, a run of three no-op steps",
        format!("{} B", get(&d1, "/no_op/bytes_per_run")),
        "≤ 6,144 B",
        format!("its contents: {} B", get(&d1, "/no_op/content_bytes")),
    );
    let contents = figure(&d1, "/team/content_bytes");
    row(
        "on disk, a run of a team of two",
        format!("{} B", get(&d1, "/team/bytes_per_run")),
        "≤ 6,144 B + 1.5 × contents",
        format!("its contents: {contents} B; that makes {} B", 6_144.0 + 1.5 * contents),
    );
    let (short, long) = (figure(&d2, "/1000/ms_per_step"), figure(&d2, "/10000/ms_per_step"));
    row(
        "a step in a run of 10,000",
        format!("{long} ms"),
        "≤ 1.2 × in a run of 1,000",
        format!("{short} ms there; {:.2} ×", long / short),
    );
    growth(&row, &g1, &g2, &g3, &g4);
    row(
        "memory with 100,000 runs that wait for people",
        format!("{} MiB", get(&q1, "/rss_mib")),
        "≤ 1.05 × with none",
        format!("{} MiB with none; {} ×", get(&q1, "/rss_mib_none"), get(&q1, "/ratio")),
    );
    row(
        "answer to its run's next event, with them there, p99",
        format!("{} ms", get(&q1, "/answer/p99_ms")),
        "≤ 100 ms",
        format!("p50 {} ms, one after the other", get(&q1, "/answer/p50_ms")),
    );
    row(
        "10,000 schedules due in one minute: late, p99",
        format!("{} ms", get(&t1, "/late/p99_ms")),
        "≤ 5,000 ms",
        format!("{} of {} made one run each; p50 {} ms", get(&t1, "/once"), get(&t1, "/n"), get(&t1, "/late/p50_ms")),
    );
    let stalled = get(&s1, "/stalled_percent");
    row(
        "run followed by 1,000 WebSockets and 1,000 event streams",
        format!("{} × alone", get(&s1, "/ratio")),
        "≤ 1.1 ×",
        format!(
            "{stalled} % of them stalled; {} ms, alone {} ms",
            get(&s1, "/run_followed_ms"),
            get(&s1, "/run_alone_ms")
        ),
    );
    row(
        "event at the followers' end, p99",
        format!("{} ms", get(&s1, "/lag/p99_ms")),
        "–",
        format!(
            "p50 {} ms; 20 events/s to 1,800 readers, {} % of them seen",
            get(&s1, "/lag/p50_ms"),
            shown(figure(&s1, "/delivered_share") * 100.0)
        ),
    );
    row(
        "server, start to first accepted run",
        format!("{} ms", get(&s2, "/accepted_ms")),
        "< 50 ms",
        "over HTTP, the store's creation included".into(),
    );
    row(
        "`outlive run FILE`, start to first accepted run, p50",
        format!("{} ms", get(&f1, "/accepted/p50_ms")),
        "≤ 50 ms",
        format!("the store's creation included; p99 {} ms", get(&f1, "/accepted/p99_ms")),
    );
    row(
        "1,000 workflow files load",
        format!("{} s", shown(figure(&f2, "/loaded_ms") / 1e3)),
        "≤ 1 s",
        format!("a thousand workflows; of that reading {} s", shown(figure(&f2, "/read_ms") / 1e3)),
    );
    for (list, path) in
        [("the newest 50 of 350,000 runs", "/api/runs?limit=50"), ("their newest 20 sessions", "/sessions")]
    {
        let of = |share: &str| shown(figure(&s3[path], share));
        let name = format!("list of {list}, over HTTP, p50");
        row(&name, format!("{} ms", of("/p50_ms")), "≤ 5 ms", format!("p99 {} ms; `{path}`", of("/p99_ms")));
    }
    row("server, idle", format!("{} MiB", get(&s2, "/rss_idle_mib")), "≤ 30 MiB", "after one run".into());
}

/// What must not grow with a run, each beside a small one.
fn growth(row: &impl Fn(&str, String, &str, String), g1: &Value, g2: &Value, g3: &Value, g4: &Value) {
    for when in ["executing", "ended"] {
        let of = |steps: usize| figure(g1, &format!("/{when}/{steps}/p50_ms"));
        row(
            &format!("poll without results, run of 10,000 steps, {when}, p50"),
            format!("{} ms", of(10_000)),
            "≤ 2 × run of 3 steps",
            format!("{} ms there; {:.2} ×", of(3), of(10_000) / of(3)),
        );
    }
    let (few, many) = (&g2["100"], &g2["10000"]);
    let [of_few, of_many] = [few, many].map(|of| figure(of, "/ms_per_item"));
    row(
        "an item of a `ForEach` over 10,000",
        format!("{of_many} ms"),
        "≤ 1.5 × over 100",
        format!("{of_few} ms there; {:.2} ×", of_many / of_few),
    );
    let [of_few, of_many] = [few, many].map(|of| figure(of, "/rss_bytes_at_end") / 1_048_576.0);
    row(
        "memory of the process at its last item",
        format!("{} MiB", shown(of_many)),
        "≤ 1.5 × over 100",
        format!("{} MiB there; {:.2} ×", shown(of_few), of_many / of_few),
    );
    row(
        "killed in the middle: process start to the next item",
        format!("{} s", figure(g2, "/resumed/first_item_s")),
        "≤ 2 s",
        format!("{} items then executed", figure(g2, "/resumed/called")),
    );
    row(
        "memory per waiting branch, 64 in each run",
        format!("{} B", figure(g3, "/rss_bytes_per_branch")),
        "≤ 4,096 B",
        format!("{} runs", figure(g3, "/runs")),
    );
    let (early, late) = (figure(g4, "/early_ms"), figure(g4, "/late_ms"));
    row(
        "turn 500 of an agent that calls a tool in each",
        format!("{late} ms"),
        "≤ 1.5 × turn 50",
        format!("{early} ms there; {:.2} ×", late / early),
    );
    let (early, late) = (figure(g4, "/early_log_bytes"), figure(g4, "/late_log_bytes"));
    row(
        "– its log, turns 451 to 500",
        format!("{late} B"),
        "≤ 1.2 × turns 51 to 100",
        format!("{early} B there; {:.2} ×", late / early),
    );
}

/// Three digits after the point for what is small, none for what is large.
fn shown(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{}", (figure * 1000.0).round() / 1000.0) }
}

fn figure(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// Starts this program again with its data in `folder`.
fn start(folder: &Path, words: &[&str]) -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(words).env("PEER_DIR", folder).env("STEP_LOG", folder.join("steps.log"));
    command.stdout(Stdio::piped()).spawn().expect("this program starts")
}

fn lines(child: &mut Child) -> impl Iterator<Item = Value> + use<> {
    let output = child.stdout.take().expect("its output is piped");
    BufReader::new(output).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}

fn workload(words: &[&str]) -> Value {
    let folder = tempfile::tempdir_in(crate::measure::folder()).expect("the folder can be written");
    let mut child = start(folder.path(), words);
    let last = lines(&mut child).last().unwrap_or_else(|| panic!("{words:?} printed nothing"));
    child.wait().expect("it ends");
    last
}

fn killed_and_recovered() -> Value {
    let folder = tempfile::tempdir_in(crate::measure::folder()).expect("the folder can be written");
    let mut child = start(folder.path(), &["W6a"]);
    let ids = lines(&mut child).next().expect("it prints the ids");
    std::thread::sleep(Duration::from_millis(700));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let log = folder.path().join("steps.log");
    let before = std::fs::read_to_string(&log).unwrap_or_default();
    let file = folder.path().join("ids.json");
    std::fs::write(&file, ids.to_string()).expect("the folder can be written");
    let mut child = start(folder.path(), &["W6b", "--ids", &file.to_string_lossy()]);
    let mut figures = lines(&mut child).last().expect("it reports");
    child.wait().expect("it ends");
    let all = std::fs::read_to_string(&log).unwrap_or_default();
    let ended: Vec<&str> = before.lines().filter_map(|line| line.strip_prefix("end ")).collect();
    let after = all.get(before.len()..).unwrap_or_default();
    let again: Vec<&str> = after.lines().filter_map(|line| line.strip_prefix("start ")).collect();
    // A step may have ended in the moment of the kill, before its result was durable; it is in flight then.
    figures["repeated"] = json!(again.iter().filter(|step| ended.contains(step)).count());
    figures
}

/// Starts a process five times; the median.
fn cold_start() -> Value {
    let mut starts: Vec<Value> = (0..5).map(|_| one_cold_start()).collect();
    starts.sort_by(|a, b| figure(a, "/accepted_ms").total_cmp(&figure(b, "/accepted_ms")));
    starts.swap_remove(2)
}

fn one_cold_start() -> Value {
    let folder = tempfile::tempdir_in(crate::measure::folder()).expect("the folder can be written");
    let begin = Instant::now();
    let mut child = start(folder.path(), &["W7"]);
    let mut output = lines(&mut child);
    output.next().expect("it reports the first accepted run");
    let accepted = begin.elapsed().as_secs_f64() * 1e3;
    let mut figures = output.last().expect("it reports its memory");
    child.wait().expect("it ends");
    figures["accepted_ms"] = json!((accepted * 10.0).round() / 10.0);
    figures
}
