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
         while [ ! -e go ]; do sleep 0.05; done; echo {says}\"]\n        effect: idempotent\n"
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
    assert!(named.stderr.contains("is no file"), "{}", named.stderr);

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
    let refused = place.run(&["run", "ask.yaml", "--json-input", "{\"what\": \"tea\"}"]).exits(2);
    assert!(refused.stderr.contains("url_not_allowed") && refused.stderr.contains("tool_hosts"), "{}", refused.stderr);
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
fn bad_e06_what_is_no_file_is_named_and_not_waited_for() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder.yaml")).unwrap();
    for (name, said) in [("folder.yaml", "it is a folder"), ("none.yaml", "it cannot be read"), ("/dev/zero", "device")]
    {
        let refused = place.run(&["run", name, "x"]).exits(2);
        assert!(refused.stderr.contains(said), "{name}: {}", refused.stderr);
    }
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
