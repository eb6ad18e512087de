//! RequestPolicies before requests, from the client to the backend.

use std::time::Duration;

use agent_model::access::{
    Access, AccessRule, Condition, Operation, PathMatch, PolicyTarget, TextAttribute,
};
use agent_model::authentication::{Authentication, ClaimToHeader, KeySource};
use agent_model::gateway::{NamedMatch, ValueMatch};
use agent_model::{Action, PolicyKey, Reason, StringMatch};
use agent_net::drain;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::backend::Backend;
use super::bed::{Bed, listener, route, rule, whole};
use super::issuer::{Issuer, policy};
use crate::Config;
use crate::access::RequestPolicies;
use crate::keys::{self, Keys, Limits};

fn gateway() -> PolicyTarget {
    PolicyTarget::Gateway("ns/edge".into())
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.to_owned())]
}

fn access(name: &str, action: Action, rule: AccessRule) -> Access {
    Access {
        name: name.into(),
        namespace: "ns".into(),
        targets: vec![gateway()],
        action,
        rules: vec![rule],
        dry_run: false,
    }
}

/// ALLOW GET and POST below `/shop`.
fn allow_shop() -> Access {
    let to = Operation {
        methods: [exact("GET"), exact("POST")].concat(),
        paths: vec![PathMatch::Text(StringMatch::Prefix("/shop/".into()))],
        ..Operation::default()
    };
    let rule = AccessRule {
        to: vec![to],
        ..AccessRule::default()
    };
    access("shop", Action::Allow, rule)
}

/// DENY whoever says that it is a robot.
fn deny_robots() -> Access {
    let is_robot = Condition::Text {
        attribute: TextAttribute::Header("x-robot".into()),
        values: exact("yes"),
        not_values: Vec::new(),
    };
    let rule = AccessRule {
        when: vec![is_robot],
        ..AccessRule::default()
    };
    access("robots", Action::Deny, rule)
}

