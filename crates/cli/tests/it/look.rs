//! How it looks: colours only where they are wanted, signs only where they can be shown, and nothing a model or a tool
//! wrote can command the terminal.

use crate::fixture::{Done, Place};

#[test]
fn colours_are_for_terminals_unless_someone_insists() {
    let place = Place::with_runs();
    let has_colours = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = place.command(&[&["--db", "runs.db", "show", "order-1"], arguments].concat());
        command.envs(variables.iter().copied());
        Done::of(command).exits(0).stdout.contains('\u{1b}')
    };
    assert!(!has_colours(&[], &[]));
    assert!(has_colours(&[], &[("CLICOLOR_FORCE", "1")]));
    assert!(!has_colours(&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert!(has_colours(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(!has_colours(&["--color", "never"], &[("CLICOLOR_FORCE", "1")]));
}

#[test]
fn signs_become_words_where_the_locale_has_no_utf8() {
    let place = Place::with_runs();
    let list = |locale: &str| {
        let mut command = place.command(&["--db", "runs.db", "ls"]);
        command.env("LC_ALL", locale);
        Done::of(command).exits(0).stdout
    };
    let (signs, words) = (list("C.UTF-8"), list("C"));
    assert!(signs.contains("✓ completed") && signs.contains("✕ error") && signs.contains("⊘ cancelled"), "{signs}");
    assert!(words.contains("ok completed") && words.contains("FAIL error") && words.is_ascii(), "{words}");
}

#[test]
fn text_of_a_failed_tool_reaches_people_without_its_control_sequences() {
    let done = Place::with_runs().on_runs(&["show", "order-2", "--color", "always"]).exits(0);
    assert!(done.stdout.contains("the kitchen is on fire"), "{}", done.stdout);
    assert!(!done.stdout.contains("[2J"), "{}", done.stdout);
}

#[test]
fn remarks_go_to_standard_error_and_quiet_silences_them() {
    let place = Place::with_runs();
    let done = place.on_runs(&["ls", "workflow:tea-shop"]).exits(0);
    assert_eq!(done.stdout, "");
    assert!(done.stderr.contains("no such runs in runs.db"), "{}", done.stderr);
    assert_eq!(place.on_runs(&["ls", "workflow:tea-shop", "-q"]).exits(0).stderr, "");
}

#[test]
fn times_are_told_as_asked() {
    let place = Place::with_runs();
    let list = |format: &str| place.on_runs(&["ls", "order-1", "--time-format", format]);
    assert_eq!(list("relative").code, Some(2), "a run is no filter");
    let list = |format: &str| place.on_runs(&["ls", "-n", "1", "--time-format", format]).exits(0).stdout;
    assert!(list("relative").contains(" s ago"), "{}", list("relative"));
    assert!(list("utc").trim_end().ends_with('Z'), "{}", list("utc"));
    assert!(!list("local").contains("ago"), "{}", list("local"));
}

#[test]
fn the_environment_names_the_database_and_the_flag_overrules_it() {
    let place = Place::with_runs();
    let mut command = place.command(&["ls"]);
    command.env("OUTLIVE_DB", "runs.db");
    assert!(Done::of(command).exits(0).stdout.contains("order-1"));
    let mut command = place.command(&["ls", "--db", "other.db"]);
    command.env("OUTLIVE_DB", "runs.db");
    Done::of(command).exits(3);
}
