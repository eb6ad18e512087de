//! Counting in a Redis: as much of its protocol (RESP2) as one script needs.
//!
//! A worker has one connection to each Redis, made when the first request wants it. Requests go out
//! in order without waiting for each other, and each is one round trip. Whatever goes wrong, a
//! request waits no longer than its limit's timeout; while nobody answers, it does not wait at all.
//! Where TLS is asked for, nothing is said before the other end has proved who it is.

mod reply;
mod script;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::time::Duration;

use agent_model::gateway::traffic::{Redis, RedisLogin};
use agent_net::tasks::spawn_local;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::dial;
use crate::leg::Leg;
use crate::plan::{Inside, Origination, Reached};
use crate::upstream::secure;
use reply::Reply;
pub(crate) use script::{Counted, Gcra};

/// Requests of one worker that wait for one Redis; further ones are not counted.
const WAITING: usize = 4096;
/// Longest time that a connection with TLS takes to be made, where its requests wait shorter.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long nobody is asked after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// A Redis that nothing asked for so long is let go.
const UNUSED: Duration = Duration::from_secs(60);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The Redises that one worker knows.
#[derive(Default)]
pub(crate) struct Redises(RefCell<Vec<Known>>);

struct Known {
    redis: Redis,
    calls: mpsc::Sender<Call>,
    used: Instant,
}

/// Nobody counted; the limit says what that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

struct Call {
    arguments: Vec<u8>,
    key: Vec<u8>,
    answer: oneshot::Sender<Reply>,
}

impl Redises {
    /// Takes a token of a key's bucket.
    pub(crate) async fn count(
        &self,
        redis: &Redis,
        key: Vec<u8>,
        gcra: Gcra,
    ) -> Result<Counted, Gone> {
        let now = Instant::now();
        let (answer, answered) = oneshot::channel();
        let call = Call {
            arguments: gcra.arguments(),
            key,
            answer,
        };
        let calls = self.calls(redis, now);
        calls.try_send(call).map_err(|_| Gone)?;
        let reply = timeout_at(now + redis.timeout, answered).await;
        let reply = reply.map_err(|_| Gone)?.map_err(|_| Gone)?;
        gcra.counted(&reply).ok_or(Gone)
    }

    /// Lets go of those that are not asked any more.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut known = self.0.borrow_mut();
        known.retain(|known| now.duration_since(known.used) < UNUSED);
    }

    fn calls(&self, redis: &Redis, now: Instant) -> mpsc::Sender<Call> {
        let mut known = self.0.borrow_mut();
        if let Some(known) = known.iter_mut().find(|known| known.redis == *redis) {
            known.used = now;
            return known.calls.clone();
        }
        let (calls, receiver) = mpsc::channel(WAITING);
        spawn_local(run(redis.clone(), receiver));
        known.push(Known {
            redis: redis.clone(),
            calls: calls.clone(),
            used: now,
        });
        calls
    }
}

/// Serves calls until nobody is left to call.
async fn run(redis: Redis, mut calls: mpsc::Receiver<Call>) {
    let tls = redis.tls.as_ref();
    let tls = tls.map(|tls| Origination::reached(tls, None));
    let patience = match tls {
        None => redis.timeout,
        Some(_) => redis.timeout.max(HANDSHAKE),
    };
    let mut was_there = true;
    while let Some(first) = calls.recv().await {
        let mut opening = pin!(timeout(patience, Connection::open(&redis, tls.as_ref())));
        let connected = loop {
            tokio::select! {
                connected = &mut opening => break connected,
                // Nobody waits for one that failed before.
                call = calls.recv(), if !was_there => if call.is_none() { return },
            }
        };
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let error = match connected {
            Ok(connection) => {
                if !was_there {
                    tracing::info!(redis = %redis.address, "counts for rate limits again");
                }
                was_there = true;
                match connection.serve(&redis, first, &mut calls).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => {
                drop(first);
                error
            }
        };
        if was_there {
            tracing::warn!(redis = %redis.address, %error,
                "does not count for rate limits: requests pass or are refused uncounted");
        }
        was_there = false;
        // Whoever calls meanwhile is told at once.
        let until = Instant::now() + PAUSE;
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                call = calls.recv() => if call.is_none() { return },
            }
        }
    }
}

