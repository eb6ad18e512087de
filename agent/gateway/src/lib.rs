//! The L7 gateway: waypoints, ingress and egress.
//!
//! [`framing`] refuses requests whose end two servers could see differently.
//! What is judged is what is sent: [`normalize`] gives paths, hosts and headers one form before
//! anything looks at them, and that form goes on to the backend. [`route`] finds the rule of a
//! request, [`filter`] holds what a rule does, [`plan`] is a whole configuration compiled. All of
//! that is pure: time and randomness are arguments.
//!
//! So is what stands between a rule and an endpoint: [`balance`] chooses one, [`outlier`] takes out
//! those that fail, [`circuit`] bounds what a backend has at a time, [`retry`] says what is sent
//! again.
//!
//! Who may send requests is [`access`]; the keys of those who issue tokens are [`keys`].
//!
//! [`Gateway`] serves it. Thread per core: a worker accepts and owns its connections to clients and
//! to backends. What workers share are the read sides of plan and mesh, and what is known of each
//! backend: latencies, failures and limits are counted in atomics, so that a limit holds for the
//! process and an endpoint that failed one worker is out for all. [`tuning`] says how backends are
//! treated; what traffic policies say is found by [`traffic`], and what they do to requests is
//! compiled by [`treatment`]. A request stays in the task of its client's connection from its first byte to its last: the backend's
//! connection is polled by the task that waits for it.

pub mod access;
mod affinity;
pub mod balance;
mod behind;
mod body;
mod certified;
pub mod circuit;
mod config;
mod cookie;
mod dial;
pub mod filter;
mod forward;
pub mod framing;
mod gateway;
mod keeper;
pub mod keys;
mod leg;
mod listener;
mod local;
mod mesh;
mod names;
pub mod normalize;
pub mod outlier;
mod outside;
mod passage;
mod place;
pub mod plan;
mod pod;
mod record;
mod redis;
mod refusal;
mod request;
mod response;
pub mod retry;
pub mod route;
pub mod session;
mod source;
mod tally;
#[cfg(test)]
mod tests;
mod told;
mod trace;
pub mod traffic;
pub mod treatment;
pub mod tuning;
mod uncounted;
mod upstream;
mod worker;

pub use affinity::Affinity;
pub use config::Config;
pub use gateway::{Gateway, GatewayError};
pub use keys::Keys;
pub use mesh::Mesh;
pub use names::{Answer, Lookup, Names};
pub use passage::Passage;
pub use place::{Door, Place, Transport, bind};
pub use record::{Record, Records};
pub use refusal::Refusal;
pub use source::Source;
pub use told::{Follower, Told};
pub use trace::{SpanId, Trace, TraceId, hex};
pub use uncounted::{Outcomes, Uncounted};
pub use upstream::{BackendView, CircuitView, EndpointView};
