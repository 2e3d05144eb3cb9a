//! Calls that are declared instead of programmed: of programs of this machine, and over HTTP.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test the same way")]

use outlive_agent::outbound::Outbound;
use outlive_agent::tool::{Call, HttpCall, Tool, ToolContext, ToolError};
use outlive_core::port::SessionState;
use outlive_core::{Failure, FailureKind, RunId, ToolEffect};
use serde_json::{Map, Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

fn fields(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn context() -> ToolContext {
    ToolContext::new("key-1", RunId::parse("run-1").unwrap(), SessionState::default())
}

#[cfg(unix)]
mod commands {
    use super::*;
    use outlive_agent::tool::CommandCall;

    async fn run(argv: &[&str], arguments: Value) -> Result<String, Failure> {
        CommandCall::new(argv).call(&fields(&arguments), &arguments, "key-1", "run-1").await
    }

    #[tokio::test]
    async fn an_argument_stays_one_argument_whatever_is_in_it() {
        let said =
            run(&["printf", "<%s>", "{a}", "x{b}y", "{left_out}"], json!({ "a": "1; rm -rf /", "b": "$(id) 'q'" }));
        assert_eq!(said.await.unwrap(), "<1; rm -rf /><x$(id) 'q'y>");
    }

    #[tokio::test]
    async fn an_argument_is_no_option_unless_options_have_ended() {
        let refused = run(&["ls", "{path}"], json!({ "path": "-la" })).await.unwrap_err();
        assert!(refused.message.contains("may not begin with `-`"), "{}", refused.message);
        assert_eq!(run(&["echo", "--", "{text}"], json!({ "text": "-n" })).await.unwrap(), "-- -n");
        assert_eq!(run(&["echo", "--x={text}"], json!({ "text": "-n" })).await.unwrap(), "--x=-n");
        assert!(run(&["echo", "{text}"], json!({ "text": "a\u{0}b" })).await.is_err());
    }

    #[tokio::test]
    async fn it_reads_json_and_is_given_the_key_and_no_other_variable() {
        assert_eq!(run(&["cat"], json!({ "a": [1] })).await.unwrap(), r#"{"a":[1]}"#);
        let environment = run(&["env"], json!({})).await.unwrap();
        assert!(environment.contains("OUTLIVE_IDEMPOTENCY_KEY=key-1\n"), "{environment}");
        assert!(environment.contains("PATH="), "{environment}");
        assert!(!environment.contains("CARGO"), "cargo sets some for tests: {environment}");
        let call = CommandCall::new(["env"]).env(["CARGO_PKG_NAME"]);
        let environment = call.call(&Map::new(), &json!({}), "k", "r").await.unwrap();
        assert!(environment.contains("CARGO_PKG_NAME=outlive-agent"), "{environment}");
        assert_eq!(call.secrets()[0].expose(), "outlive-agent");
        assert_eq!(CommandCall::new(["env"]).env(["NOBODY_SETS_THIS"]).problems().len(), 1);
    }

    #[tokio::test]
    async fn it_does_not_wait_for_a_program_that_reads_nothing() {
        let long = json!({ "text": "x".repeat(1 << 20) });
        assert_eq!(run(&["true"], long).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_failure_tells_what_the_program_complains_about() {
        let failed = run(&["sh", "-c", "echo it hurts >&2; exit 3"], json!({})).await.unwrap_err();
        assert_eq!((failed.kind, failed.message.as_str()), (FailureKind::Function, "sh exited with 3: it hurts"));
        let busy = run(&["sh", "-c", "exit 75"], json!({})).await.unwrap_err();
        assert_eq!(busy.kind, FailureKind::Unavailable, "another try may help");
        let absent = run(&["/no/such/program"], json!({})).await.unwrap_err();
        assert!(absent.message.contains("cannot be started"), "{}", absent.message);
    }

    #[tokio::test]
    async fn a_flood_is_stopped_and_a_flood_of_complaints_is_cut() {
        let flood = run(&["yes"], json!({})).await.unwrap_err();
        assert_eq!(flood.kind, FailureKind::Limit);
        let complains = run(&["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1"], json!({})).await;
        assert!(complains.unwrap_err().message.len() < 2_000);
    }

    /// Whether a process that holds this lock file open is alive: the shell that waits on it ends with its group.
    fn is_alive(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_it_has_started_ends_with_it() {
        let folder = std::env::temp_dir().join(format!("outlive-calls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("pid");
        // A grandchild that ignores signals and holds the output open.
        let script = format!(
            "(trap '' TERM HUP; echo $BASHPID > {0}; exec sleep 600) & while [ ! -s {0} ]; do :; done; echo done",
            file.display()
        );
        let said = run(&["bash", "-c", &script], json!({})).await.unwrap();
        assert_eq!(said, "done");
        let pid = std::fs::read_to_string(&file).unwrap();
        while is_alive(&pid) {
            tokio::task::yield_now().await;
        }

        // One whose call is dropped.
        std::fs::remove_file(&file).unwrap();
        let script = format!("echo $$ > {}; trap '' TERM; sleep 600; sleep 600", file.display());
        let call = CommandCall::new(["bash", "-c", &script]);
        let (arguments, input) = (Map::new(), json!({}));
        {
            let mut made = Box::pin(call.call(&arguments, &input, "k", "r"));
            while std::fs::read_to_string(&file).unwrap_or_default().is_empty() {
                tokio::select! {
                    biased;
                    ended = &mut made => panic!("{ended:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
        }
        let pid = std::fs::read_to_string(&file).unwrap();
        while is_alive(&pid) {
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn it_does_not_wait_for_what_has_left_its_group() {
        let script = "setsid sleep 30 & echo $!; echo done";
        let said = run(&["sh", "-c", script], json!({ "text": "x".repeat(1 << 20) })).await.unwrap();
        let (pid, rest) = said.split_once('\n').unwrap();
        assert_eq!(rest, "done");
        // Only it could have ended it.
        let _ = std::process::Command::new("kill").arg(pid).status();
    }

    #[test]
    fn a_command_without_a_program_is_no_command() {
        for argv in [&[][..], &[""], &[" ", "x"]] {
            assert_eq!(CommandCall::new(argv).problems(), ["its command is empty: name a program"], "{argv:?}");
        }
    }

    #[tokio::test]
    async fn as_a_tool_it_takes_only_what_its_schema_lets_pass() {
        let schema = json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } });
        let tool = Tool::calling("count", "Counts.", schema, Call::Command(CommandCall::new(["echo", "{n}"])));
        let tool = tool.effect(ToolEffect::Once);
        assert_eq!(tool.call(json!({ "n": "3" }), context()).await.unwrap(), "3");
        let refused = tool.call(json!({ "n": 3, "m": 4 }), context()).await.unwrap_err();
        assert!(matches!(&refused, ToolError::Arguments(said) if said.contains("\"m\"")), "{refused:?}");
    }
}

/// Answers one request with this, and tells what it was asked.
fn serve(answer: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = vec![0; 64 << 10];
            let count = stream.read(&mut asked).unwrap();
            let _ = stream.write_all(answer.as_bytes());
            if tell.send(String::from_utf8_lossy(&asked[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n{\"a\":1}";

#[tokio::test]
async fn arguments_go_into_the_path_and_the_query_and_the_key_along() {
    let (address, told) = serve(FINE);
    let outbound = Outbound::default().allow(&address).unwrap();
    let call = HttpCall::new("GET", format!("http://{address}/of/{{city}}?unit=c"));
    let call = call.outbound(outbound).header("X-Package", "${env:CARGO_PKG_NAME}");
    let arguments = json!({ "city": "Saint/../é?x=1#f", "days": 3 });
    assert_eq!(call.call(&fields(&arguments), &arguments, "key-1").await.unwrap(), r#"{"a":1}"#);
    let asked = told.recv().unwrap();
    let line = asked.lines().next().unwrap();
    assert_eq!(line, "GET /of/Saint%2F..%2F%C3%A9%3Fx%3D1%23f?unit=c&days=3 HTTP/1.1");
    assert!(asked.contains("idempotency-key: key-1\r\n") && asked.contains("x-package: outlive-agent\r\n"), "{asked}");
    assert_eq!(call.secrets()[0].expose(), "outlive-agent");
}

#[tokio::test]
async fn a_body_is_the_arguments_and_a_refusal_is_told() {
    let (address, told) =
        serve("HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlater");
    let outbound = Outbound::default().allow(&address).unwrap();
    let call = HttpCall::new("POST", format!("http://{address}/mail")).outbound(outbound);
    let arguments = json!({ "to": "ada" });
    let refused = call.call(&fields(&arguments), &arguments, "key-1").await.unwrap_err();
    assert!(told.recv().unwrap().ends_with(r#"{"to":"ada"}"#));
    assert_eq!((refused.kind, refused.retry_after_ms), (FailureKind::Unavailable, Some(7_000)));
    assert_eq!(refused.message, "127.0.0.1 answered 503: later");
}

#[tokio::test]
async fn addresses_are_checked_and_no_argument_chooses_the_host() {
    let refused = |url: &str| HttpCall::new("GET", url).problems();
    for url in [
        "http://169.254.169.254/latest",
        "https://127.0.0.1/",
        "https://localhost/",
        "file:///etc/passwd",
        "https://{host}/x",
        "{url}",
        "https://api.{zone}.example.org/x",
        "https://0x7f.1/",
        "https:///{host}/api.example.org",
        "https:\\/{host}/api.example.org",
        "https:/\n/{host}/x",
        "https://api.example.org:{port}/",
        "https://api.example.org{rest}",
        "no address",
    ] {
        assert_eq!(refused(url).len(), 1, "{url}: {:?}", refused(url));
    }
    assert!(refused("https://api.example.org/{path}").is_empty());
    for (url, arguments) in [
        ("https://api.example.org/a/{x}/b", json!({ "x": ".." })),
        ("https://api.example.org/a/{x}{y}/b", json!({ "x": ".", "y": "." })),
        ("https://api.example.org/a/.{x}/b", json!({ "x": "." })),
        ("https://api.example.org/a/%2e{x}/b", json!({ "x": "." })),
        ("https://api.example.org/a/{x}", json!({ "x": "." })),
    ] {
        let dots = HttpCall::new("GET", url).call(&fields(&arguments), &json!({}), "k").await.unwrap_err();
        assert!(dots.message.contains("may not consist of dots"), "{url}: {}", dots.message);
    }
    for (arguments, guilty) in [
        (json!({ "a": "..", "b": "x" }), r#"argument "a" would"#),
        (json!({ "a": "x", "b": "" }), r#"argument "b" would"#),
        (json!({ "a": "", "b": ".." }), r#"argument "a, b" would"#),
    ] {
        let call = HttpCall::new("GET", "https://api.example.org/{a}/x/{b}?c={c}");
        let elsewhere = call.call(&fields(&arguments), &json!({}), "k").await.unwrap_err();
        assert!(elsewhere.message.contains(guilty), "{guilty}: {}", elsewhere.message);
    }
    let all = HttpCall::new("DELETE", "https://api.example.org/users/{id}");
    for id in [json!({ "id": "" }), json!({ "id": null }), json!({})] {
        let all = all.call(&fields(&id), &json!({}), "k").await.unwrap_err();
        assert!(all.message.contains("may not be empty"), "{}", all.message);
    }
    let unset = HttpCall::new("GET", "https://api.example.org/").header("X-Key", "${env:NOBODY_SETS_THIS}");
    assert_eq!(unset.problems(), ["it needs NOBODY_SETS_THIS, which is not set"]);
}

#[tokio::test]
async fn dots_are_fine_in_a_query_and_a_mark_before_an_answer_is_nobodys() {
    let (address, told) = serve("HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n\u{feff}{\"a\":1}");
    let outbound = Outbound::default().allow(&address).unwrap();
    let call = HttpCall::new("GET", format!("http://{address}/find?q={{q}}&r={{r}}")).outbound(outbound);
    let arguments = json!({ "q": "..", "r": "" });
    assert_eq!(call.call(&fields(&arguments), &arguments, "k").await.unwrap(), r#"{"a":1}"#);
    assert!(told.recv().unwrap().starts_with("GET /find?q=..&r= HTTP/1.1"));
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_not_asked_again() {
    struct Home;
    impl reqwest::dns::Resolve for Home {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Ok(Box::new(["10.0.0.1:0".parse().unwrap()].into_iter()) as _) })
        }
    }
    let outbound = Outbound::default().names(std::sync::Arc::new(Home));
    let call = HttpCall::new("GET", "https://api.example.org/").outbound(outbound);
    let refused = call.call(&Map::new(), &json!({}), "k").await.unwrap_err();
    assert_eq!((refused.kind, refused.retryable), (FailureKind::BadRequest, false), "{}", refused.message);
}

#[tokio::test]
async fn an_endless_answer_and_a_redirection_are_not_followed() {
    let (address, _told) =
        serve("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n");
    let outbound = Outbound::default().allow(&address).unwrap();
    let call = HttpCall::new("GET", format!("http://{address}/")).outbound(outbound);
    let sent_on = call.call(&Map::new(), &json!({}), "k").await.unwrap_err();
    assert_eq!(sent_on.message, "127.0.0.1 answered 302: it sends on to 169.254.169.254, and no call follows");
    let (address, _told) = serve("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nx");
    let outbound = Outbound::default().allow(&address).unwrap();
    let call = HttpCall::new("GET", format!("http://{address}/")).outbound(outbound);
    assert!(call.call(&Map::new(), &json!({}), "k").await.is_err());
}

#[tokio::test]
async fn what_was_sent_and_lost_is_told_apart_from_what_never_left() {
    let pay = |address: &str| {
        let outbound = Outbound::default().allow(address).unwrap();
        HttpCall::new("POST", format!("http://{address}/pay")).outbound(outbound)
    };
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\npai"] {
        let (address, _told) = serve(answer);
        let lost = pay(&address).call(&Map::new(), &json!({}), "k").await.unwrap_err();
        assert_eq!(lost.kind, FailureKind::Truncated, "{}", lost.message);
        let tool = Tool::calling("pay", "Pays.", json!({}), Call::Http(pay(&address))).effect(ToolEffect::Once);
        match tool.call(json!({}), context()).await {
            Err(ToolError::OutcomeUnknown(what)) => {
                assert!(what.starts_with("lost its connection: 127.0.0.1 broke off"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let never = pay(&nobody).call(&Map::new(), &json!({}), "k").await.unwrap_err();
    assert_eq!(never.kind, FailureKind::Unavailable, "{}", never.message);
}
