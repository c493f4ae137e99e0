//! Blocking applications: `Read` and `Write` over an exchange that the handler holds by a lease.
//!
//! The handler borrows its [`LeasedExchange`] through one cell, for its body and its response at
//! the same time. Each read or write asks the exchange first. Only if the exchange cannot continue
//! is the lease asked to move bytes or to wait. A lease may expire: from then on all reads and
//! writes of the handler fail.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use http::HeaderMap;

use super::overtime::Limit;
use super::{AppError, ConnectionInfo, DrainSignal, Handler, Service, internal_error, passed_on};
use crate::config::HIGH_WATER;
use crate::conn::{Connection, Http1Exchange};
use crate::exchange::{Abort, Answer, BodyRead, Exchange, ExchangeState, RespondError, Upgrade};
use crate::http1::{BodyError, BodyLen, RequestHead, ResponseHead};
use crate::machine::{CloseReason, Cx};
use crate::time::Time;

/// The exchange of a handler that runs where it may block, and how that place moves bytes and
/// waits.
///
/// Without an expiry the handler [holds](HeldExchange) its exchange until it returns. With one it
/// holds the exchange for one read or write at a time, so that another thread can take the exchange
/// back when the timeout of the handler has passed.
///
/// ```
/// use remuda_core::app::LeasedExchange;
/// use remuda_core::exchange::Exchange;
///
/// /// Bytes of the response that the peer has not taken. None if the lease has expired.
/// fn unsent(leased: &mut impl LeasedExchange) -> Option<usize> {
///     leased.with(|exchange| exchange.state().unsent)
/// }
/// ```
pub trait LeasedExchange {
    /// The exchange while it is held.
    type Exchange<'e>: Exchange;

    /// Does `work` on the exchange, at the present time. None if the lease has expired.
    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut Self::Exchange<'e>) -> R) -> Option<R>;

    /// Moves some bytes, or waits until some can be moved or a deadline passes.
    ///
    /// # Errors
    ///
    /// The exchange has ended, the lease has expired, or this place cannot wait (`WouldBlock`).
    fn advance(&mut self) -> io::Result<()>;

    /// Whether [`advance`](Self::advance) can wait.
    fn can_wait(&self) -> bool;

    /// Sends the bytes that fit into the kernel's buffer, of a response that is complete or has
    /// waited: the handler may run on for long without another call.
    fn push(&mut self);

    /// Asks the transport whether the peer has ended its side, and informs the exchange.
    fn look_for_end(&mut self);

    /// Asks the transport whether the peer is gone in both directions, and informs the exchange.
    fn look_for_reset(&mut self);
}

/// How the thread that runs a blocking handler moves the bytes of an HTTP/1 connection, and waits.
///
/// ```
/// use std::io;
///
/// use remuda_core::app::BlockingIo;
/// use remuda_core::conn::Connection;
/// use remuda_core::machine::Cx;
///
/// /// For handlers that never wait.
/// struct Never<'a>(Cx<'a>);
///
/// impl BlockingIo for Never<'_> {
///     fn cx(&mut self) -> Cx<'_> {
///         self.0
///     }
///
///     fn advance(&mut self, _: &mut Connection) -> io::Result<()> {
///         Err(io::ErrorKind::WouldBlock.into())
///     }
///
///     fn can_wait(&self) -> bool {
///         false
///     }
/// }
/// ```
pub trait BlockingIo {
    /// The present context.
    fn cx(&mut self) -> Cx<'_>;

    /// Moves some bytes of the connection, or waits until some can be moved or a deadline passes.
    ///
    /// # Errors
    ///
    /// The connection has ended, or this thread cannot wait (`WouldBlock`).
    fn advance(&mut self, connection: &mut Connection) -> io::Result<()>;

    /// Whether [`advance`](Self::advance) can wait.
    fn can_wait(&self) -> bool;

    /// As [`LeasedExchange::push`]. Default: does nothing, because a handler that cannot wait
    /// returns at once.
    fn push(&mut self, _: &mut Connection) {}

