//! Tools made of functions.

use outlive_agent::tool::{IntoTools, Tool, ToolContext, ToolError, name_problem, problems};
use outlive_core::port::SessionState;
use outlive_core::{Failure, FailureKind, RunId, ToolEffect};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::convert::Infallible;

pub(crate) fn context() -> ToolContext {
    let run_id = RunId::parse("run").expect("an id");
    ToolContext::new("run/0/call", run_id, SessionState::default())
}

#[derive(Deserialize, JsonSchema)]
struct Order {
    /// What to buy.
    title: String,
    /// How many.
    count: u32,
    #[serde(default)]
    gift: Option<Gift>,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize, JsonSchema)]
struct Gift {
    /// Who gets it.
    to: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Tag {
    Urgent,
    Fragile,
}

#[derive(Serialize)]
struct Receipt {
    total: u32,
    items: Vec<String>,
}

fn order() -> Tool {
    Tool::new("order", "Orders things.", |order: Order, _: ToolContext| async move {
        if order.count == 13 {
            return Err("thirteen is unlucky");
        }
        let gift = order.gift.map(|gift| format!(" for {}", gift.to)).unwrap_or_default();
        let tags = order.tags.iter().filter(|tag| matches!(tag, Tag::Urgent)).count();
        Ok(Receipt { total: order.count, items: vec![format!("{}{gift} {tags}", order.title)] })
    })
}

#[test]
fn the_schema_says_what_the_model_needs_and_no_more() {
    let schema = order().spec().parameters.clone();
    assert_eq!(
        schema,
        json!({
            "type": "object",
            "properties": {
                "title": {"type": "string", "description": "What to buy."},
                "count": {"type": "integer", "minimum": 0, "description": "How many."},
                "gift": {
                    "type": ["object", "null"],
                    "properties": {"to": {"type": "string", "description": "Who gets it."}},
                    "required": ["to"],
                    "additionalProperties": false,
                },
                "tags": {"type": "array", "items": {"type": "string", "enum": ["urgent", "fragile"]}},
            },
            "required": ["title", "count"],
            "additionalProperties": false,
        })
    );
}

#[tokio::test]
async fn a_result_is_told_as_text_or_as_json_in_its_own_order() {
    let arguments = json!({"title": "tea", "count": 2, "gift": {"to": "Ann"}, "tags": ["urgent"]});
    let told = order().call(arguments, context()).await.expect("a result");
    assert_eq!(told, r#"{"total":2,"items":["tea for Ann 1"]}"#);
    let plain = Tool::new("greet", "Greets.", |(): (), context: ToolContext| async move {
        Ok::<_, Infallible>(format!("hello from {}", context.run_id))
    });
    for nothing in [json!({}), Value::Null, json!("")] {
        assert_eq!(plain.call(nothing, context()).await.expect("a result"), "hello from run");
    }
    assert_eq!(plain.spec().parameters, json!({"type": "object", "properties": {}, "additionalProperties": false}));
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_named_with_their_place() {
    let wrong = [
        (json!({"title": "tea", "count": "two"}), "at count: invalid type: string \"two\", expected u32"),
        (json!({"title": "tea"}), "missing field `count`"),
        (json!({"title": "tea", "count": 1, "tags": ["urgent", "x"]}), "at tags[1]: unknown variant `x`, expected"),
        (json!({"title": "tea", "count": 1, "gift": {}}), "at gift: missing field `to`"),
        (json!("not json"), "expected struct Order"),
    ];
    for (arguments, expected) in wrong {
        match order().call(arguments, context()).await {
            Err(ToolError::Arguments(problem)) => assert!(problem.contains(expected), "{problem}"),
            other => panic!("expected a complaint about the arguments: {other:?}"),
        }
    }
    let twice_encoded = json!(r#"{"title": "tea", "count": 1}"#);
    assert!(order().call(twice_encoded, context()).await.is_ok());
}

#[tokio::test]
async fn an_error_keeps_its_words_and_a_failure_its_kind() {
    let unlucky = order().call(json!({"title": "tea", "count": 13}), context()).await.expect_err("a failure");
    assert_eq!(unlucky.message(), "thirteen is unlucky");
    let fatal = Tool::new("never", "Never works.", |(): (), _: ToolContext| async {
        Err::<String, _>(Failure::new(FailureKind::Quota, "pay first"))
    });
    match fatal.call(Value::Null, context()).await {
        Err(ToolError::Failed(failure)) => assert_eq!((failure.kind, failure.retryable), (FailureKind::Quota, false)),
        other => panic!("expected the failure: {other:?}"),
    }
}

#[tokio::test]
async fn a_blocking_tool_leaves_the_thread_and_its_panic_is_a_failure() {
    let here = std::thread::current().id();
    let tool = Tool::blocking("where", "Which thread.", move |(): (), _: ToolContext| {
        Ok::<_, Infallible>(std::thread::current().id() == here)
    });
    assert_eq!(tool.call(Value::Null, context()).await.expect("a result"), "false");
    let broken =
        Tool::blocking("broken", "Panics.", |(): (), _: ToolContext| -> Result<String, Infallible> { panic!("oops") });
    match broken.call(Value::Null, context()).await {
        Err(ToolError::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Panic),
        other => panic!("expected a failure: {other:?}"),
    }
}

#[test]
fn names_are_checked_and_must_differ() {
    assert_eq!(name_problem("get_price-2"), None);
    for name in ["", "a b", "preis€", &"x".repeat(65)] {
        assert!(name_problem(name).is_some(), "{name:?}");
    }
    let found = problems(&[order(), order()]);
    assert_eq!(found, ["two tools are named \"order\": rename one"]);
    let text = Tool::new("echo", "Echoes.", |text: String, _: ToolContext| async move { Ok::<_, Infallible>(text) });
    assert_eq!(problems(&[text]), ["tool \"echo\" takes arguments that are not an object: use a struct"]);
}

#[test]
fn tools_are_given_singly_or_together_and_the_effect_can_be_told() {
    assert_eq!(order().into_tools().len(), 1);
    assert_eq!([order(), order()].into_tools().len(), 2);
    assert_eq!(vec![order()].into_tools().len(), 1);
    let once = order().effect(ToolEffect::Once);
    assert!(format!("{once:?}").contains("Once") && once.spec().name == "order");
}
