//! `outlive dev` with a server that is asked while its files change, and what becomes of the schedules that files declare.

use crate::fixture::{Done, Place};
use crate::running::{Answer, PATIENCE, Running};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{ChildStderr, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// `outlive dev`, with what it says.
struct Dev {
    server: Running,
    said: BufReader<ChildStderr>,
}

impl Dev {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command(&[&["dev", "--addr", "127.0.0.1:0"], arguments].concat());
        command.env("PATH", "/usr/bin:/bin").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut dev = Self { server: Running { child, ready: Value::Null }, said };
        let listening = dev.hear("Listening on ");
        let url = listening.trim_start_matches("Listening on ").split(',').next().unwrap();
        dev.server.ready = json!({ "listening": [url] });
        dev
    }

    /// The next line that begins like this.
    fn hear(&mut self, beginning: &str) -> String {
        let mut heard = String::new();
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended without {beginning:?}: {heard}");
            if line.starts_with(beginning) {
                return line.trim().to_owned();
            }
            heard.push_str(&line);
        }
    }

    /// The ids of the workflows that are served.
    fn workflows(&self) -> Vec<String> {
        ids(&self.server.get("/workflows"))
    }

    fn start_run(&self, path: &str) -> Answer {
        let form = "message=hello&stream=false&background=true";
        self.server.ask("POST", path, &["content-type: application/x-www-form-urlencoded"], form)
    }

    /// The run once it is over.
    fn ended(&self, run_id: &str) -> Value {
        self.server.get(&format!("/api/runs/{run_id}/output?wait=60s")).json()
    }
}

fn ids(listed: &Answer) -> Vec<String> {
    assert_eq!(listed.status, 200, "{}", listed.body);
    listed.json().as_array().unwrap().iter().map(|workflow| workflow["id"].as_str().unwrap().to_owned()).collect()
}

fn write(place: &Place, name: &str, text: &str) {
    let path = place.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A file with these workflows, each of one step, and more about each.
fn file(workflows: &[(&str, &str)]) -> String {
    let mut text = "version: 1\nmodel: demo\nstore: sqlite:runs.db\nagents: { a: {} }\nworkflows:\n".to_owned();
    for (name, more) in workflows {
        text.push_str(&format!("  {name}: {{ steps: [{{ step: {name} says, agent: a }}]{more} }}\n"));
    }
    text
}

#[test]
fn a_workflow_is_served_as_soon_as_it_is_written_and_one_that_is_gone_takes_no_new_runs() {
    let place = Place::new();
    let slow = "  slow:
    steps:
      - step: Wait
        command: [sh, -c, \"touch begun; while [ -e begun ] && [ ! -e go ]; do sleep 0.05; done; echo the old text\"]
        effect: idempotent
";
    let talk = file(&[("talk", "")]);
    write(&place, "flows.yaml", &format!("{talk}{slow}"));
    let mut dev = Dev::start(&place, &["flows.yaml", "--allow-commands"]);
    assert_eq!(dev.workflows(), ["slow", "talk"]);
    let in_flight = dev.start_run("/workflows/slow/runs").json()["run_id"].as_str().unwrap().to_owned();
    let began = Instant::now();
    while !place.path("begun").exists() {
        assert!(began.elapsed() < PATIENCE, "it does not begin");
        std::thread::yield_now();
    }

    let input = ", input: { type: object, required: [topic], properties: { topic: { type: string } } }";
    write(&place, "flows.yaml", &file(&[("talk", ""), ("report", input)]));
    assert_eq!(dev.hear("Took "), "Took flows.yaml anew");
    dev.hear("report is served now");
    dev.hear("slow takes no new runs any more");
    dev.hear("1 unfinished run of slow finishes with the text that it began with");
    assert_eq!(dev.workflows(), ["report", "talk"]);
    let detail = dev.server.get("/workflows/report").json();
    assert_eq!(detail["input_schema"]["required"], json!(["topic"]), "{detail}");
    let refused = dev.start_run("/workflows/report/runs");
    assert_eq!(refused.status, 400, "its input must fit: {}", refused.body);
    let asked = json!({ "workflow_id": "report", "input": { "topic": "tea" } }).to_string();
    let accepted = dev.server.ask("POST", "/api/runs", &["content-type: application/json"], &asked);
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    assert_eq!(dev.ended(accepted.json()["run_id"].as_str().unwrap())["status"], "COMPLETED");

    assert_eq!(dev.start_run("/workflows/slow/runs").status, 404);
    let asked = json!({ "workflow_id": "slow", "input": "x" }).to_string();
    let refused = dev.server.ask("POST", "/api/runs", &["content-type: application/json"], &asked);
    assert_eq!(refused.status, 404, "{}", refused.body);
    write(&place, "go", "");
    let ended = dev.ended(&in_flight);
    assert_eq!((&ended["status"], &ended["content"]), (&json!("COMPLETED"), &json!("the old text")), "{ended}");
    // Whoever follows it goes on doing so.
    let polled = dev.server.get(&format!("/workflows/slow/runs/{in_flight}"));
    assert_eq!((polled.status, &polled.json()["status"]), (200, &json!("COMPLETED")), "{}", polled.body);
    assert_eq!(dev.server.get("/workflows/slow").status, 404);

    // It may come back.
    write(&place, "flows.yaml", &file(&[("slow", "")]));
    dev.hear("slow is served now");
    let back = dev.start_run("/workflows/slow/runs");
    assert_eq!(back.status, 202, "{}", back.body);
    assert_eq!(dev.ended(back.json()["run_id"].as_str().unwrap())["status"], "COMPLETED");
}

#[test]
fn a_file_that_is_new_in_a_folder_is_taken_and_one_that_stands_in_the_way_is_told() {
    let place = Place::new();
    write(&place, "flows/one.yaml", &file(&[("one", "")]));
    let mut dev = Dev::start(&place, &["flows", "--db", "runs.db"]);
    write(&place, "flows/two.yaml", &file(&[("two", "")]));
    assert_eq!(dev.hear("Took "), "Took flows/two.yaml as well");
    dev.hear("two is served now");
    assert_eq!(dev.workflows(), ["one", "two"]);

    write(&place, "flows/three.yaml", &file(&[("two", "")]));
    dev.hear("What is served stays as it was before");
    assert_eq!(dev.workflows(), ["one", "two"]);
    write(&place, "flows/bad.yaml", "version: 1\nworkflow: {}\n");
    dev.hear("flows/bad.yaml is left out");
    // Once it is out of the way, the other is taken.
    std::fs::remove_file(place.path("flows/two.yaml")).unwrap();
    dev.hear("flows/two.yaml is gone");
    assert_eq!(dev.workflows(), ["one", "two"]);
    std::fs::remove_file(place.path("flows/three.yaml")).unwrap();
    dev.hear("two takes no new runs any more");
    assert_eq!(dev.workflows(), ["one"]);
}

#[test]
fn requests_see_all_of_the_old_or_all_of_the_new() {
    let place = Place::new();
    let (one, other) = (file(&[("a", ""), ("b", "")]), file(&[("c", ""), ("d", "")]));
    write(&place, "flows.yaml", &one);
    let mut dev = Dev::start(&place, &["flows.yaml"]);
    let done = AtomicBool::new(false);
    let mut server = Running { child: std::process::Command::new("true").spawn().unwrap(), ready: Value::Null };
    server.ready = dev.server.ready.clone();
    let seen = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push(ids(&server.get("/workflows")));
            }
            seen
        });
        for text in [&other, &one, &other] {
            write(&place, "flows.yaml", text);
            dev.hear("Took flows.yaml anew");
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert!(seen.iter().all(|seen| seen == &["a", "b"] || seen == &["c", "d"]), "{seen:?}");
    assert!(seen.iter().any(|seen| seen == &["c", "d"]) && seen.iter().any(|seen| seen == &["a", "b"]));
}

