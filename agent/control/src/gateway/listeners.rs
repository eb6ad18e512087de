//! Listeners of a Gateway and of the ListenerSets that it lets in: which of them work, and what is
//! wrong with the others.

use agent_model::gateway::{
    Certificate, ClientValidation, ClientValidationMode, GatewayKind, Hostname, Listener as Handed,
    ListenerTls, Protocol,
};
use agent_model::{HBONE_PORT, METRICS_PORT, READINESS_PORT};

use super::owned::Owned;
use super::refs::{self, AuthorityReasons, From};
use super::status::{ListenerStatus, verdict};
use super::{Fault, World, conflicts};
use crate::condition::Condition;
use crate::source::Kind;
use crate::source::gateway_api::{
    FrontendValidation, GROUP, Gateway, ListenerEntry, ListenerSet, Namespaces, RouteKindRef,
};

/// Ports of the gateway itself.
const OWN_PORTS: [u16; 3] = [HBONE_PORT, METRICS_PORT, READINESS_PORT];

/// A listener with everything that is known of it.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) entry: &'a ListenerEntry,
    /// The set it is of; `None` for the Gateway's own.
    pub(super) set: Option<&'a ListenerSet>,
    /// The namespace whose routes are "the same".
    pub(super) namespace: &'a str,
    /// Name within the Gateway.
    pub(super) name: String,
    pub(super) protocol: Option<Protocol>,
    pub(super) hostname: Option<Hostname>,
    /// Kinds of routes it takes.
    pub(super) kinds: Vec<Kind>,
    /// Why it is not accepted.
    unaccepted: Option<Fault>,
    /// Which of its references lead nowhere.
    pub(super) unresolved: Option<Fault>,
    pub(super) conflict: Option<Fault>,
    /// What another listener of the port takes some of, too.
    pub(super) overlap: Option<Overlap>,
    /// Names that its certificates are for.
    pub(super) certified: Vec<Hostname>,
    tls: Option<ListenerTls>,
    /// Routes attached.
    pub(super) attached: usize,
}

/// What two listeners of a port have in common, so that a client may use one connection for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlap {
    Hostnames,
    Certificates,
}

impl Overlap {
    fn condition(self) -> Condition {
        let (reason, message) = match self {
            Self::Hostnames => (
                "OverlappingHostnames",
                "another listener of this port takes some of its names, too",
            ),
            Self::Certificates => (
                "OverlappingCertificates",
                "a certificate of another listener of this port is for some of its names, too; \
                 requests that come over a connection of that one get 421",
            ),
        };
        Condition::new("OverlappingTLSConfig", true, reason, message)
    }
}

/// Finds the listeners of a Gateway and settles the conflicts among them.
pub(super) fn settle<'a>(world: &World<'a>, gateway: &mut Owned<'a>) {
    let object = gateway.object;
    let own = object.spec.listeners.iter();
    gateway.listeners = own
        .map(|entry| Listener::new(world, gateway, None, entry))
        .collect();
    gateway.sets = sets(world, gateway);
    let allowed = gateway.sets.iter().filter(|(_, refusal)| refusal.is_none());
    let entries = allowed.flat_map(|(set, _)| {
        let entries = set.spec.listeners.iter();
        entries.map(move |entry| (*set, entry))
    });
    let of_sets: Vec<Listener<'a>> = entries
        .map(|(set, entry)| Listener::new(world, gateway, Some(set), entry))
        .collect();
    gateway.listeners.extend(of_sets);
    conflicts::settle(&mut gateway.listeners);
    conflicts::note_overlaps(&mut gateway.listeners);
}

