//! Which addresses may be requested: the rules, without a socket.
//!
//! It knows neither the addresses of names nor HTTP. A host is *opened* by the program, with one port; everything else
//! must be public, by scheme, port, name and number.

use super::addresses::not_public;
use reqwest::Url;
use std::collections::BTreeSet;
use std::net::IpAddr;
use thiserror::Error;

/// The ports of the web.
const PORTS: [u16; 2] = [80, 443];

/// Names that end in these are answered inside a network, if at all. Cloud metadata services live under `internal`.
const PRIVATE_SUFFIXES: [&str; 9] =
    ["localhost", "local", "localdomain", "internal", "intranet", "lan", "home.arpa", "invalid", "onion"];

/// Metadata services with names that look public.
const METADATA_NAMES: [&str; 3] = ["metadata.tencentyun.com", "metadata.packet.net", "metadata.platformequinix.com"];

/// Why an address may not be requested. Shows the host, never the path or the query: those may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotAllowed {
    /// It is not an address.
    #[error("the address cannot be understood: give one that begins with https://")]
    Unreadable,
    /// Neither `https` nor, where that is allowed, `http`.
    #[error("addresses that begin with {scheme}: are not allowed: use https")]
    Scheme {
        /// Its scheme.
        scheme: String,
    },
    /// It holds a user name or a password.
    #[error("the address at {host} holds a user name or a password: remove it")]
    Credentials {
        /// Its host.
        host: String,
    },
    /// A port other than 80 and 443, or other than the one the host was opened with.
    #[error("port {port} of {host} is not allowed: the program has to allow {host}:{port}")]
    Port {
        /// Its host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A name that does not belong to a public host.
    #[error("{host} is not a public name: the program has to allow this host and its port")]
    Name {
        /// The name.
        host: String,
    },
    /// The host's address, or one of them, is not public.
    #[error("{host} has {what}, which is not public: the program has to allow this host and its port")]
    Address {
        /// The host.
        host: String,
        /// What the address is for, for example `a loopback address`.
        what: &'static str,
    },
}

/// Text that is not a host with a port.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not a host with a port: write, for example, 127.0.0.1:9100 or [::1]:9100")]
pub struct InvalidHost {
    text: String,
}

/// The rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    opened: BTreeSet<(String, u16)>,
    pub(super) plain_http: bool,
}

impl Policy {
    /// Opens one port of one host.
    pub(super) fn open(&mut self, host_and_port: &str) -> Result<(), InvalidHost> {
        let opened = parse(host_and_port).ok_or_else(|| InvalidHost { text: host_and_port.to_owned() })?;
        self.opened.insert(opened);
        Ok(())
    }

    /// Whether this may be requested, as far as can be told without looking up the host.
    pub(super) fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        let (Some(host), Some(port), "http" | "https") = (url.host_str(), url.port_or_known_default(), url.scheme())
        else {
            return Err(NotAllowed::Scheme { scheme: url.scheme().to_owned() });
        };
        let host = plain(host);
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NotAllowed::Credentials { host });
        }
        if self.has_opened(&host) {
            // An opened host's addresses are not checked, so only the opened port may be reached there.
            let is_open = self.opened.contains(&(host.clone(), port));
            return if is_open { Ok(()) } else { Err(NotAllowed::Port { host, port }) };
        }
        if url.scheme() == "http" && !self.plain_http {
            return Err(NotAllowed::Scheme { scheme: "http".to_owned() });
        }
        if !PORTS.contains(&port) {
            return Err(NotAllowed::Port { host, port });
        }
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => self.check_address(&host, address),
            Err(_) => self.check_name(&host),
        }
    }

    /// Whether a name may be looked up.
    pub(super) fn check_name(&self, name: &str) -> Result<(), NotAllowed> {
        let name = plain(name);
        let ends =
            |suffix: &&str| name.strip_suffix(*suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        // The machine's search domain would complete a one-word name.
        let is_private = !name.contains('.') || PRIVATE_SUFFIXES.iter().any(ends);
        if !self.has_opened(&name) && (is_private || METADATA_NAMES.contains(&name.as_str())) {
            return Err(NotAllowed::Name { host: name });
        }
        Ok(())
    }

    /// Whether a host may be reached at this address.
    pub(super) fn check_address(&self, host: &str, address: IpAddr) -> Result<(), NotAllowed> {
        let host = plain(host);
        match not_public(address) {
            Some(what) if !self.has_opened(&host) => Err(NotAllowed::Address { host, what }),
            _ => Ok(()),
        }
    }

    fn has_opened(&self, host: &str) -> bool {
        self.opened.iter().any(|(opened, _)| opened == host)
    }
}

/// A host in the form used for comparison: `example.org.` is the same host as `Example.org`.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn parse(host_and_port: &str) -> Option<(String, u16)> {
    let (host, port) = host_and_port.trim().rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    if host.contains(['/', '\\', '@', '?', '#']) {
        return None;
    }
    // Numbers are normalised as they will be in the addresses compared with them.
    let url = Url::parse(&format!("http://{host}/")).ok().filter(|url| url.port().is_none())?;
    Some((plain(url.host_str()?), port))
}
