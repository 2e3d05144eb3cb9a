//! The server and the worker as programs.

use crate::fixture::{Done, Place};
use crate::running::{KEY, PATIENCE, RUNS, Running};
use serde_json::{Value, json};
use std::io::{Read, Seek, Write};
use std::net::TcpListener;

/// Takes one request, answers 204, and returns what it was.
fn receive_one(listener: &TcpListener) -> String {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if Some(body.len()) == length {
                socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
                return text;
            }
        }
        let count = socket.read(&mut buffer).unwrap();
        assert!(count > 0, "cut off: {text}");
        request.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn the_end_of_a_run_is_posted_to_a_host_that_the_settings_open() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = receiver.local_addr().unwrap().to_string();
    let place = Place::new();
    let mut command = place.command(&["serve", "--addr", "127.0.0.1:0"]);
    command.env("OUTLIVE_WEBHOOK_HOSTS", &host);
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let server = Running::start(command.env("OUTLIVE_WEBHOOK_SECRET", secret).env("NO_PROXY", "*"));
    let form = |url: &str| format!("message=AI+trends&stream=false&background=true&webhook_url={url}");
    let kind = ["content-type: application/x-www-form-urlencoded"];
    assert_eq!(server.ask("POST", RUNS, &kind, &form("http://127.0.0.1:1/")).status, 422);
    let accepted = server.ask("POST", RUNS, &kind, &form(&format!("http://{host}/hook")));
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let accepted = accepted.json();
    let run_id = accepted["run_id"].as_str().unwrap();

    let posted = receive_one(&receiver);
    let (head, body) = posted.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook HTTP/1.1"), "{head}");
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&event["event"], &event["run_id"]), (&"WorkflowCompleted".into(), &run_id.into()));
    assert!(head.contains(&format!("webhook-id: {run_id}_{}", event["event_index"])), "{head}");
    assert!(head.contains("webhook-signature: v1,"), "{head}");
    assert!(!posted.contains(secret), "{posted}");
}

#[test]
fn a_webhook_secret_that_is_none_keeps_the_server_from_starting() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--addr", "127.0.0.1:0"]);
    command.env("OUTLIVE_WEBHOOK_SECRET", "hunter2-hunter2");
    let done = Done::of(command);
    assert_eq!(done.code, Some(7));
    assert!(done.stderr.contains("OUTLIVE_WEBHOOK_SECRET") && done.stderr.contains("openssl rand"), "{}", done.stderr);
    assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
}

#[test]
fn a_served_run_is_executed_and_is_still_there_after_sigterm() {
    let place = Place::new();
    let server = Running::serve(&place, &[]);
    assert_eq!((&server.ready["auth"], &server.ready["executes"]), (&"none".into(), &true.into()));
    assert_eq!(server.get("/health").json()["status"], "ok");
    assert_eq!(server.get("/health").json().get("warning"), None);
    let run_id = server.submit();
    let run = server.get(&format!("{RUNS}/{run_id}?wait=60s"));
    assert_eq!((run.status, &run.json()["status"]), (200, &"COMPLETED".into()), "{}", run.body);

    let metrics = server.get("/metrics");
    assert!(metrics.header("content-type").starts_with("text/plain"), "{}", metrics.head);
    for line in ["outlive_runs_accepted_total 1\n", "outlive_runs_finished_total 1\n", "outlive_runs_queued 0\n"] {
        assert!(metrics.body.contains(line), "{line}{}", metrics.body);
    }
    assert!(!metrics.body.contains(&run_id));

    server.stop().exits(0);
    let shown = place.run(&["show", &run_id, "--json"]).exits(0).json();
    assert_eq!(shown["status"], "completed");
}

#[test]
fn bad_e08_a_terminal_that_closes_ends_no_server() {
    let place = Place::new();
    let server = Running::serve(&place, &[]);
    let process = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(process, rustix::process::Signal::HUP).unwrap();
    let run_id = server.submit();
    place.run(&["watch", &run_id]).exits(0);
    server.stop().exits(0);
}

