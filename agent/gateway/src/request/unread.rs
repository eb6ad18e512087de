//! Requests that never were any: the parser refused their heads and answered itself, or broke the
//! connection off.

use std::rc::Rc;
use std::time::Instant;

use agent_hbone::broken_off;
use agent_model::Reason;
use http::{StatusCode, Version};

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
    let mut record = begin(client);
    record.status = Some(match error.is_parse_too_large() {
        true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        false => StatusCode::BAD_REQUEST,
    });
    record.detail = why.map_or_else(|| error.to_string(), |why| why.to_string());
    worker.take(&record);
}

/// Records the end of an HTTP/2 connection that was broken off for frames or heads which make no sense.
/// None of its requests had it for an answer, and those that only their stream was reset for are not
/// heard of here.
pub(crate) fn unread_frames(worker: &Rc<Worker>, client: &Downstream, error: &hyper::Error) {
    let Some(code) = broken_off(error) else {
        return;
    };
    let mut record = begin(client);
    record.version = Version::HTTP_2;
    record.detail = format!("the HTTP/2 connection was broken off: {code}");
    worker.take(&record);
}

fn begin(client: &Downstream) -> Record {
    let mut record = Record::unread(client.client, client.port, Instant::now());
    record.source = client.counted.clone();
    record.reporter = client.origin.reporter();
    record.reason = Reason::RequestInvalid;
    record
}
