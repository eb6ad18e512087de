//! Pods that are addressed themselves, and services that no route is for, behind a waypoint.

use std::net::SocketAddr;
use std::time::Duration;

use agent_model::access::{Access, AccessRule, Operation, PathMatch, PolicyTarget};
use agent_model::authentication::Authentication;
use agent_model::gateway::traffic::{Limit, LimitBy, RateLimit, TrafficPolicy, TrafficTarget};
use agent_model::{
    Action, AppProtocol, NamespacedHostname, Reason, ServicePort, StringMatch, Workload,
};
use agent_xds::{Apply, Update};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::backend::Backend;
use super::bed::{endpoint, service, whole};
use super::issuer::Issuer;
use super::waypoint::{Site, behind_waypoint, worker};
use crate::access::RequestPolicies;

/// Where the pod is; the waypoint is at 127.0.0.1.
const POD: &str = "127.77.0.6";
const DENIED: (u16, Reason) = (403, Reason::PolicyDenied);
const OK: (u16, Reason) = (200, Reason::Ok);

/// A waypoint in front of the service `one` and of its only pod.
fn site(at: SocketAddr, said: AppProtocol) -> Site {
    let mut site = Site::start(Workload {
        waypoint: behind_waypoint("one").waypoint,
        ..endpoint("one-0", "one", at)
    });
    let mut service = behind_waypoint("one");
    service.ports[0].app_protocol = said;
    let updates = vec![Update::Service(Box::new(service))];
    assert!(site.bed.writer.apply(updates).is_empty());
    site
}

fn guard(site: &Site, access: &[&Access], tokens: &[&Authentication]) {
    let policies = RequestPolicies {
        access: access.to_vec(),
        authentications: tokens.to_vec(),
        unreadable: Vec::new(),
    };
    let faults = site
        .bed
        .apply_guarded(vec![site.listener()], &[], &policies);
    assert_eq!(faults, []);
}

fn gateway() -> PolicyTarget {
    PolicyTarget::Gateway("ns/edge".into())
}

/// DENY of everything below `/admin`.
fn deny_admin(target: PolicyTarget) -> Access {
    let to = Operation {
        paths: vec![PathMatch::Text(StringMatch::Prefix("/admin".into()))],
        ..Operation::default()
    };
    let rule = AccessRule {
        to: vec![to],
        ..AccessRule::default()
    };
    Access {
        name: "admin".into(),
        namespace: "ns".into(),
        targets: vec![target],
        action: Action::Deny,
        rules: vec![rule],
        dry_run: false,
    }
}

/// What became of GETs over one connection, each with these headers.
async fn ask(
    site: &Site,
    authority: &str,
    targets: &[&str],
    headers: &[(&str, &str)],
) -> Vec<(u16, Reason)> {
    let before = site.bed.records(0).await.len();
    let stream = site.open("shop", authority).await.unwrap();
    let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream));
    let (mut send, connection) = handshake.await.unwrap();
    spawn_local(connection);
    let mut answers = Vec::new();
    for target in targets {
        let mut request = Request::get(*target).header("host", "one");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        let answer = whole(send.send_request(request).await.unwrap()).await;
        answers.push(answer.status().as_u16());
    }
    let records = site.bed.records(before + targets.len()).await;
    let reasons = records[before..].iter().map(|record| record.reason);
    answers.into_iter().zip(reasons).collect()
}

