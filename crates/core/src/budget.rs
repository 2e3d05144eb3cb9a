//! Budgets: how much money, how many tokens or calls a run, a session, a user or a day may use.
//!
//! Only data and sums. What is left of a budget is in the store ([`crate::port::BudgetStanding`]): this module says which
//! account a call counts against, and how much. It must never know a store, a model or a clock. The invariant: amounts
//! are whole numbers, so that sums are exact: tokens, calls, and billionths of a currency.

use crate::metrics::Usage;
use crate::port::BudgetAccount;
use crate::price::Prices;
use crate::run::RunInfo;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Billionths of a currency in one.
const NANOS: f64 = 1e9;

/// The most that can be counted: what fits into a column.
const AMOUNT_MAX: u64 = i64::MAX as u64;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum BudgetUnit {
    /// Tokens of models, of prompts and answers together.
    Tokens,
    /// Calls of models.
    Calls,
    /// Money of this currency, in billionths of it.
    Money(Arc<str>),
}

impl BudgetUnit {
    /// The word that programs read: `tokens`, `calls`, or the currency.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tokens => "tokens",
            Self::Calls => "calls",
            Self::Money(currency) => currency,
        }
    }

    /// An amount as people write it: `0.25 USD`, `1200 tokens`.
    pub fn show(&self, amount: u64) -> String {
        match self {
            Self::Money(currency) => {
                let (whole, parts) = (amount / 1_000_000_000, amount % 1_000_000_000);
                let parts = format!("{parts:09}");
                let parts = parts.trim_end_matches('0');
                format!("{whole}.{parts:0<2} {currency}")
            }
            Self::Calls if amount == 1 => "1 call".to_owned(),
            Self::Tokens if amount == 1 => "1 token".to_owned(),
            Self::Tokens | Self::Calls => format!("{amount} {}", self.as_str()),
        }
    }

    /// An amount as programs write it: money as a number of its currency.
    pub fn number(&self, amount: u64) -> serde_json::Value {
        match self {
            Self::Money(_) => (amount as f64 / NANOS).into(),
            Self::Tokens | Self::Calls => amount.into(),
        }
    }

    /// The amount that such a number means; money is rounded to a billionth.
    ///
    /// # Errors
    /// Why it means none, in words for whoever wrote it, behind what it is about.
    pub fn amount(&self, number: &serde_json::Value) -> Result<u64, String> {
        let Some(float) = number.as_f64() else { return Err(format!("a number is expected ({})", self.as_str())) };
        if let (Self::Tokens | Self::Calls, Some(amount)) = (self, number.as_u64()) {
            return if amount <= AMOUNT_MAX { Ok(amount) } else { Err(self.problem(NoAmount::TooMuch)) };
        }
        self.measured(float).map_err(|why| self.problem(why))
    }

    /// The same of a number in a text.
    ///
    /// # Errors
    /// As [`BudgetUnit::amount`].
    pub fn amount_of(&self, text: &str) -> Result<u64, String> {
        let is_number = text.bytes().all(|c| c.is_ascii_digit() || b"+-.eE".contains(&c));
        match (serde_json::from_str(text), text.parse::<f64>()) {
            (Ok(number), _) => self.amount(&number),
            // Larger than any number of the machine, or with a sign or a point where JSON has none.
            (Err(_), Ok(float)) if is_number => self.measured(float).map_err(|why| self.problem(why)),
            _ => self.amount(&serde_json::Value::Null),
        }
    }

    fn measured(&self, number: f64) -> Result<u64, NoAmount> {
        match self {
            _ if number < 0.0 => Err(NoAmount::Negative),
            Self::Money(_) => nanos(number),
            Self::Tokens | Self::Calls if number.is_nan() => Err(NoAmount::NotWhole),
            Self::Tokens | Self::Calls if number >= AMOUNT_MAX as f64 => Err(NoAmount::TooMuch),
            Self::Tokens | Self::Calls if number.fract() != 0.0 => Err(NoAmount::NotWhole),
            Self::Tokens | Self::Calls => Ok(number as u64),
        }
    }

    fn problem(&self, why: NoAmount) -> String {
        let most = match self {
            Self::Money(_) => AMOUNT_MAX / 1_000_000_000 * 1_000_000_000,
            Self::Tokens | Self::Calls => AMOUNT_MAX,
        };
        match why {
            NoAmount::Negative => "it must not be below 0".to_owned(),
            NoAmount::NotWhole => format!("{} are counted in whole numbers", self.as_str()),
            NoAmount::TooMuch => format!("it is more than can be counted: at most {}", self.show(most)),
            NoAmount::TooFine => format!("it is less than can be counted: at least {}", self.show(1)),
        }
    }
}

