//! A model server of its own process, for tests that kill processes: prints its address, runs until it is killed.
//!
//! `cargo run -p outlive-agent --features testing --example model_server [ADDRESS]`

use outlive_agent::testing::{HackerNewsAndYahooServer, OpenAiServer};
use std::io::Write;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address = address
        .parse()
        .map_err(|error| std::io::Error::other(format!("{address:?} is not a valid address: {error}")))?;
    let models = OpenAiServer::start_at(address)?;
    let sites = HackerNewsAndYahooServer::start().await;
    let mut out = std::io::stdout();
    writeln!(out, "OPENAI_BASE_URL={}", models.url())?;
    writeln!(out, "HACKERNEWS_BASE_URL={}", sites.url())?;
    writeln!(out, "YFINANCE_BASE_URL={}", sites.url())?;
    out.flush()?;
    std::future::pending().await
}