#[tokio::test]
async fn requests_to_a_pod_are_judged_one_by_one() {
    worker(async {
        let backend = Backend::start_at(POD, "one").await;
        for said in [AppProtocol::Unknown, AppProtocol::Http1] {
            let site = site(backend.address, said);
            let pod = backend.address.to_string();
            // Attached to the waypoint, or to the service that leads there.
            for target in [gateway(), PolicyTarget::Service(service("one").key())] {
                guard(&site, &[&deny_admin(target)], &[]);
                let answers = ask(&site, &pod, &["/", "/admin/x", "/%61dmin", "/x"], &[]).await;
                assert_eq!(answers, [OK, DENIED, DENIED, OK]);
            }
            let records = site.bed.records(8).await;
            assert_eq!(records[7].endpoint, Some(backend.address));
        }
        // One connection of a client is one to the pod, and is used again.
        assert_eq!(backend.connections(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_pod_has_the_tokens_of_its_services() {
    worker(async {
        let backend = Backend::start_at(POD, "one").await;
        let site = site(backend.address, AppProtocol::Unknown);
        let pod = backend.address.to_string();
        let issuer = Issuer::new("k");
        let of_service = issuer.policy(PolicyTarget::Service(service("one").key()));
        guard(&site, &[], &[&of_service]);
        let good = format!("Bearer {}", issuer.token(60, ""));
        let forged = format!("Bearer {}", Issuer::new("k").token(60, ""));
        let answers = ask(&site, &pod, &["/"], &[("authorization", &good)]).await;
        assert_eq!(answers, [OK]);
        assert!(!backend.last().headers.contains_key("authorization"));
        let answers = ask(&site, &pod, &["/"], &[("authorization", &forged)]).await;
        assert_eq!(answers, [(401, Reason::TokenInvalid)]);
    })
    .await;
}

/// Two services of one pod and port: what either refuses is refused, and two that would change
/// requests are not guessed about.
#[tokio::test]
async fn a_pod_of_two_services_has_the_policies_of_both() {
    worker(async {
        let backend = Backend::start_at(POD, "one").await;
        let mut site = site(backend.address, AppProtocol::Unknown);
        let mut pod = Workload {
            waypoint: behind_waypoint("one").waypoint,
            ..endpoint("one-0", "one", backend.address)
        };
        let other = ServicePort::new(8080, backend.address.port());
        pod.services.insert(service("two").key(), vec![other]);
        let updates = vec![
            Update::Service(Box::new(behind_waypoint("two"))),
            Update::Workload(Box::new(pod)),
        ];
        assert!(site.bed.writer.apply(updates).is_empty());
        let of = |name: &str| PolicyTarget::Service(service(name).key());
        let at = backend.address.to_string();
        let issuer = Issuer::new("k");
        let tokens = issuer.policy(of("one"));
        guard(&site, &[&deny_admin(of("two"))], &[&tokens]);
        let good = format!("Bearer {}", issuer.token(60, ""));
        let bearer = [("authorization", &*good)];
        let answers = ask(&site, &at, &["/", "/admin"], &bearer).await;
        assert_eq!(answers, [OK, DENIED]);
        let mut others = issuer.policy(of("two"));
        others.name = "others".into();
        guard(&site, &[], &[&tokens, &others]);
        let answers = ask(&site, &at, &["/"], &bearer).await;
        assert_eq!(answers, [(403, Reason::PolicyNotAllowed)]);
    })
    .await;
}

#[tokio::test]
async fn what_is_said_to_be_http_is_counted_without_a_policy() {
    worker(async {
        let backend = Backend::start_at(POD, "one").await;
        let site = site(backend.address, AppProtocol::Http1);
        let service = NamespacedHostname::new("ns", "10.96.0.1");
        for authority in [
            backend.address.to_string(),
            format!("{}:80", service.hostname),
        ] {
            assert_eq!(ask(&site, &authority, &["/a", "/b"], &[]).await, [OK, OK]);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_said_not_to_be_http_passes_as_bytes_or_not_at_all() {
    worker(async {
        let listener = TcpListener::bind((POD, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut said = [0; 16];
                let read = stream.read(&mut said).await.unwrap();
                stream.write_all(&said[..read]).await.unwrap();
            }
        });
        let site = site(address, AppProtocol::Tcp);
        for policies in [&[][..], &[&deny_admin(gateway())]] {
            guard(&site, policies, &[]);
            for authority in [address.to_string(), "10.96.0.1:80".to_owned()] {
                let opened = site.open("shop", &authority).await;
                if !policies.is_empty() {
                    assert!(opened.is_err(), "{authority}");
                    continue;
                }
                let mut stream = opened.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
                let mut echoed = [0; 16];
                stream.read_exact(&mut echoed).await.unwrap();
                assert_eq!(&echoed, b"GET / HTTP/1.1\r\n");
            }
        }
        assert_eq!(site.bed.records(0).await, []);
    })
    .await;
}

/// A limit counts for a service that no route is for, as soon as it speaks HTTP.
#[tokio::test]
async fn traffic_policies_hold_without_a_route() {
    worker(async {
        let backend = Backend::start_at(POD, "one").await;
        let site = site(backend.address, AppProtocol::Unknown);
        let limit = Limit {
            requests: 2,
            per: Duration::from_secs(3600),
            burst: 2,
            by: vec![LimitBy::SourceIp],
        };
        let policy = TrafficPolicy {
            namespace: "ns".into(),
            name: "p".into(),
            targets: vec![TrafficTarget::Service {
                service: service("one").key(),
                port: None,
            }],
            rate_limit: Some(RateLimit {
                local: Some(limit),
                global: None,
            }),
            ..TrafficPolicy::default()
        };
        let listeners = vec![site.listener()];
        assert_eq!(site.bed.apply_treated_with(listeners, &[], &[policy]), []);
        let answers = ask(&site, "10.96.0.1:80", &["/", "/", "/"], &[]).await;
        assert_eq!(answers, [OK, OK, (429, Reason::RateLimited)]);
        // It is the service's, not the pod's.
        let answers = ask_bytes(&site, &backend.address.to_string()).await;
        assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
        assert_eq!(site.bed.records(0).await.len(), 3);
    })
    .await;
}

/// The beginning of the answer to a GET that nobody on the way may have looked into.
async fn ask_bytes(site: &Site, authority: &str) -> String {
    let mut stream = site.open("shop", authority).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
