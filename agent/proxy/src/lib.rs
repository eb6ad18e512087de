//! The node's L4 proxy: outbound, inbound and passthrough connections of every enrolled pod.
//!
//! Thread per core: each worker accepts, owns its connections and its tunnels, and shares nothing
//! but the read side of the mesh state with the others. Every path is the same six verbs in one
//! function: accept, describe, decide, dial, forward, report.

mod accept;
mod connections;
mod forward;
mod inbound;
mod outbound;
mod passthrough;
mod pod;
mod refusal;
mod worker;

pub use pod::Pod;
pub use refusal::Refusal;
pub use worker::{Config, Kernel, Mesh, ProxyError, Workers};
