//! Responses with 1xx, trailers and hop-by-hop fields, responses that must not be sent, and bodies
//! that differ from what their heads say (RFC 9110, RFC 9112).

use std::time::Duration;

use super::{get, get_with_body, post, post_chunks};
use crate::Harness;
use crate::client::{Client, End, Framing, PATIENCE};
use crate::fixture::message::EVIL;
use crate::process::{Server, until};

pub(crate) fn early_hints_are_sent_while_the_handler_runs(harness: &Harness) {
    let server = harness.serve(&["--interim-responses"]);
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(get("/message/hints"));
        hinted(&mut client, "</1.css>; rel=preload");
        assert!(!client.has_more(Duration::from_millis(50)), "the handler is still running");
        hinted(&mut client, "</2.css>; rel=preload");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "done"));
        assert!(response.field("link").is_none(), "{response:?}");
    }
    client.send(get("/message/hints").replace("1.1", "1.0"));
    assert_eq!(client.last_response(200).text(), "done");
}

/// Widely used clients take a 103 for the final response.
pub(crate) fn early_hints_are_sent_only_if_the_setting_is_on(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(get("/message/hints"));
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "done"));
    }
}

#[track_caller]
fn hinted(client: &mut Client, link: &str) {
    let hint = client.response();
    assert_eq!((hint.status, &hint.fields), (103, &vec![("link".to_owned(), link.to_owned())]));
}

