//! What comes of each quirk of a server, on both endpoints: an agent with two tools is asked, and what it did is compared.

use outlive_agent::model::{Claude, Gemini, IntoModel, OpenAIChat, OpenAIResponses, SharedModel};
use outlive_agent::testing::{OpenAiServer, Quirk};
use outlive_agent::tool::{Tool, ToolContext};
use outlive_agent::{Agent, testing::Exchange};
use outlive_core::{EventKind, Failure, FinishReason, Retry, RunEvent, RunOutput};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Arguments with a default, which makes lost ones visible.
#[derive(Deserialize, JsonSchema)]
struct Order {
    #[serde(default = "ten")]
    num: u32,
}

fn ten() -> u32 {
    10
}

type Orders = Arc<Mutex<Vec<(&'static str, u32)>>>;

fn tool(name: &'static str, orders: &Orders) -> Tool {
    let orders = orders.clone();
    Tool::new(name, "Trades shares.", move |order: Order, _: ToolContext| {
        orders.lock().expect("no test panics inside").push((name, order.num));
        async { Ok::<_, Failure>("done") }
    })
}

/// What came of one run.
struct Outcome {
    result: Result<RunOutput, Failure>,
    orders: Vec<(&'static str, u32)>,
    /// Requests of the first turn, which is the one with the quirk.
    attempts: usize,
    log: Vec<Exchange>,
    events: Vec<RunEvent>,
    streamed: String,
}

const TRADE: &str = r#"REPLY=traded TOOL=buy:{"num":1} ALSO=sell:{"num":2}"#;

async fn asked(quirk: &str, words: &str, model: impl Fn(&str) -> SharedModel) -> Outcome {
    let server = OpenAiServer::start().await;
    let orders = Orders::default();
    let agent = Agent::new("Trader")
        // What is refused for a while counts as an attempt here.
        .rate_limit_budget(Duration::ZERO)
        .model(model(&server.url()))
        .tools([tool("buy", &orders), tool("sell", &orders)])
        .retry(Retry::times(3).backoff(Duration::from_millis(1)));
    let mut events = Vec::new();
    let result = agent.run_with(format!("{words} QUIRK={quirk}"), |event| events.push(event)).await;
    let log = server.log();
    let has_results = |exchange: &&Exchange| {
        let sent = exchange.request.to_string();
        ["function_call_output", r#""role":"tool""#, "tool_result", "functionResponse"]
            .iter()
            .any(|word| sent.contains(word))
    };
    let streamed = events.iter().filter_map(|event| match &event.kind {
        EventKind::RunContent(delta) => delta.content.clone(),
        _ => None,
    });
    let mut orders = orders.lock().expect("no test panics inside").clone();
    orders.sort_unstable();
    Outcome {
        attempts: log.len() - log.iter().filter(has_results).count(),
        streamed: streamed.collect(),
        result,
        orders,
        log,
        events,
    }
}

fn chat(url: &str) -> SharedModel {
    OpenAIChat::new("local").base_url(url).api_key("").into_model().expect("a model")
}

fn responses(url: &str) -> SharedModel {
    OpenAIResponses::new("local").base_url(url).api_key("").into_model().expect("a model")
}

fn claude(url: &str) -> SharedModel {
    Claude::new("local").base_url(url).api_key("").into_model().expect("a model")
}

fn gemini(url: &str) -> SharedModel {
    let root = url.trim_end_matches("/v1");
    Gemini::new("local").base_url(root).api_key("").into_model().expect("a model")
}

const ENDPOINTS: [fn(&str) -> SharedModel; 4] = [chat, responses, claude, gemini];

/// Quirks that a format has no room for: its server answers as any other.
const NO_ROOM: [(Quirk, &str); 9] = [
    (Quirk::ChangingIds, "Anthropic Messages"),
    (Quirk::ThinkTags, "Anthropic Messages"),
    (Quirk::OneIndex, "Google Gemini"),
    (Quirk::ChangingIds, "Google Gemini"),
    (Quirk::ArgumentsAtTheEnd, "Google Gemini"),
    (Quirk::ThinkTags, "Google Gemini"),
    (Quirk::TextAtTheEnd, "Google Gemini"),
    (Quirk::BareEvents, "Google Gemini"),
    // A part of an answer is a whole call.
    (Quirk::NamelessCall, "Google Gemini"),
];

/// What is expected of a quirk.
enum Expected {
    /// The run has this content, after this many attempts, and told it as it came.
    Says(&'static str),
    /// Both calls were made as they were meant, once.
    Trades,
    /// Whatever was asked again, no call was made.
    NoTrade,
    /// The run has this content and says that its answer was cut.
    Cut(FinishReason),
    /// Every attempt failed, with these words.
    AskedAgain(&'static str),
    /// One attempt, and these words.
    Fails(&'static str),
}

#[tokio::test]
async fn every_quirk_is_put_right_or_asked_again_and_nothing_is_made_up() {
    use Expected::*;
    let hello = "REPLY=Hello-there NOTOOL=1";
    for quirk in Quirk::ALL {
        let (words, expected) = match quirk {
            Quirk::OneIndex | Quirk::RepeatedCalls | Quirk::ChangingIds | Quirk::ArgumentsAtTheEnd | Quirk::Signed => {
                (TRADE, Trades)
            }
            Quirk::LostArguments => (TRADE, AskedAgain("a call of the tool buy without its arguments")),
            Quirk::NamelessCall => (TRADE, AskedAgain("arguments of a tool call that was never begun")),
            Quirk::CutCall => (r#"REPLY=traded TOOL=buy:{"num":1}"#, NoTrade),
            Quirk::EmptyReason => (hello, AskedAgain("broke off its answer before the end")),
            Quirk::FailureReason | Quirk::FailureBeside => (hello, AskedAgain("network_error")),
            Quirk::UnknownReason => (hello, AskedAgain("banana")),
            Quirk::ErrorEvent => (hello, AskedAgain("CUDA out of memory")),
            Quirk::Length => (hello, Cut(FinishReason::Length)),
            Quirk::ContentFilter => (hello, Cut(FinishReason::ContentFilter)),
            Quirk::Cancelled => (hello, Cut(FinishReason::Cancelled)),
            Quirk::AllReasoning => (hello, Fails("Hello-there")),
            Quirk::Parts
            | Quirk::ThinkTags
            | Quirk::TextAtTheEnd
            | Quirk::ByteOrderMark
            | Quirk::CarriageReturns
            | Quirk::Keepalives
            | Quirk::NoBlankLine
            | Quirk::BareEvents => (hello, Says("Hello-there")),
            Quirk::Halves => (hello, Says("Hello-there 😀")),
            Quirk::ErrorList => (hello, AskedAgain("answered 429: Quota of the tier exceeded")),
            Quirk::Page => {
                (hello, Fails("sent a web page instead of an answer; is the base URL right?: Sign in to continue"))
            }
            Quirk::Moved => (hello, Fails("/v2/elsewhere, which is not followed")),
        };
        for model in ENDPOINTS {
            if NO_ROOM.contains(&(*quirk, &model("http://127.0.0.1:1").endpoint())) {
                continue;
            }
            let outcome = asked(quirk.name(), words, model).await;
            let what = format!("{quirk:?} {} {:?}", outcome.log[0].path, outcome.result);
            let is_cut = outcome.result.as_ref().ok().and_then(|run| run.finish_reason);
            let content = outcome.result.as_ref().ok().and_then(|run| run.content.clone());
            let failure = outcome.result.as_ref().err().map(|failure| failure.message.clone()).unwrap_or_default();
            match expected {
                Says(text) => {
                    assert_eq!((content, outcome.attempts), (Some(json!(text)), 1), "{what}");
                    assert_eq!((outcome.streamed.as_str(), is_cut), (text, None), "{what}");
                }
                Trades => {
                    assert_eq!(outcome.orders, [("buy", 1), ("sell", 2)], "{what}");
                    assert_eq!((content, outcome.attempts), (Some(json!("traded")), 1), "{what}");
                }
                NoTrade => {
                    assert_eq!((content, outcome.orders.len()), (Some(json!("traded")), 0), "{what}");
                    let told = outcome.log[1].request.to_string();
                    assert!(told.contains("not executed: the answer was cut at its token limit"), "{told}");
                }
                Cut(reason) => {
                    assert_eq!((content, is_cut), (Some(json!("Hello-there")), Some(reason)), "{what}");
                    let told = outcome.events.iter().find_map(|event| match &event.kind {
                        EventKind::ModelRequestCompleted(done) => done.finish_reason,
                        _ => None,
                    });
                    assert_eq!(told, Some(reason), "{what}");
                }
                AskedAgain(words) => {
                    assert_eq!((outcome.attempts, outcome.orders.len()), (4, 0), "{what}");
                    assert!(failure.contains(words), "{what}");
                    assert!(!failure.contains("hidden"), "{what}");
                }
                Fails(words) => {
                    assert_eq!((outcome.attempts, outcome.orders.len()), (1, 0), "{what}");
                    assert!(failure.contains(words) && !failure.contains("hidden"), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_malformed_once_is_asked_again_and_then_done() {
    for quirk in ["lost-arguments:1", "nameless-call:2", "empty-reason:1", "error-event:1"] {
        // Each of them is put right in the next answer, whatever the format makes of it.
        for model in ENDPOINTS {
            let outcome = asked(quirk, TRADE, model).await;
            assert_eq!(outcome.orders, [("buy", 1), ("sell", 2)], "{quirk} {:?}", outcome.result);
        }
    }
}

#[tokio::test]
async fn of_two_calls_only_the_one_that_was_cut_is_not_made() {
    for model in ENDPOINTS {
        let outcome = asked("cut-call", TRADE, model).await;
        assert_eq!(outcome.orders, [("buy", 1)], "{:?}", outcome.result);
    }
}

#[tokio::test]
async fn what_a_server_wants_back_goes_back_in_the_same_loop_and_only_to_its_model() {
    let outcome = asked("signed", TRADE, chat).await;
    let turn = &outcome.log[1].request["messages"][1];
    assert_eq!(turn["content"], Value::Null);
    assert_eq!(turn["reasoning_content"], json!("I must buy."));
    let detail = json!({"type": "reasoning.text", "index": 0, "text": "I must buy.", "format": "x"});
    assert_eq!(turn["reasoning_details"], json!([detail]));
    for (at, call) in turn["tool_calls"].as_array().expect("calls").iter().enumerate() {
        assert_eq!(call["extra_content"], json!({"google": {"thought_signature": format!("signature-{at}")}}));
    }
    let outcome = asked("signed", TRADE, claude).await;
    let turn = &outcome.log[1].request["messages"][1]["content"];
    assert_eq!(turn[0], json!({"type": "thinking", "thinking": "I must buy.", "signature": "signed-thought"}));
    assert_eq!((&turn[1]["name"], &turn[1]["input"]), (&json!("buy"), &json!({"num": 1})));
    let outcome = asked("signed", TRADE, gemini).await;
    let turn = &outcome.log[1].request["contents"][1]["parts"];
    let call = |name: &str, num: u32| json!({"name": name, "args": {"num": num}});
    assert_eq!(turn[0], json!({"functionCall": call("buy", 1), "thoughtSignature": "signed-thought"}));
    assert_eq!(turn[1], json!({"functionCall": call("sell", 2)}));
    let outcome = asked("signed", TRADE, responses).await;
    let input = &outcome.log[1].request["input"];
    assert_eq!(input[1]["encrypted_content"], json!("opaque"));
    assert_eq!(input[2]["extra_content"], json!({"google": {"thought_signature": "signature-0"}}));
    assert_eq!(input[3]["extra_content"], json!({"google": {"thought_signature": "signature-1"}}));
}

#[tokio::test]
async fn thinking_is_told_apart_and_kept() {
    for (quirk, endpoints) in [("parts", &ENDPOINTS[..]), ("think-tags", &ENDPOINTS[..2])] {
        for model in endpoints {
            let outcome = asked(quirk, "REPLY=Hello NOTOOL=1", *model).await;
            let run = outcome.result.unwrap_or_else(|failure| panic!("{quirk}: {failure:?}"));
            assert_eq!(run.reasoning_content.as_deref().map(str::trim), Some("Let me see."), "{quirk}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_all_reasoning_is_an_answer_by_choice() {
    let by_choice: [fn(&str) -> SharedModel; 3] = [
        |url| Claude::new("x").base_url(url).api_key("").reasoning_as_answer().into_model().expect("a model"),
        |url| OpenAIChat::new("x").base_url(url).api_key("").reasoning_as_answer().into_model().expect("a model"),
        |url| OpenAIResponses::new("x").base_url(url).api_key("").reasoning_as_answer().into_model().expect("a model"),
    ];
    for model in by_choice {
        let outcome = asked("all-reasoning", "REPLY=Hello NOTOOL=1", model).await;
        assert_eq!(outcome.result.map(|run| run.content).ok(), Some(Some(json!("Hello"))));
    }
    for model in ENDPOINTS {
        let outcome = asked("all-reasoning", "REPLY=Hello NOTOOL=1", model).await;
        let thoughts = outcome.events.iter().filter_map(|event| match &event.kind {
            EventKind::RunContent(delta) => Some(delta.reasoning_content.as_str()),
            _ => None,
        });
        assert_eq!(thoughts.collect::<String>(), "Hello");
        assert!(outcome.result.is_err_and(|failure| failure.message.contains(".reasoning_as_answer()")));
    }
}

#[tokio::test]
async fn a_wait_in_the_body_of_an_error_is_obeyed() {
    let outcome = asked("error-list:1", "REPLY=Hello NOTOOL=1", chat).await;
    let retrying = outcome.events.iter().find_map(|event| match &event.kind {
        EventKind::CustomEvent { fields } => fields.get("error").and_then(Value::as_str),
        _ => None,
    });
    assert!(retrying.is_some_and(|error| error.contains("Quota of the tier exceeded")));
    assert_eq!(outcome.result.map(|run| run.content).ok(), Some(Some(json!("Hello"))));
    // The wait is 20 ms where the back-off is 1 ms.
    assert!(outcome.log[1].started - outcome.log[0].started >= Duration::from_millis(20));
}

#[tokio::test]
async fn a_cut_answer_is_a_failure_by_choice() {
    let server = OpenAiServer::start().await;
    for (quirk, reason, words) in [
        ("length", FinishReason::Length, "cut at its token limit, which is not accepted here: allow more tokens"),
        ("content-filter", FinishReason::ContentFilter, "cut by the provider's content filter, which is not accepted"),
    ] {
        let agent = Agent::new("A").model(chat(&server.url())).fail_on([reason]);
        let failure = agent.run(format!("REPLY=Half QUIRK={quirk}")).await.expect_err("it must fail");
        assert!(failure.message.contains(words) && !failure.retryable, "{failure:?}");
    }
    assert_eq!(server.log().len(), 2);
}
