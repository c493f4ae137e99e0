//! What proxies in front of the server say about clients: the PROXY protocol, and forwarding fields
//! of trusted peers.

use std::time::Duration;

use super::control::{done, serve};
use super::get;
use super::logs::lines;
use crate::Harness;
use crate::client::{Client, PATIENCE, Response};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x12\x34\0\x50";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The clients that the two headers name.
const NAMED_BY_V1: &str = "192.0.2.1:4660";
const NAMED_BY_V2: &str = "[2001:db8::1]:4660";

pub(crate) fn a_proxy_header_names_the_client_of_all_requests(harness: &Harness) {
    for (version, header, name) in [
        ("v1", V1, NAMED_BY_V1),
        ("v2", V2, NAMED_BY_V2),
        ("auto", V1, NAMED_BY_V1),
        ("auto", V2, NAMED_BY_V2),
    ] {
        let server = harness.serve(&["--proxy-protocol", version]);
        let mut client = server.connect();
        client.send([header, get("/info").as_bytes(), get("/info").as_bytes()].concat());
        asked_by(&client.response(), name);
        asked_by(&client.response(), name);
        client.send(get("/info"));
        asked_by(&client.response(), name);
        let mut another = server.connect();
        another.drip(&[header, get("/info").as_bytes()].concat(), Duration::ZERO);
        asked_by(&another.response(), name);
    }
}

pub(crate) fn a_proxy_header_without_an_address_leaves_the_peer_as_client(harness: &Harness) {
    let server = harness.serve(&["--proxy-protocol", "auto"]);
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut client = server.connect();
        client.send([header, get("/info").as_bytes()].concat());
        let name = client.local_address();
        asked_by(&client.response(), &name);
    }
}

pub(crate) fn a_connection_without_a_proxy_header_is_refused(harness: &Harness) {
    let server = harness.serve(&["--proxy-protocol", "v2"]);
    for bytes in [get("/").as_bytes(), V1, b"\0\0\0", &[&LOCAL[..12], b"\0"].concat()] {
        let mut client = server.connect();
        client.send(bytes);
        client.last_response(400);
    }
    const MISSING: &str = "connection refused: missing or malformed PROXY header";
    assert!(server.logs(MISSING, PATIENCE), "a missing PROXY header is not logged: {}", server.log());
    assert_eq!(server.log().matches(MISSING).count(), 1, "once a minute: {}", server.log());
    let server = harness.serve(&[]);
    for header in [V1, V2] {
        let mut client = server.connect();
        client.send([header, get("/").as_bytes()].concat());
        client.last_response(400);
    }
}

pub(crate) fn a_peer_that_may_not_send_a_proxy_header_is_refused(harness: &Harness) {
    for (list, status) in [("10.0.0.0/8", 403), ("unix", 403), ("127.0.0.0/8", 200), ("*", 200)] {
        let server = harness.serve(&["--proxy-protocol", "v1", "--proxy-allow-from", list]);
        let mut client = server.connect();
        client.send([V1, get("/info").as_bytes()].concat());
        match status {
            200 => asked_by(&client.response(), NAMED_BY_V1),
            _ => {
                client.last_response(status);
                assert!(server.logs("not allowed to send a PROXY header", PATIENCE), "{}", server.log());
            }
        }
    }
    let server = harness.serve_unix(&["--proxy-protocol", "v1", "--proxy-allow-from", "unix"]);
    let mut client = server.connect();
    client.send([V1, get("/info").as_bytes()].concat());
    asked_by(&client.response(), NAMED_BY_V1);
}

pub(crate) fn d12_a_proxy_header_that_does_not_end_is_408(harness: &Harness) {
    let server = harness.serve(&["--proxy-protocol", "v1", "--header-timeout", "0.5"]);
    let mut client = server.connect();
    client.send(&V1[..20]);
    client.last_response(408);
}

/// With a client whose header is complete, and with one whose header has arrived in part.
pub(crate) fn d19_a_client_keeps_its_address_from_the_proxy_header(harness: &Harness) {
    let server = serve(harness, &["--proxy-protocol", "auto", "--keep-alive", "60"]);
    let leaving = server.worker();
    let mut named: Vec<_> = [V1, V2].into_iter().map(|header| (server.connect(), header)).collect();
    for (client, header) in &mut named {
        client.send([header, get("/info").as_bytes()].concat());
        assert_eq!(client.response().number("pid"), leaving.id());
    }
    let mut fresh = server.connect();
    fresh.send(V1);
    let mut part = server.connect();
    part.send(&V2[..20]);
    let mut last = server.connect();
    last.send([V1, get("/").as_bytes()].concat());
    assert_eq!(last.response().status, 200, "everything sent earlier has been read");
    drop(done(harness, &server, &["recycle", "--no-wait"]));
    assert!(leaving.wait_gone(PATIENCE), "the leaving worker keeps its connections");
    let elsewhere = |client: &mut Client, bytes: &[u8], name: &str| {
        client.send([bytes, get("/info").as_bytes()].concat());
        let info = client.response();
        asked_by(&info, name);
        assert_ne!(info.number("pid"), leaving.id());
    };
    let [(first, _), (second, _)] = &mut named[..] else { unreachable!("there are two") };
    elsewhere(first, b"", NAMED_BY_V1);
    elsewhere(second, b"", NAMED_BY_V2);
    elsewhere(&mut fresh, b"", NAMED_BY_V1);
    elsewhere(&mut part, &V2[20..], NAMED_BY_V2);
}

