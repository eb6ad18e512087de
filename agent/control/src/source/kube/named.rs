//! Objects that are asked for by name because another one names them: Secrets and ConfigMaps. All
//! others of these kinds are nobody's business here, and large. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use super::item::Found;
use super::store::{Change, problem};
use crate::source::decode::FieldError;
use crate::source::gateway_api::{CONTROLLER, named};
use crate::source::{Effect, Event, Kind, Object, ObjectRef, Problem};

/// How long changes are held back for what they name, so that nothing is said to be missing that
/// only was not asked for yet.
const HOLD: Duration = Duration::from_secs(3);
/// Names that are asked for; what is beyond counts as missing.
const MAX_NAMES: usize = 2_000;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Named {
    names: BTreeMap<ObjectRef, State>,
    dirty: BTreeSet<ObjectRef>,
    hold_until: Option<Instant>,
    has_new_problems: bool,
}

#[derive(Debug, Default)]
struct State {
    object: Option<Object>,
    problem: Option<Problem>,
    is_answered: bool,
    /// The list that is being read has it.
    is_listed: bool,
}

/// Which watches are to begin and to end.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    pub(super) new: Vec<ObjectRef>,
    pub(super) gone: Vec<ObjectRef>,
}

impl Named {
    /// Takes what is named now.
    pub(super) fn set(&mut self, wanted: &BTreeSet<ObjectRef>, now: Instant) -> Difference {
        let known = self.names.keys();
        let gone: Vec<_> = known
            .filter(|name| !wanted.contains(*name))
            .cloned()
            .collect();
        for name in &gone {
            let state = self.names.remove(name);
            self.has_new_problems |= state.is_some_and(|state| state.problem.is_some());
            self.dirty.insert(name.clone());
        }
        let missing = wanted.iter().filter(|name| !self.names.contains_key(*name));
        let new: Vec<_> = missing
            .take(MAX_NAMES - self.names.len())
            .cloned()
            .collect();
        for name in &new {
            self.names.insert(name.clone(), State::default());
        }
        if !new.is_empty() {
            self.hold_until = Some(now + HOLD);
        }
        Difference { new, gone }
    }

    /// Takes over what the watch of a name says.
    pub(super) fn take(&mut self, name: &ObjectRef, change: Change) {
        let Some(state) = self.names.get_mut(name) else {
            return;
        };
        match change {
            Change::ListBegins => state.is_listed = false,
            Change::Listed(found) | Change::Changed(found) => {
                state.is_listed = true;
                self.put(found);
            }
            Change::ListEnds if state.is_listed => {}
            Change::ListEnds | Change::Gone(_) | Change::Absent => self.lose(name, None),
            // What was known stays; and a first answer may still come.
            Change::Failed(error) if !state.is_answered && error.contains("orbidden") => {
                self.lose(name, Some(FieldError::new("", "it may not be read")));
            }
            Change::Failed(_) | Change::Forbidden(_) | Change::Recovered => {}
        }
    }

    fn put(&mut self, found: Found) {
        let Found { reference, object } = found;
        let Some(state) = self.names.get_mut(&reference) else {
            return;
        };
        state.is_answered = true;
        let before = state.problem.take();
        match object {
            Ok(object) => {
                if state.object.as_ref() != Some(&object) {
                    state.object = Some(object);
                    self.dirty.insert(reference);
                }
            }
            Err(error) => {
                let effect = match state.object {
                    Some(_) => Effect::LastGoodKept,
                    None => Effect::NotApplied,
                };
                state.problem = Some(problem(&reference, error, effect));
            }
        }
        self.has_new_problems |= before != state.problem;
    }

    fn lose(&mut self, name: &ObjectRef, why: Option<FieldError>) {
        let Some(state) = self.names.get_mut(name) else {
            return;
        };
        if state.object.take().is_some() || !state.is_answered {
            self.dirty.insert(name.clone());
        }
        state.is_answered = true;
        let why = why.map(|error| problem(name, error, Effect::NotApplied));
        self.has_new_problems |= state.problem != why;
        state.problem = why;
    }

    /// Until when changes wait for answers.
    pub(super) fn hold_until(&self) -> Option<Instant> {
        let is_waiting = self.names.values().any(|state| !state.is_answered);
        self.hold_until.filter(|_| is_waiting)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.has_new_problems || !self.dirty.is_empty()
    }

    pub(super) fn drain(&mut self) -> Vec<Event> {
        self.has_new_problems = false;
        let dirty = mem::take(&mut self.dirty).into_iter();
        dirty
            .map(|name| {
                let object = self.names.get(&name).and_then(|state| state.object.clone());
                object.map_or(Event::Delete(name), Event::Apply)
            })
            .collect()
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.names
            .values()
            .filter_map(|state| state.problem.as_ref())
    }
}

/// True for kinds that decide which names are wanted.
pub(super) fn decides_names(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GatewayClass
            | Kind::Gateway
            | Kind::ListenerSet
            | Kind::BackendTLSPolicy
            | Kind::TrafficPolicy
    )
}

