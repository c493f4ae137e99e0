//! Exchanges that run off the loop: what is waited for before they start, and how they end.

use std::future::pending;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;

use super::*;
use crate::app::{App, Body, Call, Incoming, LocalFuture};
use crate::http1::BodyError;
use crate::machine::CloseReason;
use crate::session::Protocol;
use crate::session::Session;
use crate::testing::{Event, Gate, ms};

/// Answers once its gate is open.
struct Gated(Gate);

impl Call for Gated {
    fn call(self: Arc<Self>, _: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(async move {
            self.0.opened().await;
            Response::new("hello".into())
        })
    }
}

/// Never answers.
struct Silent;

impl Call for Silent {
    fn call(self: Arc<Self>, _: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(pending())
    }
}

#[test]
fn a_small_body_arrives_before_its_handler_starts() {
    let request = post("/echo", "hello");
    let (most, last) = request.split_at(request.len() - 1);
    let mut bench = bench().placed().bytes(0, most).bytes(50, last).at(100, Event::Eof);
    bench.until(49);
    assert_eq!(bench.turns, 0);
    let transcript = bench.run();
    assert_eq!(bench.turns, 1);
    assert!(transcript.out.ends_with("hello"), "{transcript:?}");
}

#[test]
fn a_handler_that_streams_its_body_starts_with_the_head() {
    let head = "POST /pipe HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n";
    let says_so = Bench::new(Tester { streams: true, ..Tester::default() });
    let is_said_for_it = Bench::of(App::blocking(Tester::default()).stream_bodies());
    for bench in [says_so, is_said_for_it] {
        let mut bench = bench.placed().bytes(0, head).bytes(50, "abc").bytes(90, "def").at(100, Event::Eof);
        bench.until(49);
        assert_eq!(bench.turns, 1);
        let transcript = bench.run();
        assert_eq!(count(&transcript.out, "\r\n1\r\n"), 6, "{transcript:?}");
    }
    // A short handler needs its whole body.
    let short = Tester { short: true, streams: true, ..Tester::default() };
    let mut bench = Bench::new(short).placed().bytes(0, post("/echo", "")).at(10, Event::Eof);
    assert!(bench.run().out.contains("200 OK"));
    assert_eq!(bench.turns, 0);
}

#[test]
fn a_body_that_does_not_fit_is_not_waited_for() {
    let head = "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let mut bench = bench().placed().bytes(0, head).bytes(50, vec![b'x'; 100_000]).at(100, Event::Eof);
    bench.until(49);
    assert_eq!(bench.turns, 1);
    let transcript = bench.run();
    assert!(transcript.out.ends_with("100000 bytes"), "{transcript:?}");
}

#[test]
fn a_stalled_body_starts_its_handler_with_an_error() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    let mut bench = bench().placed().limits(|limits| limits.body_timeout = ms(70)).bytes(0, head);
    bench.until(60);
    assert_eq!(bench.turns, 0);
    let transcript = bench.run();
    assert_eq!(bench.turns, 1);
    assert!(transcript.out.starts_with("HTTP/1.1 408 "), "{transcript:?}");
}

#[test]
fn a_stalled_body_is_an_error_for_its_future() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    let seen = Arc::new(Mutex::new(None));
    let result = seen.clone();
    let bench = futures::served(move |request| {
        let result = result.clone();
        async move {
            *result.lock().unwrap() = Some(request.into_body().collect().await.map(drop));
            Response::new("read".into())
        }
    });
    let transcript = bench.placed().limits(|limits| limits.body_timeout = ms(70)).bytes(0, head).run();
    assert!(transcript.out.starts_with("HTTP/1.1 408 "), "{transcript:?}");
    assert_eq!(*seen.lock().unwrap(), Some(Err(BodyError::TimedOut)));
}

#[test]
fn a_future_can_run_on_a_thread() {
    let gate = Gate::default();
    let mut bench = Bench::of(App::call(Gated(gate.clone()))).placed();
    bench = bench.bytes(0, get("/") + &get("/")).at(50, Event::Open(gate)).at(100, Event::Eof);
    bench.until(40);
    assert!(bench.session.as_ref().is_some_and(Session::is_leased));
    let transcript = bench.run();
    assert_eq!((bench.turns, count(&transcript.out, "hello")), (2, 2), "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
}

#[test]
fn a_running_future_gets_503_at_the_deadline() {
    let mut bench = Bench::of(App::call(Silent)).placed().bytes(0, get("/")).drain(50, 100);
    let transcript = bench.run();
    assert!(transcript.out.starts_with("HTTP/1.1 503 ") && transcript.out.contains(CLOSE), "{transcript:?}");
    assert_eq!((bench.turns, transcript.reason), (1, Some(CloseReason::DeadlineCut)));
}

#[test]
fn a_future_that_waits_for_its_body_gets_503_at_the_deadline() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    let mut bench = Bench::of(App::call(Silent)).placed().bytes(0, head).drain(50, 100);
    let transcript = bench.run();
    assert!(transcript.out.starts_with("HTTP/1.1 503 ") && transcript.out.contains(CLOSE), "{transcript:?}");
    assert_eq!((bench.turns, transcript.reason), (0, Some(CloseReason::DeadlineCut)));
}

#[test]
fn a_session_that_is_ended_returns_from_its_handler() {
    let mut bench = Bench::of(App::call(Silent)).placed().bytes(0, get("/"));
    bench.until(10);
    let session = bench.session.as_mut().expect("it has not been taken");
    assert!(session.is_leased());
    session.end(CloseReason::TransportFailed);
    assert!(!session.is_leased());
}
