//! Malformed, oversized and slow requests. Each test is named after what it stands for in the list of bad inputs.

use super::door::{Server, UPGRADE, get_request, in_time, post_request, short};
use outlive_server::config::Limits;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn bad_a01_a_missing_body_or_type_is_named() {
    let server = Server::start(Limits::default()).await;
    for request in [post_request("/json", JSON, ""), "POST /json HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()] {
        let answer = server.ask(request).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (422, Some("body_missing")));
        assert_eq!(
            answer.json(),
            json!({ "detail": [{ "type": "missing", "loc": ["body"], "msg": "Field required" }] })
        );
    }
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let answer = server.ask(post_request("/json", kind, "{}")).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (415, Some("content_type")), "{kind}");
    }
    let accepted = post_request("/json", "Content-Type: Application/JSON; charset=utf-8\r\n", "{}");
    assert_eq!(server.ask(accepted).await.status, 200);
}

#[tokio::test]
async fn bad_a02_malformed_json_is_refused_with_its_place() {
    let server = Server::start(Limits::default()).await;
    for body in ["{", "{\"a\": 1,}", "[NaN]", "\u{feff}{}", "{} {}", "{\"hunter2\" 1}"] {
        let answer = server.ask(post_request("/json", JSON, body)).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (400, Some("json_invalid")), "{body}");
        assert!(answer.body.contains("line 1 column "), "{}", answer.body);
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
}

#[tokio::test]
async fn bad_a03_deep_json_is_refused() {
    let server = Server::start(Limits::default()).await;
    for open in ["[", "{\"a\":"] {
        let answer = server.ask(post_request("/json", JSON, &open.repeat(10_000))).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (400, Some("json_too_deep")), "{open}");
    }
    assert!(server.is_well().await);
}

#[tokio::test]
async fn bad_a04_values_are_kept_exactly_or_refused() {
    let server = Server::start(Limits::default()).await;
    for body in ["[1e400]", "[99999999999999999999]", "[\"\\ud800\"]", "[\"\\u0000\"]"] {
        let answer = server.ask(post_request("/json", JSON, body)).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (400, Some("json_invalid")), "{body}");
    }
    let kept = server.ask(post_request("/json", JSON, "{\"a\":[18446744073709551615,-0.0,\"\\ud83d\\ude00\"]}")).await;
    assert_eq!(kept.body, "{\"a\":[18446744073709551615,-0.0,\"😀\"]}");
}

#[tokio::test]
async fn bad_a05_a_key_twice_is_refused() {
    let server = Server::start(Limits::default()).await;
    let answer = server.ask(post_request("/json", JSON, "{\"user\":\"a\",\"user\":\"b\"}")).await;
    assert_eq!((answer.status, answer.header("x-error-code")), (400, Some("duplicate_key")));
}

#[tokio::test]
async fn bad_a05_a_misfit_names_the_field_and_not_the_value() {
    let server = Server::start(Limits::default()).await;
    let answer = server.ask(post_request("/typed", JSON, "{\"count\":\"hunter2\"}")).await;
    assert_eq!(answer.status, 422);
    let expected =
        json!([{ "type": "value_error", "loc": ["body", "count"], "msg": "Input should be a valid integer" }]);
    assert_eq!(answer.json()["detail"], expected);
}

#[tokio::test]
async fn bad_a05_an_array_is_no_object_whose_fields_stand_in_order() {
    let server = Server::start(Limits::default()).await;
    for body in ["[1]", "[]", " [ 1 ]", "1", "null"] {
        let answer = server.ask(post_request("/typed", JSON, body)).await;
        let expected = json!([{ "type": "value_error", "loc": ["body"], "msg": "Input should be an object" }]);
        assert_eq!((answer.status, &answer.json()["detail"]), (422, &expected), "{body}");
    }
}

