//! `culvert why`: asks the node's own decision functions about one connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent_model::{Identity, Reason, TunnelProtocol, Workload};
use agent_policy::{Connection, Decision, Target};
use agent_state::Snapshot;
use agent_state::resolve::{self, AuthorityRef, Chooser, Hop, Inbound, Names, Outbound};

use crate::admin::{EndView, EndpointView, PolicyView, RouteKind, SCHEMA, Why};

/// What would become of a connection from `source` (`namespace/name` or an IP of `network`) to
/// `destination`, by `snapshot`. Fails with a sentence when the source is not in the snapshot.
///
/// `random` picks among endpoints that are equally good, as it does for a real connection.
pub(crate) fn explain(
    snapshot: &Snapshot,
    network: &str,
    source: &str,
    destination: SocketAddr,
    random: &mut dyn FnMut() -> u64,
) -> Result<Why, String> {
    let source = find(snapshot, network, source)?;
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let asked = Asked {
        snapshot,
        network,
        address: address_of(&source, destination.ip()),
        source: &source,
        destination,
    };
    let mut why = asked.unanswered();
    if destination.ip().is_loopback() || source.addresses.contains(&destination.ip()) {
        why.route_detail = "a pod's connections to itself are never touched".to_owned();
    } else if source.tunnel_protocol == TunnelProtocol::Hbone {
        asked.captured(&mut why, random);
    } else {
        asked.not_captured(&mut why);
    }
    Ok(why)
}

/// The names that [`explain`] looks up; where the state is not the whole mesh, some may have to be
/// asked for first.
pub(crate) fn names(
    snapshot: &Snapshot,
    network: &str,
    source: &str,
    destination: SocketAddr,
) -> Result<Names, String> {
    let source = find(snapshot, network, source)?;
    Ok(resolve::outbound_names(snapshot, &source, destination))
}

fn find(snapshot: &Snapshot, network: &str, source: &str) -> Result<Arc<Workload>, String> {
    let found = match (source.parse::<IpAddr>(), source.split_once('/')) {
        (Ok(ip), _) => snapshot.workload_by_ip(network, ip.to_canonical()),
        (Err(_), Some((namespace, name))) => snapshot
            .workloads()
            .find(|workload| &*workload.namespace == namespace && &*workload.name == name),
        (Err(_), None) => {
            return Err(format!(
                "{source:?} is neither namespace/name nor an IP address"
            ));
        }
    };
    found
        .cloned()
        .ok_or_else(|| format!("this node knows no workload {source:?}"))
}

/// The address the source would use: of the destination's family where it has one.
fn address_of(source: &Workload, destination: IpAddr) -> Option<IpAddr> {
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == destination.is_ipv4();
    let mut addresses = source.addresses.iter();
    addresses
        .find(same_family)
        .or(source.addresses.first())
        .copied()
}

struct Asked<'a> {
    snapshot: &'a Snapshot,
    network: &'a str,
    source: &'a Arc<Workload>,
    address: Option<IpAddr>,
    destination: SocketAddr,
}

