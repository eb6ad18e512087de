//! Authorization of requests: [`Ruleset::decide`] over what a gateway knows of one
//! ([`Request`]). No allocation per decision.
//!
//! The algebra is that of [`agent_model::access`], the order that of Istio: DENY first; where ALLOW
//! policies apply, one of them has to match; else the request passes.
//!
//! # What cannot be known
//! A field answers yes, no, or *unknown*. Unknown always goes to the refusing side: a DENY takes it
//! for a match, an ALLOW does not. Unknown is
//! - anything asked of an address that nobody vouches for, or of a request without a host;
//! - a header with several values of which some match: which of them the application reads is not
//!   ours to guess;
//! - a namespace, a service account, or a principal of any trust domain (`*`, `*/ns/shop/sa/web`) that
//!   would match, of a peer that an authority outside the mesh vouches for ([`Peer::outside`]);
//! - a claim that is neither text nor a list of texts (a number with a fraction, `null`, an object);
//! - the `not` form of a token field when the request has no valid token;
//! - an entry of `from` or `to` without any field: it lost what it was meant to say.
//!
//! # Where this is stricter than Istio
//! - *Not forms of token fields.* Istio takes a request without a token for one whose principal is
//!   not the unwanted one, so that `ALLOW notRequestPrincipals: [ISS/MALLORY]` lets everybody in who
//!   leaves the token away. Here it does not match; only `"*"`, which asks for the absence of a
//!   token, is answered by it. A DENY is the same in both. A claim that a valid token does not have
//!   is the issuer's word, and a `not` form holds.
//! - *Hosts.* A pattern is compared with the host and with `host:port`, whatever port the client
//!   wrote: `DENY hosts: [admin.example]` is not evaded by `admin.example:80`.
//! - *Headers* of several lines are judged line by line, never joined by commas.
//! - A policy that cannot be compiled refuses ([`PolicyUnknown`](agent_model::Reason::PolicyUnknown))
//!   until it is repaired, because what it meant to refuse is unknown.

mod answer;
mod compile;
mod field;
mod pattern;
mod request;
mod ruleset;
mod template;
#[cfg(test)]
mod tests;

pub use compile::{Policy, PolicyError};
pub use request::{Address, Peer, Request};
pub use ruleset::{Decision, Match, Ruleset, Verdict};
pub use template::{PathTemplate, TemplateError};
