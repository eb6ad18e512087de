//! The one call to the node agent: a JSON line each way over its unix socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use agent_model::{CniReply, CniRequest};

use crate::Question;

/// How long the whole call may take. Runtimes give a plugin a minute or more.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallFailed {
    /// Nobody listens on the socket.
    #[error("cannot connect to {0}: is the culvert agent running on this node?")]
    Connect(String, #[source] io::Error),
    /// The agent went away during the call.
    #[error("the agent went away during the call")]
    Lost(#[source] io::Error),
    /// No answer in time.
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    /// Something else than a reply came back.
    #[error("the agent's answer is not a reply")]
    Answer(#[source] io::Error),
}

/// Puts a question to the agent behind `socket` and waits at most `timeout`.
///
/// A thread does the waiting: connecting to a unix socket whose queue is full blocks without
/// limit, and the process ends right after anyway.
pub fn ask(socket: &str, question: &Question, timeout: Duration) -> Result<CniReply, CallFailed> {
    let (answer, answered) = mpsc::sync_channel(1);
    let (path, question) = (socket.to_owned(), question.clone());
    std::thread::spawn(move || {
        // Nobody listens any more when the time was up first.
        let _ = answer.send(converse(&path, &question));
    });
    answered
        .recv_timeout(timeout)
        .unwrap_or(Err(CallFailed::Timeout(timeout)))
}

/// An agent that goes away during the call may have been followed by another, which is asked then:
/// every request may be made twice.
fn converse(path: &str, question: &Question) -> Result<CniReply, CallFailed> {
    let connect =
        || UnixStream::connect(path).map_err(|error| CallFailed::Connect(path.to_owned(), error));
    let stream = connect()?;
    let Question::Pod(request) = question else {
        return Ok(CniReply::default());
    };
    match exchange(stream, request) {
        Err(CallFailed::Lost(error)) => match connect() {
            Ok(stream) => exchange(stream, request),
            Err(_) => Err(CallFailed::Lost(error)),
        },
        answered => answered,
    }
}

fn exchange(mut stream: UnixStream, request: &CniRequest) -> Result<CniReply, CallFailed> {
    let mut line =
        serde_json::to_vec(request).map_err(|error| CallFailed::Answer(io::Error::other(error)))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(CallFailed::Lost)?;
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_ANSWER));
    reader
        .read_until(b'\n', &mut answer)
        .map_err(CallFailed::Lost)?;
    if answer.is_empty() {
        return Err(CallFailed::Lost(io::ErrorKind::UnexpectedEof.into()));
    }
    if answer.last() != Some(&b'\n') {
        // Half a line could read as a success that was never meant.
        return Err(CallFailed::Answer(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&answer).map_err(|error| CallFailed::Answer(error.into()))
}

#[cfg(test)]
mod tests;
