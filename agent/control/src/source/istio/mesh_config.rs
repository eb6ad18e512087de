//! MeshConfig.

use agent_model::MeshConfig;
use serde::Deserialize;

use crate::source::decode::FieldError;
use crate::source::lenient::nullable;
use crate::source::object::Strict;

/// `culvert.dev MeshConfig`.
pub(crate) type MeshConfigObject = Strict<MeshConfigSpec>;

/// Settings of the whole mesh. What this release does not do yet is refused by the control plane,
/// which names the field.
// The comments here are the descriptions in the resource definition, which is made of this type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshConfigSpec {
    /// Trust domain of every identity.
    #[serde(default)]
    pub(crate) trust_domain: Option<String>,
    /// How two pods of one node talk: encrypted through the agent, or directly in the kernel.
    #[serde(default, deserialize_with = "nullable")]
    same_node: SameNode,
    /// Whether pods may only connect to what the mesh knows.
    #[serde(default, deserialize_with = "nullable")]
    strict_egress: bool,
    /// What becomes of a captured pod's new outbound connections while its agent is down.
    #[serde(default, deserialize_with = "nullable")]
    outbound_on_agent_down: OnAgentDown,
    /// One log line for each connection.
    #[serde(default)]
    access_log: Option<bool>,
    /// Where traces go.
    #[serde(default)]
    tracing: Option<serde_json::Map<String, serde_json::Value>>,
    /// Limits of each agent.
    #[serde(default)]
    limits: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
enum SameNode {
    #[default]
    Encrypt,
    Direct,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
