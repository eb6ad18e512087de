//! SPIFFE identities of workloads.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Only that exact five-part form is an identity; anything else is no identity at all. Comparison
/// is byte-exact, as SPIFFE asks after a strict parse.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// A string that is not a workload identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a workload identity (spiffe://<trust domain>/ns/<namespace>/sa/<account>): {0:?}")]
pub struct InvalidIdentity(pub String);

impl Identity {
    /// Makes an identity of its three parts. Fails when a part is empty, longer than 253 bytes, or
    /// holds a byte outside `[A-Za-z0-9._-]`.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        let parts = [trust_domain, namespace, service_account];
        if !parts.iter().all(|part| is_valid_part(part)) {
            return Err(InvalidIdentity(parts.join("/")));
        }
        Ok(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The identity without its scheme, the form policies compare principals with.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        write!(
            f,
            "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
        )
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIdentity(uri.to_owned());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(invalid)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [trust_domain, "ns", namespace, "sa", account] => {
                Self::new(trust_domain, namespace, account).map_err(|_| invalid())
            }
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Identity {
    type Error = InvalidIdentity;

    fn try_from(uri: String) -> Result<Self, Self::Error> {
        uri.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

fn is_valid_part(part: &str) -> bool {
    (1..=253).contains(&part.len())
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let uri = "spiffe://cluster.local/ns/shop/sa/web";
        let identity: Identity = uri.parse().unwrap();
        assert_eq!(identity.to_string(), uri);
        assert_eq!(identity.principal(), "cluster.local/ns/shop/sa/web");
    }

    #[test]
    fn anything_but_the_five_part_form_is_refused() {
        for uri in [
            "",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns/shop/sa/web/x",
            "spiffe://cluster.local/sa/web/ns/shop",
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/we\0b",
            "spiffe://cluster.local/ns/shop/sa/we%62",
            "https://cluster.local/ns/shop/sa/web",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?}");
        }
    }
}
