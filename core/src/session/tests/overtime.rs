//! The timeout of a handler: the outcome of the request, and what the handler sees.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::app::{Inline, LeasedExchange, Overtime};
use crate::conn::{Connection, Http1Exchange};
use crate::machine::{CloseReason, Cx, Move, Timer};
use crate::peer::{Origin, Peer};
use crate::pump::{Next, drive};
use crate::session::{LeasedCall, Protocol, Session};
use crate::testing::{Event, START, ms};

const TOO_LATE: Option<CloseReason> = Some(CloseReason::TimedOut(Timer::Request));

fn limited(bench: Bench, millis: u64) -> Bench {
    bench.limits(|limits| limits.request_timeout = ms(millis))
}

/// A bench that counts the blocking handlers whose timeout its worker learns of.
fn reporting(bench: Bench) -> (Bench, Arc<AtomicU32>) {
    let told = Arc::new(AtomicU32::new(0));
    let count = told.clone();
    let overtime = Overtime::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let service = Arc::new((*bench.service).clone().reporting(overtime));
    let session = Session::new(Connection::new(Origin::new(0, Peer::Unix, 7), START), service.clone());
    (Bench { session: Some(session), service, ..bench }, told)
}

#[test]
fn a_handler_over_its_timeout_gets_an_error_and_its_client_503() {
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let (mut bench, told) = reporting(limited(bench(), 1000).bytes(100, half));
    let out = bench.until(1100).out();
    assert!(out.starts_with("HTTP/1.1 503 ") && out.contains(CLOSE) && out.contains("Date: "), "{out}");
    let transcript = bench.run();
    assert_eq!(transcript.log[1], "body half Err(TimedOut)");
    assert_eq!((transcript.reason, bench.now()), (TOO_LATE, 3100), "its second, and the linger");
    let tally = bench.service.counters.tally();
    assert_eq!((tally.requests, tally.timed_out, tally.finished, tally.statuses[4]), (1, 1, 0, 1));
    assert_eq!(told.load(Ordering::Relaxed), 1, "the worker learns of it");
}

#[test]
fn a_response_that_has_begun_is_cut() {
    let (bench, told) = reporting(limited(bench(), 1000).bytes(0, get("/flood?200")));
    let mut bench = bench.at(2000, Event::Room(1_000_000));
    bench.pipe.0.borrow_mut().room = 1000;
    let transcript = bench.run();
    assert_eq!(transcript.log[1], "write failed: TimedOut");
    assert!(transcript.out.starts_with("HTTP/1.1 200 ") && !transcript.out.ends_with("0\r\n\r\n"));
    assert!(transcript.out.len() > 60_000, "bytes written in time are sent");
    assert_eq!(transcript.reason, TOO_LATE);
    let tally = bench.service.counters.tally();
    assert_eq!((tally.timed_out, tally.finished, tally.statuses), (1, 0, [0; 6]));
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn a_handler_can_see_that_its_timeout_passed() {
    for (limit, expected) in [(1000, [false, true]), (0, [false, false])] {
        let log = Log::default();
        let seen = log.clone();
        let handler = move |_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>| {
            let drain = out.drain();
            for byte in [b'a', b'b'] {
                seen.lock().unwrap().push(drain.is_set().to_string());
                assert_eq!(drain.is_set(), drain.wait(Duration::ZERO));
                let _ = body.read(&mut [byte]);
            }
            Ok(out.send(ResponseHead::new(200), "")?)
        };
        let mut bench = limited(Bench::new(handler), limit)
            .bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            .bytes(2000, "ab");
        bench.run();
        assert_eq!(*log.lock().unwrap(), expected.map(|is| is.to_string()));
    }
}

#[test]
fn a_request_in_time_leaves_no_trace() {
    let mut bench =
        limited(bench(), 1000).bytes(0, post("/echo", "in time")).bytes(3000, get("/")).at(4000, Event::Eof);
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), transcript.reason), (2, Some(CloseReason::PeerClosed)));
    assert_eq!(bench.service.counters.timed_out.get(), 0);
}

#[test]
fn a_change_of_the_protocol_lifts_the_limit() {
    let mut bench = limited(bench(), 1000).bytes(0, upgrade()).bytes(5000, "late").at(6000, Event::Eof);
    let transcript = bench.run();
    assert!(transcript.out.ends_with("late"), "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::UpgradeEnded));
}

#[test]
fn zero_is_no_limit() {
    let mut bench = bench().bytes(0, post("/echo", "x").trim_end_matches('x')).bytes(20_000, "x");
    assert!(bench.until(20_001).out().starts_with("HTTP/1.1 200 "));
}

/// A place from which a session may be taken away. The handler that uses it cannot wait.
struct Shelf<'a> {
    session: Arc<Mutex<Option<Session>>>,
    cx: Cx<'a>,
}

