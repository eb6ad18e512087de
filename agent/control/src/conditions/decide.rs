//! Which conditions an object should have. Pure.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use agent_model::gateway::GatewayKey;

use super::bound;
use super::events::{Notice, notices};
use crate::check::{Found, Seen, View, of_views};
use crate::code::Code;
use crate::collection::Inventory;
use crate::condition::Condition;
use crate::gateway::{ObjectStatus, Resolved};
use crate::source::istio::{AuthorizationPolicy, PeerAuthentication, Selector};
use crate::source::kubernetes::{Labels, Metadata};
use crate::source::{Effect, Kind, ObjectRef, Problem};
use crate::translate::{Note, authorization, peer_authentication};

/// Findings that a message names.
const MAX_NAMED: usize = 3;

/// What is to be said of everything.
#[derive(Debug, Default)]
pub(super) struct Reviewed {
    pub(super) verdicts: BTreeMap<ObjectRef, Verdict>,
    pub(super) notices: BTreeSet<Notice>,
}

/// The conditions of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Of the specification they are about; `None` for one that could not be read.
    pub(super) generation: Option<i64>,
    pub(super) conditions: Vec<Condition>,
    /// The status as a whole, of kinds of the Gateway API; then there are no conditions beside it.
    pub(super) status: Option<ObjectStatus>,
}

impl Verdict {
    /// But for messages.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let gist = |verdict: &Self| -> Vec<(&'static str, bool, &'static str)> {
            let conditions = verdict.conditions.iter();
            conditions
                .map(|condition| (condition.kind, condition.status, condition.reason))
                .collect()
        };
        self.generation == other.generation
            && gist(self) == gist(other)
            && self.status == other.status
    }
}

/// Looks at everything.
pub(super) fn review(
    inventory: &Inventory,
    gateways: &Resolved,
    notes: &[Note],
    problems: &[Problem],
) -> Reviewed {
    let mut found: Vec<Found> = notes.iter().map(Found::from).collect();
    let names = inventory.names();
    let views = View::all(inventory, &names);
    found.extend(of_views(inventory, &views));
    let mut by_object: BTreeMap<&ObjectRef, Vec<&Found>> = BTreeMap::new();
    for found in &found {
        by_object.entry(&found.object).or_default().push(found);
    }
    let broken: BTreeMap<&ObjectRef, &Problem> = problems
        .iter()
        .filter_map(|problem| Some((problem.object.as_ref()?, problem)))
        .collect();
    let mut verdicts = BTreeMap::new();
    for (object, subject) in subjects(inventory, &views) {
        let facts = Facts {
            problem: broken.get(&object).copied(),
            found: by_object.get(&object).map_or(&[][..], Vec::as_slice),
            enforcers: gateways.enforcers.get(&object),
        };
        verdicts.insert(object, facts.verdict(&subject));
    }
    verdicts.extend(views.iter().flat_map(bound::of_services));
    for (object, problem) in broken {
        if !verdicts.contains_key(object) && has_conditions(object.kind) {
            let facts = Facts {
                problem: Some(problem),
                found: &[],
                enforcers: None,
            };
            verdicts.insert(object.clone(), facts.verdict(&Subject::unread(object.kind)));
        }
    }
    let of_gateways = gateways.statuses.iter().map(|(object, reported)| {
        let verdict = Verdict {
            generation: Some(reported.generation),
            conditions: Vec::new(),
            status: Some(reported.status.clone()),
        };
        (object.clone(), verdict)
    });
    verdicts.extend(of_gateways);
    Reviewed {
        verdicts,
        notices: notices(&found, problems),
    }
}

fn has_conditions(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::MeshConfig
    )
}

/// What an object is about.
struct Subject {
    kind: Kind,
    generation: Option<i64>,
    reach: Reach,
    is_dry_run: bool,
    /// No node enforces it, only gateways do.
    is_of_gateways: bool,
    /// Hosts of a ServiceEntry.
    hosts: usize,
    /// What is said of its waypoint.
    bound: Option<Condition>,
}

impl Subject {
    fn unread(kind: Kind) -> Self {
        Self {
            kind,
            generation: None,
            reach: Reach::default(),
            is_dry_run: false,
            is_of_gateways: false,
            hosts: 0,
            bound: None,
        }
    }

