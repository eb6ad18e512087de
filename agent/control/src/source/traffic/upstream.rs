//! Parts that act between a rule and endpoints, and the time limits.

use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::traffic::{
    Balancing, CircuitBreaker, HashBy, HealthCheck, HealthProbe, LocalityPreference,
    OutlierDetection, RetryBudget, RetryPolicy, SuccessRate,
};
use agent_model::gateway::{Persistence, SessionPersistence, Timeouts};

use super::field::{at, header, is_token, time, time_or, within};
use super::spec::{self, Algorithm, Lifetime, Locality, SessionType};
use crate::source::decode::FieldError;

pub(super) fn balancing(spec: &spec::LoadBalancing) -> Result<Balancing, FieldError> {
    const PATH: &str = "spec.loadBalancing.hashBy";
    let algorithm = spec.algorithm.unwrap_or(Algorithm::PeakEwma);
    match (algorithm, &spec.hash_by) {
        (Algorithm::ConsistentHash, Some(by)) => hash_by(PATH, by).map(Balancing::ConsistentHash),
        (Algorithm::ConsistentHash, None) => Err(FieldError::new(PATH, "missing")),
        (_, Some(_)) => Err(FieldError::new(PATH, "is for consistentHash only")),
        (Algorithm::RoundRobin, None) => Ok(Balancing::RoundRobin),
        (Algorithm::LeastRequest, None) => Ok(Balancing::LeastRequest),
        (Algorithm::PeakEwma, None) => Ok(Balancing::PeakEwma),
        (Algorithm::Random, None) => Ok(Balancing::Random),
    }
}

fn hash_by(path: &str, spec: &spec::HashBy) -> Result<HashBy, FieldError> {
    match (&spec.header, &spec.cookie, spec.source_ip.unwrap_or(false)) {
        (Some(name), None, false) => Ok(HashBy::Header(header(&at(path, "header"), name)?)),
        (None, Some(cookie), false) => {
            let path = at(path, "cookie");
            if !is_token(&cookie.name) {
                let message = format!("{:?} is not the name of a cookie", cookie.name);
                return Err(FieldError::new(at(&path, "name"), message));
            }
            let ttl = cookie.ttl.as_deref();
            Ok(HashBy::Cookie {
                name: cookie.name.as_str().into(),
                ttl: ttl.map(|text| time(&at(&path, "ttl"), text)).transpose()?,
                path: cookie_path(&at(&path, "path"), cookie.path.as_deref())?,
            })
        }
        (None, None, true) => Ok(HashBy::SourceIp),
        _ => Err(FieldError::new(
            path,
            "has to have one of header, cookie and sourceIp: true",
        )),
    }
}

/// A path that a cookie may be for (RFC 6265, 4.1.1).
fn cookie_path(path: &str, text: Option<&str>) -> Result<Arc<str>, FieldError> {
    let text = text.unwrap_or("/");
    let of_path = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    match text.starts_with('/') && text.bytes().all(of_path) {
        true => Ok(text.into()),
        false => Err(FieldError::new(path, format!("{text:?} is not a path"))),
    }
}

pub(super) fn locality(locality: Locality) -> LocalityPreference {
    match locality {
        Locality::None => LocalityPreference::None,
        Locality::Failover => LocalityPreference::Failover,
        Locality::Strict => LocalityPreference::Strict,
    }
}

pub(super) fn retry(spec: &spec::Retry) -> Result<RetryPolicy, FieldError> {
    let codes = spec.codes.iter().enumerate();
    let codes = codes.map(|(index, code)| {
        let path = format!("spec.retry.codes[{index}]");
        within(&path, *code, 400, 599)
    });
    let grpc_codes = spec.grpc_codes.iter().enumerate();
    let grpc_codes = grpc_codes.map(|(index, code)| {
        let path = format!("spec.retry.grpcCodes[{index}]");
        within(&path, *code, 1, 16)
    });
    let attempts = spec.attempts.unwrap_or(1);
    let backoff = spec.backoff.as_ref();
    let backoff = backoff.map(|text| time_or("spec.retry.backoff", Some(text), Duration::ZERO));
    let budget = spec.budget.as_ref().map(|budget| {
        let percent = budget.percent.unwrap_or(20);
        Ok(RetryBudget {
            percent: within("spec.retry.budget.percent", percent, 0, 100)?,
            least: budget.least.unwrap_or(3),
        })
    });
    Ok(RetryPolicy {
        codes: codes.collect::<Result<_, _>>()?,
        grpc_codes: grpc_codes.collect::<Result<_, _>>()?,
        attempts: within("spec.retry.attempts", attempts, 0, 100)?,
        backoff: backoff.transpose()?,
        budget: budget.transpose()?,
    })
}

