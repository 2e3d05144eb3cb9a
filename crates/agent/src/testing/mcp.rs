//! MCP servers for tests: one in a process of its own, on standard input and output, and one over streamable HTTP. Both
//! say the same, and do wrong what a test names.
//!
//! Written without the SDK that is tested, so that both cannot have the same fault.

use super::Hosted;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a word in the arguments of a test binary begins with that makes it a server.
const WORD: &str = "serve-mcp:";
/// How a session is named in headers.
const SESSION: &str = "mcp-session-id";

/// What an MCP server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum McpFault {
    /// The first call that it ever notes is not answered.
    HangsOnce,
    /// The first call that it ever notes ends it, or the connection.
    DiesOnce,
    /// Once a call is noted, `look` is neither listed nor known.
    Vanishes,
    /// It says how far it is before each answer.
    Progress,
    /// The answer to a call has 9 MiB.
    Floods,
    /// The answer to a call has 300 KB.
    Long,
    /// It writes what is no JSON, and JSON that is no message, between messages.
    Garbage,
    /// Each page of its listing has another one after it.
    Endless,
    /// Each page of its listing has itself after it.
    SamePage,
    /// It lists the same tool twice, and tools whose names models refuse.
    OddNames,
    /// It refuses to begin.
    Refuses,
    /// It complains and exits at once.
    Exits,
    /// It refuses to list.
    ListFails,
    /// Each call is an error of the tool.
    Fails,
    /// The result of a call is not what the protocol says.
    WrongShape,
    /// It forgets each session with the first call, before it looks at it.
    Forgets,
    /// The first call finds it busy, for a moment.
    Busy,
    /// It wants a credential: `Bearer letmein`.
    Locked,
}

impl McpFault {
    /// All of them.
    pub const ALL: [McpFault; 18] = [
        McpFault::HangsOnce,
        McpFault::DiesOnce,
        McpFault::Vanishes,
        McpFault::Progress,
        McpFault::Floods,
        McpFault::Long,
        McpFault::Garbage,
        McpFault::Endless,
        McpFault::SamePage,
        McpFault::OddNames,
        McpFault::Refuses,
        McpFault::Exits,
        McpFault::ListFails,
        McpFault::Fails,
        McpFault::WrongShape,
        McpFault::Forgets,
        McpFault::Busy,
        McpFault::Locked,
    ];

    fn name(self) -> String {
        format!("{self:?}")
    }
}

/// What a server says and does, whoever asks.
#[derive(Debug, Default)]
struct Script {
    faults: BTreeSet<McpFault>,
    /// Where it notes each call: the tool and the call's key.
    ledger: Option<PathBuf>,
    noted: Vec<String>,
}

/// What comes of a message.
enum Said {
    Message(Value),
    Raw(String),
    /// Nothing more is said about it.
    Hangs,
    Dies,
}

impl Script {
    fn does(&self, fault: McpFault) -> bool {
        self.faults.contains(&fault)
    }

    /// The calls that were ever noted.
    fn calls(&self) -> Vec<String> {
        match &self.ledger {
            Some(path) => read_ledger(path),
            None => self.noted.clone(),
        }
    }

    fn note(&mut self, line: String) {
        if let Some(path) = &self.ledger {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{line}"));
            written.expect("a test's ledger can be written");
        }
        self.noted.push(line);
    }