impl From<String> for BudgetUnit {
    fn from(word: String) -> Self {
        match word.as_str() {
            "tokens" => Self::Tokens,
            "calls" => Self::Calls,
            _ => Self::Money(Arc::from(word)),
        }
    }
}

impl From<BudgetUnit> for String {
    fn from(unit: BudgetUnit) -> Self {
        unit.as_str().to_owned()
    }
}

/// Why a number is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoAmount {
    Negative,
    NotWhole,
    TooMuch,
    TooFine,
}

/// The billionths of an amount of money, which is not negative.
fn nanos(money: f64) -> Result<u64, NoAmount> {
    let nanos = (money * NANOS).round();
    // Compared as what it is before it becomes a whole number.
    match nanos {
        _ if nanos.is_nan() => Err(NoAmount::NotWhole),
        _ if nanos >= AMOUNT_MAX as f64 => Err(NoAmount::TooMuch),
        _ if nanos == 0.0 && money > 0.0 => Err(NoAmount::TooFine),
        _ => Ok(nanos as u64),
    }
}

/// Whose use is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// That of a run.
    Run,
    /// That of all runs of a session.
    Session,
    /// That of all runs of a user; runs without a user count as one user's.
    User,
    /// That of all runs.
    All,
}

impl BudgetScope {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Run, Self::Session, Self::User, Self::All];

    /// The word that programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Session => "session",
            Self::User => "user",
            Self::All => "all",
        }
    }
}

/// How much may be used, of one thing, by whom, and in which time. Past it, a call of a model becomes a question to
/// people.
///
/// ```
/// use outlive_core::Budget;
///
/// assert_eq!(Budget::usd(5.0).per_run().to_string(), "5.00 USD per run");
/// assert_eq!(Budget::calls(50).per_user_per_day().to_string(), "50 calls per user and day");
/// assert_eq!(Budget::tokens(1_000_000).per_session().to_string(), "1000000 tokens per session");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BudgetData", into = "BudgetData")]
pub struct Budget {
    /// What is counted.
    pub unit: BudgetUnit,
    /// How much of it, in the unit's whole numbers.
    pub limit: u64,
    /// Whose use.
    pub per: BudgetScope,
    /// Whether each day begins anew.
    pub daily: bool,
    /// By whose clocks days begin, as a name of the IANA time zone database; none is UTC.
    pub time_zone: Option<Arc<str>>,
    /// Counted together by all workflows that have a budget of this name, unit and scope; none is the workflow's own.
    pub shared: Option<Arc<str>>,
}

/// A budget as JSON: `{"limit": 5.0, "unit": "USD", "per": "run"}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetData {
    limit: serde_json::Value,
    unit: BudgetUnit,
    per: BudgetScope,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    daily: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_zone: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<Arc<str>>,
}

impl TryFrom<BudgetData> for Budget {
    type Error = String;

    fn try_from(BudgetData { limit, unit, per, daily, time_zone, shared }: BudgetData) -> Result<Self, String> {
        let amount = unit.amount(&limit);
        let limit = amount.map_err(|problem| format!("the limit of a budget is {limit}: {problem}"))?;
        Ok(Self { unit, limit, per, daily, time_zone, shared })
    }
}

