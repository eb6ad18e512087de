//! The node's answers to its operator.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_datapath::{Datapath, OlderConnection, OlderDirection, PodStatus};
use agent_identity::{CertificateState, CertificateStatus, Certificates};
use agent_model::{PodProgress, PodReport};
use agent_proxy::Workers;
use agent_state::view::View;
use agent_telemetry::{Direction, Metrics};
use agent_xds::ClientStatus;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;

use super::VERSION;
use super::installer::Problem;
use crate::admin::{
    AdminView, CertificateView, Connections, ControlPlaneView, OlderView, PodView,
    RejectedResource, SCHEMA, Status, TrustView, Tunnels, Why,
};
use crate::readiness::Readiness;

/// Pods that a list of problems names.
const MAX_LISTED: usize = 20;

/// What the answers are made of.
pub(super) struct NodeView {
    pub(super) started: Instant,
    pub(super) node: String,
    pub(super) network: String,
    pub(super) xds_address: String,
    pub(super) readiness: Readiness,
    pub(super) state: agent_state::Reader,
    pub(super) sync: watch::Receiver<ClientStatus>,
    pub(super) certificates: Certificates,
    pub(super) datapath: Arc<Datapath>,
    pub(super) workers: Arc<Workers>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) dropped_lines: Arc<AtomicU64>,
    pub(super) installation: Option<Problem>,
    /// What became of the pods that are wanted in the mesh.
    pub(super) reports: watch::Receiver<Option<Vec<PodReport>>>,
}

impl AdminView for NodeView {
    fn status(&self) -> Status {
        Status {
            schema: SCHEMA,
            role: "node".to_owned(),
            version: VERSION.to_owned(),
            node: self.node.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.datapath.generation(),
            pending: self.readiness.pending(),
            pods: self
                .datapath
                .pods()
                .into_iter()
                .map(|pod| self.pod(pod))
                .collect(),
            certificates: self
                .certificates
                .status()
                .into_iter()
                .map(certificate)
                .collect(),
            trust: self.trust(),
            control_plane: self.control_plane(),
            connections: Connections {
                inbound: self.metrics.connections(Direction::Inbound),
                outbound: self.metrics.connections(Direction::Outbound),
            },
            tunnels: self.tunnels(),
            refusals: self.metrics.refusals(),
            problems: self.problems(),
            log_lines_dropped: self.dropped_lines.load(Ordering::Relaxed),
        }
    }

    fn config_dump(&self) -> serde_json::Value {
        let mut dump = serde_json::to_value(View::new(&self.state.load())).unwrap_or_default();
        if let Some(dump) = dump.as_object_mut() {
            let certificates = self.certificates.status();
            let certificates: Vec<_> = certificates.iter().map(dumped_certificate).collect();
            dump.insert("certificates".to_owned(), certificates.into());
            dump.insert("workloadState".to_owned(), self.workload_state());
            dump.insert("staticConfig".to_owned(), serde_json::json!({}));
            dump.insert(
                "version".to_owned(),
                serde_json::json!({ "version": VERSION }),
            );
            let config = serde_json::json!({
                "localNode": self.node,
                "network": self.network,
                "xdsAddress": self.xds_address,
                "xdsOnDemand": self.state.demand().is_some(),
            });
            dump.insert("config".to_owned(), config);
        }
        dump
    }

    fn why(&self, source: &str, destination: SocketAddr) -> Result<Why, String> {
        let snapshot = self.state.load();
        if let Some(demand) = self.state.demand() {
            let names = crate::why::names(&snapshot, &self.network, source, destination)?;
            if !demand
                .want(&names.unknown)
                .map_err(|error| error.to_string())?
            {
                return Err(format!(
                    "this agent knows what its pods have dialled (--xds-on-demand), and {} is new \
                     to it. It asks the control plane now: try again",
                    destination.ip()
                ));
            }
        }
        crate::why::explain(
            &snapshot,
            &self.network,
            source,
            destination,
            &mut rand::random,
        )
    }
}

impl NodeView {
    fn pod(&self, pod: PodStatus) -> PodView {
        let served = self
            .workers
            .pods()
            .into_iter()
            .find(|served| served.cookie() == pod.netns);
        let older = served.as_ref().map(|served| served.older());
        let workload =
            served.and_then(|served| served.workload_in(&self.state.load(), &self.network));
        PodView {
            namespace: pod.info.namespace,
            name: pod.info.name,
            container_id: pod.info.container_id,
            ips: pod.info.ips,
            netns_cookie: pod.netns.0,
            verified: pod.verified,
            identity: workload.and_then(|workload| workload.identity().ok()),
            older_connections: older
                .unwrap_or_default()
                .into_iter()
                .map(older_view)
                .collect(),
            error: pod.detail,
        }
    }

    fn problems(&self) -> Vec<String> {
        let unattached = (!self.datapath.attached()).then(|| {
            "an eBPF hook of this node is not attached; it is attached again within seconds, or \
             the log says why not"
                .to_owned()
        });
        let problem = self.installation.as_ref().and_then(|problem| {
            let problem = problem.lock().unwrap_or_else(PoisonError::into_inner);
            let problem = problem.as_ref()?;
            Some(format!("the CNI plugin is not installed: {problem}"))
        });
        let pods = self.reports.borrow();
        let pods = left_out(pods.as_deref().unwrap_or_default());
        let ending = self.certificates.status();
        let ending = ending.into_iter().filter(|row| row.ends_soon).count();
        let ending = (ending > 0).then(|| {
            format!(
                "{ending} certificates have less than a fifth of their life left and are not renewed"
            )
        });
        unattached
            .into_iter()
            .chain(problem)
            .chain(pods)
            .chain(ending)
            .collect()
    }

