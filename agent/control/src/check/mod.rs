//! What is wrong with the objects of a mesh, beyond what decoding and translation say of each:
//! references that lead nowhere, rules that can never matter, pods that are left out. Pure: the
//! same engine speaks in `culvert check`, in conditions and events, and in the webhook.

mod cover;
mod finding;
mod members;
mod offline;
mod pods;
mod policies;
mod services;
mod templates;
#[cfg(test)]
mod tests;
mod view;

pub use finding::{Finding, Findings, Object, Place};
pub use offline::{Check, Scene};

pub(crate) use finding::Found;
pub(crate) use pods::Seen;
pub(crate) use view::View;

use crate::collection::Inventory;
use policies::RootRules;

/// Everything the rules find.
pub(crate) fn everything(inventory: &Inventory) -> Vec<Found> {
    let names = inventory.names();
    of_views(inventory, &View::all(inventory, &names))
}

/// [`everything`], by the views of all namespaces.
pub(crate) fn of_views(inventory: &Inventory, views: &[View<'_>]) -> Vec<Found> {
    let mut found = Vec::new();
    let root = RootRules::of(inventory);
    // What the root namespace selects is looked for in all.
    for view in views {
        view.by_label();
    }
    for view in views {
        look(view, views, &root, &mut found);
    }
    services::addresses(inventory, &mut found);
    found
}

/// What they find in one namespace, but for addresses.
pub(crate) fn of_namespace(inventory: &Inventory, namespace: &str, out: &mut Vec<Found>) {
    let names = inventory.names();
    let views = View::all(inventory, &names);
    let view = View::new(inventory, namespace);
    look(&view, &views, &RootRules::of(inventory), out);
}

fn look(view: &View<'_>, views: &[View<'_>], root: &RootRules<'_>, out: &mut Vec<Found>) {
    members::check(view, out);
    policies::check(view, views, root, out);
    services::check(view, out);
}
