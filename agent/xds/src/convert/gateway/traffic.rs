//! Traffic policies. A policy that cannot be read changes nothing: the last good one stays.

mod request;
mod upstream;

use agent_model::gateway::traffic::{HeaderEdits, TrafficPolicy, TrafficTarget};
use agent_model::gateway::{Fraction, GatewayKey, RouteKey, Timeouts};
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use self::request::{
    decode_compression, decode_fault, decode_rate_limit, encode_compression, encode_fault,
    encode_rate_limit,
};
use self::upstream::{
    decode_balancing, decode_health_check, decode_locality, decode_outliers, decode_retry,
    encode_balancing, encode_health_check, encode_locality, encode_outliers, encode_retry,
};
use super::super::any;
use super::super::fields::{invalid, port_or_zero, required};
use super::filter::{decode_headers, encode_headers};
use super::route::{decode_kind, encode_kind};
use super::rule::{decode_persistence, encode_persistence};
use super::{
    decode_service, encode_service, gateway_key, limit, milliseconds, optional, parts, text_of,
};
use crate::{Error, ResourceType};

/// Reads a TrafficPolicy resource: the gateway it is for, and the policy.
pub(crate) fn decode_traffic(bytes: &[u8]) -> Result<(GatewayKey, TrafficPolicy), Error> {
    let message = wire::TrafficPolicy::decode(bytes)?;
    let retry = message.retry.as_ref();
    let outliers = message.outlier_detection.as_ref();
    let persistence = message.session_persistence.as_ref();
    let policy = TrafficPolicy {
        namespace: required("namespace", &message.namespace)?,
        name: required("name", &message.name)?,
        created: message.created,
        targets: parts("targets", &message.targets, decode_traffic_target)?,
        load_balancing: part(message.load_balancing.as_ref(), decode_balancing)?,
        locality: decode_locality(message.locality)?,
        retry: part(retry, decode_retry)?,
        timeouts: message.timeouts.map(|limits| Timeouts {
            request: limit(limits.request_ms),
            backend_request: limit(limits.backend_request_ms),
        }),
        circuit_breaker: message.circuit_breaker.map(upstream::decode_circuit),
        outlier_detection: part(outliers, decode_outliers)?,
        health_check: part(message.health_check.as_ref(), decode_health_check)?,
        rate_limit: part(message.rate_limit.as_ref(), decode_rate_limit)?,
        fault: part(message.fault.as_ref(), decode_fault)?,
        session_persistence: part(persistence, decode_persistence)?,
        compression: part(message.compression.as_ref(), decode_compression)?,
        headers: part(message.headers.as_ref(), decode_edits)?,
        body_limits: message.body_limits.map(request::decode_body_limits),
    };
    Ok((gateway_key(&message.gateway)?, policy))
}

/// The TrafficPolicy resource that tells `gateway` of a policy.
pub(crate) fn encode_traffic(gateway: &GatewayKey, policy: &TrafficPolicy) -> Any {
    let limits = |limits: Timeouts| wire::TimeLimits {
        request_ms: milliseconds(limits.request),
        backend_request_ms: milliseconds(limits.backend_request),
    };
    let message = wire::TrafficPolicy {
        gateway: gateway.to_string(),
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        created: policy.created,
        targets: policy.targets.iter().map(encode_traffic_target).collect(),
        load_balancing: policy.load_balancing.as_ref().map(encode_balancing),
        locality: encode_locality(policy.locality).into(),
        retry: policy.retry.as_ref().map(encode_retry),
        timeouts: policy.timeouts.map(limits),
        circuit_breaker: policy.circuit_breaker.map(upstream::encode_circuit),
        outlier_detection: policy.outlier_detection.as_ref().map(encode_outliers),
        health_check: policy.health_check.as_ref().map(encode_health_check),
        rate_limit: policy.rate_limit.as_ref().map(encode_rate_limit),
        fault: policy.fault.as_ref().map(encode_fault),
        session_persistence: policy.session_persistence.as_ref().map(encode_persistence),
        compression: policy.compression.as_ref().map(encode_compression),
        headers: policy.headers.as_ref().map(|edits| wire::HeaderEdits {
            request: Some(encode_headers(&edits.request)),
            response: Some(encode_headers(&edits.response)),
        }),
        body_limits: policy.body_limits.map(request::encode_body_limits),
    };
    any(ResourceType::TrafficPolicy, &message)
}

fn part<T, U>(
    message: Option<&T>,
    decode: impl Fn(&T) -> Result<U, Error>,
) -> Result<Option<U>, Error> {
    message.map(decode).transpose()
}

fn decode_traffic_target(message: &wire::TrafficTarget) -> Result<TrafficTarget, Error> {
    use wire::traffic_target::Target;
    Ok(
        match message.target.as_ref().ok_or(Error::Missing("target"))? {
            Target::Service(scope) => TrafficTarget::Service {
                service: decode_service(scope.service.as_ref())?,
                port: match port_or_zero("target port", scope.port)? {
                    0 => None,
                    port => Some(port),
                },
            },
            Target::Gateway(scope) => TrafficTarget::Gateway {
                gateway: gateway_key(&scope.gateway)?,
                listener: optional("target listener", &scope.listener)?,
            },
            Target::Route(scope) => TrafficTarget::Route {
                route: RouteKey {
                    kind: decode_kind(scope.kind)?,
                    namespace: required("target namespace", &scope.namespace)?,
                    name: required("target name", &scope.name)?,
                },
                rule: optional("target rule", &scope.rule)?,
            },
        },
    )
}

fn encode_traffic_target(target: &TrafficTarget) -> wire::TrafficTarget {
    use wire::traffic_target::Target;
    let target = match target {
        TrafficTarget::Service { service, port } => Target::Service(wire::ServiceScope {
            service: Some(encode_service(service)),
            port: port.unwrap_or_default().into(),
        }),
        TrafficTarget::Gateway { gateway, listener } => Target::Gateway(wire::GatewayScope {
            gateway: gateway.to_string(),
            listener: text_of(listener.as_ref()),
        }),
        TrafficTarget::Route { route, rule } => Target::Route(wire::RouteScope {
            kind: encode_kind(route.kind).into(),
            namespace: route.namespace.to_string(),
            name: route.name.to_string(),
            rule: text_of(rule.as_ref()),
        }),
    };
    wire::TrafficTarget {
        target: Some(target),
    }
}

fn decode_edits(message: &wire::HeaderEdits) -> Result<HeaderEdits, Error> {
    let change = |change: Option<&wire::HeaderChange>| {
        let change = change.map(decode_headers).transpose()?;
        Ok::<_, Error>(change.unwrap_or_default())
    };
    Ok(HeaderEdits {
        request: change(message.request.as_ref())?,
        response: change(message.response.as_ref())?,
    })
}

fn fraction(field: &'static str, numerator: u32, denominator: u32) -> Result<Fraction, Error> {
    if denominator == 0 || numerator > denominator {
        return Err(invalid(field, format!("{numerator} of {denominator}")));
    }
    Ok(Fraction {
        numerator,
        denominator,
    })
}

/// A number of at least 1.
fn positive<T: Copy + Default + PartialEq>(field: &'static str, number: T) -> Result<T, Error> {
    match number == T::default() {
        true => Err(invalid(field, "0")),
        false => Ok(number),
    }
}
