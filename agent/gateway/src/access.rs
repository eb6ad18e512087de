//! Who may send requests: tokens first, then authorization policies. Pure: keys, clock and cache
//! are arguments.
//!
//! A [`Guard`] is what stands before the requests of one place: a service behind this waypoint, or
//! everything of the gateway. RequestPolicies compile alone: one that cannot be used, or that came in a
//! form nobody here can read, refuses what it is for and nothing else.

mod connection;
mod guard;
mod judge;
#[cfg(test)]
mod tests;

pub(crate) use connection::connection;
pub use guard::{Guard, Guards, RequestPolicies};
pub(crate) use judge::Remote;
pub use judge::{Admitted, Refused, Trial};
