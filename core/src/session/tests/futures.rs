//! Async applications over whole connections.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use http::{Method, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use super::*;
use crate::app::{App, Body, Call, Incoming, LocalFuture};
use crate::config::HIGH_WATER;
use crate::http1::BodyError;
use crate::machine::{CloseReason, Timer};
use crate::pump::{Next, drive};
use crate::session::Session;
use crate::shutdown::{Drain, Reason};
use crate::testing::{Alert, Event, Gate, START, Transcript, ms, without_interim};

mod ends;
mod requests;
mod responses;

struct Answer<F>(F);

impl<F> Call for Answer<F>
where
    F: Fn(Request<Incoming>) -> LocalFuture<Response<Body>> + Send + Sync + 'static,
{
    fn call(self: Arc<Self>, request: Request<Incoming>) -> LocalFuture<Response<Body>> {
        (self.0)(request)
    }
}

/// A bench whose application is `answer`.
pub(super) fn served<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Bench
where
    F: Future<Output = Response<Body>> + 'static,
{
    Bench::of(App::call(Answer(move |request| Box::pin(answer(request)) as LocalFuture<_>)))
}

/// An application that answers with `body` once `gate` is open.
fn once_open(
    gate: &Gate,
    body: &'static str,
) -> impl Fn(Request<Incoming>) -> LocalFuture<Response<Body>> + Send + Sync + use<> {
    let gate = gate.clone();
    move |_| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.opened().await;
            text(body)
        })
    }
}

type Framed = Option<Result<Frame<Bytes>, AppError>>;

/// A body made by a closure, with or without a known length.
struct Made<F>(F, Option<u64>);

