//! Tools of MCP servers, against real ones: a process on its standard input and output, and one over HTTP.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test the same way")]

use outlive_agent::Agent;
use outlive_agent::model::ScriptedModel;
use outlive_agent::outbound::Outbound;
use outlive_agent::testing::{McpFault, McpServer, mcp_command, read_ledger, serve_mcp_if_asked};
use outlive_agent::tool::{IntoTools, MCPTools};
use outlive_core::port::Executor;
use outlive_core::{
    EventKind, Failure, FailureKind, ModelRequest, ModelResponse, RunEvent, RunOutput, ToolCall, ToolEffect,
};
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Not a test: what makes this binary a server.
#[test]
fn serves() {
    serve_mcp_if_asked();
}

/// A folder with the ledger of a server.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn ledger(&self) -> PathBuf {
        self.0.path().join("ledger")
    }

    /// The tools of a program with these faults.
    fn tools(&self, faults: &[McpFault]) -> MCPTools {
        let binary = std::env::current_exe().unwrap();
        MCPTools::stdio(mcp_command(&binary, "mcp::serves", faults, &self.ledger())).name("desk")
    }

    /// The names of the tools that were called.
    fn called(&self) -> Vec<String> {
        called(&read_ledger(&self.ledger()))
    }
}

fn called(ledger: &[String]) -> Vec<String> {
    ledger.iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

fn over_http(server: &McpServer) -> MCPTools {
    MCPTools::http(server.url()).name("site").outbound(Outbound::default().allow(&server.host()).unwrap())
}

/// An agent that calls these, all in one turn, and then says "done"; and what it was offered with each request.
fn caller(tools: MCPTools, calls: &[(&str, &str)]) -> (Agent, Arc<Mutex<Vec<ModelRequest>>>) {
    let asked: Arc<Mutex<Vec<ModelRequest>>> = Arc::default();
    let calls: Vec<_> =
        calls.iter().map(|(tool, arguments)| ToolCall::new(format!("of-{tool}"), *tool, *arguments)).collect();
    let seen = asked.clone();
    let model = ScriptedModel::from_fn("m", move |request: &ModelRequest| {
        let mut asked = seen.lock().unwrap();
        asked.push(request.clone());
        Ok(if asked.len() == 1 && !calls.is_empty() {
            ModelResponse::calls(calls.clone())
        } else {
            ModelResponse::text("done")
        })
    });
    (Agent::new("Caller").model(model).tools(tools), asked)
}

async fn run(tools: MCPTools, calls: &[(&str, &str)]) -> RunOutput {
    caller(tools, calls).0.run("go").await.unwrap_or_else(|failure| panic!("{}", failure.message))
}

/// What the model was told of the first call.
async fn told(tools: MCPTools, tool: &str) -> (bool, String) {
    let run = run(tools, &[(tool, r#"{"place": "here"}"#)]).await;
    let first = &run.tools[0];
    (first.tool_call_error == Some(true), first.result.clone().unwrap_or_default())
}

async fn refused(tools: MCPTools) -> Failure {
    caller(tools, &[]).0.run("go").await.unwrap_err()
}

/// Fails a test that hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

const LOOK: (&str, &str) = ("look", r#"{"place": "the sea"}"#);

#[tokio::test]
async fn an_agent_is_offered_what_a_server_lists_and_calls_it() {
    let (desk, site) = (Desk::new(), McpServer::start(&[]).await);
    for tools in [desk.tools(&[]), over_http(&site)] {
        let (agent, asked) = caller(tools, &[LOOK, ("put", r#"{"thing": "a cup"}"#)]);
        let run = agent.run("go").await.unwrap();
        assert_eq!(run.tools[0].result.as_deref(), Some("look: the sea"));
        assert_eq!(run.tools[1].result.as_deref(), Some("put: a cup"));
        let effects = ["look", "put", "pay", "another"].map(|tool| agent.tool_effect(tool).unwrap());
        assert_eq!(effects, [ToolEffect::Read, ToolEffect::Idempotent, ToolEffect::Once, ToolEffect::Once]);
        let asked = asked.lock().unwrap();
        let offered: Vec<_> = asked[0].tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(offered, ["look", "put", "pay"]);
        assert_eq!(asked[0].tools[0].description, "Looks at a place.");
        assert_eq!(asked[0].tools[0].parameters["required"], json!(["place"]));
        assert_eq!(asked[0].tools, asked[1].tools);
    }
    let ledger = read_ledger(&desk.ledger());
    assert_eq!(called(&ledger), ["look", "put"]);
    assert!(ledger[0].ends_with("/agent/t0/0"), "the call's key goes along: {ledger:?}");
    assert_eq!(called(&site.calls()), ["look", "put"]);
}

#[tokio::test]
async fn all_agents_share_one_session_and_it_ends_with_the_last_of_them() {
    let site = McpServer::start(&[]).await;
    let (one, other) = (over_http(&site).include_tools(["look"]), over_http(&site).tool_name_prefix("sea"));
    let kept = one.clone().into_tools();
    run(one, &[LOOK]).await;
    run(other.clone(), &[("sea_look", LOOK.1)]).await;
    run(other.clone(), &[("sea_look", LOOK.1)]).await;
    assert_eq!((site.sessions(), site.open_sessions()), (1, 1));
    drop((kept, other));
    let ended = async {
        while site.open_sessions() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("nobody has its tools any more");
    run(over_http(&site), &[LOOK]).await;
    assert_eq!(site.sessions(), 2);
}

#[tokio::test]
async fn a_session_that_was_forgotten_or_closed_is_opened_again() {
    let site = McpServer::start(&[]).await;
    let tools = over_http(&site);
    let kept = tools.clone().into_tools();
    assert_eq!(told(tools.clone(), "pay").await, (false, "pay: here".to_owned()));
    site.forget_sessions();
    assert_eq!(told(tools, "pay").await, (false, "pay: here".to_owned()));
    assert_eq!((site.sessions(), called(&site.calls())), (2, vec!["pay".to_owned(), "pay".to_owned()]));
    drop(kept);

    // In the call itself: it was not looked at, so it is sent again, whatever it does.
    let forgets = McpServer::start(&[McpFault::Forgets]).await;
    assert_eq!(told(over_http(&forgets), "pay").await, (false, "pay: here".to_owned()));
    assert_eq!((forgets.sessions(), called(&forgets.calls())), (2, vec!["pay".to_owned()]));
}

#[tokio::test]
async fn a_call_whose_server_dies_is_made_again_unless_it_must_not_be() {
    let desk = Desk::new();
    assert_eq!(told(desk.tools(&[McpFault::DiesOnce]), "look").await, (false, "look: here".to_owned()));
    let ledger = read_ledger(&desk.ledger());
    assert_eq!(called(&ledger), ["look", "look"]);
    assert_eq!(ledger[0], ledger[1], "under the same key");

    // Nobody can be asked where an agent runs alone.
    let desk = Desk::new();
    let (agent, _) = caller(desk.tools(&[McpFault::DiesOnce]), &[("pay", r#"{"bill": "42"}"#)]);
    let failure = agent.run("go").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::OutcomeUnknown);
    assert!(
        failure.message.contains("it lost its server before the answer came, and it must not run twice"),
        "{}",
        failure.message
    );
    assert_eq!(desk.called(), ["pay"]);

    // Unless the user knows better.
    let desk = Desk::new();
    let tools = desk.tools(&[McpFault::DiesOnce]).tool_effect("pay", ToolEffect::Idempotent);
    assert_eq!(told(tools, "pay").await, (false, "pay: here".to_owned()));
    assert_eq!(desk.called(), ["pay", "pay"]);

    let site = McpServer::start(&[McpFault::DiesOnce]).await;
    assert_eq!(told(over_http(&site), "put").await, (false, "put: here".to_owned()));
    assert_eq!(called(&site.calls()), ["put", "put"]);
}

#[tokio::test]
async fn a_tool_that_has_vanished_is_an_error_that_the_model_sees() {
    let desk = Desk::new();
    let (agent, _) = caller(desk.tools(&[McpFault::Vanishes]), &[("put", r#"{"thing": "x"}"#), LOOK]);
    // Calls made at once have no order.
    let run = agent.tool_calls_at_once(1).run("go").await.unwrap();
    let told: Vec<_> = run.tools.iter().map(|tool| (tool.tool_call_error, tool.result.as_deref())).collect();
    assert_eq!(told[1], (Some(true), Some("Unknown tool: look")), "{told:?}");
    let run = run_again(&desk).await;
    assert_eq!(run.tools[0].result.as_deref(), Some("there is no tool \"look\"; the tools are: put, pay"));
}

async fn run_again(desk: &Desk) -> RunOutput {
    let (agent, _) = caller(desk.tools(&[McpFault::Vanishes]), &[LOOK]);
    agent.run("go").await.unwrap()
}

#[tokio::test]
async fn progress_is_told_before_the_result() {
    let desk = Desk::new();
    let site = McpServer::start(&[McpFault::Progress]).await;
    for tools in [desk.tools(&[McpFault::Progress]), over_http(&site)] {
        let mut events = Vec::new();
        caller(tools, &[LOOK]).0.run_with("go", |event: RunEvent| events.push(event)).await.unwrap();
        let custom = |event: &RunEvent, name: &str| match &event.kind {
            EventKind::CustomEvent { fields } if fields["name"] == name => Some(fields.clone()),
            _ => None,
        };
        let at = events.iter().position(|event| custom(event, "ToolCallProgress").is_some()).unwrap();
        let fields = custom(&events[at], "ToolCallProgress").unwrap();
        assert_eq!(
            serde_json::Value::Object(fields),
            json!({
                "name": "ToolCallProgress", "tool_call_id": "of-look", "tool_name": "look", "progress": 1.0, "total": 2.0,
                "message": "half of it",
            })
        );
        let completed = events.iter().position(|event| matches!(event.kind, EventKind::ToolCallCompleted(_))).unwrap();
        assert!(at < completed, "{at} {completed}");
        let listed = events.iter().find_map(|event| custom(event, "ToolsListed")).unwrap();
        assert_eq!(listed["servers"][0]["tools"], json!(["look", "put", "pay"]));
        assert_eq!(listed["servers"][0]["hash"].as_str().unwrap().len(), 64);
    }
}

#[tokio::test]
async fn a_call_past_its_limit_and_one_that_is_dropped_are_cancelled() {
    let site = McpServer::start(&[McpFault::HangsOnce]).await;
    let tools = over_http(&site).timeout(Duration::from_millis(300)).tool_effect("pay", ToolEffect::Read);
    let kept = tools.clone().into_tools();
    let (is_error, text) = told(tools, "pay").await;
    assert!(is_error && text.contains("has not answered within 300ms"), "{text}");
    until(|| site.calls().last().is_some_and(|line| line == "cancelled")).await;
    drop(kept);

    let desk = Desk::new();
    let tools = desk.tools(&[McpFault::HangsOnce]);
    let kept = tools.clone().into_tools();
    let (agent, _) = caller(tools, &[LOOK]);
    let running = tokio::spawn(async move { agent.run("go").await });
    until(|| !read_ledger(&desk.ledger()).is_empty()).await;
    running.abort();
    until(|| read_ledger(&desk.ledger()).last().is_some_and(|line| line == "cancelled")).await;
    drop(kept);
}

/// Waits until something outside of this process is so. It fails a test that hangs, and measures nothing.
async fn until(is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("it never is");
}

#[tokio::test]
async fn what_a_server_sends_is_bounded() {
    let (is_error, text) = told(Desk::new().tools(&[McpFault::Floods]), "pay").await;
    assert!(is_error && text == "the server sent a message of more than 8388608 bytes", "{text}");
    let site = McpServer::start(&[McpFault::Floods]).await;
    let (is_error, text) = told(over_http(&site), "pay").await;
    assert!(is_error && text.contains("sent an answer of more than 8388608 bytes"), "{text}");
    let (is_error, text) = told(Desk::new().tools(&[McpFault::Long]), "pay").await;
    assert!(!is_error && text.ends_with("[cut here: the result has 300000 bytes, 262144 are shown]"), "{}", text.len());
    for (fault, problem) in [
        (McpFault::Endless, "lists its tools on more than 64 pages"),
        (McpFault::SamePage, "lists the same page of tools again and again"),
    ] {
        let failure = refused(Desk::new().tools(&[fault])).await;
        assert_eq!(failure.message, format!("agent \"Caller\": the MCP server \"desk\": {problem}"));
        assert!(!failure.retryable);
    }
}

#[tokio::test]
async fn what_a_server_says_wrong_is_told_and_hangs_nobody() {
    let (is_error, text) = told(Desk::new().tools(&[McpFault::Garbage]), "look").await;
    assert_eq!((is_error, text.as_str()), (false, "look: here"));
    let (is_error, text) = told(Desk::new().tools(&[McpFault::Fails]), "look").await;
    assert_eq!((is_error, text.as_str()), (true, "cannot look here"));
    for tools in
        [Desk::new().tools(&[McpFault::WrongShape]), over_http(&McpServer::start(&[McpFault::WrongShape]).await)]
    {
        let (is_error, text) = told(tools.timeout(Duration::from_secs(20)), "look").await;
        assert!(is_error, "{text}");
    }
    let failure = refused(Desk::new().tools(&[McpFault::Refuses])).await;
    assert!(failure.message.contains("\"desk\": refuses a session: closed on Sundays"), "{}", failure.message);
    let failure = refused(Desk::new().tools(&[McpFault::ListFails])).await;
    assert_eq!(failure.message, "agent \"Caller\": the MCP server \"desk\": the list is lost");
}

#[tokio::test]
async fn a_server_that_cannot_be_had_is_a_failure_that_trying_again_may_mend() {
    let exits = refused(Desk::new().tools(&[McpFault::Exits])).await;
    let expected = "the MCP server \"desk\": cannot be spoken to: its program exited with 3: there is no database";
    assert!(exits.message.ends_with(expected), "{}", exits.message);
    let absent = refused(MCPTools::stdio(["/no/such/program"]).name("desk")).await;
    assert!(absent.message.contains("\"desk\": /no/such/program cannot be started: "), "{}", absent.message);
    let nobody = Outbound::default().allow("127.0.0.1:9").unwrap();
    let closed = refused(MCPTools::http("http://127.0.0.1:9/mcp?key=secret").outbound(nobody)).await;
    assert!(closed.message.contains("\"127.0.0.1\": cannot be reached: "), "{}", closed.message);
    for failure in [&exits, &absent, &closed] {
        assert_eq!((failure.kind, failure.retryable), (FailureKind::Unavailable, true), "{}", failure.message);
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
    let locked = McpServer::start(&[McpFault::Locked]).await;
    let failure = refused(over_http(&locked)).await;
    assert_eq!((failure.kind, failure.retryable), (FailureKind::Auth, false), "{}", failure.message);
    let opened = over_http(&locked).header("Authorization", "Bearer letmein");
    assert_eq!(told(opened, "look").await, (false, "look: here".to_owned()));
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let busy = McpServer::start(&[McpFault::Busy]).await;
    assert_eq!(told(over_http(&busy), "look").await, (false, "look: here".to_owned()));
    let busy = McpServer::start(&[McpFault::Busy]).await;
    let (is_error, text) = told(over_http(&busy), "pay").await;
    assert!(is_error && text.contains("answered 503"), "a call that must not run twice is not made again: {text}");
}

#[tokio::test]
async fn tools_are_offered_under_names_that_models_accept() {
    let desk = Desk::new();
    let tools = desk.tools(&[McpFault::OddNames]);
    let (agent, asked) = caller(tools, &[("dotted_name_2", "{}")]);
    let run = agent.run("go").await.unwrap();
    let asked = asked.lock().unwrap();
    let offered: Vec<_> = asked[0].tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(offered, ["look", "put", "pay", "look_2", "dotted_name", "dotted_name_2", "Z_rich"]);
    assert_eq!(run.tools[0].result.as_deref(), Some("dotted/name: "), "the server is called by its own name");
}

#[tokio::test]
async fn a_program_sees_no_variable_but_those_that_are_named() {
    let env = |tools: MCPTools| async move { refused(tools).await.message };
    let script = "env >&2; exit 1";
    let seen = env(MCPTools::stdio(["sh", "-c", script])).await;
    assert!(!seen.contains("CARGO"), "cargo sets some for tests: {seen}");
    let seen = env(MCPTools::stdio(["sh", "-c", script]).env(["CARGO_PKG_NAME"])).await;
    assert!(seen.contains("CARGO_PKG_NAME=outlive-agent"), "{seen}");
    let agent = caller(MCPTools::stdio(["x"]).env(["CARGO_PKG_NAME"]), &[]).0;
    assert!(agent.secrets().iter().any(|secret| secret.expose() == "outlive-agent"));
}

#[test]
fn what_can_be_known_to_be_wrong_is_said_before_a_run() {
    let problems = |tools: MCPTools| caller(tools, &[]).0.problems().join("; ");
    assert_eq!(problems(MCPTools::stdio(["x"])), "");
    let none: [&str; 0] = [];
    let empty = problems(MCPTools::stdio(none).name("e"));
    assert_eq!(empty, "agent \"Caller\": tools of \"e\": its command is empty: name a program");
    assert!(problems(MCPTools::stdio(["x"]).env(["NOBODY_SETS_THIS"])).contains("it needs NOBODY_SETS_THIS"));
    assert!(problems(MCPTools::http("http://127.0.0.1/mcp")).contains("url_not_allowed"));
    assert!(problems(MCPTools::http("nowhere")).contains("its address is not valid"));
    assert!(
        problems(MCPTools::http("https://x.example/").header("A", "${env:NOBODY_SETS_THIS}"))
            .contains("which is not set")
    );
    assert!(
        problems(MCPTools::stdio(["x"]).include_tools(["a"]).exclude_tools(["a"]))
            .contains("both included and excluded")
    );
    let two = caller(MCPTools::stdio(["x"]), &[]).0.tools(MCPTools::stdio(["x"]).include_tools(["a"]));
    assert!(two.problems().join("; ").contains("two servers of tools are named \"x\": rename one"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_ends_with_all_it_has_started_when_nobody_has_its_tools_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new();
    let binary = std::env::current_exe().unwrap();
    let server = mcp_command(&binary, "mcp::serves", &[], &desk.ledger());
    let quoted: Vec<_> = server.iter().map(|word| format!("'{word}'")).collect();
    // It leaves a child that reads nothing, and becomes the server.
    let pid = folder.path().join("pid");
    let script = format!("sleep 1000 & echo $! > '{}'; exec {}", pid.display(), quoted.join(" "));
    let tools = MCPTools::stdio(["sh", "-c", &script]);
    run(tools.clone(), &[LOOK]).await;
    let text = std::fs::read_to_string(&pid).unwrap();
    let child = text.trim().to_owned();
    until(|| is_gone(&child)).await;

    // And when it is idle.
    let idle = tools.idle_timeout(Duration::from_millis(50));
    let kept = idle.clone().into_tools();
    run(idle, &[LOOK]).await;
    let second = std::fs::read_to_string(&pid).unwrap().trim().to_owned();
    assert_ne!(child, second);
    until(|| is_gone(&second)).await;
    drop(kept);
}

/// Whether a process has ended, or is a dead one that nobody has asked about.
#[cfg(target_os = "linux")]
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from("/proc").join(pid).join("stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}
