//! Clients whose certificates a listener verifies, before policies and backends.

use std::sync::Arc;
use std::time::Duration;

use agent_identity::Certificates;
use agent_model::access::{Access, AccessRule, PolicyTarget, Source};
use agent_model::gateway::{
    ClientValidation, ClientValidationMode, Listener, ListenerTls, Protocol,
};
use agent_model::{Action, Identity, StringMatch};

use super::authority::Authority;
use super::backend::Backend;
use super::bed::{Bed, listener, route, rule};
use super::tls::{ask, client, on};
use crate::access::RequestPolicies;
use crate::{Config, Mesh};

const WEB: &str = "cluster.local/ns/shop/sa/web";
const PARTNER: &str = "partner.example/ns/shop/sa/web";

/// A listener that takes what one of these has signed.
fn verifying(port: u16, server: &Authority, clients: &[&Authority]) -> Listener {
    let roots: String = clients
        .iter()
        .map(|authority| authority.root.pem())
        .collect();
    Listener {
        protocol: Protocol::Https,
        tls: Some(ListenerTls::Terminate {
            certificates: vec![server.certificate(&["a.org"])],
            client_validation: Some(ClientValidation {
                roots: roots.into(),
                mode: ClientValidationMode::AllowValidOnly,
            }),
        }),
        ..listener("a", port)
    }
}

fn allow(source: Source) -> Access {
    Access {
        name: "known".into(),
        namespace: "ns".into(),
        targets: vec![PolicyTarget::Gateway("ns/edge".into())],
        action: Action::Allow,
        rules: vec![AccessRule {
            from: vec![source],
            ..AccessRule::default()
        }],
        dry_run: false,
    }
}

fn principals(names: &[&str]) -> Source {
    let names = names.iter().map(|name| StringMatch::Exact((*name).into()));
    Source {
        principals: names.collect(),
        ..Source::default()
    }
}

/// Names of the mesh are told by the mesh's authority alone, whatever authority a listener has.
#[tokio::test]
async fn an_authority_of_a_listener_makes_nobody_of_the_mesh() {
    let [server, mesh, partner] = [(); 3].map(|()| Authority::new());
    let runtime = tokio::runtime::Handle::current();
    let certificates =
        Certificates::new(Arc::new(mesh.of_mesh()), runtime, Duration::from_secs(3600));
    let of_gateway = Mesh {
        certificates,
        identity: Identity::new("cluster.local", "ns", "edge").unwrap(),
    };
    let config = Config {
        tells_certified: true,
        ..Config::default()
    };
    let backend = Backend::start("one").await;
    let mut bed = Bed::with(&config, Some(&of_gateway));
    bed.service("one", &[&backend]);
    let listeners = || vec![verifying(bed.address.port(), &server, &[&mesh, &partner])];
    let routes = [on("a", route(vec![rule("/", "one")]))];
    let shows = |issuer: &Authority, name: &str| {
        let uri = format!("spiffe://{name}");
        client(&server, "http/1.1", Some(issuer.issue(&[&uri])))
    };
    let proved = shows(&mesh, WEB);
    let forged = shows(&partner, WEB);
    let foreign = shows(&partner, PARTNER);

    assert_eq!(bed.apply_with(listeners(), &routes), []);
    for (client, told) in [
        (&proved, Some(WEB)),
        (&forged, None),
        (&foreign, Some(PARTNER)),
    ] {
        assert_eq!(
            ask(&bed, client, "a.org", "a.org").await.unwrap().status(),
            200
        );
        let told =
            told.map(|name| format!("By=spiffe://cluster.local/ns/ns/sa/edge;URI=spiffe://{name}"));
        let seen = backend
            .last()
            .headers
            .get("x-forwarded-client-cert")
            .cloned();
        assert_eq!(
            seen.as_ref().map(|seen| seen.to_str().unwrap()),
            told.as_deref()
        );
    }

    let of_shop = Source {
        namespaces: vec![StringMatch::Exact("shop".into())],
        ..Source::default()
    };
    for (source, expected) in [
        (principals(&[WEB]), [200, 403, 403]),
        (principals(&[PARTNER]), [403, 403, 200]),
        (of_shop, [200, 403, 403]),
    ] {
        let policy = allow(source.clone());
        let policies = RequestPolicies {
            access: vec![&policy],
            ..RequestPolicies::default()
        };
        assert_eq!(bed.apply_guarded(listeners(), &routes, &policies), []);
        for (client, status) in [&proved, &forged, &foreign].into_iter().zip(expected) {
            let answer = ask(&bed, client, "a.org", "a.org").await.unwrap();
            assert_eq!(answer.status(), status, "{source:?}");
        }
    }
}
