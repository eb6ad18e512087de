//! Delta xDS: how the control plane tells every node what runs where and what is allowed, and every
//! gateway what to do.
//!
//! Both ends are pure state machines ([`ClientSession`], [`ServerSession`]) inside thin tonic
//! shells ([`client::run`], [`server::Discovery`]); protobuf ends here, everything outside speaks
//! `agent_model`. A resource that cannot be read is refused by name and spoils nothing else.

pub mod attach;
pub mod client;
mod convert;
mod error;
mod links;
mod resource_type;
pub mod server;
#[cfg(test)]
mod stream_tests;
mod update;

pub use client::{
    ClientConfig, ClientSession, ClientStatus, Demand, NodeFacts, NotTold, Received, UNKNOWN_TYPE,
};
pub use convert::{backend_name, policy_name, route_name};
pub use error::Error;
pub use links::address_name;
pub use resource_type::ResourceType;
pub use server::{
    Authenticate, BoundPod, Caller, Catalog, Client, Discovery, NotAdmitted, Published,
    ServerSession, Source,
};
pub use update::{Apply, Rejection, Update};
