//! What is wrong with the objects of a mesh, beyond what decoding and translation say of each:
//! references that lead nowhere, rules that can never matter, pods that are left out. Pure: the
//! same engine speaks in `culvert check`, in conditions and events, and in the webhook.

mod cover;
mod finding;
mod members;
mod offline;
mod policies;
mod services;
mod templates;
#[cfg(test)]
mod tests;
mod view;

pub use finding::{Finding, Findings, Object, Place};
pub use offline::{Check, Scene};

pub(crate) use finding::Found;
pub(crate) use view::View;

use crate::collection::Inventory;

/// Everything the rules find.
pub(crate) fn everything(inventory: &Inventory) -> Vec<Found> {
    let mut found = Vec::new();
    for namespace in inventory.names() {
        of_namespace(inventory, &namespace, &mut found);
    }
    services::addresses(inventory, &mut found);
    found
}

/// What they find in one namespace, but for addresses.
pub(crate) fn of_namespace(inventory: &Inventory, namespace: &str, out: &mut Vec<Found>) {
    let view = View::new(inventory, namespace);
    members::check(&view, out);
    policies::check(&view, out);
    services::check(&view, out);
}
