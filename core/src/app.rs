//! The interface to user code: applications, and their operations on the connection of a request.
//!
//! A blocking application is a function of the request's head, its body as [`Read`](std::io::Read)
//! and a [`Responder`]. It runs on a thread that may wait, or on the worker's loop if it declares
//! itself short. The worker decides how to wait ([`BlockingIo`]). Nothing here blocks by itself.

mod activity;
mod blocking;
mod client_end;
mod counters;
mod drain;
mod future;
mod hold;
mod in_flight;
mod observer;
mod overtime;
mod preload;
mod quota;
pub mod streams;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(feature = "worker")]
pub(crate) use self::activity::busy_since;
pub use self::activity::{Activities, Activity, ActivityGuard, Busy, Doing};
pub use self::blocking::{
    BlockingIo, BodyReader, BodyWriter, HeldExchange, LeasedExchange, Responder, Upgraded,
};
pub(crate) use self::blocking::{Inline, answer};
pub use self::client_end::ClientEnd;
pub use self::counters::{BUCKETS, Counter, Counters, Counts, HELD, Held, Tally};
pub use self::drain::{DrainSignal, DrainWatch};
pub(crate) use self::future::{AsyncCall, Storage};
pub use self::future::{AsyncHandler, Body, Call, Incoming, LocalFuture, RequestInfo, fields};
pub use self::hold::{Hold, Holds};
pub(crate) use self::in_flight::Entered;
pub use self::in_flight::{Board, InFlight, SHOWN};
pub use self::observer::Observer;
pub use self::overtime::Overtime;
pub use self::quota::Quota;
use self::streams::OtherProtocol;
pub use crate::conn::{Answered, Cut};
use crate::exchange::{Abort, Answer, BodyState, Exchange};
use crate::http1::{BodyLen, Head, ResponseHead};
pub use crate::peer::ConnectionInfo;
use crate::shutdown::Drain;
use crate::time::Time;

/// An application. Every worker builds it once, after the fork, and calls it for every request.
///
/// ```
/// use remuda_core::app::{App, AppError, BodyReader, Responder};
/// use remuda_core::http1::{Head, ResponseHead};
///
/// fn hello(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
///     Ok(out.send(ResponseHead::new(200), "Hello, World!\n")?)
/// }
///
/// let app = App::blocking(hello).on_drained(async |_| println!("this worker is done"));
/// ```
#[derive(Clone)]
pub struct App {
    pub(crate) kind: Kind,
    /// All bodies are streamed.
    streams: bool,
    wants_tokio: bool,
    /// Called when a worker has drained.
    hooks: Vec<OnDrained>,
    /// The protocol besides HTTP/1.1.
    pub(crate) other: Option<Arc<dyn OtherProtocol>>,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Blocking(Arc<dyn Handler>),
    Future(Arc<dyn Call>),
}

impl App {
    /// An application of blocking handlers.
    pub fn blocking(handler: impl Handler) -> Self {
        Self::of(Kind::Blocking(Arc::new(handler)))
    }

    /// An application of async handlers.
    pub fn future(handler: impl AsyncHandler) -> Self {
        Self::call(handler)
    }

