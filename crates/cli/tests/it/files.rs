//! Workflows in files, without any Rust: written, executed, killed, changed, served.

use crate::fixture::{Done, Place};
use crate::running::{PATIENCE, Running};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A file of this name with these lines.
fn write(place: &Place, name: &str, text: &str) {
    let path = place.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Waits until a file is there. It fails a test that hangs, and measures nothing.
fn wait_for(place: &Place, name: &str) {
    let began = Instant::now();
    while !place.path(name).exists() {
        assert!(began.elapsed() < PATIENCE, "there is no {name}");
        std::thread::yield_now();
    }
}

fn with_path(command: &mut Command) -> &mut Command {
    command.env("PATH", "/usr/bin:/bin")
}

/// A first step that leaves a line each time it is executed, and a second that waits for the file `go`.
fn slow(says: &str) -> String {
    format!(
        "version: 1\nstore: sqlite:runs.db\nworkflows:\n  slow:\n    steps:\n      - step: Once\n        command: [sh, -c, \"echo \
         done >> first.log; echo {says}\"]\n        effect: idempotent\n      - step: Wait\n        command: [sh, -c, \"touch begun; \
         while [ -e begun ] && [ ! -e go ]; do sleep 0.05; done; echo {says}\"]\n        effect: idempotent\n"
    )
}

#[test]
fn a_newcomers_file_is_written_checked_run_and_changed() {
    let place = Place::new();
    let begun = place.run(&["init"]).exits(0);
    assert!(begun.stderr.contains("Run it with: outlive run workflow.yaml"), "{}", begun.stderr);
    let again = place.run(&["init", "--json"]).exits(5);
    assert_eq!(again.error()["code"], "file_exists");
    place.run(&["init", "elsewhere"]).exits(0);

    let ran = place.run(&["run", "workflow.yaml", "tea"]).exits(0);
    assert!(ran.stdout.contains("✓ Write") && ran.stdout.contains("Completed in"), "{}", ran.stdout);
    let listed = place.run(&["ls", "--json"]).exits(0).json();
    assert_eq!(listed["runs"][0]["workflow_id"], "article");
    assert!(place.path(".outlive/data.db").exists(), "where runs are kept unless the file says otherwise");
    let schema = std::fs::read_to_string(place.path(".outlive/workflow.schema.json")).unwrap();
    assert_eq!(place.run(&["schema", "workflow"]).exits(0).stdout, schema);

    let text = std::fs::read_to_string(place.path("workflow.yaml")).unwrap();
    write(&place, "workflow.yaml", &text.replace("agent: writer", "agent: writter"));
    let refused = place.run(&["run", "workflow.yaml", "tea"]).exits(2);
    let told = "unknown agent \"writter\": did you mean \"writer\"?";
    assert!(refused.stderr.contains(told) && refused.stderr.contains("^"), "{}", refused.stderr);
    assert_eq!(place.run(&["ls", "--json"]).exits(0).json()["runs"].as_array().unwrap().len(), 1, "no run was started");
}

#[test]
fn steps_that_work_side_by_side_are_told_apart() {
    let place = Place::new();
    let text = "\
version: 1
model: demo
agents: { a: {} }
workflows:
  w:
    steps:
      - { parallel: P, steps: [{ step: A, agent: a }, { step: B, agent: a }] }
      - { for_each: E, items: '[\"one\", \"two\", \"three\"]', steps: [{ step: Each, agent: a }] }
      - { step: Last, agent: a }
      - { step: Save, command: [cat], effect: read }
";
    write(&place, "w.yaml", text);
    let run = place.run(&["run", "w.yaml", "x", "--allow-commands"]).exits(0);
    for page in [&run.stdout, &place.run(&["show"]).exits(0).stdout] {
        let ended = |name: &str| page.lines().filter(|line| line.starts_with(&format!(" ✓ {name} "))).count();
        assert_eq!(["A", "B", "Each", "Last"].map(ended), [1, 1, 3, 1], "{page}");
        assert!(!page.contains('✕'), "{page}");
    }
    // What each says stands as a whole, on lines of its own, before the line of its end.
    for said in ["one", "two", "three"] {
        let whole = format!("\n   (demo, not an AI) I was asked: {said}\n ✓ Each ");
        assert!(run.stdout.contains(&whole), "{}", run.stdout);
    }
    // A program finds what each of them gave back.
    let given = &place.run(&["output", "--json"]).exits(0).json()["content"]["previous_step_outputs"];
    let said = |what: &str| format!("(demo, not an AI) I was asked: {what}");
    assert_eq!(given["P"], json!([said("x"), said("x")]));
    assert_eq!(given["E"], json!([said("one"), said("two"), said("three")]));
}

#[test]
fn a_run_that_waits_for_a_process_names_the_one_that_takes_it() {
    let place = Place::new();
    write(&place, "w.yaml", "version: 1\nworkflows: { w: { steps: [{ step: S, command: [cat], effect: read }] } }\n");
    let sent = place.run(&["run", "-d", "w.yaml", "x", "--allow-commands"]).exits(0);
    assert!(sent.stderr.contains("outlive worker w.yaml --allow-commands"), "{}", sent.stderr);
    let shown = place.run(&["show"]).exits(0).stdout;
    assert!(shown.contains("or outlive worker with its file"), "{shown}");
}

#[test]
fn what_a_file_defines_is_listed_shown_drawn_and_checked() {
    let place = Place::new();
    let text = "\
version: 1
model: openai:gpt-5.2
agents: { a: { name: Writer } }
workflows:
  one: { name: \"One <b> \\\"two\\\"\", description: The first, steps: [{ step: S, agent: a }] }
  two:
    steps:
      - parallel: P
        steps: [{ step: A, agent: a }, { step: B, workflow: one }]
      - { condition: C, when: size(input) > 3, then: [{ step: D, function: f }] }
";
    write(&place, "two.yaml", text);
    let listed = place.run(&["workflow", "ls", "two.yaml", "--json"]).exits(0).json();
    assert_eq!(listed["workflows"][1]["id"], "two");
    let shown = place.run(&["workflow", "show", "two.yaml", "--workflow", "two"]).exits(0).stdout;
    assert!(shown.contains("- P: at the same time\n") && shown.contains("- A: agent Writer\n"), "{shown}");
    let which = place.run(&["workflow", "show", "two.yaml"]).exits(2).stderr;
    assert!(which.contains("name one with --workflow: one, two"), "{which}");
    let json = place.run(&["workflow", "show", "two.yaml", "--workflow", "one", "--json"]).exits(0).json();
    assert_eq!(json["steps"][0]["agent_id"], "writer");
    let mermaid = place.run(&["workflow", "graph", "two.yaml", "--workflow", "two"]).exits(0).stdout;
    assert!(mermaid.starts_with("flowchart TD\n") && mermaid.contains("-->|\"no\"|"), "{mermaid}");
    assert!(!mermaid.contains("<b>"), "{mermaid}");
    let svg = place.run(&["workflow", "graph", "two.yaml", "--workflow", "one", "--format", "svg"]).exits(0).stdout;
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("&lt;b&gt; &quot;two&quot;"),
        "{svg}"
    );

    // A key and a function are missing here, and the file is fine.
    let checked = place.run(&["workflow", "validate", "two.yaml"]).exits(0);
    assert!(
        checked.stdout.contains("OPENAI_API_KEY") && checked.stdout.contains("no function \"f\""),
        "{}",
        checked.stdout
    );
    // What others of the file need does not matter.
    let refused = place.run(&["run", "two.yaml", "--workflow", "one", "x", "--json"]).exits(7);
    let error = refused.error();
    assert_eq!(error["code"], "configuration");
    assert!(error["hint"].as_str().unwrap().starts_with("two.yaml:2:8: "), "{error}");
    assert!(!error["hint"].as_str().unwrap().contains("two.yaml:10"), "{error}");
    place.run(&["run", "two.yaml", "--workflow", "one", "x", "--model", "demo"]).exits(0);
    write(&place, "bad.yaml", "version: 1\nworkflows: {}\nagnets: {}\n");
    let wrong = place.run(&["workflow", "validate", "two.yaml", "bad.yaml", "--json"]).exits(2).json();
    assert_eq!(wrong["problems"].as_array().unwrap().len(), 2, "{wrong}");
    assert_eq!(wrong["problems"][1]["line"], 3);
}

#[test]
fn a_picture_says_what_works_in_a_step() {
    let place = Place::new();
    let text = "\
version: 1
model: demo
agents: { a: {} }
workflows:
  inner: { steps: [{ step: Fetch, http: { url: \"https://example.org\" }, history: true }] }
  outer:
    steps:
      - { step: Clean, command: [cat], effect: read }
      - { step: Count, function: count }
      - { condition: Long?, when: size(input) > 9, then: [{ step: Cut, agent: a }], else: [{ step: Send, command: [cat], effect: read }] }
      - { step: Inner, workflow: inner }
";
    write(&place, "w.yaml", text);
    let outer = |verb: &[&str]| {
        place.run(&[&["workflow"][..], verb, &["w.yaml", "--workflow", "outer"]].concat()).exits(0).stdout
    };
    let shown = outer(&["show"]);
    for line in [
        "- Clean: command\n",
        "- Count: function count\n",
        "- Cut: agent a\n",
        "- Send: command\n",
        "- Fetch: request\n",
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    for picture in [outer(&["graph"]), outer(&["graph", "--format", "svg"])] {
        assert!(picture.contains("Send: command") && picture.contains("Fetch: request"), "{picture}");
    }
}

#[test]
fn a_mistyped_model_or_workflow_on_the_command_line_is_blamed_on_the_option() {
    let place = Place::new();
    write(
        &place,
        "w.yaml",
        "version: 1\nmodel: demo\nagents: { a: {} }\nworkflows: { draft: { steps: [{ step: S, agent: a }] }, other: { steps: [{ step: S, agent: a }] } }\n",
    );
    for verb in
        [&["run", "w.yaml", "x", "--workflow", "draft"][..], &["worker", "w.yaml"], &["workflow", "validate", "w.yaml"]]
    {
        let wrong = place.run(&[verb, &["--model", "dmeo"]].concat()).exits(2).stderr;
        assert!(wrong.starts_with("error: --model: model \"dmeo\" names no provider"), "{wrong}");
        assert!(wrong.contains("did you mean \"demo\"?") && !wrong.contains("w.yaml"), "{wrong}");
        let missing = place.run(&[verb, &["--model", "openai:gpt-5.2"]].concat()).exits(7).stderr;
        assert!(missing.starts_with("error: --model: model openai:gpt-5.2 needs OPENAI_API_KEY"), "{missing}");
    }
    let wrong = place.run(&["run", "w.yaml", "x", "--workflow", "darft"]).exits(2).stderr;
    assert!(wrong.contains("did you mean \"draft\"? name one with --workflow: draft, other"), "{wrong}");
}

#[test]
fn two_files_with_one_workflow_are_both_named() {
    let place = Place::new();
    let text = "version: 1\nmodel: demo\nagents: { a: {} }\nworkflows: { w: { steps: [{ step: S, agent: a }] } }\n";
    write(&place, "one.yaml", text);
    write(&place, "two.yaml", text);
    let said = place.run(&["workflow", "validate", "one.yaml", "two.yaml"]).exits(2).stdout;
    assert!(said.starts_with("two.yaml:1:1: one.yaml has a workflow with the id \"w\" too"), "{said}");
    let said = place.run(&["worker", "one.yaml", "one.yaml"]).exits(2).stderr;
    assert!(said.contains("one.yaml:1:1: it is named twice: name it once"), "{said}");
}

#[test]
fn a_killed_run_goes_on_with_its_own_text_in_the_next_process() {
    let place = Place::new();
    write(&place, "slow.yaml", &slow("the old text"));
    let mut command = place.command(&["run", "slow.yaml", "x", "--allow-commands", "--quiet"]);
    let mut killed = with_path(&mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&place, "begun");
    killed.kill().unwrap();
    killed.wait().unwrap();

    write(&place, "slow.yaml", &slow("the new text").replace("step: Once", "step: First"));
    let diff = place.run(&["--db", "runs.db", "workflow", "diff", "slow.yaml"]).exits(0).stdout;
    assert_eq!(diff, "1 of 1 unfinished run of slow can go on\n");
    write(&place, "go", "");
    let mut worker = place.command(&["worker", "slow.yaml", "--allow-commands"]);
    let worker = Running::start(with_path(&mut worker));
    place.run(&["--db", "runs.db", "watch", "@last"]).exits(0);
    let output = place.run(&["--db", "runs.db", "output", "@last"]).exits(0).stdout;
    assert_eq!(output.trim(), "the old text");
    assert_eq!(
        std::fs::read_to_string(place.path("first.log")).unwrap(),
        "done\n",
        "the finished step was not repeated"
    );
    worker.stop().exits(0);
    let mut new = place.command(&["run", "slow.yaml", "x", "--allow-commands", "--quiet"]);
    assert!(with_path(&mut new).output().unwrap().status.success());
    let output = place.run(&["--db", "runs.db", "output", "@last"]).exits(0).stdout;
    assert_eq!(output.trim(), "the new text");

    let unknown = place.run(&["--db", "runs.db", "rerun", "@last"]).exits(3);
    assert!(unknown.stderr.contains("--file FILE"), "{}", unknown.stderr);
    let mut again = place.command(&["rerun", "@last", "--file", "slow.yaml", "--allow-commands", "--quiet"]);
    assert!(with_path(&mut again).output().unwrap().status.success());
    assert_eq!(std::fs::read_to_string(place.path("first.log")).unwrap().lines().count(), 3);
}

#[test]
fn bad_e08_sigterm_stops_a_run_of_a_file_as_ctrl_c_does() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::HUP] {
        let place = Place::new();
        write(&place, "slow.yaml", &slow("said"));
        let mut command = place.command(&["run", "slow.yaml", "x", "--allow-commands"]);
        with_path(&mut command).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for(&place, "begun");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let stopped = Done::from(child.wait_with_output().unwrap()).exits(130).stderr;
        let how = ["the run resumes in the next process that executes: ", " worker slow.yaml --allow-commands"];
        assert!(how.iter().all(|words| stopped.contains(words)), "{stopped}");
        write(&place, "go", "");
        let mut worker = place.command(&["worker", "slow.yaml", "--allow-commands"]);
        let worker = Running::start(with_path(&mut worker));
        place.run(&["--db", "runs.db", "watch", "@last"]).exits(0);
        worker.stop().exits(0);
    }
}

#[test]
fn commands_are_refused_unless_they_are_allowed_also_those_of_stored_texts() {
    let place = Place::new();
    write(&place, "slow.yaml", &slow("x"));
    let refused = place.run(&["run", "slow.yaml", "x"]).exits(7);
    assert!(
        refused.stderr.contains("--allow-commands") && refused.stderr.contains("slow.yaml:7:9"),
        "{}",
        refused.stderr
    );
    assert!(!place.path("runs.db").exists(), "nothing was opened");
    let named = place.run(&["run", "content-creation-demo", "x", "--allow-commands"]).exits(2);
    assert!(named.stderr.contains("is not a file"), "{}", named.stderr);

    let mut command = place.command(&["run", "-d", "slow.yaml", "x", "--allow-commands"]);
    let accepted = Done::of({
        with_path(&mut command);
        command
    });
    let run_id = accepted.exits(0).stdout.trim().to_owned();
    write(
        &place,
        "slow.yaml",
        "version: 1\nmodel: demo\nstore: sqlite:runs.db\nagents: { a: {} }\nworkflows: { slow: { steps: [{ step: A, agent: a }] } }\n",
    );
    let worker = Running::start(&mut place.command(&["worker", "slow.yaml"]));
    let waits = place.run(&["--db", "runs.db", "watch", &run_id]).exits(12);
    assert!(waits.stderr.contains("--allow-commands"), "{}", waits.stderr);
    assert!(!place.path("first.log").exists());
    worker.stop().exits(0);
}

#[test]
fn dev_takes_a_saved_file_anew_and_keeps_the_old_one_while_it_has_a_mistake() {
    let place = Place::new();
    let file = |role: &str| {
        format!(
            "version: 1\nmodel: demo\nagents: {{ a: {{}} }}\nworkflows: {{ talk: {{ steps: [{{ step: {role}, agent: a }}] }} }}\n"
        )
    };
    write(&place, "talk.yaml", &file("Old"));
    let mut command = place.command(&["dev", "talk.yaml", "--addr", "127.0.0.1:0"]);
    // Remarks are wanted, so the line that says where it listens is read from them.
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let listening = said.find(|line| line.starts_with("Listening on ")).unwrap();
    let url = listening.trim_start_matches("Listening on ").split(',').next().unwrap().to_owned();
    let run = || place.run(&["run", "talk", "hello", "--server", &url]).exits(0).stdout;
    assert!(run().contains("✓ Old"));
    write(&place, "talk.yaml", &file("New").replace("agent: a", "agnet: a"));
    let mistake = said.find(|line| line.contains("agnet")).unwrap();
    assert!(mistake.contains("did you mean \"agent\"?"), "{mistake}");
    said.find(|line| line == "talk.yaml stays as it was before").unwrap();
    assert!(run().contains("✓ Old"));
    write(&place, "talk.yaml", &file("New"));
    said.find(|line| line == "Took talk.yaml anew").unwrap();
    assert!(run().contains("✓ New"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_folder_is_served_with_its_schedules_and_nothing_outside_of_it() {
    let place = Place::new();
    let file = |name: &str, more: &str| {
        format!(
            "version: 1\nmodel: demo\nagents: {{ a: {{}} }}\nworkflows:\n  {name}:\n    steps: [{{ step: A, agent: a }}]\n{more}"
        )
    };
    write(
        &place,
        "flows/one.yaml",
        &file("one", "    schedules: { daily: { cron: '0 3 * * *', time_zone: Europe/Berlin } }\n"),
    );
    write(&place, "flows/two.yml", &file("two", ""));
    write(&place, "flows/notes.txt", "no workflow");
    let server = Running::serve(&place, &["flows"]);
    let served = server.get("/workflows").json().to_string();
    assert!(served.contains("\"one\"") && served.contains("\"two\"") && !served.contains("demo"), "{served}");
    let schedules = place.run(&["schedule", "ls", "--json"]).exits(0).json();
    assert_eq!(
        (&schedules["schedules"][0]["name"], &schedules["schedules"][0]["time_zone"]),
        (&json!("daily"), &json!("Europe/Berlin"))
    );
    assert_eq!(schedules["schedules"].as_array().unwrap().len(), 1);
    server.stop().exits(0);

    write(&place, "secret.yaml", &file("three", ""));
    std::os::unix::fs::symlink(place.path("secret.yaml"), place.path("flows/link.yaml")).unwrap();
    let refused = place.run(&["serve", "flows", "--addr", "127.0.0.1:0"]).exits(2);
    assert!(refused.stderr.contains("it leads out of flows"), "{}", refused.stderr);
    std::fs::remove_file(place.path("flows/link.yaml")).unwrap();
    write(&place, "flows/again.yaml", &file("one", ""));
    let twice = place.run(&["worker", "flows"]).exits(2);
    assert!(twice.stderr.contains("has a workflow with the id \"one\" too"), "{}", twice.stderr);
}

#[test]
fn a_conversation_is_runs_of_one_session() {
    let place = Place::new();
    place.run(&["init"]).exits(0);
    let mut command = place.command(&["chat", "workflow.yaml", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"first\n\nsecond\nquit\nnever asked\n").unwrap();
    let done = Done::from(child.wait_with_output().unwrap()).exits(0);
    let answers: Vec<serde_json::Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2, "{}", done.stdout);
    assert!(answers[1]["content"].as_str().unwrap().contains("second"), "{}", answers[1]);
    assert_eq!(answers[0]["session_id"], answers[1]["session_id"]);
    assert_ne!(answers[0]["run_id"], answers[1]["run_id"]);
}

/// A conversation: these lines, and what was said.
fn chat(place: &Place, arguments: &[&str], lines: &str) -> Done {
    let mut command = place.command(&[&["chat"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    Done::from(child.wait_with_output().unwrap())
}

/// Asks for a yes, for fields, for a choice, and for a judgement.
const ASKING: &str = "\
version: 1
model: demo
store: sqlite:runs.db
agents: { a: {} }
workflows:
  ask:
    steps:
      - { step: First, agent: a, review: { confirm: \"Begin?\" } }
      - step: Fill
        agent: a
        review:
          ask: Who and how many?
          fields: [{ name: who }, { name: count, type: int }, { name: note, required: false }]
      - router: Where
        review: { ask: Where to? }
        choices: [{ step: Post, agent: a }, { step: Article, agent: a }]
      - { step: Last, agent: a, review: { output: \"Good?\", on_reject: retry } }
";

#[test]
fn what_a_run_asks_is_asked_in_the_conversation() {
    let place = Place::new();
    write(&place, "ask.yaml", ASKING);
    let lines = "hello\nperhaps\nyes\nAda\nthree\n3\n-\nPsot\npost\nno, shorter\nedit Better words\n/session\n/quit\n";
    let done = chat(&place, &["ask.yaml"], lines).exits(0);
    for said in [
        "First asks: Begin? (confirmation)",
        "That is not an answer here: it takes yes, no, or no and why",
        "who: string",
        "count: integer",
        "field count takes JSON of the type integer",
        "\"Psot\" is none of the choices: did you mean \"Post\"?",
        "1. Post",
        "Last asks: Good?",
    ] {
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }
    let mut told = done.stdout.lines();
    assert_eq!(told.next(), Some("Better words"), "{}", done.stdout);
    let session = told.next().unwrap();
    let runs = place.run(&["ls", "--db", "runs.db", "--json"]).exits(0).json();
    assert_eq!((runs["runs"].as_array().unwrap().len(), &runs["runs"][0]["status"]), (1, &json!("completed")));
    assert_eq!(runs["runs"][0]["session_id"], session);
}

#[test]
fn a_conversation_is_taken_up_where_it_was_left() {
    let place = Place::new();
    write(&place, "ask.yaml", ASKING);
    let left = chat(&place, &["ask.yaml", "--session", "ada"], "/help\n/nonsense\nhello\nyes\n/later\n").exits(0);
    assert!(
        left.stderr.contains("//text says /text") && left.stderr.contains("There is no /nonsense"),
        "{}",
        left.stderr
    );
    assert!(left.stderr.contains("It waits for an answer") && left.stderr.contains("--session ada"), "{}", left.stderr);
    let status = || place.run(&["ls", "--db", "runs.db", "--json"]).exits(0).json()["runs"][0]["status"].clone();
    assert_eq!(status(), "paused");
    // The rest of it, in another process, and as JSON.
    let lines = "Grace\n2\nhurry\n2\nyes\n/new\n";
    let done = chat(&place, &["ask.yaml", "--session", "ada", "--json"], lines).exits(0);
    let told: Vec<serde_json::Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = told.iter().map(|told| told["questions"][0]["kind"].as_str().unwrap_or("none")).collect();
    assert_eq!(kinds, ["user_input", "route_selection", "output_review", "none"], "{}", done.stdout);
    assert_eq!((&told[3]["status"], &told[3]["session_id"]), (&json!("completed"), &json!("ada")));
    let again = chat(&place, &["ask.yaml", "--session", "ada"], "").exits(0);
    assert!(again.stderr.contains("> hello") && again.stderr.contains("(demo, not an AI)"), "{}", again.stderr);
}

#[test]
fn an_input_comes_from_a_file_or_a_pipe_and_its_mistakes_are_named_by_field() {
    let place = Place::new();
    let text = "\
version: 1
model: demo
store: sqlite:runs.db
agents: { a: {} }
workflows:
  plan:
    input:
      type: object
      required: [topic, days]
      properties: { topic: { type: string, description: about what }, days: { type: integer, minimum: 1 }, tags: { type: array, items: { type: string } } }
    steps: [{ step: Plan, agent: a }]
  words: { input: { type: string, maxLength: 20 }, steps: [{ step: Say, agent: a }] }
";
    write(&place, "plan.yaml", text);
    let plan = |input: &[&str]| place.run(&[&["run", "plan.yaml", "--workflow", "plan"], input].concat());
    for (input, said) in [
        (&["{\"topic\": \"tea\"}"][..], "it lacks days"),
        (&["{\"topic\": [\"tea\"], \"days\": 2}"], "at topic: it must be text, and is a list"),
        (&["--json-input", "{\"topic\": \"tea\", \"days\": 0}"], "at days: "),
        (&["--json-input", "{\"topic\": \"tea\", \"days\": 2, \"tags\": [\"a\", {}]}"], "at tags[1]: "),
        (&["tea"], "it is not JSON"),
        (&[], "it must be an object"),
        (&["-f", "topic=tea", "-f", "days=soon"], "at days: "),
        (&["--field", "topic=tea"], "it lacks days"),
    ] {
        let refused = plan(input).exits(2);
        assert!(refused.stderr.contains(said), "{input:?}: {}", refused.stderr);
        let fields = "topic: string (about what)\n    days: integer\n    tags: array, optional";
        assert!(refused.stderr.contains(fields), "{input:?}: {}", refused.stderr);
    }
    assert!(!place.path("runs.db").exists(), "nothing was opened");
    write(&place, "input.json", "{\"topic\": \"tea\", \"days\": 2}");
    for input in [&["@input.json"][..], &["--json-input", "@input.json"]] {
        plan(input).exits(0);
    }
    // The topic is text and the days are none, whatever they look like; a value may have = in it, and be nothing.
    let fields = place.run(&[
        "run",
        "plan.yaml",
        "--workflow",
        "plan",
        "-f",
        "topic=007",
        "-f",
        "days=2",
        "--field",
        "tags=[\"a=b\", \"\"]",
    ]);
    assert!(fields.exits(0).stdout.contains("\"topic\":\"007\""));
    for (refused, said) in [
        (&["-f", "topic=tea", "-f", "topic=mate", "-f", "days=2"][..], "field topic is given twice"),
        (&["-f", "topic"], "write it as NAME=VALUE"),
        (&["-f", "=tea"], "write it as NAME=VALUE"),
        (&["tea", "-f", "topic=tea"], "cannot be used with"),
        (&["--json-input", "{}", "-f", "topic=tea"], "cannot be used with"),
    ] {
        let refused = plan(refused).exits(2);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    for input in [&["-"][..], &["--json-input", "-"]] {
        let mut command = place.command(&[&["run", "plan.yaml", "--workflow", "plan", "--quiet"], input].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"{\"topic\": \"tea\", \"days\": 2}").unwrap();
        Done::from(child.wait_with_output().unwrap()).exits(0);
    }
    // Where text is wanted, text is what it is.
    place.run(&["run", "plan.yaml", "--workflow", "words", "tea for two"]).exits(0);
    let long = place.run(&["run", "plan.yaml", "--workflow", "words", "tea for two, and two for tea"]).exits(2);
    assert!(long.stderr.contains("20"), "{}", long.stderr);
}

/// Every kind of node, with a leader.
const EVERY_KIND: &str = "\
version: 1
model: demo
agents: { a: { name: Writer } }
teams: { t: { name: Desk, members: [a] } }
workflows:
  inner: { steps: [{ step: Inside, agent: a }] }
  all:
    name: Everything & more
    leader: { name: Chief }
    steps:
      - { step: Alone, agent: a, review: { confirm: \"Go?\" } }
      - { step: Together, team: t }
      - { step: Asks, http: { url: https://example.org/x } }
      - { step: Executes, command: [date], effect: read }
      - { step: Nested, workflow: inner }
      - { sequence: Row, steps: [{ step: R1, agent: a }, { step: R2, agent: a }] }
      - { parallel: Sides, steps: [{ step: Left, agent: a }, { step: Right, agent: a }] }
      - { loop: Round, max_iterations: 2, until: current_iteration > 1, steps: [{ step: L, agent: a }] }
      - { condition: If, when: size(input) > 3, then: [{ step: Yes, agent: a }], else: [{ step: No, agent: a }] }
      - { router: Way, select: '\"P\"', choices: [{ step: P, agent: a }, { step: Q, agent: a }] }
      - { for_each: Each, items: '[1, 2]', steps: [{ step: E, agent: a }] }
";

#[test]
fn a_workflow_with_every_kind_of_step_is_drawn() {
    let place = Place::new();
    write(&place, "all.yaml", EVERY_KIND);
    let draw = |format: &str| {
        place.run(&["workflow", "graph", "all.yaml", "--workflow", "all", "--format", format]).exits(0).stdout
    };
    let (mermaid, svg) = (draw("mermaid"), draw("svg"));
    let names =
        ["Alone", "Together", "Asks", "Executes", "Nested", "Inside", "Row", "R1", "R2", "Sides", "Left", "Right"];
    let others = ["Round", "L", "If", "Yes", "No", "Way", "P", "Q", "Each", "E", "led by Chief"];
    for name in names.into_iter().chain(others) {
        for picture in [&mermaid, &svg] {
            let is_there = picture.contains(&format!("{name}:")) || picture.contains(name);
            assert!(is_there, "{name} is not in {picture}");
        }
    }
    assert!(mermaid.contains("Everything &amp; more") && svg.contains("Everything &amp; more"), "{mermaid}{svg}");
    // Each line of the one is a node or an edge between nodes that there are; the other has as many ends as beginnings.
    let nodes: std::collections::BTreeSet<&str> = mermaid
        .lines()
        .skip(1)
        .filter(|line| !line.contains("->"))
        .map(|line| &line[2..line.find(['[', '(', '{']).unwrap()])
        .collect();
    for edge in mermaid.lines().filter(|line| line.contains("->")) {
        let ends = [edge.split_whitespace().next().unwrap(), edge.split_whitespace().last().unwrap()];
        assert!(ends.iter().all(|end| nodes.contains(end)), "{edge}");
    }
    for said in ["answers itself", "has the steps executed", "again", "next", "yes", "no", "(asks a person)"] {
        assert!(mermaid.contains(said), "{said} is not in {mermaid}");
    }
    assert_eq!(svg.matches("<rect").count(), svg.matches("<text").count(), "{svg}");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

#[test]
fn a_diff_tells_what_all_workflows_of_a_file_come_to_and_in_which_lines_it_differs() {
    let place = Place::new();
    let text = |line: &str| {
        format!(
            "version: 1\nmodel: demo\nstore: sqlite:runs.db\nagents: {{ a: {{ role: {line} }} }}\nworkflows:\n  one: {{ steps: [{{ step: A, agent: a, review: {{ confirm: Go? }} }}] }}\n  two: {{ steps: [{{ step: B, agent: a }}] }}\n"
        )
        .replace("Go?", "\"Go?\"")
    };
    write(&place, "two.yaml", &text("Writes"));
    place.run(&["run", "two.yaml", "--workflow", "one", "x"]).exits(12);
    place.run(&["run", "-d", "two.yaml", "--workflow", "two", "x"]).exits(0);
    write(&place, "two.yaml", &text("Reads"));
    let diff =
        |more: &[&str]| place.run(&[&["--db", "runs.db", "workflow", "diff", "two.yaml"], more].concat()).exits(0);
    let both = diff(&[]).stdout;
    assert!(both.contains("1 of 1 unfinished run of one can go on"), "{both}");
    assert!(both.contains("waits for a person, then goes on"), "{both}");
    assert!(both.contains("1 of 1 unfinished run of two can go on"), "{both}");
    let one = diff(&["--workflow", "two", "--text"]).stdout;
    let expected = "\
1 of 1 unfinished run of two can go on
1 run began with another text:
-    4 | agents: { a: { role: Writes } }
+    4 | agents: { a: { role: Reads } }
";
    assert_eq!(one, expected);
    let json = diff(&["--json", "--text"]).json();
    assert_eq!(json["ok"], true);
    let change = &json["workflows"][1]["changes"][0];
    assert_eq!((&change["runs"], &change["lines"][1]["sign"]), (&json!(1), &json!("+")), "{json}");
}

#[test]
fn init_takes_a_folder_that_has_files_and_writes_over_none() {
    let place = Place::new();
    for (name, text) in [("notes.txt", "mine"), (".gitignore", "target"), (".outlive/.gitignore", "all of it")] {
        write(&place, name, text);
    }
    place.run(&["init"]).exits(0);
    for (name, text) in [("notes.txt", "mine"), (".gitignore", "target"), (".outlive/.gitignore", "all of it")] {
        assert_eq!(std::fs::read_to_string(place.path(name)).unwrap(), text, "{name}");
    }
    let written = std::fs::read_to_string(place.path("workflow.yaml")).unwrap();
    let first = written.lines().next().unwrap();
    assert_eq!(first, "# yaml-language-server: $schema=.outlive/workflow.schema.json", "for editors");
    assert!(place.path(".outlive/workflow.schema.json").exists());
    write(&place, "workflow.yaml", "mine too");
    place.run(&["init"]).exits(5);
    assert_eq!(std::fs::read_to_string(place.path("workflow.yaml")).unwrap(), "mine too");
    // A file where a folder is wanted.
    let refused = place.run(&["init", "notes.txt"]).exits(1);
    assert!(refused.stderr.contains("notes.txt"), "{}", refused.stderr);
}

#[test]
fn a_file_is_executed_here_and_its_tools_ask_only_hosts_that_are_open() {
    let place = Place::new();
    let text = "\
version: 1
workflows:
  ask:
    input: { type: object, properties: { what: { type: string } } }
    steps: [{ step: Ask, http: { url: \"http://ADDRESS/of/{what}\" } }]
";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    write(&place, "ask.yaml", &text.replace("ADDRESS", &address));
    let refused = place.run(&["run", "ask.yaml", "--json-input", "{\"what\": \"tea\"}"]).exits(7);
    assert!(refused.stderr.contains("url_not_allowed") && refused.stderr.contains("tool_hosts"), "{}", refused.stderr);
    let checked = place.run(&["workflow", "validate", "ask.yaml"]).exits(0);
    assert!(checked.stdout.contains("tool_hosts"), "{}", checked.stdout);
    let there = place.run(&["run", "ask.yaml", "x", "--server", "http://127.0.0.1:1"]).exits(2);
    assert!(there.stderr.contains("a file is executed here"), "{}", there.stderr);

    let answering = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(socket.try_clone().unwrap()).read_line(&mut line).unwrap();
        let body = "{\"leaves\": 2}";
        write!(socket, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        line
    });
    let mut command = place.command(&["run", "ask.yaml", "--json-input", "{\"what\": \"green tea\"}", "--quiet"]);
    let done = Done::of({
        command.env("OUTLIVE_TOOL_HOSTS", &address).env("NO_PROXY", "*");
        command
    });
    done.exits(0);
    assert_eq!(answering.join().unwrap(), "GET /of/green%20tea HTTP/1.1\r\n");
    let output = place.run(&["output", "@last", "--json"]).exits(0).json();
    assert_eq!(output["content"], json!({ "leaves": 2 }), "{output}");
}

#[test]
fn what_this_machine_lacks_hides_nothing_of_a_file() {
    let place = Place::new();
    let text = "\
version: 1
model: demo
store: sqlite:runs.db
tools:
  house:
    http: { url: \"http://127.0.0.1:9/\", headers: { X-Key: \"${env:NOBODY_SETS_THIS}\" } }
    description: Asks at home
  desk: { mcp: { url: \"http://127.0.0.1:9/mcp\" } }
agents: { a: { tools: [house, desk] }, b: {} }
workflows:
  one: { steps: [{ step: A, agent: a }] }
  two: { steps: [{ step: B, agent: b }] }
";
    write(&place, "two.yaml", text);
    let checked = place.run(&["workflow", "validate", "two.yaml"]).exits(0).stdout;
    for lacks in ["NOBODY_SETS_THIS", "two.yaml:6:5: url_not_allowed", "two.yaml:8:11: url_not_allowed", "tool_hosts"] {
        assert!(checked.contains(lacks), "{lacks}: {checked}");
    }
    let listed = place.run(&["workflow", "ls", "two.yaml", "--json"]).exits(0).json();
    assert_eq!(listed["workflows"].as_array().unwrap().len(), 2, "{listed}");
    let shown = place.run(&["workflow", "show", "two.yaml", "--workflow", "one"]).exits(0).stdout;
    assert!(shown.contains("- A: agent a"), "{shown}");
    place.run(&["workflow", "graph", "two.yaml", "--workflow", "one"]).exits(0);
    // Whoever asks for the other workflow does not hear of it.
    place.run(&["run", "two.yaml", "--workflow", "two", "x"]).exits(0);
    place.run(&["--db", "runs.db", "workflow", "diff", "two.yaml"]).exits(0);
    let refused = place.run(&["run", "two.yaml", "--workflow", "one", "x"]).exits(7);
    assert!(refused.stderr.contains("tool_hosts"), "{}", refused.stderr);
}

#[test]
fn bad_e06_what_is_no_file_is_named_and_not_waited_for() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder.yaml")).unwrap();
    for (name, said) in [("folder.yaml", "it is a folder"), ("none.yaml", "it cannot be read"), ("/dev/zero", "device")]
    {
        let refused = place.run(&["run", name, "x"]).exits(2);
        assert!(refused.stderr.contains(said), "{name}: {}", refused.stderr);
    }
}

/// What bash offers for the last word of a line.
fn offered(place: &Place, line: &str) -> Vec<String> {
    // As bash calls it: the words are taken apart at its word breaks.
    let script = r#"
        source ./outlive.bash
        COMP_LINE=$1; COMP_POINT=${#1}
        words=${1//@/ @ }
        read -ra COMP_WORDS <<<"$words"
        [[ $1 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        complete -p outlive | grep -q _outlive_named || exit 1
        _outlive_named outlive "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", script, "bash", line]).current_dir(place.path(""));
    bash.env_clear().env("PATH", place.search_path(true)).env("OUTLIVE_DB", "runs.db");
    let done = bash.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_offers_what_only_the_database_knows() {
    let place = Place::with_runs();
    let script = place.run(&["completions", "bash"]).exits(0).stdout;
    write(&place, "outlive.bash", &script);
    let all = ["@last", "@last-failed", "order-4", "order-3", "order-2", "order-1"];
    assert_eq!(offered(&place, "outlive show "), all);
    assert_eq!(offered(&place, "outlive show order-"), all[2..]);
    assert_eq!(offered(&place, "outlive cancel order-1 --reason no order-4"), ["order-4"]);
    // The @ is a word of its own there.
    assert_eq!(offered(&place, "outlive events @la"), ["last", "last-failed"]);
    assert_eq!(offered(&place, "outlive questions --run order-3"), ["order-3"]);
    assert_eq!(offered(&place, "outlive run "), ["coffee-shop"]);
    // What the arguments themselves say, as before.
    assert_eq!(offered(&place, "outlive sho"), ["show"]);
    assert!(offered(&place, "outlive show order-1 --js").contains(&"--json".to_owned()));
    // Where there is nothing, nothing is offered and nothing said.
    let nowhere = place.run(&["complete", "outlive --db none.db show "]).exits(0);
    assert_eq!((nowhere.stdout.as_str(), nowhere.stderr.as_str()), ("", ""));
    for (shell, line) in [("zsh", "compdef _outlive_named outlive"), ("fish", "(outlive complete (commandline -cp)")] {
        assert!(place.run(&["completions", shell]).exits(0).stdout.contains(line), "{shell}");
    }
    assert!(!place.run(&["--help"]).exits(0).stdout.contains("complete "), "it is for scripts alone");
}

#[test]
fn shells_and_readers_of_manuals_are_told_of_every_verb() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.run(&["completions", shell]).exits(0).stdout;
        assert!(script.contains("outlive") && script.contains("validate"), "{shell}");
    }
    let page = place.run(&["man", "workflow", "diff"]).exits(0).stdout;
    assert!(page.contains(".TH") && page.contains("workflow"), "{page}");
    assert!(place.run(&["man"]).exits(0).stdout.contains("completions"));
    place.run(&["man", "nothing"]).exits(2);
}

#[test]
fn what_a_file_lacks_here_is_told_with_its_remedy_and_its_runs_are_found() {
    let place = Place::new();
    let text = "\
version: 1
model: openai:gpt-5.2
store: sqlite:own.db
agents: { a: {} }
workflows:
  w:
    input: { type: object, required: [topic], properties: { topic: { type: string } } }
    steps: [{ step: A, agent: a }]
";
    write(&place, "w.yaml", text);
    let refused = place.run(&["run", "w.yaml", "-f", "topic=tea"]).exits(7).stderr;
    let remedy = "No run was started: export the variable, or try it without a key with --model demo";
    assert!(refused.contains("needs OPENAI_API_KEY, which is not set") && refused.contains(remedy), "{refused}");
    assert!(!place.path("own.db").exists());
    let mistyped = place.run(&["run", "w.yaml", "-f", "topci=tea", "--model", "demo"]).exits(2).stderr;
    assert!(mistyped.contains("it lacks topic, and has \"topci\": did you mean \"topic\"?"), "{mistyped}");
    place.run(&["run", "w.yaml", "-f", "topic=tea", "--model", "demo"]).exits(0);
    for verb in ["ls", "questions"] {
        let lost = place.run(&[verb]).stderr;
        assert!(lost.contains("w.yaml keeps its runs in own.db: name it with --db own.db"), "{lost}");
    }
    let graph = place.run(&["workflow", "graph", "w.yaml", "--json"]).exits(0).json();
    assert_eq!((&graph["id"], &graph["format"]), (&json!("w"), &json!("mermaid")), "{graph}");
    assert!(graph["graph"].as_str().unwrap().starts_with("flowchart"), "{graph}");
}

#[test]
fn who_looks_for_questions_is_told_of_the_run_that_was_named() {
    let place = Place::new();
    let text = "\
version: 1
model: demo
store: sqlite:own.db
agents: { a: {} }
workflows:
  asks: { steps: [{ step: A, agent: a, review: { confirm: Go? } }] }
  works: { steps: [{ step: A, agent: a }] }
";
    write(&place, "w.yaml", text);
    place.run(&["run", "w.yaml", "--workflow", "asks", "x"]).exits(12);
    place.run(&["run", "w.yaml", "--workflow", "works", "x"]).exits(0);
    let none = place.run(&["questions", "--db", "own.db", "--run", "@last"]).exits(0).stderr;
    assert!(none.contains(" asks nothing now; ") && none.contains("--db own.db"), "{none}");
    assert!(!none.contains("no question is open"), "another run's is: {none}");
    let unknown = place.run(&["questions", "--db", "own.db", "--run", "no-such-run"]).stderr;
    assert!(unknown.contains("outlive ls --db own.db"), "{unknown}");
    let unknown = place.run(&["approve", "--db", "own.db", "no-such-question"]).stderr;
    assert!(unknown.contains("outlive questions --all --db own.db"), "{unknown}");
}

#[test]
fn a_run_waits_for_whatever_its_text_needs_of_the_process() {
    let place = Place::new();
    let text = "\
version: 1
model: openai:gpt-5.2
store: sqlite:runs.db
tools:
  look:
    http: { url: \"https://example.org\", headers: { X-Key: \"${env:LOOK_KEY}\" } }
    description: Looks
agents: { a: { tools: [look] } }
workflows: { w: { steps: [{ step: A, agent: a }] } }
";
    write(&place, "w.yaml", text);
    let mut command = place.command(&["run", "-d", "w.yaml", "x"]);
    command.env("OPENAI_API_KEY", "canary-7f3a-canary").env("LOOK_KEY", "canary-9b1c-canary");
    let run_id = Done::of(command).exits(0).stdout.trim().to_owned();
    let harmless = "version: 1\nmodel: demo\nstore: sqlite:runs.db\nagents: { a: {} }\n";
    write(&place, "w.yaml", &format!("{harmless}workflows: {{ w: {{ steps: [{{ step: B, agent: a }}] }} }}\n"));
    let worker = Running::start(&mut place.command(&["worker", "w.yaml"]));
    let waits = place.on_runs(&["watch", &run_id]).exits(12).stderr;
    for needs in ["OPENAI_API_KEY, which is not set; ", "LOOK_KEY, which is not set"] {
        assert!(waits.contains(needs), "{needs}: {waits}");
    }
    worker.stop().exits(0);
    let stored = std::fs::read(place.path("runs.db")).unwrap();
    assert!(!String::from_utf8_lossy(&stored).contains("canary"), "no key is stored");
}

#[test]
fn what_is_hinted_at_after_a_start_looks_where_the_file_keeps_its_runs() {
    let place = Place::new();
    let text = "version: 1\nstore: sqlite:own.db\nworkflows:\n  w: { steps: [{ step: A, command: [echo, hi], effect: read }] }\n";
    write(&place, "my flows/w.yaml", text);
    let accepted = place.run(&["run", "my flows/w.yaml", "x", "-d", "--allow-commands"]).exits(0);
    let hints: Vec<_> = accepted.stderr.lines().map(|line| line.rsplit(": ").next().unwrap()).collect();
    let [worker, watch] = &hints[..] else { panic!("{}", accepted.stderr) };
    assert!(worker.contains("worker 'my flows/w.yaml' --allow-commands --db 'my flows/own.db'"), "{worker}");
    assert!(watch.contains("--db 'my flows/own.db'"), "{watch}");
    let id = accepted.stdout.trim();
    assert!(watch.contains(&format!("watch {id}")), "{watch}");
    let shown = place.run(&["show", id, "--db", "my flows/own.db", "--json"]).exits(0).json();
    assert_eq!(shown["status"], "pending", "{shown}");
    write(&place, "file", "");
    let refused = place.run(&["init", "file"]).exits(1);
    assert!(!refused.stderr.contains("is there already"), "{}", refused.stderr);
}

#[cfg(unix)]
#[test]
fn a_number_that_is_a_steps_name_too_is_no_place_by_itself() {
    let place = Place::new();
    let step = |name: &str| format!("      - {{ step: '{name}', command: [echo, '{name}'], effect: read }}\n");
    let steps = step("a") + &step("5");
    write(&place, "w.yaml", &format!("version: 1\nstore: sqlite:runs.db\nworkflows:\n  w:\n    steps:\n{steps}"));
    let ran = place.command(&["run", "w.yaml", "tea", "--allow-commands", "--json"]);
    Done::of(ran).exits(0);
    let fork = |at: &str| {
        Done::of(place.command(&["fork", "@last", at, "--preview", "--json", "--file", "w.yaml", "--allow-commands"]))
    };
    let refused = fork("5").exits(2).error();
    assert_eq!(refused["code"], "ambiguous_place");
    assert_eq!(refused["hint"], "write event:5 for the event, or step:5 for the step");
    let again = |at: &str| fork(at).exits(0).json()["again"].as_array().unwrap().len();
    assert_eq!((again("1"), again("event:1"), again("step:5"), again("event:5")), (2, 2, 1, 1));
    assert_eq!(fork("event:x").exits(2).error()["code"], "invalid_place");
}

#[cfg(unix)]
#[test]
fn input_with_a_nul_starts_no_run() {
    let place = Place::new();
    write(
        &place,
        "w.yaml",
        "version: 1\nstore: sqlite:runs.db\nmodel: demo\nagents: { a: {} }\nworkflows: { w: { steps: [{ step: \
                             S, agent: a }] } }\n",
    );
    write(&place, "input", "a\0b");
    let refused = place.run(&["run", "w.yaml", "@input", "--json"]).exits(2).error();
    assert!(refused["message"].as_str().unwrap().contains("the input has a NUL character"), "{refused}");
    assert_eq!(place.on_runs(&["ls", "--json"]).exits(0).json()["runs"], json!([]));
    place.run(&["run", "w.yaml", "tea", "--run-id", "..", "--json"]).exits(2);
}