/// The names in what is ours: Gateways of our classes, ListenerSets for them, and policies for the
/// backends of such Gateways.
pub(super) fn wanted<'a>(objects: impl Iterator<Item = &'a Object> + Clone) -> BTreeSet<ObjectRef> {
    let classes: BTreeSet<&str> = objects
        .clone()
        .filter_map(|object| match object {
            Object::GatewayClass(class) if class.spec.controller_name == CONTROLLER => {
                Some(class.metadata.name.as_str())
            }
            _ => None,
        })
        .collect();
    let ours: BTreeSet<(&str, &str)> = objects
        .clone()
        .filter_map(|object| match object {
            Object::Gateway(gateway) => {
                let metadata = &gateway.metadata;
                let is_ours = classes.contains(gateway.spec.gateway_class_name.as_str());
                is_ours.then_some((metadata.namespace.as_str(), metadata.name.as_str()))
            }
            _ => None,
        })
        .collect();
    let is_ours = |object: &&Object| match object {
        Object::Gateway(gateway) => {
            let metadata = &gateway.metadata;
            ours.contains(&(metadata.namespace.as_str(), metadata.name.as_str()))
        }
        Object::ListenerSet(set) => {
            let parent = &set.spec.parent_ref;
            let namespace = parent.namespace_or(&set.metadata.namespace);
            ours.contains(&(namespace, parent.name.as_str()))
        }
        Object::GatewayClass(class) => classes.contains(class.metadata.name.as_str()),
        Object::BackendTLSPolicy(_) | Object::TrafficPolicy(_) => !ours.is_empty(),
        _ => false,
    };
    objects.filter(is_ours).flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::read_text;

    const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: ns}
data: {tls.crt: eA==, tls.key: eA==}
";

    fn objects(manifest: &str) -> Vec<Object> {
        let events = read_text(manifest).events.into_iter();
        events
            .filter_map(|event| match event {
                Event::Apply(object) => Some(object),
                Event::Delete(_) => None,
            })
            .collect()
    }

    fn name() -> ObjectRef {
        ObjectRef::new(Kind::Secret, "ns", "s")
    }

    fn found() -> Found {
        Found {
            reference: name(),
            object: Ok(objects(SECRET).remove(0)),
        }
    }

    #[test]
    fn only_what_ours_name_is_wanted() {
        let manifest = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ours}
spec:
  controllerName: culvert.dev/gateway-controller
  parametersRef: {group: '', kind: ConfigMap, name: of-class, namespace: m}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec:
  controllerName: example.com/other
  parametersRef: {group: '', kind: ConfigMap, name: nope, namespace: m}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: ns}
spec:
  gatewayClassName: ours
  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: of-gateway}}
  tls:
    backend: {clientCertificateRef: {name: client}}
    frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}, {group: x, kind: ConfigMap, name: nope}]}}}
  listeners:
  - {name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: own}, {name: far, namespace: m}, {name: nope, kind: Other}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: h, namespace: ns}
spec:
  gatewayClassName: other
  listeners:
  - {name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: foreign}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: l, namespace: m}
spec:
  parentRef: {name: g, namespace: ns}
  listeners:
  - {name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: of-set}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: p, namespace: b}
spec: {validation: {hostname: x, caCertificateRefs: [{group: '', kind: ConfigMap, name: backends}]}}
";
        let objects = objects(manifest);
        let wanted = wanted(objects.iter());
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        assert_eq!(
            wanted,
            [
                "Secret m/far",
                "Secret m/of-set",
                "Secret ns/client",
                "Secret ns/own",
                "ConfigMap b/backends",
                "ConfigMap m/of-class",
                "ConfigMap ns/ca",
                "ConfigMap ns/of-gateway",
            ]
        );
    }

    #[test]
    fn changes_wait_for_the_answer_and_not_for_ever() {
        let now = Instant::now();
        let mut named = Named::default();
        let difference = named.set(&BTreeSet::from([name()]), now);
        assert_eq!(difference.new, [name()]);
        assert_eq!(named.hold_until(), Some(now + HOLD));
        assert!(!named.is_dirty());
        named.take(&name(), Change::ListBegins);
        named.take(&name(), Change::Listed(found()));
        named.take(&name(), Change::ListEnds);
        assert_eq!(named.hold_until(), None);
        assert!(matches!(named.drain()[..], [Event::Apply(_)]));
        // Nobody names it any more: it is forgotten.
        let difference = named.set(&BTreeSet::new(), now);
        assert_eq!(difference.gone, [name()]);
        assert_eq!(named.drain(), [Event::Delete(name())]);
    }

    #[test]
    fn what_is_not_there_or_may_not_be_read_is_missing() {
        let now = Instant::now();
        let mut named = Named::default();
        named.set(&BTreeSet::from([name()]), now);
        named.take(&name(), Change::ListBegins);
        named.take(&name(), Change::ListEnds);
        assert_eq!(named.drain(), [Event::Delete(name())]);
        named.take(&name(), Change::Changed(found()));
        assert!(matches!(named.drain()[..], [Event::Apply(_)]));
        // What was read stays in force while the server refuses.
        named.take(&name(), Change::Failed("403 Forbidden".to_owned()));
        assert!(!named.is_dirty());
        let mut refused = Named::default();
        refused.set(&BTreeSet::from([name()]), now);
        refused.take(&name(), Change::Failed("secrets is forbidden".to_owned()));
        assert_eq!(refused.hold_until(), None);
        assert_eq!(refused.drain(), [Event::Delete(name())]);
        assert_eq!(refused.problems().count(), 1);
    }
}
