//! Agents with tools of MCP servers, in runs whose process is killed in the middle of a call.

use outlive::agent::testing::{McpFault, mcp_command, read_ledger, serve_mcp_if_asked};
use outlive::core::RunId;
use outlive::core::port::QuestionFilter;
use outlive::engine::testing::read_log;
use outlive::prelude::*;
use outlive::{File, FileProblemKind, McpProfile};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a word in the arguments of this binary begins with that makes it a process which executes runs.
const WORD: &str = "execute-mcp-runs:";
const RUN: &str = "run-with-mcp";

/// Not a test: what makes this binary an MCP server.
#[test]
fn serves() {
    serve_mcp_if_asked();
}

/// Not a test: what makes this binary a process that executes runs, until it is killed.
#[test]
fn executes() {
    let Some(word) = std::env::args().find_map(|word| word.strip_prefix(WORD).map(str::to_owned)) else { return };
    let (tool, folder) = word.split_once(':').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let workflow = workflow(Path::new(folder), tool, &[McpFault::HangsOnce]);
        let run = workflow.run("go").run_id(RUN).background().await.unwrap();
        run.wait().await.unwrap();
    });
}

/// Leases that lapse soon.
fn short() -> outlive::Options {
    outlive::Options {
        lease_period: Duration::from_millis(1500),
        heartbeat_period: Duration::from_millis(500),
        scan_period: Duration::from_millis(100),
        ..outlive::Options::default()
    }
}

fn ledger(folder: &Path) -> PathBuf {
    folder.join("ledger")
}

/// The calls at the server, without those that were called off.
fn calls_noted(folder: &Path) -> usize {
    read_ledger(&ledger(folder)).iter().filter(|line| *line != "cancelled").count()
}

