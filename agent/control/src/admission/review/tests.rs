use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agent_xds::BoundPod;
use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;

fn settings() -> TokenReviews {
    TokenReviews {
        audiences: vec!["culvert".to_owned(), "istio-ca".to_owned()],
        accounts: vec!["culvert-system/culvert-node".parse().unwrap()],
    }
}

/// What the API server says of a good token.
fn good(node: &str) -> TokenReviewStatus {
    let extra = [
        (POD_NAME, "culvert-node-x"),
        (POD_UID, "5e7a"),
        (NODE_NAME, node),
    ];
    let extra = extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["culvert".to_owned()]),
        error: None,
        user: Some(UserInfo {
            username: Some("system:serviceaccount:culvert-system:culvert-node".to_owned()),
            extra: Some(BTreeMap::from(extra)),
            ..UserInfo::default()
        }),
    }
}

#[test]
fn t_node_2_only_a_bound_token_of_the_agents_account_and_audience_names_a_node() {
    let node = |name: &str| Client::Node(name.into());
    assert_eq!(verdict(&good("n1"), &settings()), Ok(node("n1")));
    type Spoil = fn(&mut TokenReviewStatus, &mut UserInfo);
    let cases: [(&str, Spoil); 11] = [
        ("does not know", |status, _| {
            status.authenticated = Some(false)
        }),
        ("does not know", |status, _| status.authenticated = None),
        ("audience", |status, _| status.audiences = None),
        ("audience", |status, _| {
            status.audiences = Some(vec!["https://kubernetes.default.svc".to_owned()]);
        }),
        ("account", |_, user| user.username = None),
        ("account", |_, user| {
            user.username = Some("culvert-node".to_owned())
        }),
        ("account", |_, user| {
            user.username = Some("system:serviceaccount:culvert-system:culvert-node:x".to_owned());
        }),
        ("pod", |_, user| user.extra = None),
        ("pod", |_, user| {
            user.extra.as_mut().unwrap().remove(POD_UID);
        }),
        ("node", |_, user| {
            user.extra.as_mut().unwrap().remove(NODE_NAME);
        }),
        ("node", |_, user| {
            let two = vec!["n1".to_owned(), "n2".to_owned()];
            user.extra
                .as_mut()
                .unwrap()
                .insert(NODE_NAME.to_owned(), two);
        }),
    ];
    for (expected, spoil) in cases {
        let mut status = good("n1");
        let mut user = status.user.take().unwrap();
        spoil(&mut status, &mut user);
        status.user = Some(user);
        let reason = verdict(&status, &settings()).unwrap_err();
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
}

#[test]
fn an_account_of_another_name_is_that_of_a_gateway_and_needs_a_pod_too() {
    let mut status = good("n1");
    let user = status.user.as_mut().unwrap();
    user.username = Some("system:serviceaccount:shop:culvert-node".to_owned());
    user.extra.as_mut().unwrap().remove(NODE_NAME);
    let gateway = Client::Gateway(
        GatewayKey::new("shop", "culvert-node"),
        Some(BoundPod {
            name: "culvert-node-x".into(),
            uid: "5e7a".into(),
        }),
    );
    assert_eq!(verdict(&status, &settings()), Ok(gateway));
    let user = status.user.as_mut().unwrap();
    user.extra.as_mut().unwrap().remove(POD_UID);
    assert!(verdict(&status, &settings()).unwrap_err().contains("pod"));
}

#[tokio::test]
async fn a_gateway_is_admitted_while_there_is_a_gateway_of_its_name() {
    let mut status = good("n1");
    let user = status.user.as_mut().unwrap();
    user.username = Some("system:serviceaccount:shop:edge".to_owned());
    let told = Arc::new(Told {
        answer: Mutex::new(Some(status)),
        ..Told::default()
    });
    let exists = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&exists);
    let is_gateway =
        move |key: &GatewayKey| key.to_string() == "shop/edge" && asked.load(Ordering::Relaxed);
    let reviews = Reviews::with(
        Box::new(Arc::clone(&told)),
        settings(),
        Box::new(is_gateway),
    );
    assert_eq!(reviews.client("t").await, Err(NotAdmitted::Invalid));
    exists.store(true, Ordering::Relaxed);
    assert_eq!(
        reviews.client("t").await.unwrap().to_string(),
        "gateway shop/edge"
    );
    exists.store(false, Ordering::Relaxed);
    assert_eq!(reviews.client("t").await, Err(NotAdmitted::Invalid));
    // Whose it is was asked once.
    assert_eq!(told.asked.load(Ordering::Relaxed), 1);
}