pub(crate) fn no_100_is_sent_if_the_handler_does_not_read_the_body(harness: &Harness) {
    let server = harness.serve(&[]);
    let expecting = |expectation: &str, len: usize| {
        get_with_body("/", len).replace("\r\n\r\n", &format!("\r\nExpect: {expectation}\r\n\r\n"))
    };
    // RFC 9110 §10.1.1: the client may send the body or not, so no other request can follow on this
    // connection.
    for len in [5, 300_000] {
        let mut client = server.connect();
        client.send(expecting("100-continue", len));
        assert_eq!(client.last_response(200).text(), "Hello, World!");
    }

    // A body that has already arrived needs no 100.
    let mut client = server.connect();
    client.send(post("/echo", 5).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\nhello"));
    let mut response = client.response();
    if response.status == 100 {
        response = client.response();
    }
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    client.get("/");

    let mut client = server.connect();
    client.send(expecting("100-continue, more", 5));
    client.last_response(417);
    let mut client = server.connect();
    client.send(expecting("more", 5).replace("1.1", "1.0") + "hello");
    client.last_response(200);
}

pub(crate) fn trailers_reach_the_application_and_the_client(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    let request = post_chunks("/message/trailers")
        + "4\r\nbody\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nAuthorization: none\r\nHost: other\r\n\r\n";
    for _ in 0..2 {
        client.send(&request);
        let head = client.head();
        assert_eq!((head.status, head.framing), (200, Framing::Chunked), "{head:?}");
        assert_eq!(head.field("trailer"), Some("X-Sum"));
        let end = "4\r\ndone\r\n0\r\nx-sum: 7\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&client.bytes(end.len())), end);
    }
    client.send(request.replace("POST", "HEAD"));
    let head = client.head();
    assert_eq!((head.status, head.field("trailer")), (200, None), "{head:?}");

    // HTTP/1.0 has neither chunks nor trailers.
    client.send(post("/message/trailers", 0).replace("1.1", "1.0"));
    let response = client.response();
    assert_eq!((response.framing, response.text().as_str()), (Framing::UntilClose, "done"));
    assert_eq!(response.field("trailer"), None, "{response:?}");

    // A trailer section over the limit is refused.
    let mut client = server.connect();
    client.send(post_chunks("/message/trailers") + "0\r\n" + &"a: b\r\n".repeat(101) + "\r\n");
    assert_eq!(client.last_response(400).framing, Framing::Length("malformed chunked coding\n".len()));
}

pub(crate) fn hop_by_hop_fields_of_the_application_are_not_sent(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for version in ["1.1", "1.0"] {
        let request = get("/message/hops").replace("1.1", version);
        client.send(request.replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n"));
        let response = client.response();
        let mut names: Vec<_> = response.fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let (ours, said) =
            if version == "1.0" { (vec!["connection"], Some("keep-alive")) } else { (vec![], None) };
        assert_eq!(names, [ours, vec!["content-length", "date", "x-kept"]].concat(), "{response:?}");
        assert_eq!(response.field("connection"), said, "{response:?}");
    }
    client.get("/");
}

pub(crate) fn responses_without_content_have_none_in_any_version(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for version in ["1.1", "1.0"] {
        for (method, code) in
            [("GET", 204), ("GET", 205), ("GET", 304), ("HEAD", 200), ("HEAD", 205), ("HEAD", 304)]
        {
            for body in ["", "&body=1"] {
                client.send(format!(
                    "{method} /status?code={code}{body} HTTP/{version}\r\nHost: test\r\nConnection: keep-alive\r\n\r\n"
                ));
                let head = client.head();
                assert_eq!(head.status, code, "{head:?}");
                assert!(head.field("transfer-encoding").is_none(), "{head:?}");
                match code {
                    205 => assert_eq!(head.framing, Framing::Length(0), "{head:?}"),
                    204 => assert_eq!(head.framing, Framing::Nothing, "{head:?}"),
                    _ => {}
                }
            }
        }
        client.get("/bytes?n=3");
    }
}

pub(crate) fn a_response_of_the_wrong_length_is_cut_and_logged(harness: &Harness) {
    let server = harness.serve(&[]);
    for path in ["length", "sent"] {
        for (length, written) in [(9, 4), (3, 4)] {
            let mut client = server.connect();
            client.send(get(&format!("/message/{path}?{length}")) + &get("/"));
            let broken = client.try_response().expect_err("the response is cut");
            assert!(broken.is_cut_by_server(), "{broken}");
            let target = format!("GET /message/{path}?{length}");
            assert!(server.logs(&target, PATIENCE), "{target}: {}", server.log());
            let log = server.log();
            let told = log.lines().find(|line| line.contains(&target)).unwrap_or_default();
            assert!(told.contains(&format!("{written} bytes")), "{told}");
            assert!(told.contains(&format!("its content-length is {length}")), "{told}");
        }
    }
    // The Content-Length of a response to HEAD is that of the response to GET.
    let mut client = server.connect();
    client.send(get("/message/sent?9").replace("GET", "HEAD"));
    assert_eq!(client.head().framing, Framing::Length(9));
    client.get("/");
}

pub(crate) fn a_field_of_the_application_cannot_inject_another(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    for place in ["value", "name", "upgrade", "interim", "status"] {
        for n in 0..EVIL.len() {
            client.send(get(&format!("/message/inject?{place}-{n}")));
            let response = client.response();
            assert_eq!(response.status, 500, "{place} {n}: {response:?}");
            assert!(response.field("injected").is_none(), "{place} {n}: {response:?}");
        }
    }
    for place in ["trailer", "trailername"] {
        for n in 0..EVIL.len() {
            client.send(get(&format!("/message/inject?{place}-{n}")));
            assert_eq!(client.response().status, 500, "{place} {n}");
        }
    }
    client.get("/");
}

pub(crate) fn a_truncated_body_is_an_error_to_the_application(harness: &Harness) {
    // More than the server reads before it starts a handler.
    let part = "x".repeat(200_000);
    for head in [post("/message/collect", 300_000), post_chunks("/message/collect") + "493e0\r\n"] {
        let body = head + &part;
        let server = harness.serve(&[]);
        let mut client = server.connect();
        client.send(&body);
        client.half_close();
        assert!(server.logs("<broken the client ended the connection within the request body>", PATIENCE));
        if let Ok(response) = client.try_response() {
            assert_eq!(response.status, 400);
        }
        assert_eq!(client.end(PATIENCE), End::Fin);
        assert_nothing_whole(&server);

        let server = harness.serve(&[]);
        let mut client = server.connect();
        server.begin(&mut client, &body);
        client.vanish();
        // A future is dropped together with its connection.
        let is_noticed = || {
            let log = server.log();
            (log.contains("<broken") || log.contains("<dropped>")).then_some(())
        };
        assert!(until(PATIENCE, is_noticed).is_some(), "{}", server.log());
        assert_nothing_whole(&server);
    }
}

#[track_caller]
fn assert_nothing_whole(server: &Server) {
    assert!(!server.log().contains("<whole"), "{}", server.log());
}
