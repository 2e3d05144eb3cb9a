//! Who serves models: the one table of providers, and what a name such as `anthropic:claude-opus-5-5` stands for.
//!
//! A provider that speaks a format known here is a row and nothing else. It must never know what bytes mean: where a
//! server differs from its format, [`ChatWays`] names the difference and the endpoint acts on it.

use super::anthropic::Messages;
use super::gemini::GenerateContent;
use super::http_model::Endpoint;
use super::openai::{Chat, Responses};
use super::profiles::ModelProfile;
use super::wire::Home;
use super::{HttpModel, SharedModel};
use std::sync::Arc;

/// Somebody who serves models.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    /// What stands before the colon in a model's name, the usual one first.
    pub(super) names: &'static [&'static str],
    /// What events and metrics show.
    pub(super) title: &'static str,
    /// Where it is, and what it wants of every request.
    pub(super) home: Home,
    /// The header that has the key alone; `Authorization: Bearer` where there is none.
    pub(super) key_header: Option<&'static str>,
    /// Where it differs from OpenAI's Chat Completions.
    pub(super) chat: ChatWays,
    /// How the ids of its models begin: a name without a provider is then probably one of these.
    families: &'static [&'static str],
    make: fn(&'static Provider, &str, &ModelProfile) -> SharedModel,
}

/// Where a server of Chat Completions differs from OpenAI's.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChatWays {
    /// The field that limits an answer.
    pub(super) tokens_max: &'static str,
    /// Counts of a stream come only when they are asked for; asking is an error elsewhere.
    pub(super) asks_for_usage: bool,
    pub(super) schemas: Schemas,
    /// Ids of calls have nine letters and digits.
    pub(super) short_call_ids: bool,
    /// The effort is a field of `reasoning` instead of `reasoning_effort`.
    pub(super) nested_effort: bool,
    pub(super) address: Address,
}

/// How a server takes the schema of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schemas {
    /// As a format.
    Format,
    /// As a format, unless tools are offered; then in words.
    FormatWithoutTools,
    /// In words, with a format that asks for any JSON.
    Words,
}

/// How the address of a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// The path below the base.
    Plain,
    /// Azure's: below `/openai/v1`, or where the base has an `api-version`, below the deployment's own path.
    Azure,
}

/// A provider that needs a key, where to find it and where the provider is.
const fn at(base_variable: &'static str, base_url: &'static str, key_variables: &'static [&'static str]) -> Home {
    Home { base_variable, base_url, base_of: str::to_owned, key_variables, needs_key: true, headers: &[] }
}

const LIKE_OPENAI: ChatWays = ChatWays {
    tokens_max: "max_completion_tokens",
    asks_for_usage: true,
    schemas: Schemas::Format,
    short_call_ids: false,
    nested_effort: false,
    address: Address::Plain,
};

const OTHERS: ChatWays = ChatWays { tokens_max: "max_tokens", ..LIKE_OPENAI };

pub(super) const OPENAI: Provider = Provider {
    names: &["openai", "openai-responses"],
    title: "OpenAI",
    home: at("OPENAI_BASE_URL", "https://api.openai.com/v1", &["OPENAI_API_KEY"]),
    key_header: None,
    chat: LIKE_OPENAI,
    families: &["gpt-", "o1", "o3", "o4", "chatgpt-"],
    make: make::<Responses>,
};

pub(super) const OPENAI_CHAT: Provider =
    Provider { names: &["openai-chat"], families: &[], make: make::<Chat>, ..OPENAI };

pub(super) const ANTHROPIC: Provider = Provider {
    names: &["anthropic", "claude"],
    title: "Anthropic",
    home: Home {
        headers: &[("anthropic-version", "2023-06-01")],
        ..at("ANTHROPIC_BASE_URL", "https://api.anthropic.com", &["ANTHROPIC_API_KEY"])
    },
    key_header: Some("x-api-key"),
    families: &["claude-"],
    make: make::<Messages>,
    ..OPENAI
};

pub(super) const GOOGLE: Provider = Provider {
    names: &["google", "gemini"],
    title: "Google",
    home: at(
        "GOOGLE_GEMINI_BASE_URL",
        "https://generativelanguage.googleapis.com",
        &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
    ),
    key_header: Some("x-goog-api-key"),
    families: &["gemini-", "gemma-", "models/"],
    make: make::<GenerateContent>,
    ..OPENAI
};

pub(super) const OLLAMA: Provider = Provider {
    names: &["ollama"],
    title: "Ollama",
    home: Home {
        base_of: of_ollama_host,
        needs_key: false,
        ..at("OLLAMA_HOST", "http://127.0.0.1:11434/v1", &["OLLAMA_API_KEY"])
    },
    ..COMPATIBLE
};

