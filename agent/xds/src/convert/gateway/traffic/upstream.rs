//! Parts that act between a rule and endpoints.

use std::time::Duration;

use agent_model::gateway::traffic::{
    Balancing, CircuitBreaker, HashBy, HealthCheck, HealthProbe, LocalityPreference,
    OutlierDetection, RetryBudget, RetryPolicy, SuccessRate,
};
use proto::gateway as wire;

use super::super::super::fields::{invalid, known, port_or_zero};
use super::super::rule::{attempts, status};
use super::super::{limit, milliseconds, needed, optional, parts, text_of};
use super::positive;
use crate::Error;

pub(super) fn decode_balancing(message: &wire::Balancing) -> Result<Balancing, Error> {
    use wire::balancing::{Algorithm, Plain};
    let algorithm = message.algorithm.as_ref();
    match algorithm.ok_or(Error::Missing("algorithm"))? {
        Algorithm::Plain(number) => known("algorithm", *number, |plain| {
            Some(match plain {
                Plain::RoundRobin => Balancing::RoundRobin,
                Plain::LeastRequest => Balancing::LeastRequest,
                Plain::PeakEwma => Balancing::PeakEwma,
                Plain::Random => Balancing::Random,
                Plain::Unspecified => return None,
            })
        }),
        Algorithm::ConsistentHash(by) => decode_hash_by(by).map(Balancing::ConsistentHash),
    }
}

pub(super) fn encode_balancing(balancing: &Balancing) -> wire::Balancing {
    use wire::balancing::{Algorithm, Plain};
    let plain = |plain: Plain| Algorithm::Plain(plain.into());
    wire::Balancing {
        algorithm: Some(match balancing {
            Balancing::RoundRobin => plain(Plain::RoundRobin),
            Balancing::LeastRequest => plain(Plain::LeastRequest),
            Balancing::PeakEwma => plain(Plain::PeakEwma),
            Balancing::Random => plain(Plain::Random),
            Balancing::ConsistentHash(by) => Algorithm::ConsistentHash(encode_hash_by(by)),
        }),
    }
}

fn decode_hash_by(message: &wire::HashBy) -> Result<HashBy, Error> {
    use wire::hash_by::By;
    Ok(
        match message.by.as_ref().ok_or(Error::Missing("hash by"))? {
            By::Header(name) => HashBy::Header(needed("hash header", name)?),
            By::Cookie(cookie) => HashBy::Cookie {
                name: needed("hash cookie", &cookie.name)?,
                ttl: cookie
                    .is_given
                    .then(|| Duration::from_millis(cookie.ttl_ms)),
                path: match cookie.path.as_str() {
                    "" => "/".into(),
                    path => path.into(),
                },
            },
            By::SourceIp(_) => HashBy::SourceIp,
        },
    )
}

fn encode_hash_by(by: &HashBy) -> wire::HashBy {
    use wire::hash_by::{Address, By, Cookie};
    wire::HashBy {
        by: Some(match by {
            HashBy::Header(name) => By::Header(name.to_string()),
            HashBy::Cookie { name, ttl, path } => By::Cookie(Cookie {
                name: name.to_string(),
                is_given: ttl.is_some(),
                ttl_ms: milliseconds(*ttl),
                path: path.to_string(),
            }),
            HashBy::SourceIp => By::SourceIp(Address {}),
        }),
    }
}

pub(super) fn decode_locality(number: i32) -> Result<Option<LocalityPreference>, Error> {
    known("locality", number, |preference| {
        use wire::LocalityPreference as Wire;
        Some(match preference {
            Wire::Unspecified => None,
            Wire::AllAlike => Some(LocalityPreference::None),
            Wire::Failover => Some(LocalityPreference::Failover),
            Wire::Strict => Some(LocalityPreference::Strict),
        })
    })
}

pub(super) fn encode_locality(preference: Option<LocalityPreference>) -> wire::LocalityPreference {
    use wire::LocalityPreference as Wire;
    match preference {
        None => Wire::Unspecified,
        Some(LocalityPreference::None) => Wire::AllAlike,
        Some(LocalityPreference::Failover) => Wire::Failover,
        Some(LocalityPreference::Strict) => Wire::Strict,
    }
}

pub(super) fn decode_retry(message: &wire::RetryPolicy) -> Result<RetryPolicy, Error> {
    let budget = message.budget.map(|budget| {
        Ok::<_, Error>(RetryBudget {
            percent: percent("retry budget", budget.percent)?.into(),
            least: budget.least,
        })
    });
    Ok(RetryPolicy {
        codes: parts("retry codes", &message.codes, |code| status(*code))?,
        grpc_codes: parts("retry codes", &message.grpc_codes, |code| {
            grpc_failure(*code)
        })?,
        attempts: attempts(message.attempts)?,
        backoff: limit(message.backoff_ms),
        budget: budget.transpose()?,
    })
}

