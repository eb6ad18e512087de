//! New paths.

use std::borrow::Cow;

use agent_model::gateway::PathChange;

/// The path after a change. `prefix` is what the rule's match took of it, without a closing `/`
/// (see [`Selected::prefix`](crate::route::Selected::prefix)); a prefix is replaced only where one
/// matched.
pub fn replaced_path<'a>(
    change: &'a PathChange,
    path: &str,
    prefix: Option<usize>,
) -> Cow<'a, str> {
    let replacement = match change {
        PathChange::Full(full) => return Cow::Borrowed(full),
        PathChange::Prefix(replacement) => &**replacement,
    };
    let rest = path.get(prefix.unwrap_or(0)..).unwrap_or_default();
    if rest.is_empty() {
        return Cow::Borrowed(match replacement {
            "" => "/",
            replacement => replacement,
        });
    }
    // The rest begins with the `/` after the prefix.
    let stem = replacement.strip_suffix('/').unwrap_or(replacement);
    Cow::Owned(format!("{stem}{rest}"))
}