impl LeasedExchange for Shelf<'_> {
    type Exchange<'e> = Http1Exchange<'e>;

    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut Http1Exchange<'e>) -> R) -> Option<R> {
        let mut session = self.session.lock().expect("not poisoned");
        session.as_mut().and_then(|session| session.hold(&mut Inline(self.cx))?.with(work))
    }

    fn advance(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn can_wait(&self) -> bool {
        false
    }

    fn push(&mut self) {}

    fn look_for_end(&mut self) {}

    fn look_for_reset(&mut self) {}
}

/// Runs the handler of `bench`, which moves its session from `shelf` to `away`. The bench continues
/// with the session, at the end of its timeout.
fn taken_away(bench: &mut Bench, shelf: &Arc<Mutex<Option<Session>>>, away: &Arc<Mutex<Option<Session>>>) {
    let mut session = bench.session.take().expect("it is here");
    bench.until(0);
    assert_eq!(drive(&mut session, &mut bench.io, &bench.world.cx()), Next::Move(Move::Lease));
    let Some(LeasedCall::Blocking(call)) = session.lease(&bench.world.cx()) else {
        panic!("a handler waits")
    };
    let due = session.connection().and_then(Connection::due);
    assert_eq!((call.due(), due), (due, Some(START + Duration::from_secs(1))));
    *shelf.lock().unwrap() = Some(session);
    assert_eq!(call.run(&mut Shelf { session: shelf.clone(), cx: bench.world.cx() }), None);
    bench.session = away.lock().unwrap().take();
    bench.world.now = START + Duration::from_secs(1);
}

#[test]
fn a_handler_cannot_use_a_session_that_was_reclaimed() {
    for begins in [false, true] {
        let (shelf, away, log) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)), Log::default());
        let (from, to, seen) = (shelf.clone(), away.clone(), log.clone());
        let handler = move |_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>| {
            let note = |what: &str, done: io::Result<()>| {
                let done = done.map_err(|error| error.kind());
                seen.lock().unwrap().push(format!("{what} {done:?}"));
            };
            let take = || *to.lock().unwrap() = from.lock().unwrap().take();
            let peer = out.connection().peer;
            if begins {
                let mut out = out.stream(ResponseHead::new(200))?;
                out.write_all(b"in time")?;
                take();
                note("write", out.write_all(b"too late"));
                note("flush", out.flush());
            } else {
                take();
                assert_eq!(out.connection().peer, peer);
                note("send", out.send(ResponseHead::new(200), "too late"));
            }
            note("read", body.read(&mut [0]).map(drop));
            Err(AppError::msg("of no interest"))
        };
        let (bench, told) = reporting(limited(Bench::new(handler), 1000));
        let mut bench = bench.at(2000, Event::Eof);
        bench.pipe.0.borrow_mut().incoming.extend(post("/slow", "body").bytes());
        taken_away(&mut bench, &shelf, &away);
        let transcript = bench.run();
        assert!(!transcript.out.contains("too late"), "{transcript:?}");
        match begins {
            true => assert!(transcript.out.ends_with("7\r\nin time\r\n"), "{transcript:?}"),
            false => assert!(transcript.out.starts_with("HTTP/1.1 503 "), "{transcript:?}"),
        }
        assert_eq!(transcript.reason, TOO_LATE);
        assert!(log.lock().unwrap().iter().all(|line| line.ends_with("Err(TimedOut)")), "{log:?}");
        assert_eq!(log.lock().unwrap().len(), if begins { 3 } else { 2 });
        assert_eq!((told.load(Ordering::Relaxed), bench.service.counters.timed_out.get()), (1, 1));
    }
}

#[test]
fn a_handler_that_returns_at_its_timeout_is_late() {
    let handler = |_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>| {
        let drain = out.drain();
        let mut out = out.stream(ResponseHead::new(200))?;
        out.write_all(b"in time")?;
        let _ = body.read(&mut [0]);
        assert!(drain.is_set());
        Ok(())
    };
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    let transcript = limited(Bench::new(handler), 1000).bytes(0, request).run();
    assert!(transcript.out.ends_with("in time\r\n"), "no final chunk: {transcript:?}");
    assert_eq!(transcript.reason, TOO_LATE);
}

/// A handler that runs on after its response, beyond its timeout: its client has the whole
/// response.
#[test]
fn a_response_that_is_complete_is_not_cut_with_its_handler() {
    for length in [false, true] {
        let handler = move |_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>| {
            let ok = ResponseHead::new(200);
            if length {
                out.stream(ok.field("Content-Length", "5"))?.write_all(b"whole")?;
            } else {
                let mut out = out.stream(ok)?;
                out.write_all(b"whole")?;
                out.finish(http::HeaderMap::new());
            }
            assert_eq!(body.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
            Ok(())
        };
        let (bench, told) = reporting(limited(Bench::new(handler), 1000));
        let mut bench = bench.bytes(0, LATE_BODY);
        let transcript = bench.run();
        assert!(transcript.out.contains("whole"), "{transcript:?}");
        let tally = bench.service.counters.tally();
        assert_eq!((tally.finished, tally.statuses[1], tally.aborted, tally.timed_out), (1, 1, 0, 1));
        assert_eq!(told.load(Ordering::Relaxed), 1, "its thread is occupied even so");
    }
}

const LATE_BODY: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
