//! Errors of this room.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use agent_identity::IdentityError;

/// Why the control plane cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file or folder that is needed cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
    /// The certificate authority cannot be opened, or the server's certificate not be made.
    #[error(transparent)]
    Authority(#[from] IdentityError),
    /// The revocation lists cannot be read.
    #[error("revocation lists: {0}")]
    RevocationList(String),
    /// The API server cannot be talked to with what is at hand.
    #[error("{what} cannot be used: {source}")]
    Cluster {
        /// Which of the settings.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server has not said everything that was asked of it.
    #[error("the cluster cannot be read: {0}")]
    Unread(String),
    /// The address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
}
