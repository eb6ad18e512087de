//! Candidates against a server that keeps one lease, in paused time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::codegen::Service;

use super::election::CONFIDENCE;
use super::*;

/// The lease's path of an API server: get, create, replace with the version read.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    lease: Option<Value>,
    version: u64,
    /// When something was written last.
    written: Option<Instant>,
    is_down: bool,
    /// Requests are taken and never answered.
    is_silent: bool,
}

impl Server {
    fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    fn holder(&self) -> String {
        let kept = self.kept();
        let holder = kept
            .lease
            .as_ref()
            .map(|lease| &lease["spec"]["holderIdentity"]);
        holder
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }
}

impl Kept {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        let refuse = |code: u16| {
            let reason = match code {
                404 => "NotFound",
                409 => "Conflict",
                _ => "ServiceUnavailable",
            };
            let status = json!({"kind": "Status", "status": "Failure", "code": code,
                "message": "refused", "reason": reason});
            (code, status)
        };
        if self.is_down {
            return refuse(503);
        }
        let Ok(mut sent) = serde_json::from_slice::<Value>(body) else {
            let lease = self.lease.clone();
            return lease.map_or_else(|| refuse(404), |lease| (200, lease));
        };
        let is_current = match (&self.lease, method) {
            (None, &Method::POST) => true,
            (Some(lease), &Method::PUT) => {
                lease["metadata"]["resourceVersion"] == sent["metadata"]["resourceVersion"]
            }
            _ => false,
        };
        if !is_current {
            return refuse(409);
        }
        self.version += 1;
        self.written = Some(Instant::now());
        sent["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(sent.clone());
        (200, sent)
    }
}

impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path();
            assert!(path.starts_with("/apis/coordination.k8s.io/v1/namespaces/mesh/leases"));
            let body = body.collect_bytes().await.unwrap();
            if server.kept().is_silent {
                std::future::pending::<()>().await;
            }
            let (code, value) = server.kept().answer(&parts.method, &body);
            let response = Response::builder().status(code);
            Ok(response
                .body(Body::from(value.to_string().into_bytes()))
                .unwrap())
        })
    }
}

/// A running candidate.
struct Running {
    leads: watch::Receiver<bool>,
    drain: drain::Drain,
    task: JoinHandle<()>,
}

impl Running {
    fn start(server: &Server) -> Self {
        let (candidate, leads) = Candidate::new(server.client(), "mesh");
        let (drain, watcher) = drain::channel();
        Self {
            leads,
            drain,
            task: tokio::spawn(candidate.run(watcher)),
        }
    }

    fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    async fn stop(self) {
        assert!(self.drain.drain(Duration::from_secs(10)).await);
        self.task.await.unwrap();
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_hands_over_when_it_ends() {
    let server = Server::default();
    let first = Running::start(&server);
    pass(1).await;
    let second = Running::start(&server);
    for _ in 0..100 {
        pass(1).await;
        assert!(first.leads() && !second.leads());
    }
    first.stop().await;
    assert_eq!(server.holder(), "", "given back");
    pass(3).await;
    assert!(second.leads());
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_an_api_server_nobody_leads_and_then_somebody_does_again() {
    let server = Server::default();
    let only = Running::start(&server);
    pass(5).await;
    assert!(only.leads());
    server.kept().is_down = true;
    pass(8).await;
    assert!(only.leads(), "nobody else can have taken over");
    pass(8).await;
    assert!(!only.leads());
    server.kept().is_down = false;
    pass(3).await;
    assert!(only.leads(), "the lease is still its own");
    only.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_steps_down_in_time_whatever_it_waits_for() {
    for begins_silent in [true, false] {
        let server = Server::default();
        let only = Running::start(&server);
        pass(5).await;
        server.kept().is_silent = begins_silent;
        server.kept().is_down = true;
        let renewed = server.kept().written.unwrap();
        // Answers are errors at first, and then there are none: the last round is the longest.
        sleep_until(renewed + CONFIDENCE - Duration::from_millis(1)).await;
        assert!(only.leads());
        server.kept().is_silent = true;
        let mut leads = only.leads.clone();
        leads.wait_for(|leads| !leads).await.unwrap();
        let counted = renewed.elapsed();
        assert!(
            counted <= CONFIDENCE + Duration::from_millis(10),
            "{counted:?}"
        );
        only.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_is_followed_after_the_lease_ends() {
    let server = Server::default();
    let first = Running::start(&server);
    pass(1).await;
    let second = Running::start(&server);
    pass(10).await;
    first.task.abort();
    pass(10).await;
    assert!(!second.leads());
    pass(8).await;
    assert!(second.leads());
    second.stop().await;
}
