//! The keys of one issuer.

use super::algorithm::Algorithm;
use super::claims::{Json, Members};
use super::key::{Key, KeyFault};
use super::refusal::Refusal;
use super::{MAX_KEY_SET, MAX_KEYS, MAX_TRIES};

/// A JSON Web Key Set. A key that cannot be used is skipped and named, and takes no other with it.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<Skipped>,
}

/// A text that is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`MAX_KEY_SET`].
    #[error("the key set is larger than {MAX_KEY_SET} bytes")]
    TooLong,
    /// Not an object with a list `keys`.
    #[error("this is no key set: {0}")]
    Malformed(&'static str),
}

/// A key that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the set, from 0.
    pub index: usize,
    /// Why.
    pub why: KeyFault,
}

impl KeySet {
    /// Reads a set. One without any usable key is a set too: it refuses every token.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        if json.len() > MAX_KEY_SET {
            return Err(KeySetError::TooLong);
        }
        let set = Members::read(json).map_err(KeySetError::Malformed)?;
        let Some(Json::List(entries)) = set.get("keys") else {
            return Err(KeySetError::Malformed("no list of keys"));
        };
        let mut set = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let key = if set.keys.len() < MAX_KEYS {
                Key::read(entry)
            } else {
                Err(KeyFault::TooMany)
            };
            match key {
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(Skipped { index, why }),
            }
        }
        Ok(set)
    }

    /// Number of keys in use.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when every token would be refused.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that are not used.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Whether one of the keys with this `kid` signed `message`. Keys without a `kid` are tried
    /// where no key has it, and a token without one is tried on every key.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let named = |key: &&Key| kid.is_some() && key.kid.as_deref() == kid;
        let is_named = self.keys.iter().any(|key| named(&key));
        let candidates = self.keys.iter().filter(|key| match kid {
            Some(_) if is_named => named(key),
            Some(_) => key.kid.is_none(),
            None => true,
        });
        let verifiers = candidates.filter_map(|key| key.verifier(algorithm));
        let mut refusal = Refusal::UnknownKey;
        for verifier in verifiers.take(MAX_TRIES) {
            if verifier.verify_sig(message, signature).is_ok() {
                return Ok(());
            }
            refusal = Refusal::Signature;
        }
        Err(refusal)
    }
}
