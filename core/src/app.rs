//! The seam to user code: what an application is, and what it may ask of the connection it answers on.
//!
//! A blocking application is a function of the request's head, its body as [`Read`](std::io::Read) and a
//! [`Responder`]. It runs on a thread that may wait, or inline on the worker's loop when it says that it is
//! short. How a wait is done is the worker's business ([`Turn`]); nothing here blocks by itself.

mod blocking;
mod drain;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

pub use self::blocking::{BodyReader, BodyWriter, Responder, Turn, Upgraded};
pub(crate) use self::blocking::{Inline, answer};
pub use self::drain::{DrainSignal, DrainWatch};
use crate::handoff::Peer;
use crate::http1::Head;
use crate::machine::CloseReason;

/// An application: what every worker builds once, after the fork, and then asks for answers.
#[derive(Clone)]
pub struct App {
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Blocking(Arc<dyn Handler>),
}

impl App {
    /// An application of blocking handlers.
    pub fn blocking(handler: impl Handler) -> Self {
        Self { kind: Kind::Blocking(Arc::new(handler)) }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Blocking(_) => f.write_str("App::blocking"),
        }
    }
}

/// A blocking application.
///
/// 1. `call` may block; it runs where that holds up no other connection, unless [`is_short`](Self::is_short).
/// 2. It answers once, through `out`. Returning `Ok` ends a streamed response; returning an error or panicking
///    before the head is sent makes it a 500, afterwards it ends the connection without a final chunk.
/// 3. What it leaves unread of `body` is read and thrown away, or the connection is closed if that is much.
/// 4. It is shared by all threads of its worker.
///
/// Every `Fn(&Head<'_>, BodyReader<'_>, Responder<'_>) -> Result<(), AppError>` is one.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    ///
    /// Whatever the application could not handle; it is logged and ends the exchange as described above.
    fn call(&self, head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError>;

    /// Whether this request will be answered without blocking, in microseconds, and with a response that is
    /// sent in one piece or fits under [`HIGH_WATER`](crate::config::HIGH_WATER). Such a request runs inline on
    /// the worker's loop, once all of its body has been received; a write that would have to wait fails there.
    fn is_short(&self, head: &Head<'_>) -> bool {
        let _ = head;
        false
    }
}

impl<F> Handler for F
where
    F: Fn(&Head<'_>, BodyReader<'_>, Responder<'_>) -> Result<(), AppError> + Send + Sync + 'static,
{
    fn call(&self, head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        self(head, body, out)
    }
}

/// A handler all of whose answers are short, see [`Handler::is_short`].
#[derive(Debug)]
#[allow(clippy::exhaustive_structs, reason = "a wrapper and nothing else")]
pub struct Short<H>(pub H);

impl<H: Handler> Handler for Short<H> {
    fn call(&self, head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        self.0.call(head, body, out)
    }

    fn is_short(&self, _: &Head<'_>) -> bool {
        true
    }
}

/// What an application may know of the connection that a request came on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The other end of the socket.
    pub peer: Peer,
    /// Requests on this connection so far, this one included.
    pub requests: u32,
}

/// Builds the application in a worker, after the fork. Called once in each worker's life.
///
/// # Errors
///
/// An error keeps the worker from serving: it exits with status 4.
pub type AppFactory = Box<dyn Fn(&Boot) -> Result<App, AppError> + Send + Sync>;

/// What a worker tells the application that it builds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Boot {
    /// The place among the workers, from 0; a replacement has its predecessor's.
    pub slot: u16,
    /// Counts the configurations this server has had, from 1.
    pub generation: u32,
    /// Name of the backend.
    pub backend: &'static str,
    /// Tells when the worker drains.
    pub drain: DrainSignal,
    /// What the worker has counted so far.
    pub counters: Arc<Counters>,
}

impl Boot {
    /// For worker `slot` of `generation` on `backend`.
    pub fn new(
        slot: u16,
        generation: u32,
        backend: &'static str,
        drain: DrainSignal,
        counters: Arc<Counters>,
    ) -> Self {
        Self { slot, generation, backend, drain, counters }
    }
}

/// What a worker counts, readable from any of its threads.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Connections accepted.
    pub accepted: Counter,
    /// Requests whose head was complete.
    pub requests: Counter,
    /// Requests answered to the last byte.
    pub finished: Counter,
    /// Responses that announced close because of a drain.
    pub announced: Counter,
    /// Connections closed while idle because of a drain.
    pub idle_closed: Counter,
    /// Requests that got no complete answer, whoever was to blame.
    pub aborted: Counter,
    /// Those of them that a drain's deadline cut.
    pub cut: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
}

impl Counters {
    /// Counts a connection that has ended.
    pub fn closed(&self, reason: CloseReason) {
        match reason {
            CloseReason::Drained => self.announced.increment(),
            CloseReason::DrainIdle | CloseReason::DeadlineIdle => self.idle_closed.increment(),
            CloseReason::DeadlineCut => {
                self.aborted.increment();
                self.cut.increment();
            }
            CloseReason::PeerAborted
            | CloseReason::TransportFailed
            | CloseReason::TimedOut(_)
            | CloseReason::ApplicationFailed => self.aborted.increment(),
            _ => {}
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(std::sync::atomic::AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// How far it has come.
    pub fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// An application in one worker: the handlers, and what they and the machine share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Service {
    /// The application.
    pub app: App,
    /// Tells when the worker drains.
    pub drain: DrainSignal,
    /// What the worker counts.
    pub counters: Arc<Counters>,
}

impl Service {
    /// An application with the worker's drain and counters.
    pub fn new(app: App, drain: DrainSignal, counters: Arc<Counters>) -> Self {
        Self { app, drain, counters }
    }
}

/// Why an application could not do its work. Any error converts into it with `?`.
pub struct AppError(Box<dyn Error + Send + Sync>);

impl AppError {
    /// An error that is only a sentence: lower case, no full stop.
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// The error inside.
    pub fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for AppError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for AppError {
    /// The error and its causes, cause by cause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
