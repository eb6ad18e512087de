//! Requests that never were any: the parser refused their heads and answered itself.

use std::rc::Rc;
use std::time::Instant;

use agent_model::Reason;
use http::StatusCode;

use super::Downstream;
use crate::framing::Ambiguous;
use crate::record::Record;
use crate::worker::Worker;

/// Records the end of an HTTP/1.1 connection where it was a head that the parser refused; `why` where
/// the bytes were stopped on their way to it.
pub(crate) fn unread(
    worker: &Rc<Worker>,
    client: &Downstream,
    error: &hyper::Error,
    why: Option<Ambiguous>,
) {
    // Whoever speaks another protocol gets no answer of this one.
    if !error.is_parse() || error.is_parse_version_h2() {
        return;
    }
    let mut record = Record::unread(client.client, client.port, Instant::now());
    record.source = client.counted.clone();
    record.reporter = client.origin.reporter();
    record.status = Some(match error.is_parse_too_large() {
        true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        false => StatusCode::BAD_REQUEST,
    });
    record.reason = Reason::RequestInvalid;
    record.detail = why.map_or_else(|| error.to_string(), |why| why.to_string());
    worker.take(&record);
}
