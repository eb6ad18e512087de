//! Validated settings of the roles. Rooms see these values, never flags, variables or files.

mod gateway;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_cni::install::Installation;
use agent_control::{AuthorityFiles, ClusterConfig, SourceChoice, TokenReviews};
use agent_model::Identity;
use agent_telemetry::LogFormat;

use crate::cli::{CommonFlags, ControlFlags, DataPlaneFlags, Enrolment, NodeFlags};

pub(crate) use gateway::{GatewayConfig, gateway};

/// Where the eBPF object is looked for when no flag names it and it is not beside the program.
const INSTALLED_OBJECT: &str = "/usr/lib/culvert/culvert.bpf.o";
/// Name of the hand-over socket beside the enrolment socket.
const HANDOVER_SOCKET: &str = "handover.sock";
/// Longest instance word, in bytes; a uid has 36.
const MAX_INSTANCE: usize = 128;
/// Name of the eBPF object beside the program.
const OBJECT_NAME: &str = "culvert.bpf.o";
/// Name of the CNI plugin beside the program.
const PLUGIN_NAME: &str = "culvert-cni";
/// Data-path threads at most; more than any node has use for.
const MAX_WORKERS: usize = 256;
/// Shortest certificate lifetime that leaves time to renew.
const MIN_CERT_TTL: Duration = Duration::from_secs(1);

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A required setting is missing.
    #[error("--{flag} is required (or {variable}, or the key {flag:?} of the --config file)",
            variable = format!("CULVERT_{}", flag.replace('-', "_").to_uppercase()))]
    Missing {
        /// The flag.
        flag: &'static str,
    },
    /// A setting has a value that makes no sense.
    #[error("--{flag} {value:?}: {problem}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Log settings of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// In the syntax of `RUST_LOG`.
    pub(crate) filter: String,
    /// Text or JSON.
    pub(crate) format: LogFormat,
}

/// What `culvert node` does.
#[derive(Debug)]
pub(crate) enum Node {
    /// `--release`: leave the node as if Culvert had never run.
    Release(Box<ReleaseConfig>),
    /// Run the agent.
    Run(Box<NodeConfig>),
}

/// What `culvert node --release` takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleaseConfig {
    /// Kernel side.
    pub(crate) kernel: KernelConfig,
    /// Where the CNI plugin is installed, when it is.
    pub(crate) installation: Option<Installation>,
}

/// Settings of the kernel side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelConfig {
    /// Compiled eBPF programs.
    pub(crate) object: PathBuf,
    /// Where maps and links are pinned.
    pub(crate) bpffs: PathBuf,
    /// The cgroup v2 mount that is captured.
    pub(crate) cgroup_root: PathBuf,
    /// Network namespace of the host.
    pub(crate) host_netns: PathBuf,
    /// The host's `/proc`.
    pub(crate) host_proc: PathBuf,
    /// Where the list of enrolled pods is kept.
    pub(crate) state_dir: PathBuf,
    /// Pods' questions for names are looked at.
    pub(crate) names: bool,
    /// Log what the programs do.
    pub(crate) debug: bool,
}

/// Settings of the node agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeConfig {
    /// Kernel side.
    pub(crate) kernel: KernelConfig,
    /// Logging.
    pub(crate) log: LogConfig,
    /// Name of this node.
    pub(crate) node_name: String,
    /// `https://host:port` of the control plane.
    pub(crate) xds_address: String,
    /// Ask for addresses by name.
    pub(crate) xds_on_demand: bool,
    /// `https://host:port` of the certificate service.
    pub(crate) ca_address: String,
    /// Who says which pods are enrolled.
    pub(crate) enrolment_server: EnrolmentServer,
    /// Namespace of the agent's pod.
    pub(crate) pod_namespace: String,
    /// Roots of the control plane's certificate.
    pub(crate) root_cert: PathBuf,
    /// This node's bearer token.
    pub(crate) token_file: PathBuf,
    /// Socket of the CNI plugin.
    pub(crate) cni_socket: PathBuf,
    /// Who says which pods are enrolled.
    pub(crate) enrolment: Enrolment,
    /// Where the CNI plugin is to be installed, when it is.
    pub(crate) installation: Option<Installation>,
    /// Socket on which this agent hands over to its successor.
    pub(crate) handover_socket: PathBuf,
    /// What tells this agent from those before and after it.
    pub(crate) instance: String,
    /// Socket of the operator's verbs.
    pub(crate) admin_socket: PathBuf,
    /// Metrics listener.
    pub(crate) metrics_listen: SocketAddr,
    /// Readiness listener.
    pub(crate) ready_listen: SocketAddr,
    /// Trust domain.
    pub(crate) trust_domain: String,
    /// Cluster name.
    pub(crate) cluster_id: String,
    /// Network of the pods (`""` is the default network).
    pub(crate) network: String,
    /// Name servers that the agent itself asks.
    pub(crate) resolv_conf: PathBuf,
    /// Names that are answered for the pods.
    pub(crate) names: Option<agent_proxy::dns::Config>,
    /// Data-path threads.
    pub(crate) workers: usize,
    /// How long live connections may go on after SIGTERM.
    pub(crate) drain_deadline: Duration,
}

