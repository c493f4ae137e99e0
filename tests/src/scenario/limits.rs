//! What a client may not exceed, and what it is told then (RFC 9110 §15.5, RFC 6585 §5).

use std::time::{Duration, Instant};

use super::{get, post, post_chunks, took};
use crate::Harness;
use crate::client::{End, PATIENCE};

pub(crate) fn a_long_request_line_is_414(harness: &Harness) {
    let server = harness.serve(&["--limit-request-line", "100"]);
    let target = |line: usize| format!("/bytes?n=1&{}", "x".repeat(line - "GET /bytes?n=1& HTTP/1.1".len()));
    server.connect().get(&target(100));
    let mut client = server.connect();
    client.send(get(&target(101)));
    client.last_response(414);
    // A line that never ends is not read to its end.
    let mut client = server.connect();
    client.send(format!("GET /{}", "x".repeat(4000)));
    client.last_response(414);
}

pub(crate) fn a_long_field_is_431(harness: &Harness) {
    let server = harness.serve(&["--limit-request-field-size", "100"]);
    let with =
        |len: usize| format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(len - "X: ".len()));
    let mut client = server.connect();
    client.send(with(100));
    assert_eq!(client.response().status, 200);
    client.send(with(101));
    client.last_response(431);
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", "x".repeat(4000)));
    client.last_response(431);
}

pub(crate) fn too_many_fields_are_431(harness: &Harness) {
    let server = harness.serve(&["--limit-request-fields", "10"]);
    let with =
        |fields: usize| format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", "X: 1\r\n".repeat(fields - 1));
    let mut client = server.connect();
    client.send(with(10));
    assert_eq!(client.response().status, 200);
    client.send(with(11));
    client.last_response(431);
}

pub(crate) fn a_body_over_its_announced_limit_is_413(harness: &Harness) {
    let server = harness.serve(&["--limit-request-body", "1000"]);
    let mut client = server.connect();
    client.send(post("/echo", 1000) + &"x".repeat(1000));
    assert_eq!(client.response().body.len(), 1000);
    // Refused for what it announces, before any of it is sent.
    client.send(post("/echo", 1001));
    client.last_response(413);
}

pub(crate) fn a_chunked_body_over_the_limit_is_413(harness: &Harness) {
    let server = harness.serve(&["--limit-request-body", "1000"]);
    let mut client = server.connect();
    client.send(post_chunks("/echo") + "3e8\r\n" + &"x".repeat(1000) + "\r\n0\r\n\r\n");
    assert_eq!(client.response().body.len(), 1000);
    client.send(post_chunks("/echo") + "3e9\r\n" + &"x".repeat(1001) + "\r\n0\r\n\r\n");
    match client.try_response() {
        Ok(response) => {
            assert_eq!((response.status, response.announces_close()), (413, true), "{response:?}");
            assert_eq!(client.end(PATIENCE), End::Fin);
        }
        // The head of the echo had been sent already.
        Err(broken) => assert!(broken.is_cut_by_server(), "{broken}"),
    }
}

pub(crate) fn a_full_worker_stops_accepting_and_drops_nobody(harness: &Harness) {
    let server = harness.serve(&["--worker-connections", "2"]);
    let mut open = [server.connect(), server.connect()];
    for client in &mut open {
        client.get("/");
    }
    let mut waiting = server.connect();
    waiting.send(get("/"));
    assert!(!waiting.has_more(Duration::from_millis(300)), "a third connection was served or dropped");
    drop(open);
    assert_eq!(waiting.response().status, 200);
}

pub(crate) fn requests_wait_for_a_handler_thread(harness: &Harness) {
    let server = harness.serve(&["--threads", "2"]);
    let start = Instant::now();
    let mut clients = [(); 4].map(|()| server.connect());
    for client in &mut clients {
        client.send(get("/block?ms=300"));
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    took("four requests were answered by two threads", start, 0.6..1.2);
}