impl<F: FnMut(&mut Context<'_>) -> Poll<Framed> + Unpin> http_body::Body for Made<F> {
    type Data = Bytes;
    type Error = AppError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Framed> {
        (self.0)(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.1.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn data(bytes: impl Into<Bytes>) -> Poll<Framed> {
    Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
}

fn made(frames: impl FnMut(&mut Context<'_>) -> Poll<Framed> + Unpin + 'static) -> Response<Body> {
    Response::new(Body::new(Made(frames, None)))
}

/// A body of these parts.
fn parts(parts: impl IntoIterator<Item = Bytes>) -> Response<Body> {
    let mut parts: VecDeque<_> = parts.into_iter().collect();
    made(move |_| parts.pop_front().map_or(Poll::Ready(None), data))
}

pub(super) fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(Body::from(text.into()))
}

fn with(mut response: Response<Body>, name: &'static str, value: &'static str) -> Response<Body> {
    response.headers_mut().append(name, http::HeaderValue::from_static(value));
    response
}

/// Counts polls, wakes or drops.
#[derive(Clone, Debug, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Counts its drop.
struct Dropped(Count);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// The answers of [`Tester`] as futures.
pub(super) async fn tester(mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let number = request.uri().query().and_then(|n| n.parse().ok()).unwrap_or(0);
    match &*path {
        "/" => text("hello"),
        "/close" => with(text("bye"), "Connection", "close"),
        "/echo" => match request.into_body().collect().await {
            Ok(body) => text(body.to_bytes()),
            Err(_) => text("ignored"),
        },
        "/pipe" => Response::new(Body::new(request.into_body())),
        "/stream" => parts((0..number).map(|n: u32| Bytes::from(format!("line {n}\n")))),
        "/no-content" => {
            let mut response = text("");
            *response.status_mut() = http::StatusCode::NO_CONTENT;
            response
        }
        "/hints" => {
            for n in 0..number {
                let head = ResponseHead::new(103).field("Link", format!("</{n}.css>; rel=preload"));
                request.body().info().interim(&head).expect("it has room");
            }
            text("hello")
        }
        "/sent-length" => {
            let mut response = text("abcd");
            response.headers_mut().insert("Content-Length", number.into());
            response
        }
        "/trailers" => {
            let body = request.into_body().collect().await.expect("it is whole");
            let trailers = body.trailers().cloned().unwrap_or_default();
            let mut frames = VecDeque::from([data("done"), Poll::Ready(Some(Ok(Frame::trailers(trailers))))]);
            let body =
                Made(move |_: &mut Context<'_>| frames.pop_front().expect("trailers are the end"), Some(4));
            with(Response::new(Body::new(body)), "Trailer", "X-Sum")
        }
        "/late-fail" => {
            let mut frames =
                VecDeque::from([data("part"), Poll::Ready(Some(Err(AppError::msg("out of paper"))))]);
            made(move |_| frames.pop_front().expect("an error is the end"))
        }
        "/upgrade" => {
            let bytes = request.body_mut().upgrade().expect("it is offered");
            let mut response = with(Response::new(Body::new(bytes)), "Upgrade", "echo");
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response
        }
        "/short-body" => with(parts([Bytes::from("abc")]), "Content-Length", "4"),
        path => panic!("no {path}"),
    }
}

/// Blocks an application's thread on `future`.
fn block_on(future: impl Future) {
    let (alert, mut future) = (Arc::new(Alert::default()), pin!(future));
    let waker = Waker::from(alert.clone());
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        alert.wait();
        alert.take();
    }
}

const LATER: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab";

fn chunked(chunks: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

#[test]
fn a_session_with_a_future_may_be_sent() {
    fn is_send<T: Send>() {}
    is_send::<Session>();
    is_send::<Incoming>();
}

#[test]
fn hello_is_answered_in_one_step() {
    let polls = Count::default();
    let counted = polls.clone();
    let mut bench = served(move |_| {
        counted.add();
        async { text("hello") }
    })
    .bytes(0, get("/"));
    bench.until(0);
    assert!(bench.out().ends_with("Content-Length: 5\r\n\r\nhello"), "{}", bench.out());
    assert_eq!((polls.get(), bench.world.alert.all.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(bench.service.counters.finished.get(), 1);
}

#[test]
fn futures_and_blocking_handlers_agree_for_any_split() {
    // A future has no error of its own, and answers a truncated body itself.
    let apart = ["failure", "truncated length", "truncated chunk"];
    let play = |mut bench: Bench, script: &str, cut: usize| -> Transcript {
        bench = bench.bytes(0, &script[..cut]).bytes(1, &script[cut..]).at(2, Event::Eof);
        let transcript = bench.run();
        Transcript { out: without_interim(&transcript.out), log: Vec::new(), ..transcript }
    };
    for (name, script, _) in splits::scripts() {
        if apart.contains(&name) {
            continue;
        }
        let whole = play(bench(), &script, 0);
        // Chunks follow the pieces that were read. The blocking handler writes a byte at a time.
        let pieces = script.contains("/pipe") || script.contains("/stream");
        for cut in 0..=script.len() {
            let split = play(served(tester), &script, cut);
            assert_eq!(split.reason, whole.reason, "{name}, cut at {cut}");
            if !pieces {
                assert_eq!(split.out, whole.out, "{name}, cut at {cut}");
            }
        }
        let narrow = served(tester);
        (narrow.pipe.0.borrow_mut().read_most, narrow.pipe.0.borrow_mut().write_most) = (1, 1);
        let narrow = play(narrow, &script, 0);
        assert_eq!((narrow.reason, pieces || narrow.out == whole.out), (whole.reason, true), "{name}");
    }
}

#[test]
fn a_future_is_polled_once_a_step() {
    let polls = Count::default();
    let counted = polls.clone();
    let mut bench = served(move |_| {
        let polls = counted.clone();
        poll_fn(move |_| {
            polls.add();
            Poll::Pending
        })
    })
    .bytes(0, LATER);
    bench.until(0);
    // A step begins the request, and the bench takes another to see that nothing changes. `until`
    // does so twice.
    assert_eq!((polls.get(), bench.world.alert.all.load(Ordering::Relaxed)), (4, 0));
    let cx = bench.world.cx();
    let session = bench.session.as_mut().expect("it is here");
    for n in 0..3 {
        let before = polls.get();
        let step = crate::machine::Machine::step(session, &cx);
        assert_eq!(
            (polls.get() - before, step == crate::machine::Machine::step(session, &cx)),
            (1, true),
            "{n}"
        );
    }
}
