//! Why a token does not count.

/// Why a token does not count (401). None of these shows a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`MAX_TOKEN`](super::MAX_TOKEN).
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of base64url that hold two JSON objects.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// An algorithm that is never accepted.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// A `crit` header: extensions that have to be understood are not.
    #[error("the token has critical extensions")]
    Critical,
    /// No rule is for its issuer, or none where it was found.
    #[error("nothing is known of the token's issuer")]
    UnknownIssuer,
    /// No key of its issuer has its `kid` and may verify its algorithm.
    #[error("no key of the issuer is for the token")]
    UnknownKey,
    /// The keys of its issuer are not there: never fetched, too old, or unreadable.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
    /// The signature is not the key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// None of the rule's audiences is in `aud`.
    #[error("the token is for another audience")]
    Audience,
    /// There are tokens in more than one place.
    #[error("the request has several tokens")]
    SeveralTokens,
}
