//! The upgrade to a WebSocket. Who the client is, it says inside.

use crate::audit::Visit;
use crate::auth::RouteTable;
use crate::events_ws::Session;
use crate::state::State;
use axum::Extension;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, State as Shared};
use axum::response::Response;
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest frame and message a client may send, in bytes.
const FRAME_MAX: usize = 1 << 20;
const MESSAGE_MAX: usize = 4 << 20;

pub(super) async fn upgrade(
    Shared(state): Shared<Arc<State>>,
    Extension(rules): Extension<RouteTable>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    visit: Visit,
    socket: WebSocketUpgrade,
) -> Response {
    let socket = socket.max_frame_size(FRAME_MAX).max_message_size(MESSAGE_MAX);
    let visit = visit.lasting();
    socket.on_upgrade(move |socket| Session::serve(state, rules, socket, peer.ip(), visit))
}
