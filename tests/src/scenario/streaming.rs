//! Bodies of any size in bounded memory, both ways, and bodies that no handler reads.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::{get, get_with_body, post, post_chunks};
use crate::Harness;
use crate::client::{Client, End, PATIENCE, Response};
use crate::process::{Process, until};

const MEBIBYTE: usize = 1024 * 1024;

pub(crate) fn sixty_four_mebibytes_are_echoed_in_little_memory(harness: &Harness) {
    let server = harness.serve(&[]);
    let worker = server.worker();
    let mut client = server.connect();
    let body = noise(64 * MEBIBYTE);
    // Buffers that each thread allocates once do not count as growth.
    echo(&mut client, &body[..MEBIBYTE]);
    let before = worker.peak_memory();
    let response = echo(&mut client, &body);
    assert!(response.body == body, "{} bytes came back, or others", response.body.len());
    assert_growth(&worker, before);
}

/// The client sends its next piece only after the echo of the last one.
pub(crate) fn small_pieces_are_echoed_before_the_body_ends(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    client.send(post_chunks("/echo"));
    for (n, piece) in ["one", "two", "three"].into_iter().enumerate() {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        if n == 0 {
            assert_eq!(client.head().status, 200);
        }
        assert_eq!(client.chunk(), Ok(Some(piece.into())));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk(), Ok(None));
    // The same with a known length.
    client.send(post("/echo", 6) + "abc");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk(), Ok(Some("abc".into())));
    client.send("def");
    assert_eq!((client.chunk(), client.chunk()), (Ok(Some("def".into())), Ok(None)));
    client.get("/");
}

pub(crate) fn a_slow_reader_does_not_grow_the_worker(harness: &Harness) {
    let server = harness.serve(&[]);
    let worker = server.worker();
    // The first handler waits for its reader after each chunk, the second only when its buffer is
    // full.
    for [little, much] in [
        ["/stream?ms=0&size=16384&chunks=64", "/stream?ms=0&size=16384&chunks=2048"],
        ["/bytes?n=1048576", "/bytes?n=33554432"],
    ] {
        server.connect().get(little);
        let before = worker.peak_memory();
        let mut client = server.connect();
        client.send(get(much));
        let mut response = client.head();
        // A worker that buffered the whole response would have done so within this time.
        let grown = until(Duration::from_millis(500), || {
            let grown = worker.peak_memory().saturating_sub(before);
            (grown > MEBIBYTE as u64).then_some(grown)
        });
        assert_eq!(grown, None, "bytes that the worker has grown by for {much}");
        client.body(&mut response);
        assert_eq!(response.body.len(), 32 * MEBIBYTE);
        assert_growth(&worker, before);
    }
}

pub(crate) fn a_continue_is_sent_when_the_body_is_read(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for expectation in ["100-continue", "100-Continue"] {
        let head = post("/echo", 5).replace("\r\n\r\n", &format!("\r\nExpect: {expectation}\r\n\r\n"));
        client.send(head);
        assert_eq!(client.response().status, 100);
        client.send("hello");
        assert_eq!(client.response().text(), "hello");
    }
    // RFC 9110 §10.1.1: a client of HTTP/1.0 does not know 100.
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello");
    assert_eq!(client.last_response(200).text(), "hello");
}

pub(crate) fn a_response_that_ignores_the_body_arrives_whole(harness: &Harness) {
    let server = harness.serve(&[]);
    // The first body fits into every buffer, the second into none. A reset would lose the end of
    // the response.
    for len in [1000, 2 * MEBIBYTE] {
        let mut client = server.connect();
        let mut sender = client.sender();
        let response = thread::scope(|scope| {
            scope.spawn(move || {
                sender.write_all(&[get_with_body("/sleep?ms=50", len).as_bytes(), &noise(len)].concat())
            });
            client.response()
        });
        assert_eq!(response.status, 200);
        if response.announces_close() {
            assert_eq!(client.end(PATIENCE), End::Fin, "{len} bytes");
        } else {
            client.get("/");
        }
    }
}

pub(crate) fn a_client_that_disconnects_costs_only_its_connection(harness: &Harness) {
    let server = harness.serve(&["--threads", "1"]);
    let worker = server.worker();
    let leave: [(&str, String); 4] = [
        ("within the head", "GET / HTTP/1.1\r\nHo".into()),
        ("within the body", post("/echo", 100) + "half"),
        ("within a chunk", post_chunks("/echo") + "5\r\nhe"),
        ("within the response", get("/stream?chunks=1000&size=10000&ms=1")),
    ];
    for (when, bytes) in leave {
        let mut client = server.connect();
        client.send(bytes);
        if when == "within the response" {
            client.head();
        }
        drop(client);
        // The only handler thread is free again.
        server.connect().get("/block?ms=0");
    }
    assert_eq!(server.worker().id(), worker.id());
}

/// Sends `body` to `/echo` while reading the response.
#[track_caller]
fn echo(client: &mut Client, body: &[u8]) -> Response {
    let mut sender = client.sender();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(post("/echo", body.len()).as_bytes()).and_then(|()| sender.write_all(body))
        });
        client.response()
    })
}

#[track_caller]
fn assert_growth(worker: &Process, before: u64) {
    let grown = worker.peak_memory().saturating_sub(before);
    assert!(grown < MEBIBYTE as u64, "the worker has grown by {grown} bytes");
}

/// Bytes without a pattern, so that a lost or doubled block shows (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
