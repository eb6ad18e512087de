//! Bodies on their way to a backend.

mod replay;

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

pub(crate) use replay::{Original, Replay, Room};

/// Any error of a body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Frames a mirror may be behind. One that is slower than its original is given up.
const MIRROR_QUEUE: usize = 64;

/// What a client sends. The bytes that are read of it are counted.
pub(crate) struct ClientBody {
    body: Incoming,
    read: Option<Rc<Cell<u64>>>,
}

/// What is sent to a backend. Frames pass as they come; nothing is kept but for a replay.
pub(crate) enum RequestBody {
    /// The client's.
    Client(ClientBody),
    /// The client's, with copies to mirrors.
    Copied(ClientBody, Vec<mpsc::Sender<Copied>>),
    /// A copy.
    Mirror(mpsc::Receiver<Copied>),
    /// That of one of several attempts.
    Replay(Replay),
    /// One that is cut off where it is longer than it may be.
    Limited(Box<Self>, Allowance),
    /// None.
    Empty,
}

/// How much of a body may come; says so to whoever asks when it was more.
pub(crate) struct Allowance {
    left: u64,
    is_exceeded: Arc<AtomicBool>,
}

/// A frame of a body for a mirror.
pub(crate) enum Copied {
    Data(Bytes),
    Trailers(http::HeaderMap),
    /// The original ended; without it the copy is cut off.
    End,
}

impl ClientBody {
    /// The body, and where its bytes are counted; nowhere when there are none to come.
    pub(crate) fn counted(body: Incoming) -> (Self, Option<Rc<Cell<u64>>>) {
        let read = (!body.is_end_stream()).then(Rc::default);
        let counter = read.clone();
        (Self { body, read }, counter)
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(Ok(frame)), Some(read)) = (&frame, &self.read) {
            let more = frame.data_ref().map_or(0, |data| data.len() as u64);
            read.set(read.get() + more);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl RequestBody {
    /// The same body, no longer than `limit` bytes. What is returned with it becomes true when it
    /// would have been.
    pub(crate) fn limited(self, limit: u64) -> (Self, Arc<AtomicBool>) {
        let is_exceeded = Arc::new(AtomicBool::new(false));
        let allowance = Allowance {
            left: limit,
            is_exceeded: Arc::clone(&is_exceeded),
        };
        (Self::Limited(Box::new(self), allowance), is_exceeded)
    }

    /// The client's body and as many copies of it.
    pub(crate) fn with_copies(client: ClientBody, copies: usize) -> (Self, Vec<Self>) {
        if client.is_end_stream() {
            return (
                Self::Client(client),
                (0..copies).map(|_| Self::Empty).collect(),
            );
        }
        let (senders, mirrors) = (0..copies)
            .map(|_| mpsc::channel(MIRROR_QUEUE))
            .map(|(sender, receiver)| (sender, Self::Mirror(receiver)))
            .unzip();
        (Self::Copied(client, senders), mirrors)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Copied(body, copies) => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => copy(frame, copies),
                    Some(Err(_)) => copies.clear(),
                    None => copies.retain(|copy| copy.try_send(Copied::End).is_ok()),
                }
                Poll::Ready(frame)
            }
            Self::Mirror(frames) => Poll::Ready(match ready!(frames.poll_recv(cx)) {
                Some(Copied::Data(data)) => Some(Ok(Frame::data(data))),
                Some(Copied::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Copied::End) => None,
                None => Some(Err("the original request was cut off".into())),
            }),
            Self::Replay(replay) => replay.poll(cx),
            Self::Limited(body, allowance) => {
                let frame = ready!(Pin::new(&mut **body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| allowance.take(frame?)))
            }
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Limited(body, _) => body.is_end_stream(),
            // The end has to be polled, for the copies' sake.
            Self::Copied(..) | Self::Mirror(_) => false,
            Self::Replay(replay) => replay.is_end(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) | Self::Copied(body, _) => body.size_hint(),
            Self::Mirror(_) => SizeHint::default(),
            Self::Replay(replay) => replay.size_hint(),
            Self::Limited(body, _) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

impl Allowance {
    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Ok(frame)
            }
            None => {
                self.is_exceeded.store(true, Ordering::Relaxed);
                Err("the body is longer than it may be".into())
            }
        }
    }
}

fn copy(frame: &Frame<Bytes>, copies: &mut Vec<mpsc::Sender<Copied>>) {
    copies.retain(|copy| {
        let copied = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Copied::Data(data.clone()),
            (None, Some(trailers)) => Copied::Trailers(trailers.clone()),
            (None, None) => return true,
        };
        copy.try_send(copied).is_ok()
    });
}