impl From<Budget> for BudgetData {
    fn from(Budget { unit, limit, per, daily, time_zone, shared }: Budget) -> Self {
        Self { limit: unit.number(limit), unit, per, daily, time_zone, shared }
    }
}

/// A day, as a budget counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetDay {
    /// As `2026-11-27`.
    pub date: Arc<str>,
    /// When it is over.
    pub ends_at: Timestamp,
}

impl BudgetDay {
    /// The day in UTC.
    pub fn utc(now: Timestamp) -> Self {
        const DAY: i64 = 86_400;
        let day = now.as_seconds().div_euclid(DAY);
        let begins_at = Timestamp::from_seconds(day * DAY);
        Self { date: Arc::from(&begins_at.to_rfc3339()[..10]), ends_at: Timestamp::from_seconds((day + 1) * DAY) }
    }
}

/// An amount that is to become a [`Budget`]: say per what.
#[derive(Clone, Debug)]
#[must_use = "say per what: .per_run(), .per_session(), .per_user() …"]
pub struct Allowance {
    unit: BudgetUnit,
    /// What `build()` refuses, when it was no amount: 0, or more than can be counted.
    limit: u64,
}

impl Budget {
    /// So many US dollars.
    pub fn usd(amount: f64) -> Allowance {
        Self::money(amount, "USD")
    }

    /// So much money of this currency, which is that of the prices.
    pub fn money(amount: f64, currency: impl AsRef<str>) -> Allowance {
        let unit = BudgetUnit::Money(Arc::from(currency.as_ref()));
        let limit = unit.measured(amount).unwrap_or_else(|why| if why == NoAmount::TooMuch { u64::MAX } else { 0 });
        Allowance { unit, limit }
    }

    /// So many tokens.
    pub fn tokens(amount: u64) -> Allowance {
        Allowance { unit: BudgetUnit::Tokens, limit: amount }
    }

    /// So many calls of models.
    pub fn calls(amount: u64) -> Allowance {
        Allowance { unit: BudgetUnit::Calls, limit: amount }
    }

    /// Counted together with the budgets of this name that other workflows have, of the same unit and scope.
    #[must_use]
    pub fn shared(self, name: impl AsRef<str>) -> Self {
        Self { shared: Some(Arc::from(name.as_ref())), ..self }
    }

    /// Days begin by the clocks of this time zone, a name of the IANA database such as `Europe/Berlin`: they have 23 or 25
    /// hours where clocks are changed.
    #[must_use]
    pub fn time_zone(self, name: impl AsRef<str>) -> Self {
        Self { time_zone: Some(Arc::from(name.as_ref())), ..self }
    }

    /// What it is among the budgets of a workflow, whatever its limit: `USD/run`, `calls/user/day`,
    /// `calls/day@Europe/Berlin`.
    pub fn name(&self) -> String {
        let day = if self.daily { "/day" } else { "" };
        let zone = self.time_zone.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
        let shared = self.shared.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("{}/{}{day}{zone}{shared}", self.unit.as_str(), self.per.as_str())
    }

    /// What is wrong with it, in words for a person.
    pub(crate) fn problem(&self) -> Option<String> {
        let is_currency = |currency: &str| currency.len() == 3 && currency.bytes().all(|c| c.is_ascii_uppercase());
        match &self.unit {
            BudgetUnit::Money(currency) if !is_currency(currency) => {
                Some(format!("a budget has the currency {currency:?}: write its code, such as USD"))
            }
            unit if self.limit == 0 => {
                let least = unit.show(1);
                Some(format!("the limit of a budget ({}) must be more than 0, at least {least}", self.name()))
            }
            unit if self.limit > AMOUNT_MAX => {
                let problem = unit.problem(NoAmount::TooMuch);
                Some(format!("the limit of a budget ({}) is too large: {problem}", self.name()))
            }
            _ if self.time_zone.is_some() && !self.daily => Some(format!(
                "a budget ({}) has a time zone and no days: make it one per day, or leave the time zone out",
                self.name()
            )),
            _ if self.shared.as_ref().is_some_and(|name| name.trim().is_empty() || name.len() > 128) => {
                Some("the name of a shared budget must have 1 to 128 bytes".to_owned())
            }
            _ => None,
        }
    }

