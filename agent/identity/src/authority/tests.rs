use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use x509_parser::prelude::{FromDer, X509Certificate};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};

use super::signer::{BACKDATE, ROOT_LIFETIME, base_params};
use super::*;
use crate::certificate::PendingKey;
use crate::x509::{facts, parse_pem, spiffe_identity};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

fn authority() -> Authority {
    Authority::in_memory("cluster.local", now()).unwrap()
}

/// A directory of its own for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("culvert-ca-{:032x}", rand::random::<u128>()));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn refusal(csr: &str) -> String {
    match authority().sign(csr, &web(), HOUR, now()) {
        Err(IdentityError::Request(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A request made of anything.
fn csr(edit: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&web().to_string())];
    edit(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}

#[test]
fn the_root_is_made_once_and_kept_private() {
    let scratch = Scratch::new();
    let first = Authority::open(&scratch.0, "cluster.local", now()).unwrap();
    assert_eq!(mode(scratch.0.clone()), 0o700);
    assert_eq!(mode(scratch.0.join("root-key.pem")), 0o600);
    let later = now() + Duration::from_secs(365 * 24 * 3600);
    let second = Authority::open(&scratch.0, "cluster.local", later).unwrap();
    assert_eq!(first.bundle().pem(), second.bundle().pem());
    assert_eq!(
        fs::read_to_string(scratch.0.join("root-cert.pem")).unwrap(),
        first.bundle().pem()
    );
    let root = facts(&parse_pem(first.bundle().pem()).unwrap()[0]).unwrap();
    assert_eq!(root.not_after, now() + ROOT_LIFETIME);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let scratch = Scratch::new();
    Authority::open(&scratch.0, "cluster.local", now()).unwrap();
    let key = scratch.0.join("root-key.pem");
    fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Authority::open(&scratch.0, "cluster.local", now()).is_err());
}

#[test]
fn half_an_authority_is_never_replaced() {
    for missing in ["root-key.pem", "root-cert.pem"] {
        let scratch = Scratch::new();
        Authority::open(&scratch.0, "cluster.local", now()).unwrap();
        fs::remove_file(scratch.0.join(missing)).unwrap();
        assert!(Authority::open(&scratch.0, "cluster.local", now()).is_err());
        assert!(!scratch.0.join(missing).exists());
    }
}

#[test]
fn the_leaf_has_the_form_peers_expect() {
    let key = PendingKey::generate(&web()).unwrap();
    let answer = authority()
        .sign(key.csr_pem(), &web(), HOUR, now())
        .unwrap();
    assert_eq!(answer.len(), 2, "leaf and roots");
    let der = &parse_pem(&answer[0]).unwrap()[0];
    let (_, leaf) = X509Certificate::from_der(der).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    assert_eq!(spiffe_identity(der), Some(web()));
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    assert!(leaf.raw_serial().len() >= 16);
    let facts = facts(der).unwrap();
    assert_eq!(facts.not_before, now() - BACKDATE);
    assert_eq!(facts.not_after, now() + HOUR);
}

#[test]
fn serials_differ() {
    let authority = authority();
    let serial = || {
        let key = PendingKey::generate(&web()).unwrap();
        let answer = authority.sign(key.csr_pem(), &web(), HOUR, now()).unwrap();
        key.complete(&answer, now()).unwrap().serial().to_owned()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn f_21_a_leaf_never_outlives_its_issuer() {
    let authority = authority();
    let near_the_end = now() + ROOT_LIFETIME - HOUR;
    let key = PendingKey::generate(&web()).unwrap();
    let answer = authority
        .sign(key.csr_pem(), &web(), HOUR * 24, near_the_end)
        .unwrap();
    let leaf = facts(&parse_pem(&answer[0]).unwrap()[0]).unwrap();
    assert_eq!(leaf.not_after, now() + ROOT_LIFETIME);
    let after = now() + ROOT_LIFETIME;
    assert!(
        authority
            .sign(
                PendingKey::generate(&web()).unwrap().csr_pem(),
                &web(),
                HOUR,
                after
            )
            .is_err()
    );
}

#[test]
fn f_28_only_the_expected_name_is_signed() {
    let key = KeyPair::generate().unwrap();
    let db = uri("spiffe://cluster.local/ns/shop/sa/db");
    assert!(refusal(&csr(|p| p.subject_alt_names = vec![db.clone()], &key)).contains("db"));
    for names in [
        vec![],
        vec![uri(&web().to_string()), db],
        vec![SanType::DnsName("web.shop".try_into().unwrap())],
        vec![
            uri(&web().to_string()),
            SanType::DnsName("web.shop".try_into().unwrap()),
        ],
    ] {
        assert!(refusal(&csr(|p| p.subject_alt_names = names, &key)).contains("names"));
    }
}

#[test]
fn f_28_a_request_for_a_ca_is_refused() {
    let key = KeyPair::generate().unwrap();
    let request = csr(
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        &key,
    );
    assert!(refusal(&request).contains("CA"));
}

#[test]
fn f_28_only_p256_keys_are_signed() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert!(refusal(&csr(|_| {}, &key)).contains("P-256"));
    }
}

#[test]
fn a_request_not_signed_by_its_key_is_refused() {
    let request = csr(|_| {}, &KeyPair::generate().unwrap());
    // The last line of text is the end of the signature: change one character of it.
    let at = request.find("-----END").unwrap() - 8;
    let other = if request.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    let mut forged = request;
    forged.replace_range(at..=at, other);
    assert!(refusal(&forged).contains("ignature"));
}

#[test]
fn f_28_oversized_and_malformed_requests_are_refused() {
    assert!(refusal(&"x".repeat(MAX_CSR_BYTES + 1)).contains("larger"));
    assert!(refusal("").contains("PEM"));
    assert!(
        refusal("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
            .contains("parse")
    );
}

#[test]
fn an_intermediate_signs_and_is_sent_along() {
    let root_key = KeyPair::generate().unwrap();
    let mut params = base_params(now() - BACKDATE, now() + ROOT_LIFETIME);
    params
        .distinguished_name
        .push(DnType::CommonName, "given root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = CertifiedIssuer::self_signed(params.clone(), root_key).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "given intermediate");
    params.serial_number = Some(SerialNumber::from_slice(&[7]));
    let key = KeyPair::generate().unwrap();
    let intermediate = params.signed_by(&key, &root).unwrap();
    let chain = format!("{}{}", intermediate.pem(), root.pem());
    let authority = Authority::from_pem(&chain, &key.serialize_pem(), &root.pem()).unwrap();

    let pending = PendingKey::generate(&web()).unwrap();
    let answer = authority
        .sign(pending.csr_pem(), &web(), HOUR, now())
        .unwrap();
    assert_eq!(answer.len(), 3);
    assert_eq!(parse_pem(&answer[1]).unwrap()[0], *intermediate.der());
    assert_eq!(answer[2], root.pem());
    let certificate = pending.complete(&answer, now()).unwrap();
    assert_eq!(certificate.identity(), &web());
    // Without the intermediate the leaf does not chain to the root.
    let pending = PendingKey::generate(&web()).unwrap();
    let mut answer = authority
        .sign(pending.csr_pem(), &web(), HOUR, now())
        .unwrap();
    answer.remove(1);
    assert!(pending.complete(&answer, now()).is_err());
}

#[test]
fn an_issuer_must_be_a_ca_with_its_own_key() {
    let key = KeyPair::generate().unwrap();
    let mut params = base_params(now(), now() + HOUR);
    let leaf = params.self_signed(&key).unwrap().pem();
    assert!(Authority::from_pem(&leaf, &key.serialize_pem(), &leaf).is_err());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().pem();
    assert!(Authority::from_pem(&root, &key.serialize_pem(), &root).is_ok());
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert!(Authority::from_pem(&root, &other, &root).is_err());
}

#[test]
fn debug_output_has_no_key() {
    let scratch = Scratch::new();
    let authority = Authority::open(&scratch.0, "cluster.local", now()).unwrap();
    let key = fs::read_to_string(scratch.0.join("root-key.pem")).unwrap();
    let body = key.lines().nth(1).unwrap();
    assert!(!format!("{authority:?}").contains(body));
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        prop_assert!(request::check(&text, &web()).is_err());
    }

    #[test]
    fn mutated_requests_are_signed_only_for_the_expected_name(at in 0usize..400, byte in any::<u8>()) {
        let pending = PendingKey::generate(&web()).unwrap();
        let mut text = pending.csr_pem().as_bytes().to_vec();
        let at = at % text.len();
        text[at] = byte;
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Ok(answer) = authority().sign(&text, &web(), HOUR, now()) {
            prop_assert_eq!(spiffe_identity(&parse_pem(&answer[0]).unwrap()[0]), Some(web()));
        }
    }
}
