//! The node's L4 proxy: outbound, inbound and passthrough connections of every enrolled pod.
//!
//! Thread per core: each worker accepts, owns its connections and its tunnels, and shares nothing
//! but the read side of the mesh state with the others. Every path is the same six verbs in one
//! function: accept, describe, decide, dial, forward, report.

mod accept;
mod connections;
pub mod dns;
mod endpoints;
mod forward;
pub mod handover;
mod inbound;
mod left;
mod local;
mod mesh;
mod names;
mod older;
mod outbound;
mod passthrough;
mod pod;
mod refusal;
#[cfg(test)]
mod tests;
mod watch;
mod worker;
mod workers;

pub use mesh::{Config, Kernel, Mesh};
pub use pod::Pod;
pub use refusal::Refusal;
pub use watch::watch_older;
pub use workers::{ProxyError, Workers};
