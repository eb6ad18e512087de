//! What this room reads out of X.509 certificates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_model::Identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The identity of a verified TLS peer: the first parseable SPIFFE URI of its leaf. Call it only
/// after the handshake; `None` before it and for peers without a certificate.
pub fn peer_identity(connection: &rustls::CommonState) -> Option<Identity> {
    let leaf = connection.peer_certificates()?.first()?;
    spiffe_identity(leaf)
}

/// The first URI subject alternative name that is a workload identity. Says nothing about whether
/// the certificate is valid.
pub fn spiffe_identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    spiffe_identities(certificate).into_iter().next()
}

/// Every URI subject alternative name that is a workload identity, in their order.
pub(crate) fn spiffe_identities(certificate: &CertificateDer<'_>) -> Vec<Identity> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let uris = names.value.general_names.iter().filter_map(|name| {
        // The identity parser accepts a closed set of characters, so an embedded NUL or an
        // escape never makes one name look like another.
        let GeneralName::URI(uri) = name else {
            return None;
        };
        uri.parse().ok()
    });
    uris.collect()
}

/// Validity and serial number of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
}

/// Reads the facts; `None` when the certificate does not parse.
pub(crate) fn facts(certificate: &CertificateDer<'_>) -> Option<Facts> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some(Facts {
        not_before: from_unix(validity.not_before.timestamp()),
        not_after: from_unix(validity.not_after.timestamp()),
        serial: parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    })
}

fn from_unix(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => UNIX_EPOCH,
    }
}

/// Every certificate of a PEM text, which must hold at least one; anything malformed is an error.
pub(crate) fn parse_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    Ok(certificates)
}
