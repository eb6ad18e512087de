//! The policy kinds and MeshConfig. Unlike Kubernetes' own objects they are read strictly: a
//! misspelt field of a policy is a hole, so it is an error. And the entries for what lies outside
//! of the cluster.

mod authorization;
mod condition;
mod mesh_config;
mod peer_authentication;
mod request_authentication;
mod service_entry;

use serde::Deserialize;

use super::decode::FieldError;
use super::kubernetes::Labels;
use super::lenient::nullable;

pub(in crate::source) use authorization::check_authorization;
pub(crate) use authorization::{
    AuthorizationPolicy, Operation, PolicyAction, PolicyRule, PolicyTarget, Source,
};
pub(crate) use condition::{AccountName, OfRequest, Pattern, RequestTest, Values, When};
pub(crate) use mesh_config::MeshConfigObject;
#[cfg(test)]
pub(crate) use mesh_config::MeshConfigSpec;
pub(in crate::source) use mesh_config::check_mesh_config;
pub(in crate::source) use peer_authentication::check_peer_authentication;
pub(crate) use peer_authentication::{MtlsMode, PeerAuthentication};
pub(in crate::source) use request_authentication::check_request_authentication;
pub(crate) use request_authentication::{RequestAuthentication, TokenRule};
pub(crate) use service_entry::{
    Address, EntryEndpoint, EntryPort, Resolution, ServiceEntry, WorkloadEntry,
};
pub(in crate::source) use service_entry::{check_service_entry, check_workload_entry};

/// A selector by labels, all of which must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) match_labels: Labels,
}

impl Selector {
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let mut wanted = self.match_labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What a policy is attached to is said in one way, or not at all.
fn check_attachment(
    selector: Option<&Selector>,
    target: Option<&PolicyTarget>,
    targets: &[PolicyTarget],
) -> Result<(), FieldError> {
    let ways = [selector.is_some(), target.is_some(), !targets.is_empty()];
    if ways.into_iter().filter(|is_used| *is_used).count() > 1 {
        return Err(FieldError::new(
            "spec",
            "only one of selector, targetRef and targetRefs may be given",
        ));
    }
    check_selector(selector)
}

/// A label cannot hold `*`, so a selector with one would silently select nothing.
fn check_selector(selector: Option<&Selector>) -> Result<(), FieldError> {
    let labels = selector.iter().flat_map(|selector| &selector.match_labels);
    for (key, value) in labels {
        if key.is_empty() || key.contains('*') || value.contains('*') {
            return Err(FieldError::new(
                format!("spec.selector.matchLabels.{key}"),
                "a label selector takes no wildcard",
            ));
        }
    }
    Ok(())
}
