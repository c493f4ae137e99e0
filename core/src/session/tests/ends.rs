//! Every connection ends once, with one reason. Each reason of the machine has a script here.

use super::*;
use crate::machine::{CloseReason as R, Timer};
use crate::shutdown::{Announce, ConnView, Drain, Idle, ShutdownPolicy};
use crate::testing::{Event, ms};
use crate::time::Time;

#[derive(Debug)]
struct CloseAtOnce;

impl ShutdownPolicy for CloseAtOnce {
    fn idle(&self, _: &Drain, _: &ConnView, _: Time) -> Idle {
        Idle::Close
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::Close
    }
}

#[test]
fn each_way_to_end_has_its_reason() {
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let full = |bench: Bench| {
        bench.pipe.0.borrow_mut().room = 0;
        bench
    };
    let table = [
        (R::PeerClosed, bench().at(5, Event::Eof)),
        (R::PeerClosed, bench().bytes(0, get("/")).at(5, Event::Eof)),
        (R::PeerAborted, bench().bytes(0, "GET").at(5, Event::Eof)),
        (R::PeerAborted, bench().bytes(0, half).at(5, Event::Eof)),
        (R::PeerAborted, bench().bytes(0, half.replace("/echo", "/")).at(5, Event::Eof)),
        (R::TransportFailed, bench().bytes(0, half).at(5, Event::Reset)),
        (R::TransportFailed, full(short_bench()).bytes(0, get("/sized?100000")).at(5, Event::Reset)),
        (R::Finished, bench().bytes(0, get("/close"))),
        // A reset by a peer that needs nothing more counts as a close.
        (R::Finished, bench().bytes(0, get("/close")).at(5, Event::Reset)),
        (R::PeerClosed, bench().bytes(0, get("/")).at(5, Event::Reset)),
        (R::PeerAborted, bench().bytes(0, "GET").at(5, Event::Reset)),
        // Its request has been answered.
        (R::DeadlineIdle, bench().bytes(0, half.replace("/echo", "/")).drain(5, 50)),
        (R::Drained, bench().drain(0, 9000).bytes(5, get("/"))),
        (R::IdleTimeout, bench()),
        (R::IdleTimeout, bench().bytes(0, get("/"))),
        (R::TimedOut(Timer::Head), bench().bytes(0, "GET")),
        (R::TimedOut(Timer::Body), bench().bytes(0, half)),
        (R::TimedOut(Timer::Write), full(bench()).bytes(0, get("/flood?100"))),
        (R::DrainIdle, bench().policy(CloseAtOnce).drain(5, 9000)),
        (R::DeadlineIdle, bench().bytes(0, "GET").drain(0, 50)),
        (R::DeadlineCut, bench().bytes(0, half).drain(0, 50)),
        (R::Refused, bench().bytes(0, "GARBAGE\r\n\r\n")),
        (R::ApplicationFailed, bench().bytes(0, get("/late-fail"))),
        (R::UpgradeEnded, bench().bytes(0, upgrade()).at(5, Event::Eof)),
    ];
    for (number, (reason, mut bench)) in table.into_iter().enumerate() {
        // The bench itself checks that the end is final.
        assert_eq!(bench.run().reason, Some(reason), "row {number}: {:?}", bench.transcript());
    }
}

#[test]
fn an_end_is_counted_once_by_its_reason() {
    let counts = |mut bench: Bench| {
        let reason = bench.run().reason.expect("it ends");
        let counters = &bench.service.counters;
        counters.closed(reason);
        [
            &counters.requests,
            &counters.finished,
            &counters.announced,
            &counters.idle_closed,
            &counters.aborted,
            &counters.cut,
        ]
        .map(|counter| counter.get())
    };
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    assert_eq!(counts(bench().bytes(0, get("/").repeat(3))), [3, 3, 0, 0, 0, 0]);
    assert_eq!(counts(bench().drain(0, 9000).bytes(50, get("/"))), [1, 1, 1, 0, 0, 0]);
    assert_eq!(counts(bench().policy(CloseAtOnce).bytes(0, get("/")).drain(50, 9000)), [1, 1, 0, 1, 0, 0]);
    assert_eq!(counts(bench().bytes(0, half).drain(50, 90)), [1, 0, 0, 0, 1, 1]);
    assert_eq!(counts(bench().bytes(0, get("/late-fail"))), [1, 0, 0, 0, 1, 0]);
    assert_eq!(counts(bench().bytes(0, half).at(50, Event::Eof)), [1, 0, 0, 0, 1, 0]);
}

/// Requests, and how many of them were answered, aborted, and cut by a drain.
fn account(mut bench: Bench) -> [u64; 4] {
    let reason = bench.run().reason.expect("it ends");
    let counters = bench.service.counters.clone();
    counters.closed(reason);
    drop(bench);
    let tally = counters.tally();
    [tally.requests, tally.answered(), tally.aborted, tally.cut]
}

#[test]
fn a_request_is_answered_or_aborted_and_never_both() {
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let large = get("/sized?100000");
    let room = |bench: Bench, room| {
        bench.pipe.0.borrow_mut().room = room;
        bench
    };
    let late = |bench: Bench| bench.limits(|limits| limits.request_timeout = ms(1000));
    let chunked = "POST /pipe HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    let table = [
        ([1, 1, 0, 0], room(short_bench(), 200_000).bytes(0, &large).at(5, Event::Eof)),
        // Its response was queued completely, and has not been sent.
        ([1, 0, 1, 0], room(short_bench(), 500).bytes(0, &large).at(5, Event::Reset)),
        ([1, 0, 1, 0], room(bench(), 500).bytes(0, &large).at(5, Event::Reset)),
        ([1, 0, 1, 1], room(short_bench(), 500).bytes(0, &large).drain(5, 50)),
        ([1, 0, 1, 0], room(short_bench(), 500).bytes(0, &large)),
        ([3, 1, 2, 0], room(short_bench(), 150).bytes(0, get("/").repeat(3)).at(5, Event::Reset)),
        // It never became a request.
        ([0, 0, 0, 0], bench().bytes(0, "GET").at(5, Event::Eof)),
        ([0, 0, 0, 0], bench().bytes(0, "GET")),
        ([0, 0, 0, 0], bench().bytes(0, "GARBAGE\r\n\r\n")),
        ([0, 0, 0, 0], bench().at(5, Event::Reset)),
        ([1, 1, 0, 0], bench().bytes(0, get("/")).at(5, Event::Reset)),
        // The server has answered.
        ([1, 1, 0, 0], late(bench()).bytes(0, half)),
        ([1, 1, 0, 0], bench().bytes(0, half)),
        ([1, 1, 0, 0], bench().bytes(0, chunked.replace("/pipe", "/echo") + "!\r\n").at(5, Event::Eof)),
        ([1, 0, 1, 0], room(late(bench()), 1000).bytes(0, get("/flood?200"))),
        // A response had begun when the rest of its request proved malformed.
        ([1, 0, 1, 0], bench().bytes(0, chunked).bytes(5, "!\r\n").at(9, Event::Eof)),
        ([1, 0, 1, 1], bench().bytes(0, half).drain(50, 90)),
        ([1, 1, 0, 0], bench().bytes(0, get("/panic"))),
        ([1, 0, 1, 0], bench().bytes(0, get("/late-panic"))),
        ([1, 1, 0, 0], bench().bytes(0, upgrade()).at(5, Event::Eof)),
        ([1, 0, 1, 1], bench().bytes(0, upgrade()).drain(5, 50)),
    ];
    for (number, (expected, bench)) in table.into_iter().enumerate() {
        assert_eq!(account(bench), expected, "row {number}");
    }
}
