//! The policies a node holds, indexed by what they apply to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_model::{Authorization, PolicyKey, Scope};

use crate::connection::Target;

/// The policies a node holds. Cloning is one reference count; a change copies the index once
/// while another clone is alive.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    index: Arc<Index>,
}

#[derive(Debug, Clone, Default)]
struct Index {
    by_key: BTreeMap<PolicyKey, Arc<Authorization>>,
    global: BTreeSet<PolicyKey>,
    by_namespace: BTreeMap<Arc<str>, BTreeSet<PolicyKey>>,
    /// Policies that were sent but could not be read, and of which no good version is held.
    unreadable: BTreeSet<PolicyKey>,
}

impl PolicySet {
    /// Adds or replaces a policy.
    pub fn insert(&mut self, policy: &Authorization) {
        let key = policy.key();
        let index = Arc::make_mut(&mut self.index);
        index.remove(&key);
        match policy.scope {
            Scope::Global => {
                index.global.insert(key.clone());
            }
            Scope::Namespace => {
                let namespace = Arc::clone(&policy.namespace);
                index
                    .by_namespace
                    .entry(namespace)
                    .or_default()
                    .insert(key.clone());
            }
            Scope::WorkloadSelector => {}
        }
        index.by_key.insert(key, Arc::new(policy.clone()));
    }

    /// Removes a policy; unknown keys are ignored.
    pub fn remove(&mut self, key: &PolicyKey) {
        Arc::make_mut(&mut self.index).remove(key);
    }

    /// Records that a policy was sent which this node cannot read. The last good version stays in
    /// force; where there is none, the policy's namespace is denied until it is repaired, because
    /// what it meant to refuse is unknown.
    pub fn reject(&mut self, key: &PolicyKey) {
        if !self.index.by_key.contains_key(key) {
            Arc::make_mut(&mut self.index)
                .unreadable
                .insert(key.clone());
        }
    }

    /// A policy by key.
    pub fn get(&self, key: &PolicyKey) -> Option<&Arc<Authorization>> {
        self.index.by_key.get(key)
    }

    /// Every policy, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.index.by_key.values()
    }

    /// Policies that were sent and cannot be read, and of which no good version is held.
    pub fn unreadable(&self) -> impl Iterator<Item = &PolicyKey> {
        self.index.unreadable.iter()
    }

    /// Number of policies held.
    pub fn len(&self) -> usize {
        self.index.by_key.len()
    }

    /// True when no policy is held.
    pub fn is_empty(&self) -> bool {
        self.index.by_key.is_empty()
    }

    /// The policies that apply to `target`: global ones, those of its namespace and those it
    /// lists, each once.
    pub(crate) fn applicable<'a>(
        &'a self,
        target: &'a Target<'_>,
    ) -> impl Iterator<Item = &'a Arc<Authorization>> {
        let of_namespace = self.index.by_namespace.get(target.namespace);
        let by_scope = self
            .index
            .global
            .iter()
            .chain(of_namespace.into_iter().flatten());
        let by_scope = by_scope.filter_map(|key| self.index.by_key.get(key));
        // A policy of wider scope that is listed as well was found by its scope.
        let listed = target
            .policies
            .iter()
            .filter_map(|key| self.index.by_key.get(key));
        let listed = listed.filter(|policy| match policy.scope {
            Scope::Global => false,
            Scope::Namespace => *policy.namespace != *target.namespace,
            Scope::WorkloadSelector => true,
        });
        by_scope.chain(listed)
    }

    /// A policy that is meant for `target` and not held in readable form.
    pub(crate) fn unknown<'a>(&'a self, target: &Target<'a>) -> Option<&'a PolicyKey> {
        let listed = target
            .policies
            .iter()
            .find(|key| !self.index.by_key.contains_key(*key));
        listed.or_else(|| {
            self.index.unreadable.iter().find(|key| {
                key.0
                    .split_once('/')
                    .is_some_and(|(namespace, _)| namespace == target.namespace)
            })
        })
    }
}

impl Index {
    fn remove(&mut self, key: &PolicyKey) {
        self.unreadable.remove(key);
        let Some(policy) = self.by_key.remove(key) else {
            return;
        };
        self.global.remove(key);
        if let Some(keys) = self.by_namespace.get_mut(&policy.namespace) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_namespace.remove(&policy.namespace);
            }
        }
    }
}
