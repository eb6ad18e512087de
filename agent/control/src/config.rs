//! Settings of the control plane, and what they cannot be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent_model::Identity;

use crate::ControlError;
use crate::admission::TokenReviews;
use crate::cluster::ClusterConfig;
use crate::trust::AuthorityFiles;

/// Settings of the control plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the objects that describe the mesh come from.
    pub source: SourceChoice,
    /// Beside Istio's control plane: discovery and certificates are that one's, and so are the
    /// statuses of its objects. Left are the node service and the marks of captured pods.
    pub companion: bool,
    /// Address of the one listener, for discovery and certificates.
    pub listen: SocketAddr,
    /// File with one `TOKEN NODE` a line.
    pub node_tokens: Option<PathBuf>,
    /// Service account tokens that are admitted too; these need a cluster.
    pub token_reviews: Option<TokenReviews>,
    /// Where the root and its key live; the root is `root-cert.pem`.
    pub state_dir: PathBuf,
    /// An issuer from outside, instead of the root made in `state_dir`.
    pub authority: Option<AuthorityFiles>,
    /// File of the issuers' revocation lists, PEM; read again when it changes.
    pub revocation_lists: Option<PathBuf>,
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// Cluster id in the names of workloads.
    pub cluster_id: String,
    /// Longest lifetime of a workload's certificate.
    pub cert_ttl: Duration,
    /// How long a new root is trusted before it signs, at the least.
    pub root_overlap: Duration,
    /// DNS names and addresses nodes dial.
    pub serving_names: Vec<String>,
    /// Policies of this namespace apply to every namespace.
    pub root_namespace: String,
    /// Image of gateways; that of the pod this runs in by default. In a cluster every Gateway gets a
    /// Deployment, a Service and a ServiceAccount, and the default classes are made. Gateways dial
    /// the first of `serving_names` on the port of `listen`.
    pub gateway_image: Option<String>,
}

impl Config {
    /// The default of `trust_domain`, as elsewhere in the ambient world.
    pub const DEFAULT_TRUST_DOMAIN: &'static str = "cluster.local";
    /// The default of `cluster_id`, as elsewhere in the ambient world.
    pub const DEFAULT_CLUSTER_ID: &'static str = "Kubernetes";
    /// The default of `cert_ttl`.
    pub const DEFAULT_CERT_TTL: Duration = Duration::from_secs(24 * 3600);
    /// The default of `root_overlap`: the two minutes in which a kubelet renews what pods mount of
    /// a ConfigMap, and some more.
    pub const DEFAULT_ROOT_OVERLAP: Duration = Duration::from_secs(5 * 60);
    /// The default of `root_namespace`.
    pub const DEFAULT_ROOT_NAMESPACE: &'static str = "culvert-system";

    /// Settings as the flags of `culvert control` have them where nobody gives any: whoever dials
    /// does so by the address of `listen`. Nobody is admitted yet: that takes `node_tokens` or
    /// `token_reviews`.
    pub fn new(source: SourceChoice, listen: SocketAddr, state_dir: PathBuf) -> Self {
        Self {
            source,
            companion: false,
            listen,
            node_tokens: None,
            token_reviews: None,
            state_dir,
            authority: None,
            revocation_lists: None,
            trust_domain: Self::DEFAULT_TRUST_DOMAIN.to_owned(),
            cluster_id: Self::DEFAULT_CLUSTER_ID.to_owned(),
            cert_ttl: Self::DEFAULT_CERT_TTL,
            root_overlap: Self::DEFAULT_ROOT_OVERLAP,
            serving_names: vec![listen.ip().to_string()],
            root_namespace: Self::DEFAULT_ROOT_NAMESPACE.to_owned(),
            gateway_image: None,
        }
    }

    /// Refuses what no control plane can work with.
    pub(crate) fn check(&self) -> Result<(), ControlError> {
        let invalid = |message: String| Err(ControlError::Config(message));
        if Identity::new(&self.trust_domain, "namespace", "account").is_err() {
            return invalid(format!("trust domain {:?} is not valid", self.trust_domain));
        }
        if Identity::new("domain", &self.root_namespace, "account").is_err() {
            return invalid(format!(
                "root namespace {:?} is not valid",
                self.root_namespace
            ));
        }
        // The id stands before the first `/` of every workload's name.
        if self.cluster_id.is_empty() || self.cluster_id.contains('/') {
            return invalid(format!("cluster id {:?} is not valid", self.cluster_id));
        }
        if self.cert_ttl < Duration::from_secs(1) {
            return invalid("certificates must live for a second at least".to_owned());
        }
        Ok(())
    }
}

/// Where the objects that describe the mesh come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceChoice {
    /// A folder of manifests.
    Folder(PathBuf),
    /// A cluster's API server.
    Kubernetes(ClusterConfig),
}