    fn answer(&mut self, message: &Value) -> Vec<Said> {
        let id = &message["id"];
        let result = |result: Value| vec![Said::Message(json!({ "jsonrpc": "2.0", "id": id, "result": result }))];
        let error = |code: i32, text: &str| {
            vec![Said::Message(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": text } }))]
        };
        let mut said = match message["method"].as_str() {
            Some("initialize") if self.does(McpFault::Refuses) => error(-32000, "closed on Sundays"),
            Some("initialize") => result(json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": { "tools": { "listChanged": true } },
                "serverInfo": { "name": "for tests", "version": "1" },
            })),
            Some("ping") => result(json!({})),
            Some("tools/list") if self.does(McpFault::ListFails) => error(-32603, "the list is lost"),
            Some("tools/list") => result(self.listing(message["params"]["cursor"].as_str())),
            Some("tools/call") => return self.call(message),
            Some("notifications/cancelled") => {
                self.note("cancelled".to_owned());
                Vec::new()
            }
            _ if id.is_null() => Vec::new(),
            _ => error(-32601, "no such method"),
        };
        if self.does(McpFault::Garbage) {
            said.insert(0, Said::Raw("Server is starting up …".to_owned()));
            said.insert(1, Said::Raw(r#"{"jsonrpc":"2.0","id":"x","result":7,"method":[]}"#.to_owned()));
        }
        said
    }

    fn listing(&self, cursor: Option<&str>) -> Value {
        let text = |names: &[&str]| {
            let fields: Value = names
                .iter()
                .map(|name| ((*name).to_owned(), json!({ "type": "string" })))
                .collect::<serde_json::Map<_, _>>()
                .into();
            json!({ "type": "object", "properties": fields, "required": names })
        };
        let mut tools = vec![
            json!({ "name": "look", "description": "Looks at a place.", "inputSchema": text(&["place"]), "annotations": { "readOnlyHint": true } }),
            json!({ "name": "put", "description": "Puts a thing.", "inputSchema": text(&["thing"]), "annotations": { "idempotentHint": true } }),
            json!({ "name": "pay", "description": "Pays a bill.", "inputSchema": text(&["bill"]) }),
        ];
        if self.does(McpFault::Vanishes) && !self.calls().is_empty() {
            tools.remove(0);
        }
        if self.does(McpFault::OddNames) {
            for name in ["look", "dotted.name", "dotted/name", "Zürich"] {
                tools.push(json!({ "name": name, "description": "Odd.", "inputSchema": { "type": "object" } }));
            }
        }
        let mut listing = json!({ "tools": tools });
        if self.does(McpFault::Endless) {
            let page = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0u32);
            listing = json!({ "tools": [], "nextCursor": (page + 1).to_string() });
        } else if self.does(McpFault::SamePage) {
            listing["nextCursor"] = json!("again");
        }
        listing
    }

    fn call(&mut self, message: &Value) -> Vec<Said> {
        let (id, params) = (&message["id"], &message["params"]);
        let tool = params["name"].as_str().unwrap_or_default();
        let is_first = self.calls().is_empty();
        let key = params["_meta"]["idempotencyKey"].as_str().unwrap_or("no key");
        if self.does(McpFault::Vanishes) && tool == "look" && !is_first {
            let text = "Unknown tool: look";
            return vec![Said::Message(
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32602, "message": text } }),
            )];
        }
        self.note(format!("{tool} {key}"));
        if is_first && self.does(McpFault::HangsOnce) {
            return vec![Said::Hangs];
        }
        if is_first && self.does(McpFault::DiesOnce) {
            return vec![Said::Dies];
        }
        let argument = params["arguments"].as_object().and_then(|fields| fields.values().next()).cloned();
        let argument = argument.as_ref().and_then(Value::as_str).unwrap_or_default();
        let text = match () {
            () if self.does(McpFault::Floods) => "x".repeat(9 << 20),
            () if self.does(McpFault::Long) => "x".repeat(300_000),
            () if self.does(McpFault::Fails) => format!("cannot {tool} {argument}"),
            () => format!("{tool}: {argument}"),
        };
        let result = match self.does(McpFault::WrongShape) {
            true => json!([1, 2]),
            false => json!({ "content": [{ "type": "text", "text": text }], "isError": self.does(McpFault::Fails) }),
        };
        let mut said = Vec::new();
        if self.does(McpFault::Progress) {
            let token = &params["_meta"]["progressToken"];
            let params = json!({ "progressToken": token, "progress": 1, "total": 2, "message": "half of it" });
            said.push(Said::Message(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })));
        }
        said.push(Said::Message(json!({ "jsonrpc": "2.0", "id": id, "result": result })));
        said
    }
}

/// What stands in a ledger: each call's tool and key.
pub fn read_ledger(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The command that makes a test binary a server: `test` is a test of it that calls [`serve_mcp_if_asked`]. What was
/// noted in `ledger` is remembered from process to process.
pub fn mcp_command(binary: &Path, test: &str, faults: &[McpFault], ledger: &Path) -> Vec<String> {
    let faults: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
    let word = format!("{WORD}{}:{}", faults.join(","), ledger.display());
    vec![binary.display().to_string(), "--exact".into(), test.into(), "--nocapture".into(), word]
}

/// Serves on standard input and output until that is closed, if an argument of this process says so.
pub fn serve_mcp_if_asked() {
    let Some(word) = std::env::args().find_map(|word| word.strip_prefix(WORD).map(str::to_owned)) else { return };
    let (names, ledger) = word.split_once(':').expect("faults and a ledger");
    let faults = McpFault::ALL.into_iter().filter(|fault| names.split(',').any(|name| name == fault.name())).collect();
    let mut script = Script { faults, ledger: Some(ledger.into()), noted: Vec::new() };
    if script.does(McpFault::Exits) {
        let _ = writeln!(std::io::stderr(), "there is no database");
        std::process::exit(3);
    }
    for line in std::io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str(&line.unwrap_or_default()) else { continue };
        for said in script.answer(&message) {
            let mut out = std::io::stdout().lock();
            let _ = match said {
                Said::Message(message) => writeln!(out, "{message}"),
                Said::Raw(text) => writeln!(out, "{text}"),
                Said::Hangs => Ok(()),
                Said::Dies => std::process::exit(1),
            };
            let _ = out.flush();
        }
    }
    std::process::exit(0);
}

