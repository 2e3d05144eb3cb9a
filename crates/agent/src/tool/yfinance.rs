//! `YFinanceTools`: prices, company figures and news from Yahoo Finance.
//!
//! Yahoo promises no API: figures about a company need a cookie and a *crumb*, which are fetched when first needed and
//! again when Yahoo stops accepting them or refuses us for now; prices need neither.
//!
//! Invariant: only a real crumb is kept as one. A crowded address gets `Too Many Requests` in its place, with a status
//! that says that all is well.

use super::site::{Answer, Page, Site};
use super::{IntoTools, Tool, ToolContext};
use outlive_core::{Failure, FailureKind, ToolEffect};
use reqwest::Method;
use reqwest::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE, USER_AGENT};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

const QUERY_HOST: &str = "https://query2.finance.yahoo.com";
const COOKIE_HOST: &str = "https://fc.yahoo.com";
const NEWS_HOST: &str = "https://finance.yahoo.com";
/// Yahoo turns away clients that do not identify as a browser.
const BROWSER: HeaderValue = HeaderValue::from_static("Mozilla/5.0 (compatible; outlive)");

const INFO_MODULES: &str = "financialData,quoteType,defaultKeyStatistics,assetProfile,summaryDetail";
/// The longest symbol, in characters.
const SYMBOL_LEN_MAX: usize = 32;

/// The lines of an income statement that are requested.
const INCOME_LINES: [&str; 24] = [
    "TotalRevenue",
    "OperatingRevenue",
    "CostOfRevenue",
    "GrossProfit",
    "OperatingExpense",
    "SellingGeneralAndAdministration",
    "ResearchAndDevelopment",
    "OperatingIncome",
    "InterestIncome",
    "InterestExpense",
    "NetInterestIncome",
    "PretaxIncome",
    "TaxProvision",
    "NetIncome",
    "NetIncomeCommonStockholders",
    "NormalizedIncome",
    "EBIT",
    "EBITDA",
    "NormalizedEBITDA",
    "ReconciledDepreciation",
    "BasicEPS",
    "DilutedEPS",
    "BasicAverageShares",
    "DilutedAverageShares",
];

/// Tools to read Yahoo Finance, named and answered as in Agno.
///
/// By default only `get_current_stock_price`; [`YFinanceTools::all`] and the other methods add more. The address of every
/// Yahoo host is `YFINANCE_BASE_URL` if that is set, else the public one.
///
/// ```
/// use outlive_agent::tool::{IntoTools, YFinanceTools};
/// assert_eq!(YFinanceTools::default().into_tools().len(), 1);
/// assert_eq!(YFinanceTools::all().into_tools().len(), 9);
/// assert_eq!(YFinanceTools::default().company_news(true).into_tools().len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct YFinanceTools {
    yahoo: Yahoo,
    enabled: Enabled,
}

#[derive(Clone, Copy, Debug)]
struct Enabled {
    stock_price: bool,
    company_info: bool,
    stock_fundamentals: bool,
    income_statements: bool,
    key_financial_ratios: bool,
    analyst_recommendations: bool,
    company_news: bool,
    technical_indicators: bool,
    historical_prices: bool,
}

impl Enabled {
    fn all(enabled: bool) -> Self {
        Self {
            stock_price: enabled,
            company_info: enabled,
            stock_fundamentals: enabled,
            income_statements: enabled,
            key_financial_ratios: enabled,
            analyst_recommendations: enabled,
            company_news: enabled,
            technical_indicators: enabled,
            historical_prices: enabled,
        }
    }
}

impl Default for YFinanceTools {
    fn default() -> Self {
        let enabled = Enabled { stock_price: true, ..Enabled::all(false) };
        let site = Site { name: "Yahoo Finance", variable: "YFINANCE_BASE_URL", base_url: None };
        Self { yahoo: Yahoo { site, visit: Arc::default() }, enabled }
    }
}

impl YFinanceTools {
    /// All nine tools.
    pub fn all() -> Self {
        Self { enabled: Enabled::all(true), ..Self::default() }
    }

    /// Reads from another address, a mirror or a test's.
    pub fn base_url(mut self, url: &str) -> Self {
        self.yahoo.site.base_url = Some(url.into());
        self
    }

    /// Whether `get_current_stock_price` is offered.
    pub fn stock_price(mut self, enabled: bool) -> Self {
        self.enabled.stock_price = enabled;
        self
    }