/// The ListenerSets that name the Gateway, the oldest first.
fn sets<'a>(world: &World<'a>, gateway: &Owned<'a>) -> Vec<(&'a ListenerSet, Option<Fault>)> {
    let all = world.tables.sets.values();
    let mut sets: Vec<&ListenerSet> = all
        .map(|set| &**set)
        .filter(|set| {
            let parent = &set.spec.parent_ref;
            let namespace = parent.namespace_or(&set.metadata.namespace);
            parent.is(GROUP, "Gateway") && gateway.is(namespace, &parent.name)
        })
        .collect();
    sets.sort_by_key(|set| set.metadata.seniority());
    let allowed = &gateway.object.spec.allowed_listeners.namespaces;
    let own = &gateway.object.metadata.namespace;
    let judged = sets.into_iter().map(|set| {
        let namespace = &set.metadata.namespace;
        let refusal = if !is_allowed(world, allowed, "None", own, namespace) {
            let message = "its Gateway takes no listeners from this namespace";
            Some(Fault::new("NotAllowed", message))
        } else if gateway.fault().is_some() {
            Some(Fault::new(
                "ParentNotAccepted",
                "its Gateway is not accepted",
            ))
        } else {
            None
        };
        (set, refusal)
    });
    judged.collect()
}

/// Whether a choice of namespaces has this one; `default` is what an empty choice says.
pub(super) fn is_allowed(
    world: &World<'_>,
    allowed: &Namespaces,
    default: &str,
    own: &str,
    namespace: &str,
) -> bool {
    let from = match allowed.from.as_str() {
        "" => default,
        from => from,
    };
    match from {
        "All" => true,
        "Same" => own == namespace,
        "Selector" => allowed
            .selector
            .as_ref()
            .is_some_and(|selector| selector.matches(&world.labels_of(namespace))),
        _ => false,
    }
}

impl<'a> Listener<'a> {
    fn new(
        world: &World<'_>,
        gateway: &Owned<'a>,
        set: Option<&'a ListenerSet>,
        entry: &'a ListenerEntry,
    ) -> Self {
        let object = gateway.object;
        let namespace = set.map_or(&object.metadata.namespace, |set| &set.metadata.namespace);
        let protocol = protocol(gateway.kind, entry);
        let mut listener = Self {
            entry,
            set,
            namespace,
            name: match set {
                None => entry.name.clone(),
                Some(set) => format!("{namespace}/{}/{}", set.metadata.name, entry.name),
            },
            protocol: protocol.as_ref().ok().copied(),
            hostname: None,
            kinds: Vec::new(),
            unaccepted: None,
            unresolved: None,
            conflict: None,
            overlap: None,
            certified: Vec::new(),
            tls: None,
            attached: 0,
        };
        match protocol {
            Err(fault) => listener.unaccepted = Some(fault),
            Ok(protocol) => listener.fill(world, object, gateway.kind, protocol),
        }
        listener
    }

    fn fill(
        &mut self,
        world: &World<'_>,
        gateway: &Gateway,
        kind: GatewayKind,
        protocol: Protocol,
    ) {
        let entry = self.entry;
        let has_names = !matches!(protocol, Protocol::Tcp | Protocol::Udp | Protocol::Hbone);
        if has_names && !entry.hostname.is_empty() {
            match entry.hostname.parse() {
                Ok(hostname) => self.hostname = Some(hostname),
                Err(_) => {
                    let message = format!("hostname {:?} is not one", entry.hostname);
                    self.unaccepted = Some(Fault::new("UnsupportedValue", message));
                }
            }
        }
        if kind == GatewayKind::Edge && OWN_PORTS.contains(&entry.port) || entry.port == 0 {
            let message = format!("port {} is the gateway's own", entry.port);
            self.unaccepted = Some(Fault::new("PortUnavailable", message));
        }
        let (kinds, invalid) = kinds(entry, protocol);
        self.kinds = kinds;
        self.unresolved = invalid;
        if matches!(protocol, Protocol::Https | Protocol::Tls) {
            self.fill_tls(world, gateway, protocol);
        }
    }

