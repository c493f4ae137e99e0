//! Blocking applications: `Read` and `Write` over a connection that somebody else moves bytes for.
//!
//! The handler borrows the connection through one cell, for its body and its response at once. Each read or
//! write asks the connection first; only when that cannot go on is the [`Turn`] asked to move bytes or to wait. Between
//! them the connection lies in its [`Place`], where somebody else may take it away.

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
use crate::conn::{BodyRead, Connection, RespondError};
use crate::http1::{BodyError, BodyLen, RequestHead, ResponseHead};
use crate::machine::{CloseReason, Cx};
use crate::shutdown::ConnState;
use crate::time::Time;

/// How the thread that runs a blocking handler moves bytes and waits.
pub trait Turn {
    /// What is known of the world now.
    fn cx(&mut self) -> Cx<'_>;

    /// Moves some bytes of the connection, or waits until some can be moved or a deadline passes.
    ///
    /// # Errors
    ///
    /// The connection has ended, or this turn cannot wait (`WouldBlock`).
    fn advance(&mut self, connection: &mut Connection) -> io::Result<()>;

    /// Whether [`advance`](Self::advance) can wait.
    fn can_wait(&self) -> bool;

    /// Whether the transport says that the peer is gone in both directions. A turn that cannot wait is over before that
    /// would matter.
    fn is_gone(&self) -> bool {
        false
    }
}

/// The body of a request, as it arrives. A read of 0 bytes is its end; a body that the client did not complete is an
/// error, never a short success.
///
/// The first read asks a client that waits for it to go on (100, RFC 9110 §10.1.1).
pub struct BodyReader<'a> {
    exchange: &'a RefCell<dyn Operations + 'a>,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.exchange.borrow_mut().read(buffer)
    }
}

impl BodyReader<'_> {
    /// The trailer fields that the client has sent behind a chunked body, without those that must not be there (RFC 9110
    /// §6.5.1): once a read has given the end, and then once. They are never among the fields of the head.
    pub fn trailers(&mut self) -> HeaderMap {
        self.exchange.borrow_mut().trailers()
    }
}

/// Answers a request, once.
pub struct Responder<'a> {
    exchange: &'a RefCell<dyn Operations + 'a>,
}

impl<'a> Responder<'a> {
    /// Sends an interim response, such as 103 with `Link` fields (RFC 8297), at once. There may be any number before the
    /// answer. A client of HTTP/1.0 knows none and is sent nothing.
    ///
    /// # Errors
    ///
    /// The head is invalid, its status is not one from 102 to 199 (100 is sent when the body is first read), or the connection
    /// has ended.
    pub fn interim(&self, head: &ResponseHead) -> io::Result<()> {
        let mut exchange = self.exchange.borrow_mut();
        exchange.interim(head)?;
        exchange.flush()
    }

    /// Sends the whole response, with its Content-Length. Large bodies are not copied. What has not been read of
    /// the request body by now is not read any more.
    ///
    /// # Errors
    ///
    /// The head is invalid, or the connection has ended.
    pub fn send(self, head: ResponseHead, body: impl Into<Bytes>) -> io::Result<()> {
        self.exchange.borrow_mut().send(&head, body.into())
    }

    /// Sends the head now and the body as it is written: with the length that a Content-Length field gives, or
    /// chunked without one.
    ///
    /// # Errors
    ///
    /// The head is invalid, or the connection has ended.
    pub fn stream(self, head: ResponseHead) -> io::Result<BodyWriter<'a>> {
        self.exchange.borrow_mut().begin(&head)?;
        Ok(BodyWriter { exchange: self.exchange })
    }

    /// Answers 101 and takes the connection over (RFC 9110 §7.8). The head's Upgrade field names the protocol.
    ///
    /// # Errors
    ///
    /// The head is invalid or not a 101, the request has a body that was not read, or the connection has ended.
    pub fn upgrade(self, head: ResponseHead) -> io::Result<Upgraded<'a>> {
        self.exchange.borrow_mut().upgrade(&head)?;
        Ok(Upgraded {
            body: BodyReader { exchange: self.exchange },
            out: BodyWriter { exchange: self.exchange },
        })
    }

    /// What is known of the connection.
    pub fn connection(&self) -> ConnectionInfo {
        self.exchange.borrow().info()
    }

    /// Tells when the worker drains, or this handler has had its time.
    pub fn drain(&self) -> DrainSignal {
        self.exchange.borrow_mut().drain()
    }

    /// Whether nobody waits for the answer any more: the client has reset the connection, or has closed the whole of its end
    /// where that can be seen, or the connection has ended otherwise. What a handler asks now and then that computes for
    /// long; one that reads or writes need not, for that fails then.
    ///
    /// A client that has merely ended its sending side waits for its answer, and TCP says the same of one that has
    /// closed its socket: it answers what is sent to it with a reset, which is when this becomes true.
    pub fn is_gone(&self) -> bool {
        self.exchange.borrow_mut().is_gone()
    }
}

