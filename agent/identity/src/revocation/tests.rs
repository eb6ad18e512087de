use std::time::{Duration, SystemTime};

use agent_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::server::danger::ClientCertVerifier;
use time::OffsetDateTime;

use super::*;
use crate::verify::{ClientPeer, ServerPeer};
use crate::{TrustBundle, dummy_server_name};

const WEB: u64 = 1001;
const CACHE: u64 = 1002;
const INTERMEDIATE: u64 = 77;

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca(name: &str, serial: u64, above: Option<&Issuer>) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    match above {
        Some(above) => Issuer::signed_by(params, key, above).unwrap(),
        None => Issuer::self_signed(params, key).unwrap(),
    }
}

pub(crate) fn leaf(issuer: &Issuer, serial: u64) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(serial));
    let uri = web().to_string();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, issuer).unwrap().der().clone()
}

/// The list of `issuer` with `serials` on it, ended a minute ago.
pub(crate) fn list(issuer: &Issuer, serials: &[u64]) -> String {
    let now = SystemTime::now();
    let at = |ago: u64| OffsetDateTime::from(now - Duration::from_secs(ago));
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(3600),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(3600),
        next_update: at(60),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

/// What a server and what a client says to a peer with this chain.
fn verdicts(
    roots: &Issuer,
    lists: &str,
    chain: &[CertificateDer<'static>],
) -> [Result<(), Error>; 2] {
    let bundle = TrustBundle::parse(&roots.pem()).unwrap();
    let bundle = bundle.revoking(Revocations::parse(lists).unwrap());
    // What is told to nodes says the same.
    let (bundle, problems) = TrustBundle::read(bundle.text().as_bytes()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let (leaf, intermediates) = chain.split_first().unwrap();
    let now = UnixTime::now();
    let server = ClientPeer::new(&bundle, "cluster.local", &provider()).unwrap();
    let client = ServerPeer::new(&bundle, vec![web()], &provider());
    let name = dummy_server_name();
    [
        server
            .verify_client_cert(leaf, intermediates, now)
            .map(|_| ()),
        client
            .verify_server_cert(leaf, intermediates, &name, &[], now)
            .map(|_| ()),
    ]
}

fn refused_as(error: CertificateError) -> [Result<(), Error>; 2] {
    [
        Err(Error::InvalidCertificate(error.clone())),
        Err(Error::InvalidCertificate(error)),
    ]
}

const SERVED: [Result<(), Error>; 2] = [Ok(()), Ok(())];

#[test]
fn f_27_who_is_on_the_list_is_refused_at_both_ends() {
    let root = ca("root", 1, None);
    let (web, cache) = (leaf(&root, WEB), leaf(&root, CACHE));
    let (web, cache) = ([web], [cache]);
    assert_eq!(verdicts(&root, "", &web), SERVED);
    let lists = list(&root, &[WEB]);
    let refused = refused_as(CertificateError::Revoked);
    assert_eq!(verdicts(&root, &lists, &web), refused);
    // The list's time has passed; what it says of others holds too.
    assert_eq!(verdicts(&root, &lists, &cache), SERVED);
    let lists = Revocations::parse(&lists).unwrap();
    assert!(lists.revoke(&web));
    assert!(!lists.revoke(&cache));
    assert!(!Revocations::default().revoke(&web));
}

#[test]
fn f_27_a_revoked_intermediate_takes_its_leaves_along() {
    let root = ca("root", 1, None);
    let intermediate = ca("intermediate", INTERMEDIATE, Some(&root));
    let chain = [leaf(&intermediate, WEB), intermediate.der().clone()];
    let served = list(&root, &[]) + &list(&intermediate, &[]);
    assert_eq!(verdicts(&root, &served, &chain), SERVED);
    let revoked = list(&root, &[INTERMEDIATE]) + &list(&intermediate, &[]);
    let refused = refused_as(CertificateError::Revoked);
    assert_eq!(verdicts(&root, &revoked, &chain), refused);
    assert!(Revocations::parse(&revoked).unwrap().revoke(&chain));
}

#[test]
fn f_27_whose_status_is_unknown_is_refused() {
    let (root, other) = (ca("root", 1, None), ca("other", 1, None));
    let chain = [leaf(&root, WEB)];
    let refused = refused_as(CertificateError::UnknownRevocationStatus);
    assert_eq!(verdicts(&root, &list(&other, &[]), &chain), refused);
    // A list that somebody else signed in the issuer's name says nothing.
    let forged = list(&ca("root", 1, None), &[]);
    for verdict in verdicts(&root, &forged, &chain) {
        assert!(crate::peer_revoked(&verdict.unwrap_err()));
    }
}

#[test]
fn f_27_a_list_that_cannot_be_read_is_named() {
    let root = ca("root", 1, None);
    let good = list(&root, &[WEB]);
    let garbled = good.replacen("MII", "!!!", 1).replacen("MIH", "!!!", 1);
    let cut = good.lines().take(2).collect::<Vec<_>>().join("\n");
    for bad in [garbled.as_str(), &cut, "not a list"] {
        assert!(Revocations::parse(bad).is_err(), "{bad}");
    }
    let text = format!("{}{cut}", root.pem());
    let (bundle, problems) = TrustBundle::read(text.as_bytes()).unwrap();
    assert!(bundle.revocations().is_damaged());
    assert_eq!(problems, ["revocation list 1: it has no end"]);
    let many = good.repeat(MAX_LISTS + 1);
    assert!(Revocations::parse(&many).unwrap_err().contains("more than"));
}
