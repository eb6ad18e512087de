//! Bodies that can be sent again: what has passed is kept, up to a limit.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use super::{BodyError, RequestBody};

/// The most that is kept of one body, in bytes. Requests that sent more are not sent again.
pub(crate) const REPLAY_MAX: usize = 64 * 1024;
/// The most that one worker keeps of all bodies, in bytes.
const ROOM: usize = 64 * 1024 * 1024;

/// What one worker may keep of bodies.
#[derive(Debug)]
pub(crate) struct Room(Cell<usize>);

/// A body of which each attempt gets all.
pub(crate) struct Original(Rc<RefCell<Source>>);

/// The body of one attempt.
pub(crate) struct Replay {
    source: Rc<RefCell<Source>>,
    /// The attempt's number.
    turn: u32,
    /// The next piece of those that were kept.
    next: usize,
    has_ended: bool,
}

struct Source {
    body: RequestBody,
    /// The attempt that may read.
    turn: u32,
    pieces: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes of the pieces.
    size: usize,
    has_ended: bool,
    /// Something passed that was not kept.
    is_gone: bool,
    room: Rc<Room>,
}

impl Default for Room {
    fn default() -> Self {
        Self(Cell::new(ROOM))
    }
}

impl Original {
    pub(crate) fn new(body: RequestBody, room: &Rc<Room>) -> Self {
        Self(Rc::new(RefCell::new(Source {
            body,
            turn: 0,
            pieces: Vec::new(),
            trailers: None,
            size: 0,
            has_ended: false,
            is_gone: false,
            room: Rc::clone(room),
        })))
    }

    /// The body for another attempt. That of the attempt before gives nothing any more.
    pub(crate) fn replay(&self) -> RequestBody {
        let turn = {
            let mut source = self.0.borrow_mut();
            source.turn += 1;
            source.turn
        };
        RequestBody::Replay(Replay {
            source: Rc::clone(&self.0),
            turn,
            next: 0,
            has_ended: false,
        })
    }

    /// True when everything that has passed was kept.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.borrow().is_gone
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.is_gone {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else {
            return;
        };
        let left = self.room.0.get();
        if self.size + data.len() > REPLAY_MAX || data.len() > left {
            return self.let_go();
        }
        self.room.0.set(left - data.len());
        self.size += data.len();
        // A copy: a small piece must not hold the large buffer it was read into.
        self.pieces.push(Bytes::copy_from_slice(data));
    }

    fn let_go(&mut self) {
        self.is_gone = true;
        self.pieces = Vec::new();
        self.trailers = None;
        self.room.0.set(self.room.0.get() + self.size);
        self.size = 0;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Replay {
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let source = &mut *self.source.borrow_mut();
        if source.turn != self.turn {
            return Poll::Ready(Some(Err("the request was sent again".into())));
        }
        if let Some(piece) = source.pieces.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if self.has_ended || source.has_ended {
            let trailers = source.trailers.clone().filter(|_| !self.has_ended);
            self.has_ended = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut source.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                source.keep(frame);
                self.next = source.pieces.len();
                // Nothing follows trailers.
                source.has_ended = frame.is_trailers();
                self.has_ended = frame.is_trailers();
            }
            Some(Err(_)) => source.let_go(),
            None => (source.has_ended, self.has_ended) = (true, true),
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end(&self) -> bool {
        let source = self.source.borrow();
        self.has_ended
            || self.next >= source.pieces.len()
                && source.trailers.is_none()
                && (source.has_ended || source.body.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let again = source.pieces.iter().skip(self.next);
        let again = again.map(|piece| piece.len() as u64).sum::<u64>();
        let rest = match source.has_ended {
            true => SizeHint::with_exact(0),
            false => source.body.size_hint(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(again + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(again + upper);
        }
        hint
    }
}
