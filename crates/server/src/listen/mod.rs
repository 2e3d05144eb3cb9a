//! Accepts connections and speaks HTTP/1.1 on them, within [`Limits`].
//!
//! ```text
//! accept ──► slots ──► socket ──► hyper ──► router
//!            how many  times,     parses    one call for each request
//!                      screen
//! ```
//! It never looks at what a request means: names of hosts, origins, bodies and paths are the guard's; only who sent it is
//! found out here, because that counts. The invariant: every connection holds a slot until its socket is closed, and no
//! peer can keep one without making progress.
//!
//! A TCP connection is refused in two places only. When all slots are taken the next connection waits in the system's
//! queue; when one address holds its share, its next connection is told 503 and closed. Behind a trusted proxy it is the
//! client's next request.

mod forwarded;
mod screen;
mod slots;
mod socket;
mod turn;

use crate::config::Limits;
use crate::metrics;
use crate::problem::Problem;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
pub use forwarded::{InvalidProxy, Proxies, ProxyHeader};
use futures::future::{join, join_all};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use slots::{Share, Slot, Slots};
use socket::Socket;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{JoinError, JoinSet};
use tower::ServiceExt;
use turn::Turns;

/// How long to pause accepting after the system refused a connection, usually for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What hyper may hold of one connection's input, at least.
const BUFFER_BYTES_MIN: usize = 64 << 10;
/// The number of header lines hyper reads without allocating.
const HEADERS_WITHOUT_ALLOCATION: usize = 100;
/// Told to an address that holds its share of the connections.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 33\r\n\
    retry-after: 1\r\nx-error-code: too_many_connections\r\nconnection: close\r\n\r\n{\"detail\":\"Too many connections\"}";

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Accepting.
    Open,
    /// Requests in flight are answered, nothing else begins.
    Draining,
    /// Whatever is still open is cut.
    Cut,
}

/// Tells a part of the server how far the end has come.
#[derive(Clone, Debug)]
struct Ending(watch::Receiver<Stage>);

impl Ending {
    /// Ready when the stage is reached, or when nobody is left who could tell.
    async fn reached(&mut self, stage: Stage) {
        let _ = self.0.wait_for(|now| *now >= stage).await;
    }
}

/// Learns of every refused connection.
pub type OnRefusal = Arc<dyn Fn() + Send + Sync>;

/// Serves `router` on all listeners until `shutdown`, and then until the requests in flight are answered or
/// `limits.drain_period` is over. Each request carries [`ConnectInfo`] with its client's [`SocketAddr`]: the peer's, or
/// the one that a proxy among `proxies` speaks for, with port 0.
///
/// # Cancel safety
/// A drop closes every connection at once; requests in flight get no answer.
///
/// # Errors
/// `InvalidInput` without a listener. Errors of single connections are logged and end only those.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    limits: Limits,
    proxies: Proxies,
    on_refusal: OnRefusal,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    if listeners.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on; bind at least one"));
    }
    let drain_period = limits.drain_period;
    let slots = Slots::new(limits.connections_max, limits.connections_per_address_max);
    let (stage, ending) = watch::channel(Stage::Open);
    let admission = Admission { slots: Arc::clone(&slots), proxies: Arc::new(proxies), on_refusal };
    let door = Door { router, http: protocol(&limits), limits, admission, ending: Ending(ending) };
    let accepting = join_all(listeners.into_iter().map(|listener| door.accept(listener)));
    let closing = async {
        shutdown.await;
        stage.send_replace(Stage::Draining);
        if tokio::time::timeout(drain_period, slots.all_free()).await.is_err() {
            tracing::warn!("connections were still open after the drain period; closing them");
        }
        stage.send_replace(Stage::Cut);
    };
    join(accepting, closing).await;
    Ok(())
}

/// How HTTP is spoken. The timer is what makes the periods count at all.
fn protocol(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // A bound on waiting for a head as a whole; `Socket` tells its two parts apart. It must be set: only with it is
        // a read begun as soon as an answer is complete, which is where the socket begins to count.
        .half_close(true)
        .header_read_timeout(limits.header_period.saturating_add(limits.keep_alive_period))
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN));
    if limits.headers_max != HEADERS_WITHOUT_ALLOCATION {
        http.max_headers(limits.headers_max);
    }
    http
}

/// What every connection is served with.
struct Door {
    router: Router,
    http: http1::Builder,
    limits: Limits,
    admission: Admission,
    ending: Ending,
}

