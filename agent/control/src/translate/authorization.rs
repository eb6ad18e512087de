//! AuthorizationPolicy -> Authorization, as far as a node can decide it.
//!
//! What needs an HTTP request is handled on the strict side: an ALLOW rule with such a field is
//! left out, a DENY rule denies on what remains of it. Both are said in the notes.

use agent_model::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Scope as PolicyScope, StringMatch,
};

use super::{Note, Scope, Translated};
use crate::code::Code;
use crate::source::istio::{
    AccountName, AuthorizationPolicy, Operation, Pattern, PolicyAction, PolicyRule, Selector,
    Source, When,
};
use crate::source::kubernetes::Labels;
use crate::source::lenient::{IpBlock, PolicyPort};
use crate::source::{Kind, ObjectRef};

/// The policies with a selector that reach into a namespace.
#[derive(Debug, Default)]
pub(crate) struct Selecting {
    policies: Vec<(Selector, PolicyKey)>,
}

impl Selecting {
    /// Keys of the policies that select these labels.
    pub(crate) fn selecting(&self, labels: &Labels) -> Vec<PolicyKey> {
        let chosen = self
            .policies
            .iter()
            .filter(|(selector, _)| selector.matches(labels));
        chosen.map(|(_, key)| key.clone()).collect()
    }
}

/// Translates the policies of a namespace, and finds those that its workloads must list.
pub(crate) fn translate(scope: &Scope<'_>, out: &mut Translated) -> Selecting {
    let mut selecting = Selecting::default();
    for policy in scope.objects.authorization_policies.values() {
        let Some(translated) = translate_one(scope, policy, &mut out.notes) else {
            continue;
        };
        if let Some(selector) = selector(policy) {
            selecting
                .policies
                .push((selector.clone(), translated.key()));
        }
        out.policies.push(translated);
    }
    if !scope.is_root() {
        // The root namespace reports their notes itself.
        let root = scope.root.authorization_policies.values();
        for policy in root.filter(|policy| is_enforced(policy)) {
            if let Some(selector) = selector(policy) {
                let key = PolicyKey::new(&scope.mesh.root_namespace, &policy.metadata.name);
                selecting.policies.push((selector.clone(), key));
            }
        }
    }
    selecting
}

/// A selector without labels selects everything, like none.
pub(crate) fn selector(policy: &AuthorizationPolicy) -> Option<&Selector> {
    let selector = policy.spec.selector.as_ref()?;
    (!selector.match_labels.is_empty()).then_some(selector)
}

pub(crate) fn has_targets(policy: &AuthorizationPolicy) -> bool {
    policy.spec.target_ref.is_some() || !policy.spec.target_refs.is_empty()
}

/// True when nodes enforce the policy.
fn is_enforced(policy: &AuthorizationPolicy) -> bool {
    action(policy).is_some() && !has_targets(policy)
}

pub(crate) fn action(policy: &AuthorizationPolicy) -> Option<Action> {
    match policy.spec.action {
        PolicyAction::Allow => Some(Action::Allow),
        PolicyAction::Deny => Some(Action::Deny),
        PolicyAction::Audit | PolicyAction::Custom => None,
    }
}

