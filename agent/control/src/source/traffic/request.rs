//! Parts that act on requests and responses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_model::gateway::traffic::{
    BodyLimits, Compression, ContentCoding, Fault, FaultAbort, FaultDelay, GlobalLimit,
    HeaderEdits, Limit, LimitBy, RateLimit, Redis, WhenGone,
};
use agent_model::gateway::{
    BackendTls, HeaderChange, HeaderValue, Hostname, TrustedRoots, VerifiedTls,
};
use k8s_openapi::jiff::Timestamp;

use super::field::{at, header, share, size, time, time_or, within};
use super::spec::{self, Coding, Edits, Property, WhenUnavailable};
use crate::source::decode::FieldError;

/// What is compressed when nothing is said.
const TEXTS: [&str; 6] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "image/svg+xml",
];
/// Fields that frame a message, or whose change would change where it goes.
const FRAMING: [&str; 6] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-encoding",
];
const HOUR: Duration = Duration::from_secs(3600);
/// ConfigMaps that a Redis' certificate may be verified with.
const MAX_AUTHORITIES: usize = 8;
/// Longest time a request may wait for a Redis.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) fn rate_limit(spec: &spec::RateLimit) -> Result<RateLimit, FieldError> {
    const PATH: &str = "spec.rateLimit";
    if spec.local.is_none() && spec.global.is_none() {
        return Err(FieldError::new(PATH, "neither local nor global"));
    }
    let local = spec.local.as_ref();
    let global = spec.global.as_ref();
    Ok(RateLimit {
        local: local
            .map(|spec| limit("spec.rateLimit.local", spec))
            .transpose()?,
        global: global
            .map(|spec| global_limit("spec.rateLimit.global", spec))
            .transpose()?,
    })
}

fn limit(path: &str, spec: &spec::Limit) -> Result<Limit, FieldError> {
    let missing = || FieldError::new(at(path, "requests"), "missing");
    let requests = spec.requests.ok_or_else(missing)?;
    let burst = spec.burst.unwrap_or(requests.max(1));
    let by = spec.by.iter().enumerate();
    let by = by.map(|(index, by)| limit_by(&format!("{path}.by[{index}]"), by));
    Ok(Limit {
        requests,
        per: time_or(&at(path, "per"), spec.per.as_ref(), Duration::from_secs(1))?,
        burst: within(&at(path, "burst"), burst, 1, u32::MAX)?,
        by: by.collect::<Result<_, _>>()?,
    })
}

fn limit_by(path: &str, spec: &spec::LimitBy) -> Result<LimitBy, FieldError> {
    let name = spec.name.as_deref();
    let missing = || FieldError::new(at(path, "property"), "missing");
    let property = spec.property.ok_or_else(missing)?;
    if name.is_some() && property != Property::Header {
        return Err(FieldError::new(at(path, "name"), "is for header only"));
    }
    Ok(match property {
        Property::SourceIp => LimitBy::SourceIp,
        Property::SourceIdentity => LimitBy::SourceIdentity,
        Property::Header => LimitBy::Header(header(&at(path, "name"), name.unwrap_or_default())?),
        Property::Host => LimitBy::Host,
        Property::Path => LimitBy::Path,
        Property::Method => LimitBy::Method,
    })
}

