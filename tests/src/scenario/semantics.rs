//! Response fields and framing for every kind of request (RFC 9110 §6 to §10 and §15, RFC 9112 §6
//! and §9), with the built-in application.

use super::{get, post};
use crate::Harness;
use crate::client::{Client, End, Framing, PATIENCE, Response};

pub(crate) fn rfc9110_6_6_1_every_response_has_a_date(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for target in
        ["/", "/nothing", "/status?code=304", "/status?code=204", "/status?code=503", "/stream?chunks=1&ms=0"]
    {
        client.send(get(target));
        assert_dated(&client.response(), target);
    }
    for (bad, status) in [("GET / HTTP/1.1\r\n\r\n", 400), ("GET / HTTP/2.0\r\n\r\n", 505)] {
        let mut client = server.connect();
        client.send(bad);
        assert_dated(&client.last_response(status), bad);
    }
}

/// Asserts that `response` has a Date in the one form that a sender may use (RFC 9110 §5.6.7).
fn assert_dated(response: &Response, what: &str) {
    let date = response.field("date").unwrap_or_default();
    let like = "Sun, 06 Nov 1994 08:49:37 GMT";
    let is_like = |(byte, like): (u8, u8)| match like {
        b'0'..=b'9' => byte.is_ascii_digit(),
        b'A'..=b'Z' => byte.is_ascii_uppercase(),
        b'a'..=b'z' => byte.is_ascii_lowercase(),
        _ => byte == like,
    };
    assert!(date.len() == like.len() && date.bytes().zip(like.bytes()).all(is_like), "{what}: {response:?}");
}

pub(crate) fn rfc9110_9_3_2_head_has_the_fields_of_get(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for target in [
        "/",
        "/bytes?n=70000",
        "/headers",
        "/sleep?ms=0",
        "/nothing",
        "/sleep?ms=x",
        "/status?code=404&body=1",
    ] {
        client.send(get(target));
        let mut got = client.response();
        client.send(get(target).replacen("GET", "HEAD", 1));
        let mut head = client.head();
        for response in [&mut got, &mut head] {
            response.fields.retain(|(name, _)| name != "date");
        }
        assert_eq!((got.status, got.fields), (head.status, head.fields), "{target}");
    }
    client.get("/");
}

pub(crate) fn rfc9110_15_5_6_a_405_lists_the_allowed_methods(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for (target, allowed) in
        [("/", "GET, HEAD, OPTIONS"), ("/bytes?n=1", "GET, HEAD, OPTIONS"), ("/echo", "POST, OPTIONS")]
    {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"] {
            let response = ask(&mut client, method, target);
            let is_allowed = allowed.split(", ").any(|allowed| allowed == method);
            assert_eq!(response.status, if is_allowed { 200 } else { 405 }, "{method} {target}");
            let told = (!is_allowed || method == "OPTIONS").then_some(allowed);
            assert_eq!(response.field("allow"), told, "{method} {target}");
        }
        // RFC 9110 §9.1
        assert_eq!(ask(&mut client, "BREW", target).status, 501, "{target}");
    }
    for (method, target) in [("GET", "/nothing"), ("PUT", "/nothing"), ("OPTIONS", "/nothing")] {
        assert_eq!(ask(&mut client, method, target).status, 404, "{method} {target}");
    }
    // RFC 9110 §9.3.7: the methods of the server as a whole.
    let response = ask(&mut client, "OPTIONS", "*");
    assert_eq!((response.status, response.framing), (200, Framing::Length(0)), "{response:?}");
    assert_eq!(response.field("allow"), Some("GET, HEAD, POST, OPTIONS"));
}

fn ask(client: &mut Client, method: &str, target: &str) -> Response {
    client.send(get(target).replacen("GET", method, 1));
    if method == "HEAD" { client.head() } else { client.response() }
}

pub(crate) fn rfc9110_15_each_status_has_its_framing(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for body in [0, 1] {
        for code in (200..=226).chain(300..=308).chain(400..=451).chain(500..=511).chain([299, 599]) {
            client.send(get(&format!("/status?code={code}&body={body}")));
            let response = client.response();
            let framing = match (code, body) {
                (204 | 304, _) => Framing::Nothing,
                (205, _) | (_, 0) => Framing::Length(0),
                _ => Framing::Length("content of a 200\n".len()),
            };
            assert_eq!((response.status, response.framing), (code, framing), "body={body}: {response:?}");
            assert!(!response.announces_close(), "body={body}: {response:?}");
            let required = match code {
                401 => Some("www-authenticate"),
                405 => Some("allow"),
                407 => Some("proxy-authenticate"),
                426 => Some("upgrade"),
                _ => None,
            };
            assert!(required.is_none_or(|name| response.field(name).is_some()), "{response:?}");
        }
    }
}

pub(crate) fn rfc9110_10_1_1_a_100_is_sent_only_if_expected(harness: &Harness) {
    let server = harness.serve(&[]);
    let expecting = |request: String| request.replacen("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1);
    let mut client = server.connect();
    client.send(expecting(post("/echo", 5)));
    let interim = client.response();
    assert_eq!((interim.status, interim.fields.len()), (100, 0), "{interim:?}");
    client.send("hello");
    assert_eq!(client.response().text(), "hello");
    // There is no body, so the client waits for nothing.
    client.send(expecting(get("/")));
    assert_eq!(client.response().status, 200);
    // No handler reads this body. If no 100 was sent, the server cannot know whether the body
    // follows, so the connection is not reused.
    client.send(expecting(post("/", 5)));
    let mut response = client.response();
    if response.status == 100 {
        client.send("hello");
        response = client.response();
    } else {
        assert!(response.announces_close(), "{response:?}");
    }
    assert_eq!(response.status, 405, "{response:?}");
    let mut client = server.connect();
    client.send(expecting(post("/echo", 5)).replacen("HTTP/1.1", "HTTP/1.0", 1) + "hello");
    assert_eq!(client.last_response(200).text(), "hello");
}

pub(crate) fn rfc9112_9_6_a_refusal_arrives_despite_unread_bytes(harness: &Harness) {
    let server = harness.serve(&[]);
    for bad in
        ["GET / HTTP/1.1\r\nX A: b\r\n\r\n", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"]
    {
        let mut client = server.connect();
        client.send([bad.as_bytes(), &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20_000)].concat());
        let response = client.response();
        assert_eq!((response.status, response.announces_close()), (400, true), "{response:?}");
        assert_eq!(client.end(PATIENCE), End::Fin, "{bad:?}");
    }
}
