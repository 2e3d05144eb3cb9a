//! The address of the client behind a proxy, as far as it can be trusted.
//!
//! A proxy appends its client's address at the right end of a header; anything further left was sent by that client,
//! who may have made it up. So the header is read from the right, and only while its writers are trusted. It knows
//! nothing else of a request. The invariant: what an untrusted peer sends changes nobody's address.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The most proxies in a row that are followed.
const HOPS_MAX: usize = 32;

/// The proxies in front of a server, and the header in which they say for whom they speak; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    trusted: Vec<Network>,
    header: ProxyHeader,
}

/// Where proxies note the client. One of the two: a proxy passes the other on as its client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client;proto=https, for=proxy` (RFC 7239).
    Forwarded,
}

impl ProxyHeader {
    /// By its name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::XForwardedFor, Self::Forwarded]
            .into_iter()
            .find(|header| header.name().as_str().eq_ignore_ascii_case(name))
    }

    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => header::FORWARDED,
        }
    }
}

/// An invalid address or network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a proxy's address or network; write it like 10.0.0.7, 10.0.0.0/8 or fd00::/8")]
pub struct InvalidProxy(String);

impl Proxies {
    /// Exactly these addresses and networks.
    ///
    /// # Errors
    /// [`InvalidProxy`] names the first invalid one.
    pub fn new<'a>(trusted: impl IntoIterator<Item = &'a str>, header: ProxyHeader) -> Result<Self, InvalidProxy> {
        let network = |text: &str| Network::parse(text).ok_or_else(|| InvalidProxy(text.to_owned()));
        Ok(Self { trusted: trusted.into_iter().map(network).collect::<Result<_, _>>()?, header })
    }

    /// Whether a peer with this address is one of them.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.has(address))
    }

    /// Who sent a request that came from `peer`: the nearest address that is not a proxy's. Where the proxies do not say,
    /// the last of them.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let values: Vec<&HeaderValue> = headers.get_all(self.header.name()).iter().collect();
        let elements = values.iter().rev().flat_map(|value| from_the_right(value.as_bytes(), b','));
        for element in elements.take(HOPS_MAX) {
            let Some(address) = self.address(element) else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    fn address(&self, element: &[u8]) -> Option<IpAddr> {
        let node = match self.header {
            ProxyHeader::XForwardedFor => element,
            ProxyHeader::Forwarded => {
                let mut nodes = from_the_right(element, b';').filter_map(|pair| {
                    let (name, value) = pair.split_at_checked(pair.iter().position(|byte| *byte == b'=')?)?;
                    name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value[1..].trim_ascii())
                });
                // Of two, somebody else could believe the other.
                let node = nodes.next()?;
                if nodes.next().is_some() { None } else { Some(node) }?
            }
        };
        let node = std::str::from_utf8(node).ok()?;
        node_address(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
    }
}

/// The pieces between separators that do not stand in quotes, the last first. Read from the right, so that a quote that
/// somebody further left did not close swallows nothing.
fn from_the_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        let at = (0..text.len()).rev().find(|&at| {
            let is_escaped = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
            is_quoted ^= text[at] == b'"' && !is_escaped;
            text[at] == separator && !is_quoted
        });
        let piece = at.map_or(text, |at| &text[at + 1..]);
        rest = at.map(|at| &text[..at]);
        Some(piece.trim_ascii())
    })
}