fn global_limit(path: &str, spec: &spec::GlobalLimit) -> Result<GlobalLimit, FieldError> {
    let redis = &spec.redis;
    let at_redis = |field: &str| format!("{path}.redis.{field}");
    let parts = redis.address.rsplit_once(':');
    let is_address = parts.is_some_and(|(host, port)| {
        let port = port.parse::<u16>();
        !host.is_empty() && !host.contains(['/', '@']) && port.is_ok_and(|port| port != 0)
    });
    if !is_address {
        let message = format!("{:?} is not host:port", redis.address);
        return Err(FieldError::new(at_redis("address"), message));
    }
    if redis
        .secret_ref
        .as_ref()
        .is_some_and(|of| of.name.is_empty())
    {
        return Err(FieldError::new(at_redis("secretRef.name"), "missing"));
    }
    let timeout = at_redis("timeout");
    let wait = time_or(&timeout, redis.timeout.as_ref(), Duration::from_millis(50))?;
    if wait > LONGEST_WAIT {
        return Err(FieldError::new(timeout, "longer than 10s"));
    }
    let counted = spec::Limit {
        requests: spec.requests,
        per: spec.per.clone(),
        burst: spec.burst,
        by: spec.by.clone(),
    };
    Ok(GlobalLimit {
        limit: limit(path, &counted)?,
        redis: Redis {
            address: redis.address.as_str().into(),
            tls: redis
                .tls
                .as_ref()
                .map(|tls| redis_tls(&at_redis("tls"), tls, &redis.address))
                .transpose()?,
            login: None,
            timeout: wait,
        },
        when_gone: match spec.when_unavailable {
            None | Some(WhenUnavailable::Open) => WhenGone::Open,
            Some(WhenUnavailable::Closed) => WhenGone::Closed,
        },
    })
}

/// By the roots of the system; authorities that are named are found elsewhere.
fn redis_tls(path: &str, tls: &spec::RedisTls, address: &str) -> Result<BackendTls, FieldError> {
    let refs = &tls.ca_certificate_refs;
    let at_refs = |what: &str| FieldError::new(at(path, "caCertificateRefs"), what);
    if refs.len() > MAX_AUTHORITIES {
        return Err(at_refs("more than 8"));
    }
    if refs.iter().any(|of| of.name.is_empty()) {
        return Err(at_refs("one without a name"));
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = tls.hostname.as_deref().unwrap_or(host);
    let is_name = host
        .parse::<Hostname>()
        .is_ok_and(|host| !host.is_wildcard());
    if !is_name && host.parse::<IpAddr>().is_err() {
        let message = format!("{host:?} is neither a host name nor an address");
        return Err(FieldError::new(at(path, "hostname"), message));
    }
    Ok(BackendTls::Verified(VerifiedTls {
        hostname: host.into(),
        roots: TrustedRoots::System,
        subject_alt_names: Vec::new(),
    }))
}

pub(super) fn fault(spec: &spec::Fault) -> Result<Fault, FieldError> {
    if spec.delay.is_none() && spec.abort.is_none() {
        return Err(FieldError::new("spec.fault", "neither delay nor abort"));
    }
    let delay = spec.delay.as_ref().map(|delay| {
        const PATH: &str = "spec.fault.delay";
        let path = at(PATH, "duration");
        let duration = time(&path, &delay.duration)?;
        if duration > HOUR {
            return Err(FieldError::new(path, "longer than 1h"));
        }
        Ok(FaultDelay {
            duration,
            fraction: share(PATH, delay.percent, delay.fraction.as_ref())?,
        })
    });
    let abort = spec.abort.as_ref().map(|abort| {
        const PATH: &str = "spec.fault.abort";
        let grpc_status = abort.grpc_status;
        let grpc_status = grpc_status.map(|code| within(&at(PATH, "grpcStatus"), code, 1, 16));
        Ok(FaultAbort {
            status: within(&at(PATH, "status"), abort.status, 200, 599)?,
            grpc_status: grpc_status.transpose()?,
            fraction: share(PATH, abort.percent, abort.fraction.as_ref())?,
        })
    });
    let expires = spec.expires.as_deref().map(|text| {
        let time = text.parse::<Timestamp>().ok();
        let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok());
        let message = || format!("{text:?} is not a time such as 2026-01-31T12:00:00Z");
        seconds
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| FieldError::new("spec.fault.expires", message()))
    });
    Ok(Fault {
        delay: delay.transpose()?,
        abort: abort.transpose()?,
        expires: expires.transpose()?,
    })
}