    /// Whether the transport reports that the peer has ended its side. Default: false, because a
    /// handler that cannot wait need not know.
    fn has_peer_ended(&self) -> bool {
        false
    }

    /// Whether the transport reports that the peer is gone in both directions. Default: false,
    /// because a handler that cannot wait returns before that would matter.
    fn is_gone(&self) -> bool {
        false
    }
}

/// A lease without expiry: an HTTP/1 connection that is held until its handler returns.
pub struct HeldExchange<'a, I: ?Sized> {
    connection: &'a mut Connection,
    io: &'a mut I,
}

impl<'a, I: BlockingIo + ?Sized> HeldExchange<'a, I> {
    /// Holds `connection`, whose bytes `io` moves.
    pub fn new(connection: &'a mut Connection, io: &'a mut I) -> Self {
        Self { connection, io }
    }
}

impl<I: BlockingIo + ?Sized> LeasedExchange for HeldExchange<'_, I> {
    type Exchange<'e> = Http1Exchange<'e>;

    #[inline]
    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut Http1Exchange<'e>) -> R) -> Option<R> {
        Some(work(&mut self.connection.exchange(&self.io.cx())))
    }

    fn advance(&mut self) -> io::Result<()> {
        self.io.advance(self.connection)
    }

    fn can_wait(&self) -> bool {
        self.io.can_wait()
    }

    fn push(&mut self) {
        self.io.push(self.connection);
    }

    fn look_for_end(&mut self) {
        if !self.connection.has_peer_ended() && self.io.has_peer_ended() {
            self.connection.note_peer_end();
        }
    }

    fn look_for_reset(&mut self) {
        if self.io.is_gone() {
            self.connection.end(CloseReason::TransportFailed);
        }
    }
}

/// The body of a request, as it arrives. A read of 0 bytes is its end. A body that the client did
/// not complete is an error, never a short success.
///
/// The first read sends a 100 to a client that waits for it (RFC 9110 §10.1.1).
///
/// ```
/// use std::io::Read;
///
/// use remuda_core::app::{AppError, BodyReader, Responder};
/// use remuda_core::http1::{Head, ResponseHead};
///
/// /// Answers with the number of bytes that the client sent.
/// fn count(_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
///     let (mut bytes, mut piece) = (0, [0; 4096]);
///     loop {
///         match body.read(&mut piece)? {
///             0 => break,
///             n => bytes += n,
///         }
///     }
///     Ok(out.send(ResponseHead::new(200), format!("{bytes} bytes\n"))?)
/// }
/// ```
pub struct BodyReader<'a> {
    exchange: &'a RefCell<dyn Operations + 'a>,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.exchange.borrow_mut().read(buffer)
    }
}

impl BodyReader<'_> {
    /// The trailer fields that the client has sent after a chunked body, without those that must
    /// not be trailers (RFC 9110 §6.5.1): once a read has returned the end, and then once. They are
    /// never among the fields of the head.
    pub fn trailers(&mut self) -> HeaderMap {
        self.exchange.borrow_mut().trailers()
    }
}

/// Answers a request, once.
///
/// ```
/// use std::io::Write;
///
/// use remuda_core::app::{AppError, BodyReader, Responder};
/// use remuda_core::http1::{Head, ResponseHead};
///
/// fn answer(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
///     match head.path() {
///         // The whole response at once, with its Content-Length.
///         "/" => out.send(ResponseHead::new(200), "Hello, World!\n")?,
///         // The head now, the body as it is written.
///         "/numbers" => {
///             let mut body = out.stream(ResponseHead::new(200))?;
///             for n in 0..1000 {
///                 writeln!(body, "{n}")?;
///             }
///         }
///         _ => out.send(ResponseHead::new(404), "")?,
///     }
///     Ok(())
/// }
/// ```
pub struct Responder<'a> {
    exchange: &'a RefCell<dyn Operations + 'a>,
}

