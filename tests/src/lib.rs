//! The harness: simulated nodes, pods and a control plane on one machine, in network namespaces.
//!
//! A test reads as a script: start a [`Cluster`], give it pods, let a client in one talk to a
//! server in another, look at what the agents say. See `tests/README.md` for the test ids.

pub mod agent;
pub mod apiserver;
pub mod apps;
pub mod capture;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod command;
pub mod control;
pub mod counters;
pub mod gateway;
pub mod http;
pub mod issuer;
pub mod l7;
pub mod lab;
pub mod leak;
pub mod manifests;
pub mod metrics;
pub mod node;
mod operator;
pub mod peer;
pub mod place;
pub mod pod;
pub mod poll;
pub mod process;
pub mod programs;
pub mod run;
pub mod scale;
pub mod server;
pub mod stop;
pub mod stopwatch;
mod supervised;
pub mod topology;
pub mod traffic;
pub mod trend;

pub use cluster::{Cluster, ClusterSpec};
pub use node::Node;
pub use place::{NameFiles, Place};
pub use pod::{Pod, PodSpec};

/// Trust domain of every test cluster.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Cluster id of every test cluster.
pub const CLUSTER_ID: &str = "Kubernetes";
