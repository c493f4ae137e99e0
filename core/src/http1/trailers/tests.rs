//! The fields that may follow a body.

use super::*;

/// The end of a body with a field of each of these names.
fn end(names: &[&'static str]) -> String {
    let named = |name: &&'static str| (HeaderName::from_static(name), HeaderValue::from_static("x"));
    let mut out = b"before".to_vec();
    push_end(&mut out, Some(&names.iter().map(named).collect()));
    String::from_utf8(out.split_off("before".len())).expect("ascii")
}

#[test]
fn rfc9112_7_1_2_a_body_ends_with_the_last_chunk_and_its_trailers() {
    assert_eq!(end(&[]), "0\r\n\r\n");
    assert_eq!(end(&["server-timing"]), "0\r\nserver-timing: x\r\n\r\n");
    let mut twice = HeaderMap::new();
    for value in ["1", "2"] {
        twice.append("a", HeaderValue::from_static(value));
    }
    let mut out = Vec::new();
    push_end(&mut out, Some(&twice));
    assert_eq!(out, b"0\r\na: 1\r\na: 2\r\n\r\n");
}

#[test]
fn rfc9110_6_5_1_control_fields_are_no_trailers() {
    for name in [
        "content-length",
        "transfer-encoding",
        "trailer",
        "te",
        "connection",
        "upgrade",
        "keep-alive",
        "host",
        "max-forwards",
        "range",
        "if-match",
        "if-none-match",
        "if-range",
        "expect",
        "cache-control",
        "authorization",
        "set-cookie",
        "cookie",
        "www-authenticate",
        "proxy-authorization",
        "content-type",
        "content-encoding",
        "content-range",
        "content-location",
        "date",
        "vary",
        "location",
        "retry-after",
    ] {
        assert_eq!(end(&[name]), "0\r\n\r\n", "{name}");
        assert!(read(format!("{name}: x\r\n\r").as_bytes()).is_empty(), "{name}");
    }
    for name in
        ["etag", "content-digest", "repr-digest", "server-timing", "authentication-info", "grpc-status"]
    {
        assert_eq!(end(&[name]), format!("0\r\n{name}: x\r\n\r\n"));
        assert_eq!(read(format!("{name}: x\r\n\r").as_bytes()).len(), 1, "{name}");
    }
}

#[test]
fn trailers_that_are_sent_are_read_unchanged() {
    let mut sent = HeaderMap::new();
    for (name, value) in [("b", "1"), ("a", "x y"), ("b", "\t"), ("c", "")] {
        sent.append(HeaderName::from_static(name), HeaderValue::from_str(value.trim()).expect("valid"));
    }
    let mut out = Vec::new();
    push_end(&mut out, Some(&sent));
    assert_eq!(read(&out["0\r\n".len()..]), sent);
}
