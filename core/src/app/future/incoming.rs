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
use crate::app::{ConnectionInfo, DrainSignal};
use crate::client::Client;
use crate::conn::RespondError;
use crate::http1::{BodyError, ResponseHead};

/// The body of a request, as it arrives. A body that the client did not complete ends with an error, never early.
///
/// Trailer fields are its last frame, if the client has sent any that may be there (RFC 9110 §6.5.1); they are never among the
/// fields of the request.
///
/// It may move to another task or thread. Dropping it tells that nobody wants the rest. The first poll asks a client
/// that waits for it to go on (100, RFC 9110 §10.1.1).
///
/// It also carries what is known of the request beside its head, see [`info`](Self::info).
pub struct Incoming {
    pipe: Option<Arc<Pipe>>,
    info: RequestInfo,
}

/// What is known of a request beside its head and its body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestInfo {
    /// Tells when the worker drains: a flag to look at, and a future to await.
    pub drain: DrainSignal,
    /// What is known of the connection.
    pub connection: ConnectionInfo,
    /// Who has sent the request.
    pub client: Client,
    /// The host that it is for, and perhaps a port, if a trusted proxy has named it; otherwise that is in the target or the
    /// Host field.
    pub forwarded_host: Option<Bytes>,
    /// What is sent before the response.
    pub(super) interim: Arc<Interim>,
    /// What may follow the request in another protocol.
    pub(super) upgrade: Option<Arc<Pipe>>,
}

impl RequestInfo {
    /// Sends an interim response, such as 103 with `Link` fields (RFC 8297), before whatever the application waits for next.
    /// There may be any number before the response. A client of HTTP/1.0 knows none and is sent nothing.
    ///
    /// # Errors
    ///
    /// The head is invalid, its status is not one from 102 to 199 (100 is sent when the body is first read), as much of
    /// earlier ones as [`HIGH_WATER`](crate::config::HIGH_WATER) waits to be sent, or the response has begun.
    pub fn interim(&self, head: &ResponseHead) -> Result<(), RespondError> {
        self.interim.push(head)
    }

    /// The same as [`Incoming::upgrade`], for an application that is not given the body itself, as handlers of frameworks
    /// are not.
    pub fn upgrade(&self) -> Option<Incoming> {
        let pipe = self.upgrade.clone().filter(|pipe| pipe.claim())?;
        Some(Incoming::new(Some(pipe), self.clone()))
    }
}

impl Incoming {
    /// The reading end of `pipe`; without one the body is empty.
    pub(super) fn new(pipe: Option<Arc<Pipe>>, info: RequestInfo) -> Self {
        Self { pipe, info }
    }

    /// Takes the connection over (RFC 9110 §7.8): gives what the client sends behind its request, if it offers to change
    /// the protocol, and nothing the second time.
    ///
    /// What is given has something to read once the handler has returned a response with status 101, an `Upgrade` field
    /// that names the protocol, and a body: the other direction, sent as it is, with whose end the connection ends. Any
    /// other response ends it with an error. The drain is told by [`info`](Self::info) alone (D13).
    pub fn upgrade(&mut self) -> Option<Self> {
        self.info.upgrade()
    }

    /// The drain of the worker, the connection that the request came on, and what may be done besides answering.
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

/// One piece of a body between the connection's thread and whoever reads it.
///
/// Wakers are woken and dropped while the lock is free, because they may be anybody's.
#[derive(Debug)]
pub(super) struct Pipe(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Waits to be taken.
    piece: Option<Bytes>,
    /// Trailer fields behind that piece.
    trailers: Option<HeaderMap>,
    /// What is behind that, once nothing more will come.
    end: Option<Result<(), BodyError>>,
    /// What the reader has still to take, if that is known.
    left: Option<u64>,
    /// The reader waits for a piece.
    reader: Option<Waker>,
    /// There is a reader, or was.
    claimed: bool,
    /// The reader is gone.
    abandoned: bool,
    /// The connection's own task, as it polled last; none once the exchange is over.
    machine: Option<Waker>,
    /// That task is polling the application right now, so it need not be woken.
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
    /// A pipe for `left` bytes, if it is known how many are to come.
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

    /// Whether nobody has claimed to be the reader before.
    fn claim(&self) -> bool {
        !std::mem::replace(&mut self.state().claimed, true)
    }

    /// Passes a piece to the reader. The last one comes with the trailer fields that follow it.
    pub(super) fn give(&self, piece: Bytes, last: Option<HeaderMap>) {
        let mut state = self.state();
        state.piece = Some(piece);
        if let Some(trailers) = last {
            state.end_with(Ok(trailers));
        }
        state.wake_reader();
    }

    /// Tells the reader that nothing more will come but these trailer fields, or that this is not all of the body.
    pub(super) fn end(&self, end: Result<HeaderMap, BodyError>) {
        let mut state = self.state();
        state.end_with(end);
        state.wake_reader();
    }

    /// The exchange is over: a body that has not ended by now never will.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.end.get_or_insert(Err(BodyError::Closed));
        // Woken first, so that it is still known for the connection's own.
        state.wake_reader();
        let machine = self.state().machine.take();
        drop(machine);
    }

    /// Whether the reader waits for a piece.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.reader.is_some() && state.piece.is_none() && state.end.is_none()
    }

    /// Whether the reader has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// Tells that the connection's task polls the application now, and that `machine` wakes it.
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

/// The state while nobody else may look at it.
struct Locked<'a>(MutexGuard<'a, State>);

impl Locked<'_> {
    /// Wakes the connection's task, unless it will look by itself.
    fn wake_machine(self) {
        let machine = self.machine.clone().filter(|_| !self.polling);
        drop(self);
        if let Some(machine) = machine {
            machine.wake();
        }
    }

    /// Wakes the reader, unless that is the connection's own task, which is at work.
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
