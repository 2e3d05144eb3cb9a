//! OpenAI's two endpoints, Responses and Chat Completions, and the many servers that speak like one of them.
//!
//! What the bytes mean is the business of [`responses`] and [`chat`]. Neither relies on a conversation stored at the
//! provider.

mod chat;
mod responses;

pub(super) use chat::Chat;
pub(super) use responses::Responses;

use super::HttpModel;
use super::http_model::{Endpoint, Settings};
use super::providers::Provider;

/// Servers under this domain know the role `developer`; many others refuse it.
const OPENAI_DOMAIN: &str = "openai.com";

/// A model behind OpenAI's Responses endpoint: `OpenAIResponses::new("gpt-5.2")`. Instructions have the role `developer`
/// where the server is OpenAI's and `system` elsewhere.
pub type OpenAIResponses = HttpModel<responses::Responses>;

/// A model behind OpenAI's Chat Completions endpoint, which most other servers speak too: `OpenAIChat::new("gpt-5.2")`,
/// `OpenAIChat::groq("openai/gpt-oss-120b")`.
pub type OpenAIChat = HttpModel<chat::Chat>;

/// The endpoints of OpenAI's format.
pub trait OpenAIFormat: Endpoint {}

impl OpenAIFormat for responses::Responses {}
impl OpenAIFormat for chat::Chat {}

impl<E: OpenAIFormat> HttpModel<E> {
    /// Sends instructions with the role `system`, whatever the server is.
    pub fn system_role(mut self) -> Self {
        self.settings.system_role = Some("system");
        self
    }

    /// Sends instructions with the role `developer`, whatever the server is.
    pub fn developer_role(mut self) -> Self {
        self.settings.system_role = Some("developer");
        self
    }
}

impl OpenAIResponses {
    /// Has answers go on at OpenAI while nobody listens, which takes longer to the first token. The provider stores them
    /// for that, for some minutes. The id of an answer is recorded before its first token: after a crash, or when the
    /// connection breaks, the answer is fetched, or its stream taken up, and not paid for twice. A run that is cancelled
    /// cancels it.
    pub fn background(mut self) -> Self {
        self.settings.background = true;
        self
    }
}

impl OpenAIChat {
    /// A model that Ollama serves, on this machine or at `OLLAMA_HOST`. Needs no key.
    pub fn ollama(id: impl Into<String>) -> Self {
        Self::served_by("ollama", id)
    }

    /// A model that vLLM serves, on this machine or at `VLLM_BASE_URL`. Needs no key.
    pub fn vllm(id: impl Into<String>) -> Self {
        Self::served_by("vllm", id)
    }

    /// A model that llama.cpp serves, on this machine or at `LLAMA_CPP_BASE_URL`. Needs no key.
    pub fn llama_cpp(id: impl Into<String>) -> Self {
        Self::served_by("llama-cpp", id)
    }

    /// A model behind OpenRouter, with the key in `OPENROUTER_API_KEY`.
    pub fn open_router(id: impl Into<String>) -> Self {
        Self::served_by("openrouter", id)
    }

    /// A model that Groq serves, with the key in `GROQ_API_KEY`.
    pub fn groq(id: impl Into<String>) -> Self {
        Self::served_by("groq", id)
    }

    /// A model of DeepSeek, with the key in `DEEPSEEK_API_KEY`.
    pub fn deepseek(id: impl Into<String>) -> Self {
        Self::served_by("deepseek", id)
    }

    /// A model of Mistral, with the key in `MISTRAL_API_KEY`.
    pub fn mistral(id: impl Into<String>) -> Self {
        Self::served_by("mistral", id)
    }

    /// A model of xAI, with the key in `XAI_API_KEY`.
    pub fn xai(id: impl Into<String>) -> Self {
        Self::served_by("xai", id)
    }

    /// The deployment of this name at Azure, with the key in `AZURE_OPENAI_API_KEY` and the resource's address in
    /// `AZURE_OPENAI_ENDPOINT`. With `AZURE_OPENAI_API_VERSION`, or an `api-version` in the address, requests go to the
    /// deployment's own path; without, to `/openai/v1`.
    pub fn azure(deployment: impl Into<String>) -> Self {
        Self::served_by("azure", deployment)
    }

    fn served_by(provider: &'static str, id: impl Into<String>) -> Self {
        Self::of(Provider::named(provider).expect("it has a row in the table"), id)
    }
}

impl Settings {
    fn system_role(&self) -> &'static str {
        let usual = || if self.connection.is_at(OPENAI_DOMAIN) { "developer" } else { "system" };
        self.system_role.unwrap_or_else(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::wire::Dialect;
    use outlive_core::{Message, ModelRequest, Role};

    #[test]
    fn instructions_have_the_role_developer_where_the_server_is_openais() {
        let instructions = Message::new(Role::System, "Be brief.", "message".into(), 0);
        let request = ModelRequest { messages: vec![instructions].into(), ..ModelRequest::default() };
        let roles = |base: &str| {
            let chat = OpenAIChat::new("x").base_url(base).body(&request).unwrap()["messages"][0]["role"].clone();
            let responses = OpenAIResponses::new("x").base_url(base).body(&request).unwrap();
            assert_eq!(chat, responses["input"][0]["role"]);
            chat
        };
        for base in ["https://api.openai.com/v1", "https://eu.api.openai.com/v1"] {
            assert_eq!(roles(base), "developer", "{base}");
        }
        for base in
            ["https://api.notopenai.com/v1", "https://openai.com.example/v1", "http://127.0.0.1:1/v1", "nonsense"]
        {
            assert_eq!(roles(base), "system", "{base}");
        }
        let forced = OpenAIChat::new("x").base_url("https://api.openai.com/v1").system_role().body(&request).unwrap();
        assert_eq!(forced["messages"][0]["role"], "system");
    }

    #[test]
    fn azure_is_asked_at_the_path_of_its_version() {
        let url = |base: &str| OpenAIChat::azure("my deployment").url(base, true).map(|url| url.to_string());
        for base in
            ["https://r.openai.azure.com", "https://r.openai.azure.com/", "https://r.openai.azure.com/openai/v1"]
        {
            let expected = "https://r.openai.azure.com/openai/v1/chat/completions";
            assert_eq!(url(base).as_deref(), Ok(expected), "{base}");
        }
        for base in [
            "https://r.openai.azure.com?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/?api-version=2024-10-21",
        ] {
            let expected =
                "https://r.openai.azure.com/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21";
            assert_eq!(url(base).as_deref(), Ok(expected), "{base}");
        }
        assert!(url("nonsense").is_err());
    }
}
