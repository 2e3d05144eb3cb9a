//! A server or a worker as a program: started, spoken to over TCP, told to stop by signals.

use crate::fixture::{Done, Place};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longest time for anything here; a test that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const RUNS: &str = "/workflows/content-creation-demo/runs";
pub(crate) const KEY: &str = "correct-horse-battery-staple-of-32-and-more";

/// A program that stays until it is told to stop.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// What it said when it was ready.
    pub(crate) ready: Value,
}

impl Running {
    /// Starts it and waits until it says in one line of JSON that it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("it ended with {}: {said}", child.wait().unwrap());
        }
        Self { child, ready: serde_json::from_str(&line).unwrap() }
    }

    pub(crate) fn serve(place: &Place, arguments: &[&str]) -> Self {
        Self::start(&mut place.command(&[&["serve", "--addr", "127.0.0.1:0"], arguments].concat()))
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let port = self.url().rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let has_host = headers.iter().any(|header| header.starts_with("host:"));
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        head.push_str(if has_host { "" } else { "host: localhost\r\n" });
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        socket.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer { status: head[9..12].parse().unwrap(), head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn url(&self) -> &str {
        self.ready["listening"][0].as_str().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// Accepts a run and returns its id.
    pub(crate) fn submit(&self) -> String {
        let form = "message=AI+trends&stream=false&background=true";
        let answer = self.ask("POST", RUNS, &["content-type: application/x-www-form-urlencoded"], form);
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.json()["run_id"].as_str().unwrap().to_owned()
    }

    /// SIGTERM, and what it said until its end.
    pub(crate) fn stop(self) -> Done {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        self.end()
    }

    /// Waits for its end, and gives what it said until then.
    pub(crate) fn end(mut self) -> Done {
        let process = rustix::process::Pid::from_child(&self.child);
        // Its end closes its standard error. One that does not end is killed, and then has no exit code.
        let (ended, watch) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        });
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        drop(ended);
        watchdog.join().unwrap();
        let code = self.child.wait().unwrap().code();
        assert!(code.is_some(), "it does not stop: {stderr}");
        Done { code, stdout: String::new(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}