    /// The account that a call at this time counts against, if days are those of UTC.
    pub fn account(&self, run: &RunInfo, now: Timestamp) -> BudgetAccount {
        self.account_on(run, BudgetDay::utc(now))
    }

    /// The account that a call on this day counts against.
    pub fn account_on(&self, run: &RunInfo, day: BudgetDay) -> BudgetAccount {
        let owner = match &self.shared {
            Some(name) => format!("shared:{name}"),
            None => run.workflow_id.to_string(),
        };
        let subject = match self.per {
            BudgetScope::Run => run.run_id.as_str(),
            BudgetScope::Session => run.session_id.as_str(),
            BudgetScope::User => run.user_id.as_deref().unwrap_or_default(),
            BudgetScope::All => "",
        };
        let day = Some(day).filter(|_| self.daily);
        let unit = self.unit.as_str();
        // What may hold any character stands last; no name of a time zone has a colon.
        let period = match (&day, &self.time_zone) {
            (None, _) => "-".to_owned(),
            (Some(day), None) => day.date.to_string(),
            (Some(day), Some(zone)) => format!("{}@{zone}", day.date),
        };
        let id = format!("{unit}/{}/{period}/{}:{owner}/{subject}", self.per.as_str(), owner.len());
        BudgetAccount {
            id: Arc::from(id),
            owner: Arc::from(owner),
            unit: self.unit.clone(),
            per: self.per,
            subject: Arc::from(subject),
            time_zone: self.time_zone.clone().filter(|_| self.daily),
            ends_at: day.as_ref().map(|day| day.ends_at),
            day: day.map(|day| day.date),
            user_id: run.user_id.clone().filter(|_| self.per != BudgetScope::All),
            limit: self.limit,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per ", self.unit.show(self.limit))?;
        f.write_str(match (self.per, self.daily) {
            (BudgetScope::Run, false) => "run",
            (BudgetScope::Run, true) => "run and day",
            (BudgetScope::Session, false) => "session",
            (BudgetScope::Session, true) => "session and day",
            (BudgetScope::User, false) => "user",
            (BudgetScope::User, true) => "user and day",
            (BudgetScope::All, false) => "workflow",
            (BudgetScope::All, true) => "day",
        })?;
        self.time_zone.iter().try_for_each(|zone| write!(f, " ({zone})"))
    }
}

impl Allowance {
    /// For each run.
    pub fn per_run(self) -> Budget {
        self.per(BudgetScope::Run, false)
    }

    /// For all runs of a session together.
    pub fn per_session(self) -> Budget {
        self.per(BudgetScope::Session, false)
    }

    /// For all runs of a user together.
    pub fn per_user(self) -> Budget {
        self.per(BudgetScope::User, false)
    }

    /// For all runs of a day together. Days are those of UTC, unless it has a [`Budget::time_zone`].
    pub fn per_day(self) -> Budget {
        self.per(BudgetScope::All, true)
    }

    /// For all runs of a session on a day together.
    pub fn per_session_per_day(self) -> Budget {
        self.per(BudgetScope::Session, true)
    }

    /// For all runs of a user on a day together.
    pub fn per_user_per_day(self) -> Budget {
        self.per(BudgetScope::User, true)
    }

    fn per(self, per: BudgetScope, daily: bool) -> Budget {
        Budget { unit: self.unit, limit: self.limit, per, daily, time_zone: None, shared: None }
    }
}

/// What calls use, or may use: what budgets count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spend {
    /// Calls.
    pub calls: u64,
    /// Tokens.
    pub tokens: u64,
    /// Money, in billionths of the currency of the prices.
    #[serde(skip_serializing_if = "is_zero")]
    pub nanos: u64,
}

