//! Hacker News and Yahoo Finance, against made-up sites.

use crate::tools::context;
use outlive_agent::Agent;
use outlive_agent::model::ScriptedModel;
use outlive_agent::testing::HackerNewsAndYahooServer;
use outlive_agent::tool::{HackerNewsTools, IntoTools, Tool, ToolError, YFinanceTools, problems};
use outlive_core::{Failure, FailureKind, ModelResponse, ToolCall};
use serde_json::{Value, json};

async fn call(tools: &[Tool], name: &str, arguments: Value) -> Result<String, ToolError> {
    let tool = tools.iter().find(|tool| tool.spec().name == name).unwrap_or_else(|| panic!("no tool {name}"));
    tool.call(arguments, context()).await
}

async fn answer(tools: &[Tool], name: &str, arguments: Value) -> Value {
    let text = call(tools, name, arguments).await.unwrap_or_else(|error| panic!("{name}: {}", error.message()));
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name} answers JSON: {text}"))
}

fn hacker_news(server: &HackerNewsAndYahooServer) -> Vec<Tool> {
    HackerNewsTools::default().base_url(&server.url()).into_tools()
}

fn yahoo(server: &HackerNewsAndYahooServer) -> Vec<Tool> {
    YFinanceTools::all().base_url(&server.url()).into_tools()
}

#[test]
fn names_and_parameters_are_those_of_agno() {
    let tools = [HackerNewsTools::default().into_tools(), YFinanceTools::all().into_tools()].concat();
    assert_eq!(problems(&tools), Vec::<String>::new());
    let listed: Vec<String> = tools
        .iter()
        .map(|tool| {
            let schema = &tool.spec().parameters;
            assert_eq!(schema["additionalProperties"], json!(false));
            let parameters =
                schema["properties"].as_object().expect("an object schema").iter().map(|(name, parameter)| {
                    let required =
                        schema["required"].as_array().is_some_and(|required| required.contains(&json!(name)));
                    assert!(parameter["description"].is_string(), "{name}");
                    format!(
                        "{name}: {}{}",
                        parameter["type"].as_str().expect("a type"),
                        if required { "" } else { "?" }
                    )
                });
            let mut parameters: Vec<_> = parameters.collect();
            parameters.sort();
            format!("{}({})", tool.spec().name, parameters.join(", "))
        })
        .collect();
    assert_eq!(
        listed,
        [
            "get_top_hackernews_stories(num_stories: integer?)",
            "get_user_details(username: string)",
            "get_current_stock_price(symbol: string)",
            "get_company_info(symbol: string)",
            "get_stock_fundamentals(symbol: string)",
            "get_income_statements(symbol: string)",
            "get_key_financial_ratios(symbol: string)",
            "get_analyst_recommendations(symbol: string)",
            "get_company_news(num_stories: integer?, symbol: string)",
            "get_technical_indicators(period: string?, symbol: string)",
            "get_historical_stock_prices(interval: string?, period: string?, symbol: string)",
        ]
    );
    assert!(tools.iter().all(|tool| format!("{tool:?}").contains("Read")));
}

#[tokio::test]
async fn top_stories_come_in_order_and_without_the_missing() {
    let server = HackerNewsAndYahooServer::start().await;
    let stories = answer(&hacker_news(&server), "get_top_hackernews_stories", json!({"num_stories": 6})).await;
    let ids: Vec<_> = stories.as_array().expect("a list").iter().map(|story| story["id"].as_u64()).collect();
    assert_eq!(ids, [101, 102, 103, 105, 106].map(Some));
    assert_eq!(stories[0]["username"], stories[0]["by"]);
    let ten = answer(&hacker_news(&server), "get_top_hackernews_stories", json!({})).await;
    assert_eq!(ten.as_array().map(Vec::len), Some(9));
}

#[tokio::test]
async fn a_user_is_described_and_an_unknown_one_is_an_error() {
    let server = HackerNewsAndYahooServer::start().await;
    let tools = hacker_news(&server);
    let user = answer(&tools, "get_user_details", json!({"username": "ann"})).await;
    assert_eq!((&user["id"], &user["total_items_submitted"]), (&json!("ann"), &json!(2)));
    let unknown = call(&tools, "get_user_details", json!({"username": "nobody"})).await.expect_err("no such user");
    assert_eq!(unknown.message(), "Hacker News has no user named \"nobody\"");
}

