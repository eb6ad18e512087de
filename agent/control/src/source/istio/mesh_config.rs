//! MeshConfig.

use agent_model::MeshConfig;
use serde::Deserialize;

use super::Skipped;
use crate::source::decode::FieldError;
use crate::source::kubernetes::Metadata;
use crate::source::lenient::nullable;

/// `culvert.dev MeshConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeshConfigObject {
    #[serde(default, rename = "apiVersion")]
    _api_version: Skipped,
    #[serde(default, rename = "kind")]
    _kind: Skipped,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) spec: MeshConfigSpec,
    #[serde(default, rename = "status")]
    _status: Skipped,
}

/// `spec` of a MeshConfig, as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshConfigSpec {
    #[serde(default)]
    pub(crate) trust_domain: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    same_node: SameNode,
    #[serde(default, deserialize_with = "nullable")]
    strict_egress: bool,
    #[serde(default, deserialize_with = "nullable")]
    outbound_on_agent_down: OnAgentDown,
    #[serde(default)]
    access_log: Option<bool>,
    #[serde(default)]
    tracing: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    limits: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum SameNode {
    #[default]
    Encrypt,
    Direct,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OnAgentDown {
    #[default]
    Closed,
    Open,
}

/// MeshConfig accepts only what this release honours: a setting that is silently without effect
/// would be worse than an error.
pub(in crate::source) fn check_mesh_config(object: &MeshConfigObject) -> Result<(), FieldError> {
    let defaults = MeshConfig::default();
    let spec = &object.spec;
    let unsupported =
        |field: &str, message: &str| Err(FieldError::new(format!("spec.{field}"), message));
    if object.metadata.name != "default" {
        return Err(FieldError::new(
            "metadata.name",
            "there is one MeshConfig and its name is default",
        ));
    }
    if spec.same_node == SameNode::Direct {
        return unsupported(
            "sameNode",
            "direct is not supported by this release, only encrypt",
        );
    }
    if spec.strict_egress {
        return unsupported("strictEgress", "true is not supported by this release");
    }
    if spec.outbound_on_agent_down == OnAgentDown::Open {
        return unsupported(
            "outboundOnAgentDown",
            "open is not supported by this release, only closed",
        );
    }
    if spec.access_log.is_some_and(|on| on != defaults.access_log) {
        return unsupported("accessLog", "false is not supported by this release");
    }
    if spec.tracing.as_ref().is_some_and(|map| !map.is_empty()) {
        return unsupported("tracing", "not supported by this release");
    }
    if spec.limits.as_ref().is_some_and(|map| !map.is_empty()) {
        return unsupported("limits", "not supported by this release");
    }
    Ok(())
}
