//! The policy tried: every spelling of an address it must refuse, names that resolve to one, redirects.

use super::*;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A name service with a few names in it, which records what it was asked.
#[derive(Default)]
struct Book {
    names: HashMap<&'static str, Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

impl Resolve for Book {
    fn resolve(&self, name: Name) -> Resolving {
        self.asked.lock().unwrap().push(name.as_str().to_owned());
        let addresses = self.names.get(name.as_str()).cloned().unwrap_or_default();
        let addresses: Vec<_> =
            addresses.iter().map(|text| SocketAddr::new(text.parse().expect("an address"), 0)).collect();
        Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
    }
}

/// A server that answers each request by its path and keeps what it was sent.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = connection.read_u8().await else { break };
                    request.push(byte);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                log.lock().unwrap().push(request);
                // A client that has read enough goes away.
                let _ = connection.write_all(answer(&path).as_bytes()).await;
            }
        });
        Self { address, seen, task }
    }

    fn url(&self, path: &str) -> Url {
        url(&format!("http://{}{path}", self.address))
    }

    fn outbound(&self) -> Outbound {
        Outbound::default().allow(&self.address.to_string()).unwrap()
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn moved(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

#[test]
fn only_public_addresses_may_be_asked_for() {
    let refused = [
        // Schemes.
        "http://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/_x",
        "ftp://example.org/",
        "data:text/plain,x",
        "javascript:alert(1)",
        "unix:/run/docker.sock",
        // Ports.
        "https://example.org:8443/",
        "https://example.org:22/",
        // Loopback in every spelling.
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://①②⑦.⓪.⓪.①/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://0/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        // Networks.
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/",
        "https://[fe80::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:1::1]/",
        "https://[2001:db8::1]/",
        "https://[4000::1]/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://192.0.0.192/",
        "https://168.63.129.16/",
        "https://198.18.0.1/",
        "https://192.88.99.1/",
        // Names.
        "https://metadata.google.internal/",
        "https://metadata.google.internal./",
        "https://metadata/",
        "https://metadata.tencentyun.com/",
        "https://printer.local/",
        "https://router.home.arpa/",
        // Whose password?
        "https://user@example.org/",
        "https://:password@example.org/",
        "https://example.org@127.0.0.1/",
    ];
    for text in refused {
        assert!(Outbound::default().check(&url(text)).is_err(), "{text}");
    }
    let allowed = [
        "https://example.org/a.png?size=2#top",
        "https://example.org:443/",
        "https://example.org:80/",
        "https://localhost.example.org/",
        "https://internal.example.org/",
        "https://8.8.8.8/",
        "https://172.32.0.1/",
        "https://100.128.0.1/",
        "https://[2606:4700::1111]/",
    ];
    for text in allowed {
        assert_eq!(Outbound::default().check(&url(text)), Ok(()), "{text}");
    }
}

#[test]
fn a_refusal_names_the_host_and_no_secret() {
    let problem = Outbound::default().check(&url("https://127.0.0.1/secret-path?token=secret")).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "127.0.0.1 has a loopback address, which is not public: the program has to allow this host and its port"
    );
    let problem = Outbound::default().check(&url("https://secret:secret@example.org/")).unwrap_err();
    assert!(!problem.to_string().contains("secret"), "{problem}");
}

#[test]
fn a_host_is_opened_with_one_port_by_both_schemes() {
    let outbound = Outbound::default().allow("127.0.0.1:9100").unwrap().allow("[::1]:80").unwrap();
    let outbound = outbound.allow("Files.Internal:8080").unwrap();
    for text in [
        "http://127.0.0.1:9100/",
        "https://127.0.0.1:9100/",
        "http://0x7f.1:9100/",
        "http://[0::1]/",
        "http://files.internal:8080/",
        "http://files.internal.:8080/",
    ] {
        assert_eq!(outbound.check(&url(text)), Ok(()), "{text}");
    }
    for text in [
        "http://127.0.0.1:9101/",
        "https://127.0.0.1/",
        "http://127.0.0.2:9100/",
        "https://[::1]/",
        "https://files.internal/",
        "http://more.files.internal:8080/",
        "ftp://127.0.0.1:9100/",
        "http://user@127.0.0.1:9100/",
    ] {
        assert!(outbound.check(&url(text)).is_err(), "{text}");
    }
    let plain = Outbound::default().allow_http();
    assert!(plain.check(&url("http://example.org/")).is_ok());
    assert!(plain.check(&url("http://127.0.0.1/")).is_err() && plain.check(&url("http://example.org:8080/")).is_err());
}

#[test]
fn what_is_no_host_with_a_port_cannot_be_opened() {
    for text in
        ["", "example.org", ":80", "a:0", "a:65536", "a:b", "http://a:80", "u@a:80", "a/b:80", "a:1:2", "*:80 x"]
    {
        let problem = Outbound::default().allow(text).unwrap_err();
        assert!(problem.to_string().contains("127.0.0.1:9100"), "{text}");
    }
}

#[test]
fn the_edges_of_a_block_belong_to_it() {
    let refused = |text: &str| addresses::not_public(text.parse::<IpAddr>().unwrap()).is_some();
    for (inside, outside) in [
        ("0.255.255.255", "1.0.0.0"),
        ("10.255.255.255", "11.0.0.0"),
        ("100.127.255.255", "100.128.0.0"),
        ("127.255.255.255", "128.0.0.0"),
        ("172.31.255.255", "172.32.0.0"),
        ("198.19.255.255", "198.20.0.0"),
        ("224.0.0.0", "223.255.255.255"),
        ("168.63.129.16", "168.63.129.17"),
        ("2001:1ff:ffff::", "2001:200::"),
        ("2002:ffff::", "2003::"),
        ("1fff:ffff::", "2000::"),
        ("4000::", "2fff::"),
    ] {
        assert!(refused(inside) && !refused(outside), "{inside} and {outside}");
    }
}

#[tokio::test]
async fn a_name_is_reached_only_when_all_of_its_addresses_are_public() {
    let names = [
        ("inside.example", vec!["127.0.0.1"]),
        ("mixed.example", vec!["93.184.216.34", "10.0.0.7"]),
        ("mapped.example", vec!["::ffff:127.0.0.1"]),
        ("metadata.example", vec!["169.254.169.254"]),
        ("unique.example", vec!["fd00:ec2::254"]),
        ("nowhere.example", vec![]),
    ];
    let book = Arc::new(Book { names: HashMap::from(names.clone()), ..Book::default() });
    let outbound = Outbound::default().names(book.clone());
    for (name, addresses) in names {
        let address = url(&format!("https://{name}/path?token=secret"));
        let failure = outbound.get(&address, Limits::default()).await.unwrap_err();
        let expected = if addresses.is_empty() { FailureKind::Unavailable } else { FailureKind::BadRequest };
        assert_eq!(failure.kind, expected, "{failure:?}");
        assert!(failure.message.contains(name) && !failure.message.contains("secret"), "{failure:?}");
    }
    // Each name was looked up once: what was checked is what would have been connected to.
    assert_eq!(book.asked.lock().unwrap().len(), 6);
    let failure = outbound.get(&url("https://db.internal/"), Limits::default()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadRequest);
    assert_eq!(book.asked.lock().unwrap().len(), 6, "a private name is not even looked up");
}

#[tokio::test]
async fn an_opened_name_is_reached_wherever_it_is() {
    let server = Server::start(|_| found("here")).await;
    let port = server.address.port();
    let book = Book { names: HashMap::from([("files.internal", vec!["127.0.0.1"])]), ..Book::default() };
    let outbound = Outbound::default().allow(&format!("files.internal:{port}")).unwrap().names(Arc::new(book));
    let address = url(&format!("http://files.internal:{port}/a"));
    assert_eq!(outbound.get(&address, Limits::default()).await.unwrap(), b"here");
}

#[tokio::test]
async fn a_redirection_is_checked_like_the_first_address() {
    let inner = Server::start(|_| found("the inside")).await;
    let inside = inner.address;
    let server = Server::start(move |path| match path {
        "/inner" => moved(&format!("http://{inside}/")),
        "/metadata" => moved("http://169.254.169.254/latest/meta-data/"),
        "/name" => moved("https://inside.example/"),
        "/file" => moved("file:///etc/passwd"),
        "/port" => moved("//127.0.0.1:1/"),
        "/nonsense" => moved("http://"),
        "/credentials" => moved("https://user:hidden@example.org/"),
        _ => found("outside"),
    })
    .await;
    let book = Book { names: HashMap::from([("inside.example", vec!["127.0.0.1"])]), ..Book::default() };
    let outbound = server.outbound().names(Arc::new(book));
    for path in ["/inner", "/metadata", "/name", "/file", "/port", "/nonsense", "/credentials"] {
        let failure = outbound.get(&server.url(path), Limits::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadRequest, "{path}: {failure:?}");
        assert!(!failure.message.contains("hidden") && !failure.message.contains("latest"), "{failure:?}");
    }
    assert_eq!((server.requests(), inner.requests()), (7, 0));
    let both = outbound.allow(&inside.to_string()).unwrap();
    assert_eq!(both.get(&server.url("/inner"), Limits::default()).await.unwrap(), b"the inside");
}

#[tokio::test]
async fn three_redirections_are_followed_and_a_fourth_is_not() {
    let server = Server::start(|path| match path.trim_start_matches('/').parse::<u32>() {
        Ok(0) | Err(_) => found("the end"),
        Ok(left) => moved(&format!("/{}", left - 1)),
    })
    .await;
    assert_eq!(server.outbound().get(&server.url("/3"), Limits::default()).await.unwrap(), b"the end");
    let failure = server.outbound().get(&server.url("/4"), Limits::default()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadResponse);
    assert_eq!(server.requests(), 8);
}

#[tokio::test]
async fn the_client_reaches_nothing_that_was_not_checked() {
    let server = Server::start(|path| if path == "/away" { moved("/there") } else { found("here") }).await;
    let strict = Outbound::default().client().unwrap();
    // `check` was not called before, and a numeric host is never looked up.
    assert!(strict.get(server.url("/")).send().await.unwrap_err().is_connect());
    assert!(strict.get(format!("https://{}/", server.address)).send().await.unwrap_err().is_connect());
    assert_eq!(server.requests(), 0);
    let opened = server.outbound().client().unwrap();
    let answer = opened.get(server.url("/away")).header("x-api-key", "secret").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), server.requests()), (302, 1));
}

