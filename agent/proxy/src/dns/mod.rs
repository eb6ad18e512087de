//! Names: what the mesh owns is answered here, everything else goes on untouched to the resolver
//! that the application asked.
//!
//! [`Query::read`] takes only the one shape of message that stub resolvers send; what it does not
//! take is none of this proxy's business. [`resolve`] looks into the mesh's state, [`Query::reply`]
//! writes the answer. All of it is pure.

mod names;
mod resolve;
#[cfg(test)]
mod tests;
mod wire;

pub use resolve::{Answer, resolve};
pub use wire::{Family, Query, Transport, is_reply};
