//! Questions over TCP, which is captured as every other connection is.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::serve::answer;
use crate::dns::{Outcome, Transport};
use crate::local::LocalPod;

/// Longest question that is looked at, with its length.
const MAX_QUESTION: usize = 2048;
/// How long a question that has begun to arrive may take to be looked at.
const ARRIVAL: Duration = Duration::from_millis(500);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// How long a connection may be idle between questions that were answered here.
const IDLE: Duration = Duration::from_secs(30);

/// Answers questions for as long as they are the mesh's. True when what comes next, of which
/// nothing was taken, is for the server; false when the client is done.
pub(crate) async fn serve(pod: &LocalPod, stream: &mut TcpStream) -> io::Result<bool> {
    if !pod.pod.is_answered() {
        return Ok(true);
    }
    let mut has_answered = false;
    loop {
        let question = match timeout(IDLE, next(stream)).await {
            Ok(question) => question?,
            // A connection of which nothing is known yet is its server's, however long it waits.
            Err(_) if !has_answered => return Ok(true),
            Err(_) => return Ok(false),
        };
        let question = match question {
            Next::End => return Ok(!has_answered),
            Next::Other => return Ok(true),
            Next::Question(question) => question,
        };
        let Some(reply) = answer(pod, &question, Transport::Tcp) else {
            return Ok(true);
        };
        let mut taken = vec![0; 2 + question.len()];
        stream.read_exact(&mut taken).await?;
        // Not longer than its length can say.
        let mut message = (reply.len() as u16).to_be_bytes().to_vec();
        message.extend(reply);
        stream.write_all(&message).await?;
        pod.worker.mesh.names.count(Outcome::Answered);
        has_answered = true;
    }
}

enum Next {
    /// A whole question, which is still to be taken.
    Question(Vec<u8>),
    /// Something else.
    Other,
    /// The client says no more.
    End,
}

/// Looks at what comes next without taking it.
async fn next(stream: &TcpStream) -> io::Result<Next> {
    let mut buffer = vec![0; MAX_QUESTION];
    let mut waited = Duration::ZERO;
    loop {
        let length = stream.peek(&mut buffer).await?;
        if length == 0 {
            return Ok(Next::End);
        }
        if let Some((header, rest)) = buffer[..length].split_first_chunk::<2>() {
            let wanted = usize::from(u16::from_be_bytes(*header));
            if let Some(question) = rest.get(..wanted) {
                return Ok(Next::Question(question.to_vec()));
            }
            if wanted + 2 > MAX_QUESTION {
                return Ok(Next::Other);
            }
        }
        if waited >= ARRIVAL {
            return Ok(Next::Other);
        }
        sleep(LOOK).await;
        waited += LOOK;
    }
}
