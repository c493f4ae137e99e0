//! Where messages end (RFC 9112 §6 and §7), by the corpus and by cases written here.

use std::cell::RefCell;

use super::{get, post_chunks};
use crate::Harness;
use crate::client::{Client, End, Framing, PATIENCE, Response};
use crate::corpus::{Case, cases};

pub(crate) fn the_corpus_is_answered_as_expected(harness: &Harness) {
    replay(harness, "whole", |request| vec![request.len()]);
}

pub(crate) fn the_corpus_is_answered_alike_byte_by_byte(harness: &Harness) {
    // Long requests in the corpus are long because a letter repeats, so pieces of more than one
    // byte will do.
    replay(harness, "byte by byte", |request| vec![1 + request.len() / 1000; request.len()]);
}

pub(crate) fn the_corpus_is_answered_alike_in_any_pieces(harness: &Harness) {
    let seed = fastrand::u64(..);
    let chance = RefCell::new(fastrand::Rng::with_seed(seed));
    replay(harness, &format!("in pieces by seed {seed}"), |request| {
        (0..6).map(|_| chance.borrow_mut().usize(1..=request.len())).collect()
    });
}

/// How many cases are sent at once, each on a connection of its own.
const AT_ONCE: usize = 64;

/// Sends every case of the corpus on a connection of its own, in pieces of these lengths and a
/// piece of each in turn, and compares the responses with what the case expects.
fn replay(harness: &Harness, how: &str, lengths: impl Fn(&[u8]) -> Vec<usize>) {
    // The server stops reading when the linger time is over. A client that still sends then is
    // reset and loses the response.
    let server = harness.serve(&["--linger", "60"]);
    for cases in cases().chunks(AT_ONCE) {
        let mut clients: Vec<_> = cases.iter().map(|_| server.connect()).collect();
        let mut rest: Vec<_> = cases.iter().map(|case| &case.request[..]).collect();
        let lengths: Vec<_> = cases.iter().map(|case| lengths(&case.request)).collect();
        for turn in 0.. {
            for ((client, rest), lengths) in clients.iter_mut().zip(&mut rest).zip(&lengths) {
                let most = lengths.get(turn).copied().unwrap_or(usize::MAX);
                let (piece, after) = rest.split_at(most.min(rest.len()));
                if !piece.is_empty() {
                    // The server need not read beyond a fault.
                    client.try_send(piece).ok();
                }
                *rest = after;
            }
            if rest.iter().all(|rest| rest.is_empty()) {
                break;
            }
        }
        for (case, client) in cases.iter().zip(&mut clients) {
            check(case, client, &format!("{}, {how}", case.name));
        }
    }
}

fn check(case: &Case, client: &mut Client, what: &str) {
    let mut requests = case.events.iter().filter_map(|event| event.strip_prefix("request "));
    let mut open = true;
    for expected in &case.expected {
        assert!(open, "{what}: the connection ended before {expected:?}");
        let is_head = requests.next().is_some_and(|request| request.starts_with("HEAD "));
        open = expected.keep;
        let response = loop {
            match if is_head { client.try_head() } else { client.try_response() } {
                Ok(Response { status: 100, .. }) => {}
                result => break result,
            }
        };
        let response = match response {
            Err(broken) if expected.cut && broken.is_cut_by_server() => continue,
            response => response.unwrap_or_else(|broken| panic!("{what}: {broken}")),
        };
        assert_eq!(response.status, expected.status, "{what}: {response:?}");
        if let Some(body) = &expected.body {
            assert_eq!(&response.text(), body, "{what}");
        }
        assert_eq!(response.announces_close(), !expected.keep, "{what}: {response:?}");
        assert!(response.field("date").is_some(), "{what}: {response:?}");
    }
    if open {
        // Bytes that were read of this request must not become the beginning of the next.
        client.send(get("/bytes?n=7"));
        let next = client.try_response().unwrap_or_else(|broken| panic!("{what}, next: {broken}"));
        assert_eq!((next.status, next.body.len()), (200, 7), "{what}: {next:?}");
    } else {
        assert_eq!(client.end(PATIENCE), End::Fin, "{what}");
    }
}

pub(crate) fn a_known_length_is_announced(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    assert_eq!(client.get("/").framing, Framing::Length(13));
    let response = client.get("/bytes?n=100000");
    assert_eq!((response.framing, response.body.len()), (Framing::Length(100_000), 100_000));
    assert!(response.field("date").is_some_and(|date| date.ends_with(" GMT")), "{response:?}");
}

pub(crate) fn a_response_to_head_has_no_content(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for path in ["/", "/bytes?n=13", "/stream?chunks=2&size=10&ms=0"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.status, 200, "{path}");
        if !path.starts_with("/stream") {
            // RFC 9110 §8.6: the length that a response to GET would have.
            assert_eq!(head.field("content-length"), Some("13"), "{path}");
        }
        assert_eq!(client.get("/bytes?n=3").body.len(), 3, "after {path}");
    }
}

pub(crate) fn statuses_without_content_have_none(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for code in [204, 304] {
        for body in ["", "&body=1"] {
            client.send(get(&format!("/status?code={code}{body}")));
            let response = client.response();
            assert_eq!((response.status, response.framing), (code, Framing::Nothing), "{response:?}");
        }
    }
    client.send(get("/status?code=404"));
    let response = client.response();
    assert_eq!((response.status, response.framing), (404, Framing::Length(0)), "{response:?}");
    client.get("/");
}

pub(crate) fn an_unknown_length_is_chunked_for_http_1_1(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    let response = client.get("/stream?chunks=5&size=1000&ms=1");
    assert_eq!((response.framing, response.body.len()), (Framing::Chunked, 5000));
    client.get("/");
}

pub(crate) fn an_unknown_length_ends_with_the_connection_for_http_1_0(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    client.send("GET /stream?chunks=5&size=1000&ms=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!((response.framing, response.body.len()), (Framing::UntilClose, 5000));
}

pub(crate) fn a_bad_chunk_is_never_a_short_body(harness: &Harness) {
    let server = harness.serve(&[]);
    for bad in [
        "5\r\nhelloX",
        "g\r\n",
        "5\nhello",
        "fffffffffffffffff\r\n",
        "-1\r\n",
        "0\r\n\nx",
        "0\r\nbad trailer\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.send([&post_chunks("/echo"), "3\r\nabc\r\n", bad].concat());
        match client.try_response() {
            // Refused before the head of the response was sent, or cut afterwards.
            Ok(response) => {
                assert_eq!(response.status, 400, "{bad:?}: {response:?}");
                assert_eq!(client.end(PATIENCE), End::Fin, "{bad:?}");
            }
            Err(broken) => assert!(broken.is_cut_by_server(), "{bad:?}: {broken}"),
        }
    }
}
