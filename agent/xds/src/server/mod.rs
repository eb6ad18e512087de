//! The control plane's end of the stream.

mod caller;
mod catalog;
mod nodes;
mod published;
mod session;
mod shell;
mod subscription;
mod table;
mod taken;
#[cfg(test)]
mod tests;

pub use caller::{Authenticate, BoundPod, Caller, Client, NotAdmitted};
pub use catalog::Catalog;
pub use nodes::{ConnectedNodes, GatewayStream, NodeStatus};
pub use published::Published;
pub(crate) use session::MORE_FOLLOWS;
pub use session::ServerSession;
pub use shell::{Discovery, Source};
pub use taken::Taken;
