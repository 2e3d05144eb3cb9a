//! A TCP stream that loses patience: it ends itself when the peer makes no progress that it owes.
//!
//! It knows whose turn it is and nothing of requests. The invariant: while bytes are owed by the peer, a timer runs, and
//! what was written last is not lost to a reset because the peer was still writing. It carries the connection's slot, so
//! that an upgraded connection counts for as long as it is open.

use super::screen::Screen;
use super::slots::Slot;
use super::turn::{Place, Turns};
use super::{Ending, Stage};
use crate::config::Limits;
use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep};

/// How long the peer may keep sending after the last answer. Closing while it does would lose the answer.
const LINGER_PERIOD: Duration = Duration::from_secs(3);
/// How much of that is read at once.
const LINGER_BYTES: usize = 4 << 10;
/// How often is looked whether a peer that only listens still does.
const LISTENS_PERIOD: Duration = Duration::from_secs(1);
/// Shortest time after which a peer counts as vanished: a lost packet is sent again several times in it.
const SILENCE_PERIOD_MIN: Duration = Duration::from_secs(6);
/// Handed to the parser after malformed bytes, so that it comes to a decision.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// One connection's stream.
pub(super) struct Socket {
    /// Taken by the drop alone.
    line: Option<Line>,
    turns: Arc<Turns>,
    reading: Patience,
    writing: Patience,
    waits: Waits,
    screen: Screen,
    verdict: Verdict,
    /// Nothing more is expected from the peer.
    is_ended: bool,
    cut: Option<BoxFuture<'static, ()>>,
    header_period: Duration,
    keep_alive_period: Duration,
    write_idle_period: Duration,
}

/// What lasts until the connection is closed.
struct Line {
    stream: TcpStream,
    _slot: Slot,
}

/// What the socket waits for from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Nothing with a limit here.
    No,
    /// The rest of the head after this many requests.
    Head(usize),
    /// The beginning of another request after this many.
    Request(usize),
    /// That it closes: it said all it will say, and listens.
    Close,
}

/// What the screen found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing yet.
    Fine,
    /// The parser has the bytes that are malformed, and needs the end of the head.
    Malformed,
    /// It has that too.
    Told,
}

/// A timer that may be off.
struct Patience {
    sleep: Pin<Box<Sleep>>,
    is_on: bool,
}

impl Patience {
    fn new(period: Duration) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(period)), is_on: true }
    }

    fn start(&mut self, period: Duration) {
        let now = Instant::now();
        // A period too long for the clock is as good as none.
        self.sleep.as_mut().reset(now.checked_add(period).unwrap_or(now + Duration::from_secs(1 << 31)));
        self.is_on = true;
    }

    fn stop(&mut self) {
        self.is_on = false;
    }

    /// Ready when the time is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_on { self.sleep.as_mut().poll(cx) } else { Poll::Pending }
    }
}

impl Socket {
    /// The time for the first request begins now.
    pub(super) fn new(stream: TcpStream, slot: Slot, limits: &Limits, turns: Arc<Turns>, mut ending: Ending) -> Self {
        // An event must not wait for the next one. Failure costs time only.
        let _ = stream.set_nodelay(true);
        notice_silence(&stream, limits.write_idle_period);
        let mut writing = Patience::new(limits.write_idle_period);
        writing.stop();
        Self {
            line: Some(Line { stream, _slot: slot }),
            turns,
            reading: Patience::new(limits.header_period),
            writing,
            waits: Waits::Head(0),
            screen: Screen::new(),
            verdict: Verdict::Fine,
            is_ended: false,
            cut: Some(Box::pin(async move { ending.reached(Stage::Cut).await })),
            header_period: limits.header_period,
            keep_alive_period: limits.keep_alive_period,
            write_idle_period: limits.write_idle_period,
        }
    }

    fn stream(&mut self) -> &mut TcpStream {
        &mut self.line.as_mut().expect("only the drop takes it").stream
    }

    /// Looks at bytes that were just read, and spoils them for the parser if they are malformed.
    fn look_at(&mut self, fresh: &mut [u8]) {
        self.is_ended |= fresh.is_empty();
        if self.turns.place() == Place::Upgraded {
            return;
        }
        if let Some(at) = self.screen.take(fresh) {
            // No parser accepts this byte in a head, so the answer is its own 400.
            fresh[at] = 0;
            self.verdict = Verdict::Malformed;
        }
    }

    fn wanted(&self) -> Waits {
        let count = self.turns.count();
        match self.turns.place() {
            Place::Upgraded | Place::Answering => Waits::No,
            Place::Waiting if self.screen.is_in_head() || count == 0 => Waits::Head(count),
            Place::Waiting => Waits::Request(count),
        }
    }

