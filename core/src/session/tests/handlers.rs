//! Errors of handlers, and what their peers see.

use super::*;
use crate::machine::CloseReason;
use crate::testing::{Event, Transcript};

/// The outcome of a request for `target`, with another one after it.
fn asked(target: &str, short: bool) -> Transcript {
    bench_of(short).bytes(0, get(target) + &get("/")).at(1, Event::Eof).run()
}

fn starts(transcript: &Transcript, status: &str) -> bool {
    transcript.out.starts_with(&format!("HTTP/1.1 {status} "))
}

#[test]
fn an_error_before_the_head_is_a_500_and_the_connection_stays() {
    for short in [false, true] {
        for target in ["/fail", "/nothing", "/bad-field", "/interim"] {
            let transcript = asked(target, short);
            assert!(starts(&transcript, "500"), "{target}: {transcript:?}");
            assert!(transcript.out.ends_with("hello"), "{target}: {transcript:?}");
            assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
            assert!(!transcript.out.contains("paper"), "the error is not shown to the peer");
        }
    }
}

#[test]
fn a_panic_before_the_head_is_a_500_and_the_end_and_is_counted() {
    for short in [false, true] {
        let mut bench = bench_of(short).bytes(0, get("/panic") + &get("/"));
        let transcript = bench.run();
        assert!(starts(&transcript, "500") && transcript.out.contains(CLOSE), "{transcript:?}");
        assert_eq!((count(&transcript.out, "HTTP/1.1"), transcript.reason), (1, Some(CloseReason::Finished)));
        assert_eq!(bench.service.counters.panics.get(), 1);
    }
}

#[test]
fn a_failure_after_the_head_cuts_the_response() {
    for short in [false, true] {
        for target in ["/late-fail", "/late-panic"] {
            let transcript = asked(target, short);
            assert!(transcript.out.ends_with("\r\n\r\n4\r\npart\r\n"), "no final chunk: {transcript:?}");
            assert_eq!(transcript.reason, Some(CloseReason::ApplicationFailed));
        }
    }
}

#[test]
fn a_body_shorter_than_its_length_cuts_the_response() {
    let transcript = asked("/short-body", false);
    assert!(transcript.out.ends_with("Content-Length: 4\r\n\r\nabc"), "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::ApplicationFailed));
}

#[test]
fn a_body_longer_than_its_length_is_not_sent_beyond_it() {
    for target in ["/long-body", "/caught-long-body"] {
        let transcript = asked(target, false);
        assert!(transcript.out.ends_with("Content-Length: 4\r\n\r\n"), "{transcript:?}");
        assert_eq!(transcript.log[1], "Err(InvalidInput)");
        assert_eq!(transcript.reason, Some(CloseReason::ApplicationFailed));
    }
    assert_eq!(asked("/caught-long-body", false).log[2], "Err(BrokenPipe)", "a write after the end");
}

#[test]
fn a_truncated_request_body_is_an_unexpected_end() {
    for (short, script) in [
        (false, "Content-Length: 9\r\n\r\nhalf"),
        (true, "Content-Length: 9\r\n\r\nhalf"),
        (false, "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        (true, "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
    ] {
        let script = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{script}");
        let transcript = bench_of(short).bytes(0, script).at(1, Event::Eof).run();
        assert_eq!(transcript.log[1], "body half Err(UnexpectedEof)");
        assert_eq!((transcript.out.as_str(), transcript.reason), ("", Some(CloseReason::PeerAborted)));
    }
}

#[test]
fn rfc9110_9_3_2_a_head_request_is_refused_without_content() {
    for (request, body) in [("HEAD / HTTP/1.1\r\n\r\n", false), ("HEADS / HTTP/1.1\r\n\r\n", true)] {
        let out = bench().bytes(0, format!("\r\n{request}")).run().out;
        assert!(out.starts_with("HTTP/1.1 400 ") && out.contains("\r\nContent-Length: "), "{out}");
        assert_eq!(!out.ends_with("\r\n\r\n"), body, "{out}");
    }
}

#[test]
fn a_faulty_body_is_refused_even_if_unread() {
    let request = |target: &str, chunks: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
    };
    for bench in [bench, short_bench] {
        for target in ["/", "/stream?3", "/fail"] {
            let transcript = bench().bytes(0, request(target, "1\r\nab\r\n0\r\n\r\n") + &get("/")).run();
            assert!(transcript.out.starts_with("HTTP/1.1 400 "), "{target}: {transcript:?}");
            assert_eq!(transcript.out.matches("HTTP/").count(), 1, "{target}: {transcript:?}");
            assert_eq!(transcript.reason, Some(CloseReason::Refused), "{target}");
        }
        let fine = bench().bytes(0, request("/", "1\r\na\r\n0\r\n\r\n") + &get("/")).run();
        assert_eq!(fine.out.matches("HTTP/1.1 200 ").count(), 2, "{fine:?}");
    }
}

#[test]
fn a_malformed_body_is_refused_at_once() {
    for short in [false, true] {
        let script = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfourX";
        let mut bench = bench_of(short).bytes(0, script);
        bench.until(1);
        assert!(starts(&bench.transcript(), "400"), "short: {short}: {:?}", bench.transcript());
        assert_eq!(bench.run().reason, Some(CloseReason::Refused));
    }
}

#[test]
fn a_body_over_the_limit_is_413_with_or_without_a_length() {
    for short in [false, true] {
        for framing in [
            "Content-Length: 11\r\n\r\nhello world",
            "Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
        ] {
            let script = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}");
            let mut bench = bench_of(short).limits(|limits| limits.body = 10).bytes(0, script);
            let transcript = bench.run();
            assert!(starts(&transcript, "413"), "{transcript:?}");
            assert_eq!(transcript.reason, Some(CloseReason::Refused));
        }
    }
}

