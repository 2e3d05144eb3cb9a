//! Behind a proxy: whose address counts, and that nobody else can choose it.

use crate::door::{Client, Server, UPGRADE, get_request, in_time};
use crate::served::{Ask, Served, Setup};
use outlive_server::config::Limits;
use outlive_server::guard::GuardConfig;
use outlive_server::listen::{Proxies, ProxyHeader};

fn here() -> Proxies {
    Proxies::new(["127.0.0.1"], ProxyHeader::XForwardedFor).expect("an address")
}

async fn behind(proxies: Proxies, connections_per_address_max: usize) -> Server {
    let limits = Limits { connections_per_address_max, ..Limits::default() };
    Server::start_with(limits, GuardConfig { proxies, ..GuardConfig::default() }).await
}

fn get_for(target: &str, forwarded: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{forwarded}\r\n")
}

#[tokio::test]
async fn a_trusted_proxy_says_who_its_client_is_and_nobody_else_does() {
    let networks = |header| Proxies::new(["127.0.0.0/8", "10.0.0.0/8"], header).expect("networks");
    let forged = "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n";
    for (proxies, lines, expected) in [
        (Proxies::default(), forged, "127.0.0.1"),
        (Proxies::new(["10.0.0.0/8"], ProxyHeader::XForwardedFor).expect("a network"), forged, "127.0.0.1"),
        (networks(ProxyHeader::XForwardedFor), "", "127.0.0.1"),
        (networks(ProxyHeader::XForwardedFor), "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3\r\n", "203.0.113.9"),
        (networks(ProxyHeader::XForwardedFor), "Forwarded: for=6.6.6.6\r\n", "127.0.0.1"),
        (networks(ProxyHeader::Forwarded), "Forwarded: for=6.6.6.6, For=\"[2001:db8::9]:80\"\r\n", "2001:db8::9"),
        (networks(ProxyHeader::Forwarded), "X-Forwarded-For: 6.6.6.6\r\n", "127.0.0.1"),
    ] {
        let server = behind(proxies, 256).await;
        assert_eq!(server.ask(get_for("/peer", lines)).await.body, expected, "{lines:?}");
    }
}

#[tokio::test]
async fn bad_a23_behind_a_proxy_a_client_has_its_share_and_others_have_theirs() {
    let server = behind(here(), 2).await;
    let of = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    // One is answered for long, one is a socket; together they are a share. The proxy itself has more connections.
    let mut held = server.connect().await;
    held.send(get_for("/held", &of("203.0.113.9"))).await;
    in_time(server.reached.notified()).await;
    let mut socket = server.connect().await;
    socket.send(get_for("/ws", &format!("{}{UPGRADE}", of("203.0.113.9")))).await;
    assert_eq!(socket.answer().await.status, 101);
    let mut same: Client = server.connect().await;
    for _ in 0..2 {
        same.send(get_for("/peer", &of("203.0.113.9"))).await;
        let answer = same.answer().await;
        assert_eq!((answer.status, answer.header("x-error-code")), (503, Some("too_many_connections")));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    // The same connection of the proxy serves others, however many.
    for n in 1..=5 {
        same.send(get_for("/peer", &of(&format!("198.51.100.{n}")))).await;
        assert_eq!(same.answer().await.status, 200);
    }
    same.send(get_request("/peer")).await;
    assert_eq!(same.answer().await.body, "127.0.0.1", "and what is the proxy's own");
    server.release.notify_one();
    assert_eq!(held.answer().await.body, "released");
    same.send(get_for("/peer", &of("203.0.113.9"))).await;
    assert_eq!(same.answer().await.body, "203.0.113.9", "an answer that is over counts no more");
}

#[tokio::test]
async fn bad_b02_guesses_through_a_proxy_count_against_who_makes_them() {
    async fn guess(served: &Served, client: &str) -> u16 {
        let headers = format!("X-Forwarded-For: 6.6.6.6, {client}\r\n");
        let ask = Ask { path: "/config", token: Some("wrong"), headers: &headers, ..Ask::default() };
        served.ask(ask).await.status
    }
    let served = Served::with(Setup { proxies: here(), ..Setup::default() }).await;
    for _ in 0..20 {
        assert_eq!(guess(&served, "203.0.113.9").await, 401);
    }
    assert_eq!(guess(&served, "203.0.113.9").await, 429);
    assert_eq!(guess(&served, "203.0.113.10").await, 401, "another client of the same proxy");
    // Without a proxy, another address each time is the same peer each time.
    let served = Served::start().await;
    for n in 0..20 {
        assert_eq!(guess(&served, &format!("203.0.113.{n}")).await, 401);
    }
    assert_eq!(guess(&served, "203.0.113.99").await, 429);
}
