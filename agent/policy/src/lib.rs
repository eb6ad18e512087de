//! Compiled L4 authorization: [`decide`] and [`explain`]. Pure: no I/O, no clock.
//!
//! Semantics are those of Istio's L4 data plane (`istio.security.Authorization`), stricter in two
//! places: a policy that a workload lists but this node does not hold denies
//! ([`PolicyUnknown`](agent_model::Reason::PolicyUnknown)) instead of being skipped, and a source address that nobody vouches
//! for never satisfies an ALLOW.

mod connection;
mod decide;
mod matching;
mod set;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Target};
pub use decide::{Decision, Explanation, Verdict, decide, explain};
pub use set::PolicySet;
