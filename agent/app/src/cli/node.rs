//! The flags of `culvert node`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::{CommonFlags, DataPlaneFlags};

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

/// Who says which pods are enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Enrolment {
    /// The container runtime: every pod its CNI plugin names.
    Cni,
    /// The control plane, by labels: also pods that run already, and only those.
    Labels,
}