/// The body of a response. What is written is queued up to [`HIGH_WATER`]; `flush` waits
/// until the kernel has all of it. The body ends when the handler returns `Ok`.
pub struct BodyWriter<'a> {
    exchange: &'a RefCell<dyn Operations + 'a>,
}

impl BodyWriter<'_> {
    /// Whether nobody reads the response any more, as [`Responder::is_gone`] says it.
    pub fn is_gone(&self) -> bool {
        self.exchange.borrow_mut().is_gone()
    }

    /// Writes nothing more, and has `trailers` follow the body (RFC 9110 §6.5). They are sent where the response is chunked, and
    /// dropped for HTTP/1.0, for HEAD and where there is a Content-Length; so are fields that must not be trailers,
    /// such as those that frame, route, authenticate or describe the content (§6.5.1). A `Trailer` field in the head
    /// announces them. A client that will not lose them on the way says `TE: trailers` (§10.1.4).
    pub fn finish(self, trailers: HeaderMap) {
        self.exchange.borrow_mut().end_with(trailers);
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

/// A connection that the application has taken over: raw bytes both ways, ended when the handler returns.
///
/// A read of 0 bytes means that the client has ended its side. A read that waits when a drain begins fails once with
/// [`Interrupted`](io::ErrorKind::Interrupted), so that the handler can say goodbye (D13); reading on is allowed until
/// the drain's deadline.
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

/// Where a handler that runs finds its connection, and how it moves bytes and waits.
pub trait Place {
    /// Does `work` on the connection; none if that was taken away, because the handler has had its time.
    fn with<R>(&mut self, work: impl FnOnce(&mut Connection, &mut dyn Turn) -> R) -> Option<R>;
}

/// A connection that nobody takes away.
pub(crate) struct Unshared<'a>(pub(crate) &'a mut Connection, pub(crate) &'a mut dyn Turn);

impl Place for Unshared<'_> {
    fn with<R>(&mut self, work: impl FnOnce(&mut Connection, &mut dyn Turn) -> R) -> Option<R> {
        Some(work(self.0, self.1))
    }
}

/// Lets a handler answer the request that `head` began, and ends the exchange whatever the handler did. Gives the time of
/// that; none if the connection was taken away, and all that the handler did since is thrown away.
pub(crate) fn answer(
    handler: &dyn Handler,
    head: &RequestHead,
    service: &Service,
    place: &mut impl Place,
) -> Option<Time> {
    let info = place.with(|connection, _| connection.info())?;
    let exchange =
        RefCell::new(Exchange { place, service, info, told: false, limit: None, trailers: HeaderMap::new() });
    let result = catch_unwind(AssertUnwindSafe(|| {
        handler.call(&head.view(), BodyReader { exchange: &exchange }, Responder { exchange: &exchange })
    }));
    let Exchange { place, limit, trailers, .. } = exchange.into_inner();
    if let Err(panic) = &result {
        service.note_panic(&**panic);
    }
    let ended = place.with(|connection, turn| {
        let cx = turn.cx();
        connection.expire(&cx);
        end(result, head, connection, &trailers, &cx);
        if connection.overdue().is_none() {
            limit.iter().for_each(|limit| limit.lift());
        }
        cx.now
    });
    if ended.is_none() {
        tracing::info!(request = ?head.view(), "a handler that had taken too long has returned");
    }
    ended
}

/// Ends an exchange as its handler has.
fn end(
    result: thread::Result<Result<(), AppError>>,
    head: &RequestHead,
    connection: &mut Connection,
    trailers: &HeaderMap,
    cx: &Cx<'_>,
) {
    match result {
        Ok(Ok(())) if connection.awaits_response() => {
            tracing::error!(request = ?head.view(), "the handler returned without answering");
            internal_error(connection, false, cx);
        }
        // What may be wrong with that, the connection remembers.
        Ok(Ok(())) => drop(connection.finish_with(trailers, cx.now)),
        Ok(Err(error)) if passed_on(connection, cx) => {
            tracing::debug!(request = ?head.view(), "{error}");
        }
        Ok(Err(error)) => {
            tracing::error!(request = ?head.view(), "the handler failed: {error}");
            internal_error(connection, false, cx);
        }
        Err(_) => internal_error(connection, true, cx),
    }
}

/// What handles do, behind one cell, whatever the lifetimes inside.
trait Operations {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    fn trailers(&mut self) -> HeaderMap;
    fn interim(&mut self, head: &ResponseHead) -> io::Result<()>;
    fn send(&mut self, head: &ResponseHead, body: Bytes) -> io::Result<()>;
    fn begin(&mut self, head: &ResponseHead) -> io::Result<()>;
    fn upgrade(&mut self, head: &ResponseHead) -> io::Result<()>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn flush(&mut self) -> io::Result<()>;
    fn end_with(&mut self, trailers: HeaderMap);
    fn info(&self) -> ConnectionInfo;
    fn drain(&mut self) -> DrainSignal;
    fn is_gone(&mut self) -> bool;
}