#[tokio::test]
async fn nothing_is_sent_that_could_be_a_credential() {
    let server = Server::start(|path| if path == "/away" { moved("/there") } else { found("here") }).await;
    server.outbound().get(&server.url("/away?token=secret"), Limits::default()).await.unwrap();
    let seen = server.seen.lock().unwrap().clone();
    for request in &seen[1..] {
        let request = request.to_ascii_lowercase();
        for header in ["authorization:", "cookie:", "referer:", "secret"] {
            assert!(!request.contains(header), "{request}");
        }
    }
}

#[tokio::test]
async fn size_status_and_time_are_limited() {
    let server = Server::start(|path| match path {
        "/big" => found(&"x".repeat(1001)),
        "/missing" => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        "/busy" => "HTTP/1.1 429 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        "/broken" => "HTTP/1.1 503 Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        _ => found(&"x".repeat(1000)),
    })
    .await;
    let limits = Limits { bytes_max: 1000, ..Limits::default() };
    let (outbound, kind) = (server.outbound(), |result: Result<Vec<u8>, Failure>| result.map_err(|f| f.kind).err());
    assert_eq!(outbound.get(&server.url("/fits"), limits).await.unwrap().len(), 1000);
    assert_eq!(kind(outbound.get(&server.url("/big"), limits).await), Some(FailureKind::BadResponse));
    assert_eq!(kind(outbound.get(&server.url("/missing"), limits).await), Some(FailureKind::BadRequest));
    assert_eq!(kind(outbound.get(&server.url("/broken"), limits).await), Some(FailureKind::Unavailable));
    let busy = outbound.get(&server.url("/busy"), limits).await.unwrap_err();
    assert_eq!((busy.kind, busy.retry_after_ms), (FailureKind::RateLimit, Some(7000)));
    // Listens and never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = silent.local_addr().unwrap();
    let outbound = Outbound::default().allow(&address.to_string()).unwrap();
    let limits = Limits { timeout: Duration::from_millis(50), ..limits };
    let failure = outbound.get(&url(&format!("http://{address}/")), limits).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
}