fn is_zero(amount: &u64) -> bool {
    *amount == 0
}

impl Spend {
    /// How much of this a budget counts.
    pub fn of(self, unit: &BudgetUnit) -> u64 {
        let amount = match unit {
            BudgetUnit::Tokens => self.tokens,
            BudgetUnit::Calls => self.calls,
            BudgetUnit::Money(_) => self.nanos,
        };
        amount.min(AMOUNT_MAX)
    }
}

/// What a workflow's runs may use, and what it costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spending {
    /// The budgets.
    pub budgets: Vec<Budget>,
    /// What models cost; none when nobody asked.
    pub prices: Option<Arc<Prices>>,
}

impl Spending {
    /// What runs with these models may use; none when nothing is limited and no prices are given.
    ///
    /// # Errors
    /// What is wrong with the budgets, in words for a person.
    pub(crate) fn new(
        budgets: Vec<Budget>,
        prices: Option<Arc<Prices>>,
        models: &[String],
    ) -> Result<Option<Arc<Self>>, Vec<String>> {
        if budgets.is_empty() && prices.is_none() {
            return Ok(None);
        }
        let mut problems: Vec<String> = budgets.iter().filter_map(Budget::problem).collect();
        let names: Vec<_> = budgets.iter().map(Budget::name).collect();
        let twice = names.iter().enumerate().filter(|(at, name)| names[..*at].contains(name));
        problems.extend(twice.map(|(_, name)| format!("it has two budgets {name}: leave one of them out")));
        let prices = prices.or_else(|| {
            let limits_money = budgets.iter().any(|budget| matches!(budget.unit, BudgetUnit::Money(_)));
            limits_money.then(Prices::built_in)
        });
        let currencies = budgets.iter().filter_map(|budget| match &budget.unit {
            BudgetUnit::Money(currency) => Some(currency),
            BudgetUnit::Tokens | BudgetUnit::Calls => None,
        });
        for currency in currencies {
            let Some(prices) = &prices else { continue };
            if *currency != prices.currency {
                let given = &prices.currency;
                problems.push(format!(
                    "a budget is in {currency}, and the prices are in {given}: give prices in {currency} \
                     with .prices(..), in a file under prices"
                ));
            }
            let mut unknown: Vec<_> = models.iter().filter(|model| prices.of(model).is_none()).collect();
            unknown.sort();
            unknown.dedup();
            problems.extend(unknown.into_iter().map(|model| {
                let date = &prices.date;
                format!(
                    "a budget is in {currency}, and the prices of {date} have none for model {model:?}: give prices that \
                     have it with .prices(..), in a file under prices, or limit tokens or calls"
                )
            }));
        }
        problems.dedup();
        if problems.is_empty() { Ok(Some(Arc::new(Self { budgets, prices }))) } else { Err(problems) }
    }

    /// What one call of this model used or may use.
    pub fn of_call(&self, model: &str, usage: Usage) -> Spend {
        let tokens = usage.total_tokens.max(usage.input_tokens.saturating_add(usage.output_tokens));
        Spend { calls: 1, tokens, nanos: self.cost(model, usage).unwrap_or(0) }
    }

    /// What these tokens of this model cost, in billionths; none where no price is known.
    pub fn cost(&self, model: &str, usage: Usage) -> Option<u64> {
        self.prices.as_ref()?.of(model).map(|price| price.cost(usage))
    }
}

/// Why a call may not be made: a budget has too little left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// The budget's [name](Budget::name).
    pub name: Arc<str>,
    /// In words: `5.00 USD per run`.
    pub budget: Arc<str>,
    /// What it counts.
    pub unit: BudgetUnit,
    /// How much there is, with what people have added.
    pub limit: u64,
    /// How much of it is used or reserved.
    pub used: u64,
    /// How much more the call may use at most.
    pub wanted: u64,
}

