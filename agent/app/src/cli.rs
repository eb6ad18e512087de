//! The command line as typed. Every flag is also an environment variable `CULVERT_<FLAG>` and a
//! key of the configuration file; the flag wins over the variable, the variable over the file.

mod data_plane;
mod gateway;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agent_control::NodeAccount;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config_file::{self, FileError};

pub(crate) use data_plane::DataPlaneFlags;
pub(crate) use gateway::GatewayFlags;

/// Culvert: a node-level, eBPF-assisted ambient service mesh.
///
/// Every flag of `node`, `control` and `gateway` may also be given as an environment variable (shown in
/// brackets) or as a key of the YAML file that --config names, such as `node-name: n1`.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Roles and operator's verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Runs the node agent: captures, encrypts and authorizes the traffic of this node's pods.
    Node(Box<NodeFlags>),
    /// Runs the control plane and the certificate authority.
    Control(Box<ControlFlags>),
    /// Runs one Gateway object: routes HTTP requests from its listeners to services.
    Gateway(Box<GatewayFlags>),
    /// Shows what a node agent is doing: pods, certificates, control-plane sync, refusals. With
    /// the control plane's socket: manifests that are not in force, nodes, certificates. With a
    /// gateway's: ports, routes, what cannot be used.
    Status(StatusFlags),
    /// Shows what a gateway does with requests: listeners, rules with their backends, requests,
    /// success rate and latency of each rule, endpoints and those that are out.
    Routes(StatusFlags),
    /// Prints the node agent's view of the mesh as JSON, with the keys istioctl knows.
    ConfigDump(AdminFlags),
    /// Explains what the node agent would do with a connection: identity, route, endpoint and
    /// each policy's verdict. Run it on the node of the source or of the destination.
    Why(WhyFlags),
    /// Says what is wrong with manifests before they are applied, or with a cluster as it is: what
    /// cannot be read, names nobody, selects nothing or never matters. Exits with 1 when there are
    /// errors, and with 2 when it could not look.
    Check(CheckFlags),
    /// Prints the Kubernetes manifests of this release: `culvert install --render | kubectl apply
    /// -f -`. Nothing is applied, and no cluster is asked.
    Install(InstallFlags),
}

/// Flags that every long-running role has.
#[derive(Debug, Args)]
pub(crate) struct CommonFlags {
    /// YAML file with any of these flags as keys.
    #[arg(long, env = "CULVERT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Which log lines to write, in the syntax of RUST_LOG. [default: $RUST_LOG, else "info"]
    #[arg(long, env = "CULVERT_LOG_FILTER", value_name = "FILTER")]
    pub(crate) log_filter: Option<String>,
    /// Write log lines as JSON.
    #[arg(long, env = "CULVERT_LOG_JSON")]
    pub(crate) log_json: bool,
    /// How long live connections may go on after SIGTERM, and after a successor has taken over.
    #[arg(long, env = "CULVERT_DRAIN_DEADLINE", value_name = "DURATION",
          default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) drain_deadline: Duration,
    /// Trust domain of every identity of this mesh.
    #[arg(
        long,
        env = "CULVERT_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub(crate) trust_domain: String,
    /// Name of this cluster.
    #[arg(
        long,
        env = "CULVERT_CLUSTER_ID",
        value_name = "ID",
        default_value = "Kubernetes"
    )]
    pub(crate) cluster_id: String,
}

/// Who says which pods are enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Enrolment {
    /// The container runtime: every pod its CNI plugin names.
    Cni,
    /// The control plane, by labels: also pods that run already, and only those.
    Labels,
}

