//! Settings of `culvert node`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_cni::install::Installation;

use super::{
    ConfigError, LogConfig, Upstream, https, log, name, required, trust_domain, upstream, workers,
};
use crate::cli::{Enrolment, NodeFlags};

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
    /// Where the wishes of the control plane come from, and who is told what became of them.
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
