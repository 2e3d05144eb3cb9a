//! Settings of a server, with every limit it enforces. Defaults are safe: loopback, small limits.

use std::time::Duration;

/// What one socket, request or stream may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at the same time.
    pub connections_max: usize,
    /// Of these, from one address; for a client behind a trusted proxy, its requests in progress and open sockets.
    pub connections_per_address_max: usize,
    /// Longest head of a request in bytes, and the most header lines.
    pub header_bytes_max: usize,
    /// The most header lines.
    pub headers_max: usize,
    /// Longest URI in bytes.
    pub uri_bytes_max: usize,
    /// Longest body that is not multipart, in bytes.
    pub body_bytes_max: usize,
    /// Longest multipart body, in bytes.
    pub multipart_bytes_max: usize,
    /// Time for the head of a request.
    pub header_period: Duration,
    /// Longest pause inside a body.
    pub body_idle_period: Duration,
    /// Slowest body, in bytes a second, after `body_grace`.
    pub body_rate_min: u64,
    /// Time before `body_rate_min` applies.
    pub body_grace: Duration,
    /// Longest time a client may leave its answer unread.
    pub write_idle_period: Duration,
    /// Longest time between two requests of a connection.
    pub keep_alive_period: Duration,
    /// Time for requests in flight when the server stops.
    pub drain_period: Duration,
    /// Time to authenticate on a WebSocket.
    pub socket_auth_period: Duration,
    /// How often the credential of an open stream or socket is checked again.
    pub recheck_period: Duration,
    /// Event streams one caller may have open at the same time.
    pub streams_per_caller_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 256,
            header_bytes_max: 32 << 10,
            headers_max: 100,
            uri_bytes_max: 8 << 10,
            body_bytes_max: 2 << 20,
            multipart_bytes_max: 20 << 20,
            header_period: Duration::from_secs(10),
            body_idle_period: Duration::from_secs(30),
            body_rate_min: 1 << 10,
            body_grace: Duration::from_secs(10),
            write_idle_period: Duration::from_secs(30),
            keep_alive_period: Duration::from_secs(60),
            drain_period: Duration::from_secs(10),
            socket_auth_period: Duration::from_secs(10),
            recheck_period: Duration::from_secs(30),
            streams_per_caller_max: 1000,
        }
    }
}