struct Exchange<'a, P> {
    place: &'a mut P,
    service: &'a Service,
    info: ConnectionInfo,
    /// The application that has taken the connection over has been told of the drain.
    told: bool,
    /// What tells the handler that it has had its time, once it has asked for that.
    limit: Option<Arc<Limit>>,
    /// What follows the response's body.
    trailers: HeaderMap,
}

impl<P: Place> Exchange<'_, P> {
    /// Does `work` on the connection. A handler that has had its time is told so, whatever came of it.
    fn with<R>(
        &mut self,
        work: impl FnOnce(&mut Connection, &mut dyn Turn) -> io::Result<R>,
    ) -> io::Result<R> {
        let done = self.place.with(|connection, turn| {
            if connection.due().is_some() {
                connection.expire(&turn.cx());
            }
            work(connection, turn).map_err(|error| match connection.overdue() {
                Some(_) => too_late(),
                None => error,
            })
        });
        done.unwrap_or_else(|| Err(too_late()))
    }
}

impl<P: Place> Operations for Exchange<'_, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut told = self.told;
        let read = self.with(|connection, turn| {
            loop {
                match connection.read_body(buffer, &turn.cx()) {
                    BodyRead::Data(n) => return Ok(n),
                    BodyRead::End => return Ok(0),
                    // The application that has taken the connection over learns of a drain.
                    BodyRead::NeedInput
                        if !told
                            && connection.state() == ConnState::Upgraded
                            && turn.cx().drain.is_some() =>
                    {
                        told = true;
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    BodyRead::NeedInput => turn.advance(connection)?,
                    BodyRead::Aborted(error) => return Err(body_error(error)),
                }
            }
        });
        self.told = told;
        read
    }

    fn trailers(&mut self) -> HeaderMap {
        self.place.with(|connection, _| connection.take_trailers()).unwrap_or_default()
    }

    fn interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        self.with(|connection, turn| {
            while connection.unsent() >= HIGH_WATER {
                turn.advance(connection)?;
            }
            connection.interim(head, &turn.cx()).map_err(respond_error)
        })
    }

    fn send(&mut self, head: &ResponseHead, body: Bytes) -> io::Result<()> {
        self.with(|connection, turn| {
            let cx = turn.cx();
            connection.discard_body();
            connection.respond(head, BodyLen::Exact(body.len() as u64), &cx).map_err(respond_error)?;
            connection.write_shared(body, cx.now).map_err(respond_error)
        })
    }

    fn begin(&mut self, head: &ResponseHead) -> io::Result<()> {
        let len = head.content_length().map_or(BodyLen::Unknown, BodyLen::Exact);
        self.with(|connection, turn| connection.respond(head, len, &turn.cx()).map_err(respond_error))
    }

    fn upgrade(&mut self, head: &ResponseHead) -> io::Result<()> {
        self.with(|connection, turn| connection.upgrade(head, &turn.cx()).map_err(respond_error))?;
        self.limit.iter().for_each(|limit| limit.lift());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|connection, turn| {
            loop {
                let now = turn.cx().now;
                let n = connection.write(bytes, now).map_err(respond_error)?;
                if n > 0 || bytes.is_empty() {
                    return Ok(n);
                }
                turn.advance(connection)?;
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(|connection, turn| {
            while turn.can_wait() && connection.unsent() > 0 {
                turn.advance(connection)?;
            }
            Ok(())
        })
    }

    fn end_with(&mut self, trailers: HeaderMap) {
        self.trailers = trailers;
    }

    fn info(&self) -> ConnectionInfo {
        self.info
    }

    fn drain(&mut self) -> DrainSignal {
        let signal = self.service.drain.clone();
        if self.limit.is_none() {
            let due = self.place.with(|connection, _| connection.due()).flatten();
            self.limit = due.map(|at| Arc::new(Limit::new(at)));
        }
        match &self.limit {
            Some(limit) => signal.until(limit.clone()),
            None => signal,
        }
    }

    fn is_gone(&mut self) -> bool {
        let is_gone = self.place.with(|connection, turn| {
            if turn.is_gone() {
                connection.end(CloseReason::TransportFailed);
            }
            connection.is_ending()
        });
        is_gone.unwrap_or(true)
    }
}

/// What a handler meets that has had its time.
fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the handler has taken longer than request-timeout allows")
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

/// The turn of a handler that runs inline: it must not wait.
#[derive(Debug)]
pub(crate) struct Inline<'a>(pub(crate) Cx<'a>);

impl Turn for Inline<'_> {
    fn cx(&mut self) -> Cx<'_> {
        self.0
    }

    fn advance(&mut self, _: &mut Connection) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "a handler that said it was short wrote more than fits without waiting",
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
