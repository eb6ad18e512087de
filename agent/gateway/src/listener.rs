//! Clients' connections: accept, find out what is spoken, serve.

mod accept;
mod admit;
mod behind;
mod datagrams;
mod detect;
mod egress;
mod http;
mod look;
mod pod;
mod relay;
mod serve;
mod standing;
mod stream;
mod strict;
mod tls;
mod tunnel;
mod vouched;

pub(crate) use accept::run;
pub(crate) use datagrams::run as run_datagrams;
