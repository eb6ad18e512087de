//! The label set of the traffic metrics and its closed values.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use agent_model::{Identity, Reason, Service, Workload};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use serde::{Deserialize, Serialize};

/// Which side of a connection the agent was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The agent of the destination; metrics say `reporter="destination"`.
    Inbound,
    /// The agent of the source; metrics say `reporter="source"`.
    Outbound,
}

impl Direction {
    /// `inbound` or `outbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    pub(crate) fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
        }
    }
}

/// `response_flags` of the traffic metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    None,
    Deny,
    Connect,
    TlsFailure,
    H2HandshakeFailure,
    NetworkPolicy,
    IdentityError,
}

impl Flag {
    pub(crate) const ALL: [Self; 7] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2HandshakeFailure,
        Self::NetworkPolicy,
        Self::IdentityError,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}

impl From<Reason> for Flag {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Ok => Self::None,
            Reason::PolicyDenied
            | Reason::PolicyNotAllowed
            | Reason::PolicyUnknown
            | Reason::PolicyChanged
            | Reason::WaypointBypassed
            | Reason::PeerDenied => Self::Deny,
            Reason::TlsFailed | Reason::PeerIdentityMismatch | Reason::PeerRevoked => {
                Self::TlsFailure
            }
            Reason::H2Failed => Self::H2HandshakeFailure,
            Reason::ConnectTimeout => Self::NetworkPolicy,
            Reason::NoCertificate => Self::IdentityError,
            Reason::PeerRejected
            | Reason::SourceUnknown
            | Reason::DestinationUnknown
            | Reason::NoOriginalDestination
            | Reason::AgentPort
            | Reason::NoEndpoint
            | Reason::ServicePortUnknown
            | Reason::DnsFailed
            | Reason::WaypointUnavailable
            | Reason::RequestInvalid
            | Reason::AuthorityMismatch
            | Reason::AuthorityUnknown
            | Reason::NoRoute
            | Reason::Misdirected
            | Reason::BackendInvalid
            | Reason::TokenMissing
            | Reason::TokenInvalid
            | Reason::KeysUnavailable
            | Reason::RequestTimeout
            | Reason::RateLimited
            | Reason::BodyTooLarge
            | Reason::FaultInjected
            | Reason::CircuitOpen
            | Reason::ConnectRefused
            | Reason::ConnectFailed
            | Reason::TunnelLost
            | Reason::ConnectionReset
            | Reason::IdleTimeout
            | Reason::Drained
            | Reason::PodRemoved
            | Reason::LimitExceeded
            | Reason::Internal => Self::Connect,
        }
    }
}

/// Who talked to whom, as one series sees it.
///
/// Workloads and services are held by reference and compared by the fields that become labels, so
/// that a lookup copies three pointers rather than twenty strings.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    pub(crate) direction: Direction,
    pub(crate) source: Option<Arc<Workload>>,
    pub(crate) source_identity: Option<Identity>,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) destination_identity: Option<Identity>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) mutual_tls: bool,
    /// The series that stands for all those past the cap.
    pub(crate) overflow: bool,
}

impl Labels {
    pub(crate) fn new(direction: Direction) -> Self {
        Self {
            direction,
            source: None,
            source_identity: None,
            destination: None,
            destination_identity: None,
            service: None,
            mutual_tls: false,
            overflow: false,
        }
    }

    pub(crate) fn overflow(direction: Direction) -> Self {
        Self {
            overflow: true,
            ..Self::new(direction)
        }
    }

    /// Adds the flags a series is split by to the labels of the pair.
    pub(crate) fn with_flag(&self, flag: Flag) -> FlaggedLabels<'_> {
        FlaggedLabels { labels: self, flag }
    }

    fn key(&self) -> impl Eq + Hash + '_ {
        (
            (self.direction, self.mutual_tls, self.overflow),
            self.source.as_deref().map(workload_key),
            self.destination.as_deref().map(workload_key),
            self.service.as_deref().map(service_key),
            &self.source_identity,
            &self.destination_identity,
        )
    }
}

pub(crate) fn workload_key(workload: &Workload) -> impl Eq + Hash + '_ {
    (
        &workload.workload_name,
        &workload.namespace,
        &workload.canonical_name,
        &workload.canonical_revision,
        &workload.cluster_id,
        &workload.locality,
    )
}

fn service_key(service: &Service) -> impl Eq + Hash + '_ {
    (&service.hostname, &service.namespace, &service.name)
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// The full label set of one row.
pub(crate) struct FlaggedLabels<'a> {
    labels: &'a Labels,
    flag: Flag,
}