    /// Nothing could be read. Fails when the peer has had its time.
    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wanted = self.wanted();
        if wanted != self.waits {
            self.waits = wanted;
            match wanted {
                Waits::No | Waits::Close => self.reading.stop(),
                Waits::Head(_) => self.reading.start(self.header_period),
                Waits::Request(_) => self.reading.start(self.keep_alive_period),
            }
        }
        if self.reading.poll(cx).is_ready() {
            self.is_ended = true;
            let reason = match self.waits {
                Waits::Request(_) => "no further request came",
                _ => "the head of the request took too long",
            };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        self.wait_for_cut(cx)
    }

    /// Whether the peer has ended its side and is still owed an answer. The parser takes such an end for a broken
    /// connection, so it hears of it when the answer is complete.
    fn only_listens(&self) -> bool {
        self.turns.place() == Place::Answering && !self.screen.is_in_message()
    }

    /// Fails when a peer that only listened is gone. That it is shows in the answer of its system to what it is sent.
    fn wait_for_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.turns.only_listens();
        loop {
            if let Some(error) = self.stream().take_error()? {
                self.is_ended = true;
                return Poll::Ready(Err(error));
            }
            if self.waits == Waits::Close && self.reading.poll(cx).is_pending() {
                return self.wait_for_cut(cx);
            }
            self.waits = Waits::Close;
            self.reading.start(LISTENS_PERIOD);
        }
    }

    /// Fails when the server's drain period is over.
    fn wait_for_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(cut) = &mut self.cut {
            ready!(cut.as_mut().poll(cx));
            self.cut = None;
        }
        self.is_ended = true;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server stopped")))
    }

    /// Counts the time in which nothing could be written.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = &written {
            self.is_ended |= result.is_err();
            self.writing.stop();
            return written;
        }
        if !self.writing.is_on {
            self.writing.start(self.write_idle_period);
        }
        ready!(self.writing.poll(cx));
        // What is left in the system's buffer would keep memory for a peer that does not read.
        self.is_ended = true;
        let _ = self.stream().set_zero_linger();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read")))
    }

    /// Whether the peer may still be sending what nobody reads.
    fn may_be_sending(&self) -> bool {
        let in_message = self.verdict != Verdict::Fine || self.screen.is_in_message();
        !self.is_ended && (in_message || self.turns.place() == Place::Upgraded)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.may_be_sending() {
            return;
        }
        if let (Some(line), Some(cut), Ok(runtime)) = (self.line.take(), self.cut.take(), Handle::try_current()) {
            runtime.spawn(line.linger(cut));
        }
    }
}

impl Line {
    /// Reads on until the peer is done, for a while: a close while it writes is a reset, which takes from it what it has
    /// not read yet. It ends with the server at the latest, which waits for the slot.
    async fn linger(mut self, cut: BoxFuture<'static, ()>) {
        let reading = async {
            let _ = self.stream.shutdown().await;
            let mut storage = [0; LINGER_BYTES];
            while self.stream.read(&mut storage).await.is_ok_and(|count| count > 0) {}
        };
        tokio::select! {
            () = reading => {}
            () = sleep(LINGER_PERIOD) => {}
            () = cut => {}
        }
    }
}

/// Lets the system end a connection whose peer has vanished: what is sent now and then into a stream of events fits the
/// system's buffer for hours, so that no write would ever have to wait. Failure costs time only.
fn notice_silence(stream: &TcpStream, period: Duration) {
    let period = period.max(SILENCE_PERIOD_MIN);
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(period / 2).with_interval(period / 6);
    #[cfg(unix)]
    let probes = probes.with_retries(3);
    let _ = socket.set_tcp_keepalive(&probes);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_user_timeout(Some(period));
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict == Verdict::Malformed && buffer.remaining() >= END_OF_HEAD.len() {
            this.verdict = Verdict::Told;
            buffer.put_slice(END_OF_HEAD);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(this.stream()).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() == before && this.only_listens() => this.wait_for_answer(cx),
            Poll::Ready(Ok(())) => {
                this.look_at(&mut buffer.filled_mut()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                this.is_ended = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => this.wait_to_read(cx),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(this.stream()).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(this.stream()).poll_write_vectored(cx, bytes);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().stream()).poll_shutdown(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// The system's part cannot be seen without a network that loses packets; that it was asked to do it can.
    #[tokio::test]
    async fn bad_d15_the_system_is_asked_to_end_connections_to_peers_that_have_vanished() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("a connection");
        notice_silence(&stream, Duration::from_secs(30));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("readable"));
        assert_eq!(socket.tcp_keepalive_time().expect("readable"), Duration::from_secs(15));
        assert_eq!(socket.tcp_user_timeout().expect("readable"), Some(Duration::from_secs(30)));
        drop(client);
    }
}
