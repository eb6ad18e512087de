//! An API server's list and watch without a socket, for the tests of this room: enough of the
//! documented behaviour for a real client to work with, and the ways in which that fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::codegen::Service;

use crate::source::kube::kinds::{NAMED, WATCHED};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    /// `(collection, namespace/name)`, where a collection is a path such as `/api/v1/pods`.
    objects: BTreeMap<(String, String), Value>,
    /// What watches are told: version, collection, event.
    log: Vec<(u64, String, Value)>,
    /// Oldest version a watch may go on from.
    compacted: u64,
    /// Collections that do not exist.
    unknown: BTreeSet<String>,
    /// Refusals to come, by collection.
    refusals: BTreeMap<String, VecDeque<u16>>,
    /// Pages no longer than this.
    page: usize,
    knows_streamed_lists: bool,
    watches: Vec<(Asked, mpsc::UnboundedSender<Value>)>,
    stalled: Vec<(Asked, mpsc::UnboundedSender<Value>)>,
    requests: Vec<String>,
}

/// What a request asks for: a collection, or one object of it as `namespace/name`.
#[derive(Clone, PartialEq)]
struct Asked {
    collection: String,
    only: Option<String>,
}

impl Asked {
    fn new(path: &str, query: &BTreeMap<String, String>) -> Self {
        let Some((root, rest)) = path.split_once("/namespaces/") else {
            return Self {
                collection: path.to_owned(),
                only: None,
            };
        };
        let (namespace, plural) = rest.split_once('/').unwrap();
        let name = query["fieldSelector"].strip_prefix("metadata.name%3D");
        Self {
            collection: format!("{root}/{plural}"),
            only: Some(format!("{namespace}/{}", name.unwrap())),
        }
    }

    fn is(&self, collection: &str, object: &Value) -> bool {
        let part = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let name = format!("{}/{}", part("namespace"), part("name"));
        self.collection == collection && self.only.as_ref().is_none_or(|only| *only == name)
    }
}

impl FakeApi {
    /// One that serves every kind and has nothing.
    pub(crate) fn new() -> Self {
        let api = Self::default();
        api.state().knows_streamed_lists = true;
        api
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        let (collection, name) = state.address(&mut object);
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        object["metadata"]["managedFields"] = json!([{"fieldsV1": {"f:spec": {}}}]);
        let key = (collection.clone(), name);
        let before = state.objects.insert(key, object.clone());
        let kind = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.tell(&collection, kind, object);
    }

    pub(crate) fn delete(&self, mut object: Value) {
        let mut state = self.state();
        let key = state.address(&mut object);
        let Some(mut object) = state.objects.remove(&key) else {
            return;
        };
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.tell(&key.0, "DELETED", object);
    }

    /// Deletes without a word, as the changes of a time without a watch that lasted.
    pub(crate) fn delete_unseen(&self, mut object: Value) {
        let mut state = self.state();
        let key = state.address(&mut object);
        state.objects.remove(&key);
        state.version += 1;
        state.compacted = state.version;
        state.log.clear();
    }

    /// No watch can go on from a list, however fresh.
    pub(crate) fn keeps_no_history(&self) {
        self.state().compacted = u64::MAX;
    }

    /// Ends every watch, as a restart of the server does.
    pub(crate) fn hang_up(&self) {
        self.state().watches.clear();
    }

    /// Every open watch stays open and says nothing any more.
    pub(crate) fn stall(&self) {
        let mut state = self.state();
        let watches = std::mem::take(&mut state.watches);
        state.stalled.extend(watches);
    }

    /// The collection does not exist (any more).
    pub(crate) fn undefine(&self, collection: &str) {
        let mut state = self.state();
        state.unknown.insert(collection.to_owned());
        state.watches.retain(|(of, _)| of.collection != collection);
    }

    pub(crate) fn define(&self, collection: &str) {
        self.state().unknown.remove(collection);
    }

    /// Answers the next requests for a collection with these codes.
    pub(crate) fn refuse(&self, collection: &str, codes: &[u16]) {
        let mut state = self.state();
        let refusals = state.refusals.entry(collection.to_owned()).or_default();
        refusals.extend(codes);
    }

    /// Lists come in pages, and streams of them are not known.
    pub(crate) fn is_old(&self, page: usize) {
        let mut state = self.state();
        state.page = page;
        state.knows_streamed_lists = false;
    }

