//! From the words of a policy to what is evaluated.

use agent_model::access::{
    Access, AccessRule, AddressAttribute, Condition, Operation, PathMatch, Source, TextAttribute,
};
use agent_model::{Action, PolicyKey, StringMatch};
use http::HeaderName;

use super::field::{Field, Pair, Paths, Values};
use super::pattern::Patterns;
use super::request::Request;
use super::template::{PathTemplate, TemplateError};

/// Why a policy cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A path template is none.
    #[error("rule {rule}: path {path:?}: {source}")]
    Template {
        /// Which rule, from 0.
        rule: usize,
        /// The template.
        path: String,
        /// What is wrong.
        source: TemplateError,
    },
    /// A condition names a header that cannot exist, such as `:path`.
    #[error("rule {rule}: {name:?} is no header name")]
    HeaderName {
        /// Which rule, from 0.
        rule: usize,
        /// The name.
        name: String,
    },
    /// A condition has neither `values` nor `notValues`, or names no claim.
    #[error("rule {rule}: a condition without values, or without a claim's name")]
    EmptyCondition {
        /// Which rule, from 0.
        rule: usize,
    },
}

/// A policy, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    key: PolicyKey,
    action: Action,
    dry_run: bool,
    rules: Vec<Rule>,
}

/// `None` for `from` and `to` that are absent, which holds; an entry is the AND of its fields.
#[derive(Debug, Clone)]
struct Rule {
    to: Option<Vec<Vec<Field>>>,
    from: Option<Vec<Vec<Field>>>,
    when: Vec<Field>,
}

impl Policy {
    /// Compiles a policy.
    pub fn compile(access: &Access) -> Result<Self, PolicyError> {
        let rules = access.rules.iter().enumerate();
        let rules = rules
            .map(|(index, rule)| Rule::compile(access.action, index, rule))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            key: access.key(),
            action: access.action,
            dry_run: access.dry_run,
            rules,
        })
    }

    /// Its key.
    pub fn key(&self) -> &PolicyKey {
        &self.key
    }

    /// What a match does.
    pub fn action(&self) -> Action {
        self.action
    }

    /// It is counted and logged only.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The first rule that matches, from 0.
    pub fn matching_rule(&self, request: &Request<'_>) -> Option<usize> {
        let holds = |field: &Field| field.holds(request).settle(self.action);
        self.rules.iter().position(|rule| rule.matches(holds))
    }

    /// Whether it would match a request with the token that is best for whoever sent it.
    pub(super) fn matches_best_token(&self, request: &Request<'_>) -> bool {
        let holds = |field: &Field| match field.is_of_token() {
            true => self.action == Action::Allow,
            false => field.holds(request).settle(self.action),
        };
        self.rules.iter().any(|rule| rule.matches(holds))
    }
}

impl Rule {
    fn compile(action: Action, index: usize, rule: &AccessRule) -> Result<Self, PolicyError> {
        // What an entry without any field was meant to say is unknown: a DENY takes it for
        // everything, an ALLOW for nothing.
        let counts = |is_empty: bool| !is_empty || action == Action::Deny;
        let to = rule
            .to
            .iter()
            .filter(|operation| counts(operation.is_empty()));
        let to = to
            .map(|operation| operation_fields(index, operation))
            .collect::<Result<Vec<_>, _>>()?;
        let from = rule.from.iter().filter(|source| counts(source.is_empty()));
        let from = from.map(source_fields).collect();
        let when = rule.when.iter();
        Ok(Self {
            to: (!rule.to.is_empty()).then_some(to),
            from: (!rule.from.is_empty()).then_some(from),
            when: when
                .map(|condition| condition_field(index, condition))
                .collect::<Result<_, _>>()?,
        })
    }

    fn matches(&self, holds: impl Fn(&Field) -> bool) -> bool {
        let all = |fields: &[Field]| fields.iter().all(&holds);
        let any = |entries: &Option<Vec<Vec<Field>>>| {
            let entries = entries.as_ref();
            entries.is_none_or(|entries| entries.iter().any(|fields| all(fields)))
        };
        // Who asks is compared fastest and tells most.
        any(&self.from) && any(&self.to) && all(&self.when)
    }
}

