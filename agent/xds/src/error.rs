//! What can go wrong in this room.

use std::path::PathBuf;

/// Why a resource was refused or a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An enum holds a value this release does not know, or no longer supports.
    #[error("unknown enum: {0}")]
    UnknownEnum(String),
    /// A field that must be set is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds something that is not what it should be.
    #[error("{field} is invalid: {why}")]
    Invalid {
        /// Name of the field on the wire.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A field is longer than this agent accepts.
    #[error("{field} is too large: {found}, at most {limit}")]
    TooLarge {
        /// Name of the field on the wire.
        field: &'static str,
        /// Bytes or elements found.
        found: usize,
        /// Bytes or elements accepted.
        limit: usize,
    },
    /// The client has not read its stream for so long that the changes since cannot be told.
    #[error("too far behind; open a new stream")]
    TooFarBehind,
    /// The bytes are not the message they claim to be.
    #[error("undecodable: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// A file of the connection's credentials cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection could not be made or broke.
    #[error("connection failed: {}", chain(.0))]
    Transport(#[from] tonic::transport::Error),
    /// The server ended the stream with an error.
    #[error("stream ended: {} ({:?})", .0.message(), .0.code())]
    Status(#[from] Box<tonic::Status>),
    /// The server says nothing.
    #[error("no answer within {0:?}")]
    Silent(std::time::Duration),
    /// The server ended the stream without one.
    #[error("stream ended by the server")]
    Closed,
}

/// The causes of a transport error in one line; its own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
