//! Who the gateway is in the mesh.

use agent_identity::Certificates;
use agent_model::Identity;

/// What a gateway needs to speak with the mesh. Without it, endpoints that are in the mesh cannot
/// be reached and waypoint listeners serve nobody.
#[derive(Clone)]
pub struct Mesh {
    /// Its certificates.
    pub certificates: Certificates,
    /// Its identity: that of its service account.
    pub identity: Identity,
}
