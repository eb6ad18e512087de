//! The kernel side from user space: loader, hooks, pins, maps, enrolment. aya lives only here.
//!
//! [`Datapath::load`] puts the programs into the kernel (or takes over what an agent before left
//! pinned there), [`Datapath::enrol`] captures one pod and proves it, [`serve_enrolment`] does so
//! for the CNI plugin and for the pods of the agent's own list. What is pinned stays when the
//! agent dies: captured pods then accept and reach nothing, they are never open by accident.
//! [`Datapath::release`] takes everything away.
#![expect(
    unsafe_code,
    reason = "bpf(2) takes pointers; see sys.rs, and one clock read"
)]

mod address;
mod bpffs;
mod datapath;
mod enrol;
mod entries;
mod error;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
#[cfg(feature = "failpoints")]
pub mod failpoint;
mod found;
mod hooks;
mod object;
mod older;
mod owner;
mod pause;
mod pods;
mod records;
mod scan;
mod serve;
mod settings;
mod sockets;
mod steering;
mod sys;
mod table;
mod trace;
mod upkeep;
mod verify;
mod wishes;

pub use datapath::{Config, Counters, Datapath};
pub use error::DatapathError;
pub use pause::{Pause, PauseRequests, Pauses, pauses};
pub use pods::{EnrolledPod, OlderConnection, OlderDirection, PodSink, PodStatus};
pub use serve::serve_enrolment;
pub use wishes::{Follow, Wishes};

pub use ebpf_common::{TABLES, Table};
