//! PeerAuthentication -> the DENY policies that stand for it, and which workload lists which.
//!
//! STRICT is "deny whoever has no identity". DISABLE cannot be had (a node never turns the tunnel
//! off for a peer that uses it) and counts as PERMISSIVE.

use std::collections::BTreeMap;

use agent_model::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Scope as PolicyScope, StringMatch,
};

use super::{ByName, Mesh, Note, Scope, Translated};
use crate::code::Code;
use crate::source::istio::{MtlsMode, PeerAuthentication, Selector};
use crate::source::kubernetes::Labels;
use crate::source::{Kind, ObjectRef};

/// The policy all strict workloads list.
const STATIC_STRICT: &str = "istio_converted_static_strict";
/// Prefix of policies with ports; `_` cannot be in the name of a user's policy.
const CONVERTED: &str = "converted_peer_authentication_";

/// How the workloads of a namespace are to be spoken to.
#[derive(Debug)]
pub(crate) struct PeerModes {
    /// Oldest first.
    selecting: Vec<(Selector, Option<PolicyKey>)>,
    /// For workloads no policy selects.
    base: Option<PolicyKey>,
}

impl PeerModes {
    /// Keys that a workload with these labels lists.
    pub(crate) fn keys_for(&self, labels: &Labels) -> Option<PolicyKey> {
        let mut selecting = self.selecting.iter();
        let own = selecting.find(|(selector, _)| selector.matches(labels));
        own.map_or_else(|| self.base.clone(), |(_, key)| key.clone())
    }
}

/// The key of [`static_strict`].
fn static_strict_key(mesh: &Mesh) -> PolicyKey {
    PolicyKey::new(&mesh.root_namespace, STATIC_STRICT)
}

/// The policy that strict workloads list. It is on offer even when nobody lists it, so that the
/// first PeerAuthentication never names a policy that nodes have yet to receive.
pub(crate) fn static_strict(mesh: &Mesh) -> Authorization {
    policy(
        &mesh.root_namespace,
        STATIC_STRICT.to_owned(),
        vec![Rule {
            clauses: vec![clause(plaintext())],
        }],
    )
}

/// Finds the modes of a namespace and makes its policies with ports.
pub(crate) fn resolve(scope: &Scope<'_>, out: &mut Translated) -> PeerModes {
    let mesh_wide = winner(&scope.root.peer_authentications);
    let mesh_mode = mesh_wide.map_or(MtlsMode::Unset, |policy| policy.spec.mtls.mode);
    let own = &scope.objects.peer_authentications;
    let namespace_wide = winner(own);
    let namespace_mode = namespace_wide.map_or(MtlsMode::Unset, |policy| policy.spec.mtls.mode);
    let is_strict = match namespace_mode {
        MtlsMode::Unset => mesh_mode == MtlsMode::Strict,
        mode => mode == MtlsMode::Strict,
    };
    note_ineffective(scope, own, namespace_wide, &mut out.notes);
    let mut modes = PeerModes {
        selecting: Vec::new(),
        base: is_strict.then(|| static_strict_key(scope.mesh)),
    };
    if scope.is_root() {
        return modes;
    }
    for policy in by_age(own) {
        let Some(selector) = selector(policy) else {
            continue;
        };
        let key = match with_ports(scope.name, policy, is_strict) {
            Some(converted) => {
                let key = converted.key();
                out.policies.push(converted);
                Some(key)
            }
            None => own_mode(policy, is_strict).then(|| static_strict_key(scope.mesh)),
        };
        modes.selecting.push((selector.clone(), key));
    }
    modes
}

/// A selector without labels selects everything, like none.
pub(crate) fn selector(policy: &PeerAuthentication) -> Option<&Selector> {
    let selector = policy.spec.selector.as_ref()?;
    (!selector.match_labels.is_empty()).then_some(selector)
}