    fn of(kind: Kind, metadata: &Metadata) -> Self {
        Self {
            generation: Some(metadata.generation),
            ..Self::unread(kind)
        }
    }
}

/// The pods that a policy applies to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reach {
    pods: usize,
    meshed: usize,
    /// Nodes on which such a pod belongs into the mesh and has a network.
    nodes: usize,
    /// Those whose agent says that it has captured such a pod.
    enforcing: usize,
}

/// Nodes on which a pod belongs into the mesh, by name.
type Nodes<'a> = BTreeMap<&'a str, usize>;

/// The node on which an agent is to capture the pod. One that has no network yet gets it in the
/// mesh, or not at all.
fn node_of<'a>(seen: &Seen<'a>) -> Option<&'a str> {
    let node = seen.pod.spec.node_name.as_str();
    let is_placed = seen.is_wanted && !node.is_empty() && seen.pod.status.pod_ip.is_some();
    is_placed.then_some(node)
}

fn nodes<'a>(views: &[View<'a>]) -> Nodes<'a> {
    let mut nodes = Nodes::new();
    for node in views
        .iter()
        .flat_map(|view| view.by_label().all())
        .filter_map(node_of)
    {
        let next = nodes.len();
        nodes.entry(node).or_insert(next);
    }
    nodes
}

fn reach<'a, 's>(pods: impl Iterator<Item = &'s Seen<'a>>, nodes: &Nodes<'_>) -> Reach
where
    'a: 's,
{
    let mut reach = Reach::default();
    let mut seen_on = vec![(false, false); nodes.len()];
    for seen in pods {
        reach.pods += 1;
        reach.meshed += usize::from(seen.is_meshed);
        let place = node_of(seen).and_then(|node| nodes.get(node));
        if let Some((has_any, has_captured)) = place.and_then(|place| seen_on.get_mut(*place)) {
            *has_any = true;
            *has_captured |= View::is_captured(seen.pod);
        }
    }
    reach.nodes = seen_on.iter().filter(|(has_any, _)| *has_any).count();
    reach.enforcing = seen_on.iter().filter(|(_, captured)| *captured).count();
    reach
}

fn subjects(inventory: &Inventory, views: &[View<'_>]) -> Vec<(ObjectRef, Subject)> {
    let nodes = nodes(views);
    let mut subjects = Vec::new();
    for (index, view) in views.iter().enumerate() {
        let of_view = &views[index..=index];
        let within = if view.scope.is_root() { views } else { of_view };
        // What is for all pods is asked for often, and the answer is one.
        let all = LazyCell::new(|| reach(pods_with(within, &Labels::new()), &nodes));
        let reach = |selector: Option<&Selector>| match selector.map(|of| &of.match_labels) {
            Some(wanted) if !wanted.is_empty() => reach(pods_with(within, wanted), &nodes),
            _ => *all,
        };
        subjects.extend(of_namespace(view, reach));
    }
    if let Some(config) = &inventory.mesh_config {
        let metadata = &config.metadata;
        let object = ObjectRef::new(Kind::MeshConfig, "", &metadata.name);
        subjects.push((object, Subject::of(Kind::MeshConfig, metadata)));
    }
    subjects
}

fn pods_with<'a, 's>(
    views: &'s [View<'a>],
    wanted: &'s Labels,
) -> impl Iterator<Item = &'s Seen<'a>> {
    views.iter().flat_map(|view| view.by_label().with(wanted))
}

fn of_namespace(
    view: &View<'_>,
    reach: impl Fn(Option<&Selector>) -> Reach,
) -> Vec<(ObjectRef, Subject)> {
    let objects = view.objects();
    let mut subjects = Vec::new();
    let mut add = |kind, metadata: &Metadata, subject| {
        subjects.push((view.object(kind, &metadata.name), subject));
    };
    for policy in objects.authorization_policies.values() {
        let policy: &AuthorizationPolicy = policy;
        let kind = Kind::AuthorizationPolicy;
        let subject = Subject {
            reach: reach(authorization::selector(policy)),
            is_dry_run: policy.is_dry_run(),
            is_of_gateways: authorization::has_targets(policy),
            ..Subject::of(kind, &policy.metadata)
        };
        add(kind, &policy.metadata, subject);
    }
    for policy in objects.peer_authentications.values() {
        let policy: &PeerAuthentication = policy;
        let kind = Kind::PeerAuthentication;
        let subject = Subject {
            reach: reach(peer_authentication::selector(policy)),
            ..Subject::of(kind, &policy.metadata)
        };
        add(kind, &policy.metadata, subject);
    }
    for policy in objects.request_authentications.values() {
        let kind = Kind::RequestAuthentication;
        let subject = Subject {
            is_of_gateways: true,
            ..Subject::of(kind, &policy.metadata)
        };
        add(kind, &policy.metadata, subject);
    }
    for entry in objects.service_entries.values() {
        let kind = Kind::ServiceEntry;
        let subject = Subject {
            hosts: entry.spec.hosts.len(),
            bound: bound::condition(view, &entry.metadata.labels, true),
            ..Subject::of(kind, &entry.metadata)
        };
        add(kind, &entry.metadata, subject);
    }
    for entry in objects.workload_entries.values() {
        let kind = Kind::WorkloadEntry;
        let subject = Subject {
            bound: bound::condition(view, &entry.labels(), false),
            ..Subject::of(kind, &entry.metadata)
        };
        add(kind, &entry.metadata, subject);
    }
    subjects
}

/// What is known to be wrong with one object.
struct Facts<'a> {
    problem: Option<&'a Problem>,
    found: &'a [&'a Found],
    /// Gateways that enforce it.
    enforcers: Option<&'a BTreeSet<GatewayKey>>,
}

