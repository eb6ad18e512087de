//! What a certificate signing request may ask for. Pure.

use agent_model::Identity;
use rcgen::{CertificateSigningRequestParams, KeyPair, PublicKey, PublicKeyData, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

/// A request of more bytes than this is refused unread; ours have about 450.
pub const MAX_CSR_BYTES: usize = 16 * 1024;
/// Length of an uncompressed P-256 point.
const P256_POINT: usize = 65;

/// The public key to certify, when the request asks for `expected` and nothing else.
pub(super) fn check(csr_pem: &str, expected: &Identity) -> Result<PublicKey, String> {
    if csr_pem.len() > MAX_CSR_BYTES {
        return Err(format!("larger than {MAX_CSR_BYTES} bytes"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|error| format!("not a PEM request: {error}"))?;
    check_key(&der)?;
    // Checks the request's signature and refuses extensions it does not know.
    let request =
        CertificateSigningRequestParams::from_der(&der).map_err(|error| error.to_string())?;
    if matches!(request.params.is_ca, rcgen::IsCa::Ca(_)) {
        return Err("it asks for a CA".to_owned());
    }
    match request.params.subject_alt_names.as_slice() {
        [SanType::URI(uri)] if uri.as_str() == expected.to_string() => Ok(request.public_key),
        [SanType::URI(uri)] => Err(format!("it names {:?}, not {expected}", uri.as_str())),
        names => Err(format!("it has {} names, not one SPIFFE URI", names.len())),
    }
}

fn check_key(der: &CertificateSigningRequestDer<'_>) -> Result<(), String> {
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| format!("it does not parse: {error}"))?;
    if !rest.is_empty() {
        return Err("data follows it".to_owned());
    }
    if is_p256(&request.certification_request_info.subject_pki) {
        Ok(())
    } else {
        Err("its key is not P-256".to_owned())
    }
}

fn is_p256(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve == Some(OID_EC_P256)
        && key.subject_public_key.data.len() == P256_POINT
}

/// An issuer must be a CA that may sign certificates, and `key` must be its key.
pub(super) fn check_issuer(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(), String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("issuer does not parse: {error}"))?;
    if !parsed.is_ca() {
        return Err("the issuer is not a CA certificate".to_owned());
    }
    let may_sign = parsed
        .key_usage()
        .map_err(|error| error.to_string())?
        .is_none_or(|usage| usage.value.key_cert_sign());
    if !may_sign {
        return Err("the issuer's key usage does not allow signing certificates".to_owned());
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("the key is not the issuer's".to_owned());
    }
    Ok(())
}
