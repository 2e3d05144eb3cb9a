//! The example server as real processes: clients lose their connection, or the server loses its life, and still every
//! client ends with the events of the run's log, each once, in order.

use crate::example::event_lines;
use crate::world::{KEY, World};
use futures::{SinkExt, StreamExt};
use outlive::RunId;
use outlive::core::port::{Access, RunStore, run_output};
use outlive::engine::testing::{broken_invariants, read_log};
use outlive::prelude::*;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(90);
const RUNS: &str = "/workflows/content-creation-workflow/runs";

/// A server process. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
}

impl Process {
    /// Starts one on the world's file and waits until it accepts connections.
    pub(crate) async fn start(world: &World) -> Self {
        let tests = std::env::current_exe().unwrap();
        let folder = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
        let program = folder.join(format!("agno_app{}", std::env::consts::EXE_SUFFIX));
        assert!(program.exists(), "{program:?} is missing: build it with `cargo test -p outlive --no-run`");
        let port = free_port();
        let mut command = Command::new(program);
        command
            .env("PORT", port.to_string())
            .env("AGNO_DB", world.path())
            .env("OPENAI_BASE_URL", world.models.url())
            .env("OPENAI_API_KEY", KEY)
            .env_remove("JWT")
            .env_remove("OS_SECURITY_KEY")
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut process = Self { child: command.spawn().unwrap(), address: format!("127.0.0.1:{port}") };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while TcpStream::connect(&process.address).await.is_err() {
            assert_eq!(process.child.try_wait().unwrap(), None, "the server ended before it listened");
            assert!(tokio::time::Instant::now() < deadline, "the server does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listened at a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a form by HTTP/1.0, whose answers end with the connection, and reads past the head: status and body.
pub(crate) async fn post(address: &str, path: &str, form: &str) -> std::io::Result<(u16, BufReader<TcpStream>)> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line).await?;
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    loop {
        line.clear();
        match answer.read_line(&mut line).await? {
            0 => return Err(cut()),
            _ if line == "\r\n" => return Ok((status, answer)),
            _ => {}
        }
    }
}

/// Starts a run in the background.
async fn submit(process: &Process, message: &str) -> RunId {
    let form = format!("message={}&background=true&stream=false", message.replace(' ', "+"));
    let (status, mut answer) = post(&process.address, RUNS, &form).await.unwrap();
    let mut body = String::new();
    answer.read_to_string(&mut body).await.unwrap();
    assert_eq!(status, 202, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    RunId::parse(body["run_id"].as_str().unwrap()).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Sse,
    Socket,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The client left.
    Left,
    /// The connection broke.
    Cut,
    /// The run's last event was there.
    Over,
}

/// A client that follows one run, over one connection after the other.
struct Reader {
    run_id: RunId,
    /// The events so far, as they came.
    seen: Vec<String>,
    /// The index of the event that must come next on this connection.
    next: usize,
    left: usize,
}

impl Reader {
    fn new(run_id: &RunId) -> Self {
        Self { run_id: run_id.clone(), seen: Vec::new(), next: 0, left: 0 }
    }

    /// Follows from the last event it has, until it saw `at_most` new ones.
    async fn follow(&mut self, address: &str, transport: Transport, at_most: usize) -> Ended {
        (self.next, self.left) = (self.seen.len(), at_most);
        let following = async {
            match transport {
                Transport::Sse => self.follow_sse(address).await,
                Transport::Socket => self.follow_socket(address).await,
            }
        };
        let ended = tokio::time::timeout(PATIENCE, following).await.expect("a stream goes on");
        ended.unwrap_or(Ended::Cut)
    }

    fn last(&self) -> Option<usize> {
        self.seen.len().checked_sub(1)
    }

    async fn follow_sse(&mut self, address: &str) -> Option<Ended> {
        let form = self.last().map_or_else(String::new, |last| format!("last_event_index={last}"));
        let (status, answer) = post(address, &format!("{RUNS}/{}/resume", self.run_id), &form).await.ok()?;
        assert_eq!(status, 200);
        let mut lines = answer.lines();
        let mut data = String::new();
        loop {
            if self.left == 0 {
                return Some(Ended::Left);
            }
            let line = lines.next_line().await.ok()??;
            if let Some(text) = line.strip_prefix("data: ") {
                text.clone_into(&mut data);
            } else if line.is_empty() && !data.is_empty() && self.take(&data, Transport::Sse) {
                // Nothing comes after the last event but the end.
                return lines.next_line().await.is_ok_and(|line| line.is_none()).then_some(Ended::Over);
            } else if line.is_empty() {
                data.clear();
            }
        }
    }

    async fn follow_socket(&mut self, address: &str) -> Option<Ended> {
        let url = format!("ws://{address}/workflows/ws");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
        let ask = json!({ "action": "reconnect", "run_id": self.run_id, "last_event_index": self.last() });
        socket.send(Message::text(ask.to_string())).await.ok()?;
        loop {
            if self.left == 0 {
                return Some(Ended::Left);
            }
            let message = socket.next().await?.ok()?;
            if let Message::Text(text) = message
                && self.take(&text, Transport::Socket)
            {
                return Some(Ended::Over);
            }
        }
    }

    /// Takes one frame. Whether it was the run's last event.
    fn take(&mut self, data: &str, transport: Transport) -> bool {
        let frame: Value = serde_json::from_str(data).unwrap();
        let name = frame["event"].as_str().unwrap();
        assert!(!["error", "lagged"].contains(&name), "{data}");
        if name == "replay" && transport == Transport::Socket {
            // What a socket does for a finished run: everything again, and it must be the same again.
            self.next = 0;
        }
        let Some(index) = frame["event_index"].as_u64() else { return false };
        assert_eq!(index, self.next as u64, "a gap or a repetition over {transport:?}: {data}");
        match self.seen.get(self.next) {
            Some(known) => assert_eq!(known, data, "what was seen stays as it was seen"),
            None => {
                self.seen.push(data.to_owned());
                self.left -= 1;
            }
        }
        self.next += 1;
        matches!(name, "WorkflowCompleted" | "WorkflowError" | "WorkflowCancelled")
    }
}

/// Past the test harness, which would hold it back.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Random numbers that depend on the seed alone.
pub(crate) struct Dice(u64);

impl Dice {
    /// From `OUTLIVE_SEED`, or another one at each start; printed, so that a failure can be had again.
    pub(crate) fn new() -> Self {
        let set = std::env::var("OUTLIVE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = set.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_secs()
        });
        say(format_args!("OUTLIVE_SEED={seed}"));
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn transport(&mut self) -> Transport {
        if self.below(2) == 0 { Transport::Sse } else { Transport::Socket }
    }
}

/// What the run's log says, after a look at the log itself.
async fn log_of(world: &World, run_id: &RunId) -> Vec<String> {
    let db = world.db();
    let log = read_log(&db, run_id).await;
    let row = db.run(Access::All, run_id.clone()).await.unwrap().unwrap();
    assert_eq!(row.status, RunStatus::Completed);
    assert_eq!(broken_invariants(&log, &run_output(&db, &Access::All, &row).await.unwrap()), Vec::<String>::new());
    event_lines(&log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_back_after_kill_minus_nine_get_exactly_what_they_missed() {
    let mut dice = Dice::new();
    for _ in 0..4 {
        let world = World::new().await;
        let process = Process::start(&world).await;
        let run_id = submit(&process, "AI trends CHUNKS=8 CHUNKDELAY=0.02").await;
        let (mut sse, mut socket, mut dead) = (Reader::new(&run_id), Reader::new(&run_id), Reader::new(&run_id));
        let address = process.address.clone();
        // The kill comes when one client has so many events, whatever the others have got.
        let moment = 1 + dice.below(40);
        let (until, _, _) = tokio::join!(
            async {
                let ended = dead.follow(&address, Transport::Sse, moment).await;
                process.kill();
                ended
            },
            sse.follow(&address, Transport::Sse, usize::MAX),
            socket.follow(&address, Transport::Socket, usize::MAX),
        );
        assert_eq!(until, Ended::Left, "the run was over before event {moment}");
        let before = [sse.seen.clone(), socket.seen.clone(), dead.seen.clone()];
        let process = Process::start(&world).await;
        let ended = tokio::join!(
            sse.follow(&process.address, Transport::Sse, usize::MAX),
            socket.follow(&process.address, Transport::Socket, usize::MAX),
            dead.follow(&process.address, Transport::Sse, usize::MAX),
        );
        assert_eq!(ended, (Ended::Over, Ended::Over, Ended::Over), "killed after event {moment}");
        let log = log_of(&world, &run_id).await;
        for (reader, before) in [sse, socket, dead].iter().zip(before) {
            assert_eq!(reader.seen, log);
            assert_eq!(reader.seen[..before.len()], before);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lost_connections_to_three_servers_on_one_file_lose_and_repeat_nothing() {
    const DISCONNECTS: usize = 1000;
    let mut dice = Dice::new();
    let world = World::new().await;
    let processes = [Process::start(&world).await, Process::start(&world).await, Process::start(&world).await];
    let addresses: Vec<String> = processes.iter().map(|process| process.address.clone()).collect();
    let disconnects = AtomicUsize::new(0);
    while disconnects.load(Ordering::Relaxed) < DISCONNECTS {
        // A run and its six clients; several such groups at the same time.
        let groups = (0..3).map(|_| {
            let mut dice = Dice(dice.below(usize::MAX) as u64);
            let (processes, addresses, disconnects, world) = (&processes, &addresses, &disconnects, &world);
            async move {
                let run_id = submit(&processes[dice.below(3)], "AI trends CHUNKS=30 CHUNKDELAY=0.01").await;
                let readers = (0..6).map(|_| {
                    let (mut dice, run_id) = (Dice(dice.below(usize::MAX) as u64), &run_id);
                    async move {
                        let mut reader = Reader::new(run_id);
                        loop {
                            let (address, transport) = (&addresses[dice.below(3)], dice.transport());
                            match reader.follow(address, transport, dice.below(6)).await {
                                Ended::Left => disconnects.fetch_add(1, Ordering::Relaxed),
                                Ended::Over => return reader.seen,
                                Ended::Cut => panic!("{address} cut a connection over {transport:?}"),
                            };
                        }
                    }
                });
                let seen = futures::future::join_all(readers).await;
                let log = log_of(world, &run_id).await;
                assert!(seen.iter().all(|seen| *seen == log), "every client has the log, each event once");
            }
        });
        futures::future::join_all(groups).await;
    }
    say(format_args!("{} lost connections", disconnects.load(Ordering::Relaxed)));
}