pub(super) fn timeouts(spec: &spec::Timeouts) -> Result<Timeouts, FieldError> {
    let limit = |path: &str, text: Option<&String>| {
        let time = text.map(|text| time(path, text)).transpose()?;
        // Zero turns a limit off.
        Ok::<_, FieldError>(time.filter(|time| !time.is_zero()))
    };
    if spec.request.is_none() && spec.backend_request.is_none() {
        let message = "neither request nor backendRequest";
        return Err(FieldError::new("spec.timeouts", message));
    }
    let request = limit("spec.timeouts.request", spec.request.as_ref())?;
    let path = "spec.timeouts.backendRequest";
    let backend_request = limit(path, spec.backend_request.as_ref())?;
    if let (Some(request), Some(attempt)) = (request, backend_request)
        && attempt > request
    {
        return Err(FieldError::new(path, "longer than request"));
    }
    Ok(Timeouts {
        request,
        backend_request,
    })
}

pub(super) fn circuit(spec: &spec::CircuitBreaker) -> Result<CircuitBreaker, FieldError> {
    let spec::CircuitBreaker {
        connections,
        pending,
        requests,
    } = *spec;
    if connections.is_none() && pending.is_none() && requests.is_none() {
        return Err(FieldError::new("spec.circuitBreaker", "limits nothing"));
    }
    if connections == Some(0) {
        let message = "0 would let nothing through";
        return Err(FieldError::new("spec.circuitBreaker.connections", message));
    }
    Ok(CircuitBreaker {
        connections,
        pending,
        requests,
    })
}

pub(super) fn outliers(spec: &spec::OutlierDetection) -> Result<OutlierDetection, FieldError> {
    const PATH: &str = "spec.outlierDetection";
    let defaults = OutlierDetection::default();
    let rates = SuccessRate::default();
    let found = OutlierDetection {
        consecutive: match spec.consecutive_errors {
            None => defaults.consecutive,
            Some(0) => None,
            some => some,
        },
        success_rate: spec.success_rate.as_ref().map(|rate| SuccessRate {
            endpoints: rate.min_endpoints.unwrap_or(rates.endpoints),
            requests: rate.min_requests.unwrap_or(rates.requests),
            deviation_percent: rate.deviation_percent.unwrap_or(rates.deviation_percent),
        }),
        interval: time_or(
            &at(PATH, "interval"),
            spec.interval.as_ref(),
            defaults.interval,
        )?,
        ejection: time_or(
            &at(PATH, "ejection"),
            spec.ejection.as_ref(),
            defaults.ejection,
        )?,
        ejection_most: time_or(
            &at(PATH, "maxEjection"),
            spec.max_ejection.as_ref(),
            defaults.ejection_most,
        )?,
        percent: within(
            &at(PATH, "maxEjectedPercent"),
            spec.max_ejected_percent.unwrap_or(defaults.percent),
            0,
            100,
        )?,
    };
    if found.consecutive.is_none() && found.success_rate.is_none() {
        let message = "looks neither at errors in a row nor at success rates";
        return Err(FieldError::new(PATH, message));
    }
    if found.ejection > found.ejection_most {
        let message = "shorter than ejection";
        return Err(FieldError::new(at(PATH, "maxEjection"), message));
    }
    Ok(found)
}

