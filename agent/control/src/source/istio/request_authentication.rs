//! RequestAuthentication.

use serde::Deserialize;

use super::authorization::PolicyTarget;
use super::{Selector, check_attachment};
use crate::source::decode::FieldError;
use crate::source::lenient::nullable;
use crate::source::object::{Skipped, Strict};

/// Longest text but for keys, in bytes.
const MAX_TEXT: usize = 2048;
/// Longest keys, in bytes.
const MAX_KEYS: usize = 256 * 1024;

/// `security.istio.io RequestAuthentication`.
pub(crate) type RequestAuthentication = Strict<RequestAuthenticationSpec>;

/// `spec` of a RequestAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestAuthenticationSpec {
    #[serde(default)]
    pub(crate) selector: Option<Selector>,
    #[serde(default)]
    pub(crate) target_ref: Option<PolicyTarget>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<PolicyTarget>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) jwt_rules: Vec<TokenRule>,
}

/// One of `jwtRules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct TokenRule {
    pub(crate) issuer: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) audiences: Vec<String>,
    #[serde(alias = "jwks_uri", deserialize_with = "nullable")]
    pub(crate) jwks_uri: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) jwks: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) from_headers: Vec<FromHeader>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) from_params: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) from_cookies: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) output_payload_to_header: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) output_claim_to_headers: Vec<ClaimTo>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) forward_original_token: bool,
    #[serde(deserialize_with = "nullable")]
    pub(crate) space_delimited_claims: Vec<String>,
    /// How long a fetch may take: ours are bounded whatever stands here.
    #[serde(rename = "timeout")]
    _timeout: Skipped,
}

/// One of `fromHeaders`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FromHeader {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) prefix: String,
}

/// One of `outputClaimToHeaders`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimTo {
    pub(crate) header: String,
    /// Names of nested claims with `.` between them.
    pub(crate) claim: String,
}

/// Checks across fields that types cannot express.
pub(in crate::source) fn check_request_authentication(
    policy: &RequestAuthentication,
) -> Result<(), FieldError> {
    let spec = &policy.spec;
    check_attachment(
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
    )?;
    let mut rules = spec.jwt_rules.iter().enumerate();
    rules.try_for_each(|(index, rule)| check_rule(&format!("spec.jwtRules[{index}]"), rule))
}

/// Gateways refuse other texts, and whatever the policy is for with them.
fn is_plain(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

fn check_rule(path: &str, rule: &TokenRule) -> Result<(), FieldError> {
    let fault = |field: &str, message: &str| {
        let path = format!("{path}{field}");
        Err(FieldError::new(path, message))
    };
    if rule.issuer.is_empty() {
        return fault(".issuer", "missing");
    }
    match (rule.jwks_uri.as_str(), rule.jwks.as_str()) {
        ("", "") => {
            return fault(
                "",
                "jwksUri or jwks is needed: issuers are not asked where their keys are",
            );
        }
        (uri, "") if !uri.starts_with("https://") && !uri.starts_with("http://") => {
            return fault(".jwksUri", "neither http:// nor https://");
        }
        (_, "") => {}
        // The keys that are given win, as in Istio.
        (_, keys) if keys.len() > MAX_KEYS => return fault(".jwks", "too long"),
        (_, keys) => {
            if let Err(error) = agent_policy::jwt::KeySet::parse(keys.as_bytes()) {
                return fault(".jwks", &error.to_string());
            }
        }
    }
    let outputs = rule.output_claim_to_headers.iter();
    let longer = [&rule.issuer, &rule.jwks_uri].into_iter();
    let longer = longer
        .chain(rule.audiences.iter())
        .chain(rule.from_headers.iter().map(|header| &header.prefix))
        .chain(outputs.map(|to| &to.claim));
    if !longer.into_iter().all(|text| is_plain(text)) {
        return fault("", "a text that is too long or holds control characters");
    }
    let texts = [
        (".audiences", &rule.audiences),
        (".fromParams", &rule.from_params),
        (".fromCookies", &rule.from_cookies),
        (".spaceDelimitedClaims", &rule.space_delimited_claims),
    ];
    for (field, texts) in texts {
        if texts.iter().any(|text| text.is_empty() || !is_plain(text)) {
            return fault(
                field,
                "a text that is empty, too long, or holds control characters",
            );
        }
    }
    let is_header = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    if !rule
        .from_headers
        .iter()
        .all(|header| is_header(&header.name))
    {
        return fault(".fromHeaders", "not a header name");
    }
    let payload = rule.output_payload_to_header.as_str();
    if !payload.is_empty() && !is_header(payload) {
        return fault(".outputPayloadToHeader", "not a header name");
    }
    for ClaimTo { header, claim } in &rule.output_claim_to_headers {
        if !is_header(header) || claim.split('.').any(str::is_empty) {
            return fault(".outputClaimToHeaders", "not a header name, or no claim");
        }
    }
    Ok(())
}
