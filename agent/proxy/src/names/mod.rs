//! Serving names: a pod's sockets for questions over UDP, and its connections for those over TCP.

pub(crate) mod serve;
pub(crate) mod stream;
