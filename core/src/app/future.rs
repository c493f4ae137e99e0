//! Async applications: a future polled inside the step, and bodies as streams of frames.
//!
//! The future is created, polled and dropped on the thread of its connection, so it need not be
//! `Send`. The request and its body are, because frameworks require it. The body passes through a
//! pipe of one piece: nothing is read from the client before the application asks.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use self::incoming::Pipe;
pub use self::incoming::{Incoming, RequestInfo};
use self::interim::Interim;
use super::{AppError, ClientEnd, Service, internal_error, passed_on};
use crate::config::HIGH_WATER;
use crate::exchange::{Abort, Answer, BodyRead, BodyState, Exchange, Upgrade};
use crate::http1::{BodyLen, Head, Refusal, RequestHead, ResponseHead, Version};

mod incoming;
mod interim;

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// An async application.
///
/// 1. The future of `call` is polled on one thread and may hold values that are not `Send` across
///    its awaits. It is polled when it has been woken, and also whenever its connection has a turn
///    for another reason.
/// 2. It is dropped, at any await, when its client has gone, when it has exceeded
///    [`request_timeout`](crate::config::Limits::request_timeout), unless it has changed the
///    protocol, or when the drain's deadline has passed (D10). If its response has not begun, the
///    client gets 503 in the latter two cases.
/// 3. A panic is answered with 500 and ends the connection.
/// 4. A client that has only ended its sending side gets its response. The handler is
///    [told](RequestInfo::client_end), and cancelled if
///    [`cancel_on_half_close`](crate::config::Limits::cancel_on_half_close) is set, which cuts the
///    response.
/// 5. The drain, the end of the client's side, and facts about the connection come with the
///    request's body: [`Incoming::info`].
///
/// ```
/// use async_trait::async_trait;
/// use http::{Request, Response};
/// use remuda_core::app::{App, AsyncHandler, Body, Incoming};
///
/// struct Hello;
///
/// #[async_trait(?Send)]
/// impl AsyncHandler for Hello {
///     async fn call(&self, request: Request<Incoming>) -> Response<Body> {
///         Response::new(Body::from(format!("You asked for {}.\n", request.uri().path())))
///     }
/// }
///
/// let app = App::future(Hello);
/// assert!(app.is_future());
/// ```
#[async_trait(?Send)]
pub trait AsyncHandler: Send + Sync + 'static {
    /// Answers one request.
    async fn call(&self, request: Request<Incoming>) -> Response<Body>;

    /// Whether this request is handled before its body has arrived, see
    /// [`Handler::streams_body`](super::Handler::streams_body). Default: no.
    fn streams_body(&self, head: &Head<'_>) -> bool {
        let _ = head;
        false
    }
}

/// The interface that the machine calls: an async application without the lifetime of a borrow. An
/// implementation that passes the request on without its body, as tower services do, puts
/// [`Incoming::info`] into the extensions first.
///
/// ```
/// use std::sync::Arc;
///
/// use http::{Request, Response};
/// use remuda_core::app::{App, Body, Call, Incoming, LocalFuture};
///
/// /// Adapts a function of the request's parts.
/// struct Adapter<F>(F);
///
/// impl<F: Fn(http::request::Parts) -> String + Send + Sync + 'static> Call for Adapter<F> {
///     fn call(self: Arc<Self>, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
///         Box::pin(async move { Response::new(Body::from((self.0)(request.into_parts().0))) })
///     }
/// }
///
/// let app = App::call(Adapter(|parts: http::request::Parts| parts.uri.to_string()));
/// # let _ = app;
/// ```
pub trait Call: Send + Sync + 'static {
    /// Begins to answer a request.
    fn call(self: Arc<Self>, request: Request<Incoming>) -> LocalFuture<Response<Body>>;

    /// Whether this request is handled before its body has arrived, see
    /// [`Handler::streams_body`](super::Handler::streams_body). Default: no.
    fn streams_body(&self, head: &Head<'_>) -> bool {
        let _ = head;
        false
    }
}

impl<H: AsyncHandler> Call for H {
    fn call(self: Arc<Self>, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(async move { AsyncHandler::call(&*self, request).await })
    }

    fn streams_body(&self, head: &Head<'_>) -> bool {
        AsyncHandler::streams_body(self, head)
    }
}

/// The fields of a request in the order they were sent, in which equal names need not be adjacent.
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