    /// Paths and queries of the requests so far that ask for a collection.
    pub(crate) fn requests(&self, collection: &str) -> Vec<String> {
        let requests = &self.state().requests;
        let of = |request: &&String| request.split('?').next() == Some(collection);
        requests.iter().filter(of).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Where an object lives: its collection, in the first version that exists (a real server
    /// serves every object in all of them), and its name within.
    fn address(&self, object: &mut Value) -> (String, String) {
        let kind = object["kind"].as_str().unwrap();
        let mut watched = WATCHED.iter().chain(&NAMED);
        let watched = watched.find(|of| format!("{:?}", of.kind) == kind).unwrap();
        let root = if watched.group.is_empty() {
            "api"
        } else {
            "apis"
        };
        let mut collections = watched.versions.iter().map(|version| {
            let resource = watched.resource(version);
            format!("/{root}/{}/{}", resource.api_version, resource.plural)
        });
        let collection = collections.find(|collection| !self.unknown.contains(collection));
        if !watched.kind.is_cluster_scoped() && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("default");
        }
        let part = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let name = format!("{}/{}", part("namespace"), part("name"));
        (collection.unwrap(), name)
    }

    fn tell(&mut self, collection: &str, kind: &str, object: Value) {
        let event = json!({"type": kind, "object": object});
        self.log
            .push((self.version, collection.to_owned(), event.clone()));
        self.watches.retain(|(of, watch)| {
            !of.is(collection, &event["object"]) || watch.send(event.clone()).is_ok()
        });
    }

    fn answer(&mut self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let asked = Asked::new(path, query);
        if self.unknown.contains(&asked.collection) {
            return status(404);
        }
        let refusal = self
            .refusals
            .get_mut(&asked.collection)
            .and_then(VecDeque::pop_front);
        if let Some(code) = refusal {
            return status(code);
        }
        match query.get("watch") {
            Some(_) => self.watch(asked, query),
            None => self.list(&asked, query),
        }
    }

    fn list(&self, of: &Asked, query: &BTreeMap<String, String>) -> Answer {
        let asked = query.get("limit").and_then(|limit| limit.parse().ok());
        let page = asked.unwrap_or(usize::MAX).min(match self.page {
            0 => usize::MAX,
            page => page,
        });
        let start: usize = query
            .get("continue")
            .map_or(0, |start| start.parse().unwrap());
        let all: Vec<&Value> = self.of(of).collect();
        let end = start.saturating_add(page).min(all.len());
        let next = (end < all.len()).then(|| end.to_string());
        // Items of a list do not say what they are.
        let items = all[start..end].iter().map(|object| {
            let mut item = (*object).clone();
            let fields = item.as_object_mut().unwrap();
            fields.remove("kind");
            fields.remove("apiVersion");
            item
        });
        let list = json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string(), "continue": next},
            "items": items.collect::<Vec<_>>(),
        });
        whole(StatusCode::OK, &list)
    }

    fn watch(&mut self, asked: Asked, query: &BTreeMap<String, String>) -> Answer {
        let mut first = Vec::new();
        if query.contains_key("sendInitialEvents") {
            if !self.knows_streamed_lists {
                return status(422);
            }
            let added = self
                .of(&asked)
                .map(|object| json!({"type": "ADDED", "object": object}));
            first.extend(added);
            first.push(json!({"type": "BOOKMARK", "object": {
                "apiVersion": "v1", "kind": "Bookmark", "metadata": {
                    "resourceVersion": self.version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
            }}));
        } else {
            let from: u64 = query["resourceVersion"].parse().unwrap();
            if from < self.compacted {
                let gone = json!({"type": "ERROR", "object": {
                    "kind": "Status", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": "too old resource version",
                }});
                return streamed(vec![gone], None);
            }
            let missed = self
                .log
                .iter()
                .filter(|(version, of, event)| asked.is(of, &event["object"]) && *version > from);
            first.extend(missed.map(|(_, _, event)| event.clone()));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.push((asked, sender));
        streamed(first, Some(receiver))
    }

    fn of(&self, asked: &Asked) -> impl Iterator<Item = &Value> {
        let objects = self.objects.iter();
        objects
            .filter(|((of, _), object)| asked.is(of, object))
            .map(|(_, object)| object)
    }
}

fn status(code: u16) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": "Refused", "message": "refused by the test",
    });
    whole(StatusCode::from_u16(code).unwrap(), &body)
}

fn whole(status: StatusCode, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed();
    Response::builder().status(status).body(body).unwrap()
}

/// One event a line, first those of the past. It ends after them without a `future`.
fn streamed(past: Vec<Value>, future: Option<mpsc::UnboundedReceiver<Value>>) -> Answer {
    let future = stream::unfold(future, async |future| {
        let mut future = future?;
        Some((future.recv().await?, Some(future)))
    });
    let lines = stream::iter(past).chain(future).map(|event| {
        // In this order, as every API server writes it.
        let (kind, object) = (&event["type"], &event["object"]);
        let line = format!("{{\"type\":{kind},\"object\":{object}}}\n");
        Ok(Frame::data(Bytes::from(line)))
    });
    Response::new(BodyExt::boxed(StreamBody::new(Box::pin(lines))))
}

impl Service<Request<Body>> for FakeApi {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut state = self.state();
        let accepts = request.headers().get("accept");
        let accepts = accepts.map_or("", |value| value.to_str().unwrap());
        let form = if accepts.contains("PartialObjectMetadata") {
            "&metadata-only"
        } else {
            ""
        };
        state.requests.push(format!("{}{form}", request.uri()));
        let query = request.uri().query().unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query: BTreeMap<String, String> = pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        ready(Ok(state.answer(request.uri().path(), &query)))
    }
}
