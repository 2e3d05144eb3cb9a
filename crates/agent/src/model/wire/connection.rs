//! Where a provider is and how we identify ourselves to it: address, key, headers, time limits.
//!
//! It must never know a wire format. The key and the value of every header a caller adds are secrets.

use crate::http;
use crate::outbound::{NotAllowed, Outbound};
use outlive_core::{Failure, FailureKind, Media, ModelRequest, Secret};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Url};
use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

/// Redirects that keep method and body, at most.
const REDIRECTS_MAX: usize = 5;

/// How the key is presented to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// The key alone, in this header.
    Header(Cow<'static, str>),
}

/// Where a provider is, and how we identify ourselves to it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) home: Home,
    pub(crate) base_url: Option<String>,
    pub(crate) api_key: Option<Secret>,
    /// The variable that holds the key where none is set, in place of the provider's own.
    pub(crate) key_variable: Option<String>,
    pub(crate) credential: Credential,
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) outbound: Outbound,
    pub(crate) limits: Limits,
}

/// What holds for a provider until something else is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    /// The variable with the address, and the address where it is not set; empty where there is none.
    pub(crate) base_variable: &'static str,
    pub(crate) base_url: &'static str,
    /// The address that is meant by what the variable holds.
    pub(crate) base_of: fn(&str) -> String,
    /// The variables that may hold the key: the first that does counts.
    pub(crate) key_variables: &'static [&'static str],
    /// Nothing is asked without a key.
    pub(crate) needs_key: bool,
    /// Headers that every request has.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For a whole answer; of a stream, for the first token, and for the next while only keep-alives come.
    pub(crate) wait: Duration,
    /// For the next byte of a stream.
    pub(crate) idle: Duration,
    /// For the end of a stream; none unless chosen.
    pub(crate) total: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { wait: Duration::from_secs(600), idle: Duration::from_secs(300), total: None }
    }
}

impl Limits {
    /// For an answer that is not streamed, and for the head of any.
    pub(super) fn whole(self) -> Duration {
        self.total.map_or(self.wait, |total| total.min(self.wait))
    }
}

/// The client for all models of the process. A redirect is followed only if the request stays the same and goes to the
/// same host: a `301` would turn it into a GET, and another host would receive the conversation.
pub(super) fn client() -> Result<Client, String> {
    static CLIENT: OnceLock<Result<Client, String>> = OnceLock::new();
    let build = || {
        let client = http::builder().redirect(Policy::custom(redirect)).build();
        client.map_err(|error| http::not_set_up(&error))
    };
    CLIENT.get_or_init(build).clone()
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let keeps_request = matches!(attempt.status().as_u16(), 307 | 308);
    let same_place = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
    if keeps_request && same_place && attempt.previous().len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

impl Connection {
    /// The base address in force now.
    pub(crate) fn base(&self) -> String {
        let of_variable = || variable(self.home.base_variable).map(|value| (self.home.base_of)(&value));
        self.base_url.clone().or_else(of_variable).unwrap_or_else(|| self.home.base_url.to_owned())
    }

    /// Whether the server is at this domain, or under it.
    pub(crate) fn is_at(&self, domain: &str) -> bool {
        let host = Url::parse(&self.base()).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.is_some_and(|host| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    }

    pub(crate) fn key(&self) -> Option<Secret> {
        let found = |name: &str| variable(name).map(Secret::from).filter(|key| !key.is_empty());
        let environment = || match &self.key_variable {
            Some(name) => found(name),
            None => self.home.key_variables.iter().find_map(|name| found(name)),
        };
        self.api_key.clone().or_else(environment)
    }

    /// What must not be stored: the key, and the values of headers.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.key().into_iter().chain(self.headers.iter().map(|(_, value)| value.clone())).collect()
    }

    /// What would make every request fail, in words.
    pub(super) fn problems(&self, title: &str) -> Vec<String> {
        let mut problems = Vec::new();
        match self.key() {
            None => problems.extend(self.missing_key(title)),
            Some(key) if HeaderValue::from_str(key.expose()).is_err() => problems.push(unusable_key(title)),
            Some(_) => {}
        }
        if let Credential::Header(name) = &self.credential {
            problems.extend(header_name(name, title).err());
        }
        problems.extend(self.headers.iter().filter_map(|header| own_header(header, title).err()));
        problems
    }

    /// The headers of a request.
    pub(super) fn headers(&self, streamed: bool, title: &str) -> Result<HeaderMap, Failure> {
        let refuse = |problem: String| Failure::new(FailureKind::BadRequest, problem);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accepted = if streamed { "text/event-stream" } else { "application/json" };
        headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        for (name, value) in self.home.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let key = match (self.key(), self.missing_key(title)) {
            (None, Some(problem)) => return Err(Failure::new(FailureKind::Auth, problem)),
            (key, _) => key,
        };
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            let (name, value) = match &self.credential {
                Credential::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose())),
                Credential::Header(name) => (header_name(name, title).map_err(refuse)?, key.expose().to_owned()),
            };
            let value = secret_value(&value).map_err(|()| Failure::new(FailureKind::Auth, unusable_key(title)))?;
            headers.insert(name, value);
        }
        for header in &self.headers {
            let (name, value) = own_header(header, title).map_err(refuse)?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// What to say when there is no key, where one is needed.
    fn missing_key(&self, title: &str) -> Option<String> {
        match (&self.key_variable, self.home.key_variables) {
            (Some(name), _) => Some(format!("model {title} needs {name}, which is not set")),
            (None, _) if !self.home.needs_key => None,
            (None, [name]) => Some(format!("model {title} needs {name}, which is not set")),
            (None, names) => Some(format!("model {title} needs {}, none of which is set", names.join(" or "))),
        }
    }

    /// What to say when there is no address.
    pub(super) fn missing_base(&self, title: &str) -> Option<String> {
        let name = self.home.base_variable;
        self.base().trim().is_empty().then(|| format!("model {title} needs {name}, its address, which is not set"))
    }

    /// Whether the provider may be asked to fetch what the conversation refers to.
    pub(super) fn check_media(&self, request: &ModelRequest) -> Result<(), Failure> {
        let mut media = request.messages.iter().flat_map(|message| message.images.iter().chain(&message.files));
        media.try_for_each(|one| self.check_address(one)).map_err(|problem| {
            Failure::new(FailureKind::BadRequest, format!("an image or a file cannot be sent to the model: {problem}"))
        })
    }

    fn check_address(&self, media: &Media) -> Result<(), NotAllowed> {
        let Some(address) = &media.url else { return Ok(()) };
        let url = Url::parse(address).map_err(|_| NotAllowed::Unreadable)?;
        // The content itself, written as an address: nothing is fetched.
        if url.scheme() == "data" { Ok(()) } else { self.outbound.check(&url) }
    }
}

fn unusable_key(title: &str) -> String {
    format!("the API key of model {title} contains characters that no key has")
}

fn header_name(name: &str, title: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("model {title} cannot send a header named {name:?}: use letters, digits and -"))
}

/// A header that a caller added; its value never appears in any text.
fn own_header((name, value): &(String, Secret), title: &str) -> Result<(HeaderName, HeaderValue), String> {
    let unusable = |()| format!("the value of header {name:?} of model {title} contains characters that no header has");
    Ok((header_name(name, title)?, secret_value(value.expose()).map_err(unusable)?))
}

fn secret_value(text: &str) -> Result<HeaderValue, ()> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(value)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
