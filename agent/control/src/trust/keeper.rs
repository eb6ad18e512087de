//! Keeps the authority in step with the place issuers come from, the acknowledgements of the nodes
//! and the time.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_identity::{Authority, MAX_BUNDLE_BYTES, NewRoot, Revocations, TrustBundle};
use agent_net::drain;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::ledger::{Hashes, Ledger};
use super::origin::Origin;
use super::rotation::{Due, Offer, Rotation, Stage, Terms};
use crate::ControlError;
use crate::nodes::AttachedNodes;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// In a rotation reports are looked at when they come, this long after the first of several.
const GATHER: Duration = Duration::from_millis(200);
/// Nodes named in the status.
const MAX_LISTED: usize = 100;

/// Who has to acknowledge, and who has.
pub(crate) struct Acknowledgements {
    /// The nodes attached here.
    pub(crate) attached: AttachedNodes,
    /// What all replicas know; `None` where there is one replica.
    pub(crate) ledger: Option<Ledger>,
    /// The nodes that run an agent.
    pub(crate) nodes: Box<dyn Fn() -> BTreeSet<Arc<str>> + Send + Sync>,
}

impl Acknowledgements {
    /// For a control plane whose agents are not told of roots: nobody is waited for.
    pub(crate) fn of_nobody() -> Self {
        Self {
            attached: AttachedNodes::default(),
            ledger: None,
            nodes: Box::new(BTreeSet::new),
        }
    }

    /// What every node trusts; `None` when it is not known.
    async fn now(&mut self, leads: bool) -> Option<Hashes> {
        let own = self.attached.trust_hashes();
        match &mut self.ledger {
            Some(ledger) => ledger.exchange(own, &(self.nodes)(), leads).await,
            None => Some(own),
        }
    }
}

/// What the status says about trust. Clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Value>>);