/// Where the agent hears which pods belong into the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnrolmentServer {
    /// `https://host:port`.
    pub(crate) address: String,
    /// Roots of its certificate.
    pub(crate) root_cert: PathBuf,
    /// The bearer token it is shown.
    pub(crate) token_file: PathBuf,
    /// It issues certificates too, so it knows which roots are to be trusted.
    pub(crate) issues: bool,
}

/// Settings of the control plane.
#[derive(Debug, Clone)]
pub(crate) struct ControlConfig {
    /// Logging.
    pub(crate) log: LogConfig,
    /// Where the objects come from.
    pub(crate) source: SourceChoice,
    /// Only enrolment; discovery and certificates are another control plane's.
    pub(crate) companion: bool,
    /// xDS and certificate listener.
    pub(crate) listen: SocketAddr,
    /// Listener of the validating webhook.
    pub(crate) webhook_listen: Option<SocketAddr>,
    /// File of `TOKEN NODE` lines.
    pub(crate) node_tokens: Option<PathBuf>,
    /// Service account tokens that are admitted, in a cluster.
    pub(crate) token_reviews: Option<TokenReviews>,
    /// Key and root of the certificate authority.
    pub(crate) state_dir: PathBuf,
    /// Trust domain.
    pub(crate) trust_domain: String,
    /// Cluster name.
    pub(crate) cluster_id: String,
    /// Longest lifetime of workload certificates.
    pub(crate) cert_ttl: Duration,
    pub(crate) root_overlap: Duration,
    /// Names and addresses nodes dial.
    pub(crate) serving_names: Vec<String>,
    /// Namespace of mesh-wide policies.
    pub(crate) root_namespace: String,
    /// Image of gateways that are made in the cluster, where it is another than this program's.
    pub(crate) gateway_image: Option<String>,
    /// An issuer from outside.
    pub(crate) authority: Option<AuthorityFiles>,
    /// The issuers' revocation lists.
    pub(crate) revocation_lists: Option<PathBuf>,
    /// Socket of `culvert status`.
    pub(crate) admin_socket: PathBuf,
    /// Metrics and readiness listener.
    pub(crate) metrics_listen: SocketAddr,
    /// How long open streams may go on after SIGTERM.
    pub(crate) drain_deadline: Duration,
}

/// Validates the flags of `culvert node`.
pub(crate) fn node(flags: NodeFlags) -> Result<Node, ConfigError> {
    let log = log(&flags.common);
    let kernel = KernelConfig {
        object: flags.ebpf_object.unwrap_or_else(default_object),
        bpffs: flags.bpffs,
        cgroup_root: flags.cgroup_root,
        host_netns: flags.host_netns,
        host_proc: flags.host_proc,
        state_dir: flags.state_dir,
        names: flags.dns_capture,
        debug: flags.datapath_debug,
    };
    let installation = installation(
        flags.cni_bin_dir,
        flags.cni_conf_dir,
        flags.cni_exclude_namespaces,
        &flags.cni_socket,
        &kernel.state_dir,
    )?;
    if flags.release {
        let config = ReleaseConfig {
            kernel,
            installation,
        };
        return Ok(Node::Release(Box::new(config)));
    }
    let Upstream {
        xds_address,
        ca_address,
        root_cert,
        token_file,
    } = upstream(&flags.data_plane)?;
    let enrolment_address = match flags.enrolment_address {
        Some(address) => https("enrolment-address", address)?,
        None => xds_address.clone(),
    };
    let enrolment_server = EnrolmentServer {
        issues: enrolment_address == ca_address,
        address: enrolment_address,
        root_cert: flags
            .enrolment_root_cert
            .unwrap_or_else(|| root_cert.clone()),
        token_file: flags
            .enrolment_token_file
            .unwrap_or_else(|| token_file.clone()),
    };
    let config = NodeConfig {
        kernel,
        log,
        node_name: name("node-name", required("node-name", flags.node_name)?)?,
        xds_address,
        xds_on_demand: flags.xds_on_demand,
        ca_address,
        enrolment_server,
        pod_namespace: name("pod-namespace", flags.pod_namespace)?,
        root_cert,
        token_file,
        handover_socket: flags
            .handover_socket
            .unwrap_or_else(|| flags.cni_socket.with_file_name(HANDOVER_SOCKET)),
        cni_socket: flags.cni_socket,
        enrolment: flags.enrolment,
        instance: instance(flags.instance)?,
        installation,
        admin_socket: flags.data_plane.admin_socket,
        metrics_listen: flags.data_plane.metrics_listen,
        ready_listen: flags.data_plane.ready_listen,
        trust_domain: trust_domain(flags.common.trust_domain)?,
        cluster_id: name("cluster-id", flags.common.cluster_id)?,
        network: flags.data_plane.network,
        resolv_conf: flags.data_plane.resolv_conf,
        names: flags.dns_capture.then(|| agent_proxy::dns::Config {
            domain: flags.cluster_domain.into(),
            except: flags.dns_except.into_iter().collect(),
        }),
        workers: workers(flags.data_plane.workers)?,
        drain_deadline: flags.common.drain_deadline,
    };
    Ok(Node::Run(Box::new(config)))
}

