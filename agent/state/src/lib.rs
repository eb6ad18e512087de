//! The mesh as this node knows it, and the L4 decisions taken from it.
//!
//! One [`Writer`] applies batches of updates and swaps a whole [`Snapshot`] once per batch; any
//! number of [`Reader`]s load it without locks. [`resolve`] turns a snapshot and a destination into
//! a decision value, and does nothing else.

pub mod resolve;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
pub mod view;

pub use snapshot::Snapshot;
pub use store::{Reader, Writer, channel};
