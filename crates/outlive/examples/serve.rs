//! The server program of docs/server.md: a workflow of one's own over HTTP and WebSocket.

use outlive::Server;
use outlive::prelude::*;

#[tokio::main]
async fn main() -> outlive::Result<()> {
    let db = SqliteDb::new("greetings.db");
    let greet = Step::function("greet", |_, input| async move { Ok::<_, Failure>(format!("Hello, {}", input.text())) });
    let workflow = Workflow::builder("Greeting").db(db.clone()).step(greet).build()?;

    let mut server = Server::builder(db).workflow(&workflow);
    if let Ok(key) = std::env::var("OS_SECURITY_KEY") {
        server = server.security_key(key);
    }
    let address = std::env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:7878".to_owned());
    server.start().await?.serve(&address).await // until Ctrl-C
}
