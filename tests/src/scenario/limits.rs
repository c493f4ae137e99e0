//! Limits on what a client may send, and the status of each refusal (RFC 9110 §15.5, RFC 6585 §5).

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::{get, get_with_body, post, post_chunks, took};
use crate::Harness;
use crate::client::{End, PATIENCE};

pub(crate) fn a_long_request_line_is_414(harness: &Harness) {
    let server = harness.serve(&["--limit-request-line", "100"]);
    let target = |line: usize| format!("/bytes?n=1&{}", "x".repeat(line - "GET /bytes?n=1& HTTP/1.1".len()));
    server.connect().get(&target(100));
    let mut client = server.connect();
    client.send(get(&target(101)));
    client.last_response(414);
    // A line without end is not read to its end.
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

pub(crate) fn a_head_over_its_limit_is_431(harness: &Harness) {
    let server = harness.serve(&["--limit-request-head", "1000"]);
    let before = "GET / HTTP/1.1\r\nHost: test\r\n";
    let with = |len: usize| {
        let fields = "X: 1\r\n".repeat(50);
        let rest = len - before.len() - fields.len() - "Y: \r\n\r\n".len();
        format!("{before}{fields}Y: {}\r\n\r\n", "y".repeat(rest))
    };
    let mut client = server.connect();
    client.send(with(1000));
    assert_eq!(client.response().status, 200);
    client.send("\r\n".to_owned() + &with(998));
    assert_eq!(client.response().status, 200);
    client.send("\r\n".to_owned() + &with(999));
    client.last_response(431);
    // Neither a head without end is read to its end, nor empty lines before a head.
    for endless in [before.to_owned() + &"X: 1\r\n".repeat(200), "\r\n".repeat(501)] {
        let mut client = server.connect();
        client.send(endless);
        client.last_response(431);
    }
}

pub(crate) fn a_body_over_its_announced_limit_is_413(harness: &Harness) {
    let server = harness.serve(&["--limit-request-body", "1000"]);
    let mut client = server.connect();
    client.send(post("/echo", 1000) + &"x".repeat(1000));
    assert_eq!(client.response().body.len(), 1000);
    // Refused for the announced length, before any of the body is sent.
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

pub(crate) fn a_client_that_is_still_sending_sees_its_413(harness: &Harness) {
    let server = harness.serve(&["--limit-request-body", "1000"]);
    // No 100 is sent before a refusal, and a chunked body is refused before its end.
    let expecting = post("/collect", 1 << 20).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    for begun in [expecting, post("/collect", 1 << 20), post_chunks("/collect") + "100000\r\n"] {
        let mut client = server.connect();
        let mut sender = client.sender();
        client.send(begun);
        thread::scope(|scope| {
            scope.spawn(move || sender.write_all(&vec![b'x'; 1 << 20]));
            client.last_response(413);
        });
    }
    let mut client = server.connect();
    let start = Instant::now();
    client.send(post_chunks("/collect") + "fff\r\n" + &"x".repeat(1001));
    client.last_response(413);
    took("the refusals came", start, 0.0..5.0);
}

pub(crate) fn chunks_with_more_framing_than_allowed_are_400(harness: &Harness) {
    let server = harness.serve(&["--limit-request-framing", "100"]);
    for (extension, trailer) in [(99, 0), (1, 98)] {
        let body = |more: usize| {
            let (extension, trailer) = ("e".repeat(extension + more), "t".repeat(trailer + more));
            format!("0;{extension}\r\nT:{trailer}\r\n\r\n")
        };
        let mut client = server.connect();
        client.send(post_chunks("/collect") + &body(0));
        assert_eq!(client.response().text(), "0\n");
        client.send(post_chunks("/collect") + &body(2));
        client.last_response(400);
    }
}

pub(crate) fn an_unread_body_is_discarded_up_to_its_limit(harness: &Harness) {
    let server = harness.serve(&["--limit-unread-body", "1000"]);
    let mut client = server.connect();
    client.send(get_with_body("/sleep?ms=0", 1000) + &"x".repeat(1000));
    assert_eq!(client.response().status, 200);
    client.send(get_with_body("/sleep?ms=0", 1001) + &"x".repeat(1001));
    client.last_response(200);
}

pub(crate) fn a_pipeline_is_answered_whatever_its_budget(harness: &Harness) {
    for budget in ["1", "65536"] {
        let server = harness.serve(&["--pipeline-budget", budget]);
        let mut client = server.connect();
        let wanted = 1..=100;
        client.send(wanted.clone().map(|n| get(&format!("/bytes?n={n}"))).collect::<String>());
        for n in wanted {
            assert_eq!(client.response().body.len(), n);
        }
    }
}

pub(crate) fn a_full_worker_stops_accepting_and_drops_no_client(harness: &Harness) {
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