impl Asked<'_> {
    /// The answer before any decision: a connection the mesh does not touch.
    fn unanswered(&self) -> Why {
        let in_mesh = self.source.tunnel_protocol == TunnelProtocol::Hbone;
        Why {
            schema: SCHEMA,
            source: EndView {
                workload: name_of(self.source),
                address: self.address,
                node: self.source.node.to_string(),
                identity: self.source.identity().ok().filter(|_| in_mesh),
            },
            destination: self.destination,
            service: None,
            route: RouteKind::NotCaptured,
            route_detail: String::new(),
            endpoint: None,
            policies: Vec::new(),
            allowed: true,
            reason: Reason::Ok,
            policy: None,
            notes: Vec::new(),
        }
    }

    fn captured(&self, why: &mut Why, random: &mut dyn FnMut() -> u64) {
        let mut chooser = Chooser {
            random,
            active: &|_| 0,
            tried: &[],
        };
        let decision =
            resolve::outbound(self.snapshot, self.source, self.destination, &mut chooser);
        match decision {
            Outbound::Passthrough { destination } => {
                why.route = RouteKind::Passthrough;
                why.route_detail = format!("plain TCP to {destination}, unknown to the mesh");
            }
            Outbound::Direct {
                destination,
                workload,
                service,
            } => {
                why.route = RouteKind::Direct;
                why.route_detail = format!("plain TCP to {destination}");
                why.service = service.map(|service| service.hostname.to_string());
                why.endpoint = workload.map(|w| endpoint(&w, destination, destination, Vec::new()));
            }
            Outbound::Named(named) => {
                why.route = RouteKind::Direct;
                why.route_detail = format!(
                    "to port {} of what {:?} means to the node when the connection is made",
                    named.port, named.host
                );
                why.service = Some(named.service.hostname.to_string());
            }
            Outbound::Tunnel(hop) => self.tunnelled(why, &hop),
            Outbound::Deny { reason, detail } => {
                why.route = RouteKind::Deny;
                why.route_detail = detail;
                refuse(why, reason);
            }
        }
    }

    fn tunnelled(&self, why: &mut Why, hop: &Hop) {
        why.service = hop.service.as_ref().map(|s| s.hostname.to_string());
        why.endpoint = Some(endpoint(
            &hop.workload,
            hop.authority,
            hop.peer,
            hop.expected.clone(),
        ));
        if hop.via_waypoint {
            why.route = RouteKind::Waypoint;
            why.route_detail = format!("mutual TLS to the waypoint at {}", hop.peer);
            let note = "what the waypoint decides is not part of this answer";
            why.notes.push(note.to_owned());
            return;
        }
        why.route = RouteKind::Tunnel;
        why.route_detail = format!("mutual TLS to {}, for {}", hop.peer, hop.authority);
        if hop.service.is_some() {
            let note = "an endpoint of a service is chosen for each connection, by its load";
            why.notes.push(note.to_owned());
        }
        self.arrive(why, &hop.workload, hop.authority);
    }

    /// What the destination's node says to the tunnel request, then to the policies.
    fn arrive(&self, why: &mut Why, local: &Workload, authority: SocketAddr) {
        let request = AuthorityRef::Ip(authority);
        match resolve::inbound(self.snapshot, local, authority.ip(), &request) {
            Inbound::Forward { destination, .. } => {
                let identity = why.source.identity.clone();
                self.decide(why, local, destination, identity.as_ref());
            }
            Inbound::Reject { reason, detail, .. } => {
                why.notes.push(detail);
                refuse(why, reason);
            }
        }
    }

    /// An un-meshed source: nothing happens at its end, but the destination may be in the mesh.
    fn not_captured(&self, why: &mut Why) {
        why.route_detail = "the source is not in the mesh: plain TCP".to_owned();
        let found = self
            .snapshot
            .workload_by_ip(self.network, self.destination.ip());
        let Some(workload) = found else {
            let namespace = &self.source.namespace;
            let ip = self.destination.ip();
            let service = self.snapshot.service_by_vip(self.network, ip, namespace);
            if let Some(service) = service {
                why.service = Some(service.hostname.to_string());
                let note = "outside the mesh the cluster chooses the endpoint: ask again with a \
                            pod's address to see its policies";
                why.notes.push(note.to_owned());
            }
            return;
        };
        why.endpoint = Some(endpoint(
            workload,
            self.destination,
            self.destination,
            Vec::new(),
        ));
        if workload.tunnel_protocol == TunnelProtocol::Hbone {
            self.decide(why, workload, self.destination, None);
        }
    }

    /// The policies of `local`, as its node applies them.
    fn decide(
        &self,
        why: &mut Why,
        local: &Workload,
        destination: SocketAddr,
        identity: Option<&Identity>,
    ) {
        let Some(source_ip) = self.address else {
            why.notes.push("the source has no address".to_owned());
            return;
        };
        let target = Target {
            namespace: &local.namespace,
            policies: &local.authorization_policies,
        };
        let connection = Connection {
            source: identity,
            peer: identity,
            source_ip,
            // Tunnel or not, the source sends from its own address.
            source_ip_vouched: true,
            destination,
        };
        let explained = agent_policy::explain(self.snapshot.policies(), &target, &connection);
        why.policies = explained.verdicts.into_iter().map(policy_view).collect();
        match explained.decision {
            Decision::Allow { policy } => why.policy = policy,
            Decision::Deny { reason, policy } => {
                why.policy = policy;
                refuse(why, reason);
            }
        }
    }
}

fn refuse(why: &mut Why, reason: Reason) {
    why.allowed = false;
    why.reason = reason;
}

fn policy_view(verdict: agent_policy::Verdict) -> PolicyView {
    PolicyView {
        policy: verdict.policy,
        action: verdict.action,
        matches: verdict.matches,
        dry_run: verdict.dry_run,
    }
}

fn endpoint(
    workload: &Workload,
    target: SocketAddr,
    peer: SocketAddr,
    expected: Vec<Identity>,
) -> EndpointView {
    EndpointView {
        workload: name_of(workload),
        node: workload.node.to_string(),
        target,
        peer,
        expected,
    }
}

fn name_of(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.name)
}

#[cfg(test)]
mod tests;