fn operation_fields(rule: usize, operation: &Operation) -> Result<Vec<Field>, PolicyError> {
    let paths = Pair {
        any: paths(rule, &operation.paths)?,
        none: paths(rule, &operation.not_paths)?,
    };
    let fields = [
        said(
            patterns(&operation.methods, &operation.not_methods),
            Field::Method,
        ),
        said(same(&operation.ports, &operation.not_ports), Field::Port),
        said(paths, Field::Path),
        said(
            patterns(&operation.hosts, &operation.not_hosts),
            Field::Host,
        ),
    ];
    Ok(fields.into_iter().flatten().collect())
}

fn source_fields(source: &Source) -> Vec<Field> {
    let fields = [
        said(
            patterns(&source.principals, &source.not_principals),
            Field::Principal,
        ),
        said(
            patterns(&source.namespaces, &source.not_namespaces),
            Field::Namespace,
        ),
        said(
            same(&source.service_accounts, &source.not_service_accounts),
            Field::Account,
        ),
        said(
            same(&source.ip_blocks, &source.not_ip_blocks),
            Field::SourceIp,
        ),
        said(
            same(&source.remote_ip_blocks, &source.not_remote_ip_blocks),
            Field::RemoteIp,
        ),
        said(
            patterns(&source.request_principals, &source.not_request_principals),
            Field::RequestPrincipal,
        ),
    ];
    fields.into_iter().flatten().collect()
}

fn condition_field(rule: usize, condition: &Condition) -> Result<Field, PolicyError> {
    let field = match condition {
        Condition::Text {
            attribute,
            values,
            not_values,
        } => said(patterns(values, not_values), text_field(rule, attribute)?),
        Condition::Address {
            attribute,
            values,
            not_values,
        } => {
            let field = match attribute {
                AddressAttribute::Source => Field::SourceIp,
                AddressAttribute::Remote => Field::RemoteIp,
                AddressAttribute::Destination => Field::DestinationIp,
            };
            said(same(values, not_values), field)
        }
        Condition::DestinationPort { values, not_values } => {
            said(same(values, not_values), Field::Port)
        }
    };
    field.ok_or(PolicyError::EmptyCondition { rule })
}

type OfPatterns = Box<dyn FnOnce(Pair<Patterns>) -> Field>;

fn text_field(rule: usize, attribute: &TextAttribute) -> Result<OfPatterns, PolicyError> {
    let claim = |path: Vec<Box<str>>| -> OfPatterns { Box::new(|pair| Field::Claim(path, pair)) };
    Ok(match attribute {
        TextAttribute::Header(name) => {
            let header = HeaderName::from_bytes(name.as_bytes());
            let header = header.map_err(|_| PolicyError::HeaderName {
                rule,
                name: name.clone(),
            })?;
            Box::new(|pair| Field::Header(header, pair))
        }
        TextAttribute::SourceNamespace => Box::new(Field::Namespace),
        TextAttribute::SourcePrincipal => Box::new(Field::Principal),
        TextAttribute::RequestPrincipal => Box::new(Field::RequestPrincipal),
        TextAttribute::RequestAudiences => claim(vec!["aud".into()]),
        TextAttribute::RequestPresenter => claim(vec!["azp".into()]),
        TextAttribute::Claim(path) if path.is_empty() => {
            return Err(PolicyError::EmptyCondition { rule });
        }
        TextAttribute::Claim(path) => claim(path.iter().map(|name| name.as_str().into()).collect()),
        TextAttribute::Sni => Box::new(Field::Sni),
    })
}

/// Nothing for a field that is not set.
fn said<T: Values>(pair: Pair<T>, field: impl FnOnce(Pair<T>) -> Field) -> Option<Field> {
    let is_set = !pair.any.is_empty() || !pair.none.is_empty();
    is_set.then(|| field(pair))
}

fn patterns(any: &[StringMatch], none: &[StringMatch]) -> Pair<Patterns> {
    Pair {
        any: Patterns::new(any),
        none: Patterns::new(none),
    }
}

fn same<T: Clone>(any: &[T], none: &[T]) -> Pair<Vec<T>> {
    Pair {
        any: any.to_vec(),
        none: none.to_vec(),
    }
}

fn paths(rule: usize, paths: &[PathMatch]) -> Result<Paths, PolicyError> {
    let mut texts = Vec::new();
    let mut templates = Vec::new();
    for path in paths {
        match path {
            PathMatch::Text(text) => texts.push(text.clone()),
            PathMatch::Template(path) => {
                let template = PathTemplate::parse(path);
                templates.push(template.map_err(|source| PolicyError::Template {
                    rule,
                    path: path.clone(),
                    source,
                })?);
            }
        }
    }
    Ok(Paths {
        patterns: Patterns::new(&texts),
        templates,
    })
}
