//! The second act: HTTP. A gateway at the border of the mesh, real services behind it, and a client
//! outside that sees only the gateway.

mod client;
mod edge;
mod manifests;
mod routing;
mod tokens;
mod traffic;

use anyhow::Result;
use tests::lab::Lab;

pub(crate) use edge::Edge;

/// Shows one fact.
pub(crate) type Show = fn(&Edge<'_>) -> Result<String>;

/// Every fact, in the order shown.
pub(crate) const ALL: &[(&str, Show)] = &[
    ("a canary gets the tenth of the requests", routing::canary),
    ("a header chooses the version", routing::by_header),
    (
        "a shadow sees what the service sees, and nobody waits for it",
        routing::mirror,
    ),
    (
        "HTTP is redirected to HTTPS, and the path is rewritten behind it",
        routing::https,
    ),
    ("gRPC and WebSocket pass", routing::other_protocols),
    (
        "a token is accepted, an expired or forged one is not",
        tokens::tokens_count,
    ),
    ("retries hide an endpoint that fails", traffic::retries),
    (
        "an endpoint that fails is ejected, and comes back",
        traffic::ejection,
    ),
    ("faults on purpose, until they end", traffic::fault),
    (
        "requests are limited by one gateway, and by two together",
        traffic::limits,
    ),
];

/// Starts what the second act needs.
pub(crate) fn start(lab: &Lab) -> Result<Edge<'_>> {
    Edge::start(lab)
}
