//! The HBONE tunnel: CONNECT streams over HTTP/2 over mutual TLS. HTTP/2 lives only in this room.
//!
//! Made for one thread per core: everything runs on a current-thread runtime inside a `LocalSet`.
//! One task drives a tunnel; streams hand chunks to it without a copy and without changing
//! threads, and the socket is written once per turn of that task, however many streams had
//! something to say.
//!
//! - [`Pool`] is the client: [`Pool::open`] gives a stream on a shared tunnel.
//! - [`server::accept`] and [`server::Connection::serve`] are the server.
//! - [`headers`] reads and writes the CONNECT request. Pure.

mod error;
pub mod headers;
mod io;
mod keepalive;
mod pool;
pub mod server;
mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod transport;

pub use error::{HboneError, Phase, broken_off};
pub use io::TunnelIo;
pub use pool::{Pool, PoolStats, Target};
pub use settings::Settings;
pub use stream::{TunnelReader, TunnelStream, TunnelWriter};
