//! The body of a request as an async application sees it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::interim::Interim;
use crate::app::{ClientEnd, DrainSignal};
use crate::client::Client;
use crate::exchange::RespondError;
use crate::http1::{BodyError, ResponseHead};
use crate::peer::ConnectionInfo;

/// The body of a request, as it arrives. A body that the client did not complete ends with an
/// error, never early.
///
/// Trailer fields are its last frame, if the client has sent any that are allowed (RFC 9110
/// §6.5.1). They are never among the fields of the request.
///
/// It may move to another task or thread. Dropping it discards the rest. The first poll sends a 100
/// to a client that waits for it (RFC 9110 §10.1.1).
///
/// It also carries facts about the request beside its head, see [`info`](Self::info).
pub struct Incoming {
    pipe: Option<Arc<Pipe>>,
    info: RequestInfo,
}

/// Facts about a request beside its head and its body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestInfo {
    /// Signals the drain of the worker: a flag to read, and a future to await.
    pub drain: DrainSignal,
    /// Signals that the client has ended its side: likewise. The response is sent even so, unless
    /// [`cancel_on_half_close`](crate::config::Limits::cancel_on_half_close) is set.
    pub client_end: ClientEnd,
    /// Facts about the connection.
    pub connection: ConnectionInfo,
    /// The client.
    pub client: Client,
    /// The requested host, with an optional port, if a trusted proxy has named it. Otherwise it is
    /// in the target or the Host field.
    pub forwarded_host: Option<Bytes>,
    /// The queue of interim responses.
    pub(super) interim: Arc<Interim>,
    /// The bytes after the request, if the protocol changes.
    pub(super) upgrade: Option<Arc<Pipe>>,
}

impl RequestInfo {
    /// Sends an interim response, such as 103 with `Link` fields (RFC 8297), before the next await
    /// of the application ends. There may be any number before the final response. A client of
    /// HTTP/1.0 gets none. No client does unless the setting `interim-responses` is on: many
    /// clients take one for the final response.
    ///
    /// # Errors
    ///
    /// The head is invalid, its status is not one from 102 to 199 (100 is sent when the body is
    /// first read), [`HIGH_WATER`](crate::config::HIGH_WATER) bytes of earlier ones are queued, or
    /// the response has begun.
    pub fn interim(&self, head: &ResponseHead) -> Result<(), RespondError> {
        self.interim.push(head)
    }

    /// The same as [`Incoming::upgrade`], for an application that does not get the body itself,
    /// such as a framework's handler.
    pub fn upgrade(&self) -> Option<Incoming> {
        let pipe = self.upgrade.clone().filter(|pipe| pipe.claim())?;
        Some(Incoming::new(Some(pipe), self.clone()))
    }
}

impl Incoming {
    /// The reading end of `pipe`. Without a pipe the body is empty.
    pub(super) fn new(pipe: Option<Arc<Pipe>>, info: RequestInfo) -> Self {
        Self { pipe, info }
    }

    /// Takes the connection over (RFC 9110 §7.8): returns the bytes that the client sends after its
    /// request, if the request offers an upgrade, and None the second time.
    ///
    /// The returned body has bytes once the handler has returned a response with status 101, an
    /// `Upgrade` field that names the protocol, and a body. That body is the other direction: it is
    /// sent without framing, and its end ends the connection. Any other response ends the returned
    /// body with an error. Only [`info`](Self::info) signals the drain (D13).
    pub fn upgrade(&mut self) -> Option<Self> {
        self.info.upgrade()
    }