/// A code of gRPC that says that a call failed.
fn grpc_failure(code: u32) -> Result<u16, Error> {
    match u16::try_from(code) {
        Ok(code @ 1..=16) => Ok(code),
        _ => Err(invalid(
            "grpc code",
            format!("{code} is no code of a failure"),
        )),
    }
}

pub(super) fn encode_retry(retry: &RetryPolicy) -> wire::RetryPolicy {
    wire::RetryPolicy {
        codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
        grpc_codes: retry.grpc_codes.iter().map(|code| (*code).into()).collect(),
        attempts: retry.attempts,
        backoff_ms: milliseconds(retry.backoff),
        budget: retry.budget.map(|budget| wire::RetryBudget {
            percent: budget.percent,
            least: budget.least,
        }),
    }
}

pub(super) fn decode_circuit(message: wire::CircuitBreaker) -> CircuitBreaker {
    CircuitBreaker {
        connections: message.connections,
        pending: message.pending,
        requests: message.requests,
    }
}

pub(super) fn encode_circuit(circuit: CircuitBreaker) -> wire::CircuitBreaker {
    wire::CircuitBreaker {
        connections: circuit.connections,
        pending: circuit.pending,
        requests: circuit.requests,
    }
}

pub(super) fn decode_outliers(message: &wire::OutlierDetection) -> Result<OutlierDetection, Error> {
    let time = |field, milliseconds| positive(field, milliseconds).map(Duration::from_millis);
    Ok(OutlierDetection {
        consecutive: (message.consecutive > 0).then_some(message.consecutive),
        success_rate: message.success_rate.map(|rate| SuccessRate {
            endpoints: rate.endpoints,
            requests: rate.requests,
            deviation_percent: rate.deviation_percent,
        }),
        interval: time("outlier interval", message.interval_ms)?,
        ejection: time("ejection", message.ejection_ms)?,
        ejection_most: time("longest ejection", message.ejection_most_ms)?,
        percent: percent("ejected endpoints", message.percent)?,
    })
}

pub(super) fn encode_outliers(outliers: &OutlierDetection) -> wire::OutlierDetection {
    wire::OutlierDetection {
        consecutive: outliers.consecutive.unwrap_or_default(),
        success_rate: outliers.success_rate.map(|rate| wire::SuccessRate {
            endpoints: rate.endpoints,
            requests: rate.requests,
            deviation_percent: rate.deviation_percent,
        }),
        interval_ms: milliseconds(Some(outliers.interval)),
        ejection_ms: milliseconds(Some(outliers.ejection)),
        ejection_most_ms: milliseconds(Some(outliers.ejection_most)),
        percent: outliers.percent.into(),
    }
}

pub(super) fn decode_health_check(message: &wire::HealthCheck) -> Result<HealthCheck, Error> {
    use wire::health_check::Probe;
    let time = |field, milliseconds| positive(field, milliseconds).map(Duration::from_millis);
    let probe = match message.probe.as_ref().ok_or(Error::Missing("probe"))? {
        Probe::Http(probe) => HealthProbe::Http {
            path: needed("health path", &probe.path)?,
            host: optional("health host", &probe.host)?,
            statuses: (status(probe.from_status)?, status(probe.to_status)?),
        },
        Probe::Grpc(probe) => HealthProbe::Grpc {
            service: optional("health service", &probe.service)?,
        },
        Probe::Tcp(_) => HealthProbe::Tcp,
    };
    Ok(HealthCheck {
        probe,
        port: match port_or_zero("health port", message.port)? {
            0 => None,
            port => Some(port),
        },
        interval: time("health interval", message.interval_ms)?,
        timeout: time("health timeout", message.timeout_ms)?,
        healthy: positive("healthy", message.healthy)?,
        unhealthy: positive("unhealthy", message.unhealthy)?,
    })
}

pub(super) fn encode_health_check(check: &HealthCheck) -> wire::HealthCheck {
    use wire::health_check::Probe;
    let probe = match &check.probe {
        HealthProbe::Http {
            path,
            host,
            statuses: (from, to),
        } => Probe::Http(wire::HttpProbe {
            path: path.to_string(),
            host: text_of(host.as_ref()),
            from_status: (*from).into(),
            to_status: (*to).into(),
        }),
        HealthProbe::Grpc { service } => Probe::Grpc(wire::GrpcProbe {
            service: text_of(service.as_ref()),
        }),
        HealthProbe::Tcp => Probe::Tcp(wire::TcpProbe {}),
    };
    wire::HealthCheck {
        probe: Some(probe),
        port: check.port.unwrap_or_default().into(),
        interval_ms: milliseconds(Some(check.interval)),
        timeout_ms: milliseconds(Some(check.timeout)),
        healthy: check.healthy,
        unhealthy: check.unhealthy,
    }
}

fn percent(field: &'static str, number: u32) -> Result<u8, Error> {
    match u8::try_from(number) {
        Ok(percent @ 0..=100) => Ok(percent),
        _ => Err(invalid(field, format!("{number} percent"))),
    }
}
