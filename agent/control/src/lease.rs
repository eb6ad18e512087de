//! Of several replicas all serve and one writes: the holder of a Lease.

mod election;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use agent_net::drain;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use election::{Election, Step};

/// Name of the lease, in the root namespace.
pub(crate) const NAME: &str = "culvert-control";
/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(2);
/// Longest round.
const ROUND: Duration = Duration::from_secs(3);
/// Time for giving the lease back at the end.
const RELEASE: Duration = Duration::from_secs(2);

/// A candidate for the lease.
#[derive(Debug)]
pub(crate) struct Candidate {
    leases: Api<Lease>,
    election: Election,
    is_leader: watch::Sender<bool>,
    /// The last error, said once.
    failing: Option<String>,
}

impl Candidate {
    /// A candidate that does not stand yet, and where to see whether it leads. Whoever writes
    /// asks before each write.
    pub(crate) fn new(client: kube::Client, namespace: &str) -> (Self, watch::Receiver<bool>) {
        let (is_leader, leads) = watch::channel(false);
        let candidate = Self {
            leases: Api::namespaced(client, namespace),
            election: Election::new(identity()),
            is_leader,
            failing: None,
        };
        (candidate, leads)
    }

    /// Stands until the drain begins, then gives the lease back.
    pub(crate) async fn run(mut self, mut drain: drain::Watcher) {
        loop {
            let begun = Instant::now();
            tokio::select! {
                () = self.round() => {}
                () = drain.signalled() => break,
            }
            self.show();
            let next = begun + EVERY.mul_f64(0.9 + 0.2 * rand::random::<f64>());
            tokio::select! {
                () = sleep_until(self.while_it_leads(next)) => {}
                () = drain.signalled() => break,
            }
            self.show();
        }
        let leads = self.election.is_leader(Instant::now());
        // Nobody writes any more before the lease is free.
        self.is_leader.send_replace(false);
        if leads && timeout(RELEASE, self.release()).await.is_err() {
            warn!(target: "lease", "the lease could not be given back; others wait for its end");
        }
    }

    async fn round(&mut self) {
        let begun = Instant::now();
        let end = self.while_it_leads(begun + ROUND);
        let answer = timeout_at(end, self.ask(begun)).await;
        let failing = match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(error) = failing.as_ref().filter(|_| failing != self.failing) {
            warn!(target: "lease", error, "the lease cannot be read or written");
        }
        self.failing = failing;
    }

    /// That time, or the end of its leadership where that is earlier: who leads no more is shown at
    /// once, whatever is waited for.
    fn while_it_leads(&self, time: Instant) -> Instant {
        let now = Instant::now();
        let ends = self.election.until().filter(|until| *until > now);
        ends.map_or(time, |until| until.min(time))
    }

    async fn ask(&mut self, begun: Instant) -> Result<(), kube::Error> {
        let lease = self.leases.get_opt(NAME).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let Step::Write(spec) = self.election.step(spec, begun, wall()) else {
            return Ok(());
        };
        match self.write(lease, spec).await {
            Ok(_) => self.election.won(begun),
            // Another replica was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => self.election.lost(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes over the version that was read, or makes the first one.
    async fn write(&self, lease: Option<Lease>, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        let how = PostParams::default();
        let Some(lease) = lease else {
            let metadata = ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            };
            let lease = Lease {
                metadata,
                spec: Some(spec),
            };
            return self.leases.create(&how, &lease).await;
        };
        let lease = Lease {
            spec: Some(spec),
            ..lease
        };
        self.leases.replace(NAME, &how, &lease).await
    }

    fn show(&self) {
        let leads = self.election.is_leader(Instant::now());
        let has_changed = self.is_leader.send_if_modified(|is_leader| {
            let has_changed = *is_leader != leads;
            *is_leader = leads;
            has_changed
        });
        if has_changed {
            let role = if leads { "leader" } else { "follower" };
            info!(target: "lease", role, "leadership changed");
        }
    }

    async fn release(&mut self) {
        let Ok(Some(lease)) = self.leases.get_opt(NAME).await else {
            return;
        };
        let given = lease
            .spec
            .as_ref()
            .and_then(|spec| self.election.release(spec, wall()));
        if let Some(spec) = given
            && let Err(error) = self.write(Some(lease), spec).await
        {
            warn!(target: "lease", %error, "the lease could not be given back");
        }
    }
}

/// The pod's name where there is one, and something that a restart in the same pod does not have.
fn identity() -> String {
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    let pod = if pod.is_empty() { NAME } else { &pod };
    format!("{pod}_{:016x}", rand::random::<u64>())
}

fn wall() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}
