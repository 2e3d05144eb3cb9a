//! The database file as operators meet it: lost while it is served, copied, read-only, and given back its room.

use crate::fixture::{Done, Place};
use crate::running::{RUNS, Running};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The status of an answer; none when the server is gone.
fn status(url: &str, method: &str, path: &str, body: &str) -> Option<u16> {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).ok()?;
    let kind = "content-type: application/x-www-form-urlencoded";
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{kind}");
    socket.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    text.get(9..12)?.parse().ok()
}

#[test]
fn a_server_whose_file_is_removed_acknowledges_nothing_and_ends() {
    for (harm, said) in [("a.db", "was removed"), ("a.db-wal", "was removed"), ("a.db-workers", "was removed")] {
        let place = Place::new();
        let server = Running::serve(&place, &["--db", "a.db"]);
        let run_id = server.submit();
        assert_eq!(server.get(&format!("{RUNS}/{run_id}?wait=60s")).json()["status"], "COMPLETED");
        let path = place.path(harm);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap()
        } else {
            std::fs::remove_file(&path).unwrap()
        }
        let url = server.url().to_owned();
        let submitted = status(&url, "POST", RUNS, "message=lost&stream=false&background=true");
        assert!(matches!(submitted, None | Some(503)), "{harm}: {submitted:?}");
        let ready = status(&url, "GET", "/ready", "");
        assert!(matches!(ready, None | Some(503)), "{harm}: {ready:?}");
        let done = server.end().exits(1);
        assert!(done.stderr.contains(harm) && done.stderr.contains(said), "{harm}: {}", done.stderr);
        assert!(done.stderr.contains("restart the process"), "{harm}: {}", done.stderr);
    }
}

#[test]
fn a_copy_can_be_looked_at_and_is_served_once_it_is_adopted() {
    let place = Place::new();
    let server = Running::serve(&place, &["--db", "a.db"]);
    let run_id = server.submit();
    assert_eq!(server.get(&format!("{RUNS}/{run_id}?wait=60s")).json()["status"], "COMPLETED");
    let made = place.run(&["backup", "copy.db", "--db", "a.db"]).exits(0);
    assert!(
        made.stdout.starts_with("copy.db: 1 run, ") && made.stdout.contains("all of it checked"),
        "{}",
        made.stdout
    );
    let again = place.run(&["backup", "copy.db", "--db", "a.db", "--json"]).exits(5).error();
    assert!(again["message"].as_str().unwrap().contains("is not overwritten"), "{again}");
    let json = place.run(&["backup", "second.db", "--db", "a.db", "--json"]).exits(0).json();
    assert_eq!((&json["file"], &json["runs"]), (&"second.db".into(), &1.into()));

    // While the server goes on with the original.
    let listed = place.run(&["ls", "--db", "copy.db"]).exits(0);
    assert!(listed.stdout.contains("completed"), "{}", listed.stdout);
    let original = place.run(&["output", &run_id, "--db", "a.db"]).exits(0).stdout;
    assert_eq!(place.run(&["output", &run_id, "--db", "copy.db"]).exits(0).stdout, original);
    place.run(&["keys", "ls", "--db", "copy.db"]).exits(0);
    let mint = &["keys", "mint", "--scope", "workflows:run"];
    for verb in [&["serve", "--addr", "127.0.0.1:0"][..], &["worker"], &["cancel", &run_id], &["rerun", &run_id], mint]
    {
        let refused = place.run(&[verb, &["--db", "copy.db"]].concat()).exits(1);
        assert!(refused.stderr.contains("is a copy made by outlive backup"), "{verb:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("outlive db adopt --db "), "{verb:?}: {}", refused.stderr);
    }
    let adopted = place.run(&["db", "adopt", "--db", "copy.db"]).exits(0);
    assert_eq!(adopted.stdout, "copy.db is in use now; it has 0 unfinished runs\n");
    assert!(place.run(&["db", "adopt", "--db", "a.db"]).exits(0).stdout.contains("is not a copy"));
    let copy = Running::serve(&place, &["--db", "copy.db"]);
    assert_eq!(copy.get(&format!("{RUNS}/{run_id}")).json()["status"], "COMPLETED");
    assert_eq!((copy.stop().code, server.stop().code), (Some(0), Some(0)));
}

#[test]
fn a_file_of_an_older_format_is_read_once_it_was_migrated() {
    let place = Place::new();
    let sql = rusqlite::Connection::open(place.path("old.db")).unwrap();
    sql.execute_batch(include_str!("../../../db/tests/fixtures/format_1.sql")).unwrap();
    drop(sql);
    let refused = place.run(&["ls", "--db", "old.db"]).exits(1);
    assert!(refused.stderr.contains("outlive db migrate --db old.db"), "{}", refused.stderr);
    let migrated = place.run(&["db", "migrate", "--db", "old.db"]).exits(0);
    assert_eq!(migrated.stdout, "old.db has format 2 now, 1 before\n");
    let again = place.run(&["db", "migrate", "--db", "old.db", "--json"]).exits(0).stdout;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&again).unwrap()["format_before"], 2);
    let listed = place.run(&["ls", "--db", "old.db"]).exits(0).stdout;
    for run_id in ["behind", "stopped", "backing-off", "cancelled", "failed", "done-ada", "paused"] {
        assert!(listed.contains(run_id), "{run_id}: {listed}");
    }
    let second = place.run(&["output", "done", "--db", "old.db", "--session-table", "second"]).exits(0);
    assert!(second.stdout.contains("five"), "{}", second.stdout);
}

