//! Both ends over loopback TCP, on one thread as in the data plane.

mod drain;
mod handshake;
mod harness;
mod pooling;
mod requests;
mod streams;