/// Oldest first; those without a time (written by hand) after them, by name.
fn by_age(policies: &ByName<PeerAuthentication>) -> Vec<&PeerAuthentication> {
    let mut sorted: Vec<&PeerAuthentication> = policies.values().map(|policy| &**policy).collect();
    sorted.sort_by_key(|policy| {
        let created = policy.metadata.creation_timestamp.as_deref();
        (created.is_none(), created, policy.metadata.name.as_str())
    });
    sorted
}

/// The policy for the whole namespace.
fn winner(policies: &ByName<PeerAuthentication>) -> Option<&PeerAuthentication> {
    by_age(policies)
        .into_iter()
        .find(|policy| selector(policy).is_none())
}

fn own_mode(policy: &PeerAuthentication, parent_is_strict: bool) -> bool {
    match policy.spec.mtls.mode {
        MtlsMode::Unset => parent_is_strict,
        mode => mode == MtlsMode::Strict,
    }
}

/// The policy of a PeerAuthentication some of whose ports differ from its mode.
fn with_ports(
    namespace: &str,
    source: &PeerAuthentication,
    parent_is_strict: bool,
) -> Option<Authorization> {
    let is_strict = own_mode(source, parent_is_strict);
    let ports = differing_ports(&source.spec.port_level_mtls, is_strict);
    if ports.is_empty() {
        return None;
    }
    let rules = if is_strict {
        let exempt = ports.iter().map(|port| {
            clause(Match {
                not_destination_ports: vec![*port],
                ..Match::default()
            })
        });
        vec![Rule {
            clauses: std::iter::once(clause(plaintext())).chain(exempt).collect(),
        }]
    } else {
        let strict = ports.iter().map(|port| Rule {
            clauses: vec![clause(Match {
                destination_ports: vec![*port],
                ..plaintext()
            })],
        });
        strict.collect()
    };
    let name = format!("{CONVERTED}{}", source.metadata.name);
    Some(policy(namespace, name, rules))
}

fn differing_ports(ports: &BTreeMap<u16, MtlsMode>, is_strict: bool) -> Vec<u16> {
    let differing = ports.iter().filter(|(_, mode)| match mode {
        MtlsMode::Unset => false,
        MtlsMode::Strict => !is_strict,
        MtlsMode::Permissive | MtlsMode::Disable => is_strict,
    });
    differing.map(|(port, _)| *port).collect()
}

fn policy(namespace: &str, name: String, rules: Vec<Rule>) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        rules,
        dry_run: false,
    }
}

fn clause(matched: Match) -> Clause {
    Clause {
        matches: vec![matched],
    }
}

/// Matches exactly the connections without an identity.
fn plaintext() -> Match {
    Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    }
}

fn note_ineffective(
    scope: &Scope<'_>,
    policies: &ByName<PeerAuthentication>,
    namespace_wide: Option<&PeerAuthentication>,
    notes: &mut Vec<Note>,
) {
    for policy in policies.values() {
        let mut add = |code, message: String| {
            let name = &policy.metadata.name;
            let object = ObjectRef::new(Kind::PeerAuthentication, scope.name, name);
            notes.push(Note::new(object, code, message));
        };
        let has_selector = selector(policy).is_some();
        if has_selector && scope.is_root() {
            add(
                Code::RootSelector,
                "a selector in the root namespace is not supported; no effect".to_owned(),
            );
        }
        if let Some(winner) = namespace_wide
            && !has_selector
            && winner.metadata.name != policy.metadata.name
        {
            let name = &winner.metadata.name;
            add(
                Code::PeerAuthenticationConflict,
                format!("{name:?} of this namespace is older and in force; no effect"),
            );
        }
        if !has_selector && !policy.spec.port_level_mtls.is_empty() {
            add(
                Code::PortsWithoutSelector,
                "portLevelMtls without a selector has no effect".to_owned(),
            );
        }
        let modes = policy.spec.port_level_mtls.values();
        if modes
            .chain([&policy.spec.mtls.mode])
            .any(|mode| *mode == MtlsMode::Disable)
        {
            add(
                Code::DisableAsPermissive,
                "DISABLE counts as PERMISSIVE".to_owned(),
            );
        }
    }
}
