//! The numbers of a tunnel.

use std::time::Duration;

/// Limits and deadlines of a tunnel. [`Settings::default`] is what Culvert runs with; tests make
/// them shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Flow-control window advertised per stream, in bytes: what a stalled reader can hold up.
    pub stream_window: u32,
    /// Flow-control window advertised per tunnel, in bytes.
    pub connection_window: u32,
    /// Largest DATA frame accepted, in bytes.
    pub max_frame: u32,
    /// Largest DATA frame sent while a tunnel has several streams, in bytes.
    pub shared_chunk: usize,
    /// Largest DATA frame sent on a tunnel with one stream, in bytes.
    pub single_chunk: usize,
    /// Unsent bytes one stream may hold.
    pub send_buffer: usize,
    /// Streams a peer may open on one tunnel at a time.
    pub max_streams: u32,
    /// Largest header list accepted, in bytes.
    pub max_headers: u32,
    /// Streams this end opens on one tunnel at a time.
    pub pool_streams: usize,
    /// Tunnels to one peer from one source at a time, per worker.
    pub pool_tunnels: usize,
    /// A client's tunnel without streams is closed after this.
    pub idle_release: Duration,
    /// A server's tunnel without streams is closed after this.
    pub server_idle: Duration,
    /// Time between the answer to a PING and the next PING.
    pub ping_interval: Duration,
    /// A peer that does not answer a PING in this time is dead.
    pub ping_timeout: Duration,
    /// Time a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Time between the TLS handshake and the first request.
    pub first_request_timeout: Duration,
    /// Time between a request and its answer; the peer connects to the application meanwhile,
    /// which may take it 10 s.
    pub response_timeout: Duration,
    /// Time streams of a removed pod have to end before their tunnel is dropped.
    pub removal_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 1024 * 1024,
            connection_window: 16 * 1024 * 1024,
            max_frame: 1024 * 1024,
            shared_chunk: 64 * 1024,
            single_chunk: 256 * 1024,
            send_buffer: 512 * 1024,
            max_streams: 200,
            max_headers: 32 * 1024,
            pool_streams: 100,
            pool_tunnels: 64,
            idle_release: Duration::from_secs(60),
            server_idle: Duration::from_secs(600),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            first_request_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(20),
            removal_grace: Duration::from_secs(1),
        }
    }
}
