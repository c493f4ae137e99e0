//! Connections that are reused, and those that are not (RFC 9112 §9.3).

use std::time::Instant;

use super::{get, took};
use crate::Harness;
use crate::client::{End, PATIENCE};

pub(crate) fn a_connection_is_reused(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!(response.text(), "Hello, World!");
        assert!(!response.announces_close());
    }
}

pub(crate) fn connection_close_is_honoured(harness: &Harness) {
    let server = harness.serve(&[]);
    for option in ["close", "Close", "foo, close"] {
        let mut client = server.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: {option}\r\n\r\n"));
        client.last_response(200);
    }
}

pub(crate) fn http_1_0_closes_after_its_response(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.last_response(200);
}

pub(crate) fn http_1_0_keeps_a_connection_on_request(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        let connection = response.field("connection").unwrap_or_default();
        assert!(connection.eq_ignore_ascii_case("keep-alive"), "{response:?}");
    }
}

pub(crate) fn pipelined_requests_are_answered_in_order(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    // The slowest request comes first: answering in order of completion would reverse them.
    client.send([get("/sleep?ms=100"), get("/bytes?n=2"), get("/bytes?n=3")].concat());
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().body.len(), 2);
    assert_eq!(client.response().body.len(), 3);
    assert_eq!(client.get("/bytes?n=4").body.len(), 4);
}

pub(crate) fn keep_alive_of_zero_closes_after_each_response(harness: &Harness) {
    let server = harness.serve(&["--keep-alive", "0"]);
    let mut client = server.connect();
    client.send(get("/"));
    client.last_response(200);
}

pub(crate) fn an_idle_connection_ends_after_its_keep_alive(harness: &Harness) {
    let server = harness.serve(&["--keep-alive", "1"]);
    let mut client = server.connect();
    let opened = Instant::now();
    client.get("/sleep?ms=300");
    assert_eq!(client.end(PATIENCE), End::Fin);
    took("the connection ended", opened, 1.25..2.5);
}
