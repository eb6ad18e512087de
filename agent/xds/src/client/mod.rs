//! The node's end of the stream.

mod demand;
mod node;
mod saved;
mod session;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub use demand::{Demand, NotTold};
pub use node::NodeFacts;
pub use saved::{Kept, save};
pub use session::ClientSession;
pub use shell::{ClientConfig, Means, run, run_with};
pub(crate) use shell::{authorize, connect};
pub use status::{ClientStatus, Received, UNKNOWN_TYPE};
