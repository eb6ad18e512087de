//! TrafficPolicy: everything about traffic that the Gateway API has no words for. Strict: a field
//! that is not known, and fields that make no sense together, are errors that name the field.

mod field;
mod request;
mod spec;
#[cfg(test)]
mod tests;
mod upstream;

use agent_model::gateway::traffic::TrafficPolicy;

use self::field::at;
pub(crate) use self::spec::{TargetRef, TrafficPolicySpec};
use super::decode::FieldError;
use super::gateway_api::{GROUP, Marks};
use super::object::Strict;

/// Most things one policy is attached to, as in the Gateway API.
const MAX_TARGETS: usize = 16;

/// `culvert.dev TrafficPolicy`.
pub(crate) type TrafficPolicyObject = Strict<TrafficPolicySpec, Marks>;

impl TrafficPolicyObject {
    /// Name of the Secret that holds the password of its Redis, in its own namespace.
    pub(crate) fn secret(&self) -> Option<&str> {
        Some(self.redis()?.secret_ref.as_ref()?.name.as_str())
    }

    /// Names of the ConfigMaps that the certificate of its Redis is verified with, in its own
    /// namespace.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &str> {
        let tls = self.redis().and_then(|redis| redis.tls.as_ref());
        let references = tls.into_iter().flat_map(|tls| &tls.ca_certificate_refs);
        references.map(|reference| reference.name.as_str())
    }

    fn redis(&self) -> Option<&spec::Redis> {
        Some(&self.spec.rate_limit.as_ref()?.global.as_ref()?.redis)
    }
}

/// Refuses what [`translate`] cannot make sense of.
pub(in crate::source) fn check_traffic_policy(
    object: &TrafficPolicyObject,
) -> Result<(), FieldError> {
    translate(object).map(|_| ())
}

/// What a policy says; without its targets, when it was made and the login and the authorities of
/// its Redis, which are found elsewhere.
pub(crate) fn translate(object: &TrafficPolicyObject) -> Result<TrafficPolicy, FieldError> {
    let spec = &object.spec;
    check_targets(spec)?;
    let policy = TrafficPolicy {
        namespace: object.metadata.namespace.as_str().into(),
        name: object.metadata.name.as_str().into(),
        load_balancing: part(spec.load_balancing.as_ref(), upstream::balancing)?,
        locality: spec.locality.map(upstream::locality),
        retry: part(spec.retry.as_ref(), upstream::retry)?,
        timeouts: part(spec.timeouts.as_ref(), upstream::timeouts)?,
        circuit_breaker: part(spec.circuit_breaker.as_ref(), upstream::circuit)?,
        outlier_detection: part(spec.outlier_detection.as_ref(), upstream::outliers)?,
        health_check: part(spec.health_check.as_ref(), upstream::health)?,
        rate_limit: part(spec.rate_limit.as_ref(), request::rate_limit)?,
        fault: part(spec.fault.as_ref(), request::fault)?,
        session_persistence: part(spec.session_persistence.as_ref(), upstream::session)?,
        compression: part(spec.compression.as_ref(), request::compression)?,
        headers: part(spec.headers.as_ref(), request::headers)?,
        body_limits: part(spec.body_limits.as_ref(), request::body_limits)?,
        ..TrafficPolicy::default()
    };
    if policy.parts().next().is_none() {
        return Err(FieldError::new("spec", "says nothing but what it is for"));
    }
    check_reach(spec, &policy)?;
    Ok(policy)
}

fn part<T, U>(
    spec: Option<&T>,
    translate: impl Fn(&T) -> Result<U, FieldError>,
) -> Result<Option<U>, FieldError> {
    spec.map(translate).transpose()
}

fn check_targets(spec: &TrafficPolicySpec) -> Result<(), FieldError> {
    const FIELD: &str = "spec.targetRefs";
    let targets = &spec.target_refs;
    if targets.is_empty() {
        return Err(FieldError::new(FIELD, "missing"));
    }
    if targets.len() > MAX_TARGETS {
        let message = format!("more than {MAX_TARGETS}");
        return Err(FieldError::new(FIELD, message));
    }
    for (index, target) in targets.iter().enumerate() {
        let path = format!("{FIELD}[{index}]");
        let is_known = match target.group.as_str() {
            "" => target.kind == "Service",
            GROUP => matches!(target.kind.as_str(), "Gateway" | "HTTPRoute" | "GRPCRoute"),
            _ => false,
        };
        if !is_known {
            let message = format!(
                "a {} of group {:?} cannot be a target; a Service, or a Gateway, HTTPRoute or \
                 GRPCRoute of {GROUP} can",
                target.kind, target.group
            );
            return Err(FieldError::new(at(&path, "kind"), message));
        }
        if target.name.is_empty() {
            return Err(FieldError::new(at(&path, "name"), "missing"));
        }
        if targets[..index].contains(target) {
            return Err(FieldError::new(path, "the same target again"));
        }
    }
    Ok(())
}

/// What endpoints are chosen from, and what is known of them, is shared by all requests to a
/// service: no route and no listener has its own.
fn check_reach(spec: &TrafficPolicySpec, policy: &TrafficPolicy) -> Result<(), FieldError> {
    const SHARED: [&str; 5] = [
        "loadBalancing",
        "locality",
        "circuitBreaker",
        "outlierDetection",
        "healthCheck",
    ];
    let is_narrow = |target: &TargetRef| target.kind != "Service" && !target.is_whole_gateway();
    let Some(narrow) = spec.target_refs.iter().find(|target| is_narrow(target)) else {
        return Ok(());
    };
    let shared = policy.parts().find(|part| SHARED.contains(part));
    shared.map_or(Ok(()), |part| {
        let message = format!(
            "is for Services and whole Gateways; {} {} is neither",
            narrow.kind, narrow.name
        );
        Err(FieldError::new(at("spec", part), message))
    })
}
