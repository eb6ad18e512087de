//! The L7 gateway: waypoints, ingress and egress.
//!
//! What is judged is what is sent: [`normalize`] gives paths, hosts and headers one form before
//! anything looks at them, and that form goes on to the backend. [`route`] finds the rule of a
//! request, [`filter`] holds what a rule does. All of it is pure: time and randomness are
//! arguments.

pub mod filter;
pub mod normalize;
pub mod route;
