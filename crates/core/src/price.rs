//! What models cost: a dated list, which whoever runs this can replace.
//!
//! It must never know where the list comes from. The invariant: a model that is not in the list has no price, which is
//! not the price zero.

use crate::metrics::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The list that comes with the program.
const BUILT_IN: &str = include_str!("../prices.json");

/// A dated list of prices.
///
/// ```
/// use outlive_core::{Prices, Usage};
///
/// let text = r#"{
///     "date": "2026-11-01",
///     "currency": "EUR",
///     "models": { "house-model": { "input": 0.4, "cached_input": 0.1, "output": 1.6 } }
/// }"#;
/// let prices = Prices::parse(text).unwrap();
/// let usage = Usage { input_tokens: 1_000_000, output_tokens: 500_000, ..Usage::default() };
/// assert_eq!(prices.of("house-model").unwrap().cost(usage), 1_200_000_000);
/// assert!(prices.of("another").is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The day on which they were right, as `2026-11-01`.
    pub date: Arc<str>,
    /// The currency of all of them: its code, such as `USD`.
    pub currency: Arc<str>,
    /// By the id of the model.
    pub models: BTreeMap<String, Price>,
}

/// What a million tokens of a model cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of a prompt.
    pub input: f64,
    /// Of a prompt that the provider had cached; as others when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// Of a prompt that the provider puts into its cache; as others when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Of an answer, its reasoning included.
    pub output: f64,
    /// Of a call with a long prompt, where that costs more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongPrice>,
}

/// What a million tokens cost of a call whose prompt is long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongPrice {
    /// A prompt with more tokens than these is long.
    pub above: u64,
    /// Of a prompt.
    pub input: f64,
    /// Of a prompt that the provider had cached; as others when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// Of a prompt that the provider puts into its cache; as others when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Of an answer, its reasoning included.
    pub output: f64,
}

impl Price {
    /// What these tokens cost, in billionths of the currency, rounded up.
    pub fn cost(self, usage: Usage) -> u64 {
        let price = self.of_prompt(usage.input_tokens);
        let read = usage.cache_read_tokens.min(usage.input_tokens);
        let written = usage.cache_write_tokens.min(usage.input_tokens - read);
        let input = (usage.input_tokens - read - written) as f64 * price.input;
        let read = read as f64 * price.cached_input.unwrap_or(price.input);
        let written = written as f64 * price.cache_write.unwrap_or(price.input);
        // A million tokens at a price are as many thousandths of a billionth for one.
        let nanos = (input + read + written + usage.output_tokens as f64 * price.output) * 1e3;
        // Sums of binary fractions: what is a whole number is not to become the next.
        (nanos - 1e-3).ceil().max(0.0) as u64
    }

    /// The price of a call whose prompt has so many tokens.
    fn of_prompt(self, tokens: u64) -> Self {
        match self.long.filter(|long| tokens > long.above) {
            None => self,
            Some(LongPrice { input, cached_input, cache_write, output, .. }) => {
                Self { input, cached_input, cache_write, output, long: None }
            }
        }
    }

    /// Every number in it.
    fn numbers(self) -> impl Iterator<Item = f64> {
        let of = |price: Self| [Some(price.input), price.cached_input, price.cache_write, Some(price.output)];
        of(self).into_iter().chain(of(self.of_prompt(u64::MAX))).flatten()
    }
}

