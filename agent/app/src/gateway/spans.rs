//! A request as a span of its trace.

use std::time::SystemTime;

use agent_gateway::{Record, Trace};
use agent_telemetry::{Span, Value};
use http::Method;

/// Longest path that is told, in bytes.
const MAX_PATH: usize = 512;

/// The span of a request that has just ended. Names of attributes are those of OpenTelemetry where
/// it has one.
pub(super) fn span(record: &Record, trace: &Trace, now: SystemTime) -> Span {
    let state = trace.state.as_ref().and_then(|state| state.to_str().ok());
    let failed = record.status.is_none_or(|status| status.is_server_error());
    let error = failed.then(|| match record.detail.is_empty() {
        true => record.reason.to_string(),
        false => format!("{}: {}", record.reason, record.detail),
    });
    Span {
        trace: trace.id,
        id: trace.span,
        parent: trace.parent,
        state: state.unwrap_or_default().to_owned(),
        name: name(record),
        start: now.checked_sub(record.duration).unwrap_or(now),
        duration: record.duration,
        attributes: attributes(record),
        error,
    }
}

/// Method and route: of few values, whatever clients send.
fn name(record: &Record) -> String {
    let label = record.rule.as_ref().and_then(|rule| rule.label.as_ref());
    let method = method(&record.method);
    match label {
        Some(label) => format!("{method} {}", label.route),
        None => method.to_owned(),
    }
}

fn method(method: &Method) -> &str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    match KNOWN.contains(method) {
        true => method.as_str(),
        false => "HTTP",
    }
}

fn attributes(record: &Record) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let path = record.target.path();
    let status = record.status.map_or(0, |status| status.as_u16());
    let label = record.rule.as_ref().and_then(|rule| rule.label.as_ref());
    let source = record.source.identity.as_ref();
    let mut all = vec![
        ("http.request.method", text(method(&record.method))),
        // The query is left out: it may hold what is nobody's business.
        (
            "url.path",
            text(&path[..path.floor_char_boundary(MAX_PATH)]),
        ),
        ("http.response.status_code", Value::Number(status.into())),
        ("client.address", text(&record.client.ip().to_string())),
        ("culvert.reason", text(record.reason.as_str())),
    ];
    let optional = [
        ("server.address", record.authority().map(text)),
        (
            "rpc.grpc.status_code",
            record
                .grpc_status
                .map(|status| Value::Number(status.into())),
        ),
        ("culvert.route", label.map(|label| text(&label.route))),
        ("culvert.rule", label.map(|label| text(&label.rule))),
        (
            "culvert.destination.service",
            record
                .service
                .as_ref()
                .map(|service| text(&service.hostname)),
        ),
        (
            "culvert.destination.address",
            record.endpoint.map(|endpoint| text(&endpoint.to_string())),
        ),
        (
            "culvert.source.principal",
            source.map(|identity| text(&identity.to_string())),
        ),
    ];
    let known = optional.into_iter();
    all.extend(known.filter_map(|(key, value)| Some((key, value?))));
    all
}