/// `culvert node`.
#[derive(Debug, Args)]
pub(crate) struct NodeFlags {
    #[command(flatten)]
    pub(crate) common: CommonFlags,
    #[command(flatten)]
    pub(crate) data_plane: DataPlaneFlags,
    /// Name of this node, as in the pods' spec.nodeName. Required.
    #[arg(long, env = "CULVERT_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Ask the control plane for destinations by name when a pod first dials them, instead of
    /// holding the whole mesh: for clusters of many thousand pods. Policies come whole either way.
    #[arg(long, env = "CULVERT_XDS_ON_DEMAND")]
    pub(crate) xds_on_demand: bool,
    /// Who says which pods belong into the mesh; another than the control plane where that is
    /// Istio's, and `culvert control --companion` runs beside it. [default: the control plane]
    #[arg(long, env = "CULVERT_ENROLMENT_ADDRESS", value_name = "URL")]
    pub(crate) enrolment_address: Option<String>,
    /// PEM file with the roots of --enrolment-address. [default: --root-cert]
    #[arg(long, env = "CULVERT_ENROLMENT_ROOT_CERT", value_name = "FILE")]
    pub(crate) enrolment_root_cert: Option<PathBuf>,
    /// File with the bearer token for --enrolment-address. [default: --token-file]
    #[arg(long, env = "CULVERT_ENROLMENT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) enrolment_token_file: Option<PathBuf>,
    /// Namespace of this agent's own pod; Istio's control plane compares it with the token's.
    #[arg(
        long,
        env = "CULVERT_POD_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "culvert-system"
    )]
    pub(crate) pod_namespace: String,
    /// Where the list of enrolled pods is kept.
    #[arg(
        long,
        env = "CULVERT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/culvert"
    )]
    pub(crate) state_dir: PathBuf,
    /// Where eBPF maps and links are pinned; a BPF file system is mounted there when none is.
    #[arg(
        long,
        env = "CULVERT_BPFFS",
        value_name = "DIR",
        default_value = "/sys/fs/bpf"
    )]
    pub(crate) bpffs: PathBuf,
    /// The cgroup v2 mount whose processes are captured.
    #[arg(
        long,
        env = "CULVERT_CGROUP_ROOT",
        value_name = "DIR",
        default_value = "/sys/fs/cgroup"
    )]
    pub(crate) cgroup_root: PathBuf,
    /// Network namespace of the host.
    #[arg(
        long,
        env = "CULVERT_HOST_NETNS",
        value_name = "PATH",
        default_value = "/proc/1/ns/net"
    )]
    pub(crate) host_netns: PathBuf,
    /// The host's /proc: pods that run already are found by the cgroups of their processes.
    #[arg(
        long,
        env = "CULVERT_HOST_PROC",
        value_name = "DIR",
        default_value = "/proc"
    )]
    pub(crate) host_proc: PathBuf,
    /// Which pods are enrolled: every one that the container runtime names (`cni`), or those that
    /// the control plane wants by their labels, running ones included (`labels`).
    #[arg(
        long,
        env = "CULVERT_ENROLMENT",
        value_name = "WHO",
        default_value = "cni",
        value_enum
    )]
    pub(crate) enrolment: Enrolment,
    /// Unix socket that the CNI plugin calls.
    #[arg(
        long,
        env = "CULVERT_CNI_SOCKET",
        value_name = "PATH",
        default_value = "/run/culvert/cni.sock"
    )]
    pub(crate) cni_socket: PathBuf,
    /// The container runtime's folder of plugins: culvert-cni is installed there. With
    /// --cni-conf-dir; without both nothing is installed.
    #[arg(long, env = "CULVERT_CNI_BIN_DIR", value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// The container runtime's folder of network configurations: culvert-cni is put at the end of
    /// the chain in use, and put there again when somebody writes another.
    #[arg(long, env = "CULVERT_CNI_CONF_DIR", value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Namespaces, separated by commas, whose pods are never in the mesh and never wait for this
    /// agent: its own above all, or it could not start.
    #[arg(
        long,
        env = "CULVERT_CNI_EXCLUDE_NAMESPACES",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "culvert-system"
    )]
    pub(crate) cni_exclude_namespaces: Vec<String>,
    /// Unix socket on which a running agent hands over to the one that is started after it.
    /// [default: handover.sock beside --cni-socket]
    #[arg(long, env = "CULVERT_HANDOVER_SOCKET", value_name = "PATH")]
    pub(crate) handover_socket: Option<PathBuf>,
    /// What tells this agent from those before and after it on the node, such as the uid of its
    /// pod: an agent that was followed and is started again under the same word stands by.
    /// [default: a random word]
    #[arg(long, env = "CULVERT_INSTANCE", value_name = "WORD")]
    pub(crate) instance: Option<String>,
    /// Answer the pods' DNS questions for names of the mesh; all others go on to the server that was
    /// asked. With `=false` no pod's questions are looked at.
    #[arg(
        long,
        env = "CULVERT_DNS_CAPTURE",
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    pub(crate) dns_capture: bool,
    /// Namespaces, separated by commas, whose pods ask their DNS servers themselves.
    #[arg(
        long,
        env = "CULVERT_DNS_EXCEPT",
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub(crate) dns_except: Vec<String>,
    /// Domain of the cluster's services.
    #[arg(
        long,
        env = "CULVERT_CLUSTER_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub(crate) cluster_domain: String,
    /// Detaches every hook and removes every pin, then exits: pods stay connected but leave the
    /// mesh. For uninstalling, and to break the glass.
    #[arg(long, env = "CULVERT_RELEASE")]
    pub(crate) release: bool,
    /// Compiled eBPF programs. [default: culvert.bpf.o beside this program, then
    /// /usr/lib/culvert/culvert.bpf.o]
    #[arg(long, env = "CULVERT_EBPF_OBJECT", value_name = "PATH")]
    pub(crate) ebpf_object: Option<PathBuf>,
    /// Log what the eBPF programs do; slow.
    #[arg(long, env = "CULVERT_DATAPATH_DEBUG")]
    pub(crate) datapath_debug: bool,
}

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

const ADMIN_SOCKET: &str = "/run/culvert/admin.sock";

/// Why the command line could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Flags or variables; also carries `--help` and `--version`.
    #[error(transparent)]
    Flags(#[from] clap::Error),
    /// The configuration file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CliError {
    /// Prints it and says how to exit.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Flags(error) => {
                // The terminal may be gone; there is nobody else to tell.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            Self::File(error) => {
                eprintln!("culvert: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Parses the command line, with the values of the configuration file as defaults where it names
/// one.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, CliError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = config_file::apply(Arguments::command(), &arguments)?;
    let matches = command.try_get_matches_from(arguments)?;
    Ok(Arguments::from_arg_matches(&matches)?)
}

#[cfg(test)]
mod tests;
