//! Models under names of one's own, as settings and files describe them: `fast` is this model, with that temperature and
//! those that stand in for it.
//!
//! It must never know where a description comes from. Invariant: a description holds no secret, only the name of the
//! variable that does.

use super::providers::{did_you_mean, nearest_of, split};
use super::{IntoModel, SharedModel};
use crate::http;
use outlive_core::Redactor;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is said about a model. What is left out is up to the provider.
///
/// ```
/// use outlive_agent::model::ModelProfiles;
///
/// let profiles: ModelProfiles = serde_json::from_str(
///     r#"{ "fast": { "model": "ollama:qwen3", "temperature": 0.2, "fallbacks": ["openai:gpt-5-mini"] } }"#,
/// )
/// .unwrap();
/// let fast = profiles.resolve("fast").unwrap();
/// assert_eq!(fast.model.info().model, "qwen3");
/// assert_eq!(fast.fallbacks[0].info().model, "gpt-5-mini");
/// assert!(profiles.resolve("fats").err().unwrap().contains("did you mean fast?"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelProfile {
    /// A provider, a colon and its id of the model: `anthropic:claude-opus-5-5`.
    pub model: String,
    /// The address of the server, in place of the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The environment variable that holds the key, in place of the provider's own; `none` sends no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_variable: Option<String>,
    /// How freely the model chooses its words, 0 to 2.
    #[schemars(range(min = 0, max = 2))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The share of likely words it chooses among, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// The longest answer, in tokens, reasoning included.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// How long a reasoning model thinks: `low`, `medium`, `high`, or whatever else it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// How many tokens it may think with, where the provider counts that: Anthropic and Google.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_budget: Option<u64>,
    /// How long to wait for it, as `90s` or `5m`; 10 minutes when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Requests in a minute, at most.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens in a minute, at most.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Answers go on at the provider, which stores them, while nobody listens: OpenAI's Responses alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Models that are asked in its place when it cannot answer, in this order: names of profiles, or of models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
    /// Any other field of the request body.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
}

/// Models by names of one's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ModelProfiles(pub BTreeMap<String, ModelProfile>);

/// A model, with those that stand in for it.
#[derive(Clone)]
pub struct ResolvedModel {
    /// The model.
    pub model: SharedModel,
    /// Those that are asked in its place when it cannot answer, in this order.
    pub fallbacks: Vec<SharedModel>,
}

impl ModelProfiles {
    /// The model of this name: that of a profile, or the one that [`parse`](super::parse) finds. A profile that stands in
    /// for another contributes its model, and not those that would stand in for it.
    ///
    /// # Errors
    /// What is wrong with the name or the profile, in words that name both.
    pub fn resolve(&self, name: &str) -> Result<ResolvedModel, String> {
        let Some(profile) = self.0.get(name.trim()) else {
            return Ok(ResolvedModel { model: self.one(name)?, fallbacks: Vec::new() });
        };
        let model = self.one(name)?;
        let fallbacks = profile.fallbacks.iter().map(|other| match other.trim() == name.trim() {
            true => Err("it would stand in for itself".to_owned()),
            false => self.one(other),
        });
        let fallbacks = fallbacks.collect::<Result<_, _>>();
        Ok(ResolvedModel { model, fallbacks: fallbacks.map_err(|problem| format!("fallbacks of {name}: {problem}"))? })
    }

    /// What is wrong with any of them, in words that begin with its name.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for name in self.0.keys() {
            let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(is_legal) {
                problems.push(format!("{name:?}: name a profile with letters, digits, _ and -"));
            } else if let Err(problem) = self.resolve(name) {
                problems.push(format!("{name}: {problem}"));
            }
        }
        problems
    }

    fn one(&self, name: &str) -> Result<SharedModel, String> {
        let name = name.trim();
        match self.0.get(name) {
            Some(profile) => profile.open(),
            None if name.contains(':') => name.into_model(),
            None => match nearest_of(name, self.0.keys().map(String::as_str)) {
                Some(meant) => Err(format!("there is no model {name:?}: {}", did_you_mean(meant))),
                None => name.into_model(),
            },
        }
    }
}