    /// Whether `get_company_info` is offered.
    pub fn company_info(mut self, enabled: bool) -> Self {
        self.enabled.company_info = enabled;
        self
    }

    /// Whether `get_stock_fundamentals` is offered.
    pub fn stock_fundamentals(mut self, enabled: bool) -> Self {
        self.enabled.stock_fundamentals = enabled;
        self
    }

    /// Whether `get_income_statements` is offered.
    pub fn income_statements(mut self, enabled: bool) -> Self {
        self.enabled.income_statements = enabled;
        self
    }

    /// Whether `get_key_financial_ratios` is offered.
    pub fn key_financial_ratios(mut self, enabled: bool) -> Self {
        self.enabled.key_financial_ratios = enabled;
        self
    }

    /// Whether `get_analyst_recommendations` is offered.
    pub fn analyst_recommendations(mut self, enabled: bool) -> Self {
        self.enabled.analyst_recommendations = enabled;
        self
    }

    /// Whether `get_company_news` is offered.
    pub fn company_news(mut self, enabled: bool) -> Self {
        self.enabled.company_news = enabled;
        self
    }

    /// Whether `get_technical_indicators` is offered.
    pub fn technical_indicators(mut self, enabled: bool) -> Self {
        self.enabled.technical_indicators = enabled;
        self
    }

    /// Whether `get_historical_stock_prices` is offered.
    pub fn historical_prices(mut self, enabled: bool) -> Self {
        self.enabled.historical_prices = enabled;
        self
    }
}

impl IntoTools for YFinanceTools {
    fn into_tools(self) -> Vec<Tool> {
        let Self { yahoo, enabled } = self;
        let offered = [
            (enabled.stock_price, stock_price(yahoo.clone())),
            (enabled.company_info, company_info(yahoo.clone())),
            (enabled.stock_fundamentals, stock_fundamentals(yahoo.clone())),
            (enabled.income_statements, income_statements(yahoo.clone())),
            (enabled.key_financial_ratios, key_financial_ratios(yahoo.clone())),
            (enabled.analyst_recommendations, analyst_recommendations(yahoo.clone())),
            (enabled.company_news, company_news(yahoo.clone())),
            (enabled.technical_indicators, technical_indicators(yahoo.clone())),
            (enabled.historical_prices, historical_prices(yahoo)),
        ];
        offered.into_iter().filter(|(enabled, _)| *enabled).map(|(_, tool)| tool.effect(ToolEffect::Read)).collect()
    }
}

#[derive(Deserialize, JsonSchema)]
struct OneSymbol {
    /// The ticker symbol, for example AAPL.
    symbol: Symbol,
}

/// A ticker symbol that can stand in a path.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Symbol(String);

impl TryFrom<String> for Symbol {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let symbol = text.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-.^=_&".contains(c);
        let only_dots = symbol.chars().all(|c| c == '.');
        if symbol.len() <= SYMBOL_LEN_MAX && !only_dots && symbol.chars().all(legal) {
            Ok(Self(symbol.to_ascii_uppercase()))
        } else {
            Err(format!("{text:?} is not a ticker symbol: expected something like AAPL"))
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct News {
    /// The ticker symbol, for example AAPL.
    symbol: Symbol,
    /// How many stories to return, 1 to 100. Defaults to 3.
    #[serde(default)]
    num_stories: NewsCount,
}

/// 1 to 100.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
struct NewsCount(u32);

impl Default for NewsCount {
    fn default() -> Self {
        Self(3)
    }
}

impl TryFrom<u32> for NewsCount {
    type Error = String;
    fn try_from(count: u32) -> Result<Self, String> {
        if (1..=100).contains(&count) { Ok(Self(count)) } else { Err(format!("{count} stories, expected 1 to 100")) }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Indicators {
    /// The ticker symbol, for example AAPL.
    symbol: Symbol,
    /// How far back: 1d, 5d, 1mo, 3mo, 6mo, 1y, 2y, 5y, 10y, ytd or max. Defaults to 3mo.
    #[serde(default = "three_months")]
    period: Period,
}

#[derive(Deserialize, JsonSchema)]
struct History {
    /// The ticker symbol, for example AAPL.
    symbol: Symbol,
    /// How far back: 1d, 5d, 1mo, 3mo, 6mo, 1y, 2y, 5y, 10y, ytd or max. Defaults to 1mo.
    #[serde(default = "one_month")]
    period: Period,
    /// The time between two prices: 1d, 5d, 1wk, 1mo or 3mo. Defaults to 1d.
    #[serde(default = "one_day")]
    interval: Interval,
}

/// One of [`Period::KNOWN`].
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Period(String);

impl Period {
    const KNOWN: [&'static str; 11] = ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"];
}

impl TryFrom<String> for Period {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        one_of(&Self::KNOWN, text).map(Self)
    }
}

/// One of [`Interval::KNOWN`].
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Interval(String);

impl Interval {
    const KNOWN: [&'static str; 5] = ["1d", "5d", "1wk", "1mo", "3mo"];
}

impl TryFrom<String> for Interval {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        one_of(&Self::KNOWN, text).map(Self)
    }
}

fn one_of(known: &[&str], text: String) -> Result<String, String> {
    if known.contains(&text.as_str()) {
        Ok(text)
    } else {
        Err(format!("{text:?}, expected one of {}", known.join(", ")))
    }
}

fn three_months() -> Period {
    Period("3mo".to_owned())
}

fn one_month() -> Period {
    Period("1mo".to_owned())
}

fn one_day() -> Interval {
    Interval("1d".to_owned())
}

fn stock_price(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_current_stock_price",
        "Returns the current price of a stock in its own currency.",
        move |arguments: OneSymbol, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move {
                let chart = yahoo.chart(&arguments.symbol.0, "1d", "1d").await?;
                match chart["meta"]["regularMarketPrice"].as_f64() {
                    Some(price) => Ok(format!("{price:.4}")),
                    None => Err(unknown(&arguments.symbol.0)),
                }
            }
        },
    )
}

fn company_info(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_company_info",
        "Returns who a listed company is and its main figures.",
        move |arguments: OneSymbol, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move { yahoo.info(&arguments.symbol.0).await.map(|info| pretty(&CompanyInfo::read(&info))) }
        },
    )
}

