//! The flags of `culvert control`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent_control::NodeAccount;
use clap::Args;

use super::CommonFlags;

/// `culvert control`.
#[derive(Debug, Args)]
pub(crate) struct ControlFlags {
    #[command(flatten)]
    pub(crate) common: CommonFlags,
    /// Folder of Kubernetes YAML that describes the mesh; watched for changes. Required, unless
    /// --kubernetes is given.
    #[arg(long, env = "CULVERT_MANIFESTS", value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Take the mesh from the cluster's API server instead of a folder.
    #[arg(long, env = "CULVERT_KUBERNETES")]
    pub(crate) kubernetes: bool,
    /// How to reach the API server, for --kubernetes outside of the cluster. [default: the
    /// service account of the pod this runs in]
    #[arg(long, env = "CULVERT_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Run beside Istio's control plane, which goes on serving xDS and certificates: say by labels
    /// which pods node agents enrol, and mark those that are captured. With --kubernetes.
    #[arg(long, env = "CULVERT_COMPANION")]
    pub(crate) companion: bool,
    /// Where xDS and certificates are served.
    #[arg(
        long,
        env = "CULVERT_LISTEN",
        value_name = "ADDR",
        default_value = "[::]:15012"
    )]
    pub(crate) listen: SocketAddr,
    /// Where the API server asks before it takes an object (a validating webhook, with the
    /// certificate of --listen). Without it nobody is asked.
    #[arg(long, env = "CULVERT_WEBHOOK_LISTEN", value_name = "ADDR")]
    pub(crate) webhook_listen: Option<SocketAddr>,
    /// File with one `TOKEN NODE` pair a line, for a gateway `TOKEN NAMESPACE/NAME`. Required,
    /// unless --kubernetes is given.
    #[arg(long, env = "CULVERT_NODE_TOKENS", value_name = "FILE")]
    pub(crate) node_tokens: Option<PathBuf>,
    /// Audience of the service account tokens that admit a node agent, with --kubernetes; may be
    /// given several times, or as a list separated by commas.
    #[arg(
        long,
        env = "CULVERT_TOKEN_AUDIENCE",
        value_name = "AUDIENCE",
        value_delimiter = ',',
        default_value = "culvert"
    )]
    pub(crate) token_audience: Vec<String>,
    /// Service account that node agents run as, with --kubernetes; may be given several times, or
    /// as a list separated by commas.
    #[arg(
        long,
        env = "CULVERT_NODE_ACCOUNT",
        value_name = "NAMESPACE/NAME",
        value_delimiter = ',',
        default_value = "culvert-system/culvert-node"
    )]
    pub(crate) node_account: Vec<NodeAccount>,
    /// Where the certificate authority's key and root are kept.
    #[arg(
        long,
        env = "CULVERT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/culvert-control"
    )]
    pub(crate) state_dir: PathBuf,
    /// Lifetime of workload certificates.
    #[arg(long, env = "CULVERT_CERT_TTL", value_name = "DURATION",
          default_value = "24h", value_parser = humantime::parse_duration)]
    pub(crate) cert_ttl: Duration,
    /// When a root follows another: how long the new one is trusted before it signs, at the least.
    /// The old one is trusted for the lifetime of certificates and twice this long after that.
    #[arg(long, env = "CULVERT_ROOT_OVERLAP", value_name = "DURATION",
          default_value = "5m", value_parser = humantime::parse_duration)]
    pub(crate) root_overlap: Duration,
    /// Names and addresses, separated by commas, that nodes dial this control plane by. Required.
    #[arg(
        long,
        env = "CULVERT_SERVING_NAMES",
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub(crate) serving_names: Vec<String>,
    /// Namespace whose policies apply to the whole mesh.
    #[arg(
        long,
        env = "CULVERT_ROOT_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "culvert-system"
    )]
    pub(crate) root_namespace: String,
    /// Image of gateways, with --kubernetes: every Gateway of Culvert's classes gets a Deployment, a
    /// Service and a ServiceAccount, and the classes are made where the Gateway API is installed.
    /// Gateways dial the first of --serving-names. [default: the image of the pod this runs in;
    /// outside of a cluster nothing is made]
    #[arg(long, env = "CULVERT_GATEWAY_IMAGE", value_name = "IMAGE")]
    pub(crate) gateway_image: Option<String>,
    /// Intermediate certificate authority to sign with, PEM, its chain after it. With
    /// --ca-key and --ca-roots; without them a root is made in the state directory.
    #[arg(long, env = "CULVERT_CA_CERT", value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// PKCS #8 key of --ca-cert, PEM, readable by its owner only.
    #[arg(long, env = "CULVERT_CA_KEY", value_name = "FILE")]
    pub(crate) ca_key: Option<PathBuf>,
    /// Roots that --ca-cert chains to, PEM.
    #[arg(long, env = "CULVERT_CA_ROOTS", value_name = "FILE")]
    pub(crate) ca_roots: Option<PathBuf>,
    /// Certificate revocation lists (RFC 5280) of the issuers, PEM; read again when the file
    /// changes. With one of them every issuer of a peer's certificate needs its own.
    #[arg(long, env = "CULVERT_CA_CRL", value_name = "FILE")]
    pub(crate) ca_crl: Option<PathBuf>,
    /// Unix socket of `culvert status`.
    #[arg(
        long,
        env = "CULVERT_ADMIN_SOCKET",
        value_name = "PATH",
        default_value = "/run/culvert/control.sock"
    )]
    pub(crate) admin_socket: PathBuf,
    /// Where /metrics and /healthz/ready are served.
    #[arg(
        long,
        env = "CULVERT_METRICS_LISTEN",
        value_name = "ADDR",
        default_value = "[::]:15014"
    )]
    pub(crate) metrics_listen: SocketAddr,
}
