//! Sockets, listeners, copy, drain, back-off, network namespaces and lookups of names, and the traits for what the
//! kernel side gives to the proxy.
//!
//! Nothing here knows of workloads, identities or policy.
#![expect(
    unsafe_code,
    reason = "setns, socket options, uninitialised read buffers and received descriptors"
)]

pub mod backoff;
pub mod copy;
pub mod datagram;
pub mod drain;
pub mod flow;
mod kernel;
pub mod lookup;
pub mod netns;
pub mod passing;
pub mod private;
pub mod sockdiag;
pub mod socket;
pub mod tasks;

pub use kernel::{
    NAME_PORT, NAME_SERVERS, NamePlace, NameSockets, NetnsCookie, OriginalDst, SocketTags,
};
pub use netns::Netns;