/// Who is let in.
#[derive(Clone)]
struct Admission {
    slots: Arc<Slots>,
    proxies: Arc<Proxies>,
    on_refusal: OnRefusal,
}

impl Admission {
    /// A connection, unless its address has its share.
    fn connection(&self, free: OwnedSemaphorePermit, peer: IpAddr) -> Option<Slot> {
        if self.proxies.trusts(peer) {
            return Some(Slots::take_for_proxy(free));
        }
        let slot = self.slots.take(free, peer);
        if slot.is_none() {
            (self.on_refusal)();
        }
        slot
    }

    /// Who sent a request, and, of what came through a proxy, its part of that client's share.
    fn request<B>(&self, peer: SocketAddr, request: &Request<B>) -> Result<(SocketAddr, Option<Share>), Problem> {
        let client = self.proxies.client(peer.ip(), request.headers());
        if client == peer.ip().to_canonical() {
            return Ok((peer, None));
        }
        let share = self.slots.share(client).ok_or_else(|| {
            (self.on_refusal)();
            let problem =
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, metrics::TOO_MANY_CONNECTIONS, "Too many connections");
            problem.retry_after(Duration::from_secs(1))
        })?;
        Ok((SocketAddr::new(client, 0), Some(share)))
    }
}

impl Door {
    /// Accepts until the drain begins, then waits for the connections it accepted.
    async fn accept(&self, listener: TcpListener) {
        let mut conversations = JoinSet::new();
        let mut ending = self.ending.clone();
        loop {
            tokio::select! {
                biased;
                () = ending.reached(Stage::Draining) => break,
                Some(ended) = conversations.join_next() => note(ended),
                (stream, peer, slot) = self.next(&listener) => {
                    conversations.spawn(self.converse(stream, peer, slot));
                }
            }
        }
        drop(listener);
        while let Some(ended) = conversations.join_next().await {
            note(ended);
        }
    }

    /// The next connection there is a slot for.
    ///
    /// # Cancel safety
    /// Safe: a connection that was accepted is returned in the same poll.
    async fn next(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Slot) {
        loop {
            let free = self.admission.slots.free().await;
            match listener.accept().await {
                Ok((stream, peer)) => match self.admission.connection(free, peer.ip()) {
                    Some(slot) => return (stream, peer, slot),
                    None => refuse(&stream),
                },
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "could not accept a connection; trying again shortly");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Speaks HTTP on one connection until it ends, is upgraded, or the server stops.
    fn converse(&self, stream: TcpStream, peer: SocketAddr, slot: Slot) -> impl Future<Output = ()> + use<> {
        let turns = Arc::new(Turns::default());
        let mut ending = self.ending.clone();
        let socket = Socket::new(stream, slot, &self.limits, Arc::clone(&turns), ending.clone());
        let service = answering(self.router.clone(), self.admission.clone(), peer, turns);
        let connection = self.http.serve_connection(TokioIo::new(socket), service).with_upgrades();
        async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => Some(ended),
                () = ending.reached(Stage::Draining) => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        biased;
                        ended = connection => ended,
                        () = ending.reached(Stage::Cut) => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                // The peer's doing, mostly: it went away, was too slow, or did not speak HTTP.
                tracing::debug!(%peer, %error, "a connection ended early");
            }
        }
    }
}

/// Hands each request to the router, and keeps `turns` informed of whose turn it is.
fn answering(
    router: Router,
    admission: Admission,
    peer: SocketAddr,
    turns: Arc<Turns>,
) -> TowerToHyperService<
    impl tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone,
> {
    TowerToHyperService::new(tower::service_fn(move |request: Request<Incoming>| {
        let admitted = admission.request(peer, &request).map(|(client, share)| {
            let turn = Turns::begin(&turns, &request, share);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(client));
            (router.clone(), request, turn)
        });
        async move {
            match admitted {
                Ok((router, request, turn)) => router.oneshot(request).await.map(|response| turn.answer(response)),
                Err(problem) => Ok(problem.into_response()),
            }
        }
    }))
}

/// Whether accepting failed because that one connection went away again.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Sends the reason if that needs no waiting, and closes.
fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(BUSY);
    tracing::debug!("an address has too many connections; closed one");
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection's task panicked; other connections go on");
    }
}

#[cfg(test)]
mod tests {
    use super::BUSY;

    #[test]
    fn the_refusal_says_how_long_it_is() {
        let text = std::str::from_utf8(BUSY).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    }
}
