//! Backends that give every exchange a turn of its own: what is waited for before it, and how it ends.

use std::future::pending;
use std::sync::Arc;

use http::{Request, Response};

use super::*;
use crate::app::{App, Body, Call, Incoming, LocalFuture};
use crate::machine::CloseReason;
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
fn a_small_body_is_there_before_the_turn_is_taken() {
    let request = post("/echo", "hello");
    let (most, last) = request.split_at(request.len() - 1);
    let mut bench = bench().in_turns().bytes(0, most).bytes(50, last).at(100, Event::Eof);
    bench.until(49);
    assert_eq!(bench.turns, 0);
    let transcript = bench.run();
    assert_eq!(bench.turns, 1);
    assert!(transcript.out.ends_with("hello"), "{transcript:?}");
}

#[test]
fn a_body_that_does_not_fit_is_not_waited_for() {
    let head = "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let mut bench = bench().in_turns().bytes(0, head).bytes(50, vec![b'x'; 100_000]).at(100, Event::Eof);
    bench.until(49);
    assert_eq!(bench.turns, 1);
    let transcript = bench.run();
    assert!(transcript.out.ends_with("100000 bytes"), "{transcript:?}");
}

#[test]
fn a_body_that_stalls_takes_a_turn_to_be_refused() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    let mut bench = bench().in_turns().limits(|limits| limits.body_timeout = ms(70)).bytes(0, head);
    bench.until(60);
    assert_eq!(bench.turns, 0);
    let transcript = bench.run();
    assert_eq!(bench.turns, 1);
    assert!(transcript.out.starts_with("HTTP/1.1 408 "), "{transcript:?}");
}

#[test]
fn a_future_has_its_turn() {
    let gate = Gate::default();
    let mut bench = Bench::of(App::call(Gated(gate.clone()))).in_turns();
    bench = bench.bytes(0, get("/") + &get("/")).at(50, Event::Open(gate)).at(100, Event::Eof);
    bench.until(40);
    assert!(bench.session.as_ref().is_some_and(Session::is_in_turn));
    let transcript = bench.run();
    assert_eq!((bench.turns, count(&transcript.out, "hello")), (2, 2), "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
}

#[test]
fn a_future_in_its_turn_is_told_503_at_the_deadline() {
    let mut bench = Bench::of(App::call(Silent)).in_turns().bytes(0, get("/")).drain(50, 100);
    let transcript = bench.run();
    assert!(transcript.out.starts_with("HTTP/1.1 503 ") && transcript.out.contains(CLOSE), "{transcript:?}");
    assert_eq!((bench.turns, transcript.reason), (1, Some(CloseReason::DeadlineCut)));
}

#[test]
fn a_future_whose_body_is_still_waited_for_is_told_503_at_the_deadline() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    let mut bench = Bench::of(App::call(Silent)).in_turns().bytes(0, head).drain(50, 100);
    let transcript = bench.run();
    assert!(transcript.out.starts_with("HTTP/1.1 503 ") && transcript.out.contains(CLOSE), "{transcript:?}");
    assert_eq!((bench.turns, transcript.reason), (0, Some(CloseReason::DeadlineCut)));
}

#[test]
fn a_session_that_is_ended_in_its_turn_leaves_it() {
    let mut bench = Bench::of(App::call(Silent)).in_turns().bytes(0, get("/"));
    bench.until(10);
    let session = bench.session.as_mut().expect("it has not been taken");
    assert!(session.is_in_turn());
    session.end(CloseReason::TransportFailed);
    assert!(!session.is_in_turn());
}
