//! Workflow files: how soon the program of the command line accepts the first run of one, and how long many take to load.
//!
//! The program is the one beside this one, built with the same profile: `cargo build --release -p outlive-cli`.

use crate::measure::{Arguments, folder, latencies, report, rounded};
use outlive::File;
use outlive::agent::model::ScriptedModel;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A file as people write them: two agents, a team, a tool, a loop, a condition, a schedule.
fn text(number: usize) -> String {
    format!(
        "# yaml-language-server: $schema=.outlive/workflow.schema.json
version: 1
model: demo

tools:
  weather:
    http: {{ url: 'https://api.example.org/weather/{{city}}' }}
    description: The weather in a city
    arguments: {{ type: object, required: [city], properties: {{ city: {{ type: string }} }} }}

agents:
  researcher: {{ role: Finds out what there is to say about a topic, tools: [weather] }}
  writer:
    instructions:
      - Write three paragraphs about what you are given
      - Write plainly

teams:
  desk: {{ members: [researcher, writer], instructions: Work together }}

workflows:
  article-{number}:
    description: An article about a topic
    steps:
      - {{ step: Research, team: desk, retry: {{ times: 3, backoff: 1s }}, timeout: 5m }}
      - loop: Polish
        max_iterations: 3
        until: last_step_content.contains(\"APPROVED\")
        steps: [{{ step: Draft, agent: writer }}, {{ step: Review, agent: researcher }}]
      - condition: Long?
        when: size(previous_step_content) > 1000
        then: [{{ step: Shorten, agent: writer }}]
      - {{ step: Publish, agent: writer, review: {{ confirm: \"Publish this?\", on_reject: skip }} }}
    schedules: {{ daily: {{ cron: '0 8 * * MON-FRI', time_zone: Europe/Berlin }} }}
"
    )
}

/// Loads `--n` files of a folder, as `outlive serve DIR` does.
pub(crate) fn load(arguments: &Arguments) {
    let n = arguments.number("n", 1_000);
    let folder = tempfile::tempdir_in(folder()).expect("a folder");
    for number in 0..n {
        std::fs::write(folder.path().join(format!("{number}.yaml")), text(number)).expect("it is written");
    }
    let begun = Instant::now();
    let files = File::read_all(folder.path()).expect("nothing is wrong with their shapes");
    let read = begun.elapsed();
    let demo = || ScriptedModel::replies([]);
    let built = files.into_iter().map(|file| file.model("demo", demo()).definitions().expect("nor with what they say"));
    let workflows: usize = built.map(|definitions| definitions.len()).sum();
    let loaded = begun.elapsed();
    assert_eq!(workflows, n, "each has one");
    let millis = |time: Duration| rounded(time.as_secs_f64() * 1e3);
    report(&json!({ "workload": "F2", "files": n, "read_ms": millis(read), "loaded_ms": millis(loaded) }));
}

/// Starts `outlive run FILE`, `--n` times, each in a folder of its own: from the start to the line with the run's id.
pub(crate) fn first_run(arguments: &Arguments) {
    let program = program();
    let mut took: Vec<_> = (0..arguments.number("n", 20)).map(|_| one_first_run(&program)).collect();
    report(&json!({ "workload": "F1", "accepted": latencies(&mut took) }));
}

fn one_first_run(program: &Path) -> Duration {
    let folder = tempfile::tempdir_in(folder()).expect("a folder");
    std::fs::write(folder.path().join("article.yaml"), text(0)).expect("it is written");
    let mut command = Command::new(program);
    command.args(["run", "article.yaml", "tea", "--db", "runs.db"]).current_dir(folder.path());
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program is there");
    let said = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    // The remark that the run's id is in stable storage.
    let is_accepted = said.into_iter().any(|line| line.starts_with("Run "));
    let took = begun.elapsed();
    let _ = child.kill();
    let _ = child.wait();
    assert!(is_accepted, "the run is accepted");
    took
}

/// `outlive`, beside the folder that this program is in.
fn program() -> PathBuf {
    let here = std::env::current_exe().expect("this program has a path");
    let program = here.ancestors().nth(2).expect("it is in a folder of the profile's").join("outlive");
    assert!(program.is_file(), "build it first, with the same profile: cargo build --release -p outlive-cli");
    program
}