impl<'a> Responder<'a> {
    /// Sends an interim response, such as 103 with `Link` fields (RFC 8297), at once. There may be
    /// any number before the final response. A client of HTTP/1.0 gets none. No client does unless
    /// the setting `interim-responses` is on: many clients take one for the final response.
    ///
    /// # Errors
    ///
    /// The head is invalid, its status is not one from 102 to 199 (100 is sent when the body is
    /// first read), or the connection has ended.
    pub fn interim(&self, head: &ResponseHead) -> io::Result<()> {
        let mut exchange = self.exchange.borrow_mut();
        exchange.interim(head)?;
        exchange.flush()
    }

    /// Sends the whole response, with its Content-Length, at once: a handler that runs on after it
    /// does not delay it. A rest that does not fit into the kernel's buffer (of a body of more than
    /// some 100 KiB that the client does not read as fast) follows when the handler returns. Large
    /// bodies are not copied. The unread rest of the request body is not read any more.
    ///
    /// A drain waits for the handler to return, up to its deadline.
    ///
    /// # Errors
    ///
    /// The head is invalid, or the connection has ended.
    pub fn send(self, head: ResponseHead, body: impl Into<Bytes>) -> io::Result<()> {
        self.exchange.borrow_mut().send(&head, body.into())
    }

    /// Sends the head now and the body as it is written: with the length of a Content-Length field,
    /// or chunked without one.
    ///
    /// # Errors
    ///
    /// The head is invalid, or the connection has ended.
    pub fn stream(self, head: ResponseHead) -> io::Result<BodyWriter<'a>> {
        self.exchange.borrow_mut().begin(&head)?;
        Ok(BodyWriter { exchange: self.exchange })
    }

    /// Answers 101 and takes the connection over (RFC 9110 §7.8). The head's Upgrade field names
    /// the protocol.
    ///
    /// # Errors
    ///
    /// The head is invalid or not a 101, the request has an unread body, or the connection has
    /// ended.
    pub fn upgrade(self, head: ResponseHead) -> io::Result<Upgraded<'a>> {
        self.exchange.borrow_mut().upgrade(&head)?;
        Ok(Upgraded {
            body: BodyReader { exchange: self.exchange },
            out: BodyWriter { exchange: self.exchange },
        })
    }

    /// Facts about the connection.
    pub fn connection(&self) -> ConnectionInfo {
        self.exchange.borrow().info()
    }

    /// Signals the drain of the worker, and that the timeout of this handler has passed.
    pub fn drain(&self) -> DrainSignal {
        self.exchange.borrow_mut().drain()
    }

    /// Whether the client does not wait for the response any more: it has reset the connection, or
    /// has closed both directions if that can be seen, or the connection has ended otherwise. For a
    /// handler that computes for long, to be called at intervals. One that reads or writes need not
    /// call it, because those calls fail then.
    ///
    /// A client that has only ended its sending side waits for its response, and TCP shows the same
    /// for one that has closed its socket: it answers the next bytes with a reset, and only then is
    /// this true. [`has_client_ended`](Self::has_client_ended) is true for both at once. If
    /// [`cancel_on_half_close`](crate::config::Limits::cancel_on_half_close) is set, so is this.
    pub fn is_gone(&self) -> bool {
        self.exchange.borrow_mut().is_gone()
    }

    /// Whether the client will send nothing more: it has ended its sending side, closed its socket,
    /// or is [gone](Self::is_gone) in another way. The response can still be sent, and may be read:
    /// on TCP a closed socket and one that only waits for the response look alike. The call costs a
    /// system call, so make it between pieces of work of a millisecond or more.
    ///
    /// ```
    /// use remuda_core::app::{AppError, BodyReader, Responder};
    /// use remuda_core::http1::{Head, ResponseHead};
    ///
    /// /// Adds up what takes long, while there is a client on the other side.
    /// fn sum(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    ///     let mut sum = 0_u64;
    ///     for piece in 0..1000 {
    ///         if out.has_client_ended() {
    ///             return Ok(out.send(ResponseHead::new(503), "you seem to have gone\n")?);
    ///         }
    ///         sum += piece; // in truth, a second of work
    ///     }
    ///     Ok(out.send(ResponseHead::new(200), format!("{sum}\n"))?)
    /// }
    /// ```
    pub fn has_client_ended(&self) -> bool {
        self.exchange.borrow_mut().has_client_ended()
    }
}