#[test]
fn what_one_process_accepts_another_executes() {
    let place = Place::new();
    let server = Running::serve(&place, &["--no-execute"]);
    let run_id = server.submit();
    assert!(server.get("/metrics").body.contains("outlive_runs_queued 1\n"));
    assert_eq!(server.get(&format!("{RUNS}/{run_id}")).json()["status"], "PENDING");

    let worker = Running::start(&mut place.command(&["worker"]));
    assert_eq!(worker.ready["working"], true);
    let run = server.get(&format!("{RUNS}/{run_id}?wait=60s"));
    assert_eq!(run.json()["status"], "COMPLETED", "{}", run.body);
    worker.stop().exits(0);
    server.stop().exits(0);
}

#[test]
fn a_signal_in_the_middle_of_a_run_gives_it_to_the_next_process_at_once() {
    let place = Place::new();
    let server = Running::serve(&place, &[]);
    let run_id = server.submit();
    server.stop().exits(0);
    let status = |place: &Place| place.run(&["show", &run_id, "--json"]).exits(0).json()["status"].clone();
    assert_ne!(status(&place), "completed", "the run was to be interrupted");
    let server = Running::serve(&place, &[]);
    let run = server.get(&format!("{RUNS}/{run_id}?wait=60s"));
    assert_eq!(run.json()["status"], "COMPLETED", "{}", run.body);
}

#[test]
fn bad_e07_an_address_for_everyone_without_a_credential_is_refused_with_both_remedies() {
    let place = Place::new();
    for addr in ["0.0.0.0:0", "[::]:0"] {
        let done = place.run(&["serve", "--addr", addr]).exits(7);
        assert!(done.stderr.contains("OS_SECURITY_KEY") && done.stderr.contains("127.0.0.1"), "{}", done.stderr);
    }
    let error = place.run(&["serve", "--addr", "0.0.0.0:0", "--json"]).exits(7).error();
    assert_eq!(error["code"], "configuration");
    assert!(!place.path(".outlive").exists(), "a refused server makes no database");
}

#[test]
fn bad_e07_who_wants_no_credential_has_to_say_so_and_everyone_is_told() {
    let place = Place::new();
    let server = Running::start(&mut place.command(&["serve", "--addr", "0.0.0.0:0", "--insecure-no-auth"]));
    let health = server.get("/health").json();
    assert!(health["warning"].as_str().unwrap().contains("no credential"), "{health}");
    let elsewhere = server.ask("GET", "/health", &["host: evil.example"], "");
    assert_eq!(elsewhere.status, 421, "another name stays refused");
    let done = server.stop().exits(0);
    assert!(done.stderr.contains("warning: no credential is required"), "{}", done.stderr);
}

#[test]
fn the_security_key_is_asked_for_and_a_weak_one_is_remarked() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--addr", "0.0.0.0:0"]);
    command.env("OS_SECURITY_KEY", KEY);
    let server = Running::start(&mut command);
    assert_eq!(server.ready["auth"], "security_key");
    assert_eq!(server.get("/workflows").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    let right = format!("authorization: Bearer {KEY}");
    assert_eq!(server.ask("GET", "/workflows", &[&right], "").status, 200);
    assert_eq!(server.ask("GET", "/metrics", &[&right, "host: runs.example"], "").status, 200);
    let done = server.stop().exits(0);
    assert!(!done.stderr.contains("warning") && !done.stderr.contains(KEY), "{}", done.stderr);

    let mut command = place.command(&["serve", "--addr", "127.0.0.1:0"]);
    command.env("OS_SECURITY_KEY", "hunter2");
    let done = Running::start(&mut command).stop().exits(0);
    assert!(done.stderr.contains("shorter than 32") && !done.stderr.contains("hunter2"), "{}", done.stderr);
}