    fn fill_tls(&mut self, world: &World<'_>, gateway: &Gateway, protocol: Protocol) {
        let settings = self.entry.tls.as_ref();
        if settings.is_some_and(|tls| tls.is_passthrough()) {
            if protocol == Protocol::Https {
                let message = "tls.mode: Passthrough is for TLS listeners";
                self.unaccepted = Some(Fault::new("UnsupportedValue", message));
            }
            self.tls = Some(ListenerTls::Passthrough);
            return;
        }
        let (certificates, broken) = self.certificates(world);
        let frontend = gateway
            .spec
            .tls
            .as_ref()
            .and_then(|tls| tls.frontend.as_ref());
        let validation = frontend.and_then(|frontend| frontend.on_port(self.entry.port));
        let validation = validation.map(|validation| {
            // The authorities are the Gateway's choice, also for listeners of sets.
            let from = From {
                kind: Kind::Gateway,
                namespace: &gateway.metadata.namespace,
            };
            client_validation(world, from, validation)
        });
        let mut client_validation = None;
        let mut untrusted = None;
        if let Some((found, fault)) = validation {
            if found.is_none() {
                let message = "no authority for certificates of clients can be used";
                self.unaccepted = Some(Fault::new("NoValidCACertificate", message));
            }
            client_validation = found;
            untrusted = fault;
        }
        self.unresolved = broken.or(self.unresolved.take()).or(untrusted);
        if !certificates.is_empty() {
            self.tls = Some(ListenerTls::Terminate {
                certificates,
                client_validation,
            });
        }
    }

    /// Those that can be used, and what is wrong with the first that cannot.
    fn certificates(&mut self, world: &World<'_>) -> (Vec<Certificate>, Option<Fault>) {
        const REASON: &str = "InvalidCertificateRef";
        let references = self.entry.tls.iter().flat_map(|tls| &tls.certificate_refs);
        let from = From {
            kind: match self.set {
                None => Kind::Gateway,
                Some(_) => Kind::ListenerSet,
            },
            namespace: self.namespace,
        };
        let mut found = Vec::new();
        let mut broken = None;
        for reference in references {
            match refs::certificate(world, from, reference, REASON) {
                Ok(pair) => {
                    found.push(pair.certificate);
                    self.certified.extend(pair.names.iter().cloned());
                }
                Err(fault) => {
                    broken.get_or_insert(fault);
                }
            }
        }
        if found.is_empty() {
            broken.get_or_insert(Fault::new(REASON, "tls.certificateRefs: there is none"));
        }
        (found, broken)
    }

    /// Routes may be told to come here, whether or not it works yet.
    pub(super) fn is_accepted(&self) -> bool {
        self.unaccepted.is_none() && self.conflict.is_none()
    }

    /// There is something for the gateway to do.
    pub(super) fn works(&self) -> bool {
        let needs_tls = matches!(self.protocol, Some(Protocol::Https | Protocol::Tls));
        let takes_routes = !self.kinds.is_empty() || self.protocol == Some(Protocol::Hbone);
        self.is_accepted() && takes_routes && (!needs_tls || self.tls.is_some())
    }

    /// False where nobody attaches, as another listener has its place.
    pub(super) fn is_distinct(&self) -> bool {
        self.conflict.is_none()
    }

    pub(super) fn is_of(&self, set: &ListenerSet) -> bool {
        let is_same = |own: &ListenerSet| {
            (&own.metadata.namespace, &own.metadata.name)
                == (&set.metadata.namespace, &set.metadata.name)
        };
        self.set.is_some_and(is_same)
    }

    /// What the gateway is handed; `None` when it does not work.
    pub(super) fn handed(&self) -> Option<Handed> {
        let protocol = self.protocol.filter(|_| self.works())?;
        Some(Handed {
            name: self.name.as_str().into(),
            port: self.entry.port,
            protocol,
            hostname: self.hostname.clone(),
            tls: self.tls.clone(),
        })
    }

    pub(super) fn status(&self, is_programmed: bool) -> ListenerStatus {
        let unaccepted = self.conflict.as_ref().or(self.unaccepted.as_ref());
        let unprogrammed = self.unprogrammed(is_programmed);
        let mut conditions = vec![
            verdict("Accepted", unaccepted, "it is in order"),
            verdict(
                "ResolvedRefs",
                self.unresolved.as_ref(),
                "every reference resolves",
            ),
            verdict(
                "Programmed",
                unprogrammed.as_ref(),
                "the gateway listens for it",
            ),
        ];
        conditions.push(match &self.conflict {
            None => Condition::new("Conflicted", false, "NoConflicts", "its place is its own"),
            Some(fault) => Condition::new("Conflicted", true, fault.reason, &fault.message),
        });
        conditions.extend(self.overlap.map(Overlap::condition));
        ListenerStatus {
            name: self.entry.name.clone(),
            supported_kinds: self.kinds.iter().map(|kind| kind_ref(*kind)).collect(),
            attached: self.attached,
            conditions,
        }
    }