/// An address with or without a port, one of IPv6 in brackets or bare.
fn node_address(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => node.parse().ok().or_else(|| node.parse::<SocketAddr>().ok().map(|node| node.ip())),
    };
    address.map(|address| address.to_canonical())
}

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text.trim(), None),
        };
        let address = address.parse::<IpAddr>().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &&str| !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            Some(bits) => Some(bits).filter(is_number)?.parse().ok().filter(|bits| *bits <= most)?,
            None => most,
        };
        Some(Self { address, bits })
    }

    fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u32::from(own) ^ u32::from(other)).checked_shr(32 - self.bits).is_none_or(|rest| rest == 0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (u128::from(own) ^ u128::from(other)).checked_shr(128 - self.bits).is_none_or(|rest| rest == 0)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ProxyHeader, peer: &str, lines: &[&str]) -> String {
        let proxies = Proxies::new(["10.0.0.0/8", "192.0.2.1", "fd00::/8"], header).expect("networks");
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_bytes(line.as_bytes()).expect("a header"));
        }
        proxies.client(peer.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_who_it_is_whatever_it_says() {
        for (header, said) in [
            (ProxyHeader::XForwardedFor, "203.0.113.9"),
            (ProxyHeader::Forwarded, "for=203.0.113.9"),
            (ProxyHeader::XForwardedFor, "203.0.113.9, 10.0.0.1"),
        ] {
            for peer in ["198.51.100.7", "11.0.0.1", "192.0.2.2", "2001:db8::1"] {
                assert_eq!(client(header, peer, &[said]), peer);
            }
        }
    }

    #[test]
    fn the_nearest_that_is_no_proxy_is_the_client() {
        for (lines, expected) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
            (&["1.2.3.4,203.0.113.9 ,10.1.2.3, 192.0.2.1"], "203.0.113.9"),
            (&["1.2.3.4", "203.0.113.9", "10.1.2.3"], "203.0.113.9"),
            (&["203.0.113.9:4711"], "203.0.113.9"),
            (&["[2001:db8::9]:4711"], "2001:db8::9"),
            (&["[2001:db8::9]"], "2001:db8::9"),
            (&["2001:db8::9"], "2001:db8::9"),
            (&["::ffff:203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9"),
            // All of them are proxies: the furthest.
            (&["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            // Nobody says: the last who does.
            (&[], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["203.0.113.9, unknown"], "10.0.0.1"),
            (&["203.0.113.9, nonsense, 10.0.0.2"], "10.0.0.2"),
            (&["203.0.113.9, "], "10.0.0.1"),
        ] {
            assert_eq!(client(ProxyHeader::XForwardedFor, "10.0.0.1", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_a_client_made_up_stands_further_left_and_hides_nothing() {
        for (line, expected) in [
            ("for=203.0.113.9", "203.0.113.9"),
            ("For=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
            ("proto=https; for = \"203.0.113.9:80\"", "203.0.113.9"),
            ("for=\"[2001:db8::9]:4711\", for=10.0.0.2", "2001:db8::9"),
            ("for=1.2.3.4, for=203.0.113.9", "203.0.113.9"),
            ("for=\"1.2.3.4, for=203.0.113.9", "203.0.113.9"),
            ("for=\"1.2.3.4\\\", for=203.0.113.9", "203.0.113.9"),
            ("for=1.2.3.4;by=\"a,b;for=5.6.7.8\", for=203.0.113.9", "203.0.113.9"),
            ("for=203.0.113.9;by=\"a,b;for=5.6.7.8\"", "203.0.113.9"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown, for=10.0.0.2", "10.0.0.2"),
            ("for=203.0.113.9;for=5.6.7.8", "10.0.0.1"),
            ("by=203.0.113.9", "10.0.0.1"),
        ] {
            assert_eq!(client(ProxyHeader::Forwarded, "10.0.0.1", &[line]), expected, "{line}");
        }
        // The header that is not the chosen one says nothing.
        let proxies = Proxies::new(["10.0.0.1"], ProxyHeader::Forwarded).expect("an address");
        let headers = HeaderMap::from_iter([(ProxyHeader::XForwardedFor.name(), HeaderValue::from_static("1.2.3.4"))]);
        assert_eq!(proxies.client([10, 0, 0, 1].into(), &headers), IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn networks_are_addresses_with_or_without_a_length() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
            ("10.0.0.7/32", "::ffff:10.0.0.7", "10.0.0.6"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "::2"),
        ] {
            let proxies = Proxies::new([network], ProxyHeader::default()).expect(network);
            assert!(proxies.trusts(inside.parse().expect("an address")), "{network}");
            assert!(!proxies.trusts(outside.parse().expect("an address")), "{network}");
        }
        for none in ["", "proxy", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "10.0.0.1:80"] {
            let error = Proxies::new([none], ProxyHeader::default()).expect_err(none);
            assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
        }
    }
}