fn stock_fundamentals(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_stock_fundamentals",
        "Returns the fundamental figures of a stock: valuation, earnings, dividend, range of the last year.",
        move |arguments: OneSymbol, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move {
                let symbol = arguments.symbol.0;
                let info = yahoo.info(&symbol).await?;
                Ok::<_, Failure>(pretty(&Fundamentals::read(symbol, &info)))
            }
        },
    )
}

fn income_statements(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_income_statements",
        "Returns the yearly income statements of a company, line by line.",
        move |arguments: OneSymbol, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move { yahoo.income_statements(&arguments.symbol.0).await }
        },
    )
}

fn key_financial_ratios(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_key_financial_ratios",
        "Returns every figure and ratio that is published for a stock.",
        move |arguments: OneSymbol, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move { yahoo.info(&arguments.symbol.0).await.map(|info| pretty(&info)) }
        },
    )
}

fn analyst_recommendations(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_analyst_recommendations",
        "Returns how many analysts say buy, hold or sell, this month and the months before.",
        move |arguments: OneSymbol, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move {
                let summary = yahoo.summary(&arguments.symbol.0, "recommendationTrend").await?;
                let months = summary["recommendationTrend"]["trend"].as_array().cloned().unwrap_or_default();
                let numbered = months.into_iter().enumerate().map(|(index, month)| (index.to_string(), month));
                Ok::<_, Failure>(Value::Object(numbered.collect()))
            }
        },
    )
}

fn company_news(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_company_news",
        "Returns recent news and press releases about a company.",
        move |arguments: News, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move { yahoo.news(&arguments.symbol.0, arguments.num_stories.0).await.map(|news| pretty(&news)) }
        },
    )
}

fn technical_indicators(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_technical_indicators",
        "Returns the daily prices and volumes of a stock, the basis of technical indicators.",
        move |arguments: Indicators, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move { yahoo.chart(&arguments.symbol.0, &arguments.period.0, "1d").await.map(|chart| candles(&chart)) }
        },
    )
}

fn historical_prices(yahoo: Yahoo) -> Tool {
    Tool::new(
        "get_historical_stock_prices",
        "Returns past prices and volumes of a stock.",
        move |arguments: History, _: ToolContext| {
            let yahoo = yahoo.clone();
            async move {
                let chart = yahoo.chart(&arguments.symbol.0, &arguments.period.0, &arguments.interval.0).await?;
                Ok::<_, Failure>(candles(&chart))
            }
        },
    )
}