impl Facts<'_> {
    fn verdict(&self, subject: &Subject) -> Verdict {
        let accepted = self.accepted();
        let in_force = match subject.kind {
            Kind::ServiceEntry | Kind::WorkloadEntry => {
                self.in_force("Programmed", &accepted, subject)
            }
            _ => self.in_force("Enforced", &accepted, subject),
        };
        let mut conditions = vec![accepted, in_force];
        if matches!(subject.kind, Kind::PeerAuthentication | Kind::ServiceEntry) {
            conditions.push(self.conflicted());
        }
        conditions.extend(subject.bound.clone());
        Verdict {
            // A specification that is not read yet stands behind a problem.
            generation: subject.generation.filter(|_| self.problem.is_none()),
            conditions,
            status: None,
        }
    }

    fn accepted(&self) -> Condition {
        const KIND: &str = "Accepted";
        if let Some(problem) = self.problem {
            let place = match problem.field.as_str() {
                "" => String::new(),
                field => format!("{field}: "),
            };
            let message = format!("{place}{}", problem.message);
            return Condition::new(KIND, false, Code::Invalid.reason(), &message);
        }
        if let Some(found) = self.found.iter().find(|found| is_refused(found.code)) {
            return Condition::new(KIND, false, found.code.reason(), &found.message);
        }
        match self.found {
            [] => Condition::new(KIND, true, "Accepted", "nothing is wrong with it"),
            found => Condition::new(KIND, true, "Accepted", &listed(found)),
        }
    }

    /// Whether it is in force, where.
    fn in_force(&self, kind: &'static str, accepted: &Condition, subject: &Subject) -> Condition {
        if let Some(problem) = self.problem {
            return match problem.effect {
                Effect::LastGoodKept => Condition::new(
                    kind,
                    true,
                    "LastGoodKept",
                    "the last version that could be read is in force",
                ),
                Effect::NotApplied => {
                    Condition::new(kind, false, "NotAccepted", "it could not be read")
                }
            };
        }
        if !accepted.status {
            return Condition::new(kind, false, "NotAccepted", "it was not accepted");
        }
        // What is taken elsewhere is in force in its own namespace.
        let lost = |found: &&Found| found.code != Code::HostElsewhere;
        let conflicts = self.conflicts().filter(lost).count();
        let is_lost = match subject.kind {
            Kind::ServiceEntry => conflicts >= subject.hosts.max(1),
            _ => conflicts > 0,
        };
        if is_lost {
            return Condition::new(
                kind,
                false,
                "Conflicted",
                "another object is in force instead",
            );
        }
        match subject.kind {
            Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => {
                self.enforced(kind, subject)
            }
            Kind::MeshConfig => {
                Condition::new(kind, true, "Enforced", "by the agent of every node")
            }
            _ => Condition::new(kind, true, "Programmed", "the agent of every node knows it"),
        }
    }

    /// A policy is enforced by the agents of the nodes that have pods it applies to, from when
    /// they have captured the pods on: every agent is sent every policy, and refuses what it was
    /// not told enough to decide.
    fn enforced(&self, kind: &'static str, subject: &Subject) -> Condition {
        let Reach {
            pods,
            meshed,
            nodes,
            enforcing,
        } = subject.reach;
        if subject.is_dry_run {
            let message = "a dry run: what it would do is logged";
            return Condition::new(kind, false, "DryRun", message);
        }
        let by_gateways = self.by_gateways();
        if let Some(gateways) = &by_gateways
            && (subject.is_of_gateways || meshed == 0)
        {
            return Condition::new(kind, true, "Enforced", gateways);
        }
        if pods == 0 {
            return Condition::new(kind, false, "NoPods", "there is no pod it applies to");
        }
        if meshed == 0 {
            let message = format!("none of the {pods} pods it applies to is in the mesh");
            return Condition::new(kind, false, "NoMeshedPods", &message);
        }
        if enforcing == 0 {
            let message = "no agent says yet that it has captured a pod it applies to";
            return Condition::new(kind, false, "NotCaptured", message);
        }
        let mut message = match (enforcing, nodes) {
            (1, 1) => "by the agent of 1 node".to_owned(),
            (all, nodes) if all == nodes => format!("by the agents of {nodes} nodes"),
            (some, nodes) => format!("by the agents of {some} of {nodes} nodes"),
        };
        if let Some(gateways) = by_gateways {
            message = format!("{gateways}, and {message}");
        }
        let http = self.found.iter().find(|found| found.code == Code::L7AtL4);
        if let Some(found) = http {
            message.push_str(&format!(", for connections: {}", found.message));
        } else if meshed < pods {
            let outside = pods - meshed;
            message.push_str(&format!("; {outside} of {pods} pods are not in the mesh"));
        }
        if enforcing < nodes {
            message.push_str("; the others have yet to capture a pod it applies to");
        }
        if http.is_none() && meshed == pods && enforcing == nodes {
            return Condition::new(kind, true, "Enforced", &message);
        }
        Condition::new(kind, true, "PartiallyEnforced", &message)
    }

    /// The gateways that enforce it, in words.
    fn by_gateways(&self) -> Option<String> {
        let gateways = self.enforcers?;
        let named = gateways.iter().take(MAX_NAMED).map(ToString::to_string);
        let named: Vec<String> = named.collect();
        let more = match gateways.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let word = match gateways.len() {
            1 => "gateway",
            _ => "gateways",
        };
        Some(format!("by {word} {}{more}", named.join(", ")))
    }

    fn conflicts(&self) -> impl Iterator<Item = &Found> {
        let found = self.found.iter().copied();
        found.filter(|found| is_conflict(found.code))
    }

    fn conflicted(&self) -> Condition {
        const KIND: &str = "Conflicted";
        let conflicts: Vec<&Found> = self.conflicts().collect();
        match conflicts.first() {
            None => Condition::new(KIND, false, "NoConflict", "nothing stands against it"),
            Some(first) => Condition::new(KIND, true, first.code.reason(), &listed(&conflicts)),
        }
    }
}

/// Nothing of the object is in force.
fn is_refused(code: Code) -> bool {
    matches!(
        code,
        Code::ActionUnsupported
            | Code::TargetUnsupported
            | Code::RootSelector
            | Code::TrustDomainDiffers
            | Code::UnixEndpoint
    )
}

fn is_conflict(code: Code) -> bool {
    matches!(
        code,
        Code::PeerAuthenticationConflict | Code::HostConflict | Code::HostElsewhere
    )
}

/// The worst first.
fn listed(found: &[&Found]) -> String {
    let mut sorted: Vec<&&Found> = found.iter().collect();
    sorted.sort_by_key(|found| std::cmp::Reverse(found.code.severity()));
    let shown = sorted.iter().take(MAX_NAMED).map(|found| {
        let place = match found.field.as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        };
        format!("{} ({place}{})", found.code.as_str(), found.message)
    });
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if let Some(more @ 1..) = found.len().checked_sub(MAX_NAMED) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}
