//! The kinds of application that [`run`](crate::run) accepts.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use remuda_core::app::{App, AppError, AsyncHandler, Body, Call, Handler, Incoming, LocalFuture};
use tower_service::Service;

/// A value that can be converted to an [`App`].
///
/// `M` only distinguishes the implementations, so that each kind of application can have a blanket
/// implementation. It is inferred and never written.
///
/// ```
/// use axum::{Router, routing::get};
/// use remuda::app::{App, BodyReader, Head, IntoApp, Responder, ResponseHead};
///
/// let blocking = |_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
///     Ok(out.send(ResponseHead::new(204), "")?)
/// };
/// let _: App = blocking.into_app();
///
/// let router = Router::new().route("/", get(async || "Hello, World!\n"));
/// let app: App = router.into_app();
/// assert!(app.wants_tokio());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an application",
    note = "a function of (&Head<'_>, BodyReader<'_>, Responder<'_>) that returns Result<(), AppError> is one",
    note = "an AsyncHandler is one, and so is a tower service of http requests such as an axum Router"
)]
pub trait IntoApp<M> {
    /// Whether this kind of application expects a tokio runtime, see
    /// [`AppFactory::with_tokio`](crate::app::AppFactory::with_tokio).
    const WANTS_TOKIO: bool = false;

    /// Converts it.
    fn into_app(self) -> App;
}

/// Marks a blocking [`Handler`].
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum Blocking {}

/// Marks an [`AsyncHandler`].
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum Async {}

/// Marks a [`tower_service::Service`] for HTTP requests: an axum `Router`, a stack of tower layers.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum Tower {}

/// Marks a value that is an [`App`] already.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a marker without values")]
pub enum Itself {}

impl<H: Handler> IntoApp<Blocking> for H {
    fn into_app(self) -> App {
        App::blocking(self)
    }
}

impl<H: AsyncHandler> IntoApp<Async> for H {
    fn into_app(self) -> App {
        App::future(self)
    }
}

impl<S, B> IntoApp<Tower> for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: 'static,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Frameworks on tower mostly depend on tokio.
    const WANTS_TOKIO: bool = true;

    fn into_app(self) -> App {
        App::call(TowerCall(Mutex::new(self))).with_tokio()
    }
}

/// A tower service as a [`Call`]. A clone of the service answers each request; tower expects clones
/// to be cheap.
struct TowerCall<S>(Mutex<S>);

impl<S, B> Call for TowerCall<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: 'static,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn call(self: Arc<Self>, mut request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        // Extractors and layers find it in the extensions.
        let info = request.body().info().clone();
        request.extensions_mut().insert(info);
        let mut service = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
            let Ok(response) = service.call(request).await;
            response.map(|body| Body::new(body.map_err(AppError::from_boxed)))
        })
    }
}

impl IntoApp<Itself> for App {
    fn into_app(self) -> App {
        self
    }
}

#[cfg(test)]
mod tests;