/// The body of a response. Written bytes are queued up to [`HIGH_WATER`]. `flush` waits until the
/// kernel has all of them. The body ends when the handler returns `Ok`.
///
/// Without `flush`, queued bytes are sent when they complete the response (by its Content-Length,
/// or by [`finish`](Self::finish)), when a write finds that they have waited for 20 ms, and when
/// the handler returns.
pub struct BodyWriter<'a> {
    exchange: &'a RefCell<dyn Operations + 'a>,
}

impl BodyWriter<'_> {
    /// Whether the client does not read the response any more, see [`Responder::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.exchange.borrow_mut().is_gone()
    }

    /// Whether the client will send nothing more, see [`Responder::has_client_ended`].
    pub fn has_client_ended(&self) -> bool {
        self.exchange.borrow_mut().has_client_ended()
    }

    /// Ends the body and sends the queued bytes at once. `trailers` follow it (RFC 9110 §6.5). They
    /// are sent if the response is chunked, and dropped for HTTP/1.0, for HEAD and with a
    /// Content-Length. Fields that must not be trailers are dropped too, such as those for framing,
    /// routing, authentication or the description of the content (§6.5.1). A `Trailer` field in the
    /// head announces them. A client that requires trailers sends `TE: trailers` (§10.1.4).
    pub fn finish(self, trailers: HeaderMap) {
        self.exchange.borrow_mut().end_with(&trailers);
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.exchange.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.exchange.borrow_mut().flush()
    }
}

/// A connection that the application has taken over: raw bytes in both directions, until the
/// handler returns.
///
/// A read of 0 bytes means that the client has ended its side. A read that waits when a drain
/// begins fails once with [`Interrupted`](io::ErrorKind::Interrupted), so that the handler can end
/// its protocol (D13). Further reads are allowed until the drain's deadline.
pub struct Upgraded<'a> {
    body: BodyReader<'a>,
    out: BodyWriter<'a>,
}

impl Read for Upgraded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

impl Write for Upgraded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Runs a handler for the request of `head` on the connection that `info` describes, and ends its
/// response in any case. Returns the time of that. None if the lease has expired: then everything
/// the handler did since is dropped.
pub(crate) fn answer(
    handler: &dyn Handler,
    head: &RequestHead,
    info: ConnectionInfo,
    service: &Service,
    lease: &mut impl LeasedExchange,
) -> Option<Time> {
    let handles = RefCell::new(Handles { lease, service, info, told: false, limit: None });
    let result = catch_unwind(AssertUnwindSafe(|| {
        handler.call(&head.view(), BodyReader { exchange: &handles }, Responder { exchange: &handles })
    }));
    let Handles { lease, limit, .. } = handles.into_inner();
    if let Err(panic) = &result {
        service.note_panic(&**panic);
    }
    let ended = lease.with(|exchange| {
        expire(exchange);
        end(result, head, exchange);
        let state = exchange.state();
        if !state.is_overdue {
            limit.iter().for_each(|limit| limit.lift());
        }
        state.now
    });
    if ended.is_none() {
        tracing::info!(request = ?head.view(), "handler beyond request-timeout has returned");
    }
    ended
}

