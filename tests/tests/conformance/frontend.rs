//! Clients that have to say who they are (`spec.tls.frontend`).

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use crate::bed::Bed;
use crate::client::{Shown, ask_tls, get};
use crate::manifests::{authority, certificate, http_route, object, to};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A client's certificate, as the suite makes them: without any extended use.
    fn client(&self) -> Shown {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Some((certificate.der().clone(), key))
    }
}

/// 443 asks for what `default` vouches for, 8443 for what `port` does.
fn manifest(mode: &str, default: &Authority, port: &Authority) -> String {
    let validation = |name: &str| {
        format!(
            "{{validation: {{{mode}caCertificateRefs: [{{group: \"\", kind: ConfigMap, \
             name: {name}}}]}}}}"
        )
    };
    let listener = |name: &str, port: u16| {
        format!(
            "{{name: {name}, port: {port}, protocol: HTTPS, \
             tls: {{certificateRefs: [{{name: cert}}]}}}}"
        )
    };
    let spec = format!(
        "{{gatewayClassName: culvert, tls: {{frontend: {{default: {}, \
         perPort: [{{port: 8443, tls: {}}}]}}}}, listeners: [{}, {}]}}",
        validation("default"),
        validation("port"),
        listener("one", 443),
        listener("two", 8443)
    );
    object("Gateway", "g", &spec)
        + &http_route("r", "g", &format!("rules: [{{{}}}]", to("infra-v1")))
        + &certificate("cert", &["example.org"])
        + &authority("default", &default.0.pem())
        + &authority("port", &port.0.pem())
}

/// Whether a client gets in at a port.
async fn gets_in(bed: &Bed, port: u16, shown: &Shown) -> bool {
    let at = bed.tcp("g", port).await;
    let answer = ask_tls(at, "example.org", shown, &get("example.org", "/")).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_frontend_client_certificate_validation() {
    let (default, port) = (Authority::new(), Authority::new());
    let bed = Bed::start(&["g"], &manifest("", &default, &port)).await;
    let (of_default, of_port) = (default.client(), port.client());
    assert!(gets_in(&bed, 443, &of_default).await);
    assert!(!gets_in(&bed, 443, &of_port).await);
    assert!(!gets_in(&bed, 443, &None).await);
    assert!(gets_in(&bed, 8443, &of_port).await);
    assert!(!gets_in(&bed, 8443, &of_default).await);
    assert!(!gets_in(&bed, 8443, &None).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_frontend_client_certificate_validation_insecure_fallback() {
    let (default, port) = (Authority::new(), Authority::new());
    let mode = "mode: AllowInsecureFallback, ";
    let bed = Bed::start(&["g"], &manifest(mode, &default, &port)).await;
    let (of_default, of_port) = (default.client(), port.client());
    for at in [443, 8443] {
        for shown in [&of_default, &of_port, &None] {
            assert!(gets_in(&bed, at, shown).await, "{at}");
        }
    }
    let status = bed.status("Gateway", "g").to_string();
    assert!(
        status.contains("InsecureFrontendValidationMode"),
        "{status}"
    );
}

/// A port without an authority is closed, and no other one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_invalid_frontend_client_certificate_validation() {
    let (default, port) = (Authority::new(), Authority::new());
    let manifest = manifest("", &default, &port).replace(
        "metadata: {name: default, namespace: infra}\ndata",
        "metadata: {name: elsewhere, namespace: infra}\ndata",
    );
    let bed = Bed::start(&["g"], &manifest).await;
    assert!(gets_in(&bed, 8443, &port.client()).await);
    let status = bed.status("Gateway", "g").to_string();
    for reason in ["NoValidCACertificate", "InvalidCACertificateRef"] {
        assert!(status.contains(reason), "{status}");
    }
}
