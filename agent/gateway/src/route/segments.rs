//! Prefixes of paths, by segment.

use std::collections::HashMap;

/// A tree of path segments. A lookup costs one hash per segment that is in the tree, however many
/// prefixes there are.
#[derive(Debug)]
pub(super) struct Segments<V> {
    nodes: Vec<Node<V>>,
}

#[derive(Debug)]
struct Node<V> {
    parent: usize,
    /// Bytes of the path up to here, without a closing `/`.
    length: usize,
    children: HashMap<Box<str>, usize>,
    values: Vec<V>,
}

const ROOT: usize = 0;

impl<V> Segments<V> {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::new(ROOT, 0)],
        }
    }

    /// Adds a value under a prefix, which begins with `/` and does not end with it (or is empty,
    /// and matches every path).
    pub(super) fn add(&mut self, prefix: &str, value: V) {
        let mut at = ROOT;
        for segment in prefix.split('/').skip(1) {
            let length = self.nodes[at].length + 1 + segment.len();
            at = match self.nodes[at].children.get(segment) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::new(at, length));
                    self.nodes[at].children.insert(segment.into(), child);
                    child
                }
            };
        }
        self.nodes[at].values.push(value);
    }

    /// Every list of values, to be put in order.
    pub(super) fn lists(&mut self) -> impl Iterator<Item = &mut Vec<V>> {
        self.nodes.iter_mut().map(|node| &mut node.values)
    }

    /// The values of the prefixes of a path, the longest prefix first, with its length. The empty
    /// prefix is not among them, see [`Self::root`].
    pub(super) fn prefixes(&self, path: &str) -> impl Iterator<Item = (usize, &[V])> {
        let mut at = ROOT;
        for segment in path.split('/').skip(1) {
            let Some(child) = self.nodes[at].children.get(segment) else {
                break;
            };
            at = *child;
        }
        std::iter::from_fn(move || {
            let node = (at != ROOT).then(|| &self.nodes[at])?;
            at = node.parent;
            Some((node.length, node.values.as_slice()))
        })
    }

    /// The values of the empty prefix.
    pub(super) fn root(&self) -> &[V] {
        &self.nodes[ROOT].values
    }
}

impl<V> Node<V> {
    fn new(parent: usize, length: usize) -> Self {
        Self {
            parent,
            length,
            children: HashMap::new(),
            values: Vec::new(),
        }
    }
}