/// Ends the response according to the handler's result.
fn end(result: thread::Result<Result<(), AppError>>, head: &RequestHead, exchange: &mut impl Exchange) {
    match result {
        Ok(Ok(())) if exchange.state().answer == Answer::Awaited => {
            tracing::error!(request = ?head.view(), "handler returned without a response");
            internal_error(exchange, false);
        }
        // The exchange remembers an error in the response.
        Ok(Ok(())) => drop(exchange.finish(None)),
        Ok(Err(error)) if passed_on(exchange) => {
            tracing::debug!(request = ?head.view(), "{error}");
        }
        Ok(Err(error)) => {
            tracing::error!(request = ?head.view(), "handler failed: {error}");
            internal_error(exchange, false);
        }
        Err(_) => internal_error(exchange, true),
    }
}

/// Ends the exchange of a handler that exceeded its timeout.
#[inline]
fn expire(exchange: &mut impl Exchange) {
    let state = exchange.state();
    if state.due.is_some_and(|due| due <= state.now) {
        exchange.abort(Abort::Overdue);
    }
}

/// The operations of the handler's handles, behind one cell, without the lifetimes inside.
trait Operations {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    fn trailers(&mut self) -> HeaderMap;
    fn interim(&mut self, head: &ResponseHead) -> io::Result<()>;
    fn send(&mut self, head: &ResponseHead, body: Bytes) -> io::Result<()>;
    fn begin(&mut self, head: &ResponseHead) -> io::Result<()>;
    fn upgrade(&mut self, head: &ResponseHead) -> io::Result<()>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn flush(&mut self) -> io::Result<()>;
    fn end_with(&mut self, trailers: &HeaderMap);
    fn info(&self) -> ConnectionInfo;
    fn drain(&mut self) -> DrainSignal;
    fn is_gone(&mut self) -> bool;
    fn has_client_ended(&mut self) -> bool;
}

struct Handles<'a, L> {
    lease: &'a mut L,
    service: &'a Service,
    info: ConnectionInfo,
    /// Whether the application that has taken the connection over was told of the drain.
    told: bool,
    /// Shows the handler that its timeout has passed, once it has asked for it.
    limit: Option<Arc<Limit>>,
}

impl<L: LeasedExchange> Handles<'_, L> {
    /// Does `work` on the exchange. A handler that exceeded its timeout gets that error, whatever
    /// the result of `work`.
    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut L::Exchange<'e>) -> io::Result<R>) -> io::Result<R> {
        let done = self.lease.with(|exchange| {
            expire(exchange);
            work(exchange).map_err(|error| if exchange.state().is_overdue { too_late() } else { error })
        });
        done.unwrap_or_else(|| Err(too_late()))
    }

    /// Waits until the exchange may continue.
    fn wait(&mut self) -> io::Result<()> {
        self.lease.advance().map_err(|error| match self.lease.with(|exchange| exchange.state().is_overdue) {
            Some(false) => error,
            Some(true) | None => too_late(),
        })
    }

    /// The state of the exchange. None if the lease has expired.
    fn state(&mut self) -> Option<ExchangeState> {
        self.lease.with(|exchange| exchange.state())
    }
}

