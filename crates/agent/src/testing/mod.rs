//! Real servers on the loopback interface for tests: one that speaks the wire formats of
//! OpenAI, Anthropic and Google, one that stands in for the
//! sites of the HTTP tools, one that speaks MCP.
//!
//! Each has its own thread and runtime, so a test may pause its clock or block its thread, and dropping the server
//! closes every connection at once, as a crash would. Nothing here may be used outside tests.

mod anthropic;
mod background;
mod decide;
mod gemini;
mod mcp;
mod openai;
mod quirk;
mod requests;
mod sites;
mod wire;

pub use mcp::{McpFault, McpServer, mcp_command, read_ledger, serve_mcp_if_asked};
pub use openai::{Exchange, OpenAiServer, PlannedAnswer};
pub use quirk::Quirk;
pub use sites::HackerNewsAndYahooServer;

use axum::Router;
use axum::serve::ListenerExt;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A server on its own thread.
#[derive(Debug)]
struct Hosted {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hosted {
    /// Serves `router` at `address`; port 0 takes a free one.
    fn start(address: SocketAddr, router: Router) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is bound");
                let listener = listener.tap_io(|connection| {
                    // Without this a small piece of a stream waits until the one before is acknowledged.
                    let _ = connection.set_nodelay(true);
                });
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = stopped => {}
                }
            });
            // Dropping the runtime drops what it still serves.
        });
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    fn on_loopback(router: Router) -> Self {
        Self::start(([127, 0, 0, 1], 0).into(), router).expect("the loopback interface has a free port")
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A server that panicked has already failed its test.
            let _ = thread.join();
        }
    }
}

/// A number that depends on the text alone (FNV-1a).
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