pub(super) fn compression(spec: &spec::Compression) -> Result<Compression, FieldError> {
    let codings = match &spec.codings {
        None => vec![ContentCoding::Gzip, ContentCoding::Brotli],
        Some(codings) => codings.iter().copied().map(coding).collect(),
    };
    if codings.is_empty() {
        return Err(FieldError::new("spec.compression.codings", "an empty list"));
    }
    let types = match &spec.content_types {
        None => TEXTS.map(Arc::from).into(),
        Some(types) => {
            let types = types.iter().enumerate();
            let types = types.map(|(index, text)| {
                media_type(&format!("spec.compression.contentTypes[{index}]"), text)
            });
            types.collect::<Result<Vec<_>, _>>()?
        }
    };
    if types.is_empty() {
        let path = "spec.compression.contentTypes";
        return Err(FieldError::new(path, "an empty list"));
    }
    let least = spec.min_length.as_deref().unwrap_or("1Ki");
    Ok(Compression {
        codings,
        content_types: types,
        min_length: size("spec.compression.minLength", least)?,
    })
}

fn coding(coding: Coding) -> ContentCoding {
    match coding {
        Coding::Gzip => ContentCoding::Gzip,
        Coding::Br => ContentCoding::Brotli,
    }
}

fn media_type(path: &str, text: &str) -> Result<Arc<str>, FieldError> {
    let parts = text.split_once('/');
    let is_one = parts.is_some_and(|(kind, of_kind)| {
        super::field::is_token(kind) && super::field::is_token(of_kind) && kind != "*"
    });
    match is_one {
        true => Ok(text.to_ascii_lowercase().into()),
        false => {
            let message = format!("{text:?} is not a media type such as text/html or text/*");
            Err(FieldError::new(path, message))
        }
    }
}

pub(super) fn headers(spec: &spec::Headers) -> Result<HeaderEdits, FieldError> {
    if spec.request.is_none() && spec.response.is_none() {
        let message = "neither request nor response";
        return Err(FieldError::new("spec.headers", message));
    }
    let change = |path: &str, edits: Option<&Edits>| {
        let edits = edits.map(|edits| edits_of(path, edits)).transpose()?;
        Ok::<_, FieldError>(edits.unwrap_or_default())
    };
    Ok(HeaderEdits {
        request: change("spec.headers.request", spec.request.as_ref())?,
        response: change("spec.headers.response", spec.response.as_ref())?,
    })
}

fn edits_of(path: &str, edits: &Edits) -> Result<HeaderChange, FieldError> {
    let values = |field: &str, headers: &[spec::Header]| {
        let headers = headers.iter().enumerate().map(|(index, of)| {
            let path = format!("{path}.{field}[{index}]");
            let is_text = |byte: u8| byte == b'\t' || (32..=126).contains(&byte);
            if !of.value.bytes().all(is_text) {
                return Err(FieldError::new(at(&path, "value"), "not ASCII text"));
            }
            Ok(HeaderValue {
                name: editable(&at(&path, "name"), &of.name)?,
                value: of.value.as_str().into(),
            })
        });
        headers.collect::<Result<Vec<_>, _>>()
    };
    let removed = edits.remove.iter().enumerate();
    let removed = removed.map(|(index, name)| editable(&format!("{path}.remove[{index}]"), name));
    Ok(HeaderChange {
        set: values("set", &edits.set)?,
        add: values("add", &edits.add)?,
        remove: removed.collect::<Result<_, _>>()?,
    })
}

fn editable(path: &str, name: &str) -> Result<Arc<str>, FieldError> {
    let name = header(path, name)?;
    match FRAMING.contains(&&*name) {
        true => Err(FieldError::new(path, format!("{name} cannot be changed"))),
        false => Ok(name),
    }
}

pub(super) fn body_limits(spec: &spec::BodyLimits) -> Result<BodyLimits, FieldError> {
    let Some(request) = spec.request.as_deref() else {
        return Err(FieldError::new("spec.bodyLimits.request", "missing"));
    };
    Ok(BodyLimits {
        request: Some(size("spec.bodyLimits.request", request)?),
    })
}