#[test]
fn accounts_are_written_with_a_slash() {
    let account: NodeAccount = "istio-system/ztunnel".parse().unwrap();
    assert_eq!(account.to_string(), "istio-system/ztunnel");
    for wrong in ["", "ztunnel", "/ztunnel", "a/", "a/b/c", "A/b", "a/b:c"] {
        assert!(wrong.parse::<NodeAccount>().is_err(), "{wrong:?}");
    }
}

/// Says what it is told, counts questions.
#[derive(Default)]
struct Told {
    answer: Mutex<Option<TokenReviewStatus>>,
    asked: AtomicUsize,
    delay: Duration,
}

impl Reviewer for Arc<Told> {
    fn review<'a>(&'a self, _token: &'a str, _audiences: &'a [String]) -> Answer<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.delay).await;
            let answer = self.answer.lock().unwrap().clone();
            answer.ok_or_else(|| "connection refused".to_owned())
        })
    }
}

fn reviews(told: Told) -> (Arc<Told>, Reviews) {
    let told = Arc::new(told);
    (
        Arc::clone(&told),
        Reviews::with(Box::new(told), settings(), Box::new(|_| false)),
    )
}

fn answering(node: &str, delay: Duration) -> Told {
    Told {
        answer: Mutex::new(Some(good(node))),
        delay,
        ..Told::default()
    }
}

#[tokio::test(start_paused = true)]
async fn callers_with_one_token_share_one_question_and_its_answer_for_a_minute() {
    let (told, reviews) = reviews(answering("n1", Duration::from_millis(50)));
    let (a, b, c) = tokio::join!(
        reviews.client("t"),
        reviews.client("t"),
        reviews.client("t")
    );
    for node in [a, b, c] {
        assert_eq!(node.unwrap().to_string(), "n1");
    }
    assert_eq!(told.asked.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(59)).await;
    reviews.client("t").await.unwrap();
    assert_eq!(told.asked.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    reviews.client("t").await.unwrap();
    assert_eq!(told.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn without_the_api_server_the_known_stay_known_and_others_come_again() {
    let (told, reviews) = reviews(answering("n1", Duration::ZERO));
    reviews.client("t").await.unwrap();
    *told.answer.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(reviews.client("t").await.unwrap().to_string(), "n1");
    let unknown = reviews.client("other").await;
    assert_eq!(unknown, Err(NotAdmitted::Unavailable));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(reviews.client("t").await, Err(NotAdmitted::Unavailable));
    // An outage is not remembered.
    *told.answer.lock().unwrap() = Some(good("n2"));
    assert_eq!(reviews.client("other").await.unwrap().to_string(), "n2");
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_not_waited_for() {
    let (_, reviews) = reviews(answering("n1", Duration::from_secs(3600)));
    let start = tokio::time::Instant::now();
    assert_eq!(reviews.client("t").await, Err(NotAdmitted::Unavailable));
    assert_eq!(start.elapsed(), TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn t_node_2_a_token_that_ended_is_refused_within_its_minute() {
    let (told, reviews) = reviews(answering("n1", Duration::ZERO));
    reviews.client("t").await.unwrap();
    *told.answer.lock().unwrap() = Some(TokenReviewStatus::default());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(reviews.client("t").await, Err(NotAdmitted::Invalid));
    // A refusal is short: a token that becomes valid (a new account) is admitted soon.
    *told.answer.lock().unwrap() = Some(good("n1"));
    assert_eq!(reviews.client("t").await, Err(NotAdmitted::Invalid));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(reviews.client("t").await.unwrap().to_string(), "n1");
}

#[tokio::test]
async fn an_oversized_token_is_nobodys_and_not_passed_on() {
    let (told, reviews) = reviews(answering("n1", Duration::ZERO));
    let token = "x".repeat(MAX_TOKEN + 1);
    assert_eq!(reviews.client(&token).await, Err(NotAdmitted::Invalid));
    assert_eq!(told.asked.load(Ordering::Relaxed), 0);
}
