//! What reviews said, for a short while. Tokens are kept as their SHA-256 only.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_xds::Client;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::time::Instant;

/// A client stays admitted this long without another question: what a revocation takes at most.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// A refusal counts this long.
const BAD_FOR: Duration = Duration::from_secs(5);
/// Tokens known at a time; when there are more, those whose time ends first are forgotten.
const MAX_KNOWN: usize = 8_192;

type Hash = [u8; 32];

/// The verdict on one token.
#[derive(Debug, Clone)]
pub(super) struct Known {
    client: Option<Client>,
    until: Instant,
}

impl Known {
    /// `client` as of `now`: good for a while, but not beyond the token's own end.
    pub(super) fn new(client: Option<Client>, token: &str, now: SystemTime) -> Self {
        let lasts = match (&client, expiry(token)) {
            (None, _) => BAD_FOR,
            (Some(_), None) => GOOD_FOR,
            (Some(_), Some(end)) => end.duration_since(now).unwrap_or_default().min(GOOD_FOR),
        };
        Self {
            client,
            until: Instant::now() + lasts,
        }
    }
}

/// Verdicts by token. One question at a time is asked about a token, whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct ReviewCache {
    slots: Mutex<HashMap<Hash, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while the question is asked.
    known: tokio::sync::Mutex<Option<Known>>,
}

impl ReviewCache {
    /// The verdict at hand, or else that of `ask`. A question without an answer is not remembered.
    pub(super) async fn get_or<E, F>(
        &self,
        token: &str,
        ask: impl FnOnce() -> F,
    ) -> Result<Option<Client>, E>
    where
        F: Future<Output = Result<Known, E>>,
    {
        let slot = self.slot(token);
        let mut known = slot.known.lock().await;
        if let Some(known) = &*known
            && Instant::now() < known.until
        {
            return Ok(known.client.clone());
        }
        *known = None;
        let fresh = ask().await?;
        let client = fresh.client.clone();
        *known = Some(fresh);
        Ok(client)
    }

    fn slot(&self, token: &str) -> Arc<Slot> {
        let mut hash = Hash::default();
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_KNOWN && !slots.contains_key(&hash) {
            make_room(&mut slots);
        }
        Arc::clone(slots.entry(hash).or_default())
    }
}

/// Forgets what is over, and if that is little, the quarter that is over first. Questions under
/// way go on; their answers are not remembered.
fn make_room(slots: &mut HashMap<Hash, Arc<Slot>>) {
    let now = Instant::now();
    let end = |slot: &Slot| match slot.known.try_lock() {
        Ok(known) => known.as_ref().map_or(now, |known| known.until),
        Err(_) => now + BAD_FOR,
    };
    slots.retain(|_, slot| end(slot) > now);
    if slots.len() < MAX_KNOWN * 3 / 4 {
        return;
    }
    let mut ends: Vec<Instant> = slots.values().map(|slot| end(slot)).collect();
    let (_, quarter, _) = ends.select_nth_unstable(MAX_KNOWN / 4);
    let quarter = *quarter;
    slots.retain(|_, slot| end(slot) > quarter);
}

/// The `exp` of a JWT. The API server has checked the token; this only shortens the cache.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(exp: u64) -> String {
        let payload = URL_SAFE_NO_PAD.encode(format!("{{\"aud\":[\"culvert\"],\"exp\":{exp}}}"));
        format!("e30.{payload}.c2ln")
    }

    #[test]
    fn a_verdict_never_outlives_its_token() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let lasts = |node: Option<&str>, token: &str| {
            let start = Instant::now();
            let known = Known::new(node.map(|node| Client::Node(node.into())), token, now);
            known.until.duration_since(start).as_secs_f64().round()
        };
        assert_eq!(lasts(Some("n1"), &jwt(1_010)), 10.0);
        assert_eq!(lasts(Some("n1"), &jwt(5_000)), 60.0);
        assert_eq!(lasts(Some("n1"), &jwt(900)), 0.0);
        assert_eq!(lasts(Some("n1"), "opaque"), 60.0);
        assert_eq!(lasts(None, &jwt(5_000)), 5.0);
    }

    #[test]
    fn expiry_of_anything_else_is_unknown() {
        for token in ["", "a.b.c", "a.e30.c", "..", "e30"] {
            assert_eq!(expiry(token), None, "{token:?}");
        }
    }

    #[tokio::test]
    async fn what_is_known_is_bounded() {
        let cache = ReviewCache::default();
        for number in 0..MAX_KNOWN * 2 {
            let token = number.to_string();
            let known = Known::new(Some(Client::Node("n1".into())), &token, UNIX_EPOCH);
            let ask = || async { Ok::<_, ()>(known) };
            assert!(cache.get_or(&token, ask).await.unwrap().is_some());
        }
        assert!(cache.slots.lock().unwrap().len() <= MAX_KNOWN);
        // The last ones are still known.
        let never = || async { Err("asked again") };
        let last = (MAX_KNOWN * 2 - 1).to_string();
        assert!(cache.get_or(&last, never).await.is_ok());
    }
}
