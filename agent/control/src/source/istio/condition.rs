//! Conditions of a policy rule, and the values they and the rest of a rule compare with.

use agent_model::access::TextAttribute;
use agent_model::{ServiceAccountMatch, StringMatch};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::source::lenient::{IpBlock, PolicyPort, ip_block, non_empty, policy_port};

/// One of `when`, with the values parsed as its key asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    SourceIp(Values<IpBlock>),
    SourceNamespace(Values<Pattern>),
    SourcePrincipal(Values<Pattern>),
    SourceServiceAccount(Values<AccountName>),
    DestinationIp(Values<IpBlock>),
    DestinationPort(Values<PolicyPort>),
    /// A key that needs an HTTP request (or TLS of the application).
    L7(OfRequest),
}

/// A condition on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfRequest {
    pub(crate) key: String,
    pub(crate) test: RequestTest,
}

/// What it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestTest {
    Text(TextAttribute, Values<Pattern>),
    RemoteIp(Values<IpBlock>),
    /// Nothing that anybody here can answer.
    Unsupported,
}

/// `values` and `notValues`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Values<T> {
    pub(crate) any_of: Vec<T>,
    pub(crate) none_of: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWhen {
    key: String,
    #[serde(default, deserialize_with = "non_empty")]
    values: Vec<Text>,
    #[serde(default, deserialize_with = "non_empty")]
    not_values: Vec<Text>,
}

/// A value of a condition; numbers are what people write for ports.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) if !text.is_empty() => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            _ => Err(D::Error::custom("not a text, or an empty one")),
        }
    }
}

impl RawWhen {
    fn parse<T>(self, parse: impl Fn(&str) -> Result<T, String>) -> Result<Values<T>, String> {
        let all = |texts: Vec<Text>| -> Result<Vec<T>, String> {
            texts.iter().map(|Text(text)| parse(text)).collect()
        };
        Ok(Values {
            any_of: all(self.values)?,
            none_of: all(self.not_values)?,
        })
    }
}

impl TryFrom<RawWhen> for When {
    type Error = String;

    fn try_from(raw: RawWhen) -> Result<Self, String> {
        if raw.values.is_empty() && raw.not_values.is_empty() {
            return Err(format!("{:?} has neither values nor notValues", raw.key));
        }
        let block = |text: &str| ip_block(text).map(IpBlock);
        let pattern = |text: &str| Ok(Pattern::parse(text));
        Ok(match raw.key.as_str() {
            "source.ip" => Self::SourceIp(raw.parse(block)?),
            "source.namespace" => Self::SourceNamespace(raw.parse(pattern)?),
            "source.principal" => Self::SourcePrincipal(raw.parse(pattern)?),
            "source.serviceAccount" => Self::SourceServiceAccount(raw.parse(AccountName::parse)?),
            "destination.ip" => Self::DestinationIp(raw.parse(block)?),
            "destination.port" => {
                Self::DestinationPort(raw.parse(|text| policy_port(text).map(PolicyPort))?)
            }
            _ => Self::L7(of_request(raw)?),
        })
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(RawWhen::deserialize(from)?).map_err(D::Error::custom)
    }
}

fn of_request(raw: RawWhen) -> Result<OfRequest, String> {
    let key = raw.key.clone();
    let test = if key == "remote.ip" {
        RequestTest::RemoteIp(raw.parse(|text| ip_block(text).map(IpBlock))?)
    } else if key.starts_with("experimental.") {
        RequestTest::Unsupported
    } else {
        let attribute = text_attribute(&key).ok_or_else(|| format!("unknown key {key:?}"))?;
        RequestTest::Text(attribute, raw.parse(|text| Ok(Pattern::parse(text)))?)
    };
    Ok(OfRequest { key, test })
}

fn text_attribute(key: &str) -> Option<TextAttribute> {
    Some(match key {
        "request.auth.principal" => TextAttribute::RequestPrincipal,
        "request.auth.audiences" => TextAttribute::RequestAudiences,
        "request.auth.presenter" => TextAttribute::RequestPresenter,
        "connection.sni" => TextAttribute::Sni,
        _ => {
            if let Some(names) = key.strip_prefix("request.auth.claims") {
                return bracketed(names).map(TextAttribute::Claim);
            }
            let names = bracketed(key.strip_prefix("request.headers")?)?;
            let [name] = <[String; 1]>::try_from(names).ok()?;
            http::HeaderName::from_bytes(name.as_bytes()).ok()?;
            TextAttribute::Header(name)
        }
    })
}

/// The names of `[a][b]`, of which there is at least one.
fn bracketed(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<String> = inner.split("][").map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(is_name).then_some(names)
}

/// A text to compare with: `*`, `*suffix`, `prefix*` or exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) StringMatch);

impl Pattern {
    fn parse(text: &str) -> Self {
        Self(if text == "*" {
            StringMatch::Presence
        } else if let Some(suffix) = text.strip_prefix('*') {
            StringMatch::Suffix(suffix.to_owned())
        } else if let Some(prefix) = text.strip_suffix('*') {
            StringMatch::Prefix(prefix.to_owned())
        } else {
            StringMatch::Exact(text.to_owned())
        })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Err(D::Error::custom("an empty text matches nothing"));
        }
        Ok(Self::parse(&text))
    }
}

/// `account` (of the policy's own namespace) or `namespace/account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountName {
    namespace: Option<String>,
    account: String,
}

impl AccountName {
    fn parse(text: &str) -> Result<Self, String> {
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (Some(namespace), account),
            None => (None, text),
        };
        let part = |part: &str| !part.is_empty() && !part.contains(['/', '*']);
        if !part(account) || !namespace.is_none_or(part) {
            return Err(format!(
                "{text:?} is not a service account (account or namespace/account)"
            ));
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            account: account.to_owned(),
        })
    }

    /// The account as seen from a policy of `namespace`.
    pub(crate) fn resolve(&self, namespace: &str) -> ServiceAccountMatch {
        ServiceAccountMatch {
            namespace: self.namespace.as_deref().unwrap_or(namespace).to_owned(),
            service_account: self.account.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for AccountName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
