//! Scenes that many cases play in.

use anyhow::Result;
use tests::manifests::peer_authentication;
use tests::{Cluster, Pod, PodSpec};

/// Namespace of meshed pods.
pub(crate) const MESHED: &str = "app";
/// Namespace of pods outside the mesh.
pub(crate) const OUTSIDE: &str = "outside";
/// Port of the servers.
pub(crate) const PORT: u16 = 8080;

/// A meshed client on node 1, a meshed server on node 2 and a pod outside the mesh on node 1.
pub(crate) struct Scene {
    /// The client.
    pub(crate) client: Pod,
    /// The server.
    pub(crate) server: Pod,
    /// The pod outside.
    pub(crate) outsider: Pod,
}

impl Scene {
    /// Plaintext is refused: what is served was captured.
    pub(crate) fn strict(cluster: &Cluster) -> Result<Self> {
        let manifest = peer_authentication(MESHED, "STRICT");
        cluster.manifests().write("mode", &manifest)?;
        Self::permissive(cluster)
    }

    /// Plaintext is accepted.
    pub(crate) fn permissive(cluster: &Cluster) -> Result<Self> {
        namespaces(cluster)?;
        let scene = Self {
            client: cluster.pod(&PodSpec::new(MESHED, "client"))?,
            server: cluster.pod(&PodSpec::new(MESHED, "server").on(2))?,
            outsider: cluster.pod(&PodSpec::new(OUTSIDE, "outsider").outside())?,
        };
        cluster.settle()?;
        Ok(scene)
    }
}

/// The namespaces of every scene.
pub(crate) fn namespaces(cluster: &Cluster) -> Result<()> {
    cluster.manifests().namespace(MESHED, Some(true))?;
    cluster.manifests().namespace(OUTSIDE, None)
}
