//! One test for each exit code.

use crate::fixture::{Done, Place};

#[test]
fn zero_a_completed_run_prints_its_result_and_nothing_else() {
    let done = Place::with_runs().on_runs(&["output", "order-1"]).exits(0);
    assert_eq!(done.stdout, "# Done\n\n**order-1 please**\n");
    assert_eq!(done.stderr, "");
}

#[test]
fn one_a_file_that_is_no_database_is_refused_and_not_touched() {
    let place = Place::new();
    std::fs::write(place.path("notes.txt"), "shopping list").unwrap();
    let done = place.run(&["ls", "--db", "notes.txt"]).exits(1);
    assert!(done.stderr.starts_with("error: ") && done.stderr.contains("notes.txt"), "{}", done.stderr);
    assert_eq!(std::fs::read_to_string(place.path("notes.txt")).unwrap(), "shopping list");
    let error = place.run(&["ls", "--db", "notes.txt", "--json"]).exits(1).error();
    assert_eq!(error["code"], "database_refused");
    assert_eq!(error["retryable"], false);
}

#[test]
fn one_a_damaged_database_says_which_file_is_damaged() {
    let place = Place::with_runs();
    let mut bytes = std::fs::read(place.path("runs.db")).unwrap();
    assert!(bytes.len() > 8_192, "the runs are in the file itself");
    bytes[4_096..].fill(0xa5);
    std::fs::write(place.path("runs.db"), bytes).unwrap();
    let done = place.on_runs(&["ls"]).exits(1);
    assert!(done.stderr.contains("runs.db"), "{}", done.stderr);
    assert_eq!(done.stdout, "");
}

#[test]
fn one_a_stored_part_that_cannot_be_read_is_named_with_its_run_and_the_others_are_shown() {
    let place = Place::with_runs();
    let damage = |sql: &str| {
        let connection = rusqlite::Connection::open(place.path("runs.db")).unwrap();
        let sql = sql.replace("{run}", "(SELECT seq FROM coffee_shop_runs WHERE run_id = 'order-1')");
        assert_eq!(connection.execute(&sql, []).unwrap(), 1, "{sql}");
    };
    damage("UPDATE coffee_shop_run_outputs SET output = 'hunter2' WHERE seq = {run}");
    for verb in ["output", "show"] {
        let done = place.on_runs(&[verb, "order-1"]).exits(1);
        assert!(done.stderr.contains("the output of run order-1 cannot be read"), "{}", done.stderr);
        assert!(done.stderr.contains("backup") && !done.stderr.contains("hunter2"), "{}", done.stderr);
        assert_eq!(done.stdout, "");
        let error = place.on_runs(&[verb, "order-1", "--json"]).exits(1).error();
        assert_eq!((&error["code"], &error["retryable"]), (&"unreadable".into(), &false.into()));
        place.on_runs(&[verb, "order-2"]);
    }
    damage("UPDATE coffee_shop_run_requests SET input = '{' WHERE seq = {run}");
    let done = place.on_runs(&["rerun", "order-1"]).exits(1);
    assert!(done.stderr.contains("the input of run order-1 cannot be read"), "{}", done.stderr);
    damage("UPDATE coffee_shop_run_requests SET options = '{' WHERE seq = {run}");
    let done = place.on_runs(&["ls"]).exits(0);
    assert!(done.stdout.contains("order-1") && done.stdout.contains("order-4"), "{}", done.stdout);
    assert!(done.stderr.contains("the options of run order-1 cannot be read"), "{}", done.stderr);
    damage("UPDATE coffee_shop_runs SET epoch = -5 WHERE seq = {run}");
    let done = place.on_runs(&["ls"]).exits(0);
    assert!(!done.stdout.contains("order-1") && done.stdout.contains("order-4"), "{}", done.stdout);
    assert!(done.stderr.contains("the row of run order-1 cannot be read"), "{}", done.stderr);
}

#[test]
fn two_wrong_usage_is_refused_before_anything_is_opened() {
    let place = Place::new();
    place.run(&["frobnicate"]).exits(2);
    place.run(&["demo", "--crash", "--resume"]).exits(2);
    let done = place.run(&["ls", "status:purple"]).exits(2);
    assert!(done.stderr.contains("purple"), "{}", done.stderr);
    assert_eq!(place.run(&["frobnicate", "--json"]).exits(2).error()["code"], "usage");
}

