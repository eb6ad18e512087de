//! Certificate signing requests: what is signed is exactly what was allowed.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use agent_identity::{Authority, spiffe_identity};
use agent_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::choices::Choices;

struct Desk {
    authority: Authority,
    keys: [KeyPair; 3],
}

static DESK: LazyLock<Desk> = LazyLock::new(|| {
    let authority = Authority::in_memory("cluster.local", SystemTime::now());
    let key = |algorithm| KeyPair::generate_for(algorithm).expect("a key can be made");
    Desk {
        authority: authority.expect("an authority can be made"),
        keys: [
            key(&PKCS_ECDSA_P256_SHA256),
            key(&PKCS_ECDSA_P384_SHA384),
            key(&PKCS_ED25519),
        ],
    }
});

/// The first byte says whether the rest is a PEM text or choices of which a request is made.
pub(super) fn run(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else {
        return;
    };
    let allowed = Identity::new("cluster.local", "shop", "web").expect("a valid identity");
    let (text, may_pass) = if form.is_ascii_digit() || *form < b' ' {
        let mut choices = Choices::new(rest);
        match made(&mut choices, &allowed) {
            Some(made) => made,
            None => return,
        }
    } else {
        (String::from_utf8_lossy(bytes).into_owned(), true)
    };
    let (ttl, now) = (Duration::from_secs(60), SystemTime::now());
    let Ok(answer) = DESK.authority.sign(&text, &allowed, ttl, now) else {
        return;
    };
    assert!(may_pass, "signed what was not asked for properly:\n{text}");
    check(&answer[0], &allowed);
}

/// What is signed says nothing that was not allowed.
fn check(pem: &str, allowed: &Identity) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("the answer is PEM");
    assert_eq!(spiffe_identity(&der).as_ref(), Some(allowed));
    let (_, parsed) = X509Certificate::from_der(&der).expect("the answer parses");
    let names = parsed.subject_alternative_name().expect("one extension");
    assert_eq!(names.map(|names| names.value.general_names.len()), Some(1));
    assert!(!parsed.is_ca() && parsed.subject().iter().count() == 0);
}

/// A request as chosen, and whether it may be signed.
fn made(choices: &mut Choices<'_>, allowed: &Identity) -> Option<(String, bool)> {
    let uri = |text: &str| text.try_into().ok().map(SanType::URI);
    let allowed = allowed.to_string();
    let mut params = CertificateParams::default();
    let names = choices.list(4, |choices| match choices.below(8) {
        0..=3 => uri(&allowed),
        4 => uri("spiffe://cluster.local/ns/shop/sa/admin"),
        5 => uri(&format!("{allowed}/")),
        6 => "web.shop.svc".try_into().ok().map(SanType::DnsName),
        _ => Some(SanType::IpAddress([10, 0, 0, 1].into())),
    });
    params.subject_alt_names = names.into_iter().flatten().collect();
    let one_name =
        matches!(&params.subject_alt_names[..], [SanType::URI(only)] if only.as_str() == allowed);
    if choices.flag() {
        // Ignored: the subject of what is signed is always empty.
        params.distinguished_name.push(DnType::CommonName, "admin");
    }
    let asks_ca = choices.flag();
    if asks_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let asks_usage = choices.flag();
    if asks_usage {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    let strange = choices.flag();
    if strange {
        let content = choices.list(16, Choices::byte);
        let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], content);
        params.custom_extensions = vec![extension];
    }
    let key = choices.below(DESK.keys.len());
    let request = params.serialize_request(&DESK.keys[key]).ok()?;
    let may_pass = one_name && key == 0 && !asks_ca;
    Some((request.pem().ok()?, may_pass))
}