fn guarded(bed: &Bed, access: &[&Access], tokens: &[&Authentication]) {
    let policies = RequestPolicies {
        access: access.to_vec(),
        authentications: tokens.to_vec(),
        unreadable: Vec::new(),
    };
    let listeners = vec![listener("http", bed.address.port())];
    let faults = bed.apply_guarded(listeners, &[route(vec![rule("/", "one")])], &policies);
    assert_eq!(faults, []);
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    request = request.header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

async fn ask(bed: &Bed, method: &str, target: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    bed.ask(request(method, target, headers)).await
}

/// A gateway with one service.
async fn bed(config: &Config) -> (Bed, Backend) {
    let backend = Backend::start("one").await;
    let mut bed = Bed::with(config, None);
    bed.service("one", &[&backend]);
    (bed, backend)
}

#[tokio::test]
async fn allow_by_method_and_path_deny_by_header() {
    let (bed, _backend) = bed(&Config::default()).await;
    guarded(&bed, &[&allow_shop(), &deny_robots()], &[]);
    let robot = [("x-robot", "yes")];
    for (method, target, headers, status, reason) in [
        ("GET", "/shop/cart", &[][..], 200, Reason::Ok),
        ("POST", "/shop/cart", &[], 200, Reason::Ok),
        ("GET", "/shop/cart", &robot, 403, Reason::PolicyDenied),
        ("DELETE", "/shop/cart", &[], 403, Reason::PolicyNotAllowed),
        ("GET", "/admin", &[], 403, Reason::PolicyNotAllowed),
        // What is judged is what is sent (F-79).
        ("GET", "/shop/../admin", &[], 403, Reason::PolicyNotAllowed),
        (
            "GET",
            "/shop/%2e%2e/admin",
            &[],
            403,
            Reason::PolicyNotAllowed,
        ),
        ("GET", "//shop/cart", &[], 200, Reason::Ok),
    ] {
        let before = bed.records(0).await.len();
        let response = ask(&bed, method, target, headers).await;
        assert_eq!(response.status(), status, "{method} {target} {headers:?}");
        let record = bed.records(before + 1).await.pop().unwrap();
        assert_eq!(
            record.reason, reason,
            "{method} {target}: {}",
            record.detail
        );
    }
}

#[tokio::test]
async fn f_81_tokens_accepted_expired_forged() {
    let (bed, backend) = bed(&Config {
        tells_reasons: true,
        ..Config::default()
    })
    .await;
    let issuer = Issuer::new("k");
    let tokens = issuer.policy(gateway());
    guarded(&bed, &[], &[&tokens]);
    let good = format!("Bearer {}", issuer.token(60, ""));
    let accepted = ask(&bed, "GET", "/", &[("authorization", &good)]).await;
    assert_eq!(accepted.status(), 200);
    assert!(!backend.last().headers.contains_key("authorization"));
    assert_eq!(
        ask(&bed, "GET", "/", &[]).await.status(),
        200,
        "no token is no bad token"
    );

    let expired = format!("Bearer {}", issuer.token(-3600, ""));
    let forged = format!("Bearer {}", Issuer::new("k").token(60, ""));
    for bad in [&expired, &forged] {
        let refused = ask(&bed, "GET", "/", &[("authorization", bad)]).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let challenge = refused.headers().get("www-authenticate").unwrap();
        assert_eq!(challenge, "Bearer error=\"invalid_token\"");
        assert_eq!(
            refused.headers().get("x-culvert-reason").unwrap(),
            "token-invalid"
        );
        assert_eq!(
            refused.body(),
            "Unauthorized\n",
            "nothing of the why is told"
        );
    }
    let twice = [("authorization", &*good), ("authorization", &*good)];
    assert_eq!(ask(&bed, "GET", "/", &twice).await.status(), 401);

    // A token in the query is gone from it where it is not forwarded.
    let target = format!("/?a=1&access_token={}&b=2", issuer.token(60, ""));
    assert_eq!(ask(&bed, "GET", &target, &[]).await.status(), 200);
    assert_eq!(backend.last().target, "/?a=1&b=2");
}

/// Headers that hold claims are the gateway's word: to rules, to policies and to the backend.
#[tokio::test]
async fn nobody_is_sent_elsewhere_by_a_claim_that_he_only_says() {
    let (mut bed, everybody) = bed(&Config::default()).await;
    let admins = Backend::start("two").await;
    bed.service("two", &[&admins]);
    let issuer = Issuer::new("k");
    let mut tokens = issuer.policy(gateway());
    tokens.rules[0].output_claim_to_headers = vec![ClaimToHeader {
        header: "x-role".to_owned(),
        claim: vec!["role".to_owned()],
    }];
    let mut for_admins = rule("/", "two");
    for_admins.matches[0].headers = vec![NamedMatch {
        name: "x-role".into(),
        value: ValueMatch::Exact("admin".into()),
    }];
    let policies = RequestPolicies {
        authentications: vec![&tokens],
        ..RequestPolicies::default()
    };
    let listeners = vec![listener("http", bed.address.port())];
    let routes = [route(vec![rule("/", "one"), for_admins])];
    assert_eq!(bed.apply_guarded(listeners, &routes, &policies), []);
    let bearer = |role: &str| {
        let claims = format!(r#","role":"{role}""#);
        format!("Bearer {}", issuer.token(60, &claims))
    };
    let (user, admin) = (bearer("user"), bearer("admin"));
    for (headers, is_admin) in [
        (&[][..], false),
        (&[("x-role", "admin")], false),
        (&[("authorization", &*user), ("x-role", "admin")], false),
        (&[("authorization", &*user), ("x_role", "admin")], false),
        (&[("authorization", &*admin)], true),
    ] {
        let seen = [everybody.seen().len(), admins.seen().len()];
        assert_eq!(ask(&bed, "GET", "/", headers).await.status(), 200);
        let now = [everybody.seen().len(), admins.seen().len()];
        let expected = [
            seen[0] + usize::from(!is_admin),
            seen[1] + usize::from(is_admin),
        ];
        assert_eq!(now, expected, "{headers:?}");
        if !is_admin {
            let got = everybody.last().headers;
            assert_ne!(
                got.get("x-role").map(|role| role.as_bytes()),
                Some(&b"admin"[..])
            );
            assert!(!got.contains_key("x_role"));
        }
    }
}

/// A token that is not sent on still chooses the rule, with and without headers of claims.
#[tokio::test]
async fn a_rule_can_ask_for_a_header_that_the_token_is_taken_out_of() {
    for claims in [vec![], vec!["role"]] {
        let (mut bed, anonymous) = bed(&Config::default()).await;
        let known = Backend::start("two").await;
        bed.service("two", &[&known]);
        let issuer = Issuer::new("k");
        let mut tokens = issuer.policy(gateway());
        let to_headers = claims.iter().map(|claim| ClaimToHeader {
            header: format!("x-{claim}"),
            claim: vec![(*claim).to_owned()],
        });
        tokens.rules[0].output_claim_to_headers = to_headers.collect();
        let mut with_token = rule("/", "two");
        with_token.matches[0].headers = vec![NamedMatch {
            name: "authorization".into(),
            value: ValueMatch::Regex("Bearer .+".into()),
        }];
        let policies = RequestPolicies {
            authentications: vec![&tokens],
            ..RequestPolicies::default()
        };
        let listeners = vec![listener("http", bed.address.port())];
        let routes = [route(vec![rule("/", "one"), with_token])];
        assert_eq!(bed.apply_guarded(listeners, &routes, &policies), []);
        let token = format!("Bearer {}", issuer.token(60, ""));
        assert_eq!(ask(&bed, "GET", "/", &[]).await.status(), 200);
        let headers = [("authorization", &*token)];
        assert_eq!(ask(&bed, "GET", "/", &headers).await.status(), 200);
        assert_eq!([anonymous.seen().len(), known.seen().len()], [1, 1]);
        assert!(!known.last().headers.contains_key("authorization"));
    }
}

#[tokio::test]
async fn grpc_is_refused_in_its_own_words() {
    let (bed, _backend) = bed(&Config::default()).await;
    let issuer = Issuer::new("k");
    let tokens = issuer.policy(gateway());
    guarded(&bed, &[&deny_robots()], &[&tokens]);
    let grpc = ("content-type", "application/grpc");
    let forged = format!("Bearer {}", Issuer::new("k").token(60, ""));
    for (header, code) in [
        (("authorization", &*forged), "16"),
        (("x-robot", "yes"), "7"),
    ] {
        let mut client = bed.http2().await;
        let mut request = request("POST", "http://shop.example/a.B/C", &[grpc, header]);
        request.headers_mut().remove("host");
        let response = whole(client.send_request(request).await.unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers().get("grpc-status").unwrap(), code);
        assert!(response.body().is_empty(), "trailers only");
    }
}

#[tokio::test]
async fn trials_are_recorded_and_let_pass() {
    let (bed, _backend) = bed(&Config::default()).await;
    let trial = Access {
        dry_run: true,
        ..deny_robots()
    };
    guarded(&bed, &[&trial], &[]);
    assert_eq!(
        ask(&bed, "GET", "/", &[("x-robot", "yes")]).await.status(),
        200
    );
    assert_eq!(ask(&bed, "GET", "/", &[]).await.status(), 200);
    let records = bed.records(2).await;
    let would: Vec<_> = records.iter().map(|r| r.trials[0].would_refuse()).collect();
    assert_eq!(would, [true, false]);
    assert_eq!(records[0].trials[0].policy, PolicyKey::new("ns", "robots"));
}

/// A server of key sets on loopback, which serves what it is told last.
async fn key_server(served: watch::Receiver<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let text = served.borrow().clone();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let length = text.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all((head + &text).as_bytes()).await;
        }
    });
    format!("http://{address}/keys")
}