/// The names of all fields of a request that repeats one. In all other requests [`HeaderMap`] has
/// the order in which they were sent.
#[derive(Clone)]
struct Order(Vec<HeaderName>);

/// The body of a response.
///
/// ```
/// use http::Response;
/// use remuda_core::app::Body;
///
/// let response = Response::new(Body::from("Hello, World!\n"));
/// # let _ = response;
/// ```
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

    /// A body that is produced as it is sent. An error ends the connection without a proper end of
    /// the body.
    ///
    /// Trailer fields end it. They are sent if the response is chunked, and dropped for HTTP/1.0,
    /// for HEAD and with a Content-Length. With a `Trailer` field a response is chunked even if its
    /// body has a known length. Fields that must not be trailers are dropped (RFC 9110 §6.5.1). A
    /// client that requires trailers sends `TE: trailers` (§10.1.4).
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

/// Storage that one exchange of a connection leaves to the next.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    /// The heads of requests, for as long as applications keep parts of them.
    room: BytesMut,
    /// The fields of the last response, reused for the next request.
    fields: HeaderMap,
    /// The encoded fields of the last response, reused for the next.
    head: Vec<u8>,
    /// The queue of interim responses of the last exchange, reused for the next unless the
    /// application still has it.
    interim: Arc<Interim>,
    /// Signals the end of the peer's side to applications, once one has asked for it.
    client_end: Option<ClientEnd>,
}

/// The call of an async handler, from its request to the end of its response.
pub(crate) struct AsyncCall {
    stage: Stage,
    interim: Arc<Interim>,
    pipe: Option<Arc<Pipe>>,
    /// The pipe for the bytes after an upgrade, while there may be one.
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

impl AsyncCall {
    /// Begins to answer the request of `head`.
    ///
    /// # Errors
    ///
    /// [`http::Request`] cannot represent it.
    pub(crate) fn begin(
        call: &Arc<dyn Call>,
        head: &RequestHead,
        exchange: &impl Exchange,
        service: &Service,
        storage: &mut Storage,
        waker: &Waker,
    ) -> Result<Self, Refusal> {
        let state = exchange.state();
        let pipe = match state.body {
            BodyState::Coming(len) => Some(Arc::new(Pipe::new(len))),
            // The application reads the error: without a pipe it would see an empty body.
            BodyState::Failed(_) => Some(Arc::new(Pipe::new(None))),
            BodyState::Ended => None,
        };
        let polling = pipe.as_deref().map(|pipe| pipe.polling(waker));
        let bytes = head.copy_into(&mut storage.room);
        let upgrade = (state.upgrade == Upgrade::Offered).then(|| Arc::new(Pipe::new(None)));
        let interim = storage.interim();
        let info = RequestInfo {
            drain: service.drain.clone(),
            client_end: storage.client_end(state.has_peer_ended),
            connection: exchange.info(),
            client: head.client,
            forwarded_host: head.forwarded_host_range().map(|host| bytes.slice(host)),
            interim: interim.clone(),
            upgrade: upgrade.clone(),
        };
        let mut request = Request::new(Incoming::new(pipe.clone(), info));
        tell(&mut request, head, &bytes, storage)?;
        let call = call.clone();
        // The application may panic before it returns a future.
        let future: LocalFuture<Response<Body>> = match catch_unwind(AssertUnwindSafe(|| call.call(request)))
        {
            Ok(future) => future,
            Err(panic) => Box::pin(async move { std::panic::resume_unwind(panic) }),
        };
        drop(polling);
        Ok(Self { stage: Stage::Calling(future), interim, pipe, upgrade })
    }

