//! Address resources: workloads and services.

use agent_model::{Service, Workload};
use prost::Message;
use proto::workload as wire;

use super::service::decode_service;
use super::workload::decode_workload;
use crate::Error;

/// What an Address resource can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A workload.
    Workload(Box<Workload>),
    /// A service.
    Service(Box<Service>),
}

/// Reads an Address resource.
pub(crate) fn decode_address(bytes: &[u8]) -> Result<Address, Error> {
    match wire::Address::decode(bytes)?.r#type {
        Some(wire::address::Type::Workload(workload)) => {
            let workload = decode_workload(&workload)?;
            Ok(Address::Workload(Box::new(workload)))
        }
        Some(wire::address::Type::Service(service)) => {
            let service = decode_service(&service)?;
            Ok(Address::Service(Box::new(service)))
        }
        None => Err(Error::Missing("workload or service")),
    }
}