impl Shown {
    /// `source`, `stage`, `bundle` (hash), `revocationLists` (how many), `roots` (each with fingerprint, subject, end of
    /// validity, role), `unacknowledged` (nodes; null when that is not known), `problem`.
    pub(crate) fn json(&self) -> Value {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The authority and what becomes of it.
pub(crate) struct Keeper {
    origin: Origin,
    rotation: Rotation,
    authority: Arc<Authority>,
    published: watch::Sender<TrustBundle>,
    shown: Shown,
    /// Where nodes of this machine read the roots, outside of a cluster.
    root_file: Option<PathBuf>,
    /// Where the issuers' revocation lists are put.
    crl: Option<PathBuf>,
    revocations: Revocations,
    trust_domain: String,
    problem: Option<String>,
}

impl Keeper {
    /// Begins with the offer of `origin`.
    pub(crate) fn new(
        origin: Origin,
        offer: Offer,
        terms: Terms,
        trust_domain: &str,
        root_file: Option<PathBuf>,
    ) -> Result<Self, ControlError> {
        let rotation = Rotation::new(offer, terms, Instant::now());
        let bundle = rotation.bundle();
        if let Some(file) = &root_file {
            write_root(file, bundle.pem())?;
        }
        let authority = Authority::new(Arc::clone(rotation.active()), bundle.clone());
        let keeper = Self {
            origin,
            rotation,
            authority: Arc::new(authority),
            published: watch::Sender::new(bundle),
            shown: Shown::default(),
            root_file,
            crl: None,
            revocations: Revocations::default(),
            trust_domain: trust_domain.to_owned(),
            problem: None,
        };
        keeper.show(Some(&[]));
        Ok(keeper)
    }

    /// Reads the issuers' revocation lists from `crl`, now and whenever they change. An error when
    /// they cannot be read: to begin without them would be to take the revoked back in.
    pub(crate) fn with_crl(mut self, crl: PathBuf) -> Result<Self, ControlError> {
        self.crl = Some(crl);
        self.reread_crl().map_err(ControlError::RevocationList)?;
        self.publish();
        self.show(Some(&[]));
        Ok(self)
    }

    /// What signs.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// What is trusted, now and later.
    pub(crate) fn bundle(&self) -> watch::Receiver<TrustBundle> {
        self.published.subscribe()
    }

    /// For the status.
    pub(crate) fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// Goes on until the drain begins. Only the leader of several replicas writes.
    pub(crate) async fn run(
        mut self,
        mut acknowledgements: Acknowledgements,
        leads: watch::Receiver<bool>,
        mut drain: drain::Watcher,
    ) {
        let mut reports = acknowledgements.attached.changes();
        loop {
            reports.mark_unchanged();
            let leads = *leads.borrow();
            let look = async {
                let nodes = acknowledgements.now(leads).await;
                let now = (Instant::now(), SystemTime::now());
                self.look(nodes.as_ref(), leads, now).await;
            };
            tokio::select! {
                () = look => {}
                () = drain.signalled() => return,
            }
            let reported = async {
                if self.rotation.stage() == Stage::Single || reports.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(GATHER).await;
            };
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = reported => {}
                () = drain.signalled() => return,
            }
        }
    }

    /// One look around: what is offered, what is due, and what follows from it.
    async fn look(
        &mut self,
        nodes: Option<&Hashes>,
        leads: bool,
        (now, wall): (Instant, SystemTime),
    ) {
        let outcome = self.follow(leads, now, wall).await;
        let known = self.rotation.acknowledging(now, wall);
        let acknowledged = nodes.is_some_and(|nodes| behind(nodes, &known).is_empty());
        let outcome = match (outcome, self.rotation.due(acknowledged, now, wall)) {
            (Ok(()), Some(due)) => self.act(due, leads, now, wall).await,
            (outcome, _) => outcome,
        };
        let outcome = match (outcome, leads) {
            (Ok(()), true) => self.origin.remember(&self.rotation.bundle()).await,
            (outcome, _) => outcome,
        };
        let outcome = outcome.and(self.reread_crl());
        self.publish();
        self.note(outcome.err());
        let known = self.rotation.acknowledging(now, wall);
        self.show(nodes.map(|nodes| behind(nodes, &known)).as_deref());
    }

    /// Takes what is offered, and sees to a successor in time.
    async fn follow(&mut self, leads: bool, now: Instant, wall: SystemTime) -> Result<(), String> {
        if let Some(offer) = self.origin.poll(leads).await? {
            let before = self.rotation.stage();
            let trusted = offer.remembered.clone();
            self.rotation.offered(offer, now);
            if !leads {
                self.rotation.follow(&trusted);
            }
            self.say(before);
        }
        if leads && self.origin.makes_roots() && self.rotation.wants_successor(wall) {
            let root = NewRoot::make(&self.trust_domain, wall).map_err(|e| e.to_string())?;
            self.origin.prepare(&root).await?;
            info!(target: "trust", "the root grows old; a successor was made");
        }
        Ok(())
    }

    async fn act(
        &mut self,
        due: Due,
        leads: bool,
        now: Instant,
        wall: SystemTime,
    ) -> Result<(), String> {
        let before = self.rotation.stage();
        match due {
            Due::Switch if self.rotation.next_is_prepared() == Some(true) => {
                // Every replica follows what is written, this one too.
                if leads {
                    self.origin.promote().await?;
                    if let Some(offer) = self.origin.poll(leads).await? {
                        self.rotation.offered(offer, now);
                    }
                }
            }
            Due::Switch => self.rotation.switch(now),
            Due::Withdraw => self.rotation.withdraw(now, wall),
        }
        self.say(before);
        Ok(())
    }

    /// Takes revocation lists that have changed. What cannot be read takes nothing back.
    fn reread_crl(&mut self) -> Result<(), String> {
        let Some(file) = &self.crl else {
            return Ok(());
        };
        let read = read_crl(file)?;
        if read != self.revocations {
            info!(target: "trust", lists = read.len(), "revocation lists changed");
            self.revocations = read;
        }
        Ok(())
    }

    /// Makes signatures and the bundle those of the moment.
    fn publish(&mut self) {
        let signer = self.rotation.active();
        let bundle = self.rotation.bundle().revoking(self.revocations.clone());
        let signs = Arc::ptr_eq(signer, &self.authority.signer());
        if signs && self.authority.bundle() == bundle {
            return;
        }
        self.authority.replace(Arc::clone(signer), bundle.clone());
        if let Some(file) = &self.root_file
            && let Err(error) = write_root(file, bundle.pem())
        {
            error!(target: "trust", %error, "the roots could not be written for the nodes");
        }
        self.published.send_if_modified(|published| {
            let changed = *published != bundle;
            *published = bundle;
            changed
        });
    }

    fn say(&self, before: Stage) {
        let stage = self.rotation.stage();
        if stage != before {
            let roots = self.rotation.bundle().roots().len();
            info!(target: "trust", stage = stage.as_str(), roots, "root rotation");
        }
    }

    /// Says a problem once.
    fn note(&mut self, problem: Option<String>) {
        if self.problem != problem {
            match &problem {
                Some(problem) => warn!(target: "trust", problem, "the issuer stays as it is"),
                None => info!(target: "trust", "the issuer is in order again"),
            }
        }
        self.problem = problem;
    }

    fn show(&self, behind: Option<&[Arc<str>]>) {
        let bundle = self.rotation.bundle();
        let roots = bundle.roots().iter().map(|root| {
            json!({
                "fingerprint": &*root.fingerprint,
                "subject": root.subject,
                "notAfter": unix_seconds(root.not_after),
                "role": self.rotation.role_of(root),
            })
        });
        let value = json!({
            "source": self.origin.name(),
            "stage": self.rotation.stage().as_str(),
            "bundle": bundle.sha256(),
            "revocationLists": self.revocations.len(),
            "roots": roots.collect::<Vec<_>>(),
            "issuerNotAfter": unix_seconds(self.rotation.active().not_after()),
            "unacknowledged": behind.map(|behind| &behind[..behind.len().min(MAX_LISTED)]),
            "unacknowledgedLeftOut": behind.map_or(0, |behind| behind.len().saturating_sub(MAX_LISTED)),
            "problem": self.problem,
        });
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("origin", &self.origin)
            .field("rotation", &self.rotation)
            .finish_non_exhaustive()
    }
}

/// The nodes with an agent that uses none of the bundles that are `known`.
fn behind(nodes: &Hashes, known: &[Arc<str>]) -> Vec<Arc<str>> {
    let is_known = |hash: &String| known.iter().any(|known| **known == **hash);
    let behind = nodes
        .iter()
        .filter(|(_, hashes)| !hashes.iter().all(is_known));
    behind.map(|(node, _)| Arc::clone(node)).collect()
}

fn read_crl(file: &Path) -> Result<Revocations, String> {
    let named = |problem: &dyn fmt::Display| format!("{}: {problem}", file.display());
    let size = fs::metadata(file).map_err(|error| named(&error))?.len();
    if size > MAX_BUNDLE_BYTES as u64 / 2 {
        return Err(named(&format!(
            "larger than {} bytes",
            MAX_BUNDLE_BYTES / 2
        )));
    }
    let text = fs::read_to_string(file).map_err(|error| named(&error))?;
    Revocations::parse(&text).map_err(|problem| named(&problem))
}

/// In one step, so that a node never reads half of it.
fn write_root(file: &Path, roots_pem: &str) -> Result<(), ControlError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| ControlError::File { path, source }
    };
    // The authority writes it too; what is there already is not touched.
    if fs::read_to_string(file).is_ok_and(|present| present == roots_pem) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let draft = file.with_extension("draft");
    fs::write(&draft, roots_pem).map_err(at(&draft))?;
    fs::rename(&draft, file).map_err(at(file))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
