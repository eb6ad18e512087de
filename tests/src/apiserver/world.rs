//! The state behind the server: kinds, objects, tokens, and a clock that tests can advance.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::failure::Failure;
use super::kinds::{Kind, Kinds};
use super::store::{Key, Object, Store};
use super::tokens::Tokens;

/// Everything a request may read or change.
#[derive(Debug)]
pub(super) struct World {
    pub(super) kinds: Kinds,
    pub(super) store: Store,
    pub(super) tokens: Tokens,
    /// How far the clock is ahead.
    pub(super) ahead: Duration,
    /// Namespaces that are being deleted, and when their content goes.
    pub(super) terminating: Vec<(Instant, String)>,
    /// Watches from an expired version are refused with status 410.
    pub(super) gone_as_status: bool,
    /// PEM of the certificate authority of the server.
    pub(super) root: String,
}

impl World {
    pub(super) fn new(history: usize, root: String, admin: String) -> Self {
        Self {
            kinds: Kinds::built_in(),
            store: Store::new(history),
            tokens: Tokens::new(admin),
            ahead: Duration::ZERO,
            terminating: Vec::new(),
            gone_as_status: false,
            root,
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    /// The time as the API writes it.
    pub(super) fn timestamp(&self) -> String {
        humantime::format_rfc3339_seconds(self.now()).to_string()
    }

    /// The object, or that it is not there.
    pub(super) fn existing(&self, kind: &Kind, key: &Key) -> Result<Object, Failure> {
        let resource = kind.resource();
        self.store
            .get(&resource, key)
            .map(Arc::clone)
            .ok_or_else(|| Failure::not_found(&resource, &key.1))
    }
}
