//! The host names this server answers to.
//!
//! A page can make its own name resolve to a visitor's loopback address and is then, for the browser, of the same
//! origin as a server there. What it cannot change is the name in `Host`. The invariant: a request that names another
//! host reaches no route.

use super::single;
use crate::problem::Problem;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use std::net::IpAddr;

/// The names a server answers to. Those of the loopback interface are always among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// These, without ports.
    Listed(Vec<String>),
    /// Any. Only for a server that requires a credential from everyone.
    Any,
}

/// An invalid host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name; write a name or an address without scheme, port and path")]
pub struct InvalidHost(String);

impl Default for Hosts {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Hosts {
    /// These names, besides those of the loopback interface. IPv6 addresses are in brackets.
    ///
    /// # Errors
    /// [`InvalidHost`] names the first invalid one.
    pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidHost> {
        let checked = |name: &str| match name_of(name) {
            Some(bare) if bare.len() == name.len() => Ok(bare.to_ascii_lowercase()),
            _ => Err(InvalidHost(name.to_owned())),
        };
        names.into_iter().map(checked).collect::<Result<_, _>>().map(Self::Listed)
    }

    /// 400 without one well-formed host, 421 for another's.
    pub(super) fn admit(&self, parts: &Parts) -> Result<(), Problem> {
        let malformed = || Problem::new(StatusCode::BAD_REQUEST, "host_invalid", "Invalid host header");
        let host = single(parts, &header::HOST).map_err(|()| malformed())?.ok_or_else(malformed)?;
        let host = host.to_str().map_err(|_| malformed())?;
        // A target in absolute form names a host itself, and other servers go by that one.
        let target = parts.uri.authority().map(|authority| authority.as_str());
        for authority in [Some(host), target].into_iter().flatten() {
            let name = name_of(authority).ok_or_else(malformed)?;
            if !self.has(name) {
                return Err(Problem::new(
                    StatusCode::MISDIRECTED_REQUEST,
                    "host_not_allowed",
                    "This server does not answer to that host name",
                ));
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(names) => is_loopback(name) || names.iter().any(|listed| listed.eq_ignore_ascii_case(name)),
        }
    }
}

/// The name in `name`, `name:port`, `address:port` or `[address]:port`.
fn name_of(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (name, port) = authority.split_at(end);
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    let is_name = match name.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    (has_port && is_name).then_some(name.strip_suffix('.').unwrap_or(name)).filter(|name| !name.is_empty())
}

fn is_loopback(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_always_meant() {
        for host in ["localhost", "LOCALHOST:7777", "127.0.0.1:1", "127.9.9.9", "[::1]:7777", "localhost."] {
            assert!(name_of(host).is_some_and(|name| Hosts::default().has(name)), "{host}");
        }
    }

    #[test]
    fn other_names_are_only_meant_when_listed() {
        let hosts = Hosts::listed(["Runs.example"]).expect("a name");
        for (host, expected) in [
            ("runs.example:443", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("xruns.example", false),
            ("192.0.2.7", false),
        ] {
            assert_eq!(name_of(host).is_some_and(|name| hosts.has(name)), expected, "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for host in ["", ":80", "a b", "u@localhost", "localhost:8o", "localhost:80:80", "[::1", "[x]", "a/b", "."] {
            assert_eq!(name_of(host), None, "{host}");
        }
        assert!(Hosts::listed(["https://runs.example"]).is_err());
        assert!(Hosts::listed(["runs.example:80"]).is_err());
    }
}