fn translate_one(
    scope: &Scope<'_>,
    policy: &AuthorizationPolicy,
    notes: &mut Vec<Note>,
) -> Option<Authorization> {
    let name = &policy.metadata.name;
    let mut notes = Notes {
        object: ObjectRef::new(Kind::AuthorizationPolicy, scope.name, name),
        notes,
    };
    let Some(action) = action(policy) else {
        let action = format!("{:?}", policy.spec.action).to_uppercase();
        notes.add(
            Code::ActionUnsupported,
            format!("action {action} is not supported; no effect"),
        );
        return None;
    };
    if has_targets(policy) {
        // What gateways and waypoints enforce is no node's.
        return None;
    }
    let rules = rules_in_force(scope.name, action, policy, &mut notes);
    let rules: Vec<Rule> = rules.into_iter().map(|(_, rule)| rule).collect();
    match action {
        Action::Allow if rules.is_empty() => notes.add(
            Code::AllowsNothing,
            "allows nothing: every connection to what it applies to is refused".to_owned(),
        ),
        Action::Deny if rules.is_empty() => {
            notes.add(
                Code::DeniesNothing,
                "has no rule, so it denies nothing".to_owned(),
            );
        }
        _ => {}
    }
    Some(Authorization {
        name: name.as_str().into(),
        namespace: scope.name.into(),
        scope: match selector(policy) {
            Some(_) => PolicyScope::WorkloadSelector,
            None if scope.is_root() => PolicyScope::Global,
            None => PolicyScope::Namespace,
        },
        action,
        rules,
        dry_run: policy.is_dry_run(),
    })
}

/// The action and the rules of a policy that nodes enforce, each rule with its place in
/// `spec.rules`; `None` for a policy that they do not enforce.
pub(crate) fn enforced(
    namespace: &str,
    policy: &AuthorizationPolicy,
) -> Option<(Action, Vec<(usize, Rule)>)> {
    let action = action(policy).filter(|_| !has_targets(policy))?;
    let mut notes = Notes {
        object: ObjectRef::new(Kind::AuthorizationPolicy, namespace, &policy.metadata.name),
        notes: &mut Vec::new(),
    };
    let rules = rules_in_force(namespace, action, policy, &mut notes);
    Some((action, rules))
}

fn rules_in_force(
    namespace: &str,
    action: Action,
    policy: &AuthorizationPolicy,
    notes: &mut Notes<'_>,
) -> Vec<(usize, Rule)> {
    let rules = policy.spec.rules.iter().enumerate();
    rules
        .filter_map(|(index, rule)| {
            let rule = translate_rule(namespace, action, index, rule, notes)?;
            Some((index, rule))
        })
        .collect()
}

struct Notes<'a> {
    object: ObjectRef,
    notes: &'a mut Vec<Note>,
}

impl Notes<'_> {
    fn add(&mut self, code: Code, message: String) {
        self.notes
            .push(Note::new(self.object.clone(), code, message));
    }
}

/// One group; `None` when it is left out.
fn translate_rule(
    namespace: &str,
    action: Action,
    index: usize,
    rule: &PolicyRule,
    notes: &mut Notes<'_>,
) -> Option<Rule> {
    let l7 = l7_fields(rule);
    if !l7.is_empty() {
        let fields = l7.join(", ");
        let consequence = match action {
            Action::Allow => "the rule is left out, so it allows nothing",
            Action::Deny => "they are left out, so the rule denies whatever the rest of it matches",
        };
        notes.add(
            Code::L7AtL4,
            format!(
                "spec.rules[{index}] uses {fields}, which need an HTTP request; a node decides \
                 by connection: {consequence}"
            ),
        );
        if action == Action::Allow {
            return None;
        }
    }
    let to = rule.to.iter().map(|to| operation(&to.operation)).collect();
    let from = rule
        .from
        .iter()
        .map(|from| source(namespace, &from.source))
        .collect();
    let when = rule
        .when
        .iter()
        .filter_map(|when| condition(namespace, when));
    let clauses: Vec<Clause> = [clause(to), clause(from)]
        .into_iter()
        .flatten()
        .chain(when)
        .collect();
    note_odd_texts(index, &clauses, notes);
    Some(Rule { clauses })
}

/// The clause of a list of alternatives; `None` when one of them matches everything, as then the
/// whole clause does. An empty [`Match`] would mean the opposite on the wire.
fn clause(matches: Vec<Match>) -> Option<Clause> {
    let restricts = !matches.is_empty() && !matches.iter().any(Match::is_empty);
    restricts.then_some(Clause { matches })
}