#[test]
fn each_body_is_measured_by_itself() {
    let script = post("/", &"u".repeat(60)) + &post("/echo", &"r".repeat(60));
    for read_most in [usize::MAX, 7] {
        let mut bench = bench().limits(|limits| limits.body = 100).bytes(0, &script).at(1, Event::Eof);
        bench.pipe.0.borrow_mut().read_most = read_most;
        let transcript = bench.run();
        assert_eq!(count(&transcript.out, "200 OK"), 2, "{transcript:?}");
    }
}

#[test]
fn a_fault_in_one_body_does_not_affect_the_next() {
    // The first handler answers, then reads a body that is over the limit, and ignores the error.
    let handler = |head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>| {
        let mut out = out.stream(ResponseHead::new(200))?;
        let mut all = Vec::new();
        let read = body.read_to_end(&mut all);
        Ok(out.write_all(format!("{} {}", head.target(), read.is_ok()).as_bytes())?)
    };
    let chunked =
        "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n";
    let transcript = Bench::new(handler)
        .limits(|limits| limits.body = 10)
        .bytes(0, chunked.to_owned() + &post("/two", "fine"))
        .at(1, Event::Eof)
        .run();
    assert!(transcript.out.contains("/one false") && transcript.out.contains("/two true"), "{transcript:?}");
}

#[test]
fn a_short_handler_runs_once_its_body_is_complete() {
    let (begun, rest) = ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab", "cd");
    let mut bench = short_bench().bytes(0, begun).bytes(100, rest);
    bench.until(99);
    assert_eq!(bench.log.lock().expect("not poisoned").len(), 0);
    bench.until(100);
    assert!(bench.out().ends_with("abcd"));
}

#[test]
fn a_short_handler_with_a_large_body_runs_where_it_may_block() {
    let body = "b".repeat(200_000);
    for script in [
        post("/count", &body),
        format!(
            "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n{body}\r\n0\r\n\r\n"
        ),
    ] {
        let transcript = short_bench().bytes(0, script).at(1, Event::Eof).run();
        assert!(transcript.out.ends_with("200000 bytes"), "{transcript:?}");
    }
}

#[test]
fn a_short_handler_that_would_block_gets_an_error_and_is_cut() {
    let transcript = asked("/flood?100", true);
    assert_eq!(transcript.log[1], "write failed: WouldBlock");
    assert!(!transcript.out.ends_with("0\r\n\r\n"));
    assert_eq!(transcript.reason, Some(CloseReason::ApplicationFailed));
    let upgraded = bench_of(true).bytes(0, upgrade()).at(1, Event::Eof).run();
    assert_eq!(upgraded.reason, Some(CloseReason::ApplicationFailed), "{upgraded:?}");
}

#[test]
fn a_handler_of_a_vanished_peer_gets_an_error() {
    let mut bench = bench().bytes(0, get("/flood?1000")).at(5, Event::Reset);
    bench.pipe.0.borrow_mut().room = 5000;
    let transcript = bench.run();
    assert_eq!(transcript.log[1], "write failed: ConnectionReset");
    assert_eq!(transcript.reason, Some(CloseReason::TransportFailed));
}

#[test]
fn rfc9110_10_1_1_a_100_is_sent_when_the_body_is_read() {
    let head = |target: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    };
    let asked = bench().bytes(0, head("/echo")).bytes(5, "body").at(9, Event::Eof).run();
    assert!(asked.out.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{asked:?}");
    assert!(!asked.out.contains(CLOSE));

    let unasked = bench().bytes(0, head("/")).run();
    assert!(starts(&unasked, "200") && unasked.out.contains(CLOSE), "{unasked:?}");

    let unneeded = bench().bytes(0, head("/echo") + "body" + &get("/")).at(1, Event::Eof).run();
    assert_eq!((count(&unneeded.out, "100"), count(&unneeded.out, "200 OK")), (0, 2), "{unneeded:?}");
}
