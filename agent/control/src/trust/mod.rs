//! What nodes trust and what signs for them, over time: issuers come from the state directory, from
//! files or from a Secret, follow each other without a gap, and their roots reach every node (on
//! its stream) and every namespace (in a ConfigMap).

mod config_maps;
mod keeper;
mod origin;
mod rotation;
mod secret;

pub(crate) use config_maps::ConfigMaps;
pub(crate) use keeper::{Keeper, Shown};
pub use origin::AuthorityFiles;
pub(crate) use origin::Origin;