/// Where the control plane and the certificate service are, and what is shown to them.
struct Upstream {
    xds_address: String,
    ca_address: String,
    root_cert: PathBuf,
    token_file: PathBuf,
}

fn upstream(flags: &DataPlaneFlags) -> Result<Upstream, ConfigError> {
    let xds_address = required("xds-address", flags.xds_address.clone())?;
    let xds_address = https("xds-address", xds_address)?;
    let ca_address = match flags.ca_address.clone() {
        Some(address) => https("ca-address", address)?,
        None => xds_address.clone(),
    };
    Ok(Upstream {
        xds_address,
        ca_address,
        root_cert: required("root-cert", flags.root_cert.clone())?,
        token_file: required("token-file", flags.token_file.clone())?,
    })
}

/// Both folders or none of them.
fn installation(
    bin_dir: Option<PathBuf>,
    conf_dir: Option<PathBuf>,
    exclude_namespaces: Vec<String>,
    agent_socket: &Path,
    state_dir: &Path,
) -> Result<Option<Installation>, ConfigError> {
    if bin_dir.is_none() && conf_dir.is_none() {
        return Ok(None);
    }
    for (flag, path) in [("cni-socket", agent_socket), ("state-dir", state_dir)] {
        if !path.is_absolute() {
            return Err(ConfigError::Invalid {
                flag,
                value: path.display().to_string(),
                problem: "the CNI plugin needs an absolute path",
            });
        }
    }
    Ok(Some(Installation {
        program: beside_this_program(PLUGIN_NAME).unwrap_or_else(|| PLUGIN_NAME.into()),
        bin_dir: required("cni-bin-dir", bin_dir)?,
        conf_dir: required("cni-conf-dir", conf_dir)?,
        agent_socket: agent_socket.to_owned(),
        meshed_namespaces: state_dir.join(agent_cni::MESHED_FILE),
        exclude_namespaces: exclude_namespaces
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect(),
    }))
}

/// Validates the flags of `culvert control`.
pub(crate) fn control(flags: ControlFlags) -> Result<ControlConfig, ConfigError> {
    if flags.serving_names.iter().all(|name| name.is_empty()) {
        return Err(ConfigError::Missing {
            flag: "serving-names",
        });
    }
    if flags.cert_ttl < MIN_CERT_TTL {
        return Err(ConfigError::Invalid {
            flag: "cert-ttl",
            value: humantime::format_duration(flags.cert_ttl).to_string(),
            problem: "shorter than a second",
        });
    }
    if flags.companion && !flags.kubernetes {
        return Err(ConfigError::Invalid {
            flag: "companion",
            value: "true".to_owned(),
            problem: "only with --kubernetes",
        });
    }
    let token_reviews = flags.kubernetes.then_some(TokenReviews {
        audiences: flags.token_audience,
        accounts: flags.node_account,
    });
    // In a cluster nodes have tokens without a file.
    let node_tokens = match flags.node_tokens {
        None if flags.kubernetes => None,
        file => Some(required("node-tokens", file)?),
    };
    let authority = authority(flags.ca_cert, flags.ca_key, flags.ca_roots)?;
    Ok(ControlConfig {
        log: log(&flags.common),
        source: source(flags.manifests, flags.kubernetes, flags.kubeconfig)?,
        companion: flags.companion,
        listen: flags.listen,
        webhook_listen: flags.webhook_listen,
        node_tokens,
        token_reviews,
        state_dir: flags.state_dir,
        trust_domain: trust_domain(flags.common.trust_domain)?,
        cluster_id: name("cluster-id", flags.common.cluster_id)?,
        cert_ttl: flags.cert_ttl,
        root_overlap: flags.root_overlap,
        serving_names: flags.serving_names,
        root_namespace: name("root-namespace", flags.root_namespace)?,
        gateway_image: flags.gateway_image.filter(|image| !image.is_empty()),
        authority,
        revocation_lists: flags.ca_crl,
        admin_socket: flags.admin_socket,
        metrics_listen: flags.metrics_listen,
        drain_deadline: flags.common.drain_deadline,
    })
}

