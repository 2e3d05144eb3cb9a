//! `HackerNewsAndYahooServer`: the sites of the HTTP tools, with made-up contents.

use super::{Hosted, fingerprint};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, Response, StatusCode, Uri};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard};

/// Hacker News and Yahoo Finance for tests: set both base addresses of the tools to [`HackerNewsAndYahooServer::url`].
///
/// Every symbol has a price, made from its letters, except those that begin with `ZZZZ`. Story 104 is listed but missing;
/// every user is known except those that begin with `nobody`. Questions about companies need cookie and crumb, as at Yahoo.
#[derive(Debug)]
pub struct HackerNewsAndYahooServer {
    hosted: Hosted,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<Record>);

#[derive(Debug, Default)]
struct Record {
    requests: Vec<String>,
    failures: Vec<Failing>,
    /// How often the crumb was changed.
    crumbs: usize,
}

#[derive(Debug)]
struct Failing {
    prefix: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    times: usize,
}

/// Candles end here: a Friday at the opening of New York.
const LAST_OPENING: i64 = 1_735_914_600;
const DAY: i64 = 86_400;
/// New York in winter.
const OFFSET: i64 = -18_000;
const SITE_COOKIE: &str = "A3=made-up";

impl HackerNewsAndYahooServer {
    /// A server at a free port of the loopback interface.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        Self { hosted: Hosted::on_loopback(router), shared }
    }

    /// The address both tools take: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.hosted.address)
    }

    /// Paths and queries asked for, in the order they came.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// Answers the next `times` requests whose path begins like this with this status.
    pub fn fail_next(&self, prefix: &str, status: u16, times: usize) {
        self.answer_next(prefix, status, &[], "scripted failure", times);
    }

    /// Answers the next `times` requests whose path begins like this with this status, these headers and this text.
    pub fn answer_next(&self, prefix: &str, status: u16, headers: &[(&str, &str)], body: &str, times: usize) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let failing = Failing { prefix: prefix.to_owned(), status, headers, body: body.to_owned(), times };
        self.shared.lock().failures.push(failing);
    }

    /// Stops accepting the crumbs given so far, as Yahoo does now and then.
    pub fn change_crumb(&self) {
        self.shared.lock().crumbs += 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Record {
    fn failure(&mut self, path: &str) -> Option<Response<Body>> {
        let failing =
            self.failures.iter_mut().find(|failing| failing.times > 0 && path.starts_with(&failing.prefix))?;
        failing.times -= 1;
        let mut response = text(failing.status, &failing.body);
        for (name, value) in &failing.headers {
            let name: HeaderName = name.parse().expect("a header name");
            response.headers_mut().insert(name, value.parse().expect("a header value"));
        }
        Some(response)
    }

    fn crumb(&self) -> String {
        format!("crumb-{}", self.crumbs)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let path = uri.path().to_owned();
    let (failure, crumb) = {
        let mut state = shared.lock();
        state.requests.push(uri.to_string());
        (state.failure(&path), state.crumb())
    };
    if let Some(failure) = failure {
        return failure;
    }
    let knows_cookie = headers.get(COOKIE).is_some_and(|cookie| cookie.as_bytes().starts_with(SITE_COOKIE.as_bytes()));
    let query = uri.query().unwrap_or_default();
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => {
            let mut response = text(404, "<html>made up</html>");
            let cookie = format!("{SITE_COOKIE}; Max-Age=100000; Path=/; HttpOnly");
            response.headers_mut().insert(SET_COOKIE, cookie.parse().expect("a header value"));
            response
        }
        ["v1", "test", "getcrumb"] if knows_cookie => text(200, &crumb),
        ["v8", "finance", "chart", symbol] => chart(symbol, query),
        ["v10", ..] | ["v7", ..] | ["ws", ..] | ["v1", ..] if !knows_cookie || argument(query, "crumb") != crumb => {
            let error = json!({"code": "Unauthorized", "description": "Invalid Crumb"});
            reply(401, &json!({"finance": {"result": null, "error": error}}))
        }
        ["v10", "finance", "quoteSummary", symbol] => summary(symbol),
        ["v7", "finance", "quote"] => quote(argument(query, "symbols")),
        ["ws", .., symbol] => timeseries(symbol),
        ["xhr", "ncp"] => reply(200, &json!({"data": {"tickerStream": {"stream": news()}}, "status": "OK"})),
        ["v0", "topstories.json"] => reply(200, &(101..=120).collect()),
        ["v0", "item", id] => reply(200, &story(id.trim_end_matches(".json"))),
        ["v0", "user", name] => reply(200, &user(name.trim_end_matches(".json"))),
        _ => text(404, "no such page"),
    }
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    let mut response = text(status, &body.to_string());
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a header value"));
    response
}

fn text(status: u16, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// The value of a query's argument; percent signs stay, no test needs them decoded.
fn argument<'a>(query: &'a str, name: &str) -> &'a str {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
}

fn is_known(symbol: &str) -> bool {
    !symbol.starts_with("ZZZZ")
}

