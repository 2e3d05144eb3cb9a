//! What is shown is said once, whole, and in as much room as there is: steps, tools, answers, lists, endings.

use crate::fixture::{Done, Place, with_tools};
use serde_json::Value;

fn width(line: &str) -> usize {
    line.chars().count()
}

#[test]
fn a_step_of_a_function_ends_once_on_the_screen() {
    let place = Place::with_runs();
    let said = place.on_runs(&["watch", "order-1"]).exits(0).stdout;
    assert_eq!(said.matches("✓ Brew").count(), 1, "{said}");
    let said = place.on_runs(&["watch", "order-2"]).exits(10).stdout;
    assert_eq!(said.matches("✕ Brew").count(), 1, "{said}");
}

#[test]
fn a_list_fits_the_terminal_and_keeps_what_matters_most() {
    let place = Place::with_runs();
    let list = |columns: &str| {
        let mut command = place.command(&["ls", "--db", "runs.db"]);
        command.env("COLUMNS", columns);
        Done::of(command).exits(0).stdout
    };
    for columns in [40, 60, 80, 120] {
        let list = list(&columns.to_string());
        assert!(list.lines().all(|line| width(line) <= columns), "{columns}:\n{list}");
        assert!(list.contains("order-2") && list.contains("✕ error") && list.contains("STARTED"), "{columns}:\n{list}");
    }
    assert!(!list("40").contains("Coffee Shop") && list("40").contains("a process"), "{}", list("40"));
    assert!(list("80").contains("Coffee Shop") && list("80").contains("1/1 Brew"), "{}", list("80"));
    // A reader that is no terminal gets everything.
    let whole = place.on_runs(&["ls"]).exits(0).stdout;
    assert!(whole.contains("Coffee Shop") && whole.contains("WAITS FOR"), "{whole}");
    let programs = |columns: &str| {
        let mut command = place.command(&["ls", "--db", "runs.db", "--json"]);
        command.env("COLUMNS", columns);
        Done::of(command).exits(0).json()["runs"].as_array().unwrap().len()
    };
    assert_eq!((programs("20"), programs("200")), (4, 4));
}

#[test]
fn a_tool_is_shown_with_its_arguments_its_result_and_its_time() {
    let place = with_tools();
    let said = place.run(&["watch", "run-1", "--db", "tools.db"]).exits(0).stdout;
    let line = |text: &str| said.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {said}"));
    let good = line("NVDA");
    assert!(good.contains("Broker: get_price {\"symbol\":\"NVDA\"} → {\"price\":131.2}   0."), "{good}");
    assert!(good.ends_with(" s"), "{good}");
    let bad = line("XXXX");
    assert!(bad.contains("Broker: get_price {\"symbol\":\"XXXX\"} ✕ there is no price of XXXX   0."), "{bad}");
    assert_eq!(said.matches("get_price").count(), 2, "{said}");
}

#[test]
fn a_tools_error_is_shown_with_its_step() {
    let place = with_tools();
    let shown = place.run(&["show", "run-1", "--db", "tools.db"]).exits(0).stdout;
    assert!(shown.contains("✕ Broker: get_price: there is no price of XXXX"), "{shown}");
    let document = place.run(&["show", "--db", "tools.db", "--json"]).exits(0).json();
    let failures = &document["steps"][0]["tool_failures"];
    assert_eq!(failures.as_array().map(Vec::len), Some(1), "{document}");
    assert_eq!((&failures[0]["tool"], &failures[0]["by"]), (&"get_price".into(), &"Broker".into()));
}

#[test]
fn an_answer_is_one_line_of_the_log_unless_all_is_asked_for() {
    let place = with_tools();
    let read = |arguments: &[&str]| {
        let done = place.run(&[&["events", "run-1", "--db", "tools.db"], arguments].concat()).exits(0);
        done.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let pieces = |lines: &[String]| lines.iter().filter(|line| line.contains("  RunContent  ")).count();
    let (folded, all) = (read(&[]), read(&["--all"]));
    assert_eq!(pieces(&folded), 1, "{folded:#?}");
    assert!(pieces(&all) > 10, "{all:#?}");
    let answer = folded.iter().find(|line| line.contains("  RunContent  ")).unwrap();
    let told = format!("{} pieces, 168 characters: **Week 1** - buy a share", pieces(&all));
    assert!(answer.contains(&told), "{told}: {answer}");
    assert_eq!(folded.len(), all.len() - pieces(&all) + 1);
    // In its place: before what comes after it.
    let place_of = |text: &str| folded.iter().position(|line| line.contains(text)).unwrap();
    assert!(place_of("  RunContent  ") < place_of("RunContentCompleted"), "{folded:#?}");
    assert_eq!(read(&["-f"]), folded, "following is reading");
    assert_eq!(read(&["--json"]).len(), all.len(), "programs get every event");
    let after: Value = serde_json::from_str(&read(&["--json", "--after", "3"])[0]).unwrap();
    assert_eq!(after["event_index"], 4);
}

#[test]
fn a_cancelled_run_says_why_and_not_twice_that_it_was_cancelled() {
    let done = Place::with_runs().on_runs(&["output", "order-3"]).exits(11);
    assert!(done.stderr.contains("run order-3 was cancelled: not needed\n"), "{}", done.stderr);
    assert_eq!(done.stderr.matches("cancelled").count(), 1, "{}", done.stderr);
}

#[test]
fn verbs_that_look_at_one_run_take_the_newest_unless_told() {
    let place = Place::with_runs();
    assert!(place.on_runs(&["show"]).exits(0).stdout.contains("order-4"));
    assert!(place.on_runs(&["events"]).exits(0).stdout.is_empty(), "nobody has begun it");
    assert!(place.on_runs(&["output"]).exits(5).stderr.contains("order-4 is pending"));
}

#[test]
fn a_live_run_ends_with_its_result_as_people_read_it() {
    let place = Place::new();
    let mut command = place.command(&["demo", "--color", "always"]);
    command.env("COLUMNS", "80");
    let said = Done::of(command).exits(0).stdout;
    let (live, end) = said.split_once('╭').expect("a box");
    assert!(live.contains("**Week 1**"), "{live}");
    // Without its colours, which may stand around each word.
    let mut parts = end.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    let end = parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest));
    assert!(end.contains("Week 1") && !end.contains("**"), "{end}");
    assert!(end.contains("Completed in "), "{end}");
    let plain = place.run(&["watch", "--db", "demo.db"]).exits(0).stdout;
    assert!(!plain.contains('╭'), "what is no terminal gets text as it is: {plain}");
}
