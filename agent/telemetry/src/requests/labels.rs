//! The label set of the request metrics, the one that dashboards of the ambient data plane know.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use agent_model::{Identity, NamespacedHostname, Reason, Workload};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::route::Outcome;
use super::sharded::Overflow;
use crate::traffic::{DESTINATION, Encoder, OVERFLOW, SOURCE, UNKNOWN, workload_key};

/// Who reports a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// A gateway that sends requests into the mesh or out of it: `source`.
    Source,
    /// A waypoint between both ends: `waypoint`.
    Waypoint,
}

impl Reporter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Waypoint => "waypoint",
        }
    }
}

/// What the request was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
}

/// Who asked whom, and what came of it.
///
/// Workloads are held by reference and compared by the fields that become labels. No value comes
/// from what a client sent; status codes come from backends, and there are a few hundred at most.
#[derive(Debug, Clone)]
pub struct RequestLabels {
    /// Who reports.
    pub reporter: Reporter,
    /// Who asked.
    pub source: Option<Arc<Workload>>,
    /// Its identity, where it is proved.
    pub source_identity: Option<Identity>,
    /// Who answered.
    pub destination: Option<Arc<Workload>>,
    /// Its identity, where it is proved.
    pub destination_identity: Option<Identity>,
    /// The service that was asked.
    pub service: Option<NamespacedHostname>,
    /// HTTP or gRPC.
    pub via: Via,
    /// Status code of the answer; 0 when there was none.
    pub response_code: u16,
    /// Of gRPC: the status its trailers have.
    pub grpc_status: Option<u16>,
    /// How it ended.
    pub reason: Reason,
    /// Mutual TLS between the ends of the connection that the labels are about.
    pub mutual_tls: bool,
}

impl RequestLabels {
    /// What the success rate of a route makes of it. gRPC has its own codes; those that say that
    /// the server failed are the ones a proxy makes of 5xx, and `DATA_LOSS`.
    pub fn outcome(&self) -> Outcome {
        if let Some(status) = self.grpc_status {
            return match status {
                0 => Outcome::Success,
                2 | 4 | 13 | 14 | 15 => Outcome::ServerError,
                _ => Outcome::ClientError,
            };
        }
        match self.response_code {
            100..400 => Outcome::Success,
            400..500 => Outcome::ClientError,
            _ => Outcome::ServerError,
        }
    }

    /// The label `response_flags`, in the words of the ambient data plane's L7 proxy where it has
    /// one for it.
    fn flags(&self) -> &'static str {
        match self.reason {
            Reason::NoRoute => "NR",
            Reason::NoEndpoint | Reason::ServicePortUnknown => "UH",
            Reason::RequestTimeout => "UT",
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::TlsFailed
            | Reason::PeerIdentityMismatch
            | Reason::H2Failed
            | Reason::TunnelLost => "UF",
            Reason::ConnectionReset if self.destination.is_none() => "UC",
            Reason::ConnectionReset => "DC",
            Reason::PolicyDenied | Reason::PolicyNotAllowed | Reason::PolicyUnknown => "DENY",
            Reason::LimitExceeded => "UO",
            Reason::RateLimited => "RL",
            Reason::FaultInjected => "FI",
            _ => "-",
        }
    }

    fn key(&self) -> impl Eq + Hash + '_ {
        (
            (self.reporter, self.via, self.mutual_tls),
            (self.response_code, self.grpc_status, self.flags()),
            self.source.as_deref().map(workload_key),
            self.destination.as_deref().map(workload_key),
            &self.service,
            &self.source_identity,
            &self.destination_identity,
        )
    }

    fn is_overflow(&self) -> bool {
        self.response_code == OVERFLOW_CODE
    }
}

/// No status code.
const OVERFLOW_CODE: u16 = u16::MAX;

impl Overflow for RequestLabels {
    fn overflow() -> Self {
        Self {
            reporter: Reporter::Source,
            source: None,
            source_identity: None,
            destination: None,
            destination_identity: None,
            service: None,
            via: Via::Http,
            response_code: OVERFLOW_CODE,
            grpc_status: None,
            reason: Reason::Ok,
            mutual_tls: false,
        }
    }
}

impl PartialEq for RequestLabels {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for RequestLabels {}

impl Hash for RequestLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let missing = match self.is_overflow() {
            true => OVERFLOW,
            false => UNKNOWN,
        };
        let mut out = Encoder { encoder, missing };
        let (source, destination) = (self.source.as_deref(), self.destination.as_deref());
        out.text("reporter", self.reporter.as_str())?;
        out.workload(&SOURCE, source, self.source_identity.as_ref())?;
        let service = self.service.as_ref();
        out.optional("destination_service", service.map(|s| &*s.hostname))?;
        out.optional(
            "destination_service_namespace",
            service.map(|s| &*s.namespace),
        )?;
        out.optional(
            "destination_service_name",
            service.map(|s| short_name(&s.hostname)),
        )?;
        out.workload(
            &DESTINATION,
            destination,
            self.destination_identity.as_ref(),
        )?;
        out.text(
            "request_protocol",
            match self.via {
                Via::Http => "http",
                Via::Grpc => "grpc",
            },
        )?;
        let code = self.response_code.to_string();
        out.text(
            "response_code",
            match self.is_overflow() {
                true => OVERFLOW,
                false => &code,
            },
        )?;
        let grpc = self.grpc_status.map(|status| status.to_string());
        out.text("grpc_response_status", grpc.as_deref().unwrap_or_default())?;
        out.text("response_flags", self.flags())?;
        out.text(
            "connection_security_policy",
            match self.mutual_tls {
                true => "mutual_tls",
                false => UNKNOWN,
            },
        )?;
        out.localities(source, destination)
    }
}

/// The name of a cluster's own service, the whole host name of another.
fn short_name(hostname: &str) -> &str {
    match hostname.split_once('.') {
        Some((name, rest)) if rest.contains(".svc.") => name,
        _ => hostname,
    }
}
