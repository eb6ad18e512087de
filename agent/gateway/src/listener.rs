//! Clients' connections: accept, find out what is spoken, serve.

mod accept;
mod detect;
mod serve;
mod splice;
mod tls;

pub(crate) use accept::run;
