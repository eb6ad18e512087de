//! What a route does: its rules, with their backends found.

use agent_model::NamespacedHostname;
use agent_model::gateway::{
    BackendProtocol, BackendRef, Filter, HttpMatch, HttpRule, L4Rule, Persistence, Retry, Rules,
    SessionPersistence, Target, Timeouts, WeightedTarget,
};

use super::refs::{self, From};
use super::tls_policy::is_covered;
use super::{Fault, World, filters, matches};
use crate::source::gateway_api::{self as api, Route, RouteRule};
use crate::source::{Kind, duration};
use crate::translate::service::key;

/// Of a Service outside of the cluster, by one of the hosts of a ServiceEntry.
const HOSTNAME: (&str, &str) = ("networking.istio.io", "Hostname");

/// The rules of one route.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) rules: Rules,
    /// The first reference that leads nowhere.
    pub(super) unresolved: Option<Fault>,
    /// What is not supported, by rule, and what became of the rule.
    pub(super) unsupported: Vec<String>,
    /// Every rule has been left out.
    pub(super) is_void: bool,
    /// The services that it sends to.
    pub(super) services: Vec<NamespacedHostname>,
}

/// Translates the rules of a route.
pub(super) fn translate(world: &World<'_>, kind: Kind, route: &Route) -> Translated {
    let mut out = Translating {
        world,
        kind,
        namespace: &route.metadata.namespace,
        unresolved: None,
        unsupported: Vec::new(),
        services: Vec::new(),
    };
    let rules = &route.spec.rules;
    let (rules, is_void) = if matches!(kind, Kind::HTTPRoute | Kind::GRPCRoute) {
        let made: Vec<HttpRule> = rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| out.http_rule(index, rule))
            .collect();
        let is_void = made.is_empty() && !rules.is_empty();
        (Rules::Http(made), is_void)
    } else {
        let made = rules.iter().map(|rule| out.l4_rule(rule));
        (Rules::L4(made.collect()), false)
    };
    Translated {
        rules,
        unresolved: out.unresolved,
        unsupported: out.unsupported,
        is_void,
        services: out.services,
    }
}

struct Translating<'a> {
    world: &'a World<'a>,
    kind: Kind,
    namespace: &'a str,
    unresolved: Option<Fault>,
    unsupported: Vec<String>,
    services: Vec<NamespacedHostname>,
}

