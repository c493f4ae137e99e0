//! The seam to user code: what an application is, and what it may ask of the connection it answers on.
//!
//! A blocking application is a function of the request's head, its body as [`Read`](std::io::Read) and a
//! [`Responder`]. It runs on a thread that may wait, or inline on the worker's loop when it says that it is
//! short. How a wait is done is the worker's business ([`Turn`]); nothing here blocks by itself.

mod blocking;
mod counters;
mod drain;
mod future;
#[path = "app/activity.rs"]
mod hands;
mod observer;
mod overtime;
mod preload;
mod quota;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::blocking::{BodyReader, BodyWriter, Place, Responder, Turn, Upgraded};
pub(crate) use self::blocking::{Inline, Unshared, answer};
pub use self::counters::{BUCKETS, Counter, Counters, Counts, HELD, Held, Tally};
pub use self::drain::{DrainSignal, DrainWatch};
pub use self::future::{AsyncHandler, Body, Call, Incoming, LocalFuture, RequestInfo, fields};
pub(crate) use self::future::{Exchange, Storage};
#[cfg(feature = "worker")]
pub(crate) use self::hands::busy_since;
pub use self::hands::{Busy, Hand, Hands, Serving};
pub use self::observer::{Answered, Observer};
pub use self::overtime::Overtime;
pub use self::quota::Quota;
use crate::conn::Connection;
use crate::handoff::Peer;
use crate::http1::{BodyError, BodyLen, Head, ResponseHead};
use crate::machine::{CloseReason, Cx};
use crate::time::Time;

/// An application: what every worker builds once, after the fork, and then asks for answers.
#[derive(Clone)]
pub struct App {
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Blocking(Arc<dyn Handler>),
    Future(Arc<dyn Call>),
}

impl App {
    /// An application of blocking handlers.
    pub fn blocking(handler: impl Handler) -> Self {
        Self { kind: Kind::Blocking(Arc::new(handler)) }
    }

    /// An application of async handlers.
    pub fn future(handler: impl AsyncHandler) -> Self {
        Self::call(handler)
    }

    /// An application that gives its futures away without borrowing itself, as adapters of frameworks do.
    pub fn call(call: impl Call) -> Self {
        Self { kind: Kind::Future(Arc::new(call)) }
    }

    /// Whether its handlers are async.
    pub fn is_future(&self) -> bool {
        matches!(self.kind, Kind::Future(_))
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Blocking(_) => f.write_str("App::blocking"),
            Kind::Future(_) => f.write_str("App::future"),
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
/// 5. It may take as long as [`request_timeout`](crate::config::Limits::request_timeout) says. After that its client is
///    told 503 or, if the head was sent, its response is cut; [`Responder::drain`] says so, all that it reads or writes
///    fails with [`TimedOut`](std::io::ErrorKind::TimedOut), and its worker is replaced. A short handler, and one that has
///    changed the protocol, have no such limit.
/// 6. It is not interrupted when its client goes: what it reads or writes fails then, and [`Responder::is_gone`] says so. A
///    client that has only ended its sending side gets its answer.
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
    /// The other end of the socket or, if a PROXY header has named it, whoever is at the other end of the proxy's.
    pub peer: Peer,
    /// Requests on this connection so far, this one included.
    pub requests: u32,
}

/// Builds the application in a worker, after the fork and inside the backend's runtime. Called once in each worker's
/// life; an error keeps the worker from serving: it exits with status 4.
#[derive(Clone)]
pub struct AppFactory {
    build: Build,
    wants_tokio: bool,
}

#[derive(Clone)]
enum Build {
    AtOnce(Arc<Make<Result<App, AppError>>>),
    Awaiting(Arc<Make<LocalFuture<Result<App, AppError>>>>),
}

type Make<T> = dyn Fn(&Boot) -> T + Send + Sync;

impl AppFactory {
    /// A factory that needs no await.
    pub fn new(build: impl Fn(&Boot) -> Result<App, AppError> + Send + Sync + 'static) -> Self {
        Self { build: Build::AtOnce(Arc::new(build)), wants_tokio: false }
    }

    /// A factory that awaits what it builds from: connections, files, other services.
    pub fn from_async<F>(build: impl Fn(Boot) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<App, AppError>> + 'static,
    {
        let build = move |boot: &Boot| -> LocalFuture<_> { Box::pin(build(boot.clone())) };
        Self { build: Build::Awaiting(Arc::new(build)), wants_tokio: false }
    }

    /// The same for an application that expects to find a tokio runtime, whatever the backend. One that is not tokio
    /// itself then drives one on a thread of its own.
    #[must_use]
    pub fn with_tokio(self) -> Self {
        Self { wants_tokio: true, ..self }
    }

    /// Whether the application expects to find a tokio runtime.
    pub fn wants_tokio(&self) -> bool {
        self.wants_tokio
    }

    /// Whether it may await something on its way, which takes a runtime.
    pub fn awaits(&self) -> bool {
        matches!(self.build, Build::Awaiting(_))
    }

    /// Begins to build the application.
    pub fn build(&self, boot: &Boot) -> LocalFuture<Result<App, AppError>> {
        match &self.build {
            Build::AtOnce(build) => {
                let (build, boot) = (build.clone(), boot.clone());
                Box::pin(async move { build(&boot) })
            }
            Build::Awaiting(build) => build(boot),
        }
    }
}

impl fmt::Debug for AppFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppFactory")
    }
}

