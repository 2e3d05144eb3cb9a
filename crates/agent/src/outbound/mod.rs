//! Requests made for a stranger: an address named by a user, a model or a definition is fetched under this policy or
//! not at all, so that nobody can make this process talk to its own machine and network.
//!
//! ```text
//! address ─check: scheme, port, name, number─► names looked up once ─every address checked─► connected to those
//!    ▲                                                                                              │
//!    └───────────────────────────── at most 3 redirections ◄────────────────────────────────────────┘
//! ```
//! It owns its own client, without proxies from the environment. It must never know what is fetched or why. Addresses
//! in the program's own configuration (a model server, a tool's site) are not its business.
//!
//! Invariant: a connection is made only to an opened host, or to a public address that was checked after the last lookup.

mod addresses;
mod policy;
#[cfg(test)]
mod tests;

use crate::http::{self, BodyError};
use outlive_core::{Failure, FailureKind};
use policy::Policy;
pub use policy::{InvalidHost, NotAllowed};
pub use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use reqwest::{Client, Proxy, Response, redirect};
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// How many redirections are followed.
const REDIRECTIONS_MAX: usize = 3;
/// A stand-in for anything that must not be reached: a name that no policy opens and no network has.
const NOWHERE: &str = "http://refused.invalid";

/// How much, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest answer that is kept, in bytes after decompression; 4 MiB unless set.
    pub bytes_max: usize,
    /// The longest the whole request may take, redirections included; 10 seconds unless set.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 4 << 20, timeout: Duration::from_secs(10) }
    }
}

/// What may be fetched for a user, a model or a definition. By default: `https`, ports 80 and 443, and hosts with
/// public names, all of whose addresses are public. Cheap to clone.
///
/// ```
/// use outlive_agent::outbound::{Outbound, Url};
///
/// let outbound = Outbound::default().allow("127.0.0.1:9100")?;
/// let url = |text| Url::parse(text).expect("an address");
/// assert!(outbound.check(&url("https://example.org/a.png")).is_ok());
/// assert!(outbound.check(&url("http://127.0.0.1:9100/metrics")).is_ok());
/// assert!(outbound.check(&url("https://127.0.0.1/")).is_err());
/// assert!(outbound.check(&url("https://metadata.google.internal/")).is_err());
/// # Ok::<(), outlive_agent::outbound::InvalidHost>(())
/// ```
#[derive(Clone)]
pub struct Outbound {
    policy: Arc<Policy>,
    names: Arc<dyn Resolve>,
    client: Arc<OnceLock<Result<Client, String>>>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self::with(Policy::default(), Arc::new(SystemNames))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Outbound {
    fn with(policy: Policy, names: Arc<dyn Resolve>) -> Self {
        Self { policy: Arc::new(policy), names, client: Arc::default() }
    }

    /// Opens exactly this host at this port, by `http` as well as `https` and whatever its address is:
    /// `127.0.0.1:9100`, `[::1]:9100`, `files.internal:443`. Its other ports stay closed.
    ///
    /// # Errors
    /// When the text is not a host with a port.
    pub fn allow(self, host_and_port: &str) -> Result<Self, InvalidHost> {
        let mut policy = Policy::clone(&self.policy);
        policy.open(host_and_port)?;
        Ok(Self::with(policy, self.names))
    }

    /// Allows plain `http` for public hosts too.
    pub fn allow_http(self) -> Self {
        let mut policy = Policy::clone(&self.policy);
        policy.plain_http = true;
        Self::with(policy, self.names)
    }

    /// Looks up names with this instead of the operating system. Its answers are still checked.
    pub fn names(self, names: Arc<dyn Resolve>) -> Self {
        Self::with(Policy::clone(&self.policy), names)
    }

    /// Whether this address may be requested, as far as can be told without looking up its host: enough for an address
    /// that somebody else, a model's provider, will fetch.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        self.policy.check(url)
    }

    /// A client for requests that [`Outbound::get`] cannot make. Every connection it makes is checked; a request to an
    /// address that [`Outbound::check`] refuses fails to connect. It follows no redirection: where to go next, and
    /// which credentials may go there, is the caller's decision. The caller limits time and size.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] when TLS cannot be set up on this machine.
    pub fn client(&self) -> Result<Client, Failure> {
        let built = self.client.get_or_init(|| self.build());
        built.clone().map_err(|problem| Failure::new(FailureKind::Unavailable, problem))
    }