impl Translating<'_> {
    /// `None` for a rule of which nobody knows what it matches.
    fn http_rule(&mut self, index: usize, rule: &RouteRule) -> Option<HttpRule> {
        let found = rule.matches.iter();
        let found: Result<Vec<HttpMatch>, String> = found
            .map(|spec| matches::translate(self.kind, spec))
            .collect();
        let found = match found {
            Ok(found) => found,
            Err(message) => {
                self.unsupported
                    .push(format!("Dropped Rule {index}: {message}"));
                return None;
            }
        };
        let backends = rule.backend_refs.iter().map(|reference| BackendRef {
            weight: reference.weight.unwrap_or(1),
            target: self.target(reference),
            filters: Vec::new(),
        });
        let mut backends: Vec<BackendRef> = backends.collect();
        for (backend, reference) in backends.iter_mut().zip(&rule.backend_refs) {
            backend.filters = self.filters(index, &reference.filters);
        }
        let (timeouts, retry, session_persistence) = self.limits(index, rule);
        Some(HttpRule {
            name: (!rule.name.is_empty()).then(|| rule.name.as_str().into()),
            matches: found,
            filters: self.filters(index, &rule.filters),
            timeouts,
            retry,
            session_persistence,
            backends,
        })
    }

    fn l4_rule(&mut self, rule: &RouteRule) -> L4Rule {
        let backends = rule.backend_refs.iter().map(|reference| WeightedTarget {
            weight: reference.weight.unwrap_or(1),
            target: self.target(reference),
        });
        L4Rule {
            backends: backends.collect(),
            name: (!rule.name.is_empty()).then(|| rule.name.as_str().into()),
        }
    }

    fn filters(&mut self, index: usize, specs: &[api::Filter]) -> Vec<Filter> {
        let mut made = Vec::with_capacity(specs.len());
        for spec in specs {
            let filter = filters::translate(spec, |reference| self.target(reference));
            if let Filter::Invalid(message) = &filter {
                let message = format!("Dropped Rule {index} (it answers 500): {message}");
                self.unsupported.push(message);
            }
            made.push(filter);
        }
        made
    }

    /// Times that cannot be read are left out, and said.
    fn limits(
        &mut self,
        index: usize,
        rule: &RouteRule,
    ) -> (Timeouts, Option<Retry>, Option<SessionPersistence>) {
        let mut time = |field: &str, text: Option<&String>| {
            let text = text?;
            let found = duration::parse(text);
            if found.is_none() {
                let message = format!("Fall Back of Rule {index}: {field} {text:?} is no duration");
                self.unsupported.push(message);
            }
            found
        };
        // Zero is told, too: it turns off what a traffic policy says.
        let timeouts = Timeouts {
            request: time("timeouts.request", rule.timeouts.request.as_ref()),
            backend_request: time(
                "timeouts.backendRequest",
                rule.timeouts.backend_request.as_ref(),
            ),
        };
        let retry = rule.retry.as_ref().map(|retry| Retry {
            codes: retry.codes.clone(),
            attempts: retry.attempts.unwrap_or(1),
            backoff: time("retry.backoff", retry.backoff.as_ref()).filter(|time| !time.is_zero()),
        });
        let session = rule.session_persistence.as_ref();
        let session = session.map(|session| SessionPersistence {
            name: match session.session_name.as_str() {
                "" => "culvert-session".into(),
                name => name.into(),
            },
            kind: match session.kind.as_str() {
                "Header" => Persistence::Header,
                _ => Persistence::Cookie {
                    permanent: session.is_permanent(),
                },
            },
            absolute_timeout: time(
                "sessionPersistence.absoluteTimeout",
                session.absolute_timeout.as_ref(),
            ),
            idle_timeout: time(
                "sessionPersistence.idleTimeout",
                session.idle_timeout.as_ref(),
            ),
        });
        (timeouts, retry, session)
    }

    fn target(&mut self, reference: &api::BackendRef) -> Target {
        match self.find(reference) {
            Ok((service, port, protocol)) => {
                if !self.services.contains(&service) {
                    self.services.push(service.clone());
                }
                Target::Service {
                    service,
                    port,
                    protocol,
                }
            }
            Err(fault) => {
                let target = Target::Invalid(fault.message.as_str().into());
                self.unresolved.get_or_insert(fault);
                target
            }
        }
    }

    fn find(
        &self,
        reference: &api::BackendRef,
    ) -> Result<(NamespacedHostname, u16, BackendProtocol), Fault> {
        let target = &reference.target;
        let name = target.name.as_str();
        let (group, kind) = HOSTNAME;
        if target.is(group, kind, "Service") {
            return self.host(name, reference.port);
        }
        if !target.is("", "Service", "Service") {
            let message = format!("backend {name:?} is neither a Service nor a Hostname");
            return Err(Fault::new("InvalidKind", message));
        }
        let namespace = target.namespace_or(self.namespace);
        let from = From {
            kind: self.kind,
            namespace: self.namespace,
        };
        if !refs::is_granted(self.world, from, ("", "Service"), namespace, name) {
            return Err(refs::not_granted("Service", namespace, name));
        }
        let not_found = |message: String| Fault::new("BackendNotFound", message);
        let service = self.world.service(namespace, name);
        let service = service
            .ok_or_else(|| not_found(format!("Service {namespace}/{name} does not exist")))?;
        let mut ports = service.spec.ports.iter();
        let port =
            ports.find(|port| Some(port.port) == reference.port && self.is_of(port.protocol));
        let port = port.ok_or_else(|| {
            let wanted = reference
                .port
                .map_or("none".to_owned(), |port| port.to_string());
            not_found(format!("Service {namespace}/{name} has no port {wanted}"))
        })?;
        let service = key(namespace, name);
        let protocol = self.protocol(&service, port.port, &port.app_protocol)?;
        Ok((service, port.port, protocol))
    }

    fn is_of(&self, protocol: crate::source::kubernetes::Protocol) -> bool {
        use crate::source::kubernetes::Protocol;
        match self.kind {
            Kind::UDPRoute => protocol == Protocol::Udp,
            _ => protocol == Protocol::Tcp,
        }
    }

    /// What is spoken to a port that is said to speak `said`. One that wants TLS gets no request in
    /// the clear: a BackendTLSPolicy has to say how its endpoints prove who they are.
    fn protocol(
        &self,
        service: &NamespacedHostname,
        port: u16,
        said: &str,
    ) -> Result<BackendProtocol, Fault> {
        let is_http = matches!(self.kind, Kind::HTTPRoute | Kind::GRPCRoute);
        if !is_http {
            return Ok(BackendProtocol::Http);
        }
        let said = said.to_ascii_lowercase();
        let wants_tls = matches!(said.as_str(), "https" | "tls" | "kubernetes.io/wss");
        if wants_tls && !is_covered(self.world, service, port) {
            let service = &service.hostname;
            let message = format!(
                "{service}:{port} speaks {said}, and no BackendTLSPolicy says how it is verified"
            );
            return Err(Fault::new("UnsupportedProtocol", message));
        }
        Ok(match said.as_str() {
            "kubernetes.io/h2c" | "grpc" | "h2c" | "http2" => BackendProtocol::H2c,
            _ if self.kind == Kind::GRPCRoute => BackendProtocol::H2c,
            _ => BackendProtocol::Http,
        })
    }

    /// A host of a ServiceEntry: of the route's own namespace, else of the oldest entry that has it and
    /// is for that namespace.
    fn host(
        &self,
        host: &str,
        port: Option<u16>,
    ) -> Result<(NamespacedHostname, u16, BackendProtocol), Fault> {
        let all = self.world.objects.iter();
        let entries = all.flat_map(|(namespace, objects)| {
            let entries = objects.service_entries.values();
            entries.map(move |entry| (namespace, entry))
        });
        let found = entries
            .filter(|(_, entry)| entry.spec.hosts.iter().any(|of| of == host))
            .filter(|(namespace, entry)| entry.spec.is_for(namespace, self.namespace))
            .min_by_key(|(namespace, entry)| {
                let metadata = &entry.metadata;
                let is_other = ***namespace != *self.namespace;
                (
                    is_other,
                    &metadata.creation_timestamp,
                    *namespace,
                    &metadata.name,
                )
            });
        let not_found = |message: String| Fault::new("BackendNotFound", message);
        let (namespace, entry) = found.ok_or_else(|| {
            let here = "that is exported to this namespace";
            not_found(format!("no ServiceEntry {here} has the host {host:?}"))
        })?;
        let mut ports = entry.spec.ports.iter();
        let wanted = ports.find(|of| Some(of.number) == port);
        let wanted = wanted
            .ok_or_else(|| not_found(format!("the ServiceEntry of {host:?} has no such port")))?;
        let service = NamespacedHostname::new(namespace, host);
        let protocol = self.protocol(&service, wanted.number, &wanted.protocol)?;
        Ok((service, wanted.number, protocol))
    }
}
