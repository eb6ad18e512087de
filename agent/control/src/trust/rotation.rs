//! How one root follows another without a connection lost: the new one is trusted everywhere
//! before anything is signed with it, and the old one is trusted until nothing signed with it
//! lives. Pure: what happens is a matter of offers, acknowledgements and the time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_identity::{Signer, TrustBundle, TrustedRoot};

/// A root made here is replaced when this part of its life is over.
const RENEW_AT: f64 = 0.8;

/// What the keeper of keys has to say: at the start, and whenever it says something else.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    /// What shall sign.
    pub(crate) active: Arc<Signer>,
    /// What shall sign next; whoever wrote it says when.
    pub(crate) prepared: Option<Arc<Signer>>,
    /// Roots that were trusted before the start.
    pub(crate) remembered: Vec<TrustedRoot>,
}

/// Which part of a rotation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// One issuer, its roots trusted.
    Single,
    /// The next root is trusted beside the present one, which signs.
    Distributing,
    /// The new root signs; the one before is trusted until nothing of it lives.
    Retiring,
}

impl Stage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Distributing => "distributing",
            Self::Retiring => "retiring",
        }
    }
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// [`Rotation::switch`].
    Switch,
    /// [`Rotation::withdraw`].
    Withdraw,
}

/// What signs, what will, and what is trusted.
#[derive(Debug)]
pub(crate) struct Rotation {
    active: Arc<Signer>,
    next: Option<Next>,
    retiring: Vec<Retiring>,
    terms: Terms,
}

/// How long what lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The longest life of a certificate.
    pub(crate) max_ttl: Duration,
    /// A root is trusted for at least this long before it signs: nodes that are not attached read
    /// it from a ConfigMap, which a kubelet renews within two minutes. Twice this long is an old
    /// root trusted after the last certificate of it has ended, for clocks that differ.
    pub(crate) overlap: Duration,
}

impl Terms {
    /// How long after its last signature a root is trusted.
    fn retire_after(self) -> Duration {
        let margin = self.overlap.saturating_mul(2);
        self.max_ttl.saturating_add(margin)
    }
}

#[derive(Debug)]
struct Next {
    signer: Arc<Signer>,
    since: Instant,
    /// Somebody else says when it is its turn.
    is_prepared: bool,
}

#[derive(Debug)]
struct Retiring {
    root: TrustedRoot,
    since: Instant,
}

impl Rotation {
    /// Begins with an offer. Roots remembered from before are trusted for a whole lifetime more:
    /// nobody knows what was signed last.
    pub(crate) fn new(offer: Offer, terms: Terms, now: Instant) -> Self {
        let mut rotation = Self {
            active: offer.active,
            next: None,
            retiring: Vec::new(),
            terms,
        };
        rotation.prepare(offer.prepared, now);
        rotation.retire(&offer.remembered, now);
        rotation
    }

    /// Takes another offer; what it remembers is known here already. An issuer of roots that are
    /// trusted anyway signs at once; another has to wait until its roots are known everywhere.
    pub(crate) fn offered(&mut self, offer: Offer, now: Instant) {
        self.offered_active(offer.active, now);
        self.prepare(offer.prepared, now);
    }

    fn offered_active(&mut self, signer: Arc<Signer>, now: Instant) {
        if signer.is_same(&self.active) {
            // Whatever was to be next without being prepared was taken back.
            if let Some(next) = self.next.take_if(|next| !next.is_prepared) {
                self.retire(next.signer.roots().roots(), now);
            }
            return;
        }
        if let Some(next) = &self.next
            && next.signer.is_same(&signer)
        {
            if next.is_prepared {
                self.switch(now);
            }
            return;
        }
        if self.active.roots().includes(signer.roots()) {
            let before = std::mem::replace(&mut self.active, signer);
            self.retire(before.roots().roots(), now);
            return;
        }
        let next = Next {
            signer,
            since: now,
            is_prepared: false,
        };
        if let Some(other) = self.next.replace(next) {
            self.retire(other.signer.roots().roots(), now);
        }
    }

    fn prepare(&mut self, prepared: Option<Arc<Signer>>, now: Instant) {
        let Some(signer) = prepared else { return };
        let is_known = self
            .next
            .as_ref()
            .is_some_and(|next| next.signer.is_same(&signer));
        if is_known || signer.is_same(&self.active) {
            return;
        }
        let next = Next {
            signer,
            since: now,
            is_prepared: true,
        };
        if let Some(other) = self.next.replace(next) {
            self.retire(other.signer.roots().roots(), now);
        }
    }

    /// Trusts roots for the rest of the lives of what they may have signed.
    fn retire(&mut self, roots: &[TrustedRoot], now: Instant) {
        for root in roots {
            let signs = |signer: &Signer| signer.roots().roots().contains(root);
            let in_use = signs(&self.active)
                || self.next.as_ref().is_some_and(|next| signs(&next.signer))
                || self.retiring.iter().any(|other| other.root == *root);
            if !in_use {
                let root = root.clone();
                self.retiring.push(Retiring { root, since: now });
            }
        }
    }

