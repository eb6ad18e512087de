//! One agent follows another without a gap: listeners, keys and the enrolled set pass from the
//! predecessor to its successor over a unix socket.
//!
//! ```text
//! successor                              predecessor
//!   Hello{protocol, instance}       ->     pauses enrolment, changes nothing any more
//!                                   <-     Offer, Pod* (4 descriptors each), Certificate*,
//!                                          Listener*, End
//!   claims the kernel side, adopts the pods, accepts on the same listeners
//!   Serving                         ->     stops accepting, drains
//!                                   <-     Retired
//! ```
//!
//! Both accept from the same listeners for a moment; what neither has accepted waits in the
//! listener, which the successor holds too. Whoever is left when the other vanishes goes on: the
//! predecessor claims the kernel side again, unless it has seen `Serving`; the successor works with
//! what has come. Should both go on (each taking the other for dead), the later claim wins and the
//! other finds that out before it changes anything: see [`agent_datapath::Datapath::is_owner`].
//!
//! The two ends are pure ([`Giver`], [`Taker`]); [`give`] and [`take`] do as these say.

mod estate;
mod giver;
mod message;
mod sessions;
mod taker;
#[cfg(test)]
mod tests;

pub use estate::Estate;
pub use giver::{Giver, GiverHears, GiverShall};
pub use message::{
    Certificate, Hello, ListenerName, Message, Offer, OlderRecord, PROTOCOL, PodRecord, Refused,
};
pub use sessions::{Heir, Incumbent, Left, Taken, give, take};
pub use taker::{Taker, TakerHears, TakerShall};
