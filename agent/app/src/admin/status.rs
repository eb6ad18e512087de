//! `culvert status`: its JSON form and its text.

use std::fmt::Write;
use std::net::SocketAddr;

use agent_model::Identity;
use agent_telemetry::{Direction, Refusal};
use serde::{Deserialize, Serialize};

use super::escape::printable;
use super::table::table;

/// Refusals shown in text; JSON has all that are kept.
const SHOWN_REFUSALS: usize = 20;
/// Connections older than enrolment shown in text; JSON has all.
const SHOWN_OLDER: usize = 20;

/// State of a node agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    /// Version of this form, [`super::SCHEMA`].
    pub(crate) schema: u32,
    /// `node`; what tells it from the control plane's status.
    pub(crate) role: String,
    /// Version of the program.
    pub(crate) version: String,
    /// Name of the node.
    pub(crate) node: String,
    /// Seconds since the agent started.
    pub(crate) uptime_seconds: u64,
    /// How many agents have owned the node's kernel side, up to this one; 0 when another owns it.
    pub(crate) generation: u64,
    /// What the agent waits for before it is ready; empty when ready.
    pub(crate) pending: Vec<String>,
    /// Pods of this node.
    pub(crate) pods: Vec<PodView>,
    /// Certificates of this node's workloads.
    pub(crate) certificates: Vec<CertificateView>,
    /// Which roots peers' certificates may come from.
    pub(crate) trust: TrustView,
    /// The control plane as seen from here.
    pub(crate) control_plane: ControlPlaneView,
    /// Connections in progress.
    pub(crate) connections: Connections,
    /// Pooled tunnels.
    pub(crate) tunnels: Tunnels,
    /// Most recent refusals, newest first.
    pub(crate) refusals: Vec<Refusal>,
    /// Whatever else an operator should know, a sentence each.
    pub(crate) problems: Vec<String>,
    /// Log lines dropped because nobody read the log fast enough.
    pub(crate) log_lines_dropped: u64,
}

/// One enrolled pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodView {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// Container (sandbox) id.
    pub(crate) container_id: String,
    /// Addresses.
    pub(crate) ips: Vec<std::net::IpAddr>,
    /// Cookie of its network namespace.
    pub(crate) netns_cookie: u64,
    /// Capture was seen to work from the data path.
    pub(crate) verified: bool,
    /// Its identity; absent while the control plane has not described the pod.
    pub(crate) identity: Option<Identity>,
    /// Connections that were there before the pod was enrolled and are open now.
    pub(crate) older_connections: Vec<OlderView>,
    /// What is wrong with it.
    pub(crate) error: Option<String>,
}

/// A connection that goes past the agent because it is older than its pod's enrolment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OlderView {
    /// `inbound` ones are closed when policy denies them.
    pub(crate) direction: Direction,
    /// The pod's end.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) peer: SocketAddr,
}

/// One certificate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CertificateView {
    /// SPIFFE identity.
    pub(crate) identity: String,
    /// `available`, `initializing`, `unavailable` ...
    pub(crate) state: String,
    /// Serial number, hexadecimal.
    pub(crate) serial: Option<String>,
    /// RFC 3339.
    pub(crate) valid_from: Option<String>,
    /// RFC 3339.
    pub(crate) expiration_time: Option<String>,
    /// Seconds until it expires; negative when it has.
    pub(crate) expires_in_seconds: Option<i64>,
    /// Why the last renewal failed.
    pub(crate) last_error: Option<String>,
}

/// The roots, as the control plane told them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TrustView {
    /// What names the set of roots to the control plane; absent until it has told any.
    pub(crate) bundle: Option<String>,
    /// SHA-256 of each root, lower-case hexadecimal.
    pub(crate) roots: Vec<String>,
    /// Revocation lists in force.
    pub(crate) revocation_lists: usize,
    /// What is wrong with the bundle that was told last.
    pub(crate) problems: Vec<String>,
}

