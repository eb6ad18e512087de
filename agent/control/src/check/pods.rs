//! The pods of a namespace by their labels, so that what a selector costs is what it selects: a
//! large cluster has many of both.

use std::collections::HashMap;

use crate::source::kubernetes::{Labels, Pod};

/// The pods that are not over.
#[derive(Debug)]
pub(crate) struct Pods<'a> {
    all: Vec<Seen<'a>>,
    /// Places in `all` by one label.
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
}

/// A pod and what was decided on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) pod: &'a Pod,
    /// An agent is to capture it.
    pub(crate) is_wanted: bool,
    /// It has an identity to show: by us, by another mesh of the kind, or by itself.
    pub(crate) is_meshed: bool,
}

impl<'a> Pods<'a> {
    pub(super) fn new(all: Vec<Seen<'a>>) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, seen) in all.iter().enumerate() {
            for (key, value) in &seen.pod.metadata.labels {
                let places = by_label.entry((key.as_str(), value.as_str()));
                places.or_default().push(place);
            }
        }
        Self { all, by_label }
    }

    pub(crate) fn all(&self) -> &[Seen<'a>] {
        &self.all
    }

    /// Those with all of these labels.
    pub(crate) fn with<'s>(&'s self, wanted: &'s Labels) -> impl Iterator<Item = &'s Seen<'a>> {
        let fewest = wanted
            .iter()
            .map(|(key, value)| self.places(key, value))
            .min_by_key(|places| places.len());
        // Whoever wants nothing gets all.
        let all = if fewest.is_none() { &self.all[..] } else { &[] };
        let found = fewest.unwrap_or_default().iter();
        let found = found.filter_map(|place| self.all.get(*place));
        let labels = |seen: &&Seen<'_>| has(&seen.pod.metadata.labels, wanted);
        found.chain(all).filter(labels)
    }

    fn places<'s>(&'s self, key: &'s str, value: &'s str) -> &'s [usize] {
        let places = self.by_label.get(&(key, value));
        places.map_or(&[], Vec::as_slice)
    }
}

/// True when all of the `wanted` labels are there.
pub(super) fn has(labels: &Labels, wanted: &Labels) -> bool {
    let mut wanted = wanted.iter();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> impl Strategy<Value = Labels> {
        proptest::collection::btree_map("[ab]", "[xy]", 0..3)
    }

    proptest! {
        #[test]
        fn a_selector_finds_what_a_look_at_each_finds(
            of_pods in proptest::collection::vec(labels(), 0..8),
            wanted in labels(),
        ) {
            let pods = of_pods.into_iter().map(|labels| {
                let mut pod = Pod::default();
                pod.metadata.labels = labels;
                pod
            });
            let pods: Vec<Pod> = pods.collect();
            let all = pods.iter().map(|pod| Seen { pod, is_wanted: true, is_meshed: true });
            let by_label = Pods::new(all.collect());
            let found: Vec<&Pod> = by_label.with(&wanted).map(|seen| seen.pod).collect();
            let each = pods.iter().filter(|pod| has(&pod.metadata.labels, &wanted));
            prop_assert_eq!(found, each.collect::<Vec<_>>());
        }
    }
}