#[test]
fn revoking_a_key_says_which_schedules_of_its_user_still_make_runs() {
    let place = Place::new();
    let mint = |user| {
        let scopes = "schedules:*,workflows:run";
        place.run(&["keys", "mint", "--scope", scopes, "--user", user, "--json"]).exits(0).json()
    };
    let (ada, bob) = (mint("ada"), mint("bob"));
    let server = Running::serve(&place, &[]);
    let add = |key: &Value, name: &str| -> String {
        let body = json!({ "workflow_id": "content-creation-demo", "cron": "@yearly", "name": name, "input": "tea" });
        let token = format!("authorization: Bearer {}", key["key"].as_str().unwrap());
        let told = server.ask("POST", "/api/schedules", &[&token, "content-type: application/json"], &body.to_string());
        assert!(told.status < 300, "{}", told.body);
        told.json()["schedule_id"].as_str().unwrap().to_owned()
    };
    let (yearly, paused) = (add(&ada, "yearly"), add(&ada, "paused"));
    let others = add(&bob, "others");
    place.run(&["schedule", "pause", &paused]).exits(0);
    let told = place.run(&["keys", "revoke", ada["id"].as_str().unwrap()]).exits(0);
    assert!(told.stderr.contains("Its user's schedules still make runs"), "{}", told.stderr);
    assert!(told.stdout.contains(&yearly) && told.stdout.contains("yearly"), "{}", told.stdout);
    assert!(![&paused, &others].iter().any(|id| told.stdout.contains(*id)), "{}", told.stdout);
    let told = place.run(&["keys", "revoke", bob["id"].as_str().unwrap(), "--json"]).exits(0).json();
    assert_eq!(told["schedules"], json!([others]));
    server.stop().exits(0);
}

#[test]
fn a_minted_key_opens_what_its_scopes_name_until_another_process_revokes_it() {
    let place = Place::new();
    let minted = place.run(&["keys", "mint", "--scope", "workflows:read", "--name", "ci", "--json"]).exits(0).json();
    let (key, id) = (minted["key"].as_str().unwrap(), minted["id"].as_str().unwrap());
    let server = Running::serve(&place, &[]);
    assert_eq!(server.ready["auth"], "api_key");
    let header = format!("authorization: Bearer {key}");
    let ask = |path: &str| server.ask("GET", path, &[&header], "").status;
    assert_eq!((ask("/workflows"), ask("/metrics"), server.get("/workflows").status), (200, 403, 401));

    let listed = place.run(&["keys", "ls", "--json"]).exits(0);
    assert!(!listed.stdout.contains(key), "{}", listed.stdout);
    let listed = listed.json();
    assert_eq!((&listed["keys"][0]["id"], &listed["keys"][0]["state"]), (&id.into(), &"valid".into()));
    assert!(listed["keys"][0]["last_used_at"].is_string(), "{listed}");

    place.run(&["keys", "revoke", id]).exits(0);
    assert_eq!(ask("/workflows"), 401);
    assert!(place.run(&["keys", "ls"]).exits(0).stdout.contains("revoked"));
    place.run(&["keys", "revoke", "nobody"]).exits(3);
    place.run(&["keys", "mint", "--scope", "everything"]).exits(2);
    server.stop().exits(0);
    let log = place.run(&["audit", "--json"]).exits(0);
    assert!(!log.stdout.contains(key), "{}", log.stdout);
    let log = log.json();
    let told: Vec<_> = log["records"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
            [text("kind"), text("outcome"), text("actor"), text("action"), text("target")]
        })
        .collect();
    let holder = format!("key:{id}");
    let expected = [
        ["key_mint", "done", "cli", "outlive keys mint", id],
        ["access_denied", "insufficient_scope", &holder, "GET /metrics", "-"],
        ["auth_failed", "unauthenticated", "-", "GET /workflows", "-"],
        ["key_revoke", "done", "cli", "outlive keys revoke", id],
        ["auth_failed", "auth_expired", "-", "GET /workflows", "-"],
    ];
    assert_eq!(told, expected);
    assert_eq!(place.run(&["audit", "--kind", "key_mint"]).exits(0).stdout.lines().count(), 1);
    let of_key = place.run(&["audit", "--actor", &holder, "--since", "1h", "-n", "1"]).exits(0);
    assert!(of_key.stdout.contains("access_denied") && of_key.stdout.lines().count() == 1, "{}", of_key.stdout);
    place.run(&["audit", "--kind", "everything"]).exits(2);
    let file = std::fs::read(place.path(".outlive/data.db")).unwrap();
    assert!(!file.windows(key.len()).any(|window| window == key.as_bytes()), "the key itself is in the file");
}

#[test]
fn a_key_that_has_ended_is_refused() {
    let place = Place::new();
    let arguments = ["keys", "mint", "--scope", "workflows:read", "--expires", "1ms", "--json"];
    let minted = place.run(&arguments).exits(0).json();
    let server = Running::serve(&place, &[]);
    let header = format!("authorization: Bearer {}", minted["key"].as_str().unwrap());
    assert_eq!(server.ask("GET", "/workflows", &[&header], "").status, 401);
    assert!(place.run(&["keys", "ls"]).exits(0).stdout.contains("expired"));
}

