//! PEM texts from the certificate service and from files.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use agent_identity::{Authority, PendingKey};
use agent_model::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};

pub(super) const WORDS: &[&str] = &[
    "-----BEGIN CERTIFICATE-----\n",
    "\n-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----",
    "-----",
    "=",
    "==",
    "\n",
    "\r\n",
    "\0",
    "MII",
    "# comment\n",
];

/// A root of the test's own and its key, PEM.
static ROOT: LazyLock<(String, String)> = LazyLock::new(|| {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("a root can be made");
    (root.pem(), key.serialize_pem())
});

/// Texts are separated by NUL, as in the list that the certificate service answers with. `ROOT`
/// alone stands for a good root.
pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (root, root_key) = &*ROOT;
    let texts: Vec<String> = text
        .split('\0')
        .map(|part| part.replace("ROOT", root))
        .collect();
    let who = Identity::new("cluster.local", "shop", "web").expect("a valid identity");
    let key = PendingKey::generate(&who).expect("a key can be made");
    let csr = key.csr_pem().to_owned();
    // Nobody can have signed a key that was made this moment.
    let now = SystemTime::now();
    assert!(
        key.complete(&texts, now).is_err(),
        "a stranger's certificate was taken"
    );

    let [chain, roots @ ..] = texts.as_slice() else {
        return;
    };
    let roots = roots.first().unwrap_or(chain);
    let Ok(authority) = Authority::from_pem(chain, root_key, roots) else {
        return;
    };
    // The key is the root's, so the issuer is.
    let answer = authority.sign(&csr, &who, Duration::from_secs(60), now);
    let answer = answer.expect("an authority signs");
    assert_eq!(
        answer.last(),
        Some(roots),
        "the roots are passed on as they are"
    );
    assert!(answer.len() >= 2 && answer.len() <= 64 + 2);
    for text in &answer[..answer.len() - 1] {
        assert_eq!(
            text.matches("-----BEGIN CERTIFICATE-----").count(),
            1,
            "{text}"
        );
    }
}