/// What a worker tells the application that it builds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Boot {
    /// The place among the workers, from 0; a replacement has its predecessor's. 0 if `preloaded`.
    pub slot: u16,
    /// Counts the configurations this server has had, from 1.
    pub generation: u32,
    /// Name of the backend.
    pub backend: &'static str,
    /// Tells when the worker drains. If `preloaded`, that is the worker in which it is asked.
    pub drain: DrainSignal,
    /// What the worker has counted so far. If `preloaded`, likewise.
    pub counters: Arc<Counters>,
    /// Whether the application is built before there are workers, and is then that of all of them.
    pub preloaded: bool,
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
        Self { slot, generation, backend, drain, counters, preloaded: false }
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
    /// Where it notes what its handlers are busy with. Default: nowhere.
    pub hands: Hands,
    /// How many requests it is meant to serve. Default: any number.
    pub quota: Quota,
    /// What is done when a blocking handler has had its time. Default: nothing.
    pub overtime: Overtime,
    /// Which exchanges are a handler's turn, and where. Default: [`Turns::Blocking`].
    pub turns: Turns,
    /// Who is told what has become of its requests. Default: nobody.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Which exchanges are carried out in a handler's turn of their own, [`Step::Run`](crate::machine::Step::Run), and where
/// the backend gives that turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "every backend is one of these")]
pub enum Turns {
    /// Those with blocking handlers, on a thread; futures are polled on the loop.
    #[default]
    Blocking,
    /// All, on a thread. Turns are few, so that a body that is small is waited for before one is taken.
    OnThread,
    /// All, on the loop itself, one at a time. Bodies as above.
    OnLoop,
}

impl Service {
    /// An application with the worker's drain and counters.
    pub fn new(app: App, drain: DrainSignal, counters: Arc<Counters>) -> Self {
        Self {
            app,
            drain,
            counters,
            hands: Hands::default(),
            quota: Quota::default(),
            overtime: Overtime::default(),
            turns: Turns::default(),
            observer: None,
        }
    }

    /// The same application where the backend gives turns in this way.
    #[must_use]
    pub fn in_turns(self: Arc<Self>, turns: Turns) -> Arc<Self> {
        Arc::new(Self { turns, ..Arc::unwrap_or_clone(self) })
    }

    /// Since when all of `threads` threads have been busy; none if one is free, or turns are not taken on threads.
    pub fn busy_since(&self, threads: usize) -> Option<Time> {
        (self.turns == Turns::OnThread).then(|| self.hands.threads_busy_since(threads))?
    }

    /// Notes that a handler has its turn.
    pub(crate) fn in_turn(&self, request: &[u8], now: Time) -> Option<Serving> {
        match self.turns {
            Turns::OnLoop => self.hands.on_loop(request, now),
            Turns::Blocking | Turns::OnThread => self.hands.on_thread(request, now),
        }
    }

    /// Notes what handlers are busy with in `hands`.
    #[must_use]
    pub fn noting(self, hands: Hands) -> Self {
        Self { hands, ..self }
    }

    /// Tells `observer`, if there is one, what has become of its requests.
    #[must_use]
    pub fn observed_by(self, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, ..self }
    }

    /// Is meant to serve as many requests as `quota` says.
    #[must_use]
    pub fn limited_to(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// Has `overtime` called when a blocking handler has had its time.
    #[must_use]
    pub fn reporting(self, overtime: Overtime) -> Self {
        Self { overtime, ..self }
    }

    /// Counts a request whose head is complete.
    pub(crate) fn count_request(&self) {
        self.quota.count(self.counters.requests.next());
    }

    /// A handler has panicked: its client is told as far as that is still possible, and the connection ends.
    pub(crate) fn panicked(&self, connection: &mut Connection, panic: &(dyn Any + Send), cx: &Cx<'_>) {
        self.note_panic(panic);
        internal_error(connection, true, cx);
    }

    /// A handler has panicked.
    pub(crate) fn note_panic(&self, panic: &(dyn Any + Send)) {
        self.counters.panics.increment();
        tracing::error!("a handler panicked: {}", panic_message(panic));
    }
}

/// What was said in a panic that was caught, if it was text.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

/// Ends the exchange of an application that has failed if that was the peer's fault, or the time's, which the application only
/// passed on; `false` if it was neither.
fn passed_on(connection: &mut Connection, cx: &Cx<'_>) -> bool {
    let is_at_fault = connection.body_fault().is_some() || connection.is_ending();
    if is_at_fault {
        match connection.body_fault().and_then(BodyError::refusal) {
            Some(refusal) => connection.refuse(refusal, cx),
            None => connection.abort(CloseReason::PeerAborted),
        }
    }
    is_at_fault
}

/// Answers 500, or cuts the response that has begun already.
fn internal_error(connection: &mut Connection, close: bool, cx: &Cx<'_>) {
    const TEXT: &[u8] = b"internal server error\n";
    if !connection.awaits_response() {
        return connection.abort(CloseReason::ApplicationFailed);
    }
    let mut head = ResponseHead::new(500).field("Content-Type", "text/plain");
    if close {
        head = head.field("Connection", "close");
    }
    connection.discard_body();
    let sent = connection
        .respond(&head, BodyLen::Exact(TEXT.len() as u64), cx)
        .and_then(|()| connection.write_shared(Bytes::from_static(TEXT), cx.now))
        .and_then(|()| connection.finish(cx.now));
    if sent.is_err() {
        connection.abort(CloseReason::ApplicationFailed);
    }
}

/// Why an application could not do its work. Any error converts into it with `?`.
pub struct AppError(Box<dyn Error + Send + Sync>);

impl AppError {
    /// An error that is only a sentence: lower case, no full stop.
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// An error that is in a box already.
    pub fn from_boxed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
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