/// The fields of two proxies, for a client that sends a forwarding field itself.
const FORWARDED: [&str; 2] = [
    "X-Forwarded-For: 198.51.100.1, 192.0.2.1, 127.0.0.9\r\nX-Forwarded-Proto: https\r\n",
    "Forwarded: for=198.51.100.1;proto=http, for=192.0.2.1;proto=https, for=127.0.0.9;proto=http\r\n",
];

pub(crate) fn a_trusted_proxy_names_the_client(harness: &Harness) {
    let log = ["--access-logfile", "access.log", "--access-logformat", "%(h)s %(U)s"];
    let trusting = harness.serve(&[&["--forwarded-allow-ips", "127.0.0.0/8"], &log[..]].concat());
    let mut client = trusting.connect();
    for fields in FORWARDED {
        client.send(asking(fields));
        said(&client.response(), "192.0.2.1", "https");
    }
    // The fields count for one request only.
    client.send(get("/info"));
    let name = client.local_address();
    said(&client.response(), &name, "http");
    assert_eq!(
        lines(trusting.dir(), "access.log", 3),
        ["192.0.2.1 /info", "192.0.2.1 /info", "127.0.0.1 /info"]
    );

    let unix = harness.serve_unix(&["--forwarded-allow-ips", ""]);
    let mut client = unix.connect();
    client.send(asking("X-Forwarded-For: 192.0.2.1\r\n"));
    said(&client.response(), "192.0.2.1", "http");
}

pub(crate) fn forwarding_fields_of_an_untrusted_peer_are_ignored(harness: &Harness) {
    let server = harness.serve(&["--forwarded-allow-ips", "10.0.0.0/8"]);
    let mut client = server.connect();
    let name = client.local_address();
    for fields in FORWARDED.into_iter().chain(CONTRADICTIONS) {
        client.send(asking(fields));
        said(&client.response(), &name, "http");
    }
}

pub(crate) fn contradicting_fields_of_a_trusted_proxy_are_refused(harness: &Harness) {
    let server = harness.serve(&[]);
    for fields in CONTRADICTIONS {
        let mut client = server.connect();
        client.send(asking(fields));
        client.last_response(400);
    }
}

const CONTRADICTIONS: [&str; 3] = [
    "Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n",
    "Forwarded: proto=http\r\nX-Forwarded-Proto: https\r\n",
    "Forwarded: for=\"192.0.2.1\r\n",
];

/// The client cannot correct what a proxy writes. The request is served, and the application still
/// sees the field.
pub(crate) fn a_request_is_served_despite_a_malformed_client_address(harness: &Harness) {
    let server = harness.serve(&[]);
    for (fields, name) in [
        ("X-Forwarded-For: fe80::1%eth0\r\n", Some("fe80::1")),
        ("Forwarded: for=\"[fe80::1%eth0]:4711\"\r\n", Some("[fe80::1]:4711")),
        ("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http, https\r\n", Some("192.0.2.1")),
        ("X-Forwarded-For: nobody\r\n", None),
        ("X-Forwarded-Host: a, b\r\n", None),
        ("Forwarded: for=2001:db8::g\r\n", None),
    ] {
        let mut client = server.connect();
        client.send(asking(fields));
        let local = client.local_address();
        said(&client.response(), name.unwrap_or(&local), "http");
    }
    assert!(server.logs("forwarding field of a proxy not understood", PATIENCE), "{}", server.log());
}

pub(crate) fn fields_with_an_underscore_are_dropped_by_default(harness: &Harness) {
    let request = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nContent_Length: 5\r\nTransfer_Encoding: \
        chunked\r\n\r\nok";
    let headers = get("/headers").replace("\r\n\r\n", "\r\nX_User: root\r\nX-User: me_too\r\n\r\n");
    for (map, arrives) in [("drop", false), ("dangerous", true)] {
        let server = harness.serve(&["--header-map", map]);
        let mut client = server.connect();
        client.send(request);
        assert_eq!(client.response().text(), "ok");
        client.send(&headers);
        let text = client.response().text().to_lowercase();
        assert!(text.contains("x-user: me_too\n"), "{text}");
        assert_eq!(text.contains("x_user"), arrives, "{text}");
    }
    let server = harness.serve(&["--header-map", "refuse"]);
    let mut client = server.connect();
    client.get("/headers?a_b");
    client.send(&headers);
    client.last_response(400);
}

/// A request for `/info` with these fields.
fn asking(fields: &str) -> String {
    format!("GET /info HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

/// Asserts the client address and the scheme that `/info` reports.
#[track_caller]
fn said(info: &Response, client: &str, scheme: &str) {
    asked_by(info, client);
    assert!(info.text().contains(&format!("\"scheme\":{scheme:?}")), "not {scheme}: {info:?}");
}

/// Asserts the client address that `/info` reports.
#[track_caller]
fn asked_by(info: &Response, client: &str) {
    assert_eq!(info.status, 200, "{info:?}");
    assert!(info.text().contains(&format!("\"client\":{client:?}")), "not {client}: {info:?}");
}