    fn unprogrammed(&self, is_programmed: bool) -> Option<Fault> {
        if let Some(conflict) = &self.conflict {
            return Some(conflict.clone());
        }
        if !self.works() {
            return Some(Fault::new("Invalid", "it is not in order"));
        }
        (!is_programmed).then(|| Fault::new("Pending", "its Gateway is not programmed"))
    }
}

fn protocol(kind: GatewayKind, entry: &ListenerEntry) -> Result<Protocol, Fault> {
    let known = match entry.protocol.as_str() {
        "HTTP" => Some(Protocol::Http),
        "HTTPS" => Some(Protocol::Https),
        "TLS" => Some(Protocol::Tls),
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "HBONE" => Some(Protocol::Hbone),
        _ => None,
    };
    let is_waypoint = kind != GatewayKind::Edge;
    known
        .filter(|protocol| (*protocol == Protocol::Hbone) == is_waypoint)
        .ok_or_else(|| {
            let expected = if is_waypoint {
                "a waypoint speaks HBONE only"
            } else {
                "expected HTTP, HTTPS, TLS, TCP or UDP"
            };
            let message = format!("protocol {:?}: {expected}", entry.protocol);
            Fault::new("UnsupportedProtocol", message)
        })
}

/// The kinds that a listener takes, and whether others were asked for.
fn kinds(entry: &ListenerEntry, protocol: Protocol) -> (Vec<Kind>, Option<Fault>) {
    // Routes of a waypoint have Services for parents.
    let possible: &[Kind] = match protocol {
        Protocol::Http | Protocol::Https => &[Kind::HTTPRoute, Kind::GRPCRoute],
        Protocol::Tls => &[Kind::TLSRoute],
        Protocol::Tcp => &[Kind::TCPRoute],
        Protocol::Udp => &[Kind::UDPRoute],
        Protocol::Hbone => &[],
    };
    let wanted = &entry.allowed_routes.kinds;
    if wanted.is_empty() {
        return (possible.to_vec(), None);
    }
    let is_wanted = |kind: &Kind, of: &RouteKindRef| {
        of.group.as_deref().unwrap_or(GROUP) == GROUP && of.kind == format!("{kind:?}")
    };
    let supported = possible.iter().copied();
    let supported = supported.filter(|kind| wanted.iter().any(|of| is_wanted(kind, of)));
    let stray = wanted
        .iter()
        .find(|of| !possible.iter().any(|kind| is_wanted(kind, of)));
    let fault = stray.map(|of| {
        let message = format!("allowedRoutes.kinds: no {:?} on this protocol", of.kind);
        Fault::new("InvalidRouteKinds", message)
    });
    (supported.collect(), fault)
}

fn kind_ref(kind: Kind) -> RouteKindRef {
    RouteKindRef {
        group: Some(GROUP.to_owned()),
        kind: format!("{kind:?}"),
    }
}

fn client_validation(
    world: &World<'_>,
    from: From<'_>,
    validation: &FrontendValidation,
) -> (Option<ClientValidation>, Option<Fault>) {
    let reasons = AuthorityReasons {
        kind: "InvalidCACertificateKind",
        missing: "InvalidCACertificateRef",
    };
    let references = &validation.ca_certificate_refs;
    let (pem, fault) = refs::authorities(world, from, references, reasons);
    let found = (!pem.is_empty()).then(|| ClientValidation {
        roots: pem.into(),
        mode: if validation.is_insecure() {
            ClientValidationMode::AllowInsecureFallback
        } else {
            ClientValidationMode::AllowValidOnly
        },
    });
    (found, fault)
}