impl Prices {
    /// Those that come with the program.
    pub fn built_in() -> Arc<Self> {
        Arc::new(Self::parse(BUILT_IN).expect("the list that comes with the program can be read"))
    }

    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let prices: Self = serde_json::from_str(text).map_err(|error| format!("the prices cannot be read: {error}"))?;
        let parts: Vec<_> = prices.date.split('-').map(str::len).collect();
        if parts != [4, 2, 2] || !prices.date.bytes().all(|c| c.is_ascii_digit() || c == b'-') {
            return Err(format!("the prices have the date {:?}: write it as 2026-11-01", prices.date));
        }
        if prices.currency.len() != 3 || !prices.currency.bytes().all(|c| c.is_ascii_uppercase()) {
            return Err(format!("the prices have the currency {:?}: write its code, such as USD", prices.currency));
        }
        for (model, price) in &prices.models {
            // Nothing costs a thousand for each token.
            if price.numbers().any(|price| !(0.0..=1e9).contains(&price)) {
                return Err(format!("a price of model {model:?} is below 0 or beyond all measure: correct it"));
            }
        }
        Ok(prices)
    }

    /// The price of a model: of this id, or of the id without the date at its end (`-2025-12-11`, `-20251211`).
    pub fn of(&self, model: &str) -> Option<Price> {
        let undated = |len: usize| {
            let (id, date) = model.split_at_checked(model.len().checked_sub(len)?)?;
            let date = date.strip_prefix('-')?;
            let parts: Vec<_> = date.split('-').collect();
            let is_date = matches!(parts.iter().map(|part| part.len()).collect::<Vec<_>>()[..], [4, 2, 2] | [8])
                && date.bytes().all(|c| c.is_ascii_digit() || c == b'-');
            is_date.then(|| self.models.get(id)).flatten()
        };
        self.models.get(model).or_else(|| undated(11)).or_else(|| undated(9)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_the_program_is_sound_and_dated() {
        let prices = Prices::built_in();
        assert_eq!(&*prices.currency, "USD");
        assert!(prices.of("gpt-5.2").is_some());
        assert_eq!(prices.of("gpt-5.2-2025-12-11"), prices.of("gpt-5.2"));
        assert!(prices.of("claude-sonnet-4-5").is_some_and(|price| price.cache_write.is_some()));
        assert_eq!(prices.of("claude-sonnet-4-5-20250929"), prices.of("claude-sonnet-4-5"));
        assert!(prices.of("gemini-2.5-flash").is_some());
        assert_eq!(prices.of("claude-sonnet-4-5-2025-929"), None);
        assert_eq!(prices.of("gpt-5.2-beta"), None);
        assert_eq!(prices.of("ü-2025-12-11"), None);
    }

    #[test]
    fn cached_tokens_cost_their_own_price_and_nothing_is_lost_in_rounding() {
        let price = Price { input: 1.75, cached_input: Some(0.175), cache_write: None, output: 14.0, long: None };
        let usage = Usage { input_tokens: 1000, cache_read_tokens: 400, output_tokens: 10, ..Usage::default() };
        assert_eq!(price.cost(usage), 600 * 1750 + 400 * 175 + 10 * 14_000);
        assert_eq!(price.cost(Usage::default()), 0);
        let tiny = Price { input: 0.000_1, cached_input: None, output: 0.0, ..price };
        assert_eq!(tiny.cost(Usage { input_tokens: 1, ..Usage::default() }), 1, "rounded up");
    }

    #[test]
    fn what_goes_into_a_cache_and_a_long_prompt_cost_their_own_prices() {
        let text = r#"{"input": 3, "cached_input": 0.3, "cache_write": 3.75, "output": 15,
            "long": {"above": 1000, "input": 6, "cached_input": 0.6, "cache_write": 7.5, "output": 22.5}}"#;
        let price: Price = serde_json::from_str(text).unwrap();
        let usage = Usage {
            input_tokens: 1000,
            cache_read_tokens: 200,
            cache_write_tokens: 300,
            output_tokens: 10,
            ..Usage::default()
        };
        assert_eq!(price.cost(usage), 500 * 3000 + 200 * 300 + 300 * 3750 + 10 * 15_000);
        let long = Usage { input_tokens: 1001, ..usage };
        assert_eq!(price.cost(long), 501 * 6000 + 200 * 600 + 300 * 7500 + 10 * 22_500);
        let odd = Usage { cache_write_tokens: 5000, ..usage };
        assert_eq!(price.cost(odd), 200 * 300 + 800 * 3750 + 10 * 15_000, "no more than there is");
    }

    #[test]
    fn a_list_with_a_mistake_is_refused_with_the_reason() {
        let with = |date: &str, currency: &str, price: &str| {
            let text = format!(r#"{{"date":"{date}","currency":"{currency}","models":{{"m":{price}}}}}"#);
            Prices::parse(&text).expect_err("it has a mistake")
        };
        let good = r#"{"input":1,"output":1}"#;
        assert!(with("yesterday", "USD", good).contains("2026-11-01"));
        assert!(with("2026-11-01", "dollars", good).contains("USD"));
        assert!(with("2026-11-01", "USD", r#"{"input":-1,"output":1}"#).contains("\"m\""));
        assert!(with("2026-11-01", "USD", r#"{"input":1}"#).contains("output"));
        assert!(with("2026-11-01", "USD", r#"{"input":1,"output":1,"per":"k"}"#).contains("per"));
    }
}
