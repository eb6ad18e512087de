//! Protobuf to model and back. Everything that comes from the wire is bounded and checked here.

mod address;
mod authorization;
mod fields;
mod gateway;
mod network;
mod service;
#[cfg(test)]
mod tests;
mod workload;

pub(crate) use address::{Address, decode_address};
pub(crate) use authorization::{decode_authorization, encode_authorization};
pub use gateway::{backend_name, policy_name, route_name};
pub(crate) use gateway::{
    decode_access, decode_authentication, decode_backend, decode_gateway, decode_route,
    decode_traffic, encode_access, encode_authentication, encode_backend, encode_gateway,
    encode_route, encode_traffic,
};
pub(crate) use service::encode_service;
pub(crate) use workload::encode_workload;

use prost::Message;
use prost_types::Any;

use crate::ResourceType;

/// Wraps a message of the resource type `kind`.
fn any(kind: ResourceType, message: &impl Message) -> Any {
    Any {
        type_url: kind.url().to_owned(),
        value: message.encode_to_vec(),
    }
}