    /// Of several replicas one decides: of the roots that retire, those it does not trust any more
    /// (it does not name them as `trusted`) are over here too.
    pub(crate) fn follow(&mut self, trusted: &[TrustedRoot]) {
        if !trusted.is_empty() {
            self.retiring
                .retain(|retiring| trusted.contains(&retiring.root));
        }
    }

    /// The hashes by which a node acknowledges: of the bundle of the moment, and of the one that
    /// is left when roots that are over are withdrawn, as another replica may have done already.
    pub(crate) fn acknowledging(&self, now: Instant, wall: SystemTime) -> Vec<Arc<str>> {
        let bundle = self.bundle();
        let over = |root: &TrustedRoot| {
            let mut retiring = self.retiring.iter();
            retiring.any(|other| other.root == *root && self.is_over(other, now, wall))
        };
        let left = bundle.only(|root| !over(root));
        let mut hashes = vec![bundle.sha256().into()];
        hashes.extend(left.map(|left| left.sha256().into()));
        hashes
    }

    /// What may be done: `acknowledged` is true when every node trusts what is trusted now, by
    /// [`Self::acknowledging`].
    pub(crate) fn due(&self, acknowledged: bool, now: Instant, wall: SystemTime) -> Option<Due> {
        if let Some(next) = &self.next {
            let known = acknowledged && elapsed(next.since, now) >= self.terms.overlap;
            // An issuer that has ended signs nothing: waiting for a straggler would stop them all.
            let over = self.active.not_after() <= wall;
            return (known || over).then_some(Due::Switch);
        }
        let is_over = |retiring: &Retiring| self.is_over(retiring, now, wall);
        (acknowledged && self.retiring.iter().any(is_over)).then_some(Due::Withdraw)
    }

    /// The next issuer signs from now on.
    pub(crate) fn switch(&mut self, now: Instant) {
        let Some(next) = self.next.take() else { return };
        let before = std::mem::replace(&mut self.active, next.signer);
        // In use again, maybe.
        let active = Arc::clone(&self.active);
        self.retiring
            .retain(|retiring| !active.roots().roots().contains(&retiring.root));
        self.retire(before.roots().roots(), now);
    }

    /// Roots of which nothing lives any more are trusted no longer.
    pub(crate) fn withdraw(&mut self, now: Instant, wall: SystemTime) {
        let mut retiring = std::mem::take(&mut self.retiring);
        retiring.retain(|retiring| !self.is_over(retiring, now, wall));
        self.retiring = retiring;
    }

    fn is_over(&self, retiring: &Retiring, now: Instant, wall: SystemTime) -> bool {
        elapsed(retiring.since, now) >= self.terms.retire_after() || retiring.root.not_after <= wall
    }

    /// True when the root is due for replacement by age and no rotation is under way.
    pub(crate) fn wants_successor(&self, wall: SystemTime) -> bool {
        let (start, end) = (self.active.not_before(), self.active.not_after());
        let life = end.duration_since(start).unwrap_or_default();
        let aged = wall
            .duration_since(start)
            .is_ok_and(|age| age >= life.mul_f64(RENEW_AT));
        aged && self.stage() == Stage::Single
    }

    /// What signs.
    pub(crate) fn active(&self) -> &Arc<Signer> {
        &self.active
    }

    /// Whether somebody else says when the next one signs; `None` without a next one.
    pub(crate) fn next_is_prepared(&self) -> Option<bool> {
        self.next.as_ref().map(|next| next.is_prepared)
    }

    /// Everything that is trusted, what signs first.
    pub(crate) fn bundle(&self) -> TrustBundle {
        let mut others = Vec::new();
        if let Some(next) = &self.next {
            others.extend_from_slice(next.signer.roots().roots());
        }
        others.extend(self.retiring.iter().map(|retiring| retiring.root.clone()));
        if others.is_empty() {
            // As it was given.
            return self.active.roots().clone();
        }
        self.active.roots().with(&others)
    }

    pub(crate) fn stage(&self) -> Stage {
        match (&self.next, self.retiring.is_empty()) {
            (Some(_), _) => Stage::Distributing,
            (None, false) => Stage::Retiring,
            (None, true) => Stage::Single,
        }
    }

    /// What a root of the bundle is there for, in a word.
    pub(crate) fn role_of(&self, root: &TrustedRoot) -> &'static str {
        if self.active.roots().roots().contains(root) {
            "active"
        } else if self
            .next
            .as_ref()
            .is_some_and(|next| next.signer.roots().roots().contains(root))
        {
            "next"
        } else {
            "retiring"
        }
    }
}

fn elapsed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

#[cfg(test)]
mod tests;