pub(super) fn health(spec: &spec::HealthCheck) -> Result<HealthCheck, FieldError> {
    const PATH: &str = "spec.healthCheck";
    let probe = match (&spec.http, &spec.grpc, &spec.tcp) {
        (Some(http), None, None) => http_probe(http)?,
        (None, Some(grpc), None) => HealthProbe::Grpc {
            service: grpc.service.as_deref().map(Into::into),
        },
        (None, None, Some(_)) => HealthProbe::Tcp,
        _ => {
            let message = "has to have one of http, grpc and tcp";
            return Err(FieldError::new(PATH, message));
        }
    };
    if spec.port == Some(0) {
        return Err(FieldError::new(at(PATH, "port"), "0 is not a port"));
    }
    let (every, most) = (Duration::from_secs(10), Duration::from_secs(1));
    let interval = time_or(&at(PATH, "interval"), spec.interval.as_ref(), every)?;
    let path = at(PATH, "timeout");
    let timeout = time_or(&path, spec.timeout.as_ref(), most.min(interval))?;
    if timeout > interval {
        return Err(FieldError::new(path, "longer than interval"));
    }
    let count = |field: &str, number: Option<u32>, default: u32| {
        within(&at(PATH, field), number.unwrap_or(default), 1, 1000)
    };
    Ok(HealthCheck {
        probe,
        port: spec.port,
        interval,
        timeout,
        healthy: count("healthy", spec.healthy, 1)?,
        unhealthy: count("unhealthy", spec.unhealthy, 3)?,
    })
}

fn http_probe(spec: &spec::HttpProbe) -> Result<HealthProbe, FieldError> {
    const PATH: &str = "spec.healthCheck.http";
    let path = spec.path.as_deref().unwrap_or("/");
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_path {
        let message = format!("{path:?} is not a path");
        return Err(FieldError::new(at(PATH, "path"), message));
    }
    let host = spec.host.as_deref();
    let is_host = |host: &str| {
        let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        !host.is_empty() && host.bytes().all(of_host)
    };
    if host.is_some_and(|host| !is_host(host)) {
        return Err(FieldError::new(at(PATH, "host"), "is not a host"));
    }
    let statuses = spec.statuses.as_ref();
    let statuses = statuses.map_or(Ok((200, 299)), |statuses| {
        let path = at(PATH, "statuses");
        let from = within(&at(&path, "from"), statuses.from, 100, 599)?;
        Ok((from, within(&at(&path, "to"), statuses.to, from, 599)?))
    })?;
    Ok(HealthProbe::Http {
        path: path.into(),
        host: host.map(Into::into),
        statuses,
    })
}

pub(super) fn session(spec: &spec::Session) -> Result<SessionPersistence, FieldError> {
    const PATH: &str = "spec.sessionPersistence";
    let name = spec.session_name.as_deref().unwrap_or("culvert-session");
    if !is_token(name) {
        let message = format!("{name:?} is not the name of a cookie or header");
        return Err(FieldError::new(at(PATH, "sessionName"), message));
    }
    let cookie = spec.cookie_config.as_ref();
    let lifetime = cookie.and_then(|cookie| cookie.lifetime_type);
    let permanent = lifetime == Some(Lifetime::Permanent);
    let limit = |field: &str, text: Option<&String>| {
        let limit = text.map(|text| time_or(&at(PATH, field), Some(text), Duration::ZERO));
        limit.transpose()
    };
    let absolute_timeout = limit("absoluteTimeout", spec.absolute_timeout.as_ref())?;
    let kind = match spec.r#type.unwrap_or(SessionType::Cookie) {
        SessionType::Header if cookie.is_some() => {
            let message = "is for cookies only";
            return Err(FieldError::new(at(PATH, "cookieConfig"), message));
        }
        SessionType::Header => Persistence::Header,
        SessionType::Cookie if permanent && absolute_timeout.is_none() => {
            let message = "missing; a permanent cookie ends with it";
            return Err(FieldError::new(at(PATH, "absoluteTimeout"), message));
        }
        SessionType::Cookie => Persistence::Cookie { permanent },
    };
    Ok(SessionPersistence {
        name: name.into(),
        kind,
        absolute_timeout,
        idle_timeout: limit("idleTimeout", spec.idle_timeout.as_ref())?,
    })
}
