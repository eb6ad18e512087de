//! Clients' connections: accept, find out what is spoken, serve.

mod accept;
mod detect;
mod serve;
mod splice;

pub(crate) use accept::run;
