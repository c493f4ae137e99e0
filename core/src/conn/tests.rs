//! The connection on its own: commands in any state, and its answers to queries.

use std::time::Duration;

use super::*;
use crate::config::HIGH_WATER;
use crate::exchange::BodyRead;
use crate::http1::{BodyError, BodyLen, ResponseHead};
use crate::shutdown::{Announce, ConnView, Drain, Idle, Reason, ShutdownPolicy};
use crate::testing::{Bench, START, ms};

/// A connection on which `script` has arrived, and the request at its beginning.
fn with(script: &str, cx: &Cx<'_>) -> Connection {
    let mut connection = Connection::new(Origin::new(0, Peer::Unix, 0), START);
    feed(&mut connection, script);
    assert!(matches!(connection.poll_event(cx), Some(Event::Request(_))));
    connection
}

fn feed(connection: &mut Connection, bytes: &str) {
    connection.read_buf()[..bytes.len()].copy_from_slice(bytes.as_bytes());
    connection.handle_read(bytes.len(), START);
}

fn bench() -> Bench {
    Bench::new(|_: &crate::http1::Head<'_>, _: crate::app::BodyReader<'_>, _: crate::app::Responder<'_>| {
        Ok(())
    })
}

/// All queued bytes, as if they had been sent.
fn sent(connection: &mut Connection) -> String {
    let mut all = Vec::new();
    while !connection.writer.is_empty() {
        let mut out = IoSlices::new();
        connection.transmit(&mut out);
        out.as_slices().iter().for_each(|slice| all.extend_from_slice(slice));
        let n = out.bytes();
        connection.handle_written(n, START);
    }
    String::from_utf8(all).expect("text")
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";

#[test]
fn a_request_is_answered_once() {
    let bench = bench();
    let cx = bench.world.cx();
    let mut connection = with(GET, &cx);
    let head = ResponseHead::new(200);
    assert_eq!(connection.write(b"x", START), Err(RespondError::NoRequest));
    assert_eq!(connection.finish(START), Err(RespondError::NoRequest));
    assert_eq!(connection.respond(&head, BodyLen::Exact(1), &cx), Ok(()));
    assert_eq!(connection.respond(&head, BodyLen::Exact(1), &cx), Err(RespondError::NoRequest));
    assert_eq!(connection.finish(START), Err(RespondError::TooShort { length: 1, written: 0 }));
    assert_eq!(connection.write(b"x", START), Err(RespondError::Closed));
    assert_eq!(connection.finish(START), Err(RespondError::Closed));
}

#[test]
fn a_failed_response_leaves_the_request_unanswered() {
    let bench = bench();
    let cx = bench.world.cx();
    let mut connection = with(GET, &cx);
    assert_eq!(
        connection.respond(&ResponseHead::new(103), BodyLen::Unknown, &cx),
        Err(RespondError::Interim(103))
    );
    let invalid = ResponseHead::new(200).field("a b", "c");
    assert!(matches!(connection.respond(&invalid, BodyLen::Unknown, &cx), Err(RespondError::Field(_))));
    assert_eq!(connection.upgrade(&ResponseHead::new(200), &cx), Err(RespondError::NotOffered));
    assert_eq!(connection.upgrade(&ResponseHead::new(101), &cx), Err(RespondError::NotOffered));
    assert!(connection.awaits_response() && connection.writer.is_empty());
}

#[test]
fn a_request_with_an_unread_body_cannot_be_upgraded() {
    let bench = bench();
    let cx = bench.world.cx();
    let mut connection = with(&UPGRADE.replacen("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\n", 1), &cx);
    assert_eq!(connection.upgrade(&ResponseHead::new(101), &cx), Err(RespondError::NotOffered));
}

#[test]
fn no_100_is_sent_for_a_refused_request() {
    let bench = bench();
    let cx = bench.world.cx();
    for expect in ["", "Expect: 100-continue\r\n"] {
        let post = format!("POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 5\r\n\r\n");
        let mut connection = with(&post, &cx);
        connection.refuse(Refusal::BodyTimeout, &cx);
        assert_eq!(connection.collect_body(&cx), Buffered::Complete);
        assert_eq!(connection.read_body(&mut [0; 5], &cx), BodyRead::Aborted(BodyError::Closed));
        let sent = sent(&mut connection);
        assert!(sent.starts_with("HTTP/1.1 408 ") && sent.matches("HTTP/1.1").count() == 1, "{sent}");
    }
}

#[test]
fn a_response_without_content_discards_written_bytes() {
    let bench = bench();
    let cx = bench.world.cx();
    for (request, status) in [(GET.replace("GET", "HEAD"), 200), (GET.to_owned(), 204), (GET.to_owned(), 304)]
    {
        let mut connection = with(&request, &cx);
        connection.respond(&ResponseHead::new(status), BodyLen::Unknown, &cx).expect("it is the first");
        assert_eq!(connection.write(b"content", START), Ok(7));
        connection.write_shared(Bytes::from(vec![b'c'; 100_000]), START).expect("it is discarded too");
        connection.finish(START).expect("nothing is missing");
        let out = sent(&mut connection);
        assert!(out.ends_with("\r\n\r\n") && !out.contains("content"), "{status}: {out}");
        assert_eq!(connection.state(), ConnState::Idle);
    }
}

#[test]
fn states_have_the_names_of_the_contract() {
    let bench = bench();
    let cx = bench.world.cx();
    let mut connection = Connection::new(Origin::new(0, Peer::Unix, 0), START);
    assert_eq!(connection.state(), ConnState::Fresh);
    feed(&mut connection, "GET /");
    assert!(connection.poll_event(&cx).is_none());
    assert_eq!(connection.state(), ConnState::Head);
    feed(&mut connection, " HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.poll_event(&cx).is_some());
    assert_eq!(connection.state(), ConnState::Busy);
    connection.respond(&ResponseHead::new(200), BodyLen::Exact(0), &cx).expect("it is the first");
    connection.finish(START).expect("it is complete");
    assert_eq!(connection.state(), ConnState::Busy, "until the last byte is flushed");
    sent(&mut connection);
    assert_eq!(connection.state(), ConnState::Idle);
}

#[test]
fn an_upgraded_connection_is_in_flight() {
    let bench = bench();
    let cx = bench.world.cx();
    let mut connection = with(UPGRADE, &cx);
    connection.upgrade(&ResponseHead::new(101).field("Upgrade", "x"), &cx).expect("it is a 101");
    sent(&mut connection);
    assert_eq!(connection.state(), ConnState::Upgraded);
    assert!(connection.in_flight() && connection.hand_off(connection.usage.idle_since).is_none());
}

/// A policy that keeps everything open.
#[derive(Debug)]
struct Open;

impl ShutdownPolicy for Open {
    fn idle(&self, _: &Drain, _: &ConnView, _: Time) -> Idle {
        Idle::Keep { until: Time::MAX }
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::KeepAlive
    }
}

#[test]
fn d6_at_the_deadline_every_response_announces_close() {
    let mut bench = bench().policy(Open);
    bench.world.drain = Some(Drain::new(Reason::Stop, START, START + ms(100)));
    for (now, next, closes) in [(99, "", false), (100, "", true), (100, GET, true)] {
        bench.world.now = START + ms(now);
        let cx = bench.world.cx();
        let mut connection = with(&(GET.to_owned() + next), &cx);
        connection.respond(&ResponseHead::new(200), BodyLen::Exact(0), &cx).expect("it is the first");
        connection.finish(cx.now).expect("it is complete");
        assert_eq!(sent(&mut connection).contains("Connection: close"), closes, "at {now} ms, then {next:?}");
    }
}

#[test]
fn ending_twice_keeps_the_first_reason() {
    let bench = bench();
    let cx = bench.world.cx();
    let mut connection = with(GET, &cx);
    connection.abort(CloseReason::ApplicationFailed);
    connection.abort(CloseReason::PeerAborted);
    connection.handle_eof(START);
    assert_eq!(connection.ending(&cx), Some(Step::Close(CloseReason::ApplicationFailed)));
    connection.end(CloseReason::TransportFailed);
    connection.refuse(Refusal::BadField, &cx);
    assert_eq!(connection.ending(&cx), Some(Step::Close(CloseReason::ApplicationFailed)));
    assert_eq!((connection.unsent(), connection.deadline(&cx)), (0, None));
}

#[test]
fn the_time_in_which_an_application_computes_is_not_the_peers() {
    let mut bench = bench().limits(|limits| limits.write_timeout = ms(5000));
    let mut connection = with(GET, &bench.world.cx());
    let piece = [b'x'; HIGH_WATER];
    connection.respond(&ResponseHead::new(200), BodyLen::Unknown, &bench.world.cx()).expect("the first");
    for _ in 0..10 {
        let queued = connection.write(&piece, bench.world.now);
        assert!(queued.is_ok_and(|n| n > 0));
        // The peer reads some of it at once, and more an hour later.
        connection.handle_written(HIGH_WATER / 2, bench.world.now);
        let deadline = connection.handle_time(&bench.world.cx());
        assert!(deadline.is_some_and(|deadline| deadline.at > bench.world.now), "{deadline:?}");
        assert!(connection.write(b"and it goes on", bench.world.now).is_ok());
        bench.world.now = bench.world.now + Duration::from_secs(3600);
        connection.handle_written(HIGH_WATER / 2 - 1000, bench.world.now);
    }
    assert!(!connection.is_ending());
}
