//! The way to the cluster's API server, for everything in this room that talks to it.

use std::path::PathBuf;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::ControlError;

/// As the API server's audit log shows this program.
const AGENT: &str = concat!("culvert-control/", env!("CARGO_PKG_VERSION"));
/// For the TCP connection and its handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which a request is waiting and nothing has come for this long is given up. It
/// is longer than any watch lasts (see `source::kube`), so only a dead connection gets there.
const SILENCE: Duration = Duration::from_secs(55);
/// For writing a request.
const WRITE: Duration = Duration::from_secs(10);

/// Which cluster, and who we are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// A kubeconfig, of which the current context counts. Without one this program runs in a pod
    /// of the cluster and uses that pod's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// A client for the cluster. Nothing is sent yet: an API server that is down is no error here.
/// Its requests end after [`SILENCE`] without an answer; callers that cannot wait so long set
/// their own limits.
pub(crate) async fn connect(cluster: &ClusterConfig) -> Result<kube::Client, ControlError> {
    // kube builds its TLS with the process's provider; ours is the same everywhere.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = match &cluster.kubeconfig {
        None => kube::Config::incluster().map_err(unusable("the pod's service account"))?,
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(unusable("the kubeconfig"))?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(unusable("the kubeconfig"))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(WRITE);
    config.reset_reader_on_write = true;
    // kube's own attempts would hide an outage for minutes; whoever asks knows better when and
    // whether to try again.
    config.default_retry = false;
    let agent: (HeaderName, HeaderValue) = (USER_AGENT, HeaderValue::from_static(AGENT));
    config.headers.push(agent);
    kube::Client::try_from(config).map_err(unusable("the settings of the cluster"))
}

fn unusable<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> ControlError {
    move |source| ControlError::Cluster {
        what,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_is_named() {
        let missing = ClusterConfig {
            kubeconfig: Some("/nonexistent/kubeconfig".into()),
        };
        let error = connect(&missing).await.err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("kubeconfig"), "{error}");
    }
}
