//! Requests that get an answer of the gateway's own.

use agent_model::Reason;
use http::{HeaderMap, StatusCode};

use crate::normalize::Malformed;

/// Why a request was not served by a backend, and what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status of the answer.
    pub status: StatusCode,
    /// For the record.
    pub reason: Reason,
    /// For people who read the log; never sent.
    pub detail: String,
    /// Further header fields of the answer.
    pub headers: Option<Box<HeaderMap>>,
    /// The code that a gRPC client is given, where it is not what the status stands for.
    pub grpc: Option<u8>,
}

impl Refusal {
    /// A refusal with the status that its reason stands for.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            status: status(reason),
            reason,
            detail: detail.into(),
            headers: None,
            grpc: None,
        }
    }

    /// The code a gRPC client is given (gRPC, `statuscodes.md`): what it would make of the HTTP
    /// status itself, but for those where it would only say `UNKNOWN`.
    pub fn grpc_code(&self) -> u16 {
        if let Some(code) = self.grpc {
            return code.into();
        }
        match self.status {
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_FOUND => 12,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => 14,
            StatusCode::GATEWAY_TIMEOUT => 4,
            StatusCode::MISDIRECTED_REQUEST => 14,
            _ => 13,
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::new(Reason::RequestInvalid, malformed.to_string())
    }
}

fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::RequestInvalid => StatusCode::BAD_REQUEST,
        Reason::TokenMissing | Reason::TokenInvalid | Reason::KeysUnavailable => {
            StatusCode::UNAUTHORIZED
        }
        Reason::PolicyDenied | Reason::PolicyNotAllowed | Reason::PolicyUnknown => {
            StatusCode::FORBIDDEN
        }
        Reason::NoRoute => StatusCode::NOT_FOUND,
        Reason::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        Reason::BackendInvalid | Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
