//! The Gateway API from manifest to answer: the control plane reads a folder, a gateway is told over
//! the wire, clients ask it, and echo servers say what reached them. A test bears the name of the one
//! of the official conformance suite whose requests it sends; what that one asserts of statuses is
//! in `agent/control`, and what differs by design is said where it does.
//!
//! Everything is in this process and on loopback: endpoints of 10.77.0.0/24 are moved there, and a
//! gateway's port is any free one, of which the gateway knows nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a test program: what these end is the test"
)]

mod backend_tls;
mod bed;
mod client;
mod cors;
mod echo;
mod filters;
mod frontend;
mod grpc;
mod l4;
mod listeners;
mod manifests;
mod matching;
mod misdirected;
mod redirects;
mod times;
