//! What a node makes of a control plane that is newer or older than it, broken, or hostile, and a
//! control plane of such a node: both ends in memory, down to the decisions that are taken.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program: what these end is the test"
)]

mod ends;
mod hostile;
mod skew;
mod waypoints;
mod wire;
