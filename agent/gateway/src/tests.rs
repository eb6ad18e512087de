//! The gateway between real HTTP clients and servers, on loopback.

mod access;
pub(crate) mod authority;
mod backend;
mod bed;
mod change;
mod datagrams;
mod egress;
mod endpoints;
mod features;
mod frames;
mod handshakes;
mod hard;
pub(crate) mod issuer;
mod metrics;
mod pods;
mod refuse;
mod retry;
mod secure;
mod serve;
mod shared;
mod standing;
mod streams;
mod tls;
mod trace;
mod traffic;
mod vouched;
mod waypoint;