    /// An application whose futures do not borrow from it, as adapters of frameworks need.
    pub fn call(call: impl Call) -> Self {
        Self::of(Kind::Future(Arc::new(call)))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, streams: false, wants_tokio: false, hooks: Vec::new(), other: None }
    }

    /// Awaits `end` in each worker that has drained: at every stop, recycle, reload, upgrade and
    /// scale-down, after its last connection and before the process exits. There an application can
    /// flush its buffers and close its own connections. `end` runs inside the runtime that served
    /// the application, with `remuda::sleep` and, if the application requires it, tokio. The
    /// worker's heartbeat continues meanwhile, so the setting `timeout` does not
    /// limit it unless it blocks the thread.
    ///
    /// Tasks that [hold](DrainSignal::hold) the worker may finish first. `end` gets the drain,
    /// whose deadline limits it: then the future is dropped, or 0.3 s after it was created if that
    /// is later, so that it has some time even if requests have used up the drain's. A warning is
    /// logged, and the worker exits with status 6 instead of 0. `end` is not called if a blocking
    /// handler occupies the only thread of a worker at the deadline, nor in a worker that QUIT or a
    /// crash ends, or that was never ready. A panic is logged and has no other effect. Several ends
    /// are awaited one after the other.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use remuda_core::app::{App, AppError, BodyReader, Responder};
    /// use remuda_core::http1::{Head, ResponseHead};
    ///
    /// # async fn send(_: Vec<String>) {}
    /// fn counted() -> App {
    ///     let paths = Arc::new(Mutex::new(Vec::new()));
    ///     let seen = paths.clone();
    ///     let note = move |head: &Head<'_>,
    ///                      _: BodyReader<'_>,
    ///                      out: Responder<'_>|
    ///           -> Result<(), AppError> {
    ///         seen.lock().unwrap().push(head.path().to_owned());
    ///         Ok(out.send(ResponseHead::new(204), "")?)
    ///     };
    ///     // What has not been sent by now is sent before the worker ends.
    ///     App::blocking(note).on_drained(move |_| {
    ///         let rest = std::mem::take(&mut *paths.lock().unwrap());
    ///         send(rest)
    ///     })
    /// }
    /// ```
    #[must_use]
    pub fn on_drained<F>(mut self, end: impl Fn(Drain) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.hooks.push(OnDrained(Arc::new(move |drain| Box::pin(end(drain)))));
        self
    }

    /// The futures to await in a worker that has drained, in this order.
    pub fn hooks(&self) -> &[OnDrained] {
        &self.hooks
    }

    /// The same application, which requires a tokio runtime when it is called, on any backend.
    /// Tower services declare that themselves. A backend other than tokio then runs one on a thread
    /// of its own. If the application requires the runtime also while it is built, use
    /// [`AppFactory::with_tokio`].
    #[must_use]
    pub fn with_tokio(self) -> Self {
        Self { wants_tokio: true, ..self }
    }

    /// Whether it requires a tokio runtime when it is called. Default: no.
    pub fn wants_tokio(&self) -> bool {
        self.wants_tokio
    }

    /// Starts the handler of every request that is not [short](Handler::is_short) before its body
    /// has arrived, as [`Handler::streams_body`] does for some. For functions and tower services,
    /// which cannot declare it themselves.
    ///
    /// ```
    /// use std::io::{Read, Write};
    ///
    /// use remuda_core::app::{App, AppError, BodyReader, Responder};
    /// use remuda_core::http1::{Head, ResponseHead};
    ///
    /// /// Answers each piece of the body before the next one is sent.
    /// fn converse(
    ///     _: &Head<'_>,
    ///     mut body: BodyReader<'_>,
    ///     out: Responder<'_>,
    /// ) -> Result<(), AppError> {
    ///     let (mut out, mut piece) = (out.stream(ResponseHead::new(200))?, [0; 1024]);
    ///     loop {
    ///         let n = body.read(&mut piece)?;
    ///         if n == 0 {
    ///             return Ok(());
    ///         }
    ///         out.write_all(&piece[..n])?;
    ///         out.flush()?;
    ///     }
    /// }
    ///
    /// let app = App::blocking(converse).stream_bodies();
    /// ```
    #[must_use]
    pub fn stream_bodies(self) -> Self {
        Self { streams: true, ..self }
    }

    /// Whether the request of `head` is handled before its body has arrived.
    pub(crate) fn streams_body(&self, head: &Head<'_>) -> bool {
        self.streams
            || match &self.kind {
                Kind::Blocking(handler) => handler.streams_body(head),
                Kind::Future(call) => call.streams_body(head),
            }
    }

    /// The same application, also over `protocol`, on the same listeners: the first bytes of a
    /// connection decide. Without another protocol every connection carries HTTP/1.1.
    #[must_use]
    pub fn over(self, protocol: impl OtherProtocol) -> Self {
        Self { other: Some(Arc::new(protocol)), ..self }
    }

    /// Whether its handlers are async.
    pub fn is_future(&self) -> bool {
        matches!(self.kind, Kind::Future(_))
    }
}

/// A future to await in a worker that has drained, see [`App::on_drained`].
#[derive(Clone)]
pub struct OnDrained(Arc<dyn Fn(Drain) -> LocalFuture<()> + Send + Sync>);

impl OnDrained {
    /// Creates the future, for `drain`.
    pub fn call(&self, drain: Drain) -> LocalFuture<()> {
        (self.0)(drain)
    }
}

