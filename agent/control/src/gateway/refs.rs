//! What objects refer to, and whether they may.

use std::sync::Arc;

use super::{Fault, World};
use crate::source::Kind;
use crate::source::gateway_api::{GROUP, ObjectReference, Pair, Parameters};

/// An object that points at others.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
}

/// Whether a ReferenceGrant of the namespace that is pointed into allows it; within a namespace
/// none is needed.
pub(super) fn is_granted(
    world: &World<'_>,
    from: From<'_>,
    (group, kind): (&str, &str),
    namespace: &str,
    name: &str,
) -> bool {
    if from.namespace == namespace {
        return true;
    }
    let from_kind = format!("{:?}", from.kind);
    let grants = world.tables.grants.values();
    let mut grants = grants.filter(|grant| grant.metadata.namespace == namespace);
    grants.any(|grant| {
        let is_from =
            grant.spec.from.iter().any(|of| {
                of.group == GROUP && of.kind == from_kind && of.namespace == from.namespace
            });
        is_from
            && grant.spec.to.iter().any(|to| {
                let named = to.name.as_deref().filter(|named| !named.is_empty());
                to.group == group && to.kind == kind && named.is_none_or(|named| named == name)
            })
    })
}

/// The certificate of a Secret. `reason` is for one that is missing, of another kind or broken.
pub(super) fn certificate(
    world: &World<'_>,
    from: From<'_>,
    reference: &ObjectReference,
    reason: &'static str,
) -> Result<Pair, Fault> {
    if !reference.is("", "Secret", "Secret") {
        let message = format!("{}: a certificate can be in a Secret only", reference.name);
        return Err(Fault::new(reason, message));
    }
    let namespace = reference.namespace_or(from.namespace);
    let name = reference.name.as_str();
    if !is_granted(world, from, ("", "Secret"), namespace, name) {
        return Err(not_granted("Secret", namespace, name));
    }
    let secrets = &world.tables.secrets;
    match secrets.get(&(namespace.into(), name.into())) {
        None => {
            let message = format!("Secret {namespace}/{name} does not exist");
            Err(Fault::new(reason, message))
        }
        Some(secret) => secret
            .pair
            .clone()
            .map_err(|message| Fault::new(reason, format!("Secret {namespace}/{name}: {message}"))),
    }
}

/// What a `parametersRef` leads to. `own` is the namespace where the reference has none.
pub(super) fn parameters<'a>(
    world: &World<'a>,
    reference: &ObjectReference,
    own: &str,
) -> Result<&'a Parameters, String> {
    if !reference.is("", "ConfigMap", "") {
        return Err("parameters can be in a ConfigMap only".to_owned());
    }
    let namespace = reference.namespace_or(own);
    let name = reference.name.as_str();
    let map = world
        .tables
        .config_maps
        .get(&(namespace.into(), name.into()));
    let map = map.ok_or_else(|| format!("ConfigMap {namespace}/{name} does not exist"))?;
    let said = map.parameters.as_ref();
    said.map_err(|message| format!("ConfigMap {namespace}/{name}: {message}"))
}

/// The reasons for authorities that cannot be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct AuthorityReasons {
    pub(super) kind: &'static str,
    pub(super) missing: &'static str,
}

/// The certificates of ConfigMaps, PEM; empty when none can be used. And what is wrong with the
/// first that cannot.
pub(super) fn authorities(
    world: &World<'_>,
    from: From<'_>,
    references: &[ObjectReference],
    reasons: AuthorityReasons,
) -> (String, Option<Fault>) {
    let mut pem = String::new();
    let mut first = None;
    for reference in references {
        match authority(world, from, reference, reasons) {
            Ok(found) => {
                pem.push_str(&found);
                pem.push('\n');
            }
            Err(fault) => {
                first.get_or_insert(fault);
            }
        }
    }
    (pem, first)
}

fn authority(
    world: &World<'_>,
    from: From<'_>,
    reference: &ObjectReference,
    reasons: AuthorityReasons,
) -> Result<Arc<str>, Fault> {
    if !reference.is("", "ConfigMap", "") {
        let message = format!("{}: authorities can be in a ConfigMap only", reference.name);
        return Err(Fault::new(reasons.kind, message));
    }
    let namespace = reference.namespace_or(from.namespace);
    let name = reference.name.as_str();
    if !is_granted(world, from, ("", "ConfigMap"), namespace, name) {
        return Err(not_granted("ConfigMap", namespace, name));
    }
    let maps = &world.tables.config_maps;
    match maps.get(&(namespace.into(), name.into())) {
        None => {
            let message = format!("ConfigMap {namespace}/{name} does not exist");
            Err(Fault::new(reasons.missing, message))
        }
        Some(map) => map.authorities.clone().map_err(|message| {
            let message = format!("ConfigMap {namespace}/{name}: {message}");
            Fault::new(reasons.missing, message)
        }),
    }
}

pub(super) fn not_granted(kind: &str, namespace: &str, name: &str) -> Fault {
    let message = format!("no ReferenceGrant of {namespace} allows {kind} {namespace}/{name}");
    Fault::new("RefNotPermitted", message)
}
