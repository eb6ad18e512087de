//! The control plane's end of the stream.

mod catalog;
mod nodes;
mod session;
mod shell;
#[cfg(test)]
mod tests;

pub use catalog::Catalog;
pub use nodes::{ConnectedNodes, NodeStatus};
pub(crate) use session::MORE_FOLLOWS;
pub use session::ServerSession;
pub use shell::{Authenticate, Discovery, Source, bearer_token};
