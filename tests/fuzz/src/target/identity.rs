//! SPIFFE URIs: one identity has one spelling.

use agent_model::Identity;

pub(super) const WORDS: &[&str] = &[
    "spiffe://",
    "SPIFFE://",
    "/ns/",
    "/sa/",
    "cluster.local",
    "//",
    "/",
    "%2f",
    "%00",
    "\0",
    "..",
    "?",
    "#",
    "@",
    ":80",
    "*",
    "spiffe://cluster.local/ns/shop/sa/web",
];

pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(identity) = text.parse::<Identity>() else {
        return;
    };
    assert_eq!(identity.to_string(), text);
    let parts = [
        identity.trust_domain(),
        identity.namespace(),
        identity.service_account(),
    ];
    let [trust_domain, namespace, account] = parts;
    assert_eq!(
        format!("spiffe://{}", identity.principal()),
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
    );
    assert_eq!(
        Identity::new(trust_domain, namespace, account).as_ref(),
        Ok(&identity)
    );
    let json = serde_json::to_string(&identity).expect("an identity has a JSON form");
    let back = serde_json::from_str::<Identity>(&json);
    assert_eq!(back.expect("its own JSON form is read"), identity);
    for part in parts {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        assert!(!part.is_empty() && part.chars().all(allowed), "{part:?}");
    }
}