/// A connection that knows the script.
struct Connection {
    stream: Leg,
    /// What the script is called by.
    digest: String,
    read: Vec<u8>,
}

impl Connection {
    async fn open(redis: &Redis, tls: Option<&Reached>) -> io::Result<Self> {
        // Loopback may be dialled, as nothing but the gateway itself and what stands beside it on
        // purpose listens there.
        let stream = dial::connect(&*redis.address, true).await;
        let stream = stream.map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        let stream = Leg::Tcp(stream);
        let stream = match tls {
            None => stream,
            Some(Ok(tls)) => secure(stream, tls, Inside::Bytes).await?,
            Some(Err(why)) => return Err(io::Error::other(why.to_string())),
        };
        let mut connection = Self {
            stream,
            digest: String::new(),
            read: Vec::new(),
        };
        if let Some(RedisLogin { user, password }) = &redis.login {
            let mut login: Vec<&[u8]> = vec![b"AUTH"];
            login.extend(user.as_ref().map(|user| user.as_bytes()));
            login.push(password.expose().as_bytes());
            connection.ask(&login).await?;
        }
        let load: [&[u8]; 3] = [b"SCRIPT", b"LOAD", script::TEXT.as_bytes()];
        match connection.ask(&load).await? {
            Reply::Text(digest) => connection.digest = digest,
            _ => return Err(io::Error::other("no digest of a script")),
        }
        Ok(connection)
    }

    /// One command and its answer; an error of Redis' is one.
    async fn ask(&mut self, parts: &[&[u8]]) -> io::Result<Reply> {
        self.write(&reply::command(parts)).await?;
        loop {
            if let Some(reply) = self.next()? {
                return match reply {
                    Reply::Error(text) => Err(io::Error::other(text)),
                    reply => Ok(reply),
                };
            }
            self.fill().await?;
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        // TLS may hold some back.
        self.stream.flush().await
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ if self.read.len() > MAX_ANSWER => Err(io::Error::other("an endless answer")),
            _ => Ok(()),
        }
    }

    fn next(&mut self) -> io::Result<Option<Reply>> {
        let Some((reply, length)) = reply::parse(&self.read)? else {
            return Ok(None);
        };
        self.read.drain(..length);
        Ok(Some(reply))
    }

    /// Serves calls; `Ok` when nobody is left to call.
    async fn serve(
        mut self,
        redis: &Redis,
        first: Call,
        calls: &mut mpsc::Receiver<Call>,
    ) -> io::Result<()> {
        let mut waiting = VecDeque::new();
        self.send(redis, first, &mut waiting).await?;
        loop {
            let oldest = waiting.front().map(|(_, until)| *until);
            tokio::select! {
                call = calls.recv(), if waiting.len() < WAITING => match call {
                    None => return Ok(()),
                    Some(call) => self.send(redis, call, &mut waiting).await?,
                },
                filled = self.fill() => {
                    filled?;
                    while let Some(reply) = self.next()? {
                        let (answer, _) = waiting
                            .pop_front()
                            .ok_or_else(|| io::Error::other("an answer to nothing"))?;
                        if let Reply::Error(text) = reply {
                            return Err(io::Error::other(text));
                        }
                        // Who called may have gone on without it.
                        let _ = answer.send(reply);
                    }
                }
                () = sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    async fn send(
        &mut self,
        redis: &Redis,
        call: Call,
        waiting: &mut VecDeque<(oneshot::Sender<Reply>, Instant)>,
    ) -> io::Result<()> {
        let until = Instant::now() + redis.timeout;
        let parts = script::call(&self.digest, &call.key, &call.arguments);
        let written = timeout_at(until, self.write(&parts)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        waiting.push_back((call.answer, until));
        Ok(())
    }
}
