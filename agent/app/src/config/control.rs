//! Settings of `culvert control`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent_control::{AuthorityFiles, ClusterConfig, SourceChoice, TokenReviews};

use super::{ConfigError, LogConfig, log, name, required, trust_domain};
use crate::cli::ControlFlags;

/// Shortest certificate lifetime that leaves time to renew.
const MIN_CERT_TTL: Duration = Duration::from_secs(1);

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
    /// How long a new root is trusted before it signs, at the least.
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
