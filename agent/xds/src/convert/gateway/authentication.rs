//! Which tokens count.

use agent_model::authentication::{Authentication, ClaimToHeader, JwtRule, KeySource, TokenHeader};
use agent_model::gateway::GatewayKey;
use prost::Message;
use prost_types::Any;
use proto::gateway as wire;

use super::super::any;
use super::super::fields::{MAX_STRING, required, text};
use super::access::{decode_policy_target, encode_policy_target};
use super::matcher::{claim, plain};
use super::{gateway_key, needed, parts, pem};
use crate::{Error, ResourceType};

/// Reads an Authentication resource: the gateway it is for, and the policy.
pub(crate) fn decode_authentication(bytes: &[u8]) -> Result<(GatewayKey, Authentication), Error> {
    let message = wire::Authentication::decode(bytes)?;
    let policy = Authentication {
        name: required("name", &message.name)?,
        namespace: required("namespace", &message.namespace)?,
        targets: parts("targets", &message.targets, decode_policy_target)?,
        rules: parts("rules", &message.rules, decode_jwt_rule)?,
    };
    Ok((gateway_key(&message.gateway)?, policy))
}

/// The Authentication resource that tells `gateway` of a policy.
pub(crate) fn encode_authentication(gateway: &GatewayKey, policy: &Authentication) -> Any {
    let message = wire::Authentication {
        gateway: gateway.to_string(),
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        targets: policy.targets.iter().map(encode_policy_target).collect(),
        rules: policy.rules.iter().map(encode_jwt_rule).collect(),
    };
    any(ResourceType::Authentication, &message)
}

fn decode_jwt_rule(message: &wire::JwtRule) -> Result<JwtRule, Error> {
    use wire::jwt_rule::Keys;
    let names = |field, values: &[String]| parts(field, values, |value| plain(field, value));
    let payload = &message.output_payload_to_header;
    Ok(JwtRule {
        issuer: plain("issuer", &message.issuer)?,
        audiences: names("audiences", &message.audiences)?,
        keys: match message.keys.as_ref().ok_or(Error::Missing("keys"))? {
            // Of the size of a bundle of certificates.
            Keys::Inline(keys) => KeySource::Inline(pem("inline keys", keys)?),
            Keys::Remote(address) => KeySource::Remote(needed("remote keys", address)?),
        },
        from_headers: parts("from_headers", &message.from_headers, |header| {
            Ok(TokenHeader {
                name: plain("token header", &header.name)?,
                prefix: text("prefix", &header.prefix, MAX_STRING)?.to_owned(),
            })
        })?,
        from_params: names("from_params", &message.from_params)?,
        from_cookies: names("from_cookies", &message.from_cookies)?,
        output_payload_to_header: (!payload.is_empty())
            .then(|| plain("output_payload_to_header", payload))
            .transpose()?,
        output_claim_to_headers: parts(
            "output_claim_to_headers",
            &message.output_claim_to_headers,
            |to| {
                Ok(ClaimToHeader {
                    header: plain("claim header", &to.header)?,
                    claim: claim(to.claim.as_ref().ok_or(Error::Missing("claim"))?)?,
                })
            },
        )?,
        forward_original_token: message.forward_original_token,
        space_delimited_claims: names("space_delimited_claims", &message.space_delimited_claims)?,
    })
}

fn encode_jwt_rule(rule: &JwtRule) -> wire::JwtRule {
    use wire::jwt_rule::Keys;
    let headers = rule.from_headers.iter().map(|header| wire::TokenHeader {
        name: header.name.clone(),
        prefix: header.prefix.clone(),
    });
    let claims = rule.output_claim_to_headers.iter();
    let claims = claims.map(|to| wire::ClaimToHeader {
        header: to.header.clone(),
        claim: Some(wire::ClaimPath {
            names: to.claim.clone(),
        }),
    });
    wire::JwtRule {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        keys: Some(match &rule.keys {
            KeySource::Inline(keys) => Keys::Inline(keys.to_string()),
            KeySource::Remote(address) => Keys::Remote(address.to_string()),
        }),
        from_headers: headers.collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        output_payload_to_header: rule.output_payload_to_header.clone().unwrap_or_default(),
        output_claim_to_headers: claims.collect(),
        forward_original_token: rule.forward_original_token,
        space_delimited_claims: rule.space_delimited_claims.clone(),
    }
}
