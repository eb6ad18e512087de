//! Names: what the mesh owns is answered here, everything else goes on untouched to the resolver
//! that the application asked.
//!
//! [`Query::read`] takes only the one shape of message that stub resolvers send; what it does not
//! take is none of this proxy's business. [`resolve`] looks into the mesh's state, [`Query::reply`]
//! writes the answer. All of it is pure; `names` has the sockets.

mod counters;
mod names;
mod resolve;
#[cfg(test)]
mod tests;
mod wire;

pub use counters::{Counters, Outcome};
pub use resolve::{Answer, resolve};
pub use wire::{Family, Query, Transport, is_reply};

/// Which names are answered, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The cluster's domain (`cluster.local`).
    pub domain: std::sync::Arc<str>,
    /// Namespaces whose pods ask their servers themselves.
    pub except: std::collections::BTreeSet<String>,
}
