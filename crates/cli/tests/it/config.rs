//! Settings from the file, the environment and flags, and what the doctor finds.

use crate::fixture::{Done, Place};
use crate::running::{KEY, Running};
use std::process::Command;

fn with(mut command: Command, variables: &[(&str, &str)]) -> Done {
    command.envs(variables.iter().copied());
    Done::of(command)
}

fn write(place: &Place, text: &str) {
    std::fs::write(place.path("outlive.toml"), text).unwrap();
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let place = Place::new();
    write(&place, "db = \"file.db\"\naddr = \"127.0.0.1:1\"\n[engine]\nruns_max = 7\nlease_period = \"20s\"\n");
    let variables = [("OUTLIVE_ADDR", "127.0.0.1:2"), ("OUTLIVE_ENGINE_RUNS_MAX", "9"), ("OUTLIVE_DB", "variable.db")];
    let command = place.command(&["config", "show", "--json", "--origin", "--db", "flag.db"]);
    let shown = with(command, &variables).exits(0).json();
    let check = |name: &str, value: serde_json::Value, origin: &str| {
        assert_eq!(shown[name]["value"], value, "{name}");
        let told = shown[name]["origin"].as_str().unwrap();
        assert!(told.ends_with(origin), "{name} is from {told}");
    };
    check("db", "flag.db".into(), "--db");
    check("addr", "127.0.0.1:2".into(), "$OUTLIVE_ADDR");
    check("engine.runs_max", 9.into(), "$OUTLIVE_ENGINE_RUNS_MAX");
    check("engine.lease_period", "20s".into(), "outlive.toml");
    check("limits.headers_max", 100.into(), "default");
}

#[test]
fn the_file_is_found_from_a_directory_below_and_names_the_database_of_every_verb() {
    let place = Place::with_runs();
    write(&place, "db = \"runs.db\"\n");
    std::fs::create_dir_all(place.path("src/deep")).unwrap();
    let mut command = place.command(&["output", "order-1"]);
    command.current_dir(place.path("src/deep"));
    assert_eq!(Done::of(command).exits(0).stdout, "# Done\n\n**order-1 please**\n");
}

#[test]
fn an_unknown_name_is_an_error_with_a_suggestion() {
    let place = Place::new();
    for (text, expected) in [
        ("adr = \"x\"", "did you mean addr?"),
        ("[limits]\nconections_max = 1", "did you mean limits.connections_max?"),
        ("runs_max = 1", "did you mean engine.runs_max?"),
        ("security_key = \"hunter2\"", "set OS_SECURITY_KEY in the environment"),
    ] {
        write(&place, text);
        for verb in [&["config", "show"][..], &["serve"], &["ls"]] {
            let done = place.run(verb).exits(7);
            assert!(done.stderr.contains(expected), "{text}: {}", done.stderr);
            assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
        }
    }
    place.run(&["version"]).exits(0);
}

#[test]
fn a_value_that_makes_no_sense_is_named_with_its_place() {
    let place = Place::new();
    for (text, expected) in [
        ("[engine]\nruns_max = 0", "engine.runs_max"),
        ("[limits]\ndrain_period = \"soon\"", "limits.drain_period"),
        ("[engine]\nheartbeat_period = \"10s\"", "engine.heartbeat_period must be at most half"),
        ("addr = 7878", "addr"),
        ("addr = 1979-05-27", "addr"),
        ("addr = \"a\"\naddr = \"b\"", "line 2"),
    ] {
        write(&place, text);
        let done = place.run(&["config", "show"]).exits(7);
        assert!(done.stderr.contains(expected), "{text}: {}", done.stderr);
    }
    std::fs::remove_file(place.path("outlive.toml")).unwrap();
    let done = with(place.command(&["config", "show"]), &[("OUTLIVE_EXECUTE", "maybe")]).exits(7);
    assert!(done.stderr.contains("$OUTLIVE_EXECUTE") && done.stderr.contains("true or false"), "{}", done.stderr);
}

#[test]
fn a_secret_is_no_setting_and_is_never_shown() {
    let place = Place::new();
    for verb in [&["config", "show", "--origin"][..], &["config", "show", "--json"], &["doctor"], &["doctor", "--json"]]
    {
        let done = with(place.command(verb), &[("OS_SECURITY_KEY", "hunter2"), ("OPENAI_API_KEY", "hunter2")]).exits(0);
        assert!(!done.stdout.contains("hunter2") && !done.stderr.contains("hunter2"), "{}", done.stdout);
    }
}