/// A price between 10 and 500 with two digits after the point.
fn price(symbol: &str) -> f64 {
    (1000 + fingerprint(symbol) % 49_000) as f64 / 100.0
}

fn not_found(part: &str) -> Response<Body> {
    let error = json!({"code": "Not Found", "description": "no data found, symbol may be delisted"});
    reply(404, &json!({part: {"result": null, "error": error}}))
}

fn chart(symbol: &str, query: &str) -> Response<Body> {
    if !is_known(symbol) {
        return not_found("chart");
    }
    let days = match argument(query, "range") {
        "1d" => 1,
        "5d" => 5,
        "1mo" => 21,
        "3mo" => 63,
        "6mo" => 126,
        _ => 250,
    };
    let price = price(symbol);
    let times: Vec<_> = (0..days).rev().map(|back| LAST_OPENING - back * DAY).collect();
    let closes: Vec<_> = (0..days).rev().map(|back| price - back as f64 / 4.0).collect();
    let moved = |by: f64| closes.iter().map(|close| close + by).collect::<Vec<_>>();
    let volumes: Vec<_> = (0..days).map(|day| 1_000_000 + day).collect();
    let prices = json!({
        "open": moved(-0.5), "high": moved(1.0), "low": moved(-1.0), "close": closes, "volume": volumes,
    });
    let meta = json!({
        "symbol": symbol, "currency": "USD", "regularMarketPrice": price, "gmtoffset": OFFSET,
        "exchangeTimezoneName": "America/New_York",
    });
    let dividend = json!({(LAST_OPENING.to_string()): {"amount": 0.25, "date": LAST_OPENING}});
    let result = json!({
        "meta": meta, "timestamp": times, "events": {"dividends": dividend},
        "indicators": {"quote": [prices], "adjclose": [{"adjclose": closes}]},
    });
    reply(200, &json!({"chart": {"result": [result], "error": null}}))
}

fn summary(symbol: &str) -> Response<Body> {
    if !is_known(symbol) {
        return not_found("quoteSummary");
    }
    let month =
        |period: &str| json!({"period": period, "strongBuy": 4, "buy": 12, "hold": 7, "sell": 1, "strongSell": 0});
    let result = json!({
        "assetProfile": {
            "sector": "Technology", "industry": "Made-up Devices", "city": "Springfield", "country": "United States",
            "website": "https://example.com", "longBusinessSummary": "Makes things up.", "fullTimeEmployees": 1234,
            "maxAge": 86_400,
        },
        "quoteType": {"symbol": symbol, "shortName": format!("{symbol} Inc."), "longName": format!("{symbol} Incorporated")},
        "summaryDetail": {"trailingPE": 21.5, "forwardPE": 19.5, "fiftyTwoWeekLow": 8.5, "fiftyTwoWeekHigh": 501.0, "marketCap": 5_000_000_000_u64},
        "defaultKeyStatistics": {"trailingEps": 3.2, "priceToBook": 4.5},
        "financialData": {"currentPrice": price(symbol), "recommendationKey": "buy", "numberOfAnalystOpinions": 24},
        "recommendationTrend": {"trend": [month("0m"), month("-1m")]},
    });
    reply(200, &json!({"quoteSummary": {"result": [result], "error": null}}))
}

fn quote(symbol: &str) -> Response<Body> {
    let quote = json!({"symbol": symbol, "currency": "USD", "regularMarketPrice": price(symbol), "dividendYield": 0.5});
    reply(200, &json!({"quoteResponse": {"result": [quote], "error": null}}))
}

fn timeseries(symbol: &str) -> Response<Body> {
    let series = |line: &str, amounts: [f64; 2]| {
        let entries = amounts.map(|amount| json!({"asOfDate": "2023-12-31", "reportedValue": {"raw": amount}}));
        json!({
            "meta": {"symbol": [symbol], "type": [line]}, "timestamp": [1_672_444_800, 1_703_980_800], (line): entries,
        })
    };
    let result = if is_known(symbol) {
        vec![series("annualTotalRevenue", [100.0, 120.0]), series("annualNetIncome", [20.0, 25.0])]
    } else {
        Vec::new()
    };
    reply(200, &json!({"timeseries": {"result": result, "error": null}}))
}

fn news() -> Vec<Value> {
    let story = |number: usize| {
        let title = format!("Made-up headline {number}");
        json!({"id": format!("story-{number}"), "content": {"contentType": "STORY", "title": title}})
    };
    (1..=5).map(story).collect()
}

fn story(id: &str) -> Value {
    match id.parse::<u32>() {
        Ok(104) | Err(_) => Value::Null,
        Ok(number) => json!({
            "by": format!("writer{}", number % 7), "descendants": number % 50, "id": number, "kids": [],
            "score": 500 - number, "time": 1_735_900_000 + number, "title": format!("Made-up story number {number}"),
            "type": "story", "url": format!("https://example.com/{number}"),
        }),
    }
}

fn user(name: &str) -> Value {
    if name.starts_with("nobody") {
        return Value::Null;
    }
    json!({"id": name, "karma": fingerprint(name) % 10_000, "about": "Made up.", "created": 1_600_000_000, "submitted": [101, 102]})
}