#[test]
fn two_an_ambiguous_prefix_lists_the_runs_it_could_mean() {
    let place = Place::with_runs();
    let done = place.on_runs(&["show", "order"]).exits(2);
    for id in ["order-1", "order-2", "order-3", "order-4"] {
        assert!(done.stderr.contains(id), "{}", done.stderr);
    }
    let error = place.on_runs(&["show", "order", "--json"]).exits(2).error();
    assert_eq!(error["code"], "run_ambiguous");
}

#[test]
fn three_a_missing_database_is_not_made_by_looking_for_it() {
    let place = Place::new();
    for verb in [&["ls"][..], &["show", "@last"], &["events", "@last"], &["output", "@last"], &["cancel", "@last"]] {
        let done = place.run(verb).exits(3);
        assert!(done.stderr.contains("no database at .outlive/data.db"), "{}", done.stderr);
    }
    assert!(!place.path(".outlive").exists());
}

#[test]
fn three_a_workflow_of_ones_own_is_not_run_here_and_the_hint_says_where() {
    let place = Place::new();
    let said = place.run(&["run", "my-workflow", "hello"]).exits(3).stderr;
    assert!(said.contains(r#"this command has no workflow "my-workflow""#), "{said}");
    assert!(said.contains("content-creation-demo") && said.contains("--server"), "{said}");
    assert!(!place.path(".outlive").exists());
}

#[test]
fn three_a_run_that_is_not_there_is_not_found() {
    let place = Place::with_runs();
    let done = place.on_runs(&["show", "order-9"]).exits(3);
    assert!(done.stderr.contains("there is no run order-9 in runs.db"), "{}", done.stderr);
    let done = place.on_runs(&["show", "ord"]).exits(3);
    assert!(done.stderr.contains("4 characters"), "{}", done.stderr);
}

#[test]
fn three_nothing_unfinished_cannot_be_resumed() {
    let place = Place::new();
    let done = place.run(&["demo", "--resume"]).exits(3);
    assert!(done.stderr.contains("there is no unfinished run in demo.db"), "{}", done.stderr);
    assert!(!place.path("demo.db").exists());
    let place = Place::with_runs();
    place.on_runs(&["demo", "--resume"]).exits(3);
}

#[test]
fn five_what_is_over_cannot_be_cancelled_and_what_is_not_has_no_result() {
    let place = Place::with_runs();
    let done = place.on_runs(&["cancel", "order-1"]).exits(5);
    assert!(done.stderr.contains("over already: completed"), "{}", done.stderr);
    let error = place.on_runs(&["output", "order-4", "--json"]).exits(5).error();
    assert_eq!(error["code"], "run_unfinished");
}

#[test]
fn seven_configuration_that_cannot_be_read_is_named() {
    let place = Place::with_runs();
    let mut command = place.command(&["ls", "--db", "runs.db"]);
    command.env("OUTLIVE_LOG", "outlive=loud=very");
    let done = crate::fixture::Done::of(command).exits(7);
    assert!(done.stderr.contains("OUTLIVE_LOG"), "{}", done.stderr);
    let mut command = place.command(&["ls"]);
    command.env("OUTLIVE_DB", "");
    crate::fixture::Done::of(command).exits(7);
}

#[test]
fn ten_the_result_of_a_failed_run_is_why_it_failed() {
    let done = Place::with_runs().on_runs(&["output", "@last-failed"]).exits(10);
    assert_eq!(done.stdout, "");
    assert!(
        done.stderr.contains("order-2 failed") && done.stderr.contains("the kitchen is on fire"),
        "{}",
        done.stderr
    );
}

#[test]
fn eleven_a_cancelled_run_has_no_result() {
    let done = Place::with_runs().on_runs(&["output", "order-3"]).exits(11);
    assert!(done.stderr.contains("order-3 was cancelled"), "{}", done.stderr);
}

#[test]
fn thirteen_a_wait_that_is_too_long_leaves_the_run_alone() {
    let place = Place::with_runs();
    let done = place.on_runs(&["events", "order-4", "-f", "--timeout", "100ms"]).exits(13);
    assert!(
        done.stderr.contains("order-4 is not over yet; the run is pending (no process executes"),
        "{}",
        done.stderr
    );
    assert_eq!(place.on_runs(&["show", "order-4", "--json"]).exits(0).json()["status"], "pending");
}

#[test]
fn a_run_that_nobody_executes_is_cancelled_at_once_and_says_why() {
    let place = Place::with_runs();
    let done = place.on_runs(&["cancel", "order-4", "--reason", "closing time"]).exits(0);
    assert_eq!(done.stdout, "⊘ order-4 cancelled\n");
    let shown = place.on_runs(&["show", "order-4", "--json"]).exits(0).json();
    assert_eq!((&shown["status"], &shown["cancel_reason"]), (&"cancelled".into(), &"closing time".into()));
}

#[test]
fn bad_e06_a_reader_that_goes_away_is_no_error() {
    let place = Place::with_runs();
    let mut command = place.command(&["--db", "runs.db", "events", "order-1"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let done = crate::fixture::Done::from(child.wait_with_output().unwrap()).exits(0);
    assert_eq!(done.stderr, "");
}

#[test]
fn a_file_with_several_session_tables_wants_one_named() {
    let place = Place::with_runs();
    let db = outlive::db::SqliteDb::new(place.path("runs.db")).session_table("tea_shop");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(outlive::core::port::Db::open(&db)).unwrap();
    drop(db);
    let refused = place.on_runs(&["ls"]).exits(2);
    assert!(refused.stderr.contains("coffee_shop, tea_shop"), "{}", refused.stderr);
    let listed = place.on_runs(&["ls", "--session-table", "coffee_shop"]).exits(0);
    assert!(listed.stdout.contains("Coffee Shop"), "{}", listed.stdout);
}

#[test]
fn two_a_user_and_an_input_are_checked_before_anything_is_made() {
    let place = Place::new();
    for user in ["", " ada", "a\nb", "sa:robot", "__scheduler__"] {
        let done = place.run(&["keys", "mint", "--scope", "runs:read", "--user", user, "--db", "keys.db"]).exits(2);
        assert!(done.stderr.contains("a user's id has 1 to 256 bytes"), "{}", done.stderr);
    }
    let run = |input: &str| place.run(&["run", "content-creation-demo", input, "--db", "keys.db"]);
    let done = run("@/dev/zero").exits(2);
    assert!(done.stderr.contains("/dev/zero has more than 67108864 bytes"), "{}", done.stderr);
    std::fs::write(place.path("latin.txt"), b"caf\xe9").unwrap();
    let done = run("@latin.txt").exits(1);
    assert!(done.stderr.contains("latin.txt cannot be read: it is not UTF-8 text"), "{}", done.stderr);
    for (json, problem) in [
        ("{", "JSON is not valid"),
        ("[12345678901234567890123]", "JSON number is out of range"),
        (r#"{"to": "ada", "to": "bob"}"#, "JSON object has a duplicate key"),
    ] {
        let done = place.run(&["run", "content-creation-demo", "--json-input", json, "--db", "keys.db"]).exits(2);
        assert!(
            done.stderr.contains("--json-input cannot be used") && done.stderr.contains(problem),
            "{}",
            done.stderr
        );
    }
    assert!(!place.path("keys.db").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn bad_e06_text_that_is_none_is_refused_and_no_home_or_folder_to_write_to_is_needed() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with_runs();
    let mut odd = place.command(&["show"]);
    odd.arg(std::ffi::OsStr::from_bytes(b"order-\xff"));
    let refused = Done::of(odd).exits(2);
    assert!(refused.stderr.contains("invalid UTF-8"), "{}", refused.stderr);
    // Nobody has a home here, and nothing can be written to this folder, also by those who may do everything.
    let in_proc = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.current_dir("/proc").env_remove("HOME");
        Done::of(command)
    };
    let runs = place.path("runs.db").display().to_string();
    in_proc(&["--db", &runs, "output", "order-1"]).exits(0);
    in_proc(&["workflow", "ls", "/proc/none.yaml"]).exits(2);
    let refused = in_proc(&["run", "content-creation-demo", "x"]).exits(1);
    assert!(refused.stderr.contains(".outlive") && refused.stderr.lines().count() <= 3, "{}", refused.stderr);
}
