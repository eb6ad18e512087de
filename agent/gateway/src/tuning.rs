//! How a gateway treats the endpoints of services: what a `TrafficPolicy` says of a service, in the
//! form the data path works with.

mod told;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_model::NamespacedHostname;
use agent_model::gateway::GatewayKey;
use http::header::{HeaderMap, HeaderName};

use crate::affinity::Affinity;
use crate::balance::{Algorithm, hashed};
use crate::cookie::cookie;
use crate::traffic::Policies;
use crate::{circuit, outlier};

pub(crate) use told::{OfRule, Way};

/// Settings of every service that has some, and of all others.
#[derive(Debug, Default)]
pub struct Tuning {
    services: HashMap<NamespacedHostname, Vec<OfPort>>,
    others: Arc<Settings>,
    /// What rules ask for retries and sessions.
    policies: Arc<Policies>,
    /// Whose they are; policies for everything are attached there.
    gateway: Option<GatewayKey>,
}

/// Settings of a port, or of those that have none of their own.
type OfPort = (Option<u16>, Arc<Settings>);

/// Settings for the endpoints of a service, or of one of its ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// What [`Algorithm::ConsistentHash`] goes by; requests without it are spread at random.
    pub hash: Option<HashOn>,
    /// The cookie that clients without what is hashed are given.
    pub affinity: Option<Affinity>,
    /// Whether near endpoints come first; `None`: as the service itself says.
    pub locality: Option<Nearness>,
    /// What the service may have at a time; `None` has no limit of its own.
    pub circuit: Option<circuit::Limits>,
    /// When endpoints are ejected; `None` never.
    pub outlier: Option<outlier::Settings>,
    /// How endpoints are checked; `None` not at all.
    pub health: Option<HealthCheck>,
    /// Share of requests that may be retries.
    pub budget: RetryBudget,
}

/// What a request is hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The first value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// The client's address.
    Source,
}

/// What of a request can be hashed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features<'a> {
    /// None of a connection that nobody looks into.
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) client: Option<IpAddr>,
}

/// Which endpoints come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearness {
    /// All alike.
    Ignored,
    /// Those near the gateway, others as far as the near ones are not enough.
    Failover,
    /// Only those of the gateway's zone.
    Strict,
}

/// How much of the requests in flight may be retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// In percent of the requests in flight.
    pub percent: u32,
    /// Always so many.
    pub least: u32,
}

impl Default for RetryBudget {
    /// A fifth, and always three.
    fn default() -> Self {
        Self {
            percent: 20,
            least: 3,
        }
    }
}

/// How endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Time between two checks of an endpoint; each is up to a tenth longer, at random.
    pub interval: Duration,
    /// How long a check may take, connecting included.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint out.
    pub unhealthy: u32,
    /// Successes in a row that bring it back.
    pub healthy: u32,
    /// Port that is asked instead of the endpoint's own.
    pub port: Option<u16>,
    /// With fewer usable endpoints, in percent, checks count no longer (fail open): rather than
    /// that all endpoints are ill the gateway cannot see them. 0 never fails open.
    pub panic_percent: u8,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy: 3,
            healthy: 2,
            port: None,
            panic_percent: 50,
        }
    }
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Whether it takes a connection.
    Tcp,
    /// An HTTP/1.1 GET that has to be answered with a status from the first to the second of
    /// these, both included.
    #[expect(missing_docs, reason = "the names say it")]
    Http {
        path: Arc<str>,
        host: Option<Arc<str>>,
        statuses: (u16, u16),
    },
    /// The gRPC health checking protocol: `grpc.health.v1.Health/Check` has to say `SERVING` of
    /// this service (`""` is the server as a whole).
    #[expect(missing_docs, reason = "the names say it")]
    Grpc { service: Arc<str> },
}

impl Tuning {
    /// Settings by service and, where they are of one port only, by that.
    pub fn new(
        settings: impl IntoIterator<Item = (NamespacedHostname, Option<u16>, Settings)>,
    ) -> Self {
        let mut services: HashMap<_, Vec<OfPort>> = HashMap::new();
        for (service, port, settings) in settings {
            let of_service = services.entry(service).or_default();
            of_service.push((port, Arc::new(settings)));
        }
        Self {
            services,
            ..Self::default()
        }
    }

    /// The settings of a port: its own, else those of its service, else the defaults.
    pub(crate) fn of(&self, service: &NamespacedHostname, port: u16) -> Arc<Settings> {
        let all = self.services.get(service).map_or(&[][..], Vec::as_slice);
        let with = |wanted: Option<u16>| all.iter().find(|(of, _)| *of == wanted);
        let found = with(Some(port)).or_else(|| with(None));
        let settings = found.map_or(&self.others, |(_, settings)| settings);
        Arc::clone(settings)
    }

    /// Services and ports whose endpoints are checked, whoever asks for them.
    pub(crate) fn checked(&self) -> impl Iterator<Item = (&NamespacedHostname, Option<u16>)> {
        self.services.iter().flat_map(|(service, ports)| {
            let checked = ports.iter().filter(|(_, one)| one.health.is_some());
            checked.map(move |(port, _)| (service, *port))
        })
    }
}

impl HashOn {
    /// The hash of a request; `None` where it lacks what is hashed.
    pub(crate) fn of(&self, request: &Features<'_>) -> Option<u64> {
        match self {
            Self::Header(name) => Some(hashed(request.headers?.get(name)?.as_bytes())),
            Self::Cookie(name) => Some(hashed(cookie(request.headers?, name)?)),
            Self::Source => Some(match request.client? {
                IpAddr::V4(ip) => hashed(&ip.octets()),
                IpAddr::V6(ip) => hashed(&ip.octets()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    #[test]
    fn settings_of_a_port_go_before_those_of_its_service() {
        let service = NamespacedHostname::new("ns", "a");
        let with = |algorithm| Settings {
            algorithm,
            ..Settings::default()
        };
        let tuning = Tuning::new([
            (service.clone(), None, with(Algorithm::Random)),
            (service.clone(), Some(80), with(Algorithm::RoundRobin)),
        ]);
        let algorithm = |service: &NamespacedHostname, port| tuning.of(service, port).algorithm;
        assert_eq!(algorithm(&service, 80), Algorithm::RoundRobin);
        assert_eq!(algorithm(&service, 81), Algorithm::Random);
        let other = NamespacedHostname::new("ns", "b");
        assert_eq!(algorithm(&other, 80), Algorithm::PeakEwma);
    }

    #[test]
    fn what_is_hashed() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; user=x".parse().unwrap());
        headers.append(COOKIE, "user=z;b=2".parse().unwrap());
        headers.insert("x-user", "x".parse().unwrap());
        let request = Features {
            headers: Some(&headers),
            client: Some("10.0.0.1".parse().unwrap()),
        };
        let x = Some(hashed(b"x"));
        assert_eq!(HashOn::Cookie("user".into()).of(&request), x);
        assert_eq!(HashOn::Header("x-user".parse().unwrap()).of(&request), x);
        assert_eq!(HashOn::Source.of(&request), Some(hashed(&[10, 0, 0, 1])));
        for absent in ["use", "users", "A", ""] {
            assert_eq!(HashOn::Cookie(absent.into()).of(&request), None, "{absent}");
        }
    }
}
