//! RequestPolicies, compiled and put where they apply.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use agent_model::access::{Access, PathMatch, PolicyTarget};
use agent_model::authentication::Authentication;
use agent_model::gateway::GatewayKey;
use agent_model::{NamespacedHostname, PolicyKey, Reason, StringMatch};
use agent_policy::http::{Policy, PolicyError, Ruleset};
use agent_policy::jwt::Authenticator;

use super::connection::{is_whole, of_connections};
use crate::normalize::pattern;
use crate::refusal::Refusal;

/// What stands before the requests of one place.
#[derive(Debug, Default)]
pub struct Guard {
    /// Which tokens count.
    pub(super) tokens: Authenticator,
    /// Who may do what.
    pub(super) rules: Ruleset,
    /// The same for connections that nobody looks into.
    pub(super) connections: Ruleset,
    /// None of the policies asks for more than a connection has.
    pub(super) is_of_connections: bool,
    /// There is no gateway: nothing passes.
    pub(super) is_closed: bool,
}

/// Every guard of a gateway.
#[derive(Debug, Default)]
pub struct Guards {
    /// For whatever no policy names.
    everywhere: Option<Arc<Guard>>,
    /// For services that policies name: those policies, and the gateway's.
    services: HashMap<NamespacedHostname, Arc<Guard>>,
    remote_keys: BTreeSet<Arc<str>>,
}

/// What a gateway is told of policies, in the order in which they are evaluated.
#[derive(Debug, Clone, Default)]
pub struct RequestPolicies<'a> {
    /// Who may send requests.
    pub access: Vec<&'a Access>,
    /// Which tokens count.
    pub authentications: Vec<&'a Authentication>,
    /// RequestPolicies of either kind that came in a form that cannot be read, and of which no good
    /// version is held. What they are for is not known: they refuse everything.
    pub unreadable: Vec<PolicyKey>,
}

/// What is wrong with a policy.
pub(crate) type Wrong = (PolicyKey, String);

/// A policy of requests with its targets, compiled once for all its places.
struct Compiled<'a> {
    targets: &'a [PolicyTarget],
    is_of_connections: bool,
    policy: Result<Both, PolicyKey>,
}

/// A policy, and what of it a connection can be judged by.
type Both = (Arc<Policy>, Arc<Policy>);

impl Guards {
    /// Of no gateway: it is not known who may do what, and nobody may anything.
    pub(crate) fn closed() -> Self {
        let guard = Guard {
            is_of_connections: true,
            is_closed: true,
            ..Guard::default()
        };
        Self {
            everywhere: Some(Arc::new(guard)),
            ..Self::default()
        }
    }

    /// Compiles the policies of `gateway`, and says what is wrong with them.
    pub(crate) fn compile(
        gateway: &GatewayKey,
        policies: &RequestPolicies<'_>,
    ) -> (Self, Vec<Wrong>) {
        let mut faults = Vec::new();
        let access: Vec<_> = policies
            .access
            .iter()
            .filter_map(|access| compile(access, &mut faults))
            .collect();
        let mut found = BTreeSet::new();
        let name = gateway.to_string();
        let mut guard = |service: Option<&NamespacedHostname>| {
            let applies = |targets: &[PolicyTarget]| {
                targets.iter().any(|target| match target {
                    PolicyTarget::Gateway(named) => **named == *name,
                    PolicyTarget::Service(named) => Some(named) == service,
                })
            };
            let here = || access.iter().filter(|one| applies(one.targets));
            let is_of_connections = here().all(|one| one.is_of_connections);
            let (good, bad): (Vec<_>, Vec<_>) = here()
                .map(|one| one.policy.clone())
                .partition(Result::is_ok);
            let bad = bad.into_iter().filter_map(Result::err);
            let bad: Vec<PolicyKey> = bad.chain(policies.unreadable.iter().cloned()).collect();
            let (of_requests, of_connections): (Vec<_>, Vec<_>) =
                good.into_iter().flatten().unzip();
            let rules = Ruleset::new(of_requests, bad.clone());
            let connections = Ruleset::new(of_connections, bad);
            let here = policies.authentications.iter().copied();
            let (tokens, wrong) =
                Authenticator::compile(here.filter(|policy| applies(&policy.targets)));
            for (policy, what) in wrong {
                found.insert((policy, what.to_string()));
            }
            let guard = Guard {
                tokens,
                rules,
                connections,
                is_of_connections,
                is_closed: false,
            };
            (!guard.is_empty()).then(|| Arc::new(guard))
        };
        let everywhere = guard(None);
        let services: BTreeSet<_> = access
            .iter()
            .flat_map(|one| one.targets)
            .chain(policies.authentications.iter().flat_map(|one| &one.targets))
            .filter_map(|target| match target {
                PolicyTarget::Service(service) => Some(service),
                PolicyTarget::Gateway(_) => None,
            })
            .collect();
        let services = services
            .into_iter()
            .filter_map(|service| Some((service.clone(), guard(Some(service))?)))
            .collect::<HashMap<_, _>>();
        faults.extend(found);
        let all = everywhere.iter().chain(services.values());
        let remote_keys = all.flat_map(|guard| guard.tokens.remote_keys().cloned());
        let guards = Self {
            remote_keys: remote_keys.collect(),
            everywhere,
            services,
        };
        (guards, faults)
    }

