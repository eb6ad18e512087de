//! What a match asks of a request beside its path.

use agent_model::gateway::{HttpMatch, NamedMatch, ValueMatch};
use agent_policy::pattern;
use http::header::{HeaderName, HeaderValue};
use regex::Regex;

use super::{Facts, Unusable, query};

/// AND of what it holds.
#[derive(Debug)]
pub(super) struct Conditions {
    method: Option<Box<str>>,
    headers: Box<[(HeaderName, Value)]>,
    query: Box<[(Box<str>, Value)]>,
}

#[derive(Debug)]
enum Value {
    Exact(Box<str>),
    Regex(Regex),
}

impl Conditions {
    pub(super) fn compile(matches: &HttpMatch) -> Result<Self, Unusable> {
        let header = |named: &NamedMatch| {
            let name = HeaderName::from_bytes(named.name.as_bytes())
                .map_err(|_| Unusable::HeaderName(named.name.as_ref().to_owned()))?;
            Ok((name, Value::compile(&named.value)?))
        };
        let query =
            |named: &NamedMatch| Ok((Box::from(&*named.name), Value::compile(&named.value)?));
        Ok(Self {
            method: matches.method.as_deref().map(Box::from),
            headers: matches
                .headers
                .iter()
                .map(header)
                .collect::<Result<_, Unusable>>()?,
            query: matches
                .query
                .iter()
                .map(query)
                .collect::<Result<_, Unusable>>()?,
        })
    }

    pub(super) fn hold(&self, facts: &Facts<'_>) -> bool {
        let method = self.method.as_deref();
        method.is_none_or(|method| method == facts.method.as_str())
            && self
                .headers
                .iter()
                .all(|(name, value)| value.is_of_header(facts, name))
            && self
                .query
                .iter()
                .all(|(name, value)| value.is_of_query(facts, name))
    }
}

impl Value {
    fn compile(value: &ValueMatch) -> Result<Self, Unusable> {
        Ok(match value {
            ValueMatch::Exact(exact) => Self::Exact(Box::from(&**exact)),
            ValueMatch::Regex(pattern) => Self::Regex(pattern::whole(pattern)?),
        })
    }

    /// Several fields of one name are one value, joined by commas (RFC 9110, 5.2).
    fn is_of_header(&self, facts: &Facts<'_>, name: &HeaderName) -> bool {
        let mut values = facts.headers.get_all(name).iter();
        let Some(first) = values.next() else {
            return false;
        };
        let Some(second) = values.next() else {
            return self.is(first.as_bytes());
        };
        let rest = [first, second].into_iter().chain(values);
        let joined = rest
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
            .join(&b","[..]);
        self.is(&joined)
    }

    fn is_of_query(&self, facts: &Facts<'_>, name: &str) -> bool {
        let value = facts.query.and_then(|query| query::first(query, name));
        value.is_some_and(|value| self.is(&query::decode(value)))
    }

    fn is(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => {
                std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value))
            }
        }
    }
}
