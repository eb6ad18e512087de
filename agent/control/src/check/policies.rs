//! Rules on policies: what they select, whom they name, and which of their rules are idle.

use std::collections::BTreeSet;

use agent_model::{Action, Match, Rule, StringMatch};

use super::cover::covers;
use super::finding::Found;
use super::pods::Seen;
use super::view::{View, named};
use crate::code::Code;
use crate::collection::Inventory;
use crate::source::istio::{AuthorizationPolicy, Selector};
use crate::source::kubernetes::{Labels, Pod};
use crate::source::{Kind, ObjectRef};
use crate::translate::authorization::{self, enforced};
use crate::translate::peer_authentication;

/// Rules of one namespace and the root namespace that are compared with each other.
const MAX_RULES: usize = 1_000;

/// The rules of the root namespace, which every namespace compares its own with.
pub(super) struct RootRules<'a>(Vec<Ranked<'a>>);

impl<'a> RootRules<'a> {
    pub(super) fn of(inventory: &'a Inventory) -> Self {
        let namespace = &inventory.mesh.root_namespace;
        let policies = inventory.of(namespace);
        let policies = policies.map(|objects| objects.authorization_policies.values());
        let policies = policies.into_iter().flatten();
        Self(
            policies
                .flat_map(|policy| ranked(namespace, policy, true))
                .collect(),
        )
    }
}

