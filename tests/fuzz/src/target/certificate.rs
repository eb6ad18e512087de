//! The identity in a certificate's subject alternative names.

use agent_identity::spiffe_identity;
use agent_model::Identity;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(super) fn run(bytes: &[u8]) {
    let Some(identity) = spiffe_identity(&CertificateDer::from(bytes)) else {
        return;
    };
    // Nothing is decoded, trimmed or unescaped on the way from the certificate.
    let uri = identity.to_string();
    let literal = bytes
        .windows(uri.len())
        .any(|window| window == uri.as_bytes());
    assert!(literal, "{uri} is not in the certificate");
    assert_eq!(first_uri(bytes).as_ref(), Some(&identity));
}

/// The first URI that is an identity, of all subject alternative name extensions there are: a
/// certificate with two of them would be read in two ways.
fn first_uri(bytes: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(bytes).ok()?;
    let names = certificate.extensions().iter().filter_map(|extension| {
        match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => Some(names),
            _ => None,
        }
    });
    let names: Vec<_> = names.collect();
    assert_eq!(names.len(), 1, "extensions with names");
    names[0].general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.parse().ok(),
        _ => None,
    })
}
