//! The body of a request as an async application sees it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http1::BodyError;

/// The body of a request, as it arrives. A body that the client did not complete ends with an error, never early.
///
/// It may move to another task or thread. Dropping it tells that nobody wants the rest. The first poll asks a client
/// that waits for it to go on (100, RFC 9110 §10.1.1).
#[derive(Default)]
pub struct Incoming {
    pipe: Option<Arc<Pipe>>,
}

impl Incoming {
    /// The reading end of `pipe`; without one the body is empty.
    pub(super) fn new(pipe: Option<Arc<Pipe>>) -> Self {
        Self { pipe }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &self.pipe {
            None => Poll::Ready(None),
            Some(pipe) => pipe.poll_take(cx.waker()).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pipe.as_ref().is_none_or(|pipe| matches!(pipe.state().content, Content::End))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.pipe {
            None => SizeHint::with_exact(0),
            Some(pipe) => pipe.state().left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(pipe) = &self.pipe {
            let mut state = pipe.state();
            state.abandoned = true;
            state.wake_machine();
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("empty", &self.pipe.is_none()).finish()
    }
}

/// One piece of a body between the connection's thread and whoever reads it.
pub(super) struct Pipe(Mutex<State>);

struct State {
    content: Content,
    /// What is still to come, if that is known.
    left: Option<u64>,
    /// The reader waits for a piece.
    reader: Option<Waker>,
    /// The reader is gone.
    abandoned: bool,
    /// The connection is gone: what has not come by now never will.
    closed: bool,
    /// The connection's own task.
    machine: Waker,
    /// That task is polling the application right now, so it need not be woken.
    polling: bool,
}

enum Content {
    /// Nothing yet.
    Empty,
    Piece(Bytes),
    End,
    Failed(BodyError),
}

/// While this lives, the connection's task is polling the application.
pub(super) struct Polling<'a>(&'a Pipe);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.state().polling = false;
    }
}

impl Pipe {
    /// A pipe for `left` bytes, if that many are known to come; `machine` is woken when somebody wants one.
    pub(super) fn new(left: Option<u64>, machine: Waker) -> Self {
        Self(Mutex::new(State {
            content: Content::Empty,
            left,
            reader: None,
            abandoned: false,
            closed: false,
            machine,
            polling: false,
        }))
    }

    /// Passes a piece, the end or an error to the reader.
    pub(super) fn give(&self, piece: Option<Result<Bytes, BodyError>>) {
        let mut state = self.state();
        state.content = match piece {
            Some(Ok(bytes)) => {
                state.left = state.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Content::Piece(bytes)
            }
            Some(Err(error)) => Content::Failed(error),
            None => Content::End,
        };
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The connection has ended: a body that has not ended by now never will.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whether the reader waits for a piece.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.reader.is_some() && matches!(state.content, Content::Empty)
    }

    /// Whether the reader has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// Tells that the connection's task polls the application now.
    pub(super) fn polling(&self) -> Polling<'_> {
        self.state().polling = true;
        Polling(self)
    }

    fn poll_take(&self, reader: &Waker) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut state = self.state();
        match std::mem::replace(&mut state.content, Content::Empty) {
            Content::Piece(bytes) => Poll::Ready(Some(Ok(bytes))),
            Content::End => {
                state.content = Content::End;
                Poll::Ready(None)
            }
            Content::Failed(error) => {
                state.content = Content::Failed(error);
                Poll::Ready(Some(Err(error)))
            }
            Content::Empty if state.closed => Poll::Ready(Some(Err(BodyError::Closed))),
            Content::Empty => {
                state.reader = Some(reader.clone());
                state.wake_machine();
                Poll::Pending
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_machine(&self) {
        if !self.polling {
            self.machine.wake_by_ref();
        }
    }
}
