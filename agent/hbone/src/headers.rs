//! The CONNECT request: what it names and who it says it comes from. Pure.

mod authority;
mod baggage;
mod forwarded;

use agent_model::Identity;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version, request};

pub use authority::Authority;
pub use baggage::Baggage;
pub use forwarded::Forwarded;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Culvert's own: the SPIFFE ID of the client that a waypoint connects for. Other implementations
/// neither send nor read it.
const SOURCE: HeaderName = HeaderName::from_static("x-culvert-source");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A CONNECT request, the only one HBONE has. Everything but the authority is information for
/// logs and metrics: the peer may claim there what it likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where the stream shall go.
    pub authority: Authority,
    /// Who sends it, by its own account.
    pub baggage: Baggage,
    /// For whom it is sent, by the sender's account.
    pub forwarded: Forwarded,
    /// Ties the log lines of both ends together.
    pub traceparent: Option<TraceParent>,
    /// Whose identity it stands for, by the account of a waypoint. Whoever reads it has to ask
    /// whether the peer is one.
    pub source: Option<Identity>,
}

/// Why a request is not a CONNECT request (HTTP 400).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The method is not CONNECT.
    #[error("method {0} is not CONNECT")]
    Method(String),
    /// It has `:scheme`, `:path` or `:protocol`.
    #[error("CONNECT with :scheme, :path or :protocol")]
    Form,
    /// The authority is missing, or is not exactly a host and a port.
    #[error("authority {0:?} is not a host and a port")]
    Authority(String),
}

impl ConnectRequest {
    /// A request for `authority` that says nothing about its sender.
    pub fn to(authority: Authority) -> Self {
        Self {
            authority,
            baggage: Baggage::default(),
            forwarded: Forwarded::default(),
            traceparent: None,
            source: None,
        }
    }

    /// Reads a received request. Headers that are malformed or too long are left out.
    pub fn read(parts: &request::Parts) -> Result<Self, RequestError> {
        if parts.method != Method::CONNECT {
            return Err(RequestError::Method(parts.method.to_string()));
        }
        let plain = parts.uri.scheme().is_none()
            && parts.uri.path_and_query().is_none()
            && parts.extensions.get::<h2::ext::Protocol>().is_none();
        if !plain {
            return Err(RequestError::Form);
        }
        let authority = parts.uri.authority().map_or("", |given| given.as_str());
        Ok(Self {
            authority: authority
                .parse()
                .map_err(|_| RequestError::Authority(authority.to_owned()))?,
            baggage: text(&parts.headers, &BAGGAGE)
                .map(Baggage::parse)
                .unwrap_or_default(),
            forwarded: text(&parts.headers, &http::header::FORWARDED)
                .map(Forwarded::parse)
                .unwrap_or_default(),
            traceparent: text(&parts.headers, &TRACEPARENT).and_then(TraceParent::parse),
            source: text(&parts.headers, &SOURCE).and_then(|source| source.parse().ok()),
        })
    }

    /// The request on the wire: `:method` and `:authority`, then the headers that have something
    /// to say, in the order peers of this protocol send them.
    pub fn write(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.authority.to_uri();
        let headers = request.headers_mut();
        insert(headers, BAGGAGE, &self.baggage.to_string());
        insert(
            headers,
            http::header::FORWARDED,
            &self.forwarded.to_string(),
        );
        if let Some(traceparent) = &self.traceparent {
            insert(headers, TRACEPARENT, &traceparent.to_string());
        }
        if let Some(source) = &self.source {
            insert(headers, SOURCE, &source.to_string());
        }
        request
    }
}

impl Authority {
    fn to_uri(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.authority = self.to_string().parse().ok();
        // Both steps accept every authority this type can hold; a default URI would be refused
        // by the peer.
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// The one text value of a header; `None` when it is absent or not visible ASCII.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

/// Writes the `baggage` header of a response.
pub(crate) fn insert_baggage(headers: &mut HeaderMap, baggage: &str) {
    insert(headers, BAGGAGE, baggage);
}

/// A W3C trace context of version 00, unsampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// Length of the textual form, in bytes.
    const LENGTH: usize = 55;

    /// Makes one of random numbers.
    pub fn new(trace: u128, span: u64) -> Self {
        Self(format!("00-{trace:032x}-{span:016x}-00"))
    }

    /// Reads one; `None` unless it has the fixed length and only hexadecimal digits and dashes.
    pub fn parse(text: &str) -> Option<Self> {
        let valid =
            text.len() == Self::LENGTH && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        valid.then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