    /// Fetches this address, following at most three redirections, each of which is checked like the first address. No
    /// cookie, credential or referrer is sent to anyone.
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    ///
    /// # Errors
    /// [`FailureKind::BadRequest`] for an address that is not allowed or that answers with a 4xx status; `Timeout`,
    /// `RateLimit`, `Unavailable`, `Truncated` and `BadResponse` for a host that is too slow, asked too often, out of
    /// order or sends too much; with the wait it asks for, if it names one.
    pub async fn get(&self, url: &Url, limits: Limits) -> Result<Vec<u8>, Failure> {
        let fetched = tokio::time::timeout(limits.timeout, self.fetch(url, limits.bytes_max)).await;
        fetched.unwrap_or_else(|_| {
            Err(failure(FailureKind::Timeout, url, &format!("has not answered within {:?}", limits.timeout)))
        })
    }

    async fn fetch(&self, url: &Url, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let client = self.client()?;
        let mut url = url.clone();
        for _ in 0..=REDIRECTIONS_MAX {
            self.check(&url).map_err(refused)?;
            let response = client.get(url.clone()).send().await.map_err(|error| unreachable(&url, &error))?;
            match redirection(&url, &response) {
                Some(next) => url = next.map_err(refused)?,
                None => return read(&url, response, bytes_max).await,
            }
        }
        let problem = format!("has sent on more than {REDIRECTIONS_MAX} times");
        Err(failure(FailureKind::BadResponse, &url, &problem))
    }

    fn build(&self) -> Result<Client, String> {
        let policy = self.policy.clone();
        // The client does not look up numeric hosts, and its users may forget to check. This is asked before every
        // connection; it also keeps out proxies from the environment, which would look up names themselves.
        let gate = Proxy::custom(move |url| policy.check(url).is_err().then_some(NOWHERE));
        let names = CheckedNames { policy: self.policy.clone(), names: self.names.clone() };
        http::builder()
            .no_proxy()
            .proxy(gate)
            .dns_resolver(Arc::new(names))
            .redirect(redirect::Policy::none())
            .referer(false)
            .build()
            .map_err(|error| http::not_set_up(&error))
    }
}

/// Where an answer redirects to, if it does.
fn redirection(url: &Url, response: &Response) -> Option<Result<Url, NotAllowed>> {
    let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection())?;
    let next = location.to_str().ok().and_then(|location| url.join(location).ok());
    Some(next.ok_or(NotAllowed::Unreadable))
}

async fn read(url: &Url, response: Response, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let status = response.status();
    if !status.is_success() {
        let kind = match status.as_u16() {
            401 | 403 => FailureKind::Auth,
            408 => FailureKind::Timeout,
            429 => FailureKind::RateLimit,
            425 | 500.. => FailureKind::Unavailable,
            _ => FailureKind::BadRequest,
        };
        let refused = failure(kind, url, &format!("answered {}", status.as_u16()));
        return Err(match http::retry_after(response.headers(), SystemTime::now()) {
            Some(wait) if refused.retryable => refused.retry_after(wait),
            _ => refused,
        });
    }
    http::read_body(response, bytes_max).await.map_err(|error| match error {
        BodyError::TooLong { limit } => {
            failure(FailureKind::BadResponse, url, &format!("sent an answer of more than {limit} bytes"))
        }
        BodyError::Broken(cause) => failure(FailureKind::Truncated, url, &format!("broke off its answer: {cause}")),
    })
}

fn failure(kind: FailureKind, url: &Url, what: &str) -> Failure {
    Failure::new(kind, format!("{} {what}", url.host_str().unwrap_or_default()))
}

fn refused(problem: NotAllowed) -> Failure {
    Failure::new(FailureKind::BadRequest, problem.to_string())
}

/// Nothing came back: a refused lookup may be the cause.
pub(crate) fn unreachable(url: &Url, error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(one) = cause {
        if let Some(problem) = one.downcast_ref::<NotAllowed>() {
            return refused(problem.clone());
        }
        cause = one.source();
    }
    failure(FailureKind::Unavailable, url, &format!("cannot be reached: {}", http::root_cause(error)))
}

/// The operating system's name lookup.
struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Looks up names and passes on nothing that must not be reached.
struct CheckedNames {
    policy: Arc<Policy>,
    names: Arc<dyn Resolve>,
}

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        if let Err(problem) = self.policy.check_name(&host) {
            return Box::pin(async move { Err(problem.into()) });
        }
        let (policy, lookup) = (self.policy.clone(), self.names.resolve(name));
        Box::pin(async move {
            let addresses: Vec<_> = lookup.await?.collect();
            if addresses.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
            }
            // One address that is not public makes the whole name suspect.
            addresses.iter().try_for_each(|address| policy.check_address(&host, address.ip()))?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
