//! Serving names: which pods' questions are answered, a pod's sockets for those over UDP, and its
//! connections for those over TCP.

mod choice;
pub(crate) mod serve;
pub(crate) mod stream;

pub(crate) use choice::{Choice, Chosen, Names};
