//! JSON Web Tokens: who may have signed one ([`KeySet`]), whether it holds ([`Authenticator`]), and
//! when keys are fetched ([`KeySets`]). Pure: fetching, clocks and randomness are the caller's.
//!
//! # What is refused, whoever signed it
//! - every algorithm but RS, PS and ES 256 to 512 and EdDSA: `none` and all HMACs first. What a key
//!   may verify is set when the key is read, by its type and its own `alg`, never by the token;
//! - any `crit` header; `jku`, `jwk`, `x5u` and `x5c` are not looked at;
//! - a header or payload that is not one JSON object, names a member twice, or nests deeper than
//!   [`MAX_DEPTH`]; base64url with padding or loose bits; more than [`MAX_TOKEN`] bytes;
//! - times that are no numbers, an `aud` that is neither text nor texts;
//! - a request with tokens in more than one place: which of them the application reads is unknown.
//!
//! `iss` and `aud` are compared byte by byte, `exp` and `nbf` with [`LEEWAY`]. A token without `exp`
//! does not expire: that is for its issuer to say, as in Istio.

mod algorithm;
mod authenticator;
mod cache;
mod claims;
mod key;
mod key_set;
mod key_sets;
mod places;
mod refusal;
#[cfg(test)]
mod tests;
mod unverified;
mod verify;

use std::time::Duration;

pub use algorithm::Algorithm;
pub use authenticator::{Authenticated, AuthenticationFault, Authenticator, Carrier, Refused};
pub use cache::Cache;
pub use claims::{Claim, Claims, Token};
pub use key::KeyFault;
pub use key_set::{KeySet, KeySetError, Skipped};
pub use key_sets::{Arrival, FetchFault, KeySets, Settings, SourceStatus};
pub use refusal::Refusal;

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Largest key set, in bytes.
pub const MAX_KEY_SET: usize = 1024 * 1024;
/// Most keys of a set that are used; what comes after them is skipped.
pub const MAX_KEYS: usize = 100;
/// Deepest nesting of a token's JSON, and of a key set's.
pub const MAX_DEPTH: usize = 16;
/// How far clocks may be apart.
pub const LEEWAY: Duration = Duration::from_secs(60);
/// Most keys that are tried on one token.
pub const MAX_TRIES: usize = 8;