#[test]
fn the_schema_of_files_is_served_to_editors() {
    let place = Place::new();
    let server = Running::serve(&place, &["--db", "a.db"]);
    let schema = server.get("/api/schema/workflow");
    assert_eq!(schema.status, 200);
    let own: Value = serde_json::from_str(&place.run(&["schema", "workflow"]).exits(0).stdout).unwrap();
    assert_eq!(schema.json(), own);
    let described = server.get("/openapi.json").json();
    assert!(described["paths"]["/api/schema/workflow"]["get"].is_object(), "{described}");
    server.stop().exits(0);
}

/// The schedules of a database: the names with their workflows, and what declares each.
fn schedules(place: &Place, db: &str) -> Vec<(String, String, bool)> {
    let listed = place.run(&["schedule", "ls", "--db", db, "--json"]).exits(0).json();
    let line = |schedule: &Value| {
        let text = |key: &str| schedule[key].as_str().unwrap().to_owned();
        (text("name"), text("workflow_id"), schedule["source"].is_string())
    };
    let mut all: Vec<_> = listed["schedules"].as_array().unwrap().iter().map(line).collect();
    all.sort();
    all
}

fn of(name: &str, workflow: &str, is_declared: bool) -> (String, String, bool) {
    (name.to_owned(), workflow.to_owned(), is_declared)
}

const DAILY: &str = ", schedules: { daily: { cron: '0 3 * * *' } }";
const BOTH: &str = ", schedules: { daily: { cron: '0 3 * * *' }, weekly: { cron: '0 4 * * MON' } }";