#[tokio::test]
async fn bad_a06_an_announced_body_over_the_limit_is_refused_unread() {
    let server = Server::start(short()).await;
    let at_limit = post_request("/echo", "", &"x".repeat(2048));
    assert_eq!(server.ask(at_limit).await.body, "2048");
    let mut client = server.connect().await;
    // Nothing of the body is sent.
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2049\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    assert_eq!(answer.json(), json!({ "detail": "Request body is too large" }));
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn bad_a06_a_chunked_body_over_the_limit_is_cut_where_the_limit_is() {
    let server = Server::start(short()).await;
    for target in ["/echo", "/json"] {
        let mut client = server.connect().await;
        client
            .send(format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{JSON}\r\n"))
            .await;
        client.send(format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(3)).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("x-error-code")), (413, Some("body_too_large")));
        assert!(client.closed().await.is_empty());
    }
}

#[tokio::test]
async fn bad_a06_the_answer_reaches_a_client_that_is_still_sending() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    let length = 8 << 20;
    client.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")).await;
    // A server that just closed would reset the connection, and some systems drop an unread answer then.
    in_time(client.stream.write_all(&vec![b'x'; length])).await.expect("everything can be sent");
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn bad_a07_a_body_that_stops_is_not_waited_for() {
    let server = Server::start(Limits { body_grace: Duration::from_secs(60), ..short() }).await;
    for target in ["/echo", "/json"] {
        let mut client = server.connect().await;
        client.send(format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{answer:?}");
        assert_eq!(answer.json(), json!({ "detail": "Request body came too slowly" }));
        assert!(client.closed().await.is_empty());
    }
}

#[tokio::test]
async fn bad_a08_ambiguous_lengths_and_lines_are_refused_and_closed() {
    let server = Server::start(Limits::default()).await;
    let hidden = get_request("/health");
    for (name, head) in [
        ("both lengths", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        ("both lengths, other order", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        ("two lengths", "Content-Length: 4\r\nContent-Length: 5\r\n"),
        ("the same length twice", "Content-Length: 4\r\nContent-Length: 4\r\n"),
        ("a list of lengths", "Content-Length: 4, 4\r\n"),
        ("a signed length", "Content-Length: +4\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n"),
        ("chunked in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("another coding", "Transfer-Encoding: gzip\r\n"),
        ("a hidden coding", "Transfer-Encoding: xchunked\r\n"),
        ("a space before the colon", "Content-Length : 4\r\n"),
        ("a bare line feed", "X: y\nContent-Length: 4\r\n"),
        ("a folded line", "X: y\r\n z\r\nContent-Length: 4\r\n"),
        ("a bare carriage return", "X: y\rContent-Length: 4\r\n"),
        ("a NUL", "X: y\0\r\n"),
    ] {
        let mut client = server.connect().await;
        client.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\n{head}\r\n0\r\n\r\n{hidden}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(client.closed().await.is_empty(), "{name}: the hidden request is not answered");
    }
    assert!(server.is_well().await);
}

#[tokio::test]
async fn bad_a08_the_same_holds_for_the_second_request_and_for_bytes_in_pieces() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(get_request("/health")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nTransfer-").await;
    client.stream.flush().await.expect("the connection is open");
    client.send("Encoding: chunked\r\n").await;
    client.send("\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn bad_a08_after_a_chunked_request_the_connection_ends() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    let chunked = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.send(chunked.to_owned() + &get_request("/health")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str(), answer.header("connection")), (200, "3", Some("close")));
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn bad_a08_a_refused_upgrade_ends_the_connection_too() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\nGET / HTTP/1.1\nX: y\n\n")).await;
    assert_eq!(client.answer().await.header("connection"), Some("close"));
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn bad_a09_slow_headers_are_cut() {
    let server = Server::start(short()).await;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for sent in ["", "G", "GET /health HTTP/1.1\r\nHost: loc"].iter().cycle().take(60) {
        let mut client = server.connect().await;
        client.send(sent).await;
        slow.push(client);
    }
    assert!(server.is_well().await, "others are served meanwhile");
    for mut client in slow {
        assert!(client.closed().await.is_empty());
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "one after the other takes twelve: {:?}", begun.elapsed());
}

#[tokio::test]
async fn bad_a09_dripping_headers_are_cut_at_the_same_time() {
    let server = Server::start(Limits { keep_alive_period: Duration::from_secs(60), ..short() }).await;
    let mut client = server.connect().await;
    client.send(get_request("/health")).await;
    client.answer().await;
    let begun = Instant::now();
    let (mut reading, mut writing) = client.stream.into_split();
    let drip = tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        writing.write_all(b"GET /health HTTP/1.1\r\nX: ").await?;
        loop {
            beat.tick().await;
            writing.write_all(b"x").await?;
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        Ok::<(), std::io::Error>(())
    });
    let mut rest = Vec::new();
    let _ = in_time(tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut rest)).await;
    drip.abort();
    let period = begun.elapsed();
    assert!(period >= Duration::from_millis(200) && period < Duration::from_millis(1500), "{period:?}");
}

#[tokio::test]
async fn bad_a10_a_dripping_body_is_cut() {
    let limits = Limits { body_idle_period: Duration::from_secs(60), body_rate_min: 1 << 10, ..short() };
    let server = Server::start(limits).await;
    let mut client = server.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n").await;
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    let answer = loop {
        tokio::select! {
            biased;
            ready = client.stream.readable() => {
                ready.expect("the connection is open");
                break client.answer().await;
            }
            _ = beat.tick() => client.send("x").await,
        }
    };
    assert_eq!((answer.status, answer.header("x-error-code")), (408, Some("body_too_slow")));
}

#[tokio::test]
async fn bad_a10_a_body_at_a_good_rate_is_taken() {
    let limits =
        Limits { body_idle_period: Duration::from_secs(60), body_grace: Duration::from_millis(100), ..short() };
    let server = Server::start(limits).await;
    let mut client = server.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n").await;
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..20 {
        beat.tick().await;
        client.send("x".repeat(100)).await;
    }
    assert_eq!(client.answer().await.body, "2000");
}

#[tokio::test]
async fn bad_a11_an_answer_nobody_reads_is_given_up() {
    let server = Server::start(Limits { connections_max: 1, ..short() }).await;
    let mut client = server.connect().await;
    client.send(get_request("/flood")).await;
    // The only slot is free again, though this client is still there.
    assert!(server.is_well().await);
    drop(client);
}

#[tokio::test]
async fn bad_a12_too_many_or_too_long_headers_and_targets_are_refused() {
    let server = Server::start(Limits::default()).await;
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(64 << 10));
    for (headers, status) in [(many, 431), (long, 431)] {
        let mut client = server.connect().await;
        client.send(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
        assert_eq!(client.answer().await.status, status);
        assert!(client.closed().await.is_empty());
    }
    for target in [format!("/{}", "x".repeat(16 << 10)), format!("/health?{}", "x".repeat(16 << 10))] {
        let answer = server.ask(get_request(&target)).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (414, Some("uri_too_long")));
    }
    assert!(server.is_well().await);
}

#[tokio::test]
async fn bad_a13_paths_with_two_readings_reach_no_route() {
    let server = Server::start(Limits::default()).await;
    assert_eq!(server.ask(get_request("/things/a%20b")).await.body, "a b");
    for path in [
        "/things/..%2f..%2fhealth",
        "/things/%2e%2e/health",
        "/things/../health",
        "/things/x%00",
        "/things/%ff",
        "//health",
        "/things//x",
        "/things/x;y",
        "/health;x",
        "/health/",
        "/things/x/",
        "/%68ealth",
        "/HEALTH",
        "/things/%2F",
        "/things/a%5cb",
        "/things/%zz",
        "/things/",
        "/./health",
        "health",
        "*",
    ] {
        let status = server.ask(get_request(path)).await.status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    for raw in [
        &b"GET /things/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"GET /things/\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        assert_eq!(server.ask(raw).await.status, 400);
    }
}

#[tokio::test]
async fn bad_b12_the_same_path_is_seen_by_every_check() {
    let server = Server::start(Limits::default()).await;
    for path in ["/things/x/..%2f..%2fapi/none", "/THINGS/x", "/things/x/", "/things//x", "/api//none", "/api/none/"] {
        let status = server.ask(get_request(path)).await.status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
}

#[tokio::test]
async fn bad_a14_coded_bodies_are_refused() {
    let server = Server::start(Limits::default()).await;
    for coding in ["gzip", "deflate", "br", "zstd", "identity, gzip", "x"] {
        let answer = server.ask(post_request("/echo", &format!("Content-Encoding: {coding}\r\n"), "x")).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (415, Some("content_encoding")), "{coding}");
    }
    assert_eq!(server.ask(post_request("/echo", "Content-Encoding: identity\r\n", "x")).await.status, 200);
}

#[tokio::test]
async fn bad_a19_other_methods_and_protocols_are_refused() {
    let server = Server::start(Limits::default()).await;
    for (request, expected) in [
        ("TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("BREW /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET /health\r\n\r\n", 400),
        ("GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
        ("\u{0}\u{1}\u{2}\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}", 400),
    ] {
        let answer = server.ask(request).await;
        assert_eq!(answer.status, expected, "{request:?}");
        assert_eq!(answer.header("allow").is_some(), expected == 405, "{request:?}");
    }
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.closed().await;
    assert!(server.is_well().await);
}

#[tokio::test]
async fn bad_a20_a_too_large_body_is_refused_before_it_is_asked_for() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    let expect = |length: u64| {
        format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    client.send(expect(3 << 20)).await;
    assert_eq!(client.answer().await.status, 413, "and no 100 before it");
    assert!(client.closed().await.is_empty());
    let mut client = server.connect().await;
    client.send(expect(3)).await;
    assert_eq!(client.answer().await.status, 100);
    client.send("abc").await;
    assert_eq!(client.answer().await.body, "3");
    let other = server.ask(post_request("/echo", "Expect: 200-maybe\r\n", "x")).await;
    assert_eq!(other.status, 417);
}

#[tokio::test]
async fn bad_a21_other_hosts_are_refused() {
    let server = Server::start(Limits::default()).await;
    for (request, expected) in [
        ("GET /health HTTP/1.1\r\nHost: runs.example:443\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        ("GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /health HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 421),
        ("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        ("GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /health HTTP/1.1\r\n\r\n", 400),
        ("GET /health HTTP/1.0\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost, evil.example\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: evil.example@localhost\r\n\r\n", 400),
    ] {
        assert_eq!(server.ask(request).await.status, expected, "{request}");
    }
}

#[tokio::test]
async fn bad_a23_connections_beyond_the_limit_wait() {
    let server = Server::start(Limits { connections_max: 3, ..short() }).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(server.connect().await);
    }
    // The idle ones before it are cut one after the other, three at a time.
    assert!(server.is_well().await);
    drop(idle);
}

#[tokio::test]
async fn bad_a23_an_address_with_its_share_is_told_so() {
    let server = Server::start(Limits { connections_per_address_max: 2, ..Limits::default() }).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    for client in [&mut one, &mut two] {
        client.send(get_request("/health")).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let mut three = server.connect().await;
    let answer = three.answer().await;
    assert_eq!((answer.status, answer.header("x-error-code")), (503, Some("too_many_connections")));
    assert_eq!(answer.json(), json!({ "detail": "Too many connections" }));
    drop(one);
    two.send(get_request("/health")).await;
    assert_eq!(two.answer().await.status, 200, "those that are there go on");
}