impl Over {
    /// Whether its budget is that of one run, and not one that runs share.
    pub fn is_of_run(&self) -> bool {
        self.name.split('/').nth(1) == Some(BudgetScope::Run.as_str())
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |amount| self.unit.show(amount);
        write!(f, "the budget of {} has too little left: {} of {}", self.budget, show(self.used), show(self.limit))?;
        write!(f, " are used or reserved, and the call may use {}", show(self.wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DefinitionId, RunId, SessionId};
    use serde_json::json;

    fn run(user: Option<&str>) -> RunInfo {
        RunInfo {
            run_id: RunId::parse("r1").expect("a good id"),
            session_id: SessionId::parse("s1").expect("a good id"),
            workflow_id: DefinitionId::parse("flow").expect("a good id"),
            workflow_name: Arc::from("Flow"),
            user_id: user.map(Arc::from),
        }
    }

    #[test]
    fn a_day_is_one_of_utc_and_has_an_account_of_its_own() {
        let budget = Budget::calls(3).per_user_per_day();
        let at = |seconds| budget.account(&run(Some("ada")), Timestamp::from_seconds(seconds));
        let (first, last, next) = (at(86_400), at(2 * 86_400 - 1), at(2 * 86_400));
        assert_eq!(first, last);
        assert_eq!((first.day.as_deref(), next.day.as_deref()), (Some("1970-01-02"), Some("1970-01-03")));
        assert_ne!(first.id, next.id);
        assert_eq!(first.ends_at, Some(Timestamp::from_seconds(2 * 86_400)));
    }

    #[test]
    fn nobody_can_choose_a_name_that_makes_two_accounts_one() {
        let now = Timestamp::from_seconds(0);
        let mut ids = std::collections::BTreeSet::new();
        let users = [None, Some("a"), Some("a/b"), Some("b"), Some("1970-01-01/a"), Some("4:flow/a"), Some("b/a")];
        let units = [Budget::usd(1.0), Budget::tokens(1), Budget::calls(1)];
        let mut accounts = 0;
        for unit in units {
            let budgets = [
                unit.clone().per_user(),
                unit.clone().per_user_per_day(),
                unit.clone().per_user().shared("flow"),
                unit.clone().per_user().shared("flow/a"),
                unit.clone().per_user().shared("4:flow"),
                unit.clone().per_user_per_day().time_zone("Etc/4"),
            ];
            for budget in budgets {
                for user in users {
                    accounts += 1;
                    ids.insert(budget.account(&run(user), now).id);
                }
            }
        }
        assert_eq!(ids.len(), accounts);
    }

    #[test]
    fn amounts_are_shown_as_people_write_them_and_read_as_programs_do() {
        let usd = BudgetUnit::Money(Arc::from("USD"));
        for (amount, shown) in
            [(0, "0.00 USD"), (250_000_000, "0.25 USD"), (5_000_000_000, "5.00 USD"), (7, "0.000000007 USD")]
        {
            assert_eq!(usd.show(amount), shown);
            assert_eq!(usd.amount(&usd.number(amount)), Ok(amount));
        }
        assert_eq!(BudgetUnit::Calls.show(1), "1 call");
        assert_eq!((usd.amount(&json!(0.1 + 0.2)), usd.amount(&json!(0))), (Ok(300_000_000), Ok(0)));
        assert_eq!((BudgetUnit::Calls.amount(&json!(3.0)), BudgetUnit::Calls.amount_of("3e2")), (Ok(3), Ok(300)));
    }

    #[test]
    fn what_is_no_amount_is_refused_in_words_that_say_why() {
        let usd = BudgetUnit::Money(Arc::from("USD"));
        let huge = "it is more than can be counted: at most";
        let (money, tokens) = (format!("{huge} 9223372036.00 USD"), format!("{huge} 9223372036854775807 tokens"));
        let fine = "it is less than can be counted: at least 0.000000001 USD";
        let (below, whole) = ("it must not be below 0", "tokens are counted in whole numbers");
        for (number, of_money, of_tokens) in [
            ("-1", below, below),
            ("-0.5", below, below),
            ("-1e300", below, below),
            ("-1e999", below, below),
            ("1e300", &money, &tokens),
            ("1e999", &money, &tokens),
            ("9223372037", &money, ""),
            ("9223372036854775808", &money, &tokens),
            ("18446744073709551616", &money, &tokens),
            ("1.5", "", whole),
            ("1e-12", fine, whole),
            ("NaN", "a number is expected (USD)", "a number is expected (tokens)"),
            ("inf", "a number is expected (USD)", "a number is expected (tokens)"),
            ("five", "a number is expected (USD)", "a number is expected (tokens)"),
            ("\"5\"", "a number is expected (USD)", "a number is expected (tokens)"),
            ("null", "a number is expected (USD)", "a number is expected (tokens)"),
            ("", "a number is expected (USD)", "a number is expected (tokens)"),
        ] {
            let told = |found: Result<u64, String>| found.err().unwrap_or_default();
            assert_eq!(told(usd.amount_of(number)), of_money, "{number} USD");
            assert_eq!(told(BudgetUnit::Tokens.amount_of(number)), of_tokens, "{number} tokens");
            // The same of a number that was read elsewhere.
            if let Ok(read) = serde_json::from_str::<serde_json::Value>(number) {
                assert_eq!(
                    (told(usd.amount(&read)), told(BudgetUnit::Tokens.amount(&read))),
                    (of_money.to_owned(), of_tokens.to_owned())
                );
            }
        }
    }

    #[test]
    fn a_time_zone_has_accounts_of_its_own_and_belongs_to_days() {
        let now = Timestamp::from_seconds(86_400);
        let utc = Budget::calls(3).per_user_per_day();
        let berlin = utc.clone().time_zone("Europe/Berlin");
        assert_eq!(berlin.to_string(), "3 calls per user and day (Europe/Berlin)");
        assert_eq!(berlin.name(), "calls/user/day@Europe/Berlin");
        let day = BudgetDay { date: Arc::from("1970-01-02"), ends_at: Timestamp::from_seconds(5) };
        let (one, other) = (utc.account(&run(None), now), berlin.account_on(&run(None), day));
        assert_eq!((&one.day, one.time_zone), (&other.day, None));
        assert_eq!(
            (other.time_zone.as_deref(), other.ends_at),
            (Some("Europe/Berlin"), Some(Timestamp::from_seconds(5)))
        );
        assert_ne!(one.id, other.id);
        assert!(
            Budget::calls(3).per_run().time_zone("UTC").problem().is_some_and(|problem| problem.contains("per day"))
        );
    }

    #[test]
    fn a_budget_that_limits_nothing_or_everything_is_refused() {
        for (bad, why) in [
            (Budget::usd(0.0), "more than 0, at least 0.000000001 USD"),
            (Budget::usd(-1.0), "more than 0"),
            (Budget::usd(f64::NEG_INFINITY), "more than 0"),
            (Budget::usd(f64::NAN), "more than 0"),
            (Budget::usd(1e-12), "more than 0, at least 0.000000001 USD"),
            (Budget::usd(1e20), "more than can be counted: at most 9223372036.00 USD"),
            (Budget::usd(f64::INFINITY), "more than can be counted"),
            (Budget::calls(0), "more than 0, at least 1 call"),
            (Budget::calls(u64::MAX), "more than can be counted: at most 9223372036854775807 calls"),
        ] {
            let problem = bad.clone().per_run().problem();
            assert!(problem.as_ref().is_some_and(|problem| problem.contains(why)), "{bad:?}: {problem:?}");
        }
        assert!(Budget::money(1.0, "dollars").per_run().problem().is_some_and(|problem| problem.contains("USD")));
        assert_eq!(Budget::money(1.0, "EUR").per_day().problem(), None);
    }
}