#[test]
fn a_schedule_that_is_no_longer_in_a_file_is_deleted_and_what_people_made_stays() {
    let place = Place::new();
    write(&place, "a.yaml", &file(&[("a", BOTH)]));
    let server = Running::serve(&place, &["a.yaml"]);
    let made = ["schedule", "add", "a", "@hourly", "--name", "daily", "--server", server.url()];
    place.run(&made).exits(0);
    let all = [of("daily", "a", false), of("daily", "a", true), of("weekly", "a", true)];
    assert_eq!(schedules(&place, "runs.db"), all);
    let which = place.run(&["schedule", "show", "daily", "--db", "runs.db"]).exits(2);
    assert!(which.stderr.contains("several schedules named \"daily\": give the id of one"), "{}", which.stderr);
    place.run(&["schedule", "pause", "weekly", "--db", "runs.db"]).exits(0);
    assert!(server.stop().exits(0).stderr.is_empty());

    // The same again changes nothing, and one that is paused stays so.
    let server = Running::serve(&place, &["a.yaml"]);
    assert_eq!(schedules(&place, "runs.db"), all);
    assert_eq!(place.run(&["schedule", "show", "weekly", "--db", "runs.db", "--json"]).json()["is_paused"], true);
    server.stop().exits(0);
    write(&place, "a.yaml", &file(&[("a", DAILY)]));
    let mut dev = Dev::start(&place, &["a.yaml"]);
    assert_eq!(schedules(&place, "runs.db"), [of("daily", "a", false), of("daily", "a", true)]);

    // Neither does it take a start.
    write(&place, "a.yaml", &file(&[("a", "")]));
    let told = dev.hear("Deleted the schedule ");
    assert_eq!(told, "Deleted the schedule daily of a: no file declares it any more; its runs stay");
    assert_eq!(schedules(&place, "runs.db"), [of("daily", "a", false)]);
}

#[test]
fn processes_with_other_files_leave_each_others_schedules_alone() {
    let place = Place::new();
    write(&place, "a.yaml", &file(&[("a", DAILY)]));
    write(&place, "b.yaml", &file(&[("b", DAILY)]));
    write(&place, "flows/c.yaml", &file(&[("c", DAILY)]));
    write(&place, "flows/d.yaml", &file(&[("d", DAILY)]));
    let worker = |file: &str| Running::start(&mut place.command(&["worker", file, "--db", "runs.db"]));
    let all = ["a", "b", "c", "d"].map(|workflow| of("daily", workflow, true));
    let workers = ["a.yaml", "b.yaml", "flows"].map(worker);
    assert_eq!(schedules(&place, "runs.db"), all);
    // Others come and go.
    worker("b.yaml").stop().exits(0);
    worker("a.yaml").stop().exits(0);
    assert_eq!(schedules(&place, "runs.db"), all);
    workers.into_iter().for_each(|worker| drop(worker.stop().exits(0)));

    // A file that is moved with its workflow keeps its schedules, under another name those that it no longer has go.
    std::fs::rename(place.path("a.yaml"), place.path("renamed.yaml")).unwrap();
    worker("renamed.yaml").stop().exits(0);
    assert_eq!(schedules(&place, "runs.db"), all);
    std::fs::remove_file(place.path("renamed.yaml")).unwrap();
    write(&place, "again.yaml", &file(&[("a", "")]));
    std::fs::remove_file(place.path("flows/d.yaml")).unwrap();
    worker("again.yaml").stop().exits(0);
    worker("flows").stop().exits(0);
    assert_eq!(schedules(&place, "runs.db"), ["b", "c"].map(|workflow| of("daily", workflow, true)));
    let shown: Done = place.run(&["schedule", "ls", "--db", "runs.db"]).exits(0);
    assert!(shown.stdout.contains("daily"), "{}", shown.stdout);
}

#[test]
fn a_newcomers_session_from_an_empty_folder_to_a_run_that_outlives_its_process() {
    let place = Place::new();
    place.run(&["init"]).exits(0);
    let text = std::fs::read_to_string(place.path("workflow.yaml")).unwrap();
    assert!(place.run(&["run", "workflow.yaml", "tea"]).exits(0).stdout.contains("Completed in"));
    // The edit: a step before that counts how often it is executed, and one after that takes its time.
    let count = "- { step: Count, command: [sh, -c, echo once >> count.log], effect: idempotent }\n      ";
    let wait = "\n      - { step: Wait, command: [sh, -c, 'touch begun; while [ -e begun ] && [ ! -e go ]; do sleep 0.05; done; echo done'], effect: idempotent }";
    let steps = text.find("- { step:").unwrap();
    let (before, after) = text.split_at(steps);
    let (own, rest) = after.trim_end().split_once("\n\n").unwrap_or((after.trim_end(), ""));
    write(&place, "workflow.yaml", &format!("{before}{count}{own}{wait}\n\n{rest}"));
    place.run(&["workflow", "validate", "workflow.yaml", "--allow-commands"]).exits(0);

    let mut dev = Dev::start(&place, &["workflow.yaml", "--allow-commands"]);
    let run_id = dev.start_run("/workflows/article/runs").json()["run_id"].as_str().unwrap().to_owned();
    let began = Instant::now();
    while !place.path("begun").exists() {
        assert!(began.elapsed() < PATIENCE, "it does not begin");
        std::thread::yield_now();
    }
    dev.server.child.kill().unwrap();
    dev.server.child.wait().unwrap();
    write(&place, "workflow.yaml", &text);
    write(&place, "go", "");
    let dev = Dev::start(&place, &["workflow.yaml", "--allow-commands"]);
    let ended = dev.ended(&run_id);
    assert_eq!((&ended["status"], &ended["content"]), (&json!("COMPLETED"), &json!("done")), "{ended}");
    assert_eq!(std::fs::read_to_string(place.path("count.log")).unwrap(), "once\n", "what was done is not done again");
}