impl fmt::Debug for OnDrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDrained")
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
/// 1. `call` may block. It runs in a place where that delays no other connection, unless
///    [`is_short`](Self::is_short).
/// 2. It answers once, through `out`. Returning `Ok` ends a streamed response. Returning an error
///    or panicking before the head is sent answers 500. After that it ends the connection without a
///    final chunk.
/// 3. The unread rest of `body` is discarded, or the connection is closed if that is too much.
/// 4. It is shared by all threads of its worker.
/// 5. It may take as long as [`request_timeout`](crate::config::Limits::request_timeout). After
///    that its client gets 503 or, if the head was sent, its response is cut; [`Responder::drain`]
///    is set, every read and write fails with [`TimedOut`](std::io::ErrorKind::TimedOut), and its
///    worker is replaced. A short handler, and one that has changed the protocol, have no such
///    limit.
/// 6. It is not interrupted when its client disconnects: its reads and writes fail then, and
///    [`Responder::is_gone`] is true. A client that has only ended its sending side gets its
///    response, and [`Responder::has_client_ended`] is true.
///
/// Every `Fn(&Head<'_>, BodyReader<'_>, Responder<'_>) -> Result<(), AppError>` is a handler.
///
/// ```
/// use remuda_core::app::{App, AppError, BodyReader, Handler, Responder};
/// use remuda_core::http1::{Head, ResponseHead};
///
/// struct Greeter {
///     greeting: String,
/// }
///
/// impl Handler for Greeter {
///     fn call(
///         &self,
///         _: &Head<'_>,
///         _: BodyReader<'_>,
///         out: Responder<'_>,
///     ) -> Result<(), AppError> {
///         Ok(out.send(ResponseHead::new(200), self.greeting.clone())?)
///     }
///
///     // It never waits, so that it may run on the worker's loop.
///     fn is_short(&self, _: &Head<'_>) -> bool {
///         true
///     }
/// }
///
/// let app = App::blocking(Greeter { greeting: "Hello!\n".to_owned() });
/// assert!(!app.is_future());
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    ///
    /// Any failure of the application. It is logged and ends the exchange as described above.
    fn call(&self, head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError>;

    /// Whether this request will be answered without blocking, in microseconds, and with a response
    /// that is sent in one piece or fits under [`HIGH_WATER`](crate::config::HIGH_WATER). Such a
    /// request runs on the worker's loop, once its whole body has arrived. A write that would have
    /// to wait fails there.
    fn is_short(&self, head: &Head<'_>) -> bool {
        let _ = head;
        false
    }

    /// Whether this request is handled before its body has arrived. Default: no, so that on
    /// backends where every handler occupies a thread (sync, threaded) a body of up to
    /// [`READ_BUFFER_MAX`](crate::config::READ_BUFFER_MAX) is received first, however slow its
    /// client is. A handler that answers while it reads has to return true: its client may send no
    /// more before it receives a part of the response. Such a handler occupies its thread for as
    /// long as its client takes. On other backends, and for a [short](Self::is_short) request, it
    /// makes no difference.
    fn streams_body(&self, head: &Head<'_>) -> bool {
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

/// A handler whose requests are all short, see [`Handler::is_short`].
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

/// Builds the application in a worker, after the fork and inside the backend's runtime. Called once
/// in each worker's life. An error keeps the worker from serving: it exits with status 4.
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
    /// A factory that awaits nothing.
    pub fn new(build: impl Fn(&Boot) -> Result<App, AppError> + Send + Sync + 'static) -> Self {
        Self { build: Build::AtOnce(Arc::new(build)), wants_tokio: false }
    }

    /// A factory that awaits its resources: connections, files, other services.
    pub fn from_async<F>(build: impl Fn(Boot) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<App, AppError>> + 'static,
    {
        let build = move |boot: &Boot| -> LocalFuture<_> { Box::pin(build(boot.clone())) };
        Self { build: Build::Awaiting(Arc::new(build)), wants_tokio: false }
    }

    /// The same for an application that requires a tokio runtime, also while it is built, on any
    /// backend. A backend other than tokio then runs one on a thread of its own. Otherwise only an
    /// application that [requires it itself](App::with_tokio) finds one, when it is called.
    #[must_use]
    pub fn with_tokio(self) -> Self {
        Self { wants_tokio: true, ..self }
    }

    /// Whether the application requires a tokio runtime.
    pub fn wants_tokio(&self) -> bool {
        self.wants_tokio
    }

    /// Whether the factory may await, which requires a runtime.
    pub fn awaits(&self) -> bool {
        matches!(self.build, Build::Awaiting(_))
    }

    /// Starts to build the application.
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

/// Facts about a worker, for the application that it builds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Boot {
    /// The worker's place, from 0. A replacement has the place of its predecessor. 0 if
    /// `preloaded`.
    pub slot: u16,
    /// The number of the server's configuration, counted from 1.
    pub generation: u32,
    /// Name of the backend.
    pub backend: &'static str,
    /// Signals the drain of the worker. If `preloaded`, of the worker in which it is read.
    pub drain: DrainSignal,
    /// The counters of the worker. If `preloaded`, likewise.
    pub counters: Arc<Counters>,
    /// Whether the application is built before the fork, once for all workers.
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

/// An application in one worker: the handlers, and the state that they share with the machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Service {
    /// The application.
    pub app: App,
    /// Signals the drain of the worker.
    pub drain: DrainSignal,
    /// The counters of the worker.
    pub counters: Arc<Counters>,
    /// Where running handlers are recorded. Default: nowhere.
    pub activities: Activities,
    /// Where waiting exchanges are recorded. Default: nowhere.
    pub in_flight: Arc<InFlight>,
    /// The number of requests after which the worker is replaced. Default: none.
    pub quota: Quota,
    /// The action when a blocking handler exceeds its timeout. Default: none.
    pub overtime: Overtime,
    /// Where handlers run. Default: [`Placement::ByKind`].
    pub placement: Placement,
    /// Receives a report about each request. Default: none.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Where the handlers of a backend run: inside [`Machine::step`](crate::machine::Machine::step), or
/// in a place of their own that a step asks for with
/// [`Step::Move(Move::Lease)`](crate::machine::Step::Move(Move::Lease)). A handler that is
/// [short](Handler::is_short) always runs inside the step. In a protocol with [streams] futures run
/// inside the step, and blocking handlers after [`Step::Spawn`](crate::machine::Step::Spawn),
/// whatever this says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "every backend is one of these")]
pub enum Placement {
    /// Blocking handlers on a thread, futures inside the step.
    #[default]
    ByKind,
    /// Both on a thread. Threads are few, so a small body is received before one is used.
    OnThread,
    /// Both on the loop's own thread, one at a time. Bodies as for `OnThread`.
    OnLoop,
}

impl Service {
    /// An application with the worker's drain and counters.
    pub fn new(app: App, drain: DrainSignal, counters: Arc<Counters>) -> Self {
        Self {
            app,
            drain,
            counters,
            activities: Activities::default(),
            in_flight: Arc::new(InFlight::new(Board::default())),
            quota: Quota::default(),
            overtime: Overtime::default(),
            placement: Placement::default(),
            observer: None,
        }
    }

    /// The same application on a backend that runs handlers at `placement`.
    #[must_use]
    pub fn placed(self: Arc<Self>, placement: Placement) -> Arc<Self> {
        Arc::new(Self { placement, ..Arc::unwrap_or_clone(self) })
    }

    /// Since when all of `threads` threads have been busy. None if one is free, or handlers do not
    /// all run on threads.
    pub fn busy_since(&self, threads: usize) -> Option<Time> {
        (self.placement == Placement::OnThread).then(|| self.activities.threads_busy_since(threads))?
    }

    /// Records that a handler runs in a place of its own.
    pub(crate) fn note_placed(&self, request: &[u8], now: Time) -> Option<ActivityGuard> {
        match self.placement {
            Placement::OnLoop => self.activities.on_loop(request, now),
            Placement::ByKind | Placement::OnThread => self.activities.on_thread(request, now),
        }
    }

    /// Records running handlers in `activities`.
    #[must_use]
    pub fn noting(self, activities: Activities) -> Self {
        Self { activities, ..self }
    }

    /// Records waiting exchanges on `board`.
    #[must_use]
    pub fn showing(self, board: Board) -> Self {
        Self { in_flight: Arc::new(InFlight::new(board)), ..self }
    }

    /// Reports the outcome of each request to `observer`, if there is one.
    #[must_use]
    pub fn observed_by(self, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, ..self }
    }

    /// Has the worker replaced after the requests of `quota`.
    #[must_use]
    pub fn limited_to(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// Calls `overtime` when a blocking handler exceeds its timeout.
    #[must_use]
    pub fn reporting(self, overtime: Overtime) -> Self {
        Self { overtime, ..self }
    }

    /// Counts a request whose head is complete.
    pub(crate) fn count_request(&self) {
        self.quota.count(self.counters.requests.next());
    }

    /// A handler has panicked: its client gets 500 if that is still possible, and the connection
    /// ends.
    pub(crate) fn panicked(&self, exchange: &mut impl Exchange, panic: &(dyn Any + Send)) {
        self.note_panic(panic);
        internal_error(exchange, true);
    }

    /// Counts and logs a panic of a handler.
    pub(crate) fn note_panic(&self, panic: &(dyn Any + Send)) {
        self.counters.panics.increment();
        let message = panic_message(panic);
        tracing::error!("handler panicked: {message}{}", panic_cure(message));
    }
}

/// The message of a caught panic, if it is text.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

/// A known remedy for a panic with this message, to be appended to it. Libraries on tokio panic
/// without a runtime, and their message does not mention that the backend provides one on request.
pub fn panic_cure(message: &str) -> &'static str {
    if misses_tokio(message) {
        "; it needs a tokio runtime, which this backend has on request: pass the tower service itself to Server::new, call AppFactory::with_tokio, or use -k tokio"
    } else if message.contains("`spawn_local` called from outside") {
        "; it needs a tokio runtime of this thread: use -k tokio, or tokio::spawn with AppFactory::with_tokio"
    } else {
        ""
    }
}

/// Whether the message is that of a library that found no tokio runtime.
fn misses_tokio(message: &str) -> bool {
    const WORDS: [&str; 2] = ["must be called from the context of a Tokio", "requires a Tokio context"];
    WORDS.iter().any(|words| message.contains(words))
}

/// If a handler failed only because the request body did (malformed, truncated, timed out) or
/// because the connection is ending, ends the exchange accordingly and returns true. Returns false
/// if the failure is the application's own.
fn passed_on(exchange: &mut impl Exchange) -> bool {
    let state = exchange.state();
    match state.body {
        BodyState::Failed(error) => exchange.abort(error.refusal().map_or(Abort::Peer, Abort::Refused)),
        _ if state.answer == Answer::Over => exchange.abort(Abort::Peer),
        _ => return false,
    }
    true
}

/// Answers 500, or cuts the response that has begun already.
fn internal_error(exchange: &mut impl Exchange, close: bool) {
    const TEXT: &[u8] = b"internal server error\n";
    if exchange.state().answer != Answer::Awaited {
        return exchange.abort(Abort::Application);
    }
    let mut head = ResponseHead::new(500).field("Content-Type", "text/plain");
    if close {
        head = head.field("Connection", "close");
    }
    exchange.discard_body();
    let sent = exchange
        .respond(&head, BodyLen::Exact(TEXT.len() as u64))
        .and_then(|()| exchange.write_shared(Bytes::from_static(TEXT)))
        .and_then(|()| exchange.finish(None));
    if sent.is_err() {
        exchange.abort(Abort::Application);
    }
}

/// The failure of an application. Any error converts into it with `?`.
///
/// ```
/// use remuda_core::app::AppError;
///
/// fn port(text: Option<&str>) -> Result<u16, AppError> {
///     let text = text.ok_or_else(|| AppError::msg("no port is given"))?;
///     Ok(text.parse()?)
/// }
///
/// assert_eq!(port(Some("80")).unwrap(), 80);
/// assert_eq!(port(None).unwrap_err().to_string(), "no port is given");
/// assert!(port(Some("http")).is_err());
/// ```
pub struct AppError(Box<dyn Error + Send + Sync>);

impl AppError {
    /// An error with only a message: lower case, no full stop.
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// An error for code of an application that has panicked. The panic hook has already logged the
    /// panic.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::msg(format!("it panicked, see the log above{}", panic_cure(panic_message(panic))))
    }

    /// The same for a panic before the fork, where there is no runtime.
    pub fn panicked_before_fork(panic: &(dyn Any + Send)) -> Self {
        let cure = match misses_tokio(panic_message(panic)) {
            true => "; it needs a tokio runtime, and there is none before the fork: turn preload off",
            false => "",
        };
        Self::msg(format!("it panicked, see the log above{cure}"))
    }

    /// An error that is already in a box.
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
    /// The error, followed by each cause.
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
