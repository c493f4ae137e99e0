//! Async applications: a future polled inside the step, and bodies as streams of frames.
//!
//! The future is made, polled and dropped on the thread of its connection, so it need not be `Send`; the request
//! and its body are, because frameworks ask for that. The body travels through a pipe of one piece: nothing is read
//! from the client before the application asks.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use self::incoming::Pipe;
pub use self::incoming::{Incoming, RequestInfo};
use self::interim::Interim;
use super::{AppError, Service, internal_error, passed_on};
use crate::config::HIGH_WATER;
use crate::conn::{BodyRead, Connection};
use crate::http1::{BodyError, BodyLen, Refusal, RequestHead, ResponseHead, Version};
use crate::machine::{CloseReason, Cx};

mod incoming;
mod interim;

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// An async application.
///
/// 1. The future of `call` is polled on one thread and may hold what is not `Send` across its awaits. It is polled
///    when it has been woken, and besides whenever its connection has a turn for another reason.
/// 2. It is dropped, wherever it is, when its client has gone, when it has taken longer than
///    [`request_timeout`](crate::config::Limits::request_timeout), unless it has changed the protocol, or when the drain's
///    deadline has passed (D10); before its response has begun, that client is told 503.
/// 3. A panic is answered with 500 and ends the connection.
/// 4. The drain, and what is known of the connection, come with the request's body: [`Incoming::info`].
#[async_trait(?Send)]
pub trait AsyncHandler: Send + Sync + 'static {
    /// Answers one request.
    async fn call(&self, request: Request<Incoming>) -> Response<Body>;
}

/// What the machine calls: an async application without the lifetime of a borrow. One that passes the request on without
/// its body, as tower services do, puts [`Incoming::info`] into the extensions first.
pub trait Call: Send + Sync + 'static {
    /// Begins to answer a request.
    fn call(self: Arc<Self>, request: Request<Incoming>) -> LocalFuture<Response<Body>>;
}

impl<H: AsyncHandler> Call for H {
    fn call(self: Arc<Self>, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(async move { AsyncHandler::call(&*self, request).await })
    }
}

/// The fields of a request in the order they were sent, in which equal names need not stand together.
pub fn fields<B>(request: &Request<B>) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let fields = request.headers();
    let order: Vec<_> = match request.extensions().get::<Order>() {
        Some(order) => order.0.iter().filter(|name| fields.contains_key(*name)).collect(),
        None => fields.keys().collect(),
    };
    let mut values = HashMap::new();
    order.into_iter().filter_map(move |name| {
        let next = values.entry(name).or_insert_with(|| fields.get_all(name).iter()).next();
        next.map(|value| (name, value))
    })
}

/// The names of all fields of a request that repeats one. Any other's stand in [`HeaderMap`] as they were sent.
#[derive(Clone)]
struct Order(Vec<HeaderName>);

/// The body of a response.
#[derive(Default)]
pub struct Body {
    kind: BodyKind,
}

#[derive(Default)]
enum BodyKind {
    #[default]
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = AppError>>>),
}