impl ModelProfile {
    /// The model that it describes.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn open(&self) -> Result<SharedModel, String> {
        let (provider, id) = split(&self.model)?;
        let range = |name: &str, value: Option<f64>, most: f64| match value {
            Some(value) if !(0.0..=most).contains(&value) => Err(format!("{name} is {value}: write 0 to {most}")),
            _ => Ok(()),
        };
        range("temperature", self.temperature, 2.0)?;
        range("top_p", self.top_p, 1.0)?;
        if self.max_output_tokens == Some(0) {
            return Err("max_output_tokens is 0: an answer needs at least one".to_owned());
        }
        if self.background && provider.name() != "openai" {
            return Err(format!("background is for openai alone, and {} has no such mode", self.model.trim()));
        }
        // A key that stands here by mistake is not repeated.
        if self.api_key_variable.as_ref().is_some_and(|name| name != "none" && !is_variable(name)) {
            let remedy = "write its name in capitals, such as HOUSE_KEY, or none";
            return Err(format!("api_key_variable has not the form of an environment variable: {remedy}"));
        }
        if self.base_url.as_ref().is_some_and(|base| holds_secret(base)) {
            let remedy = "take it out, and name the variable of a key with api_key_variable";
            return Err(format!("base_url holds a secret, and is stored with runs: {remedy}"));
        }
        if let Some(Err(problem)) = self.base_url.as_ref().map(|base| http::join(base, &[])) {
            return Err(format!("base_url {problem}: write one such as http://127.0.0.1:8080/v1"));
        }
        if let Some(name) = self.parameters.iter().find_map(|(name, value)| secret_in(name, value)) {
            let remedy = "take it out, and name the variable of a key with api_key_variable";
            return Err(format!("parameters hold a secret ({name}), and are stored with runs: {remedy}"));
        }
        self.timeout()?;
        Ok(provider.open(id, self))
    }

    /// The limit of time that it names.
    ///
    /// # Errors
    /// When it is no time, in words.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, String> {
        let Some(text) = &self.timeout else { return Ok(None) };
        let is_named = text.trim().ends_with(|c: char| c.is_ascii_alphabetic());
        let limit = super::wire::span(text).filter(|limit| is_named && !limit.is_zero());
        limit.map(Some).ok_or_else(|| format!("timeout is {text:?}: write a time such as 90s or 5m"))
    }
}

