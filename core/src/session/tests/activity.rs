//! Exchanges as they are visible from outside while they wait.

use std::sync::Arc;

use http::{Request, Response};

use super::*;
use crate::app::{Activity, App, Board, Body, Call, Doing, Incoming, LocalFuture};
use crate::machine::CloseReason;
use crate::testing::{Event, Gate, START};

/// The visible exchanges of `bench` after all events within `at` milliseconds.
struct Seen {
    bench: Bench,
    board: Board,
}

impl Seen {
    fn of(bench: Bench) -> Self {
        let entries = Box::leak((0..Board::ENTRIES).map(|_| Activity::default()).collect());
        let board = Board::new(entries, Box::leak(Box::default()));
        Self { bench: bench.serving_as(|service| service.showing(board)), board }
    }

    fn at(&mut self, at: u64) -> Vec<(String, Doing, u64)> {
        self.bench.until(at);
        let seen = self.board.seen().into_iter().map(|(_, busy)| busy);
        seen.map(|busy| {
            let since = busy.since - START;
            (busy.request.expect("no write is in progress"), busy.doing, since.as_millis() as u64)
        })
        .collect()
    }
}

fn one(request: &str, doing: Doing, since: u64) -> Vec<(String, Doing, u64)> {
    vec![(request.to_owned(), doing, since)]
}

#[test]
fn a_waiting_async_handler_is_shown_with_request_and_age() {
    let gate = Gate::default();
    let bench = Bench::of(App::call(Gated(gate.clone()))).bytes(7, get("/slow?x=1"));
    let mut seen = Seen::of(bench.at(50, Event::Open(gate)).at(90, Event::Eof));
    assert_eq!(seen.at(6), []);
    assert_eq!(seen.at(30), one("GET /slow", Doing::Waiting, 7));
    assert_eq!(seen.board.handlers(), 1);
    assert_eq!(seen.at(60), []);
    assert_eq!((seen.board.handlers(), seen.bench.service.counters.tally().answered()), (0, 1));
}

#[test]
fn a_handler_that_answers_at_once_is_never_seen() {
    let gate = Gate::default();
    gate.open();
    let mut seen = Seen::of(Bench::of(App::call(Gated(gate))).bytes(0, get("/").repeat(3)));
    assert_eq!(seen.at(1), []);
    assert_eq!(seen.bench.service.in_flight.entered(), 0, "and costs nothing");
}

#[test]
fn exchanges_cut_at_the_drains_deadline_remain_visible() {
    let waits = Bench::of(App::call(Gated(Gate::default()))).bytes(7, get("/slow")).drain(10, 500);
    let mut seen = Seen::of(waits);
    assert_eq!(seen.at(499), one("GET /slow", Doing::Waiting, 7));
    assert_eq!(seen.at(3000), one("GET /slow", Doing::Cut, 7));
    assert_eq!(seen.board.handlers(), 0);
    // The same holds for an exchange on a thread, and for a response that was not sent.
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let mut seen = Seen::of(bench().bytes(7, half).drain(10, 500));
    assert_eq!(seen.at(3000), one("POST /echo", Doing::Cut, 7));
    let large = short_bench().bytes(7, get("/sized?100000")).drain(10, 500);
    large.pipe.0.borrow_mut().room = 500;
    let mut seen = Seen::of(large);
    assert_eq!(seen.at(400), one("GET /sized", Doing::Sending, 7));
    assert_eq!(seen.at(3000), one("GET /sized", Doing::Cut, 7));
}

#[test]
fn a_body_that_is_awaited_is_seen() {
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let mut seen = Seen::of(short_bench().bytes(7, half).bytes(50, "whole").at(90, Event::Eof));
    assert_eq!(seen.at(30), one("POST /echo", Doing::Receiving, 7));
    assert_eq!((seen.board.handlers(), seen.at(60)), (0, vec![]));
}

#[test]
fn a_client_that_disconnects_leaves_no_exchange_visible() {
    let bench = Bench::of(App::call(Gated(Gate::default()))).bytes(7, get("/slow")).at(50, Event::Gone);
    let mut seen = Seen::of(bench);
    assert_eq!(seen.at(30).len(), 1);
    seen.bench.until(60);
    assert_eq!(seen.bench.reason, Some(CloseReason::TransportFailed));
    drop(seen.bench.session.take());
    assert_eq!((seen.board.seen().len(), seen.board.handlers()), (0, 0));
    assert_eq!(seen.bench.service.counters.aborted.get(), 1);
}

/// An application that answers once its gate is open.
struct Gated(Gate);

impl Call for Gated {
    fn call(self: Arc<Self>, _: Request<Incoming>) -> LocalFuture<Response<Body>> {
        Box::pin(async move {
            self.0.opened().await;
            Response::new("hello".into())
        })
    }
}