#[test]
fn a_copy_made_with_cp_is_never_an_empty_database() {
    let place = Place::new();
    let server = Running::serve(&place, &["--db", "a.db"]);
    let run_id = server.submit();
    server.get(&format!("{RUNS}/{run_id}?wait=60s"));
    std::fs::copy(place.path("a.db"), place.path("copy.db")).unwrap();
    let listed = place.run(&["ls", "--db", "copy.db"]);
    let said = "outlive backup FILE";
    assert!(listed.stderr.contains(said) && listed.stderr.contains("log"), "{}{}", listed.stdout, listed.stderr);
    let refused = place.run(&["worker", "--db", "copy.db"]).exits(1);
    assert!(refused.stderr.contains("without its log"), "{}", refused.stderr);
}

#[test]
fn an_empty_file_has_nothing_to_look_at_and_can_be_served() {
    let place = Place::new();
    std::fs::write(place.path("a.db"), "").unwrap();
    let refused = place.run(&["ls", "--db", "a.db"]).exits(1);
    assert!(refused.stderr.contains("a.db is empty"), "{}", refused.stderr);
    assert_eq!(std::fs::metadata(place.path("a.db")).unwrap().len(), 0);
    let server = Running::serve(&place, &["--db", "a.db"]);
    server.submit();
    assert_eq!(server.stop().code, Some(0));
}

/// A directory that nobody may write to, root neither.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn of(path: &Path) -> Option<Self> {
        let mount =
            |options: &[&str]| Command::new("mount").args(options).arg(path).status().is_ok_and(|s| s.success());
        if mount(&["--bind", path.to_str().unwrap()]) && mount(&["-o", "remount,ro,bind"]) {
            return Some(Self(path.to_owned()));
        }
        std::io::stderr().write_all(b"SKIPPED: needs root\n").unwrap();
        None
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg("-l").arg(&self.0).status().is_ok_and(|status| status.success()));
    }
}

#[test]
fn every_verb_that_only_looks_reads_a_file_that_nobody_may_write() {
    let place = Place::with_runs();
    let snapshot = place.path("snapshot");
    std::fs::create_dir(&snapshot).unwrap();
    std::fs::copy(place.path("runs.db"), snapshot.join("runs.db")).unwrap();
    let Some(_read_only) = ReadOnly::of(&snapshot) else { return };
    for verb in [
        &["ls"][..],
        &["show", "order-1"],
        &["events", "order-1"],
        &["events", "order-1", "-f"],
        &["output", "order-1"],
        &["watch", "order-1"],
        &["audit"],
        &["doctor"],
    ] {
        let done = place.run(&[verb, &["--db", "snapshot/runs.db"]].concat()).exits(0);
        assert!(!done.stderr.contains("rror") && !done.stderr.contains("WARN"), "{verb:?}: {}", done.stderr);
    }
    for verb in [&["cancel", "order-4"][..], &["rerun", "order-1"], &["db", "vacuum"]] {
        let done = place.run(&[verb, &["--db", "snapshot/runs.db"]].concat()).exits(1);
        assert!(done.stderr.contains("runs.db is read-only: give this user the right"), "{verb:?}: {}", done.stderr);
        assert!(!done.stderr.contains("attempt to write"), "{verb:?}: {}", done.stderr);
    }
}

#[test]
fn looking_leaves_no_trace() {
    let place = Place::with_runs();
    let before = (std::fs::read(place.path("runs.db")).unwrap(), names(&place));
    for verb in [&["ls"][..], &["show", "order-1"], &["events", "order-1", "-f"], &["watch", "order-1"], &["doctor"]] {
        place.on_runs(verb).exits(0);
    }
    assert!((std::fs::read(place.path("runs.db")).unwrap(), names(&place)) == before);
}

fn names(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.path(".")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_made_smaller_when_nobody_uses_it() {
    let place = Place::with_runs();
    let done = place.on_runs(&["db", "vacuum"]).exits(0);
    assert!(done.stdout.starts_with("runs.db: ") && done.stdout.contains(" now, "), "{}", done.stdout);
    let doctor = place.on_runs(&["doctor"]).exits(0).stdout;
    assert!(doctor.contains("returned to the disk") && doctor.contains("log"), "{doctor}");
    let mut command = place.command(&["db", "vacuum", "--server", "http://127.0.0.1:1"]);
    command.env("OUTLIVE_DB", "runs.db");
    assert!(Done::of(command).exits(2).stderr.contains("not on a server"));
}