#[test]
fn what_config_shows_can_be_given_again() {
    let place = Place::new();
    let shown = place.run(&["config", "show", "--json"]).exits(0).json();
    let lines: Vec<_> = shown.as_object().unwrap().iter().map(|(name, value)| format!("{name} = {value}")).collect();
    write(&place, &lines.join("\n"));
    let mut again = place.run(&["config", "show", "--json"]).exits(0).json();
    // A path in a file is seen from the file.
    assert!(again["db"].as_str().unwrap().ends_with(".outlive/data.db"));
    again["db"] = shown["db"].clone();
    assert_eq!(again, shown);
}

#[test]
fn a_doctor_finds_nothing_wrong_where_nothing_is() {
    let place = Place::with_runs();
    let before = std::fs::read(place.path("runs.db")).unwrap();
    let found = place.on_runs(&["doctor", "--json"]).exits(0).json();
    assert_eq!(found["ok"], true);
    let names: Vec<_> = found["findings"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in ["settings", "database", "integrity", "sqlite", "disk"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(std::fs::read(place.path("runs.db")).unwrap(), before, "it changed the file");
    let empty = Place::new();
    empty.run(&["doctor"]).exits(0);
    assert!(!empty.path(".outlive").exists(), "it made a database");
}

#[test]
fn mcp_servers_of_the_settings_are_shown_with_what_they_lack_and_named_by_files() {
    let place = Place::new();
    let address = "https://tracker.example.org/mcp";
    write(
        &place,
        &format!(
            "[mcp.time]\ncommand = [\"clock\", \"--utc\"]\n[mcp.tracker]\nurl = \"{address}\"\n\
             headers = {{ Authorization = \"Bearer ${{env:NOBODY_SETS_THIS}}\" }}\n"
        ),
    );
    let shown = place.run(&["config", "show"]).exits(0).stdout;
    assert!(shown.contains("mcp.time = clock --utc") && shown.contains(&format!("mcp.tracker = {address}")), "{shown}");
    let found = place.run(&["doctor", "--json"]).exits(0).json();
    let found = found["findings"].as_array().unwrap().iter().find(|finding| finding["name"] == "mcp").unwrap();
    assert_eq!(found["verdict"], "remark");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains("time = clock --utc: ready, where commands are allowed"), "{detail}");
    assert!(detail.contains("tracker = https") && detail.contains("NOBODY_SETS_THIS, which is not set"), "{detail}");

    let file = |server: &str| {
        format!(
            "version: 1\nmodel: demo\ntools: {{ t: {{ mcp: {server} }} }}\nagents: {{ a: {{ tools: [t] }} }}\n\
             workflows: {{ w: {{ steps: [{{ step: S, agent: a }}] }} }}\n"
        )
    };
    let run = |server: &str, more: &[&str]| {
        std::fs::write(place.path("w.yaml"), file(server)).unwrap();
        place.run(&[&["run", "w.yaml", "x"], more].concat())
    };
    assert!(run("time", &[]).exits(7).stderr.contains("--allow-commands"));
    assert!(run("tracker", &[]).exits(7).stderr.contains("NOBODY_SETS_THIS, which is not set"));
    let unknown = run("tiem", &["--allow-commands"]).exits(7).stderr;
    assert!(unknown.contains("no MCP server is called \"tiem\" here: did you mean \"time\"?"), "{unknown}");
    // It is looked at without any of them.
    place.run(&["workflow", "graph", "w.yaml"]).exits(0);
}

#[test]
fn a_doctor_names_a_damaged_file_a_foreign_one_and_a_wrong_setting() {
    let place = Place::with_runs();
    let mut bytes = std::fs::read(place.path("runs.db")).unwrap();
    bytes[4_096..].fill(0xa5);
    std::fs::write(place.path("runs.db"), bytes).unwrap();
    let found = place.on_runs(&["doctor", "--json"]).exits(1).json();
    assert_eq!(found["ok"], false);
    std::fs::write(place.path("notes.txt"), "shopping list").unwrap();
    let done = place.run(&["doctor", "--db", "notes.txt"]).exits(1);
    assert!(done.stdout.contains("notes.txt is not a database"), "{}", done.stdout);
    write(&place, "favourite = 1");
    let done = place.run(&["doctor"]).exits(7);
    assert!(done.stdout.contains("favourite has no meaning"), "{}", done.stdout);
}

#[test]
fn a_doctor_remarks_a_variable_that_is_no_setting() {
    let place = Place::new();
    let done =
        with(place.command(&["doctor"]), &[("OUTLIVE_ADDRESS", "x"), ("OUTLIVE_LIMIT_HEADERS_MAX", "5")]).exits(0);
    assert!(done.stdout.contains("OUTLIVE_ADDRESS is not a setting"), "{}", done.stdout);
    let suggested = "OUTLIVE_LIMIT_HEADERS_MAX is not a setting, did you mean OUTLIVE_LIMITS_HEADERS_MAX?";
    assert!(done.stdout.contains(suggested), "{}", done.stdout);
}

#[test]
fn a_doctor_shows_no_server_where_a_file_is_named() {
    let place = Place::with_runs();
    let done = place.on_runs(&["doctor"]).exits(0);
    assert!(done.stdout.contains("(--db)") && !done.stdout.contains("server ="), "{}", done.stdout);
}

#[test]
fn the_users_file_is_below_the_projects_and_above_the_default() {
    let place = Place::new();
    let user = place.path("home/.config/outlive");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("config.toml"), "addr = \"127.0.0.1:1\"\nlog = \"info\"\n").unwrap();
    write(&place, "addr = \"127.0.0.1:2\"\n");
    let home = place.path("home");
    let show = |name: &str, directory: &std::path::Path| {
        let mut command = place.command(&["config", "show", "--json", "--origin"]);
        command.env(name, directory);
        Done::of(command).exits(0).json()
    };
    for shown in [show("HOME", &home), show("XDG_CONFIG_HOME", &home.join(".config"))] {
        assert_eq!((&shown["addr"]["value"], &shown["log"]["value"]), (&"127.0.0.1:2".into(), &"info".into()));
        assert!(shown["addr"]["origin"].as_str().unwrap().ends_with("/outlive.toml"), "{}", shown["addr"]);
        assert!(shown["log"]["origin"].as_str().unwrap().ends_with("/outlive/config.toml"), "{}", shown["log"]);
    }
    assert_eq!(show("HOME", &place.path("nobody"))["log"]["origin"], "default");
    // A mistake in it is named with its place.
    std::fs::write(user.join("config.toml"), "adr = 1\n").unwrap();
    let mut command = place.command(&["config", "show"]);
    command.env("HOME", &home);
    let done = Done::of(command).exits(7);
    assert!(
        done.stderr.contains("outlive/config.toml") && done.stderr.contains("did you mean addr?"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_dot_env_beside_the_file_is_part_of_the_environment_and_is_said_once() {
    let place = Place::new();
    let text = "OUTLIVE_ADDR=127.0.0.1:3\nOUTLIVE_LOG=debug\nOS_SECURITY_KEY='hunter2'\nLD_PRELOAD=/nowhere.so\n";
    std::fs::write(place.path(".env"), text).unwrap();
    // Without the file beside it, it is somebody else's.
    let alone = place.run(&["config", "show", "--json"]).exits(0);
    assert_eq!(alone.json()["addr"], "127.0.0.1:7878");
    write(&place, "addr = \"127.0.0.1:2\"\n");
    std::fs::create_dir_all(place.path("below")).unwrap();
    let mut command = place.command(&["config", "show", "--origin"]);
    command.current_dir(place.path("below")).env("OUTLIVE_LOG", "warn");
    let done = Done::of(command).exits(0);
    let line = |name: &str| done.stdout.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let addr = line("addr = ");
    assert!(addr.contains("127.0.0.1:3") && addr.contains("$OUTLIVE_ADDR in ") && addr.ends_with("/.env"), "{addr}");
    let log = line("log = ");
    assert!(log.contains("warn") && log.ends_with("$OUTLIVE_LOG"), "what is set already wins: {log}");
    let said: Vec<_> = done.stderr.lines().collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("Using OS_SECURITY_KEY, OUTLIVE_ADDR of ") && said[0].ends_with("/.env"), "{said:?}");
    assert!(!done.stdout.contains("hunter2") && !done.stderr.contains("hunter2"));
    let quiet = place.run(&["config", "show", "--quiet"]).exits(0);
    assert_eq!(quiet.stderr, "");
    // A flag wins over it, and a broken line is named without its value.
    let flag = place.run(&["config", "show", "--json", "--db", "flag.db"]).exits(0).json();
    assert_eq!(flag["db"], "flag.db");
    std::fs::write(place.path(".env"), "# mine\nOS_SECURITY_KEY='hunter2\n").unwrap();
    let broken = place.run(&["config", "show"]).exits(7);
    assert!(broken.stderr.contains(".env, line 2: OS_SECURITY_KEY has no readable value"), "{}", broken.stderr);
    assert!(!broken.stderr.contains("hunter2"), "{}", broken.stderr);
    place.run(&["version"]).exits(0);
}

#[test]
fn a_server_asks_for_the_key_that_a_dot_env_gives_it() {
    let place = Place::new();
    write(&place, "db = \"runs.db\"\n");
    std::fs::write(place.path(".env"), format!("OS_SECURITY_KEY=\"{KEY}\"\n")).unwrap();
    let server = Running::serve(&place, &[]);
    assert_eq!(server.ask("GET", "/config", &[], "").status, 401);
    assert_eq!(server.ask("GET", "/config", &[&format!("authorization: Bearer {KEY}")], "").status, 200);
    server.stop().exits(0);
}
