//! The control plane: what runs where and what is allowed, from manifests to every node.
//!
//! The way of a change: [`source`] (one event type, nobody after it knows where an object came
//! from) -> [`collection`] (holds objects, redoes what a change touches) -> [`translate`] (pure,
//! one file per kind; [`gateway`] for the Gateway API, whose objects are resolved together) -> [`snapshot`] (versions, drops no-ops) -> the discovery sessions of
//! `agent-xds`. [`ca`] signs certificates for pods of the node that asks, with what [`trust`] says; [`nodes`] tells
//! agents which pods to enrol and takes their word on it; [`status`] says what is
//! wrong; [`infrastructure`] makes what gateways run on, and [`noting`] writes down what they have taken.

mod admission;
mod ca;
mod changes;
mod check;
mod cluster;
mod code;
mod collection;
mod condition;
mod conditions;
mod config;
mod controller;
mod error;
mod gateway;
mod infrastructure;
mod lease;
mod manifests;
mod nodes;
mod noting;
mod pace;
mod rounds;
mod serve;
mod snapshot;
mod source;
mod status;
mod translate;
mod trust;
mod webhook;

pub use admission::{NodeAccount, TokenReviews, TokenTable};
pub use check::{Check, Finding, Findings, Object, Place, Scene};
pub use cluster::ClusterConfig;
pub use code::{Code, Severity};
pub use config::{Config, SourceChoice};
pub use controller::{Control, run};
pub use error::ControlError;
pub use gateway::FEATURES as GATEWAY_FEATURES;
pub use manifests::Manifests;
pub use status::Status;
pub use trust::AuthorityFiles;
#[cfg(test)]
mod definitions;
#[cfg(test)]
mod tests;