/// The control plane as the node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ControlPlaneView {
    /// Its address.
    pub(crate) address: String,
    /// A stream is open.
    pub(crate) connected: bool,
    /// The first full answer of every type has been applied, or was read from disk.
    pub(crate) synced: bool,
    /// When what is held was written to disk, where it was read from there and the control plane
    /// has not said yet what is true now. RFC 3339.
    pub(crate) state_of: Option<String>,
    /// Seconds since the last change came.
    pub(crate) last_update_seconds_ago: Option<u64>,
    /// Why the last stream ended.
    pub(crate) last_error: Option<String>,
    /// Workloads known.
    pub(crate) workloads: usize,
    /// Services known.
    pub(crate) services: usize,
    /// Policies known.
    pub(crate) policies: usize,
    /// Resources this node refused.
    pub(crate) rejected: Vec<RejectedResource>,
}

/// A resource the node refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RejectedResource {
    /// Its name.
    pub(crate) name: String,
    /// What is wrong with it.
    pub(crate) error: String,
}

/// Connections in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Connections {
    /// Towards this node's pods.
    pub(crate) inbound: u64,
    /// From this node's pods.
    pub(crate) outbound: u64,
}

/// Pooled tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Tunnels {
    /// Open tunnels.
    pub(crate) open: u64,
    /// Streams in them.
    pub(crate) streams: u64,
}

impl Status {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write_summary(&mut out);
        section(&mut out, "Pods", &POD_HEAD, &self.pods, pod_row);
        section(
            &mut out,
            "Connections older than enrolment",
            &OLDER_HEAD,
            &self.older(),
            older_row,
        );
        section(
            &mut out,
            "Certificates",
            &CERTIFICATE_HEAD,
            &self.certificates,
            certificate_row,
        );
        let shown = &self.refusals[..self.refusals.len().min(SHOWN_REFUSALS)];
        section(
            &mut out,
            "Recent refusals",
            &REFUSAL_HEAD,
            shown,
            refusal_row,
        );
        section(
            &mut out,
            "Refused resources",
            &["NAME", "ERROR"],
            &self.control_plane.rejected,
            |rejected| vec![rejected.name.clone(), rejected.error.clone()],
        );
        section(&mut out, "Problems", &["PROBLEM"], &self.problems, |text| {
            vec![text.clone()]
        });
        out
    }

    fn older(&self) -> Vec<(&PodView, &OlderView)> {
        let of_pod = |pod| move |older| (pod, older);
        self.pods
            .iter()
            .flat_map(|pod| pod.older_connections.iter().map(of_pod(pod)))
            .take(SHOWN_OLDER)
            .collect()
    }

    fn write_summary(&self, out: &mut String) {
        let plane = &self.control_plane;
        let ready = match self.pending.as_slice() {
            [] => "ready".to_owned(),
            pending => format!("not ready, pending: {}", pending.join(", ")),
        };
        let uptime =
            humantime::format_duration(std::time::Duration::from_secs(self.uptime_seconds));
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<15}{}", printable(&value));
        };
        line(
            "Node",
            format!(
                "{}, culvert {}, up {uptime}, {ready}",
                self.node, self.version
            ),
        );
        line("Control plane", plane.summary());
        line(
            "Mesh",
            format!(
                "{} workloads, {} services, {} policies",
                plane.workloads, plane.services, plane.policies
            ),
        );
        line("Trust", self.trust.summary());
        line(
            "Connections",
            format!(
                "{} outbound, {} inbound, {} streams in {} tunnels",
                self.connections.outbound,
                self.connections.inbound,
                self.tunnels.streams,
                self.tunnels.open
            ),
        );
        if self.log_lines_dropped > 0 {
            line("Log", format!("{} lines dropped", self.log_lines_dropped));
        }
    }
}

