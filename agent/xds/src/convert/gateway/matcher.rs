//! What policies of requests compare with. Those of connections compare with the same in messages
//! that are Istio's (`convert/authorization.rs`).

use agent_model::{ServiceAccountMatch, StringMatch};
use ipnet::IpNet;
use proto::gateway as wire;

use super::super::fields::{MAX_STRING, invalid, port_or_zero, text};
use super::parts;
use crate::Error;

/// A path into the claims of a token; at least one name.
pub(super) fn claim(path: &wire::ClaimPath) -> Result<Vec<String>, Error> {
    if path.names.is_empty() {
        return Err(Error::Missing("claim"));
    }
    parts("claim", &path.names, |name| plain("claim", name))
}

/// A string that must be there, without control characters.
pub(super) fn plain(field: &'static str, value: &str) -> Result<String, Error> {
    if value.is_empty() {
        return Err(Error::Missing(field));
    }
    text(field, value, MAX_STRING).map(str::to_owned)
}

pub(super) fn strings(values: &[wire::StringMatch]) -> Result<Vec<StringMatch>, Error> {
    parts("match", values, decode_string)
}

pub(super) fn to_strings(values: &[StringMatch]) -> Vec<wire::StringMatch> {
    values.iter().map(encode_string).collect()
}

pub(super) fn decode_string(message: &wire::StringMatch) -> Result<StringMatch, Error> {
    use wire::string_match::Match;
    let checked = |value: &String| text("match", value, MAX_STRING).map(str::to_owned);
    match message.r#match.as_ref().ok_or(Error::Missing("match"))? {
        Match::Exact(value) => checked(value).map(StringMatch::Exact),
        Match::Prefix(value) => checked(value).map(StringMatch::Prefix),
        Match::Suffix(value) => checked(value).map(StringMatch::Suffix),
        Match::Presence(wire::Presence {}) => Ok(StringMatch::Presence),
    }
}

pub(super) fn encode_string(value: &StringMatch) -> wire::StringMatch {
    use wire::string_match::Match;
    wire::StringMatch {
        r#match: Some(match value.clone() {
            StringMatch::Exact(value) => Match::Exact(value),
            StringMatch::Prefix(value) => Match::Prefix(value),
            StringMatch::Suffix(value) => Match::Suffix(value),
            StringMatch::Presence => Match::Presence(wire::Presence {}),
        }),
    }
}

pub(super) fn decode_account(message: &wire::ServiceAccount) -> Result<ServiceAccountMatch, Error> {
    Ok(ServiceAccountMatch {
        namespace: text("accounts", &message.namespace, MAX_STRING)?.to_owned(),
        service_account: text("accounts", &message.service_account, MAX_STRING)?.to_owned(),
    })
}

pub(super) fn encode_account(account: &ServiceAccountMatch) -> wire::ServiceAccount {
    wire::ServiceAccount {
        namespace: account.namespace.clone(),
        service_account: account.service_account.clone(),
    }
}

pub(super) fn blocks(values: &[String]) -> Result<Vec<IpNet>, Error> {
    parts("blocks", values, |value| {
        let parsed = value.parse();
        parsed.map_err(|_| invalid("blocks", format!("{value:.64?} is no block of addresses")))
    })
}

pub(super) fn to_blocks(values: &[IpNet]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) fn ports(values: &[u32]) -> Result<Vec<u16>, Error> {
    parts("ports", values, |port| port_or_zero("ports", *port))
}

pub(super) fn to_ports(values: &[u16]) -> Vec<u32> {
    values.iter().copied().map(u32::from).collect()
}