/// An MCP server over streamable HTTP at a free port of the loopback interface.
#[derive(Debug)]
pub struct McpServer {
    hosted: Hosted,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    script: Script,
    sessions: BTreeSet<String>,
    /// How many there ever were.
    opened: u32,
    was_busy: bool,
}

impl McpServer {
    /// A server with these faults.
    pub async fn start(faults: &[McpFault]) -> Self {
        let script = Script { faults: faults.iter().copied().collect(), ..Script::default() };
        let shared = Arc::new(Mutex::new(Shared { script, ..Shared::default() }));
        let router = Router::new().fallback(answer).with_state(shared.clone());
        Self { hosted: Hosted::on_loopback(router), shared }
    }

    /// Its endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.hosted.address)
    }

    /// Host and port, to be opened in an outbound policy.
    pub fn host(&self) -> String {
        self.hosted.address.to_string()
    }

    /// What it has noted: each call's tool and key, and `cancelled`.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.shared).script.calls()
    }

    /// How many sessions were opened.
    pub fn sessions(&self) -> u32 {
        lock(&self.shared).opened
    }

    /// How many of them were not ended by their client.
    pub fn open_sessions(&self) -> usize {
        lock(&self.shared).sessions.len()
    }

    /// Forgets all sessions, as a server does that was started again.
    pub fn forget_sessions(&self) {
        lock(&self.shared).sessions.clear();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    method: Method,
    headers: HeaderMap,
    body: String,
) -> Response<Body> {
    let said = match respond(&mut lock(&shared), &method, &headers, &body) {
        Ok(response) => return response,
        Err(said) => said,
    };
    if said.iter().any(|said| matches!(said, Said::Hangs)) {
        std::future::pending::<()>().await;
    }
    if said.iter().any(|said| matches!(said, Said::Dies)) {
        let broken =
            futures::stream::iter([Ok("event: message\n".to_owned()), Err(std::io::Error::other("broken off"))]);
        return status(200, &[(CONTENT_TYPE, "text/event-stream")], Body::from_stream(broken));
    }
    let event = |said: &Said| match said {
        Said::Message(message) => format!("event: message\ndata: {message}\n\n"),
        Said::Raw(text) => format!("event: message\ndata: {text}\n\n"),
        Said::Hangs | Said::Dies => String::new(),
    };
    match said.as_slice() {
        [] => status(202, &[], Body::empty()),
        [Said::Message(message)] => status(200, &[(CONTENT_TYPE, "application/json")], Body::from(message.to_string())),
        all => {
            status(200, &[(CONTENT_TYPE, "text/event-stream")], Body::from(all.iter().map(event).collect::<String>()))
        }
    }
}

/// The whole answer, or what the script says.
fn respond(shared: &mut Shared, method: &Method, headers: &HeaderMap, body: &str) -> Result<Response<Body>, Vec<Said>> {
    let refuse = |code: u16| Ok(status(code, &[], Body::empty()));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if shared.script.does(McpFault::Locked) && header(AUTHORIZATION.as_str()) != "Bearer letmein" {
        return Ok(status(401, &[(axum::http::header::WWW_AUTHENTICATE, "Bearer")], Body::empty()));
    }
    if method == Method::DELETE {
        shared.sessions.remove(header(SESSION));
        return refuse(200);
    }
    let accepts = header(ACCEPT.as_str());
    if method != Method::POST || !accepts.contains("application/json") || !accepts.contains("text/event-stream") {
        return refuse(405);
    }
    let Ok(message) = serde_json::from_str::<Value>(body) else { return refuse(400) };
    if message["method"] == "initialize" {
        shared.opened += 1;
        let id = format!("session-{}", shared.opened);
        shared.sessions.insert(id.clone());
        let Some(Said::Message(said)) = shared.script.answer(&message).pop() else { return refuse(500) };
        let mut response = status(200, &[(CONTENT_TYPE, "application/json")], Body::from(said.to_string()));
        response.headers_mut().insert(SESSION, id.parse().expect("a header value"));
        return Ok(response);
    }
    if !shared.sessions.contains(header(SESSION)) {
        return refuse(404);
    }
    if message["method"] == "tools/call" {
        if shared.script.does(McpFault::Forgets) && shared.opened == 1 {
            shared.sessions.clear();
            return refuse(404);
        }
        if shared.script.does(McpFault::Busy) && !std::mem::replace(&mut shared.was_busy, true) {
            return Ok(status(503, &[(RETRY_AFTER, "0")], Body::empty()));
        }
    }
    Err(shared.script.answer(&message))
}

fn status(code: u16, headers: &[(axum::http::HeaderName, &str)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        response.headers_mut().insert(name.clone(), value.parse().expect("a header value"));
    }
    response
}