impl Body {
    /// No content.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body that is produced as it is sent. An error ends the connection without a proper end of the body.
    ///
    /// Trailer fields end it. They are sent where the response is chunked, which one with a `Trailer` field is rather than have
    /// the length that its body tells, and dropped for HTTP/1.0, for HEAD and where there is a Content-Length; so are
    /// fields that must not be trailers (RFC 9110 §6.5.1). A client that will not lose them on the way says `TE: trailers`
    /// (§10.1.4).
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<AppError>,
    {
        Self { kind: BodyKind::Stream(Box::pin(body.map_err(Into::into))) }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self { kind: BodyKind::Full(bytes.into()) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = AppError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AppError>>> {
        match &mut self.kind {
            BodyKind::Stream(body) => body.as_mut().poll_frame(cx),
            kind => match mem::take(kind) {
                BodyKind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Empty => true,
            BodyKind::Full(_) => false,
            BodyKind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Empty => SizeHint::with_exact(0),
            BodyKind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodyKind::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size", &self.size_hint()).finish()
    }
}

/// Storage that goes from one exchange of a connection to the next.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    /// The heads of requests, for as long as applications keep parts of them.
    room: BytesMut,
    /// The fields of the last response, for the next request.
    fields: HeaderMap,
    /// The encoded fields of the last response, for the next.
    head: Vec<u8>,
    /// What the last application may have sent before its response, for the next unless that still has it.
    interim: Arc<Interim>,
}

/// One exchange with an async application.
pub(crate) struct Exchange {
    stage: Stage,
    interim: Arc<Interim>,
    pipe: Option<Arc<Pipe>>,
    /// The pipe in its place once the protocol has changed, while that may still happen.
    upgrade: Option<Arc<Pipe>>,
}

enum Stage {
    Calling(LocalFuture<Response<Body>>),
    Sending(Body),
}

enum Polled {
    Head(response::Parts, BodyLen),
    Frame(Option<Result<Frame<Bytes>, AppError>>),
}

impl Exchange {
    /// Begins to answer the request that `head` began.
    ///
    /// # Errors
    ///
    /// It is none that [`http::Request`] can say.
    pub(crate) fn begin(
        call: &Arc<dyn Call>,
        head: &RequestHead,
        connection: &Connection,
        service: &Service,
        storage: &mut Storage,
        cx: &Cx<'_>,
    ) -> Result<Self, Refusal> {
        let pipe = connection.expects_body().then(|| Arc::new(Pipe::new(connection.body_len())));
        let polling = pipe.as_deref().map(|pipe| pipe.polling(cx.waker));
        let bytes = head.copy_into(&mut storage.room);
        let upgrade = connection.offers_upgrade().then(|| Arc::new(Pipe::new(None)));
        let interim = storage.interim();
        let info = RequestInfo {
            drain: service.drain.clone(),
            connection: connection.info(),
            client: head.client,
            forwarded_host: head.forwarded_host_range().map(|host| bytes.slice(host)),
            interim: interim.clone(),
            upgrade: upgrade.clone(),
        };
        let mut request = Request::new(Incoming::new(pipe.clone(), info));
        tell(&mut request, head, &bytes, storage)?;
        let call = call.clone();
        // The application may panic before there is a future.
        let future: LocalFuture<Response<Body>> = match catch_unwind(AssertUnwindSafe(|| call.call(request)))
        {
            Ok(future) => future,
            Err(panic) => Box::pin(async move { std::panic::resume_unwind(panic) }),
        };
        drop(polling);
        Ok(Self { stage: Stage::Calling(future), interim, pipe, upgrade })
    }

    /// Goes on as far as possible without waiting; `true` once the exchange is over.
    pub(crate) fn poll(
        &mut self,
        connection: &mut Connection,
        service: &Service,
        storage: &mut Storage,
        cx: &Cx<'_>,
    ) -> bool {
        self.feed(connection, cx);
        while !connection.is_ending() {
            match self.poll_once(connection, service, storage, cx) {
                Poll::Ready(true) => return true,
                Poll::Ready(false) => {}
                // What the application has just asked for may be here already.
                Poll::Pending if self.feed(connection, cx) => {}
                Poll::Pending => {
                    if connection.unsent() < HIGH_WATER {
                        self.send_interim(connection, cx);
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Queues what the application has sent before its response.
    fn send_interim(&self, connection: &mut Connection, cx: &Cx<'_>) {
        if let Some(heads) = self.interim.take() {
            connection.queue_interim(&heads, cx.now);
        }
    }

    /// Polls what the exchange waits for; ready with whether it is over.
    fn poll_once(
        &mut self,
        connection: &mut Connection,
        service: &Service,
        storage: &mut Storage,
        cx: &Cx<'_>,
    ) -> Poll<bool> {
        let mut context = Context::from_waker(cx.waker);
        let polling = self.pipe.as_deref().map(|pipe| pipe.polling(cx.waker));
        // A size hint and the destructor of the future are the application's code as well.
        let result = catch_unwind(AssertUnwindSafe(|| match &mut self.stage {
            Stage::Calling(future) => future.as_mut().poll(&mut context).map(|response| {
                let (parts, body) = response.into_parts();
                let len = body.size_hint().exact().map_or(BodyLen::Unknown, BodyLen::Exact);
                self.stage = Stage::Sending(body);
                Polled::Head(parts, len)
            }),
            Stage::Sending(_) if connection.unsent() >= HIGH_WATER => Poll::Pending,
            Stage::Sending(body) => Pin::new(body).poll_frame(&mut context).map(Polled::Frame),
        }));
        drop(polling);
        match result {
            Ok(Poll::Pending) => {
                if let Stage::Calling(_) = self.stage {
                    self.interim.wait(cx.waker);
                }
                Poll::Pending
            }
            Ok(Poll::Ready(Polled::Frame(frame))) => Poll::Ready(send(connection, frame, cx)),
            Ok(Poll::Ready(Polled::Head(parts, len))) => {
                // A handler that has returned has dropped what it did not keep for the response.
                self.is_abandoned(connection);
                self.interim.close();
                self.send_interim(connection, cx);
                let upgrade = self.settle_upgrade(parts.status == StatusCode::SWITCHING_PROTOCOLS);
                let over = respond(connection, parts, len, upgrade, storage, cx)
                    || self.send_at_once(connection, cx);
                Poll::Ready(over)
            }
            Err(panic) => {
                service.panicked(connection, &*panic, cx);
                Poll::Ready(true)
            }
        }
    }

    /// Whether the protocol changes with the response whose status is known by now. If it does, what follows the request
    /// is read from here on; otherwise there is nothing to wait for.
    fn settle_upgrade(&mut self, switching: bool) -> bool {
        let Some(upgrade) = self.upgrade.take() else { return false };
        if switching {
            self.pipe = Some(upgrade);
        } else {
            upgrade.close();
        }
        switching
    }

    /// Sends a body that is here already; `false` if there is more to wait for.
    fn send_at_once(&mut self, connection: &mut Connection, cx: &Cx<'_>) -> bool {
        let Stage::Sending(body) = &mut self.stage else { return false };
        match mem::take(&mut body.kind) {
            BodyKind::Empty => send(connection, None, cx),
            BodyKind::Full(bytes) => {
                send(connection, Some(Ok(Frame::data(bytes))), cx) || send(connection, None, cx)
            }
            stream => {
                body.kind = stream;
                false
            }
        }
    }

    /// Passes on what has arrived of the request body, if the application wants it; whether anything was passed.
    fn feed(&self, connection: &mut Connection, cx: &Cx<'_>) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        if self.is_abandoned(connection) || !pipe.is_wanted() {
            return false;
        }
        let mut piece = [0; PIECE];
        match connection.read_body(&mut piece, cx) {
            BodyRead::Data(n) => {
                let last = (!connection.expects_body()).then(|| connection.take_trailers());
                pipe.give(Bytes::copy_from_slice(&piece[..n]), last);
            }
            BodyRead::End => pipe.end(Ok(connection.take_trailers())),
            BodyRead::Aborted(error) => pipe.end(Err(error)),
            BodyRead::NeedInput => return false,
        }
        true
    }

    /// Whether nobody will read the rest of the request body; the connection is told.
    fn is_abandoned(&self, connection: &mut Connection) -> bool {
        let abandoned = self.pipe.as_ref().is_some_and(|pipe| pipe.is_abandoned());
        if abandoned {
            connection.discard_body();
        }
        abandoned
    }
}

/// Bytes that a piece of a request body has at most.
const PIECE: usize = 16 * 1024;

impl Drop for Exchange {
    fn drop(&mut self) {
        self.interim.close();
        // First, so that a reader that is dropped with the rest wakes nobody.
        for pipe in [&self.pipe, &self.upgrade].into_iter().flatten() {
            pipe.close();
        }
        let stage = mem::replace(&mut self.stage, Stage::Sending(Body::empty()));
        // A destructor that panics costs its own exchange and not the worker.
        if catch_unwind(AssertUnwindSafe(|| drop(stage))).is_err() {
            tracing::error!("a handler panicked while it was dropped");
        }
    }
}

impl Storage {
    /// A place for interim responses that no other exchange has to do with.
    fn interim(&mut self) -> Arc<Interim> {
        match Arc::get_mut(&mut self.interim) {
            Some(former) => *former = Interim::default(),
            None => self.interim = Arc::default(),
        }
        self.interim.clone()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            Stage::Calling(_) => "Calling",
            Stage::Sending(_) => "Sending",
        })
    }
}

/// Begins the response; `true` if it is over with that, because it has no content or has failed.
///
/// A peer whose body was at fault is told so, whatever the application made of that.
fn respond(
    connection: &mut Connection,
    mut parts: response::Parts,
    mut len: BodyLen,
    upgrade: bool,
    storage: &mut Storage,
    cx: &Cx<'_>,
) -> bool {
    if let Some(refusal) = connection.body_fault().and_then(BodyError::refusal) {
        connection.refuse(refusal, cx);
        return true;
    }
    let mut head = ResponseHead::within(parts.status, mem::take(&mut storage.head));
    for (name, value) in &parts.headers {
        head.push_valid(name.as_str(), value.as_bytes());
    }
    if head.announces_trailers() && connection.sends_trailers() {
        len = BodyLen::Unknown;
    }
    parts.headers.clear();
    storage.fields = parts.headers;
    let responded = if upgrade { connection.upgrade(&head, cx) } else { connection.respond(&head, len, cx) };
    storage.head = head.into_storage();
    match responded {
        // A body that nobody will see is not made: it may be without end.
        Ok(()) if connection.swallows_body() => send(connection, None, cx),
        Ok(()) => false,
        // The peer's fault, which it has been told.
        Err(_) if connection.is_ending() => true,
        Err(error) => {
            tracing::error!("the application's response cannot be sent: {error}");
            internal_error(connection, false, cx);
            true
        }
    }
}

/// Queues a frame of the response body; `true` once the response is over.
fn send(connection: &mut Connection, frame: Option<Result<Frame<Bytes>, AppError>>, cx: &Cx<'_>) -> bool {
    let result = match frame {
        Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => connection.write_shared(data, cx.now).map(|()| false),
            Err(Ok(trailers)) => connection.finish_with(&trailers, cx.now).map(|()| true),
            // A frame of a kind that HTTP/1.1 does not have.
            Err(Err(_)) => Ok(false),
        },
        None => connection.finish(cx.now).map(|()| true),
        Some(Err(error)) if passed_on(connection, cx) => {
            tracing::debug!("the response body failed: {error}");
            return true;
        }
        Some(Err(error)) => {
            tracing::error!("the response body failed: {error}");
            connection.abort(CloseReason::ApplicationFailed);
            return true;
        }
    };
    // What is wrong with its length, the connection remembers.
    result.unwrap_or_else(|_| {
        connection.abort(CloseReason::ApplicationFailed);
        true
    })
}

/// Tells `request` what is in the head, or why that cannot be told. All of it shares `bytes`, one copy of the head.
fn tell(
    request: &mut Request<Incoming>,
    head: &RequestHead,
    bytes: &Bytes,
    storage: &mut Storage,
) -> Result<(), Refusal> {
    let mut fields = mem::take(&mut storage.fields);
    fields.reserve(head.field_count());
    let named = |name| HeaderName::from_bytes(&bytes[name]).map_err(|_| Refusal::BadField);
    let mut repeats = false;
    for (name, value) in head.field_ranges() {
        let value = HeaderValue::from_maybe_shared(bytes.slice(value)).map_err(|_| Refusal::BadField)?;
        repeats |= fields.try_append(named(name)?, value).map_err(|_| Refusal::FieldsTooLarge)?;
    }
    if repeats {
        let order: Result<_, _> = head.field_ranges().map(|(name, _)| named(name)).collect();
        request.extensions_mut().insert(Order(order?));
    }
    *request.method_mut() =
        Method::from_bytes(&bytes[head.method_range()]).map_err(|_| Refusal::BadRequestLine)?;
    *request.uri_mut() = target(bytes.slice(head.target_range()))?;
    *request.version_mut() = match head.version() {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    *request.headers_mut() = fields;
    Ok(())
}

/// A target longer than this is none for [`Uri`].
const LONGEST_TARGET: usize = u16::MAX as usize - 1;

fn target(bytes: Bytes) -> Result<Uri, Refusal> {
    let too_long = bytes.len() > LONGEST_TARGET;
    Uri::from_maybe_shared(bytes)
        .map_err(|_| if too_long { Refusal::UriTooLong } else { Refusal::BadRequestLine })
}

#[cfg(test)]
mod tests;
