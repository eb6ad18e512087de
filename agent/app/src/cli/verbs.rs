//! The flags of the operator's verbs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ADMIN_SOCKET;

/// Where the agent answers.
#[derive(Debug, Args)]
pub(crate) struct AdminFlags {
    /// The admin socket of the node agent, or of the control plane.
    #[arg(long, env = "CULVERT_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,
}

/// `culvert status`.
#[derive(Debug, Args)]
pub(crate) struct StatusFlags {
    #[command(flatten)]
    pub(crate) admin: AdminFlags,
    /// Print JSON.
    #[arg(long, env = "CULVERT_JSON")]
    pub(crate) json: bool,
}

/// `culvert why`.
#[derive(Debug, Args)]
pub(crate) struct WhyFlags {
    #[command(flatten)]
    pub(crate) admin: AdminFlags,
    /// Print JSON.
    #[arg(long, env = "CULVERT_JSON")]
    pub(crate) json: bool,
    /// The pod that connects: `namespace/name` or its IP.
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where it connects to: `IP:PORT` or `[IPV6]:PORT`.
    #[arg(value_name = "DST:PORT")]
    pub(crate) destination: SocketAddr,
}

/// `culvert check`.
#[derive(Debug, Args)]
pub(crate) struct CheckFlags {
    /// Manifests, or folders of them; `-` is standard input.
    #[arg(value_name = "PATH", required_unless_present = "kubernetes")]
    pub(crate) paths: Vec<PathBuf>,
    /// Look at what a cluster has. With PATHs: at what it would have with those applied, and say
    /// only what concerns them.
    #[arg(long, env = "CULVERT_KUBERNETES")]
    pub(crate) kubernetes: bool,
    /// How to reach the API server, for --kubernetes. [default: the service account of the pod
    /// this runs in]
    #[arg(
        long,
        env = "CULVERT_KUBECONFIG",
        value_name = "FILE",
        requires = "kubernetes"
    )]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "CULVERT_JSON")]
    pub(crate) json: bool,
    /// Warnings are errors.
    #[arg(long, env = "CULVERT_STRICT")]
    pub(crate) strict: bool,
    /// Trust domain of the mesh.
    #[arg(
        long,
        env = "CULVERT_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub(crate) trust_domain: String,
    /// Namespace whose policies apply to the whole mesh.
    #[arg(
        long,
        env = "CULVERT_ROOT_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "culvert-system"
    )]
    pub(crate) root_namespace: String,
}

/// `culvert install`.
#[derive(Debug, Args)]
pub(crate) struct InstallFlags {
    /// Print the manifests. Required: there is no other way to install.
    #[arg(long, env = "CULVERT_RENDER", required = true)]
    pub(crate) render: bool,
    /// A kind of cluster to adapt them to.
    #[arg(long, env = "CULVERT_OVERLAY", value_name = "NAME")]
    pub(crate) overlay: Option<Overlay>,
    /// Further manifests; may be given several times.
    #[arg(long, env = "CULVERT_WITH", value_name = "NAME", value_delimiter = ',')]
    pub(crate) with: Vec<Extra>,
    /// Image of the control plane and the node agents. [default: culvert:VERSION]
    #[arg(long, env = "CULVERT_IMAGE", value_name = "REFERENCE")]
    pub(crate) image: Option<String>,
    /// Namespace that Culvert itself runs in. [default: culvert-system]
    #[arg(long, env = "CULVERT_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// One more setting; may be given several times. Keys are control.replicas,
    /// host.cni-bin-dir, host.cni-conf-dir, and every flag of the roles as control.FLAG, node.FLAG,
    /// or FLAG for each role that has it.
    #[arg(long, env = "CULVERT_SET", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Adaptations of the manifests, in `deploy/kubernetes/overlays`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Overlay {
    /// Kubernetes in Docker: images are loaded, not pulled; Istio's kinds are installed.
    Kind,
    /// A cluster of one node: one replica.
    SingleNode,
    /// Short certificates and tokens, replicas on separate nodes, network policies.
    Hardened,
    /// Under Istio's control plane: the control plane is its companion, agents take discovery and
    /// certificates from istiod.
    BesideIstio,
}

impl Overlay {
    /// Its folder below `deploy/kubernetes`.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Kind => "overlays/kind",
            Self::SingleNode => "overlays/single-node",
            Self::Hardened => "overlays/hardened",
            Self::BesideIstio => "overlays/beside-istio",
        }
    }
}

/// Manifests that not every cluster needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Extra {
    /// The kinds of Istio that Culvert reads; only where Istio has not installed them.
    IstioCrds,
    /// Gateway classes, which the control plane makes by itself too; needs the Gateway API's kinds.
    GatewayClasses,
}

impl Extra {
    /// Its folder below `deploy/kubernetes`.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::IstioCrds => "istio-crds",
            Self::GatewayClasses => "gateway-classes",
        }
    }
}
