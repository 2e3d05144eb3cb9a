//! Models by name: `provider:model`, a profile with settings, or one that the program has given.
//!
//! The one place that knows which providers a file may name. It must never see a key: models read theirs from the
//! environment.

use super::syntax::ModelProfile;
use outlive_agent::model::{self, IntoModel, OpenAIChat, OpenAIResponses, SharedModel};

/// The variable that stands for no key.
const NO_KEY: &str = "none";

/// What can be said to either kind of model.
macro_rules! settled {
    ($model:expr, $profile:expr) => {{
        let (mut model, profile) = ($model, $profile);
        if let Some(url) = &profile.base_url {
            model = model.base_url(url);
        }
        model = match profile.api_key_variable.as_deref() {
            Some(NO_KEY) => model.api_key(""),
            Some(name) => model.api_key_variable(name),
            None => model,
        };
        if let Some(temperature) = profile.temperature {
            model = model.temperature(temperature);
        }
        if let Some(share) = profile.top_p {
            model = model.top_p(share);
        }
        if let Some(tokens) = profile.max_output_tokens {
            model = model.max_output_tokens(tokens);
        }
        if let Some(effort) = &profile.reasoning_effort {
            model = model.reasoning_effort(effort);
        }
        if let Some(most) = profile.requests_per_minute {
            model = model.requests_per_minute(most);
        }
        if let Some(most) = profile.tokens_per_minute {
            model = model.tokens_per_minute(most);
        }
        if let Some(longest) = profile.timeout {
            model = model.timeout(longest.0);
        }
        for (name, value) in &profile.parameters {
            model = model.parameter(name, value.clone());
        }
        model
    }};
}

/// The model that a profile describes.
///
/// # Errors
/// When its name is not one of a model, or the provider has no such setting, in words.
pub(super) fn of_profile(profile: &ModelProfile) -> Result<SharedModel, String> {
    let (provider, id) = profile.model.split_once(':').unwrap_or(("", ""));
    let id = id.trim();
    match provider.trim() {
        _ if id.is_empty() => model::parse(&profile.model),
        "openai" => settled!(OpenAIResponses::new(id), profile).into_model(),
        "openai-chat" => settled!(OpenAIChat::new(id), profile).into_model(),
        "ollama" => settled!(OpenAIChat::ollama(id), profile).into_model(),
        _ => model::parse(&profile.model),
    }
}
