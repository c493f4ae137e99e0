//! The demo as an async application: futures that never block their thread, except in `/block`.

use std::convert::Infallible;
use std::iter;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_lite::stream::{self, Stream, StreamExt};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use remuda_core::app::{AsyncHandler, Body, Handler, Incoming, fields};
use remuda_core::http1::Head;
use remuda_core::worker::alarm::sleep;

use super::request::{Refusal, Request, UPGRADE_WANTED, preferred, required_field};
use super::{Demo, FILLING};

#[async_trait(?Send)]
impl AsyncHandler for Demo {
    async fn call(&self, request: HttpRequest<Incoming>) -> Response<Body> {
        let uri = request.uri();
        match Request::of(request.method().as_str(), uri.path(), uri.query().unwrap_or_default()) {
            Ok(Request::Hello) => text(200, Bytes::from_static(b"Hello, World!")),
            Ok(Request::Echo) => echo(request).await,
            Ok(Request::Sleep(time)) => {
                sleep(time).await;
                text(200, format!("{} ms\n", time.as_millis()))
            }
            Ok(Request::Block(time)) => {
                thread::sleep(time);
                text(200, format!("{} ms\n", time.as_millis()))
            }
            Ok(Request::Stream { chunks, size, pause }) => text(200, chunked(chunks, size, pause)),
            Ok(Request::Bytes(n)) => bytes(n),
            Ok(Request::Events) => events(&request),
            Ok(Request::Info) => self.about(&request),
            Ok(Request::Headers) => headers(&request),
            Ok(Request::Status { code, body }) => status(code, body),
            Ok(Request::Upgrade) => upgrade(request),
            Ok(Request::Options { allow }) => with(answer(200, Body::empty()), ALLOW, allow),
            Err(refusal) => refuse(&refusal),
        }
    }

    fn streams_body(&self, head: &Head<'_>) -> bool {
        Handler::streams_body(self, head)
    }
}

impl Demo {
    fn about(&self, request: &HttpRequest<Incoming>) -> Response<Body> {
        let info = request.body().info();
        match self.info(&info.connection, info.client) {
            Ok(info) => with(answer(200, info), CONTENT_TYPE, "application/json"),
            Err(error) => text(500, format!("{error}\n")),
        }
    }
}

fn answer(status: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status.try_into().expect("a status of ours has three digits");
    response
}

/// A text response.
fn text(status: u16, body: impl Into<Body>) -> Response<Body> {
    with(answer(status, body), CONTENT_TYPE, "text/plain")
}

fn with(mut response: Response<Body>, name: HeaderName, value: impl TryInto<HeaderValue>) -> Response<Body> {
    if let Ok(value) = value.try_into() {
        response.headers_mut().insert(name, value);
    }
    response
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let response = text(refusal.status(), format!("{refusal}\n"));
    match refusal {
        Refusal::Method { allow } => with(response, ALLOW, *allow),
        _ => response,
    }
}

/// Waits for the first bytes before it sends the head: a client that expects a 100 takes a final
/// response as a reason to withhold its body (RFC 9110 §10.1.1).
async fn echo(mut request: HttpRequest<Incoming>) -> Response<Body> {
    let kind = request.headers_mut().remove(CONTENT_TYPE);
    let mut body = request.into_body();
    let first = match body.frame().await {
        Some(Ok(frame)) => frame,
        Some(Err(error)) => return text(400, format!("{error}\n")),
        None => Frame::data(Bytes::new()),
    };
    let rest = stream::unfold(body, |mut body| async { body.frame().await.map(|frame| (frame, body)) });
    // Only the data is echoed, without trailers.
    let frames =
        stream::once(Ok(first)).chain(rest).filter(|frame| frame.as_ref().map_or(true, Frame::is_data));
    let response = answer(200, Body::new(StreamBody::new(frames)));
    match kind {
        Some(kind) => with(response, CONTENT_TYPE, kind),
        None => response,
    }
}

/// Echoes bytes of any protocol, until the client ends or the worker drains.
fn upgrade(mut request: HttpRequest<Incoming>) -> Response<Body> {
    let bytes = request.body_mut().upgrade();
    let protocol = request.headers().get(UPGRADE).and_then(|field| preferred(field.as_bytes()));
    let Some((bytes, protocol)) = bytes.zip(protocol) else {
        return with(text(426, UPGRADE_WANTED), UPGRADE, "echo");
    };
    let echo = stream::unfold(bytes, |mut bytes| async move {
        let drain = bytes.info().drain.clone();
        let told = async {
            drain.drained().await;
            None
        };
        let frame = futures_lite::future::or(told, bytes.frame()).await?;
        Some((frame.ok()?.into_data().ok()?, bytes))
    });
    with(answer(101, streamed(echo)), UPGRADE, protocol)
}

/// Bytes as a body of unknown length.
fn streamed(bytes: impl Stream<Item = Bytes> + 'static) -> Body {
    Body::new(StreamBody::new(bytes.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)))))
}

/// `n` bytes in pieces.
fn filling(mut n: u64) -> impl Stream<Item = Bytes> {
    stream::iter(iter::from_fn(move || {
        let piece = n.min(FILLING.len() as u64);
        n -= piece;
        (piece > 0).then(|| Bytes::from_static(&FILLING[..piece as usize]))
    }))
}

fn chunked(chunks: u64, size: u64, pause: Duration) -> Body {
    streamed(
        stream::iter(0..chunks)
            .then(move |chunk| async move {
                if chunk > 0 && !pause.is_zero() {
                    sleep(pause).await;
                }
                filling(size)
            })
            .flatten(),
    )
}

fn bytes(n: u64) -> Response<Body> {
    let response = with(answer(200, streamed(filling(n))), CONTENT_TYPE, "application/octet-stream");
    with(response, CONTENT_LENGTH, n)
}

/// A response without end, which ends itself when the worker drains.
fn events(request: &HttpRequest<Incoming>) -> Response<Body> {
    let drain = request.body().info().drain.clone();
    let body = match *request.method() {
        Method::HEAD => Body::empty(),
        _ => streamed(stream::unfold((1_u64, drain), |(n, drain)| async move {
            if n > 1 {
                futures_lite::future::or(sleep(Duration::from_secs(1)), drain.drained()).await;
                if drain.is_set() {
                    return None;
                }
            }
            Some((Bytes::from(format!("data: {n}\n\n")), (n + 1, drain)))
        })),
    };
    with(with(answer(200, body), CONTENT_TYPE, "text/event-stream"), CACHE_CONTROL, "no-cache")
}

fn headers(request: &HttpRequest<Incoming>) -> Response<Body> {
    let lines = fields(request)
        .flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    text(200, lines.collect::<Vec<u8>>())
}

fn status(code: u16, body: bool) -> Response<Body> {
    let response = match body {
        true => text(code, format!("content of a {code}\n")),
        false => answer(code, Body::empty()),
    };
    match required_field(code) {
        Some((name, value)) => with(response, HeaderName::from_static(name), value),
        None => response,
    }
}