pub(crate) const UNKNOWN: &str = "unknown";
pub(crate) const OVERFLOW: &str = "overflow";

impl EncodeLabelSet for FlaggedLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = self.labels;
        let mut out = Encoder {
            encoder,
            missing: if labels.overflow { OVERFLOW } else { UNKNOWN },
        };
        let source = labels.source.as_deref();
        let destination = labels.destination.as_deref();
        let service = labels.service.as_deref();
        out.text("reporter", labels.direction.reporter())?;
        out.workload(&SOURCE, source, labels.source_identity.as_ref())?;
        out.optional("destination_service", service.map(|s| &*s.hostname))?;
        out.optional(
            "destination_service_namespace",
            service.map(|s| &*s.namespace),
        )?;
        out.optional("destination_service_name", service.map(|s| &*s.name))?;
        out.workload(
            &DESTINATION,
            destination,
            labels.destination_identity.as_ref(),
        )?;
        out.text("request_protocol", "tcp")?;
        out.text("response_flags", self.flag.as_str())?;
        let security = if labels.mutual_tls {
            "mutual_tls"
        } else {
            UNKNOWN
        };
        out.text("connection_security_policy", security)?;
        out.localities(source, destination)
    }
}

/// Label names of one side.
pub(crate) struct SideNames {
    workload: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
    namespace: &'static str,
    principal: &'static str,
    app: &'static str,
    version: &'static str,
    cluster: &'static str,
}

pub(crate) const SOURCE: SideNames = SideNames {
    workload: "source_workload",
    canonical_service: "source_canonical_service",
    canonical_revision: "source_canonical_revision",
    namespace: "source_workload_namespace",
    principal: "source_principal",
    app: "source_app",
    version: "source_version",
    cluster: "source_cluster",
};

pub(crate) const DESTINATION: SideNames = SideNames {
    workload: "destination_workload",
    canonical_service: "destination_canonical_service",
    canonical_revision: "destination_canonical_revision",
    namespace: "destination_workload_namespace",
    principal: "destination_principal",
    app: "destination_app",
    version: "destination_version",
    cluster: "destination_cluster",
};

/// Writes labels; values that are not known are `missing`.
pub(crate) struct Encoder<'a, 'b> {
    pub(crate) encoder: &'a mut LabelSetEncoder<'b>,
    pub(crate) missing: &'static str,
}

impl Encoder<'_, '_> {
    pub(crate) fn text(&mut self, name: &'static str, value: &str) -> fmt::Result {
        (name, value).encode(self.encoder.encode_label())
    }

    pub(crate) fn optional(&mut self, name: &'static str, value: Option<&str>) -> fmt::Result {
        let value = value.filter(|v| !v.is_empty()).unwrap_or(self.missing);
        self.text(name, value)
    }

    pub(crate) fn workload(
        &mut self,
        names: &SideNames,
        workload: Option<&Workload>,
        identity: Option<&Identity>,
    ) -> fmt::Result {
        let canonical = workload.map(|w| &*w.canonical_name);
        let revision = workload.map(|w| &*w.canonical_revision);
        let principal = identity.map(ToString::to_string);
        self.optional(names.workload, workload.map(|w| &*w.workload_name))?;
        self.optional(names.canonical_service, canonical)?;
        self.optional(names.canonical_revision, revision)?;
        self.optional(names.namespace, workload.map(|w| &*w.namespace))?;
        self.optional(names.principal, principal.as_deref())?;
        self.optional(names.app, canonical)?;
        self.optional(names.version, revision)?;
        self.optional(names.cluster, workload.map(|w| &*w.cluster_id))
    }

    /// The four locality labels are left out when neither side has any.
    pub(crate) fn localities(
        &mut self,
        source: Option<&Workload>,
        destination: Option<&Workload>,
    ) -> fmt::Result {
        let known = |w: &Workload| !w.locality.region.is_empty() || !w.locality.zone.is_empty();
        if !source.is_some_and(known) && !destination.is_some_and(known) {
            return Ok(());
        }
        self.optional("source_region", source.map(|w| &*w.locality.region))?;
        self.optional("source_zone", source.map(|w| &*w.locality.zone))?;
        self.optional(
            "destination_region",
            destination.map(|w| &*w.locality.region),
        )?;
        self.optional("destination_zone", destination.map(|w| &*w.locality.zone))
    }
}