#[tokio::test]
async fn keys_are_fetched_and_again_when_a_token_names_a_new_one() {
    let keys = Keys::new(agent_policy::jwt::Settings {
        missed_every: Duration::from_millis(1),
        ..Default::default()
    });
    let (_drain, draining) = drain::channel();
    let limits = Limits {
        loopback: true,
        ..Limits::default()
    };
    tokio::spawn(keys::run(keys.clone(), limits, draining));
    let (bed, _backend) = bed(&Config {
        keys: keys.clone(),
        ..Config::default()
    })
    .await;
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let (serve, served) = watch::channel(old.key_set());
    let address = key_server(served).await;
    guarded(
        &bed,
        &[],
        &[&policy(gateway(), KeySource::Remote(address.into()))],
    );
    let status = async |issuer: &Issuer| {
        let token = format!("Bearer {}", issuer.token(60, ""));
        ask(&bed, "GET", "/", &[("authorization", &token)])
            .await
            .status()
    };
    // The first request may come before the keys: it waits for them.
    assert_eq!(status(&old).await, 200);
    assert_eq!(status(&new).await, 401);
    serve.send_replace(new.key_set());
    // An answer that was on its way may still be the old one.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while status(&new).await != 200 {
        assert!(std::time::Instant::now() < deadline, "no new keys");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(
        status(&old).await,
        401,
        "a key that its issuer took back counts no longer"
    );
    assert_eq!(keys.status()[0].failures, 0);
}

#[tokio::test]
async fn f_81_keys_that_never_came_refuse_and_hold_up_nobody() {
    let (bed, _backend) = bed(&Config::default()).await;
    let remote = KeySource::Remote("http://192.0.2.1/keys".into());
    guarded(&bed, &[], &[&policy(gateway(), remote)]);
    let token = format!("Bearer {}", Issuer::new("k").token(60, ""));
    let began = std::time::Instant::now();
    let refused = ask(&bed, "GET", "/", &[("authorization", &token)]).await;
    assert_eq!(refused.status(), 401);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(bed.records(1).await[0].reason, Reason::KeysUnavailable);
}