#[test]
fn names_and_pages_from_elsewhere_are_let_in_when_they_are_listed() {
    let place = Place::new();
    let server = Running::serve(&place, &["--allow-host", "runs.example", "--allow-origin", "https://pages.example"]);
    let ask = |headers: &[&str]| server.ask("GET", "/health", headers, "");
    assert_eq!(ask(&["host: runs.example"]).status, 200);
    assert_eq!(ask(&["host: other.example"]).status, 421);
    let page = ask(&["origin: https://pages.example"]);
    assert_eq!(page.header("access-control-allow-origin"), "https://pages.example");
    let form = "content-type: application/x-www-form-urlencoded";
    assert_eq!(server.ask("POST", RUNS, &["origin: https://evil.example", form], "message=x").status, 403);
}

#[test]
fn a_request_leaves_one_line_of_json_with_the_id_its_client_was_told() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--addr", "127.0.0.1:0", "--log-format", "json"]);
    command.env("OUTLIVE_LOG", "warn,outlive_server=debug");
    let server = Running::start(&mut command);
    let answer = server.get("/info?token=olv_not-to-be-logged");
    let id = answer.header("x-request-id").to_owned();
    let done = server.stop().exits(0);
    let lines: Vec<Value> = done.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let about: Vec<_> = lines.iter().filter(|line| line["request_id"] == id.as_str()).collect();
    assert_eq!(about.len(), 1, "{}", done.stderr);
    assert_eq!((&about[0]["path"], &about[0]["method"]), (&"/info".into(), &"GET".into()));
    assert!(!done.stderr.contains("not-to-be-logged"), "{}", done.stderr);
}

#[test]
fn no_log_line_holds_a_secret_whatever_its_form() {
    const TOKEN: &str = "olv_0123456789abcdefghijklmnop";
    for format in ["text", "json"] {
        let place = Place::new();
        // An error of the database names the file, and with it the key.
        let db = place.path(&format!("of-{KEY}/a.db"));
        let mut command = place.command(&["serve", "--addr", "127.0.0.1:0", "--log-format", format, "--db"]);
        command.arg(&db).env("OS_SECURITY_KEY", KEY).env("OUTLIVE_LOG", "debug").env("NO_COLOR", "1");
        let server = Running::start(&mut command);
        let key = format!("authorization: Bearer {KEY}");
        for path in [format!("/nothing/{KEY}"), format!("/nothing/{TOKEN}"), format!("/{}", KEY.replace('-', "%2d"))] {
            server.ask("GET", &path, &[&key], "");
        }
        // Damaged, but neither cut short nor another file: that would end the server by itself.
        for file in ["a.db", "a.db-wal"] {
            let mut file = std::fs::File::options().write(true).open(db.with_file_name(file)).unwrap();
            let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
            file.seek(std::io::SeekFrom::Start(4_096)).unwrap();
            file.write_all(&vec![0xff; len - 4_096]).unwrap();
        }
        assert_eq!(server.ask("GET", "/sessions", &[&key], "").status, 500);
        // What ends it names the file, too.
        std::fs::remove_file(&db).unwrap();
        let log = server.end().exits(1).stderr;
        assert!(log.contains("/nothing/[redacted]") && log.contains("of-[redacted]/a.db"), "{log}");
        assert!(!log.contains(KEY) && !log.contains(TOKEN) && !log.contains("%2dhorse%2d"), "{log}");
    }
}

#[test]
fn bad_e06_an_address_that_is_taken_or_is_none_is_named() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let done = place.run(&["serve", "--addr", &addr]).exits(7);
    assert!(done.stderr.contains(&addr) && done.stderr.contains("--addr"), "{}", done.stderr);
    let done = place.run(&["serve", "--addr", "here"]).exits(7);
    assert!(done.stderr.contains("here is not an address"), "{}", done.stderr);
    place.run(&["serve", "--allow-origin", "*"]).exits(7);
    place.run(&["serve", "--allow-host", "https://x"]).exits(7);
}