/// A company in words and figures, in the order and with the names of Agno's tool.
struct CompanyInfo(Vec<(&'static str, Value)>);

impl Serialize for CompanyInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl CompanyInfo {
    fn read(info: &Value) -> Self {
        let get = |name: &str| info.get(name).cloned().unwrap_or(Value::Null);
        let currency = info["currency"].as_str().unwrap_or("USD");
        let money = |names: [&str; 2]| {
            let amount = names.iter().find_map(|name| info.get(*name).filter(|value| value.is_number()));
            amount.map_or(Value::Null, |amount| json!(format!("{amount} {currency}")))
        };
        Self(vec![
            ("Name", get("shortName")),
            ("Symbol", get("symbol")),
            ("Current Stock Price", money(["regularMarketPrice", "currentPrice"])),
            ("Market Cap", money(["marketCap", "enterpriseValue"])),
            ("Sector", get("sector")),
            ("Industry", get("industry")),
            ("Address", get("address1")),
            ("City", get("city")),
            ("State", get("state")),
            ("Zip", get("zip")),
            ("Country", get("country")),
            ("EPS", get("trailingEps")),
            ("P/E Ratio", get("trailingPE")),
            ("52 Week Low", get("fiftyTwoWeekLow")),
            ("52 Week High", get("fiftyTwoWeekHigh")),
            ("50 Day Average", get("fiftyDayAverage")),
            ("200 Day Average", get("twoHundredDayAverage")),
            ("Website", get("website")),
            ("Summary", get("longBusinessSummary")),
            ("Analyst Recommendation", get("recommendationKey")),
            ("Number Of Analyst Opinions", get("numberOfAnalystOpinions")),
            ("Employees", get("fullTimeEmployees")),
            ("Total Cash", get("totalCash")),
            ("Free Cash flow", get("freeCashflow")),
            ("Operating Cash flow", get("operatingCashflow")),
            ("EBITDA", get("ebitda")),
            ("Revenue Growth", get("revenueGrowth")),
            ("Gross Margins", get("grossMargins")),
            ("Ebitda Margins", get("ebitdaMargins")),
        ])
    }
}

/// The fundamental figures of a stock; what is not published is `"N/A"`, as Agno writes it.
#[derive(Serialize)]
struct Fundamentals {
    symbol: String,
    company_name: Value,
    sector: Value,
    industry: Value,
    market_cap: Value,
    pe_ratio: Value,
    pb_ratio: Value,
    dividend_yield: Value,
    eps: Value,
    beta: Value,
    #[serde(rename = "52_week_high")]
    high_52_weeks: Value,
    #[serde(rename = "52_week_low")]
    low_52_weeks: Value,
}

impl Fundamentals {
    fn read(symbol: String, info: &Value) -> Self {
        let get = |name: &str| info.get(name).filter(|value| !value.is_null()).cloned().unwrap_or_else(|| json!("N/A"));
        Self {
            symbol,
            company_name: get("longName"),
            sector: get("sector"),
            industry: get("industry"),
            market_cap: get("marketCap"),
            pe_ratio: get("forwardPE"),
            pb_ratio: get("priceToBook"),
            dividend_yield: get("dividendYield"),
            eps: get("trailingEps"),
            beta: get("beta"),
            high_52_weeks: get("fiftyTwoWeekHigh"),
            low_52_weeks: get("fiftyTwoWeekLow"),
        }
    }
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data becomes JSON")
}

fn unknown(symbol: &str) -> Failure {
    Failure::new(FailureKind::BadRequest, format!("Yahoo Finance knows nothing of the symbol {symbol}"))
}

/// The prices of a chart by the start of their day in milliseconds, adjusted for splits and dividends.
fn candles(chart: &Value) -> BTreeMap<i64, Candle> {
    let offset = chart["meta"]["gmtoffset"].as_i64().unwrap_or(0);
    let times = chart["timestamp"].as_array().map(Vec::as_slice).unwrap_or_default();
    let prices = &chart["indicators"]["quote"][0];
    let adjusted = &chart["indicators"]["adjclose"][0]["adjclose"];
    let read = |(index, time): (usize, &Value)| {
        let seconds = time.as_i64()?;
        let close = prices["close"][index].as_f64()?;
        let factor = adjusted[index].as_f64().filter(|_| close != 0.0).map_or(1.0, |adjusted| adjusted / close);
        let price = |name: &str| prices[name][index].as_f64().map(|price| rounded(price * factor));
        let event = |kind: &str, read: fn(&Value) -> f64| {
            chart["events"][kind].get(seconds.to_string()).map(read).unwrap_or_default()
        };
        let candle = Candle {
            open: price("open"),
            high: price("high"),
            low: price("low"),
            close: price("close"),
            volume: prices["volume"][index].as_u64().unwrap_or(0),
            dividends: event("dividends", |event| event["amount"].as_f64().unwrap_or_default()),
            stock_splits: event("splits", |event| {
                let part = |name: &str| event[name].as_f64().filter(|part| *part > 0.0).unwrap_or(1.0);
                part("numerator") / part("denominator")
            }),
        };
        let midnight = (seconds + offset).div_euclid(86_400) * 86_400 - offset;
        Some((midnight * 1000, candle))
    };
    times.iter().enumerate().filter_map(read).collect()
}

/// Yahoo's prices are 32-bit floats at heart; more than ten digits after the point are noise.
fn rounded(price: f64) -> f64 {
    (price * 1e10).round() / 1e10
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Candle {
    open: Option<f64>,
    high: Option<f64>,
    low: Option<f64>,
    close: Option<f64>,
    volume: u64,
    dividends: f64,
    #[serde(rename = "Stock Splits")]
    stock_splits: f64,
}

/// Yahoo's hosts, and the visit that identifies us to them.
#[derive(Clone, Debug)]
struct Yahoo {
    site: Site,
    visit: Arc<Mutex<Option<Visit>>>,
}

/// What Yahoo requires with questions about companies.
#[derive(Clone, Debug)]
struct Visit {
    cookie: HeaderValue,
    crumb: String,
}

impl Yahoo {
    /// One result of the chart endpoint.
    async fn chart(&self, symbol: &str, period: &str, interval: &str) -> Result<Value, Failure> {
        let query = [("range", period), ("interval", interval), ("events", "div,splits")];
        let path = ["v8", "finance", "chart", symbol];
        let page = Page { query: &query, headers: browser(), ..Page::get(QUERY_HOST, &path) };
        let answer = self.site.fetch(page).await?;
        let mut body = self.body(answer, symbol)?;
        Some(body["chart"]["result"][0].take()).filter(Value::is_object).ok_or_else(|| unknown(symbol))
    }

    /// Everything published about a company, in one object.
    async fn info(&self, symbol: &str) -> Result<Value, Failure> {
        let summary = self.summary(symbol, INFO_MODULES).await?;
        let query = [("symbols", symbol), ("formatted", "false")];
        let quote = self.crumbed(symbol, &["v7", "finance", "quote"], &query).await?;
        let modules = summary.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_object);
        let quote = quote["quoteResponse"]["result"][0].as_object();
        let fields = modules.chain(quote).flatten();
        let mut info: Map<String, Value> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        // How long Yahoo itself keeps each part: of no use here.
        info.remove("maxAge");
        Ok(Value::Object(info))
    }

    async fn summary(&self, symbol: &str, modules: &str) -> Result<Value, Failure> {
        let query = [("modules", modules), ("formatted", "false")];
        let mut body = self.crumbed(symbol, &["v10", "finance", "quoteSummary", symbol], &query).await?;
        Some(body["quoteSummary"]["result"][0].take()).filter(Value::is_object).ok_or_else(|| unknown(symbol))
    }

    /// Line, then end of the year in milliseconds, then amount.
    async fn income_statements(&self, symbol: &str) -> Result<BTreeMap<String, BTreeMap<i64, f64>>, Failure> {
        let types = INCOME_LINES.map(|line| format!("annual{line}")).join(",");
        // From 1985 to 2100: everything there is.
        let query = [("symbol", symbol), ("type", &types), ("period1", "473385600"), ("period2", "4102444800")];
        let path = ["ws", "fundamentals-timeseries", "v1", "finance", "timeseries", symbol];
        let body = self.crumbed(symbol, &path, &query).await?;
        let series = body["timeseries"]["result"].as_array().map(Vec::as_slice).unwrap_or_default();
        let lines: BTreeMap<_, _> = series.iter().filter_map(income_line).collect();
        if lines.is_empty() { Err(unknown(symbol)) } else { Ok(lines) }
    }

    async fn news(&self, symbol: &str, count: u32) -> Result<Value, Failure> {
        let body = json!({"serviceConfig": {"snippetCount": count, "s": [symbol]}});
        let page = Page {
            method: Method::POST,
            query: &[("queryRef", "latestNews"), ("serviceKey", "ncp_fin")],
            headers: browser(),
            body: body.to_string(),
            ..Page::get(NEWS_HOST, &["xhr", "ncp"])
        };
        let mut body = self.site.json(page).await?;
        let Value::Array(stories) = body["data"]["tickerStream"]["stream"].take() else {
            return Err(self.site.failure(FailureKind::BadResponse, "sent no list of news".to_owned()));
        };
        // Advertisements are mixed in with the stories.
        let stories = stories.into_iter().filter(|story| !story["content"].is_null());
        Ok(stories.take(count as usize).collect())
    }

    /// Asks with cookie and crumb, with fresh ones if the old have expired.
    async fn crumbed(&self, symbol: &str, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut visit = self.visit(None).await?;
        let mut answer = self.ask(&visit, path, query).await?;
        if answer.status == 401 {
            visit = self.visit(Some(&visit.crumb)).await?;
            answer = self.ask(&visit, path, query).await?;
        }
        if answer.is_limit() {
            self.forget(&visit).await;
        }
        self.body(answer, symbol)
    }

    async fn ask(&self, visit: &Visit, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, Failure> {
        let mut headers = browser();
        headers.insert(COOKIE, visit.cookie.clone());
        let query: Vec<_> = query.iter().copied().chain([("crumb", visit.crumb.as_str())]).collect();
        self.site.fetch(Page { query: &query, headers, ..Page::get(QUERY_HOST, path) }).await
    }

    fn body(&self, answer: Answer, symbol: &str) -> Result<Value, Failure> {
        if answer.status == 404 { Err(unknown(symbol)) } else { self.site.read(&answer) }
    }

    /// The current visit, or a new one if there is none or its crumb is `stale`. One at a time: others wait for it.
    async fn visit(&self, stale: Option<&str>) -> Result<Visit, Failure> {
        let mut present = self.visit.lock().await;
        if let Some(visit) = present.as_ref().filter(|visit| Some(visit.crumb.as_str()) != stale) {
            return Ok(visit.clone());
        }
        let visit = self.begin_visit().await?;
        *present = Some(visit.clone());
        Ok(visit)
    }

    /// The next visit is made as a new client.
    async fn forget(&self, stale: &Visit) {
        let mut present = self.visit.lock().await;
        if present.as_ref().is_some_and(|visit| visit.crumb == stale.crumb) {
            *present = None;
        }
    }

    async fn begin_visit(&self) -> Result<Visit, Failure> {
        // This page answers 404; it is fetched only for its cookie.
        let page = self.site.fetch(Page { headers: browser(), ..Page::get(COOKIE_HOST, &[""]) }).await?;
        if page.is_limit() {
            return Err(self.site.refused(&page));
        }
        let cookie = cookies(&page.headers)
            .ok_or_else(|| self.site.failure(FailureKind::Unavailable, "gave no cookie".to_owned()))?;
        let mut headers = browser();
        headers.insert(COOKIE, cookie.clone());
        let path = ["v1", "test", "getcrumb"];
        let answer = self.site.fetch(Page { headers, ..Page::get(QUERY_HOST, &path) }).await?;
        if answer.is_limit() || answer.status != 200 {
            return Err(self.site.refused(&answer));
        }
        let crumb = String::from_utf8_lossy(&answer.body).trim().to_owned();
        if crumb.is_empty() || crumb.len() > 64 || crumb.contains(|c: char| c.is_whitespace() || "<{".contains(c)) {
            return Err(self.site.failure(FailureKind::Unavailable, "gave no crumb".to_owned()));
        }
        Ok(Visit { cookie, crumb })
    }
}

fn browser() -> HeaderMap {
    HeaderMap::from_iter([(USER_AGENT, BROWSER)])
}

/// What a client sends back of the cookies it was given.
fn cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs: Vec<_> = given.filter_map(|cookie| cookie.split(';').next()).map(str::trim).collect();
    HeaderValue::from_str(&pairs.join("; ")).ok().filter(|cookie| !cookie.is_empty())
}

/// One line of an income statement, if it has amounts.
fn income_line(series: &Value) -> Option<(String, BTreeMap<i64, f64>)> {
    let kind = series["meta"]["type"][0].as_str()?;
    let times = series["timestamp"].as_array()?;
    let amounts = times
        .iter()
        .zip(series[kind].as_array()?)
        .filter_map(|(time, entry)| Some((time.as_i64()? * 1000, entry["reportedValue"]["raw"].as_f64()?)));
    Some((spaced(kind.strip_prefix("annual")?), amounts.collect()))
}

/// `NetIncome` as `Net Income`; abbreviations stay together.
fn spaced(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    let mut before = ' ';
    for c in name.chars() {
        if c.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.push(c);
        before = c;
    }
    words
}
