//! The node's end of the stream.

mod node;
mod session;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub use node::NodeFacts;
pub use session::ClientSession;
pub use shell::{ClientConfig, run};
pub(crate) use shell::{authorize, connect};
pub use status::{ClientStatus, Received, UNKNOWN_TYPE};
