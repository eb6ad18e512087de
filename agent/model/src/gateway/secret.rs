//! Private keys and passwords on their way from the control plane to a gateway.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// A private key in PEM, or a password.
///
/// `Debug` and serialisation write [`SecretKey::REDACTED`] instead of it: no log line, status page
/// or configuration dump can carry a key by accident. Its memory is wiped when the last clone goes.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct SecretKey(Arc<Zeroizing<String>>);

impl SecretKey {
    /// What stands where the key would.
    pub const REDACTED: &'static str = "(redacted)";

    /// Takes the text as it is; whether it is a key is seen when it is used.
    pub fn new(pem: String) -> Self {
        Self(Arc::new(Zeroizing::new(pem)))
    }

    /// The key itself, for the TLS configuration and the authenticated stream to the gateway.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretKey {
    fn from(pem: String) -> Self {
        Self::new(pem)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::REDACTED)
    }
}

impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::REDACTED)
    }
}