impl<L: LeasedExchange> Operations for Handles<'_, L> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let told = self.told;
            let read = self.with(|exchange| match exchange.read_body(buffer) {
                BodyRead::Data(n) => Ok(Some(n)),
                BodyRead::End => Ok(Some(0)),
                BodyRead::NeedInput => {
                    let state = exchange.state();
                    // The application that has taken the connection over learns of a drain (D13).
                    if !told && state.upgrade == Upgrade::Done && state.is_draining {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    Ok(None)
                }
                BodyRead::Aborted(error) => Err(body_error(error)),
            });
            match read {
                Ok(Some(n)) => return Ok(n),
                Ok(None) => self.wait()?,
                Err(error) => {
                    self.told |= error.kind() == io::ErrorKind::Interrupted;
                    return Err(error);
                }
            }
        }
    }

    fn trailers(&mut self) -> HeaderMap {
        self.lease.with(|exchange| exchange.trailers()).unwrap_or_default()
    }

    fn interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        while self.with(|exchange| Ok(exchange.state().unsent))? >= HIGH_WATER {
            self.wait()?;
        }
        self.with(|exchange| exchange.interim(head).map_err(respond_error))
    }

    fn send(&mut self, head: &ResponseHead, body: Bytes) -> io::Result<()> {
        self.with(|exchange| {
            exchange.discard_body();
            exchange.respond(head, BodyLen::Exact(body.len() as u64)).map_err(respond_error)?;
            exchange.write_shared(body).map_err(respond_error)
        })?;
        self.lease.push();
        Ok(())
    }

    fn begin(&mut self, head: &ResponseHead) -> io::Result<()> {
        let len = head.content_length().map_or(BodyLen::Unknown, BodyLen::Exact);
        self.with(|exchange| exchange.respond(head, len).map_err(respond_error))?;
        self.lease.push();
        Ok(())
    }

    fn upgrade(&mut self, head: &ResponseHead) -> io::Result<()> {
        self.with(|exchange| exchange.upgrade(head).map_err(respond_error))?;
        self.limit.iter().for_each(|limit| limit.lift());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let n = self.with(|exchange| exchange.write(bytes).map_err(respond_error))?;
            if n > 0 || bytes.is_empty() {
                self.lease.push();
                return Ok(n);
            }
            self.wait()?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.with(|exchange| Ok(exchange.state().unsent))? > 0 && self.lease.can_wait() {
            self.wait()?;
        }
        Ok(())
    }

    fn end_with(&mut self, trailers: &HeaderMap) {
        // The end of the exchange finds an error as well.
        if self.with(|exchange| exchange.finish(Some(trailers)).map_err(respond_error)).is_ok() {
            self.lease.push();
        }
    }

    fn info(&self) -> ConnectionInfo {
        self.info
    }

    fn drain(&mut self) -> DrainSignal {
        let signal = self.service.drain.clone();
        if self.limit.is_none() {
            let due = self.state().and_then(|state| state.due);
            self.limit = due.map(|at| Arc::new(Limit::new(at)));
        }
        match &self.limit {
            Some(limit) => signal.until(limit.clone()),
            None => signal,
        }
    }

    fn is_gone(&mut self) -> bool {
        self.lease.look_for_reset();
        let Some(state) = self.state() else { return true };
        if state.answer == Answer::Over || !state.cancels_on_end {
            return state.answer == Answer::Over;
        }
        self.lease.look_for_end();
        let is_cancelled = self.lease.with(|exchange| {
            let is_cancelled = exchange.state().has_peer_ended;
            if is_cancelled {
                exchange.abort(Abort::Peer);
            }
            is_cancelled
        });
        is_cancelled.unwrap_or(true)
    }

    fn has_client_ended(&mut self) -> bool {
        self.lease.look_for_end();
        self.state().is_none_or(|state| state.has_peer_ended)
    }
}

/// The error of a handler that exceeded its timeout.
fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the handler exceeded request-timeout")
}

fn body_error(error: BodyError) -> io::Error {
    let kind = match error {
        BodyError::Truncated => io::ErrorKind::UnexpectedEof,
        BodyError::TimedOut => io::ErrorKind::TimedOut,
        BodyError::Closed => io::ErrorKind::ConnectionAborted,
        BodyError::Chunked(_) | BodyError::TooLarge { .. } => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

fn respond_error(error: RespondError) -> io::Error {
    let kind = match error {
        RespondError::Closed => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, error)
}

/// The place of a handler that runs inside a step: it must not wait.
#[derive(Debug)]
pub(crate) struct Inline<'a>(pub(crate) Cx<'a>);

impl BlockingIo for Inline<'_> {
    fn cx(&mut self) -> Cx<'_> {
        self.0
    }

    fn advance(&mut self, _: &mut Connection) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "a handler declared short wrote more than fits without waiting",
        ))
    }

    fn can_wait(&self) -> bool {
        false
    }
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque_debug!(BodyReader, Responder, BodyWriter, Upgraded);

impl<I: ?Sized> fmt::Debug for HeldExchange<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldExchange").field("connection", &self.connection).finish_non_exhaustive()
    }
}
