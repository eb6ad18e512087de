//! The control plane's end of the stream.

mod caller;
mod catalog;
mod nodes;
mod published;
mod session;
mod shell;
mod subscription;
mod table;
#[cfg(test)]
mod tests;

pub use caller::{Authenticate, Caller, Client, NotAdmitted};
pub use catalog::Catalog;
pub use nodes::{ConnectedNodes, NodeStatus};
pub use published::Published;
pub(crate) use session::MORE_FOLLOWS;
pub use session::ServerSession;
pub use shell::{Discovery, Source};
