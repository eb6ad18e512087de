//! What an operator may ask a node agent, over its admin socket. Nothing here changes anything.

mod client;
mod control;
mod escape;
mod gateway;
mod query;
mod routes;
mod status;
mod table;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;

use agent_telemetry::Metrics;
use http::StatusCode;
use http::header::HOST;
use http::request::Parts;

pub(crate) use client::get;
pub(crate) use control::control_text;
pub(crate) use escape::printable;
pub(crate) use gateway::gateway_text;
pub(crate) use query::why_path;
pub(crate) use routes::routes_text;
pub(crate) use status::{
    CertificateView, Connections, ControlPlaneView, OlderView, PodView, RejectedResource, Status,
    TrustView, Tunnels,
};
pub(crate) use why::{EndView, EndpointView, PolicyView, RouteKind, Why};

use crate::http::{Answer, Route};
use crate::listen::metrics_route;

/// Version of the JSON forms below.
pub(crate) const SCHEMA: u32 = 1;
/// The `Host` of requests over the admin socket.
const ADMIN_HOST: &str = "culvert";

/// The node agent's answers. Called on a blocking thread that carries no pod traffic.
pub(crate) trait AdminView: Send + Sync {
    /// For `culvert status`.
    fn status(&self) -> Status;

    /// For `culvert config-dump`: an object with the keys `workloads`, `services`, `policies`,
    /// `certificates`, `workloadState`, `config`, `version` ...
    fn config_dump(&self) -> serde_json::Value;

    /// For `culvert why`: what this node would do with a connection from `source`
    /// (`namespace/name` or an IP) to `destination`. Fails with a sentence for the operator when
    /// the node does not know the source.
    fn why(&self, source: &str, destination: SocketAddr) -> Result<Why, String>;
}

/// The routes of a node agent's admin socket.
pub(crate) fn routes(view: Arc<dyn AdminView>, metrics: Arc<Metrics>) -> [Route; 2] {
    [
        Arc::new(move |request| foreign(request).or_else(|| answer(&*view, request))),
        metrics_route(metrics),
    ]
}

/// One path on the admin socket of a role that has only a few.
pub(crate) fn answer_route(
    path: &'static str,
    view: impl Fn() -> serde_json::Value + Send + Sync + 'static,
) -> Route {
    Arc::new(move |request| {
        let answer = || (request.uri.path() == path).then(|| Answer::json(&view()));
        foreign(request).or_else(answer)
    })
}

/// Refuses requests that were not made for this socket, such as those of a browser that was
/// tricked into sending them here.
fn foreign(request: &Parts) -> Option<Answer> {
    let host = request.headers.get(HOST);
    (host.is_none_or(|host| host != ADMIN_HOST))
        .then(|| Answer::text(StatusCode::MISDIRECTED_REQUEST, "wrong or missing Host\n"))
}

fn answer(view: &dyn AdminView, request: &Parts) -> Option<Answer> {
    match request.uri.path() {
        "/status" => Some(Answer::json(&view.status())),
        "/config_dump" => Some(Answer::json(&view.config_dump())),
        "/why" => Some(answer_why(view, request.uri.query().unwrap_or_default())),
        _ => None,
    }
}

fn answer_why(view: &dyn AdminView, text: &str) -> Answer {
    let explained = query::parse_why(text)
        .map_err(|problem| (StatusCode::BAD_REQUEST, problem))
        .and_then(|(source, destination)| {
            view.why(&source, destination)
                .map_err(|problem| (StatusCode::NOT_FOUND, problem))
        });
    match explained {
        Ok(why) => Answer::json(&why),
        Err((status, problem)) => Answer::text(status, problem),
    }
}

#[cfg(test)]
mod tests;
