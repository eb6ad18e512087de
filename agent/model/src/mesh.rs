//! Mesh-wide settings (`MeshConfig`, one object named `default`).

use serde::{Deserialize, Serialize};

/// Mesh-wide settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfig {
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// How two pods of one node talk.
    pub same_node: SameNode,
    /// What captured connections meet while the agent is down.
    pub outbound_on_agent_down: OutboundOnAgentDown,
    /// One access-log line per connection.
    pub access_log: bool,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            same_node: SameNode::Encrypt,
            outbound_on_agent_down: OutboundOnAgentDown::Closed,
            access_log: true,
        }
    }
}

/// How two pods of one node talk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SameNode {
    /// Through the tunnel, as between nodes. The only mode of this release.
    #[default]
    Encrypt,
}

/// What captured connections meet while the agent is down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OutboundOnAgentDown {
    /// They are refused.
    #[default]
    Closed,
}
