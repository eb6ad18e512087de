//! Whom `https` addresses of keys are believed.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

/// TLS as the machine trusts it: the roots of its certificate store, or those that `SSL_CERT_FILE`
/// and `SSL_CERT_DIR` name. `None`, and said in the log, when there are none.
pub fn system_tls() -> Option<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate of the system's roots cannot be used");
    }
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        tracing::warn!(
            "the system has no roots: keys of token issuers can be fetched over http only"
        );
        return None;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Some(Arc::new(config))
}