#[tokio::test]
async fn arguments_out_of_range_never_reach_the_site() {
    let server = HackerNewsAndYahooServer::start().await;
    let wrong = [
        ("get_top_hackernews_stories", json!({"num_stories": 0})),
        ("get_top_hackernews_stories", json!({"num_stories": 101})),
        ("get_user_details", json!({"username": "../item/1"})),
    ];
    let wrong_at_yahoo = [
        ("get_current_stock_price", json!({"symbol": "a/b"})),
        ("get_current_stock_price", json!({"symbol": ".."})),
        ("get_current_stock_price", json!({"symbol": "x".repeat(33)})),
        ("get_historical_stock_prices", json!({"symbol": "A", "period": "2w"})),
        ("get_historical_stock_prices", json!({"symbol": "A", "interval": "1s"})),
        ("get_company_news", json!({"symbol": "A", "num_stories": 1000})),
    ];
    let calls = wrong.into_iter().map(|call| (hacker_news(&server), call));
    for (tools, (name, arguments)) in calls.chain(wrong_at_yahoo.into_iter().map(|call| (yahoo(&server), call))) {
        let error = call(&tools, name, arguments.clone()).await.expect_err("refused");
        assert!(matches!(error, ToolError::Arguments(_)), "{name} {arguments}: {error:?}");
    }
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_site_in_trouble_is_told_as_an_error() {
    let server = HackerNewsAndYahooServer::start().await;
    server.fail_next("/v0", 503, 1);
    let error = call(&hacker_news(&server), "get_top_hackernews_stories", json!({})).await.expect_err("unavailable");
    assert_eq!(error.message(), "Hacker News answered 503");
    let (url, tools) = (server.url(), hacker_news(&server));
    drop(server);
    let error = call(&tools, "get_user_details", json!({"username": "ann"})).await.expect_err("gone");
    assert!(error.message().starts_with("Hacker News cannot be reached"), "{} {url}", error.message());
}

#[tokio::test]
async fn a_price_is_a_number_with_four_digits() {
    let server = HackerNewsAndYahooServer::start().await;
    let tools = yahoo(&server);
    let price = call(&tools, "get_current_stock_price", json!({"symbol": "aapl"})).await.expect("a price");
    assert!(price.parse::<f64>().is_ok() && price.split('.').nth(1).is_some_and(|digits| digits.len() == 4), "{price}");
    assert!(server.requests()[0].starts_with("/v8/finance/chart/AAPL?range=1d"), "one request and no crumb");
    let unknown =
        call(&tools, "get_current_stock_price", json!({"symbol": "ZZZZNOPE"})).await.expect_err("no such symbol");
    assert_eq!(unknown.message(), "Yahoo Finance knows nothing of the symbol ZZZZNOPE");
}

#[tokio::test]
async fn prices_of_the_past_are_candles_by_day() {
    let server = HackerNewsAndYahooServer::start().await;
    let candles = answer(&yahoo(&server), "get_historical_stock_prices", json!({"symbol": "X", "period": "5d"})).await;
    let candles = candles.as_object().expect("an object");
    assert_eq!(candles.len(), 5);
    // Midnight in New York, in milliseconds.
    let last = &candles["1735880400000"];
    assert_eq!((&last["Dividends"], &last["Stock Splits"]), (&json!(0.25), &json!(0.0)));
    assert!(["Open", "High", "Low", "Close", "Volume"].iter().all(|name| last[name].is_number()), "{last}");
    let default = answer(&yahoo(&server), "get_technical_indicators", json!({"symbol": "X"})).await;
    assert_eq!(default.as_object().map(serde_json::Map::len), Some(63));
}

#[tokio::test]
async fn companies_are_described_under_one_crumb() {
    let server = HackerNewsAndYahooServer::start().await;
    let tools = yahoo(&server);
    let symbol = json!({"symbol": "ACME"});
    let info = call(&tools, "get_company_info", symbol.clone()).await.expect("an answer");
    assert!(
        info.starts_with("{\n  \"Name\": \"ACME Inc.\",\n  \"Symbol\": \"ACME\",\n  \"Current Stock Price\":"),
        "{info}"
    );
    let fundamentals = answer(&tools, "get_stock_fundamentals", symbol.clone()).await;
    assert_eq!((&fundamentals["pe_ratio"], &fundamentals["beta"]), (&json!(19.5), &json!("N/A")));
    let ratios = answer(&tools, "get_key_financial_ratios", symbol.clone()).await;
    assert_eq!((&ratios["trailingEps"], &ratios["currency"]), (&json!(3.2), &json!("USD")));
    let income = answer(&tools, "get_income_statements", symbol.clone()).await;
    assert_eq!(income["Net Income"], json!({"1672444800000": 20.0, "1703980800000": 25.0}));
    let analysts = answer(&tools, "get_analyst_recommendations", symbol.clone()).await;
    assert_eq!(analysts["1"]["period"], json!("-1m"));
    let news = answer(&tools, "get_company_news", symbol.clone()).await;
    assert_eq!(news.as_array().map(Vec::len), Some(3));
    let crumbs =
        |server: &HackerNewsAndYahooServer| server.requests().iter().filter(|path| path.contains("getcrumb")).count();
    assert_eq!(crumbs(&server), 1);
    server.change_crumb();
    answer(&tools, "get_stock_fundamentals", symbol).await;
    assert_eq!(crumbs(&server), 2);
    let unknown = call(&tools, "get_company_info", json!({"symbol": "ZZZZ"})).await.expect_err("no such symbol");
    assert!(unknown.message().contains("ZZZZ"), "{}", unknown.message());
}

fn failure(result: Result<String, ToolError>) -> Failure {
    match result {
        Err(ToolError::Failed(failure)) => failure,
        other => panic!("expected a failure: {other:?}"),
    }
}

/// Visits begun and crumbs asked for.
fn visits(server: &HackerNewsAndYahooServer) -> (usize, usize) {
    let asked = |path: &str| server.requests().iter().filter(|asked| *asked == path).count();
    (asked("/"), asked("/v1/test/getcrumb"))
}

#[tokio::test]
async fn what_a_crowded_address_is_told_is_no_crumb() {
    let server = HackerNewsAndYahooServer::start().await;
    let tools = yahoo(&server);
    let ask = || call(&tools, "get_stock_fundamentals", json!({"symbol": "ACME"}));
    let bad = [
        (200, "Too Many Requests", FailureKind::RateLimit),
        (200, "Edge: too many requests\r\n", FailureKind::RateLimit),
        (429, "", FailureKind::RateLimit),
        (999, "Unable to process request at this time", FailureKind::RateLimit),
        (200, "<!doctype html><p>Hello", FailureKind::Unavailable),
        (200, "{\"finance\":null}", FailureKind::Unavailable),
        (200, "not a crumb", FailureKind::Unavailable),
        (200, " ", FailureKind::Unavailable),
        (503, "crumb-0", FailureKind::Unavailable),
    ];
    for (visits_before, (status, body, kind)) in bad.into_iter().enumerate() {
        server.answer_next("/v1/test/getcrumb", status, &[("retry-after", "7")], body, 1);
        let failure = failure(ask().await);
        assert_eq!(failure.kind, kind, "{status} {body}: {failure:?}");
        if kind == FailureKind::RateLimit {
            assert!(failure.message.starts_with("Yahoo Finance answers only so many questions"), "{failure:?}");
            assert_eq!(failure.retry_after_ms, Some(7000));
        }
        assert_eq!(visits(&server), (visits_before + 1, visits_before + 1), "nothing is asked with such a crumb");
    }
    ask().await.expect("the next crumb is one");
    assert_eq!(visits(&server), (10, 10));
}

#[tokio::test]
async fn a_limit_makes_the_visit_stale() {
    let server = HackerNewsAndYahooServer::start().await;
    let tools = yahoo(&server);
    let ask = || call(&tools, "get_stock_fundamentals", json!({"symbol": "ACME"}));
    ask().await.expect("an answer");
    for (visits_before, (status, body)) in [(429, ""), (999, ""), (200, "Too Many Requests")].into_iter().enumerate() {
        server.answer_next("/v10/finance/quoteSummary", status, &[], body, 1);
        assert_eq!(failure(ask().await).kind, FailureKind::RateLimit);
        assert_eq!(visits(&server), (visits_before + 1, visits_before + 1));
        ask().await.expect("an answer to somebody new");
        assert_eq!(visits(&server), (visits_before + 2, visits_before + 2));
    }
    server.answer_next("/v10/finance/quoteSummary", 503, &[], "", 1);
    assert_eq!(failure(ask().await).kind, FailureKind::Unavailable);
    ask().await.expect("an answer");
    assert_eq!(visits(&server), (4, 4), "trouble of another kind is no reason to come as somebody new");
}

#[tokio::test]
async fn an_agent_asks_a_site_again_before_it_tells_the_model() {
    let server = HackerNewsAndYahooServer::start().await;
    server.answer_next("/v0/topstories", 429, &[("retry-after", "0")], "", 1);
    server.answer_next("/v0/user", 503, &[], "", 1);
    server.answer_next("/v1/test/getcrumb", 200, &[], "Too Many Requests", 1);
    server.answer_next("/v8", 429, &[("retry-after", "3600")], "", 1);
    let asked = [
        ("get_top_hackernews_stories", r#"{"num_stories":"2"}"#),
        ("get_user_details", r#"{"username":"ann"}"#),
        ("get_stock_fundamentals", r#"{"symbol":"ACME"}"#),
        ("get_current_stock_price", r#"{"symbol":"ACME"}"#),
    ];
    let asked = asked.into_iter().enumerate();
    let asked = asked.map(|(place, (name, arguments))| ToolCall::new(format!("c{place}"), name, arguments)).collect();
    let agent = Agent::new("A")
        .model(ScriptedModel::replies([ModelResponse::calls(asked), ModelResponse::text("done")]))
        .tools([hacker_news(&server), yahoo(&server)].concat());
    let run = agent.run("go").await.unwrap_or_else(|failure| panic!("{failure:?}"));
    let errors: Vec<_> = run.tools.iter().map(|tool| tool.tool_call_error).collect();
    assert_eq!(errors, [false, false, false, true].map(Some), "{:?}", run.tools);
    assert_eq!(
        run.tools[3].result.as_deref(),
        Some(
            "Yahoo Finance answers only so many questions from one network address, and refuses more for now (429); \
             not before 3600s from now"
        )
    );
    let count = |path: &str| server.requests().iter().filter(|asked| asked.starts_with(path)).count();
    assert_eq!([count("/v0/topstories"), count("/v0/user"), visits(&server).1, count("/v8")], [2, 2, 2, 1]);
}
