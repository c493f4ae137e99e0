//! Connections that change protocol after a 101 (RFC 9110 §7.8).

use super::{get, took};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::process::Server;

pub(crate) fn an_upgraded_connection_carries_bytes_both_ways(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = upgrade(&server, "/upgrade");
    for word in ["GET / HTTP/1.1\r\n\r\n", "\0\u{1}", "end"] {
        client.send(word);
        assert_eq!(client.bytes(word.len()), word.as_bytes());
    }
    client.half_close();
    assert_eq!(client.end(PATIENCE), End::Fin);
}

pub(crate) fn d13_upgraded_connection_is_told_of_the_drain(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "10"]);
    let mut client = upgrade(&server, "/upgrade");
    let start = server.drain();
    assert_eq!(client.end(PATIENCE), End::Fin);
    took("it ended", start, 0.0..1.5);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d13_upgraded_connection_is_in_flight_until_the_deadline(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "1"]);
    let mut client = upgrade(&server, "/ignore-drain");
    let start = server.drain();
    client.send("still there");
    assert_eq!(client.bytes(11), b"still there");
    assert_ne!(client.end(PATIENCE), End::StillOpen);
    took("it ended", start, 0.9..2.0);
    assert_eq!(server.exit(PATIENCE), 6);
}

/// A connection upgraded to an echo of bytes. The first bytes are sent in one piece with the
/// request.
#[track_caller]
pub(super) fn upgrade(server: &Server, path: &str) -> Client {
    let mut client = server.connect();
    client.send(request(path) + "early");
    let response = client.response();
    assert_eq!(response.status, 101, "{response:?}");
    assert_eq!(response.field("upgrade"), Some("echo"));
    let connection = response.field("connection").unwrap_or_default();
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{response:?}");
    assert_eq!(client.bytes(5), b"early");
    client
}

/// A request for `path` that offers an upgrade.
pub(super) fn request(path: &str) -> String {
    get(path).replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
}
