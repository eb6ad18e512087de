//! Where a redirect leads.

use std::fmt::Write;

use agent_model::gateway::{Redirect, Scheme};

use super::rewrite::replaced_path;

/// The request that is redirected.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// Scheme the client used.
    pub scheme: Scheme,
    /// Host the client asked for, without a port.
    pub host: &'a str,
    /// Port of the listener, or of the service behind a waypoint.
    pub port: u16,
    /// Path in its normal form.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: Option<&'a str>,
    /// What the match took of the path, as in [`replaced_path`].
    pub prefix: Option<usize>,
}

/// The value of Location.
///
/// The port is the redirect's own, else the well-known one of the scheme it sets, else the
/// listener's; 80 is left out of `http` URLs and 443 out of `https` ones. The query stays.
pub fn location(redirect: &Redirect, from: &From<'_>) -> String {
    let scheme = redirect.scheme.unwrap_or(from.scheme);
    let host = redirect.hostname.as_deref().unwrap_or(from.host);
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(scheme)) => scheme.well_known_port(),
        (None, None) => from.port,
    };
    let path = redirect.path.as_ref();
    let path = path.map(|change| replaced_path(change, from.path, from.prefix));
    let path = path.as_deref().unwrap_or(from.path);
    let mut location = format!("{}://{host}", scheme.as_str());
    if port != scheme.well_known_port() {
        // Writing to a string cannot fail.
        let _ = write!(location, ":{port}");
    }
    location.push_str(path);
    if let Some(query) = from.query {
        location.push('?');
        location.push_str(query);
    }
    location
}