/// One agent that calls this tool, and then says what the tool gave.
fn workflow(folder: &Path, tool: &str, faults: &[McpFault]) -> Workflow {
    let binary = std::env::current_exe().unwrap();
    let server =
        MCPTools::stdio(mcp_command(&binary, "mcp::serves", faults, &ledger(folder))).name("desk").timeout(None);
    let call = ToolCall::new("call-1", tool, r#"{"place": "the sea"}"#);
    let model = ScriptedModel::from_fn("m", move |request: &outlive::core::ModelRequest| {
        let last = request.messages.last().and_then(|message| message.content.clone()).unwrap_or_default();
        let is_asked = request.messages.len() > 1;
        Ok(if is_asked {
            ModelResponse::text(format!("it said {last}"))
        } else {
            ModelResponse::calls(vec![call.clone()])
        })
    });
    let agent = Agent::new("Caller").model(model).tools(server);
    let db = SqliteDb::new(folder.join("runs.db"));
    Workflow::builder("With MCP").db(db).options(short()).step(Step::new("Call").agent(agent)).build().unwrap()
}

/// Waits until something outside of this process is so. It fails a test that hangs, and measures nothing.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A process that executes a run. Killed with `kill -9` when dropped.
struct Executing(Child);

impl Executing {
    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    /// Stops it while it does not hold the file's write lock: otherwise nobody could write until it goes on.
    fn stop_between_commits(&self, db: &Path) {
        let file = rusqlite::Connection::open(db).unwrap();
        file.busy_timeout(Duration::from_secs(60)).unwrap();
        file.execute_batch("begin immediate").unwrap();
        self.signal(rustix::process::Signal::STOP);
        file.execute_batch("rollback").unwrap();
    }

    async fn ended(&mut self) {
        let ended = async {
            while self.0.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends by itself");
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that executes a run, and has a call of this tool at the server.
async fn in_a_call(folder: &Path, tool: &str) -> Executing {
    let word = format!("{WORD}{tool}:{}", folder.display());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mcp::executes", "--nocapture", &word])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let executing = Executing(child);
    until("a call at the server", || !read_ledger(&ledger(folder)).is_empty()).await;
    executing
}

async fn killed_in_a_call(folder: &Path, tool: &str) {
    drop(in_a_call(folder, tool).await);
}

async fn finished(workflow: &Workflow) -> outlive::WorkflowRunOutput {
    workflow.attach(RUN).await.unwrap().wait().await.unwrap()
}

#[tokio::test]
async fn a_call_that_only_reads_is_made_again_after_kill_minus_nine() {
    for (tool, faults) in [("look", &[][..]), ("put", &[][..]), ("look", &[McpFault::OddNames][..])] {
        let folder = tempfile::tempdir().unwrap();
        killed_in_a_call(folder.path(), tool).await;
        // The server has other tools by now: the run goes on with those that it began with.
        let workflow = workflow(folder.path(), tool, faults);
        let run = finished(&workflow).await;
        assert_eq!((run.status, run.text()), (RunStatus::Completed, format!("it said {tool}: the sea")));
        let noted = read_ledger(&ledger(folder.path()));
        assert_eq!(noted.len(), 2, "{noted:?}");
        assert_eq!(noted[0], noted[1], "under the same key");
        assert!(noted[0].ends_with("0/agent/t0/0"), "{noted:?}");
        let log = read_log(&SqliteDb::new(folder.path().join("runs.db")), &RunId::parse(RUN).unwrap()).await;
        let listed = log.iter().filter(|entry| entry.event.kind.name() == "CustomEvent");
        let listed = listed.filter(|entry| serde_json::to_string(&entry.event).unwrap().contains("ToolsListed"));
        assert_eq!(listed.count(), 1, "it was listed once");
        workflow.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_must_not_run_twice_is_asked_about_after_kill_minus_nine() {
    for (answer, said, calls) in [
        (Answer::Retry, "it said pay: the sea", 2),
        (Answer::Result { result: "it was paid".into() }, "it said it was paid", 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        killed_in_a_call(folder.path(), "pay").await;
        let workflow = workflow(folder.path(), "pay", &[]);
        let run = finished(&workflow).await;
        assert_eq!(run.status, RunStatus::Paused);
        assert_eq!(read_ledger(&ledger(folder.path())).len(), 1, "it was not made again");
        let engine = workflow.engine().await.unwrap();
        let open = engine.reader().questions(QuestionFilter::default()).await.unwrap().questions;
        assert_eq!(open.len(), 1);
        engine.answer([(open[0].question.id.clone(), answer)], None).await.unwrap();
        let run = finished(&workflow).await;
        assert_eq!((run.status, run.text().as_str()), (RunStatus::Completed, said));
        assert_eq!(read_ledger(&ledger(folder.path())).len(), calls);
        workflow.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_engine_beside_takes_a_call_over_as_its_effect_allows_when_the_first_is_killed_or_loses_its_lease() {
    for (tool, is_killed) in [("look", true), ("put", false), ("pay", true), ("pay", false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut first = in_a_call(folder.path(), tool).await;
        // It has a session of its own with the server, while the first still has the run.
        let second = workflow(folder.path(), tool, &[]);
        second.engine().await.unwrap();
        assert_eq!(second.run("go").await.unwrap().text(), format!("it said {tool}: the sea"), "a run of its own");
        assert_eq!(second.attach(RUN).await.unwrap().get().await.unwrap().unwrap().status, RunStatus::Running);
        assert_eq!(calls_noted(folder.path()), 2, "it leaves the first one's run alone");
        match is_killed {
            true => first.signal(rustix::process::Signal::KILL),
            false => first.stop_between_commits(&folder.path().join("runs.db")),
        }
        let run = finished(&second).await;
        let calls = if tool == "pay" {
            assert_eq!(run.status, RunStatus::Paused, "{tool}: nobody knows what came of it");
            2
        } else {
            assert_eq!((run.status, run.text()), (RunStatus::Completed, format!("it said {tool}: the sea")));
            3
        };
        assert_eq!(calls_noted(folder.path()), calls, "{tool}");
        if !is_killed {
            // Once it goes on it finds that the run is another's.
            first.signal(rustix::process::Signal::CONT);
        }
        first.ended().await;
        assert_eq!(calls_noted(folder.path()), calls, "{tool}: it has not called again");
        assert_eq!(finished(&second).await, run, "and has changed nothing");
        second.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_by_the_steps_retries() {
    let folder = tempfile::tempdir().unwrap();
    let agent = |argv: Vec<String>| {
        let model = ScriptedModel::replies([ModelResponse::text("here")]);
        Agent::new("Caller").model(model).tools(MCPTools::stdio(argv).name("desk"))
    };
    let retry = Retry::times(1).backoff(Duration::from_millis(10));
    let away = Workflow::builder("Away").db(InMemoryDb::new());
    let away =
        away.step(Step::new("Call").agent(agent(vec!["/no/such/program".to_owned()])).retry(retry)).build().unwrap();
    let run = away.run("go").background().await.unwrap().wait().await.unwrap();
    assert_eq!(run.status, RunStatus::Error);
    assert!(run.text().contains("the MCP server \"desk\": /no/such/program cannot be started"), "{}", run.text());

    // It is there at the second attempt.
    let script = folder.path().join("server");
    let there = mcp_command(&std::env::current_exe().unwrap(), "mcp::serves", &[], &ledger(folder.path()));
    let quoted: Vec<_> = there.iter().map(|word| format!("'{word}'")).collect();
    let flag = script.display().to_string();
    let line = format!("if [ -e '{flag}' ]; then exec {}; fi; touch '{flag}'; echo busy >&2; exit 1", quoted.join(" "));
    let argv = ["sh", "-c", &line].map(str::to_owned).to_vec();
    let back = Workflow::builder("Back").db(InMemoryDb::new());
    let back = back.step(Step::new("Call").agent(agent(argv)).retry(retry)).build().unwrap();
    assert_eq!(back.run("go").await.unwrap().text(), "here");
}

#[tokio::test]
async fn the_same_listing_again_costs_a_reference() {
    let folder = tempfile::tempdir().unwrap();
    let server = || {
        let binary = std::env::current_exe().unwrap();
        MCPTools::stdio(mcp_command(&binary, "mcp::serves", &[], &ledger(folder.path()))).name("desk")
    };
    let step = |name: &str, has_tools: bool| {
        let agent = Agent::new(name).model(ScriptedModel::replies([ModelResponse::text("x")]));
        Step::new(name).agent(if has_tools { agent.tools(server()) } else { agent })
    };
    let mut sizes = Vec::new();
    for with in [[false, false], [true, false], [true, true]] {
        let path = folder.path().join(format!("{}{}.db", with[0], with[1]));
        let workflow = Workflow::builder("Two").db(SqliteDb::new(&path));
        let workflow = workflow.step(step("One", with[0])).step(step("Two", with[1])).build().unwrap();
        let run = workflow.run("go").background().await.unwrap();
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
        workflow.shutdown().await.unwrap();
        let file = rusqlite::Connection::open(&path).unwrap();
        let bytes: i64 =
            file.query_row("select sum(length(body)) from outlive_sessions_run_events", [], |row| row.get(0)).unwrap();
        sizes.push(bytes);
    }
    let (first, second) = (sizes[1] - sizes[0], sizes[2] - sizes[1]);
    assert!(first > 600 && second < first / 3, "{first} bytes, then {second}: {sizes:?}");
}

/// A file with this server, whose one agent calls `sea_look`.
fn file(mcp: &str) -> outlive::Result<File> {
    file_calling(mcp, "sea_look", r#"{"place": "the sea"}"#)
}

fn file_calling(mcp: &str, tool: &str, arguments: &str) -> outlive::Result<File> {
    let text = format!(
        "version: 1\nmodel: scripted\ntools:\n  desk:\n    mcp: {mcp}\n    include: [look, pay]\n    prefix: sea\n    confirm: [pay]\n    \
         effects: {{ look: once }}\n    timeout: 5m\nagents: {{ a: {{ tools: [desk] }} }}\nworkflows: {{ w: {{ steps: [{{ step: A, agent: a }}] }} }}\n"
    );
    let call = ToolCall::new("call-1", tool, arguments);
    let model = ScriptedModel::replies([ModelResponse::calls(vec![call]), ModelResponse::text("seen")]);
    Ok(File::parse("x.yaml", text)?.model("scripted", model))
}

#[tokio::test]
async fn a_file_names_servers_and_programs_need_permission() {
    let folder = tempfile::tempdir().unwrap();
    let command = mcp_command(&std::env::current_exe().unwrap(), "mcp::serves", &[], &ledger(folder.path()));
    let command = format!("{{ command: {} }}", serde_json::to_string(&command).unwrap());
    let Err(outlive::Error::File(refused)) = file(&command).unwrap().definitions() else { panic!("it is not allowed") };
    assert!(
        refused.to_string().starts_with("x.yaml:5:5: it runs a command, and commands are not allowed here"),
        "{refused}"
    );
    assert!(refused.problems.iter().all(|problem| problem.kind == FileProblemKind::Missing));

    let allowed = file(&command).unwrap().allow_commands(true).db(InMemoryDb::new()).workflows().unwrap().remove(0);
    let run = allowed.run("go").await.unwrap();
    assert_eq!(run.text(), "seen");
    assert_eq!(read_ledger(&ledger(folder.path())).len(), 1);
    let steps = serde_json::to_string(&run).unwrap();
    assert!(steps.contains("look: the sea"), "{steps}");
}

#[tokio::test]
async fn a_person_allows_each_call_of_a_servers_tool_that_a_file_has_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let command = mcp_command(&std::env::current_exe().unwrap(), "mcp::serves", &[], &ledger(folder.path()));
    let server = format!("{{ command: {} }}", serde_json::to_string(&command).unwrap());
    let file = file_calling(&server, "sea_pay", r#"{"bill": "the boat"}"#).unwrap().allow_commands(true);
    let workflow = file.db(InMemoryDb::new()).workflows().unwrap().remove(0);
    let run = workflow.run("go").background().await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Paused);
    let open = run.questions().await.unwrap().remove(0);
    assert_eq!(open.question.kind, outlive::QuestionKind::ToolConfirmation);
    assert!(read_ledger(&ledger(folder.path())).is_empty(), "it is asked first");
    workflow.continue_run(run.run_id().as_str(), [(open.id().clone(), Answer::Approve)], Some("ada")).await.unwrap();
    assert_eq!(run.wait().await.unwrap().text(), "seen");
    assert_eq!(read_ledger(&ledger(folder.path())).len(), 1);
}

#[tokio::test]
async fn a_file_names_a_server_of_the_settings_and_a_run_keeps_the_one_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let command = mcp_command(&std::env::current_exe().unwrap(), "mcp::serves", &[], &ledger(folder.path()));
    let here = McpProfile { command, ..McpProfile::default() };
    let elsewhere = McpProfile { command: vec!["/no/such/program".to_owned()], ..McpProfile::default() };
    let named = |server: &McpProfile| file("house").unwrap().mcp_profile("house", server.clone());
    let Err(outlive::Error::File(refused)) = named(&here).definitions() else { panic!("commands are not allowed") };
    assert!(refused.to_string().contains("commands are not allowed here"), "{refused}");
    let Err(outlive::Error::File(unknown)) = file("hosue").unwrap().mcp_profile("house", here.clone()).definitions()
    else {
        panic!("it is unknown")
    };
    let message = "x.yaml:5:10: no MCP server is called \"hosue\" here: did you mean \"house\"?";
    assert!(unknown.to_string().starts_with(message), "{unknown}");
    assert!(unknown.problems.iter().all(|problem| problem.kind == FileProblemKind::Missing));

    let allowed = named(&here).allow_commands(true);
    let run = allowed.clone().db(InMemoryDb::new()).workflows().unwrap().remove(0).run("go").await.unwrap();
    assert_eq!((run.text().as_str(), read_ledger(&ledger(folder.path())).len()), ("seen", 1));
    // Another server under the name is another definition; a run goes on with its own.
    let (own, other) =
        (allowed.definition("w").unwrap(), named(&elsewhere).allow_commands(true).definition("w").unwrap());
    assert_ne!(own.hash, other.hash);
    let stored = &own.source.as_ref().unwrap().text;
    assert_eq!(other.source.as_ref().unwrap().restore(stored).unwrap().hash, own.hash);
    // Whoever may not run programs does not run that of the settings either.
    let strict = file("{ url: 'https://x.example/' }").unwrap().definition("w").unwrap();
    let refused = strict.source.as_ref().unwrap().restore(stored).unwrap_err();
    assert!(refused.contains("commands are not allowed here"), "{refused}");
}

#[test]
fn what_is_wrong_with_a_server_in_a_file_is_told_at_its_place() {
    let problems = |mcp: &str| match file(mcp).and_then(|file| file.definitions()) {
        Err(outlive::Error::File(invalid)) => invalid.to_string(),
        other => panic!("{other:?}"),
    };
    for (mcp, said) in [
        ("{}", "x.yaml:5:5: it says no server: write `command: [PROGRAM]` or `url: ADDRESS`"),
        (
            "{ command: [x], url: 'https://x.example/' }",
            "x.yaml:5:5: it has a command and an address: leave one of them",
        ),
        ("{ url: 'http://127.0.0.1/mcp' }", "x.yaml:5:5: url_not_allowed: "),
        (
            "{ url: 'https://x.example/', headers: { A: '${env:NOBODY_SETS_THIS}' } }",
            "x.yaml:5:5: it needs NOBODY_SETS_THIS, which is not set",
        ),
        (
            "{ url: 'https://x.example/', headers: { Authorization: 'Bearer sk-abcdefghijklmnopqrstuvwxyz123456' } }",
            "x.yaml:5:65: this looks like a secret",
        ),
        ("{ comand: [x] }", "x.yaml:5:12: unknown key \"comand\": did you mean \"command\"?"),
    ] {
        let told = problems(mcp);
        assert!(told.starts_with(said), "{mcp}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}
