//! Models, tools and the servers they are tested against.

mod background;
mod calls;
mod conformance;
mod conversation;
mod copies;
mod failures;
mod live;
#[cfg(unix)]
mod mcp;
mod model_server;
mod openai;
mod quirk_table;
mod quirks;
mod scripted;
mod sites;
mod tools;