    /// Continues as far as possible without waiting. `true` once the exchange is over.
    pub(crate) fn poll(
        &mut self,
        exchange: &mut impl Exchange,
        service: &Service,
        storage: &mut Storage,
        waker: &Waker,
    ) -> bool {
        self.feed(exchange);
        while exchange.state().answer != Answer::Over {
            match self.poll_once(exchange, service, storage, waker) {
                Poll::Ready(true) => return true,
                Poll::Ready(false) => {}
                // The bytes that the application has just asked for may have arrived.
                Poll::Pending if self.feed(exchange) => {}
                Poll::Pending => {
                    if exchange.state().unsent < HIGH_WATER {
                        self.send_interim(exchange);
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Queues the interim responses of the application.
    fn send_interim(&self, exchange: &mut impl Exchange) {
        let Some(heads) = self.interim.take() else { return };
        for head in heads {
            // Each is valid. A late one is not sent.
            let _ = exchange.interim(&head);
        }
    }

    /// Polls the future or body that the exchange waits for. Ready with whether the exchange is
    /// over.
    fn poll_once(
        &mut self,
        exchange: &mut impl Exchange,
        service: &Service,
        storage: &mut Storage,
        waker: &Waker,
    ) -> Poll<bool> {
        let mut context = Context::from_waker(waker);
        let polling = self.pipe.as_deref().map(|pipe| pipe.polling(waker));
        // A size hint and the destructor of the future are the application's code as well.
        let result = catch_unwind(AssertUnwindSafe(|| match &mut self.stage {
            Stage::Calling(future) => future.as_mut().poll(&mut context).map(|response| {
                let (parts, body) = response.into_parts();
                let len = body.size_hint().exact().map_or(BodyLen::Unknown, BodyLen::Exact);
                self.stage = Stage::Sending(body);
                Polled::Head(parts, len)
            }),
            Stage::Sending(_) if exchange.state().unsent >= HIGH_WATER => Poll::Pending,
            Stage::Sending(body) => Pin::new(body).poll_frame(&mut context).map(Polled::Frame),
        }));
        drop(polling);
        match result {
            Ok(Poll::Pending) => {
                if let Stage::Calling(_) = self.stage {
                    self.interim.wait(waker);
                }
                Poll::Pending
            }
            Ok(Poll::Ready(Polled::Frame(frame))) => Poll::Ready(send(exchange, frame)),
            Ok(Poll::Ready(Polled::Head(parts, len))) => {
                // A handler that has returned has dropped everything that the response does not
                // need.
                self.is_abandoned(exchange);
                self.interim.close();
                self.send_interim(exchange);
                let upgrade = self.settle_upgrade(parts.status == StatusCode::SWITCHING_PROTOCOLS);
                let over = respond(exchange, parts, len, upgrade, storage) || self.send_at_once(exchange);
                Poll::Ready(over)
            }
            Err(panic) => {
                service.panicked(exchange, &*panic);
                Poll::Ready(true)
            }
        }
    }

    /// Whether the protocol changes with the response, whose status is now known. If it does, the
    /// bytes after the request are read from now on. Otherwise there is nothing to wait for.
    #[inline]
    fn settle_upgrade(&mut self, switching: bool) -> bool {
        let Some(upgrade) = self.upgrade.take() else { return false };
        if switching {
            self.pipe = Some(upgrade);
        } else {
            upgrade.close();
        }
        switching
    }

    /// Sends a body that is ready. `false` if there is more to wait for.
    fn send_at_once(&mut self, exchange: &mut impl Exchange) -> bool {
        let Stage::Sending(body) = &mut self.stage else { return false };
        match mem::take(&mut body.kind) {
            BodyKind::Empty => send(exchange, None),
            BodyKind::Full(bytes) => send(exchange, Some(Ok(Frame::data(bytes)))) || send(exchange, None),
            stream => {
                body.kind = stream;
                false
            }
        }
    }

    /// Passes arrived bytes of the request body to the application, if it reads. Returns whether
    /// there were any.
    fn feed(&self, exchange: &mut impl Exchange) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        if self.is_abandoned(exchange) || !pipe.is_wanted() {
            return false;
        }
        let mut piece = [0; PIECE];
        match exchange.read_body(&mut piece) {
            BodyRead::Data(n) => {
                let goes_on = matches!(exchange.state().body, BodyState::Coming(_));
                let last = (!goes_on).then(|| exchange.trailers());
                pipe.give(Bytes::copy_from_slice(&piece[..n]), last);
            }
            BodyRead::End => pipe.end(Ok(exchange.trailers())),
            BodyRead::Aborted(error) => pipe.end(Err(error)),
            BodyRead::NeedInput => return false,
        }
        true
    }

    /// Whether the application has dropped the request body. Informs the exchange.
    fn is_abandoned(&self, exchange: &mut impl Exchange) -> bool {
        let abandoned = self.pipe.as_ref().is_some_and(|pipe| pipe.is_abandoned());
        if abandoned {
            exchange.discard_body();
        }
        abandoned
    }
}

/// The maximum size of a piece of a request body, in bytes.
const PIECE: usize = 16 * 1024;

impl Drop for AsyncCall {
    fn drop(&mut self) {
        self.interim.close();
        // First, so that a reader that is dropped with the rest wakes no task.
        for pipe in [&self.pipe, &self.upgrade].into_iter().flatten() {
            pipe.close();
        }
        let stage = mem::replace(&mut self.stage, Stage::Sending(Body::empty()));
        // A destructor that panics ends its own exchange, and not the worker.
        if catch_unwind(AssertUnwindSafe(|| drop(stage))).is_err() {
            tracing::error!("async handler panicked while it was dropped");
        }
    }
}

impl Storage {
    /// The peer has ended its side, or the connection has ended.
    pub(crate) fn end_client(&self) {
        self.client_end.iter().for_each(ClientEnd::set);
    }

    /// Signals the end of the peer's side to the applications of this connection.
    fn client_end(&mut self, has_peer_ended: bool) -> ClientEnd {
        let end = self.client_end.get_or_insert_default();
        if has_peer_ended {
            end.set();
        }
        end.clone()
    }

    /// A queue for interim responses that no other exchange uses.
    #[inline]
    fn interim(&mut self) -> Arc<Interim> {
        match Arc::get_mut(&mut self.interim) {
            Some(former) => *former = Interim::default(),
            None => self.interim = Arc::default(),
        }
        self.interim.clone()
    }
}

impl fmt::Debug for AsyncCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            Stage::Calling(_) => "Calling",
            Stage::Sending(_) => "Sending",
        })
    }
}

/// Begins the response. `true` if that ends the exchange, because there is no content or an error.
///
/// A peer whose body was at fault gets a refusal, whatever the application answered.
fn respond(
    exchange: &mut impl Exchange,
    mut parts: response::Parts,
    mut len: BodyLen,
    upgrade: bool,
    storage: &mut Storage,
) -> bool {
    let state = exchange.state();
    if let BodyState::Failed(error) = state.body
        && let Some(refusal) = error.refusal()
    {
        exchange.abort(Abort::Refused(refusal));
        return true;
    }
    let mut head = ResponseHead::within(parts.status, mem::take(&mut storage.head));
    for (name, value) in &parts.headers {
        head.push_valid(name.as_str(), value.as_bytes());
    }
    if head.announces_trailers() && state.sends_trailers {
        len = BodyLen::Unknown;
    }
    parts.headers.clear();
    storage.fields = parts.headers;
    let responded = if upgrade { exchange.upgrade(&head) } else { exchange.respond(&head, len) };
    storage.head = head.into_storage();
    match responded {
        // A body that is not sent is not polled: it may be endless.
        Ok(()) if !exchange.state().sends_content => send(exchange, None),
        Ok(()) => false,
        // The peer's fault. It has got a refusal.
        Err(_) if exchange.state().answer == Answer::Over => true,
        Err(error) => {
            tracing::error!("cannot send the application's response: {error}");
            internal_error(exchange, false);
            true
        }
    }
}

/// Queues a frame of the response body. `true` once the response is over.
fn send(exchange: &mut impl Exchange, frame: Option<Result<Frame<Bytes>, AppError>>) -> bool {
    let result = match frame {
        Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => exchange.write_shared(data).map(|()| false),
            Err(Ok(trailers)) => exchange.finish(Some(&trailers)).map(|()| true),
            // A kind of frame that HTTP/1.1 does not have.
            Err(Err(_)) => Ok(false),
        },
        None => exchange.finish(None).map(|()| true),
        Some(Err(error)) if passed_on(exchange) => {
            tracing::debug!("response body failed: {error}");
            return true;
        }
        Some(Err(error)) => {
            tracing::error!("response body failed: {error}");
            exchange.abort(Abort::Application);
            return true;
        }
    };
    // The connection remembers an error in the length.
    result.unwrap_or_else(|_| {
        exchange.abort(Abort::Application);
        true
    })
}

/// Fills `request` from the head. All parts share `bytes`, one copy of the head. The error is the
/// reason why [`http::Request`] cannot represent it.
#[inline]
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

/// [`Uri`] accepts no longer target.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;

fn target(bytes: Bytes) -> Result<Uri, Refusal> {
    let too_long = bytes.len() > LONGEST_TARGET;
    Uri::from_maybe_shared(bytes)
        .map_err(|_| if too_long { Refusal::UriTooLong } else { Refusal::BadRequestLine })
}

#[cfg(test)]
mod tests;