/// Whether it has the form of the name of a variable that holds a key.
fn is_variable(name: &str) -> bool {
    let is_one = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    name.bytes().all(is_one) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Parts of the names of secrets, with `_` between words.
const SECRET_PARTS: [&str; 17] = [
    "api_key",
    "apikey",
    "access_key",
    "accesskey",
    "access_token",
    "auth_key",
    "auth_token",
    "authorization",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "secret",
    "signature",
    "subscription_key",
];
/// Tokens of a model's vocabulary.
const PLAIN_TOKENS: [&str; 9] = ["bos", "cls", "end", "eos", "mask", "pad", "sep", "stop", "unk"];

/// Whether what is called this is usually a secret: `api_key`, `password` and the like; of a parameter, a header or a part of
/// a query.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let is_token = name.strip_suffix("token").is_some_and(|what| !PLAIN_TOKENS.contains(&what.trim_end_matches('_')));
    is_token || ["auth", "key", "pwd", "sig"].contains(&&*name) || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// Whether an address holds a password, a secret in its query, or, on the web, a user name, which is a key for some. A place
/// for an argument is none.
pub fn holds_secret(address: &str) -> bool {
    let is_place = |value: &str| value.starts_with('{') && value.ends_with('}');
    let is_given = |name: &str, value: &str| !value.is_empty() && !is_place(value) && is_secret_name(name);
    Url::parse(address).is_ok_and(|url| {
        let has_user = matches!(url.scheme(), "http" | "https") && !url.username().is_empty();
        has_user || url.password().is_some() || url.query_pairs().any(|(name, value)| is_given(&name, &value))
    })
}

/// The name of a text within a value that is, or looks like, a secret.
fn secret_in<'v>(name: &'v str, value: &'v Value) -> Option<&'v str> {
    match value {
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => (is_secret_name(name) || !Redactor::default().is_clean(text)).then_some(name),
        Value::Array(items) => items.iter().find_map(|item| secret_in(name, item)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| secret_in(name, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(text: &str) -> ModelProfiles {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_profile_is_a_model_with_all_that_is_said_about_it() {
        let text = r#"{
            "fast": {
                "model": "groq:openai/gpt-oss-120b", "base_url": "http://127.0.0.1:1/v1", "api_key_variable": "HOUSE_KEY",
                "max_output_tokens": 500, "requests_per_minute": 30, "tokens_per_minute": 9000, "timeout": "90s",
                "fallbacks": ["slow", "ollama:qwen3"]
            },
            "slow": { "model": "anthropic:claude-opus-5-5", "thinking_budget": 2048 }
        }"#;
        let fast = profiles(text).resolve(" fast ").unwrap_or_else(|problem| panic!("{problem}"));
        let names: Vec<_> = fast.fallbacks.iter().map(|model| model.info().model).collect();
        assert_eq!(
            (&*fast.model.info().model, names),
            ("openai/gpt-oss-120b", vec!["claude-opus-5-5".into(), "qwen3".into()])
        );
        assert_eq!(fast.model.max_output_tokens(), Some(500));
        assert_eq!((fast.model.rates().requests, fast.model.rates().tokens), (Some(30), Some(9000)));
        assert_eq!(fast.model.problems(), ["model groq:openai/gpt-oss-120b needs HOUSE_KEY, which is not set"]);
        assert_eq!(fast.fallbacks[0].max_output_tokens(), Some(8192 + 2048));
        assert!(profiles(text).resolve("openai:gpt-5.2").is_ok_and(|it| it.fallbacks.is_empty()), "models go without");
    }

    #[test]
    fn a_secret_is_known_by_its_name() {
        let secrets = "api_key apiKey X-Api-Key x-goog-api-key access_key accessKeyId key token X-Auth-Token PRIVATE-TOKEN \
                       accessToken id_token sig X-Amz-Signature X-Amz-Credential Authorization Cookie client_secret pwd passwd \
                       Ocp-Apim-Subscription-Key auth";
        for name in secrets.split_whitespace() {
            assert!(is_secret_name(name), "{name}");
        }
        let plain =
            "max_tokens stop_token eos_token prompt_cache_key sort_key keyword author tokens_per_minute seed format";
        for name in plain.split_whitespace() {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn whatever_is_wrong_with_a_profile_is_named() {
        for (profile, words) in [
            (r#"{"model": "gpt-5.2"}"#, "did you mean openai:gpt-5.2?"),
            (r#"{"model": "opanai:gpt-5.2"}"#, "did you mean openai:gpt-5.2?"),
            (r#"{"model": "openai:x", "temperature": 3}"#, "temperature is 3: write 0 to 2"),
            (r#"{"model": "openai:x", "top_p": -1}"#, "top_p is -1: write 0 to 1"),
            (r#"{"model": "openai:x", "max_output_tokens": 0}"#, "max_output_tokens is 0"),
            (r#"{"model": "openai:x", "base_url": "https://a:b@c.org/v1"}"#, "base_url holds a secret"),
            (r#"{"model": "openai:x", "base_url": "https://a@c.org/v1"}"#, "base_url holds a secret"),
            (r#"{"model": "openai:x", "base_url": "https://c.org/v1?key=a"}"#, "base_url holds a secret"),
            (r#"{"model": "openai:x", "base_url": "nonsense"}"#, "base_url is not a valid address"),
            (r#"{"model": "openai:x", "base_url": "ftp://c.org"}"#, "base_url is not an http or https address"),
            (
                r#"{"model": "openai:x", "parameters": {"extra": {"Api-Key": "hunter2"}}}"#,
                "parameters hold a secret (Api-Key)",
            ),
            (r#"{"model": "openai:x", "api_key_variable": ""}"#, "such as HOUSE_KEY, or none"),
            (
                r#"{"model": "openai:x", "api_key_variable": "hunter2hunter2"}"#,
                "has not the form of an environment variable",
            ),
            (r#"{"model": "openai:x", "timeout": "90"}"#, "write a time such as 90s or 5m"),
            (r#"{"model": "openai:x", "timeout": "soon"}"#, "write a time such as 90s or 5m"),
            (r#"{"model": "groq:x", "background": true}"#, "background is for openai alone"),
            (r#"{"model": "openai:x", "fallbacks": ["mine"]}"#, "fallbacks of mine: it would stand in for itself"),
            (r#"{"model": "openai:x", "fallbacks": ["mene"]}"#, "there is no model \"mene\": did you mean mine?"),
        ] {
            let problems = profiles(&format!(r#"{{"mine": {profile}}}"#)).problems();
            assert!(problems.len() == 1 && problems[0].starts_with("mine: "), "{problems:?}");
            assert!(problems[0].contains(words), "{problems:?}");
        }
        let problems = profiles(r#"{"my model": {"model": "openai:x"}}"#).problems();
        assert!(problems[0].contains("letters, digits, _ and -"), "{problems:?}");
        let unknown = serde_json::from_str::<ModelProfiles>(r#"{"mine": {"model": "openai:x", "api_key": "sk-1"}}"#);
        assert!(unknown.is_err_and(|error| error.to_string().contains("unknown field `api_key`")));
    }
}
