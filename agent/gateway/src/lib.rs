//! The L7 gateway: waypoints, ingress and egress.
//!
//! What is judged is what is sent: [`normalize`] gives paths, hosts and headers one form before
//! anything looks at them, and that form goes on to the backend. [`route`] finds the rule of a
//! request, [`filter`] holds what a rule does. All of it is pure: time and randomness are
//! arguments.
//!
//! So is what stands between a rule and an endpoint: [`balance`] chooses one, [`outlier`] takes out
//! those that fail, [`circuit`] bounds what a backend has at a time, [`retry`] says what is sent
//! again.

pub mod balance;
pub mod circuit;
pub mod filter;
pub mod normalize;
pub mod outlier;
pub mod retry;
pub mod route;
