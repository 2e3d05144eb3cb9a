//! A server that is a program of this machine: started with a bounded environment, read in bounds, and ended with all that
//! it has started.
//!
//! It must never know what is said. The invariants: what it writes to standard error is kept for a failure and goes into no
//! log; nothing that it started outlives its session.

use super::super::command::{Group, LINGER, environment, last_words, read_some};
use outlive_core::{Failure, FailureKind};
use std::pin::{Pin, pin};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a program may take to end once its input is closed.
const GRACE: Duration = Duration::from_secs(2);

/// Both ends of a program.
pub(super) struct Started {
    pub(super) reads: Bounded<ChildStdout>,
    pub(super) writes: ChildStdin,
    pub(super) keeper: Keeper,
    /// It has sent a message that is too long.
    pub(super) is_flooding: Arc<AtomicBool>,
}

/// Ends the program when it is dropped, after a moment of grace.
pub(super) struct Keeper {
    ended: JoinHandle<String>,
    /// Dropped, it is to end.
    closing: oneshot::Sender<()>,
}

impl Keeper {
    /// How it ended, and its last words; ends it where it has not.
    pub(super) async fn end(self) -> String {
        let Self { ended, closing } = self;
        drop(closing);
        ended.await.unwrap_or_else(|_| "was ended".to_owned())
    }
}

/// Starts a program.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(argv: &[String], env: &[String], message_max: usize) -> Result<Started, Failure> {
    let refused = |problem: String| Failure::new(FailureKind::Unavailable, problem);
    let (program, rest) = argv.split_first().ok_or_else(|| refused("its command is empty".to_owned()))?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    environment(&mut command, env);
    let mut child = command.spawn().map_err(|error| refused(format!("{program} cannot be started: {error}")))?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (writes, reads) = pipes.ok_or_else(|| refused(format!("{program} cannot be spoken to")))?;
    let (closing, closed) = oneshot::channel();
    let ended = tokio::spawn(keep(child, closed));
    let is_flooding = Arc::new(AtomicBool::new(false));
    let reads = Bounded { inner: reads, line: 0, most: message_max, is_flooding: is_flooding.clone() };
    Ok(Started { reads, writes, keeper: Keeper { ended, closing }, is_flooding })
}

/// Waits until the program has ended, or until it is to end. Says how it ended.
async fn keep(mut child: Child, closed: oneshot::Receiver<()>) -> String {
    let group = Group::of(&child);
    let complaint = child.stderr.take();
    let ending = async {
        let by_itself = tokio::select! {
            status = child.wait() => Some(status),
            _ = closed => tokio::time::timeout(GRACE, child.wait()).await.ok(),
        };
        drop(group);
        match by_itself {
            Some(status) => status,
            None => child.wait().await,
        }
    };
    let mut kept = Vec::new();
    let status = {
        let (mut ending, mut reading) = (pin!(ending), pin!(read_some(complaint, &mut kept)));
        tokio::select! {
            status = &mut ending => {
                // What has left its group may hold this open for ever.
                let _ = tokio::time::timeout(LINGER, reading).await;
                status
            }
            () = &mut reading => ending.await,
        }
    };
    match status {
        Ok(status) => last_words(status, &String::from_utf8_lossy(&kept)),
        Err(error) => format!("cannot be waited for: {error}"),
    }
}

/// Reads until a line is too long; then there is nothing more.
pub(super) struct Bounded<R> {
    inner: R,
    /// How long the line is so far.
    line: usize,
    most: usize,
    is_flooding: Arc<AtomicBool>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.is_flooding.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        self.line = match read.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => read.len() - end - 1,
            None => self.line + read.len(),
        };
        if self.line > self.most {
            self.is_flooding.store(true, Ordering::Relaxed);
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn reading_ends_at_a_line_that_is_too_long_and_not_at_many_short_ones() {
        let read = async |bytes: Vec<u8>| {
            let is_flooding = Arc::new(AtomicBool::new(false));
            let mut bounded = Bounded { inner: &bytes[..], line: 0, most: 100_000, is_flooding: is_flooding.clone() };
            let mut read = Vec::new();
            bounded.read_to_end(&mut read).await.unwrap();
            (read.len(), is_flooding.load(Ordering::Relaxed))
        };
        let short = b"0123456789\n".repeat(100_000);
        assert_eq!(read(short.clone()).await, (short.len(), false));
        let (length, is_flooding) = read(vec![b'x'; 1 << 20]).await;
        assert!(length <= 100_000 && is_flooding, "{length}");
    }
}