impl TrustView {
    fn summary(&self) -> String {
        let short = |hash: &String| hash.chars().take(16).collect::<String>();
        let mut text = match &self.bundle {
            Some(bundle) => {
                let roots: Vec<_> = self.roots.iter().map(short).collect();
                format!("bundle {}, roots {}", short(bundle), roots.join(", "))
            }
            None => "the roots that came with each certificate".to_owned(),
        };
        if !self.problems.is_empty() {
            text.push_str(&format!(", LEFT OUT: {}", self.problems.join("; ")));
        }
        text
    }
}

impl ControlPlaneView {
    fn summary(&self) -> String {
        let connected = if self.connected {
            "connected"
        } else {
            "NOT connected"
        };
        let synced = if self.synced { "synced" } else { "NOT synced" };
        let mut text = format!("{}, {connected}, {synced}", self.address);
        if let Some(time) = &self.state_of {
            text.push_str(&format!(" from disk, as of {time}"));
        }
        if let Some(seconds) = self.last_update_seconds_ago {
            text.push_str(&format!(", last update {seconds} s ago"));
        }
        if let Some(error) = self.last_error.as_ref().filter(|_| !self.connected) {
            text.push_str(&format!(": {error}"));
        }
        text
    }
}

const POD_HEAD: [&str; 5] = ["POD", "IPS", "VERIFIED", "IDENTITY", "ERROR"];
const OLDER_HEAD: [&str; 4] = ["POD", "DIRECTION", "LOCAL", "PEER"];
const CERTIFICATE_HEAD: [&str; 5] = ["IDENTITY", "STATE", "SERIAL", "EXPIRES", "LAST ERROR"];
const REFUSAL_HEAD: [&str; 7] = [
    "TIME",
    "DIRECTION",
    "SOURCE",
    "DESTINATION",
    "REASON",
    "POLICY",
    "DETAIL",
];

fn section<T>(
    out: &mut String,
    title: &str,
    head: &[&str],
    items: &[T],
    row: impl Fn(&T) -> Vec<String>,
) {
    if items.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    // Writing to a String cannot fail.
    let _ = write!(out, "\n{title} ({})\n{}", items.len(), table(head, &rows));
}

fn pod_row(pod: &PodView) -> Vec<String> {
    let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
    vec![
        format!("{}/{}", pod.namespace, pod.name),
        ips.join(","),
        if pod.verified { "yes" } else { "NO" }.to_owned(),
        or_dash(pod.identity.as_ref()),
        pod.error.clone().unwrap_or_default(),
    ]
}

fn older_row((pod, older): &(&PodView, &OlderView)) -> Vec<String> {
    vec![
        format!("{}/{}", pod.namespace, pod.name),
        older.direction.as_str().to_owned(),
        older.local.to_string(),
        older.peer.to_string(),
    ]
}

fn certificate_row(certificate: &CertificateView) -> Vec<String> {
    let expires = certificate.expires_in_seconds.map(|left| match left {
        ..=0 => "EXPIRED".to_owned(),
        left => {
            let left = std::time::Duration::from_secs(left.unsigned_abs());
            format!("in {}", humantime::format_duration(left))
        }
    });
    vec![
        certificate.identity.clone(),
        certificate.state.clone(),
        or_dash(certificate.serial.as_ref()),
        or_dash(expires.as_ref()),
        certificate.last_error.clone().unwrap_or_default(),
    ]
}

fn refusal_row(refusal: &Refusal) -> Vec<String> {
    let end = |address: SocketAddr, workload: &Option<String>| match workload {
        Some(workload) => format!("{address} ({workload})"),
        None => address.to_string(),
    };
    vec![
        refusal.time.clone(),
        refusal.direction.as_str().to_owned(),
        end(refusal.source, &refusal.source_workload),
        end(refusal.destination, &refusal.destination_workload),
        refusal.reason.to_string(),
        or_dash(refusal.policy.as_ref()),
        refusal.detail.clone().unwrap_or_default(),
    ]
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}