    fn trust(&self) -> TrustView {
        let bundle = self.certificates.trusted();
        let roots = bundle.as_ref().map_or(&[][..], |bundle| bundle.roots());
        TrustView {
            roots: roots
                .iter()
                .map(|root| root.fingerprint.to_string())
                .collect(),
            revocation_lists: bundle
                .as_ref()
                .map_or(0, |bundle| bundle.revocations().len()),
            bundle: bundle.as_ref().map(|bundle| bundle.sha256().to_owned()),
            problems: self.certificates.trust_problems(),
        }
    }

    fn control_plane(&self) -> ControlPlaneView {
        let (status, snapshot) = (self.sync.borrow().clone(), self.state.load());
        let since = |time: SystemTime| time.elapsed().map_or(0, |elapsed| elapsed.as_secs());
        ControlPlaneView {
            address: self.xds_address.clone(),
            connected: status.connected,
            synced: status.synced,
            state_of: status.restored.map(|time| {
                let since = time.duration_since(UNIX_EPOCH);
                rfc3339(since.map_or(0, |since| since.as_secs()))
            }),
            last_update_seconds_ago: status.last_update.map(since),
            last_error: status.last_error,
            workloads: snapshot.workloads().count(),
            services: snapshot.services().count(),
            policies: snapshot.policies().len(),
            rejected: status
                .rejected
                .into_iter()
                .map(|rejection| RejectedResource {
                    name: rejection.name,
                    error: rejection.reason,
                })
                .collect(),
        }
    }

    fn tunnels(&self) -> Tunnels {
        let stats = self.workers.tunnels();
        Tunnels {
            open: stats.tunnels as u64,
            streams: stats.streams as u64,
        }
    }

    fn workload_state(&self) -> serde_json::Value {
        let pods = self.workers.pods();
        let row = |pod: &Arc<agent_proxy::Pod>| {
            let info = pod.info();
            let state = serde_json::json!({
                "state": "Up",
                "connections": { "total": pod.connections() },
                "info": { "name": info.name, "namespace": info.namespace },
            });
            (info.container_id.clone(), state)
        };
        serde_json::Value::Object(pods.iter().map(row).collect())
    }
}

/// The pods that should be captured and are not, the first few by name.
fn left_out(reports: &[PodReport]) -> Vec<String> {
    let failed = reports
        .iter()
        .filter(|report| report.state == PodProgress::Failed);
    let named = failed.clone().take(MAX_LISTED).map(|report| {
        format!(
            "pod {}/{} belongs into the mesh and is not captured: {}",
            report.namespace, report.name, report.detail
        )
    });
    let more = failed.count().saturating_sub(MAX_LISTED);
    let rest = (more > 0).then(|| format!("{more} more pods are not captured"));
    named.chain(rest).collect()
}

fn older_view(older: OlderConnection) -> OlderView {
    OlderView {
        direction: match older.direction {
            OlderDirection::Inbound => Direction::Inbound,
            OlderDirection::Outbound => Direction::Outbound,
        },
        local: older.connection.local,
        peer: older.connection.remote,
    }
}

fn certificate(row: CertificateStatus) -> CertificateView {
    let now = unix_now();
    CertificateView {
        identity: row.identity.to_string(),
        state: state_name(row.state).to_owned(),
        serial: row.serial,
        valid_from: row.not_before.map(rfc3339),
        expiration_time: row.not_after.map(rfc3339),
        expires_in_seconds: row.not_after.map(|at| at.cast_signed().saturating_sub(now)),
        last_error: row.last_error,
    }
}

/// One certificate with the keys of Istio's config dump; PEM texts are in base64 there.
fn dumped_certificate(row: &CertificateStatus) -> serde_json::Value {
    serde_json::json!({
        "identity": row.identity,
        "state": state_name(row.state),
        "certChain": [{
            "pem": row.chain_pem.as_ref().map(|pem| STANDARD.encode(pem)),
            "serialNumber": row.serial,
            "validFrom": row.not_before.map(rfc3339),
            "expirationTime": row.not_after.map(rfc3339),
        }],
        "rootCerts": [{ "pem": row.roots_pem.as_ref().map(|pem| STANDARD.encode(pem)) }],
    })
}

fn state_name(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Initializing => "Initializing",
        CertificateState::Available => "Available",
        CertificateState::Unavailable => "Unavailable",
    }
}

fn rfc3339(unix_seconds: u64) -> String {
    let time = UNIX_EPOCH + std::time::Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_are_left_out_are_problems_and_a_long_list_is_cut() {
        let report = |state, name: String| PodReport {
            uid: String::new(),
            namespace: "shop".to_owned(),
            name,
            state,
            detail: "no such process".to_owned(),
        };
        let mut reports = vec![
            report(PodProgress::Verified, "web".to_owned()),
            report(PodProgress::Pending, "late".to_owned()),
        ];
        assert_eq!(left_out(&reports), Vec::<String>::new());
        let many = (0..MAX_LISTED + 2).map(|n| report(PodProgress::Failed, format!("bad-{n}")));
        reports.extend(many);
        let problems = left_out(&reports);
        assert_eq!(problems.len(), MAX_LISTED + 1);
        let first = "pod shop/bad-0 belongs into the mesh and is not captured: no such process";
        assert_eq!(problems[0], first);
        assert_eq!(problems[MAX_LISTED], "2 more pods are not captured");
    }
}