/// What the rows of OpenAI-compatible servers begin with.
const COMPATIBLE: Provider = Provider { names: &[], chat: OTHERS, families: &[], make: make::<Chat>, ..OPENAI };

/// Every provider, in the order in which people are told of them.
static PROVIDERS: [Provider; 13] = [
    OPENAI,
    OPENAI_CHAT,
    ANTHROPIC,
    GOOGLE,
    OLLAMA,
    Provider {
        names: &["vllm"],
        title: "VLLM",
        home: Home { needs_key: false, ..at("VLLM_BASE_URL", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"]) },
        ..COMPATIBLE
    },
    Provider {
        names: &["llama-cpp", "llamacpp", "llama.cpp"],
        title: "LlamaCpp",
        home: Home { needs_key: false, ..at("LLAMA_CPP_BASE_URL", "http://127.0.0.1:8080/v1", &["LLAMA_API_KEY"]) },
        ..COMPATIBLE
    },
    Provider {
        names: &["openrouter"],
        title: "OpenRouter",
        home: at("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"]),
        chat: ChatWays { nested_effort: true, ..OTHERS },
        ..COMPATIBLE
    },
    Provider {
        names: &["groq"],
        title: "Groq",
        home: at("GROQ_BASE_URL", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"]),
        chat: ChatWays { schemas: Schemas::FormatWithoutTools, ..LIKE_OPENAI },
        ..COMPATIBLE
    },
    Provider {
        names: &["deepseek"],
        title: "DeepSeek",
        home: at("DEEPSEEK_BASE_URL", "https://api.deepseek.com/v1", &["DEEPSEEK_API_KEY"]),
        chat: ChatWays { schemas: Schemas::Words, ..OTHERS },
        families: &["deepseek-"],
        ..COMPATIBLE
    },
    Provider {
        names: &["mistral"],
        title: "Mistral",
        home: at("MISTRAL_BASE_URL", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"]),
        chat: ChatWays { asks_for_usage: false, short_call_ids: true, ..OTHERS },
        families: &["mistral-", "magistral-", "codestral-", "ministral-", "devstral-"],
        ..COMPATIBLE
    },
    Provider {
        names: &["xai", "grok"],
        title: "xAI",
        home: at("XAI_BASE_URL", "https://api.x.ai/v1", &["XAI_API_KEY"]),
        families: &["grok-"],
        ..COMPATIBLE
    },
    Provider {
        names: &["azure", "azure-openai"],
        title: "Azure",
        home: at("AZURE_OPENAI_ENDPOINT", "", &["AZURE_OPENAI_API_KEY"]),
        key_header: Some("api-key"),
        chat: ChatWays { address: Address::Azure, ..LIKE_OPENAI },
        ..COMPATIBLE
    },
];

impl Provider {
    /// The provider of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|provider| provider.names.contains(&name))
    }

    /// Its usual name.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    /// Its model of this id, with what else is said about it.
    pub(super) fn open(&'static self, id: &str, profile: &ModelProfile) -> SharedModel {
        (self.make)(self, id, profile)
    }
}

/// The model that a name stands for: a provider, a colon and the provider's id of the model. No server is contacted; see
/// [`Model::problems`](super::Model::problems) for what may be missing.
///
/// | provider | endpoint | key | address |
/// |---|---|---|---|
/// | `openai` | Responses | `OPENAI_API_KEY` | `OPENAI_BASE_URL` |
/// | `openai-chat` | Chat Completions | `OPENAI_API_KEY` | `OPENAI_BASE_URL` |
/// | `anthropic` | Messages | `ANTHROPIC_API_KEY` | `ANTHROPIC_BASE_URL` |
/// | `google` | `generateContent` | `GEMINI_API_KEY`, else `GOOGLE_API_KEY` | `GOOGLE_GEMINI_BASE_URL` |
/// | `azure` | Chat Completions | `AZURE_OPENAI_API_KEY` | `AZURE_OPENAI_ENDPOINT` |
/// | `groq`, `deepseek`, `mistral`, `xai`, `openrouter` | Chat Completions | `GROQ_API_KEY` and so on | `GROQ_BASE_URL` and so on |
/// | `ollama`, `vllm`, `llama-cpp` | Chat Completions | none needed | this machine, else `OLLAMA_HOST`, `VLLM_BASE_URL`, `LLAMA_CPP_BASE_URL` |
///
/// # Errors
/// When the provider is not known or the id is empty, in words that name the one that was probably meant.
///
/// ```
/// let model = outlive_agent::model::parse("openai:gpt-5.2").unwrap();
/// assert_eq!(model.info().model, "gpt-5.2");
/// let problem = outlive_agent::model::parse("antropic:claude-opus-5-5").err().unwrap();
/// assert!(problem.ends_with("did you mean anthropic:claude-opus-5-5?"));
/// ```
pub fn parse(name: &str) -> Result<SharedModel, String> {
    let (provider, id) = split(name)?;
    Ok(provider.open(id, &ModelProfile::default()))
}

/// The provider that a name begins with, and its id of the model.
///
/// # Errors
/// See [`parse`].
pub(super) fn split(name: &str) -> Result<(&'static Provider, &str), String> {
    let name = name.trim();
    let Some((provider, id)) = name.split_once(':').map(|(provider, id)| (provider.trim(), id.trim())) else {
        let family = |provider: &&Provider| provider.families.iter().any(|family| name.starts_with(family));
        let meant = PROVIDERS.iter().find(family).map(|provider| format!("{}:{name}", provider.name()));
        let hint = meant.map_or_else(known, |meant| did_you_mean(&meant));
        return Err(format!("model {name:?} names no provider: {hint}"));
    };
    let Some(found) = Provider::named(&provider.to_ascii_lowercase()) else {
        let names = PROVIDERS.iter().flat_map(|provider| provider.names).copied();
        let meant = nearest_of(provider, names).map(|nearest| did_you_mean(&format!("{nearest}:{id}")));
        let hint = meant.unwrap_or_else(known);
        return Err(format!("model {name:?} names the unknown provider {provider:?}: {hint}"));
    };
    if id.is_empty() || id.contains(char::is_control) {
        return Err(format!("model {name:?} names no id: {}", known()));
    }
    Ok((found, id))
}

pub(super) fn did_you_mean(name: &str) -> String {
    format!("did you mean {name}?")
}

fn known() -> String {
    let names: Vec<_> = PROVIDERS.iter().map(Provider::name).collect();
    format!("write PROVIDER:ID, for example openai:gpt-5.2, with one of the providers {}", names.join(", "))
}

/// The name that was probably meant.
pub(super) fn nearest_of<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// More letters than these are no mistake in typing.
    const TYPO_MAX: usize = 3;
    let written = written.to_ascii_lowercase();
    let (distance, name) = names.map(|name| (strsim::damerau_levenshtein(&written, name), name)).min()?;
    (distance <= TYPO_MAX.min(written.chars().count() / 2)).then_some(name)
}

fn make<E: Endpoint>(provider: &'static Provider, id: &str, profile: &ModelProfile) -> SharedModel {
    Arc::new(HttpModel::<E>::of(provider, id).with(profile))
}

/// `OLLAMA_HOST` is an address, or a host with or without a port.
fn of_ollama_host(host: &str) -> String {
    let host = host.trim().trim_end_matches('/');
    let address = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
    let authority = address.split("://").nth(1).unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.chars().all(|c| c.is_ascii_digit()));
    let port = if has_port { "" } else { ":11434" };
    format!("{address}{port}/v1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_for_one_provider() {
        let mut names: Vec<_> = PROVIDERS.iter().flat_map(|provider| provider.names).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
        for name in names {
            let model = parse(&format!("{name}:some-id")).unwrap_or_else(|problem| panic!("{problem}"));
            assert_eq!(model.info().model, "some-id");
        }
    }

    #[test]
    fn a_name_with_a_mistake_has_the_one_that_was_meant() {
        let problem = |name: &str| parse(name).err().unwrap_or_else(|| panic!("{name} is a model"));
        for (name, meant) in [
            ("antropic:claude-opus-5-5", "anthropic:claude-opus-5-5"),
            ("OpenAl:gpt-5.2", "openai:gpt-5.2"),
            ("deepseak:deepseek-chat", "deepseek:deepseek-chat"),
            ("claude-opus-5-5", "anthropic:claude-opus-5-5"),
            ("gemini-3-pro", "google:gemini-3-pro"),
            ("gpt-5.2", "openai:gpt-5.2"),
            ("grok-4", "xai:grok-4"),
        ] {
            assert!(problem(name).ends_with(&format!("did you mean {meant}?")), "{}", problem(name));
        }
        for name in ["house", "favourite:house", "openai:", ":x", "", "openai:x\ny"] {
            let problem = problem(name);
            assert!(problem.contains("write PROVIDER:ID") && problem.contains("llama-cpp"), "{problem}");
        }
        assert_eq!(
            parse(" Anthropic : claude-opus-5-5 ").map(|model| model.info().model_provider),
            Ok("Anthropic".to_owned())
        );
    }

    #[test]
    fn ollama_is_where_its_host_says() {
        for (host, base) in [
            ("box", "http://box:11434/v1"),
            ("box:1", "http://box:1/v1"),
            ("https://box:1/", "https://box:1/v1"),
            ("https://box", "https://box:11434/v1"),
        ] {
            assert_eq!(of_ollama_host(host), base);
        }
    }
}