/// A folder or a cluster, never both.
fn source(
    manifests: Option<PathBuf>,
    kubernetes: bool,
    kubeconfig: Option<PathBuf>,
) -> Result<SourceChoice, ConfigError> {
    let invalid = |flag, value: &PathBuf, problem| ConfigError::Invalid {
        flag,
        value: value.display().to_string(),
        problem,
    };
    match (manifests, kubernetes, kubeconfig) {
        (Some(folder), true, _) => Err(invalid(
            "manifests",
            &folder,
            "not together with --kubernetes",
        )),
        (_, false, Some(file)) => Err(invalid("kubeconfig", &file, "only with --kubernetes")),
        (None, true, kubeconfig) => Ok(SourceChoice::Kubernetes(ClusterConfig { kubeconfig })),
        (folder, false, None) => Ok(SourceChoice::Folder(required("manifests", folder)?)),
    }
}

/// All three files or none of them.
fn authority(
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
    roots: Option<PathBuf>,
) -> Result<Option<AuthorityFiles>, ConfigError> {
    if chain.is_none() && key.is_none() && roots.is_none() {
        return Ok(None);
    }
    Ok(Some(AuthorityFiles {
        chain: required("ca-cert", chain)?,
        key: required("ca-key", key)?,
        roots: required("ca-roots", roots)?,
    }))
}

fn log(flags: &CommonFlags) -> LogConfig {
    let filter = flags
        .log_filter
        .clone()
        .or_else(|| std::env::var("RUST_LOG").ok())
        .filter(|filter| !filter.is_empty());
    LogConfig {
        filter: filter.unwrap_or_else(|| "info".to_owned()),
        format: if flags.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
    }
}

fn required<T>(flag: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { flag })
}

/// A URL without path whose scheme is https; without a scheme https is meant. A token is never
/// sent in the clear.
fn https(flag: &'static str, value: String) -> Result<String, ConfigError> {
    let invalid = |value: &str, problem| ConfigError::Invalid {
        flag,
        value: value.to_owned(),
        problem,
    };
    let url = if value.contains("://") {
        value
    } else {
        format!("https://{value}")
    };
    let parsed: http::Uri = url.parse().map_err(|_| invalid(&url, "not a URL"))?;
    if parsed.scheme_str() != Some("https") {
        return Err(invalid(&url, "only https is spoken here"));
    }
    if parsed.port_u16().is_none() {
        return Err(invalid(&url, "the port is missing"));
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return Err(invalid(&url, "a path makes no sense here"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A non-empty name that is safe in metadata, labels and file names.
fn name(flag: &'static str, value: String) -> Result<String, ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if value.is_empty() || value.len() > 253 || !value.bytes().all(allowed) {
        return Err(ConfigError::Invalid {
            flag,
            value,
            problem: "expected 1 to 253 letters, digits, dots, dashes and underscores",
        });
    }
    Ok(value)
}

/// A trust domain is one that an identity can be made of.
fn trust_domain(value: String) -> Result<String, ConfigError> {
    if Identity::new(&value, "n", "a").is_err() {
        return Err(ConfigError::Invalid {
            flag: "trust-domain",
            value,
            problem: "not a SPIFFE trust domain",
        });
    }
    Ok(value)
}

fn workers(value: Option<NonZeroUsize>) -> Result<usize, ConfigError> {
    let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = value.map_or_else(cpus, NonZeroUsize::get);
    if value.is_some() && workers > MAX_WORKERS {
        return Err(ConfigError::Invalid {
            flag: "workers",
            value: workers.to_string(),
            problem: "more than 256",
        });
    }
    Ok(workers.min(MAX_WORKERS))
}

/// The word given, else one that nobody else has.
fn instance(given: Option<String>) -> Result<String, ConfigError> {
    match given {
        Some(word) if word.is_empty() || word.len() > MAX_INSTANCE => Err(ConfigError::Invalid {
            flag: "instance",
            value: word,
            problem: "not a word of 1 to 128 bytes",
        }),
        Some(word) => Ok(word),
        None => Ok(format!("{:016x}", rand::random::<u64>())),
    }
}

/// The object beside this program, where a build leaves it, else the installed one.
fn default_object() -> PathBuf {
    beside_this_program(OBJECT_NAME)
        .filter(|path| path.exists())
        .unwrap_or_else(|| Path::new(INSTALLED_OBJECT).to_owned())
}

fn beside_this_program(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.join(name))
}

#[cfg(test)]
mod tests;
