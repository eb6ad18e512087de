//! Errors of this room.

use std::io;
use std::path::PathBuf;

use agent_model::Identity;

/// Why a certificate could not be made, obtained or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file of the authority or of the CA client cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
    /// The state directory or the files given do not make an authority.
    #[error("certificate authority: {0}")]
    Authority(String),
    /// A certificate signing request that must not be signed.
    #[error("certificate signing request refused: {0}")]
    Request(String),
    /// Making or signing a certificate failed.
    #[error("certificate could not be made: {0}")]
    Making(#[from] rcgen::Error),
    /// What the certificate service returned is not a usable certificate for the identity.
    #[error("certificate service returned an unusable certificate for {identity}: {detail}")]
    Unusable {
        /// The identity asked for.
        identity: Identity,
        /// What is wrong with it.
        detail: String,
    },
    /// The certificate service cannot be reached or refused the request.
    #[error("certificate service: {0}")]
    Service(String),
    /// No valid certificate arrived while a connection waited for it.
    #[error("no certificate for {identity}: {detail}")]
    NotAvailable {
        /// The identity asked for.
        identity: Identity,
        /// The last error of the certificate service, or that it is silent.
        detail: String,
    },
    /// The number of identities of this node reached its limit.
    #[error("more than {0} identities on this node")]
    TooMany(usize),
    /// rustls refused a configuration.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

impl IdentityError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