    /// The drain of the worker, the connection of the request, and operations besides the response.
    pub fn info(&self) -> &RequestInfo {
        &self.info
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
            Some(pipe) => pipe.poll_take(cx.waker()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pipe.as_ref().is_none_or(|pipe| {
            let state = pipe.state();
            state.piece.is_none() && state.trailers.is_none() && state.end == Some(Ok(()))
        })
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
            pipe.abandon();
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("empty", &self.pipe.is_none()).finish()
    }
}

/// One piece of a body between the connection's thread and its reader.
///
/// Wakers are woken and dropped outside the lock, because they may run any code.
#[derive(Debug)]
pub(super) struct Pipe(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The piece, until it is read.
    piece: Option<Bytes>,
    /// Trailer fields after that piece.
    trailers: Option<HeaderMap>,
    /// The end after that, once nothing more will come.
    end: Option<Result<(), BodyError>>,
    /// How many bytes the reader has not read yet, if that is known.
    left: Option<u64>,
    /// The reader waits for a piece.
    reader: Option<Waker>,
    /// There is a reader, or was.
    claimed: bool,
    /// The reader is gone.
    abandoned: bool,
    /// The connection's own task, as it polled last. None once the exchange is over.
    machine: Option<Waker>,
    /// That task is polling the application at present, so it need not be woken.
    polling: bool,
}

/// While this lives, the connection's task is polling the application.
pub(super) struct Polling<'a>(&'a Pipe);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.state().polling = false;
    }
}

impl Pipe {
    /// A pipe for `left` bytes, if the number is known.
    pub(super) fn new(left: Option<u64>) -> Self {
        Self(Mutex::new(State {
            piece: None,
            trailers: None,
            end: None,
            left,
            reader: None,
            claimed: false,
            abandoned: false,
            machine: None,
            polling: false,
        }))
    }

    /// Whether no reader has claimed the pipe before.
    fn claim(&self) -> bool {
        !std::mem::replace(&mut self.state().claimed, true)
    }

    /// Passes a piece to the reader. The last one comes with the trailer fields after it.
    pub(super) fn give(&self, piece: Bytes, last: Option<HeaderMap>) {
        let mut state = self.state();
        state.piece = Some(piece);
        if let Some(trailers) = last {
            state.end_with(Ok(trailers));
        }
        state.wake_reader();
    }

    /// Ends the pipe with the trailer fields, or with the error that ended the body.
    pub(super) fn end(&self, end: Result<HeaderMap, BodyError>) {
        let mut state = self.state();
        state.end_with(end);
        state.wake_reader();
    }

    /// Closes the pipe: the exchange is over, and a body that has not ended by now never will.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.end.get_or_insert(Err(BodyError::Closed));
        // Woken first, while it can still be recognized as the connection's own task.
        state.wake_reader();
        let machine = self.state().machine.take();
        drop(machine);
    }

    /// Whether the reader waits for a piece.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.reader.is_some() && state.piece.is_none() && state.end.is_none()
    }

    /// Whether the reader is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// Marks that the connection's task polls the application now, and that `machine` wakes it.
    pub(super) fn polling(&self, machine: &Waker) -> Polling<'_> {
        let mut state = self.state();
        state.polling = true;
        let former = state.machine.replace(machine.clone());
        drop(state);
        drop(former);
        Polling(self)
    }

    fn poll_take(&self, reader: &Waker) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state();
        if let Some(bytes) = state.piece.take() {
            state.left = state.left.map(|left| left.saturating_sub(bytes.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if let Some(end) = state.end {
            return Poll::Ready(end.err().map(Err));
        }
        let former = state.reader.replace(reader.clone());
        state.wake_machine();
        drop(former);
        Poll::Pending
    }

    fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        let (reader, piece) = (state.reader.take(), state.piece.take());
        state.wake_machine();
        drop((reader, piece));
    }

    fn state(&self) -> Locked<'_> {
        Locked(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn end_with(&mut self, end: Result<HeaderMap, BodyError>) {
        self.end =
            Some(end.map(|trailers| self.trailers = Some(trailers).filter(|fields| !fields.is_empty())));
    }
}

/// The locked state.
struct Locked<'a>(MutexGuard<'a, State>);

impl Locked<'_> {
    /// Wakes the connection's task, unless it checks the pipe anyway.
    fn wake_machine(self) {
        let machine = self.machine.clone().filter(|_| !self.polling);
        drop(self);
        if let Some(machine) = machine {
            machine.wake();
        }
    }

    /// Wakes the reader, unless that is the connection's own task, which is running.
    fn wake_reader(mut self) {
        let reader = self.reader.take();
        let own =
            reader.as_ref().zip(self.machine.as_ref()).is_some_and(|(reader, own)| reader.will_wake(own));
        drop(self);
        if let Some(reader) = reader
            && !own
        {
            reader.wake();
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}