    /// What stands before requests to a service behind this waypoint.
    pub fn of_service(&self, service: &NamespacedHostname) -> Option<&Arc<Guard>> {
        self.services.get(service).or(self.everywhere.as_ref())
    }

    /// What policies say that name a service.
    pub(crate) fn naming(&self, service: &NamespacedHostname) -> Option<&Arc<Guard>> {
        self.services.get(service)
    }

    /// What stands before requests to the address of a pod that these services lead to: what
    /// policies say of them is not to be had at the pod's own address. Each has to let them pass.
    pub fn of_pod(&self, services: &[NamespacedHostname]) -> Vec<&Arc<Guard>> {
        let named = services.iter();
        let mut guards: Vec<_> = named.filter_map(|name| self.services.get(name)).collect();
        if guards.is_empty() {
            guards.extend(&self.everywhere);
        }
        guards
    }

    /// What stands before every other request.
    pub fn of_gateway(&self) -> Option<&Arc<Guard>> {
        self.everywhere.as_ref()
    }

    /// Why nothing passes, where there is no gateway.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.everywhere.as_ref()?.ask_gateway().err()
    }

    /// Addresses of the key sets that have to be fetched.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.remote_keys.iter()
    }
}

impl Guard {
    /// The policy that refuses whatever comes, because it is not known what it says.
    pub fn refuses_everything(&self) -> Option<&PolicyKey> {
        self.rules.unreadable().first()
    }

    /// Refuses everything where there is no gateway.
    pub(super) fn ask_gateway(&self) -> Result<(), Refusal> {
        if !self.is_closed {
            return Ok(());
        }
        let detail = "the control plane does not know this gateway, or no longer";
        Err(Refusal::new(Reason::WaypointUnavailable, detail))
    }

    /// True when everything passes untouched.
    fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.rules.is_empty()
    }
}

/// `None` for a trial of a policy that cannot be compiled: it has no say.
fn compile<'a>(access: &'a Access, faults: &mut Vec<Wrong>) -> Option<Compiled<'a>> {
    let compiled = |access: &Access| Policy::compile(access).map(Arc::new);
    let whole = compiled(&in_normal_form(access));
    let policy = whole.and_then(|whole| Ok((whole, compiled(&of_connections(access))?)));
    let policy = policy.map_err(|error: PolicyError| {
        faults.push((access.key(), error.to_string()));
        access.key()
    });
    (policy.is_ok() || !access.dry_run).then_some(Compiled {
        targets: &access.targets,
        is_of_connections: is_whole(access),
        policy,
    })
}

/// A policy with its paths in the form that those of requests have.
fn in_normal_form(access: &Access) -> Access {
    let mut access = access.clone();
    let operations = access.rules.iter_mut().flat_map(|rule| &mut rule.to);
    for operation in operations {
        for path in operation.paths.iter_mut().chain(&mut operation.not_paths) {
            if let PathMatch::Text(
                StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text),
            ) = path
            {
                *text = pattern(text);
            }
        }
    }
    access
}
