//! Compiled authorization. Pure: no I/O, no clock.
//!
//! - Of connections: [`decide`] and [`explain`].
//! - Of requests: [`http`].
//! - Tokens that requests bring: [`jwt`].
//! - How many requests somebody may send: [`rate`].
//! - Regular expressions in rules: [`pattern`].
//!
//! Semantics of the first are those of Istio's L4 data plane (`istio.security.Authorization`), stricter in two
//! places: a policy that a workload lists but this node does not hold denies
//! ([`PolicyUnknown`](agent_model::Reason::PolicyUnknown)) instead of being skipped, and a source address that nobody vouches
//! for never satisfies an ALLOW.

mod connection;
mod decide;
pub mod http;
pub mod jwt;
mod matching;
pub mod pattern;
pub mod rate;
mod set;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Target};
pub use decide::{Decision, Explanation, Verdict, decide, explain};
pub use set::PolicySet;