fn l7_fields(rule: &PolicyRule) -> Vec<String> {
    let sources = rule.from.iter().flat_map(|from| from.source.l7_fields());
    let operations = rule.to.iter().flat_map(|to| to.operation.l7_fields());
    let conditions = rule.when.iter().filter_map(|when| match when {
        When::L7(of) => Some(of.key.clone()),
        _ => None,
    });
    let mut fields: Vec<String> = sources.chain(operations).map(str::to_owned).collect();
    fields.extend(conditions);
    fields.sort_unstable();
    fields.dedup();
    fields
}

fn operation(operation: &Operation) -> Match {
    Match {
        destination_ports: ports(&operation.ports),
        not_destination_ports: ports(&operation.not_ports),
        ..Match::default()
    }
}

fn source(namespace: &str, source: &Source) -> Match {
    Match {
        principals: texts(&source.principals),
        not_principals: texts(&source.not_principals),
        namespaces: texts(&source.namespaces),
        not_namespaces: texts(&source.not_namespaces),
        service_accounts: accounts(namespace, &source.service_accounts),
        not_service_accounts: accounts(namespace, &source.not_service_accounts),
        source_ips: blocks(&source.ip_blocks),
        not_source_ips: blocks(&source.not_ip_blocks),
        ..Match::default()
    }
}

fn condition(namespace: &str, when: &When) -> Option<Clause> {
    let mut matched = Match::default();
    match when {
        When::SourceIp(values) => {
            matched.source_ips = blocks(&values.any_of);
            matched.not_source_ips = blocks(&values.none_of);
        }
        When::SourceNamespace(values) => {
            matched.namespaces = texts(&values.any_of);
            matched.not_namespaces = texts(&values.none_of);
        }
        When::SourcePrincipal(values) => {
            matched.principals = texts(&values.any_of);
            matched.not_principals = texts(&values.none_of);
        }
        When::SourceServiceAccount(values) => {
            matched.service_accounts = accounts(namespace, &values.any_of);
            matched.not_service_accounts = accounts(namespace, &values.none_of);
        }
        When::DestinationIp(values) => {
            matched.destination_ips = blocks(&values.any_of);
            matched.not_destination_ips = blocks(&values.none_of);
        }
        When::DestinationPort(values) => {
            matched.destination_ports = ports(&values.any_of);
            matched.not_destination_ports = ports(&values.none_of);
        }
        When::L7(_) => {}
    }
    clause(vec![matched])
}

fn texts(patterns: &[Pattern]) -> Vec<StringMatch> {
    patterns.iter().map(|Pattern(text)| text.clone()).collect()
}

fn accounts(namespace: &str, names: &[AccountName]) -> Vec<agent_model::ServiceAccountMatch> {
    names.iter().map(|name| name.resolve(namespace)).collect()
}

fn blocks(blocks: &[IpBlock]) -> Vec<ipnet::IpNet> {
    blocks.iter().map(|block| block.0).collect()
}

fn ports(ports: &[PolicyPort]) -> Vec<u16> {
    ports.iter().map(|port| port.0).collect()
}

/// Says where a text is compared otherwise than it reads.
fn note_odd_texts(index: usize, clauses: &[Clause], notes: &mut Notes<'_>) {
    let matches = clauses.iter().flat_map(|clause| &clause.matches);
    let texts = matches.flat_map(|matched| {
        let lists = [
            &matched.principals,
            &matched.not_principals,
            &matched.namespaces,
            &matched.not_namespaces,
        ];
        lists.into_iter().flatten()
    });
    for text in texts {
        let (StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text)) =
            text
        else {
            continue;
        };
        if text.contains('*') {
            notes.add(
                Code::WildcardInside,
                format!("spec.rules[{index}]: only a first or last `*` is a wildcard, not that inside {text:?}"),
            );
        }
        if text.starts_with("spiffe://") {
            notes.add(
                Code::PrincipalWithScheme,
                format!("spec.rules[{index}]: principals are written without spiffe://; {text:?} matches nobody"),
            );
        }
    }
}
