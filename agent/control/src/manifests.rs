//! What manifests would become, without a control plane around them: for checks before they are
//! applied, and for tests.

use agent_xds::{Catalog, Published};

use crate::Config;
use crate::collection::Collection;
use crate::snapshot::Snapshot;
use crate::source::file::Texts;
use crate::source::{Batch, Problem};
use crate::translate::{Endpoints, Mesh};

/// Manifests given as texts, and what nodes would be offered of them. The rules are those of a
/// running control plane: what cannot be read is a problem, and leaves its last good version in
/// place. No files, no clock, no sockets.
#[derive(Debug)]
pub struct Manifests {
    texts: Texts,
    collection: Collection,
    snapshot: Snapshot,
    published: Published,
    problems: Vec<Problem>,
}

impl Manifests {
    /// None yet. The cluster id and the root namespace are the defaults of [`Config`].
    pub fn new(trust_domain: &str) -> Self {
        let collection = Collection::new(Mesh {
            trust_domain: trust_domain.into(),
            cluster_id: Config::DEFAULT_CLUSTER_ID.into(),
            root_namespace: Config::DEFAULT_ROOT_NAMESPACE.into(),
            endpoints: Endpoints::Derived,
            waits_for_capture: false,
        });
        let (snapshot, published) = Snapshot::new();
        Self {
            texts: Texts::default(),
            collection,
            snapshot,
            published,
            problems: Vec::new(),
        }
    }

    /// Takes the content of a file as new or changed.
    pub fn update(&mut self, file: &str, content: &[u8]) {
        let batch = self.texts.update(file, content);
        self.take(batch);
    }

    /// Forgets a file with everything in it.
    pub fn remove(&mut self, file: &str) {
        let batch = self.texts.remove(file);
        self.take(batch);
    }

    /// A copy of what nodes are offered now.
    pub fn catalog(&self) -> Catalog {
        self.published.read().clone()
    }

    /// Everything that is not in force now, one line each: file, object, field, and why.
    pub fn problems(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }

    /// What the validating webhook of a control plane with these manifests answers to a request's
    /// body; `None` when that is no `AdmissionReview`.
    pub fn admit(&self, review: &[u8]) -> Option<Vec<u8>> {
        crate::webhook::answer(review, self.collection.inventory())
    }

    fn take(&mut self, batch: Batch) {
        for event in batch.events {
            self.collection.apply(event);
        }
        let changed = self.collection.settle();
        self.snapshot.update(&self.collection, &changed);
        self.problems = batch.problems;
    }
}
