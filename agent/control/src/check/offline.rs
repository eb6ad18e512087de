//! A check from outside: of manifests, of a cluster, or of manifests laid over a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent_net::drain;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::finding::{Finding, Findings, Found, Place};
use super::templates;
use crate::ControlError;
use crate::cluster::{self, ClusterConfig};
use crate::code::Code;
use crate::collection::Collection;
use crate::source::file::{Texts, others};
use crate::source::gateway_api::{CLASSES, CONTROLLER};
use crate::source::kube::KubeSource;
use crate::source::{Batch, Event, Object, ObjectRef, Problem};
use crate::translate::{Endpoints, Mesh};

/// How long a cluster may take to say everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Objects of kinds that are not read that are remembered.
const MAX_UNREAD: usize = 1_000;

/// What mesh the objects are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Its trust domain.
    pub trust_domain: String,
    /// The namespace whose policies are for all.
    pub root_namespace: String,
}

/// A check.
#[derive(Debug)]
pub struct Check {
    collection: Collection,
    /// Of the cluster, when there is one.
    cluster: Option<Batch>,
    texts: Texts,
    has_files: bool,
    templates: BTreeMap<ObjectRef, Object>,
    unread: Vec<Finding>,
}

impl Check {
    /// Of manifests alone. What they do not hold may be elsewhere.
    pub fn new(scene: &Scene) -> Self {
        Self {
            collection: Collection::new(mesh(scene, Endpoints::Derived)),
            cluster: None,
            texts: Texts::default(),
            has_files: false,
            templates: BTreeMap::new(),
            unread: Vec::new(),
        }
    }

    /// Of what a cluster has now, read once. Fails when the API server does not say everything
    /// within a minute; the error has its words.
    pub async fn of_cluster(scene: &Scene, config: &ClusterConfig) -> Result<Self, ControlError> {
        let batch = read(KubeSource::new(cluster::connect(config).await?)).await?;
        Ok(Self {
            collection: Collection::new(mesh(scene, Endpoints::Given)),
            cluster: Some(batch),
            ..Self::new(scene)
        })
    }

    /// Takes a file: YAML or JSON, any number of documents. Over a cluster's objects those of
    /// files win, and only what concerns them is said.
    pub fn add(&mut self, file: &str, content: &[u8]) {
        self.has_files = true;
        self.texts.put(file, content);
        for (line, value) in others(content) {
            if let Some(pod) = templates::pod_of(&value) {
                self.templates.insert(pod.reference(), pod);
            } else if let Some(object) = templates::unread(&value)
                && self.unread.len() < MAX_UNREAD
            {
                let message = format!("{} is not read by this release", value["apiVersion"]);
                self.unread.push(Finding {
                    severity: Code::KindNotRead.severity(),
                    place: Some(Place {
                        file: file.to_owned(),
                        line: Some(line),
                    }),
                    object: Some(object),
                    field: String::new(),
                    code: Code::KindNotRead,
                    message,
                });
            }
        }
    }

    /// What is wrong.
    pub fn finish(mut self) -> Findings {
        let files = self.texts.settle();
        let of_files: BTreeSet<ObjectRef> = files.events.iter().map(reference).collect();
        let is_limited = self.has_files && self.cluster.is_some();
        let elsewhere = match self.cluster {
            None => default_classes(&of_files),
            Some(_) => Vec::new(),
        };
        let not_counted = elsewhere.len();
        let cluster = self.cluster.take().unwrap_or_default();
        let events = cluster.events.into_iter().chain(files.events);
        let events = events.chain(elsewhere);
        events.for_each(|event| self.collection.apply(event));
        self.collection.settle();
        let mut inventory = self.collection.inventory();
        self.templates
            .values()
            .for_each(|pod| inventory.lay_over(pod));
        let notes = self.collection.notes();
        let mut found: Vec<Found> = notes.iter().map(Found::from).collect();
        found.extend(super::everything(&inventory));
        found.retain(|found| !is_limited || of_files.contains(&found.object));
        let place = |object: &ObjectRef| {
            let (file, line) = self.texts.place(object)?;
            Some(Place {
                file: file.to_owned(),
                line: Some(line),
            })
        };
        let problems = cluster.problems.iter().filter(|_| !is_limited);
        let problems: Vec<&Problem> = problems.chain(&files.problems).collect();
        let objects = if is_limited {
            of_files.len()
        } else {
            let known: usize = self.collection.counts().values().sum();
            known - not_counted
        };
        let findings = found.iter().map(|found| found.shown(place(&found.object)));
        let findings = findings
            .chain(problems.into_iter().map(Finding::from))
            .chain(self.unread.iter().cloned());
        Findings::new(findings.collect(), objects)
    }
}

/// The default classes that the files do not have: a cluster's control plane makes them.
fn default_classes(of_files: &BTreeSet<ObjectRef>) -> Vec<Event> {
    let mut texts = Texts::default();
    for name in CLASSES {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
             metadata: {{name: {name}}}\nspec: {{controllerName: {CONTROLLER}}}\n"
        );
        texts.put(name, text.as_bytes());
    }
    let mut events = texts.settle().events;
    events.retain(|event| !of_files.contains(&reference(event)));
    events
}

fn reference(event: &Event) -> ObjectRef {
    match event {
        Event::Apply(object) => object.reference(),
        Event::Delete(reference) => reference.clone(),
    }
}

/// The first batch of a cluster's watches is all it has.
async fn read(source: KubeSource) -> Result<Batch, ControlError> {
    let progress = source.progress();
    let (sender, mut batches) = mpsc::channel(1);
    let (_drain, watcher) = drain::channel();
    let watching = tokio::spawn(source.run(sender, watcher));
    let first = timeout(PATIENCE, batches.recv()).await;
    watching.abort();
    match first {
        Ok(Some(batch)) => Ok(batch),
        _ => Err(ControlError::Unread(progress.obstacles().join("; "))),
    }
}

fn mesh(scene: &Scene, endpoints: Endpoints) -> Mesh {
    Mesh {
        trust_domain: scene.trust_domain.as_str().into(),
        // A part of names that nobody is shown.
        cluster_id: "checked".into(),
        root_namespace: scene.root_namespace.as_str().into(),
        endpoints,
        waits_for_capture: false,
    }
}
