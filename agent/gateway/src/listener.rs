//! Clients' connections: accept, find out what is spoken, serve.

mod accept;
mod detect;
mod http;
mod serve;
mod splice;
mod strict;
mod tls;
mod tunnel;

pub(crate) use accept::run;
