//! Tokens that were verified, so that a token costs its signature once.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::claims::Token;
use super::key_set::KeySet;

/// Verified tokens, bounded in number and bytes: two generations, of which the older one is
/// forgotten when the younger one is half of the limit. Only what was verified gets in, so that
/// nobody without a signature can push anything out.
#[derive(Debug)]
pub struct Cache {
    young: Generation,
    old: Generation,
    entries: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Fingerprint, Arc<Entry>>,
    bytes: usize,
}

/// SHA-256 of a token.
pub(super) type Fingerprint = [u8; 32];

/// A verified token, and what it was verified with: with other keys or under another rule it is
/// verified again.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) token: Arc<Token>,
    pub(super) keys: Arc<KeySet>,
    pub(super) rule: Fingerprint,
}

impl Cache {
    /// With room for so many tokens, and so many bytes of them.
    pub fn new(entries: usize, bytes: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            entries,
            bytes,
        }
    }

    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&mut self, token: &Fingerprint) -> Option<Arc<Entry>> {
        if let Some(entry) = self.young.entries.get(token) {
            return Some(Arc::clone(entry));
        }
        let entry = self.old.take(token)?;
        self.put(*token, Arc::clone(&entry));
        Some(entry)
    }

    pub(super) fn insert(&mut self, token: Fingerprint, entry: Entry) {
        self.old.take(&token);
        self.young.take(&token);
        self.put(token, Arc::new(entry));
    }

    fn put(&mut self, token: Fingerprint, entry: Arc<Entry>) {
        let bytes = entry.bytes();
        let is_full = self.young.entries.len() >= self.entries / 2
            || self.young.bytes + bytes > self.bytes / 2;
        if is_full {
            self.old = mem::take(&mut self.young);
        }
        if bytes <= self.bytes / 2 && self.entries >= 2 {
            self.young.bytes += bytes;
            self.young.entries.insert(token, entry);
        }
    }
}

impl Default for Cache {
    /// 4,096 tokens or 8 MiB.
    fn default() -> Self {
        Self::new(4096, 8 * 1024 * 1024)
    }
}

impl Generation {
    fn take(&mut self, token: &Fingerprint) -> Option<Arc<Entry>> {
        let entry = self.entries.remove(token)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }
}

impl Entry {
    /// About what it takes.
    fn bytes(&self) -> usize {
        256 + self.token.payload().len() + self.token.claims.bytes()
    }
}

pub(super) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest(&SHA256, bytes).as_ref());
    fingerprint
}
