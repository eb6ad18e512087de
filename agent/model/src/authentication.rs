//! Authentication of requests by JSON Web Tokens (Istio `RequestAuthentication`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::PolicyTarget;
use crate::authorization::PolicyKey;

/// One policy. It never asks for a token (that is for [`Access`](crate::access::Access)); it says
/// which tokens count, and that others are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// What it applies to; none applies to nothing.
    pub targets: Vec<PolicyTarget>,
    /// The tokens that count.
    pub rules: Vec<JwtRule>,
}

impl Authentication {
    /// The policy's key.
    pub fn key(&self) -> PolicyKey {
        PolicyKey::new(&self.namespace, &self.name)
    }
}

/// The tokens of one issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// `iss` of the token, byte-exact.
    pub issuer: String,
    /// One of these has to be in `aud`; empty accepts any.
    pub audiences: Vec<String>,
    /// Where the issuer's keys come from.
    pub keys: KeySource,
    /// Headers that hold a token.
    pub from_headers: Vec<TokenHeader>,
    /// Query parameters that hold a token.
    pub from_params: Vec<String>,
    /// Cookies that hold a token. When all three lists are empty, `Authorization: Bearer` and the
    /// query parameter `access_token` are looked at.
    pub from_cookies: Vec<String>,
    /// The header that gets the token's payload as it was sent (base64url).
    pub output_payload_to_header: Option<String>,
    /// Headers that get claims.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Leave the token in the request.
    pub forward_original_token: bool,
    /// Claims whose text is a list of words, beside `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
}

/// Where the keys of an issuer come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeySource {
    /// A JSON Web Key Set in the policy.
    Inline(Arc<str>),
    /// One that is fetched from this address.
    Remote(Arc<str>),
}

/// A header that holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenHeader {
    /// Its name.
    pub name: String,
    /// What stands before the token, such as `Bearer ` with its space; a value without it holds no
    /// token.
    pub prefix: String,
}

/// A claim that a header gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToHeader {
    /// The header; whatever the client sent in it is removed.
    pub header: String,
    /// Path to the claim, outermost first; a text, a number without fraction or a truth value.
    pub claim: Vec<String>,
}
