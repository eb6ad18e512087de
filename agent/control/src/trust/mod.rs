//! What nodes trust and what signs for them, over time: issuers come from the state directory, from
//! files or from a Secret, follow each other without a gap, and their roots reach every node (on
//! its stream) and every namespace (in a ConfigMap). No root signs before, and none is dropped
//! until, every node has acknowledged.

mod config_maps;
mod keeper;
mod ledger;
mod origin;
mod publish;
mod rotation;
mod secret;

pub(crate) use config_maps::{ConfigMaps, KEY as ROOTS_KEY, NAME as ROOTS};
pub(crate) use keeper::{Acknowledgements, Keeper, Shown};
pub(crate) use ledger::Ledger;
pub use origin::AuthorityFiles;
pub(crate) use origin::Origin;
pub(crate) use publish::{Place, Turn, publish};
pub(crate) use rotation::Terms;
