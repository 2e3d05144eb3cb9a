//! Traces of the server and the worker as programs, sent where the environment says.

use crate::fixture::Place;
use crate::running::{RUNS, Running};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

/// A request to the collector: its head in lower case, and its body.
type Request = (String, Vec<u8>);

/// Takes whatever is sent.
fn collector() -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = BufReader::new(socket.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(socket.read_line(&mut head).unwrap(), 0, "the request was cut short");
            }
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            socket.read_exact(&mut body).unwrap();
            sender.send((head, body)).unwrap();
            socket.get_mut().write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    (url, received)
}

fn traced(mut command: Command, url: &str) -> Command {
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_SERVICE_NAME", "night-shift");
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue");
    command
}

fn count(requests: &[Request], text: &[u8]) -> usize {
    requests.iter().flat_map(|(_, body)| body.windows(text.len())).filter(|window| *window == text).count()
}

fn bytes_of(run_id: &str) -> Vec<u8> {
    let digits = run_id.replace('-', "");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_run_that_two_processes_execute_is_one_trace_under_its_own_id() {
    let place = Place::new();
    let (url, received) = collector();
    let serve = || traced(place.command(&["serve", "--addr", "127.0.0.1:0"]), &url);
    let server = Running::start(&mut serve());
    let run_id = server.submit();
    server.stop().exits(0);
    let first: Vec<_> = received.try_iter().collect();
    let root = b"invoke_workflow Content Creation";
    assert_eq!(count(&first, root), 0, "the run was to be interrupted");

    let server = Running::start(&mut serve());
    let run = server.get(&format!("{RUNS}/{run_id}?wait=60s"));
    assert_eq!(run.json()["status"], "COMPLETED", "{}", run.body);
    server.stop().exits(0);
    let second: Vec<_> = received.try_iter().collect();
    let all = [first, second].concat();
    assert_eq!(count(&all, root), 1, "one root");
    assert!(count(&all, &bytes_of(&run_id)) > 5, "its spans are in the trace that bears the run's id");
    for (head, _) in &all {
        assert!(head.starts_with("post /v1/traces http/1.1\r\n") && head.contains("x-tenant: blue"), "{head}");
    }
    assert_eq!(count(&all, b"night-shift"), all.len(), "who sends");
    assert_eq!(count(&all, b"AI trends"), 0, "no word of the input");
}

#[test]
fn what_cannot_be_sent_is_said_before_anything_begins() {
    let place = Place::new();
    for command in [&["serve", "--addr", "127.0.0.1:0"][..], &["worker"], &["doctor"]] {
        let refused = |name: &str, value: &str| {
            let mut command = place.command(command);
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317").env(name, value);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(7));
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        let said = refused("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert!(said.contains("http/protobuf"), "{said}");
        let said = refused("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@collector");
        assert!(said.contains("write it like http://") && !said.contains("hunter2"), "{said}");
    }
    assert!(!place.path(".outlive").exists(), "a refused command makes no database");
}
