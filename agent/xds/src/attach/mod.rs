//! The node service: which pods of a node are wanted in the mesh, what became of them, and the
//! roots that are trusted. The node's end is [`run`]; the control plane's is `agent-control`'s.
//! Both use the conversions here.

mod client;
#[cfg(test)]
mod tests;
mod wire;

pub use client::{AttachConfig, AttachStatus, Attached, run};
pub use wire::{
    MAX_PODS, NodeReport, Said, TrustBundle, hello, report_from_wire, report_to_wire, said,
    trust_to_wire, wishes_from_wire, wishes_to_wire,
};