pub(super) fn check(
    view: &View<'_>,
    views: &[View<'_>],
    root: &RootRules<'_>,
    out: &mut Vec<Found>,
) {
    for policy in view.objects().authorization_policies.values() {
        let object = view.object(Kind::AuthorizationPolicy, &policy.metadata.name);
        if let Some((action, rules)) = enforced(view.scope.name, policy) {
            selected(view, views, authorization::selector(policy), &object, out);
            for (index, rule) in &rules {
                named_sources(view, action, *index, rule, &object, out);
            }
        }
    }
    if !view.scope.is_root() {
        for policy in view.objects().peer_authentications.values() {
            let object = view.object(Kind::PeerAuthentication, &policy.metadata.name);
            let selector = peer_authentication::selector(policy);
            selected(view, views, selector, &object, out);
        }
    }
    idle_rules(view, root, out);
}

/// What a policy applies to.
fn selected(
    view: &View<'_>,
    views: &[View<'_>],
    selector: Option<&Selector>,
    object: &ObjectRef,
    out: &mut Vec<Found>,
) {
    if view.scope.is_root() {
        // It is for every namespace; that one of them has no such pod says nothing.
        let Some(selector) = selector.filter(|_| view.inventory.is_whole()) else {
            return;
        };
        let mut views = views.iter();
        if !views.any(|view| view.has_any(&selector.match_labels)) {
            let message = "spec.selector selects no pod of any namespace";
            out.push(Found::new(object.clone(), Code::MatchesNoPod, message));
        }
        return;
    }
    if let Some(selector) = selector
        && view.knows_pods()
        && !view.has_any(&selector.match_labels)
    {
        let message = "spec.selector selects no pod of this namespace";
        out.push(Found::new(object.clone(), Code::MatchesNoPod, message));
        return;
    }
    let everyone = Labels::new();
    let wanted = selector.map_or(&everyone, |selector| &selector.match_labels);
    let pods: Vec<&Seen<'_>> = view.by_label().with(wanted).collect();
    let outside = pods.iter().filter(|seen| !seen.is_meshed);
    let outside: Vec<String> = outside.map(|seen| seen.pod.metadata.name.clone()).collect();
    // Of a namespace that is half enrolled it is said once, at the namespace.
    if !outside.is_empty() && (selector.is_some() || outside.len() == pods.len()) {
        let message = format!(
            "{} of the {} pods it applies to are not in the mesh, and nobody enforces it there: {}",
            outside.len(),
            pods.len(),
            named(&outside)
        );
        let code = Code::NotEnforcedOutsideMesh;
        out.push(Found::new(object.clone(), code, message));
    }
}

/// The namespaces and accounts that a rule names.
fn named_sources(
    view: &View<'_>,
    action: Action,
    index: usize,
    rule: &Rule,
    object: &ObjectRef,
    out: &mut Vec<Found>,
) {
    let matches = rule.clauses.iter().flat_map(|clause| &clause.matches);
    let found: BTreeSet<(Code, String)> = matches
        .flat_map(|matched| of_match(view, action, matched))
        .collect();
    for (code, message) in found {
        let found = Found::new(object.clone(), code, message);
        out.push(found.at(format!("spec.rules[{index}]")));
    }
}

fn of_match(view: &View<'_>, action: Action, matched: &Match) -> Vec<(Code, String)> {
    let exact = |texts: &[StringMatch]| -> Vec<String> {
        let texts = texts.iter().filter_map(|text| match text {
            StringMatch::Exact(text) => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    };
    let mut found = Vec::new();
    for namespace in exact(&matched.namespaces) {
        found.extend(namespace_finding(view, action, &namespace));
    }
    for principal in exact(&matched.principals) {
        let parts: Vec<&str> = principal.split('/').collect();
        let [domain, "ns", namespace, "sa", account] = parts[..] else {
            continue;
        };
        if *domain == *view.scope.mesh.trust_domain {
            found.extend(account_finding(view, action, namespace, account));
        } else {
            let message = format!(
                "{principal:?} is not of this mesh, whose trust domain is {}",
                view.scope.mesh.trust_domain
            );
            found.push((Code::TrustDomainForeign, message));
        }
    }
    for account in &matched.service_accounts {
        let (namespace, name) = (&account.namespace, &account.service_account);
        found.extend(account_finding(view, action, namespace, name));
    }
    found
}

fn namespace_finding(view: &View<'_>, action: Action, namespace: &str) -> Option<(Code, String)> {
    let there = View::new(view.inventory, namespace);
    if !there.may_exist() {
        let message = format!("there is no namespace {namespace:?}");
        return Some((Code::NamespaceUnknown, message));
    }
    let message = || format!("no pod of namespace {namespace:?} is in the mesh");
    is_all_plain(&there, action, |_| true).then(|| (Code::PrincipalNotMeshed, message()))
}

fn account_finding(
    view: &View<'_>,
    action: Action,
    namespace: &str,
    account: &str,
) -> Option<(Code, String)> {
    let there = View::new(view.inventory, namespace);
    if !there.may_exist() {
        let message = format!("there is no namespace {namespace:?}");
        return Some((Code::NamespaceUnknown, message));
    }
    let mut entries = there.objects().workload_entries.values();
    if entries.any(|entry| entry.spec.service_account == account) {
        return None;
    }
    if !there.may_have_account(account) {
        let message = format!("there is no service account {namespace}/{account}");
        return Some((Code::AccountUnknown, message));
    }
    let message = || format!("no pod of service account {namespace}/{account} is in the mesh");
    let is_its = |pod: &Pod| pod.service_account() == account;
    is_all_plain(&there, action, is_its).then(|| (Code::PrincipalNotMeshed, message()))
}

/// There are such pods, and none of them has an identity to show.
fn is_all_plain(there: &View<'_>, action: Action, is_meant: impl Fn(&Pod) -> bool) -> bool {
    let mut pods = there.pods().filter(|pod| is_meant(pod)).peekable();
    action == Action::Allow && pods.peek().is_some() && pods.all(|pod| !there.is_meshed(pod))
}

/// A rule and what it applies to.
struct Ranked<'a> {
    object: ObjectRef,
    index: usize,
    action: Action,
    rule: Rule,
    selector: Option<&'a Selector>,
    is_of_root: bool,
}

impl Ranked<'_> {
    /// Applies to everything that `other` applies to.
    fn reaches(&self, other: &Self) -> bool {
        let within = self.is_of_root || !other.is_of_root;
        let selects = match (self.selector, other.selector) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => {
                let mut own = own.match_labels.iter();
                own.all(|(key, value)| others.match_labels.get(key) == Some(value))
            }
        };
        within && selects
    }
}

fn idle_rules(view: &View<'_>, root: &RootRules<'_>, out: &mut Vec<Found>) {
    let policies = view.objects().authorization_policies.values();
    let own: Vec<Ranked<'_>> = if view.scope.is_root() {
        Vec::new()
    } else {
        policies
            .flat_map(|policy| ranked(view.scope.name, policy, false))
            .collect()
    };
    // Each namespace tells of its own, the root namespace too.
    if own.is_empty() && !view.scope.is_root() {
        return;
    }
    let rules: Vec<&Ranked<'_>> = root.0.iter().chain(&own).collect();
    if rules.len() > MAX_RULES {
        let message = format!(
            "{} rules; none of them is compared with others",
            rules.len()
        );
        let object = ObjectRef::new(Kind::Namespace, "", view.scope.name);
        out.push(Found::new(object, Code::CheckBounded, message));
        return;
    }
    for (place, idle) in rules.iter().copied().enumerate() {
        if *idle.object.namespace != *view.scope.name {
            continue;
        }
        let others = rules
            .iter()
            .copied()
            .enumerate()
            .filter(|(other, _)| *other != place);
        let covering =
            others.filter(|(_, other)| other.reaches(idle) && covers(&other.rule, &idle.rule));
        let mut of_others: Vec<(usize, &Ranked<'_>)> = covering.collect();
        // Of two that say the same the later one is idle.
        of_others.retain(|(other, ranked)| {
            ranked.action != idle.action
                || *other < place
                || !(idle.reaches(ranked) && covers(&idle.rule, &ranked.rule))
        });
        out.extend(
            of_others
                .first()
                .and_then(|_| idle_finding(idle, &of_others)),
        );
    }
}

fn ranked<'a>(
    namespace: &str,
    policy: &'a AuthorizationPolicy,
    is_of_root: bool,
) -> Vec<Ranked<'a>> {
    // A dry run changes nothing, and nothing changes it.
    let Some((action, rules)) = enforced(namespace, policy).filter(|_| !policy.is_dry_run()) else {
        return Vec::new();
    };
    let name = &policy.metadata.name;
    let rules = rules.into_iter().map(|(index, rule)| Ranked {
        object: ObjectRef::new(Kind::AuthorizationPolicy, namespace, name),
        index,
        action,
        rule,
        selector: authorization::selector(policy),
        is_of_root,
    });
    rules.collect()
}

fn idle_finding(idle: &Ranked<'_>, others: &[(usize, &Ranked<'_>)]) -> Option<Found> {
    let deny = |(_, other): &&(usize, &Ranked<'_>)| other.action == Action::Deny;
    let same = |(_, other): &&(usize, &Ranked<'_>)| other.action == idle.action;
    let denied = others
        .iter()
        .find(deny)
        .filter(|_| idle.action == Action::Allow);
    let (code, verb, (_, other)) = match denied {
        Some(denying) => (Code::AllowUnreachable, "refuses", denying),
        None => (Code::RuleShadowed, "matches", others.iter().find(same)?),
    };
    let place = if other.object == idle.object {
        format!("spec.rules[{}]", other.index)
    } else {
        format!("spec.rules[{}] of {}", other.index, other.object)
    };
    let message = format!("{place} {verb} everything that this rule matches");
    let found = Found::new(idle.object.clone(), code, message);
    Some(found.at(format!("spec.rules[{}]", idle.index)))
}
