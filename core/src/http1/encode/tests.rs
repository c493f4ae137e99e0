//! Response heads as a client's parser reads them.

use proptest::prelude::*;

use super::*;

/// 1994-11-06 08:49:37.
const NOW: u64 = 784_111_777;

/// Status, reason and fields as httparse parses them.
type Read = (u16, String, Vec<(String, Vec<u8>)>);

fn read(bytes: &[u8]) -> Read {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    assert_eq!(
        response.parse(bytes),
        Ok(httparse::Status::Complete(bytes.len())),
        "{}",
        bytes.escape_ascii()
    );
    assert_eq!(response.version, Some(1));
    (
        response.code.expect("a status"),
        response.reason.expect("a reason").to_owned(),
        response.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect(),
    )
}

fn encode(head: &ResponseHead, framing: Framing, connection: ConnectionField) -> String {
    let mut out = b"before".to_vec();
    encode_head(&mut out, head, framing, connection, &HttpDate::from_unix(NOW));
    String::from_utf8(out.split_off("before".len())).expect("ascii")
}

/// The head without framing and connection fields.
fn plain(head: &ResponseHead) -> String {
    encode(head, Framing::Nothing, ConnectionField::Default)
}

#[test]
fn a_head_is_status_fields_date_framing_and_connection() {
    let head = ResponseHead::new(200).field("Content-Type", "text/plain").field("X-A", "");
    assert_eq!(
        encode(&head, Framing::Length(12), ConnectionField::Close),
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: \r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Length: 12\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        encode(&ResponseHead::new(404), Framing::Chunked, ConnectionField::KeepAlive),
        "HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\
         Connection: keep-alive\r\n\r\n"
    );
}

#[test]
fn rfc9112_4_a_status_without_a_reason_keeps_its_space() {
    assert!(plain(&ResponseHead::new(599)).starts_with("HTTP/1.1 599 \r\n"));
    assert!(plain(&ResponseHead::new(999)).starts_with("HTTP/1.1 999 \r\n"));
}

#[test]
fn rfc9110_6_6_1_date_is_sent_once_and_never_with_1xx() {
    assert_eq!(plain(&ResponseHead::new(100)), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(plain(&ResponseHead::new(204)).matches("Date: ").count(), 1);
    let own = ResponseHead::new(500).field("date", "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(
        plain(&own),
        "HTTP/1.1 500 Internal Server Error\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
    );
}

#[test]
fn rfc9110_7_6_1_hop_by_hop_fields_of_the_application_are_dropped() {
    let mut head = ResponseHead::new(200);
    for name in
        ["Connection", "keep-alive", "TE", "Trailer", "transfer-encoding", "Proxy-Connection", "Upgrade"]
    {
        head = head.field(name, "chunked");
    }
    assert_eq!(head.check(), Ok(()));
    assert!(!head.wants_close());
    assert_eq!(plain(&head), plain(&ResponseHead::new(200)));
}

#[test]
fn rfc9110_7_6_1_fields_named_by_connection_are_dropped() {
    let before = ResponseHead::new(200).field("X-Hop", "a").field("X-Kept", "b").field("date", "c");
    let head = before.field("Connection", "x-hop, close ,Date").field("x-HOP", "d").field("X-Hopper", "e");
    assert_eq!(head.check(), Ok(()));
    assert!(head.wants_close());
    assert_eq!(plain(&head), plain(&ResponseHead::new(200).field("X-Kept", "b").field("X-Hopper", "e")));
}

#[test]
fn rfc9110_6_6_2_trailers_are_announced_if_there_can_be_any() {
    let head = ResponseHead::new(200).field("Trailer", "A").field("trailer", "B, C");
    assert!(head.announces_trailers() && !ResponseHead::new(200).announces_trailers());
    let chunked = encode(&head, Framing::Chunked, ConnectionField::Default);
    assert!(chunked.ends_with("Transfer-Encoding: chunked\r\nTrailer: A, B, C\r\n\r\n"), "{chunked}");
    for framing in [Framing::Nothing, Framing::Length(1), Framing::UntilClose] {
        let other = encode(&head, framing, ConnectionField::Default);
        assert_eq!(other, encode(&ResponseHead::new(200), framing, ConnectionField::Default));
    }
}

#[test]
fn rfc9110_15_2_an_interim_head_has_no_framing_connection_or_date() {
    let mut head = ResponseHead::new(103).field("Link", "</a.css>; rel=preload");
    for (name, value) in [
        ("Content-Length", "5"),
        ("Connection", "close, x-a"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "b"),
        ("Trailer", "c"),
        ("X-A", "d"),
    ] {
        head = head.field(name, value);
    }
    let mut out = Vec::new();
    encode_interim(&mut out, &head);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    );
}

#[test]
fn a_request_to_close_is_recorded_and_not_sent() {
    let head = ResponseHead::new(200).field("Connection", "x, Close ").field("connection", "keep-alive");
    assert!(head.wants_close());
    assert_eq!(plain(&head), plain(&ResponseHead::new(200)));
    assert!(!ResponseHead::new(200).field("Connection", "closed").wants_close());
}

#[test]
fn content_length_is_written_by_the_framing_only() {
    let head = ResponseHead::new(200).field("Content-Length", "12").field("content-length", b"12");
    assert_eq!((head.check(), head.content_length()), (Ok(()), Some(12)));
    assert!(!plain(&head).contains("12\r\n"));
    assert_eq!(encode(&head, Framing::Length(12), ConnectionField::Default).matches("12\r\n").count(), 1);
    for value in ["", "+5", "-5", " 5", "5 ", "5,5", "0x5", "18446744073709551616"] {
        let head = ResponseHead::new(200).field("Content-Length", value);
        assert_eq!(head.check(), Err(FieldError::ContentLength(value.to_owned())));
    }
    let head = ResponseHead::new(200).field("Content-Length", "5").field("Content-Length", "6");
    assert_eq!(head.check(), Err(FieldError::ContentLength("6".to_owned())));
}

#[test]
fn rfc9110_5_names_are_tokens_and_values_stay_on_their_line() {
    for name in ["", " ", "a b", "a:", "a\r\n", "a\0", "é", "a\nb", "(a)"] {
        let head = ResponseHead::new(200).field(name, "b");
        assert_eq!(head.check(), Err(FieldError::Name(name.to_owned())));
        assert_eq!(plain(&head), plain(&ResponseHead::new(200)), "{name:?}");
    }
    for value in ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0", "\x7f", "\x0b"] {
        for name in ["X-A", "Connection", "Upgrade", "Content-Length", "Date"] {
            let head = ResponseHead::new(200).field(name, value);
            assert_eq!(head.check(), Err(FieldError::Value(name.to_owned())));
            assert_eq!(plain(&head), plain(&ResponseHead::new(200)), "{name}: {value:?}");
        }
    }
}

#[test]
fn the_first_error_is_kept() {
    let head = ResponseHead::new(42).field("a b", "c").field("d", "e\n");
    assert_eq!(head.check(), Err(FieldError::Status(42)));
    let head = ResponseHead::new(200).field("d", "e\n").field("a b", "c").field("Content-Length", "x");
    assert_eq!(head.check(), Err(FieldError::Value("d".to_owned())));
    for status in [0, 99, 1000, u16::MAX] {
        assert_eq!(ResponseHead::new(status).check(), Err(FieldError::Status(status)));
    }
}

#[test]
fn rfc9110_7_8_upgrade_is_sent_with_101_and_426() {
    let head = |status| ResponseHead::new(status).field("Upgrade", "websocket");
    assert_eq!(
        encode(&head(101), Framing::Nothing, ConnectionField::Upgrade),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    let required = encode(&head(426), Framing::Length(0), ConnectionField::Close);
    assert!(required.ends_with("Connection: close\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"));
    assert_eq!(plain(&head(200)), plain(&ResponseHead::new(200)));
}

#[test]
fn rfc9112_6_3_framing_follows_from_request_status_and_length() {
    use BodyLen::{Exact, Unknown};
    use Framing::{Chunked, Length, Nothing, UntilClose};
    use Version::{Http10, Http11};

    let (get, head) = (false, true);
    // status, Content-Length among the fields, length of the body, method, version
    for (status, announced, len, is_head, version, framing) in [
        (200, None, Exact(7), get, Http11, Length(7)),
        (200, None, Exact(7), get, Http10, Length(7)),
        (200, None, Exact(0), get, Http11, Length(0)),
        (200, None, Unknown, get, Http11, Chunked),
        (200, None, Unknown, get, Http10, UntilClose),
        (200, Some(7), Unknown, get, Http11, Length(7)),
        (200, Some(7), Unknown, get, Http10, Length(7)),
        (200, Some(9), Exact(7), get, Http11, Length(9)),
        (404, None, Unknown, get, Http11, Chunked),
        (200, None, Exact(7), head, Http11, Length(7)),
        (200, None, Exact(7), head, Http10, Length(7)),
        (200, None, Unknown, head, Http11, Nothing),
        (200, None, Unknown, head, Http10, Nothing),
        (200, Some(9), Unknown, head, Http11, Length(9)),
        (200, Some(9), Exact(0), head, Http11, Length(9)),
        (100, None, Exact(7), get, Http11, Nothing),
        (101, None, Unknown, get, Http11, Nothing),
        (199, Some(7), Unknown, get, Http11, Nothing),
        (204, None, Exact(0), get, Http11, Nothing),
        (204, Some(7), Unknown, get, Http10, Nothing),
        (204, None, Unknown, head, Http11, Nothing),
        (205, None, Unknown, get, Http11, Length(0)),
        (205, Some(7), Exact(7), get, Http10, Length(0)),
        (205, None, Exact(7), head, Http11, Length(0)),
        (304, None, Exact(7), get, Http11, Nothing),
        (304, None, Unknown, get, Http10, Nothing),
        (304, Some(7), Exact(0), get, Http11, Length(7)),
        (304, Some(7), Unknown, head, Http11, Length(7)),
    ] {
        let response = ResponseHead { content_length: announced, ..ResponseHead::new(status) };
        let case = format!("{status} {announced:?} {len:?} head: {is_head} {version:?}");
        assert_eq!(frame(&response, len, is_head, version), framing, "{case}");
    }
}

#[test]
fn rfc9110_6_4_1_statuses_without_content() {
    let bodiless: Vec<u16> = (100..=999).filter(|&status| ResponseHead::new(status).is_bodiless()).collect();
    let expected: Vec<u16> = (100..200).chain([204, 205, 304]).collect();
    assert_eq!(bodiless, expected);
}

/// A field's name and value. The value has any bytes that are allowed in it.
fn field() -> impl Strategy<Value = (String, Vec<u8>)> {
    let value = prop_oneof![Just(b'\t'), 0x20_u8..0x7f, 0x80_u8..];
    ("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", prop::collection::vec(value, 0..24))
}

proptest! {
    #[test]
    fn a_head_is_read_as_it_was_written(
        status in 200_u16..=999,
        fields in prop::collection::vec(field(), 0..10),
        len in any::<u64>(),
    ) {
        let mut head = ResponseHead::new(status).field("Date", "x");
        let mut sent = vec![("Date".to_owned(), b"x".to_vec())];
        for (name, value) in fields {
            let ours = ["date", "te", "upgrade", "trailer", "connection", "keep-alive", "content-length",
                "proxy-connection", "transfer-encoding"];
            if !ours.contains(&name.to_ascii_lowercase().as_str()) {
                head = head.field(&name, &value);
                // RFC 9112 §5: the white space around a value is not part of it.
                sent.push((name, value.trim_ascii().to_vec()));
            }
        }
        prop_assert_eq!(head.check(), Ok(()));
        sent.push(("Content-Length".to_owned(), len.to_string().into_bytes()));
        let mut out = Vec::new();
        encode_head(&mut out, &head, Framing::Length(len), ConnectionField::Default, &HttpDate::from_unix(0));
        let (read_status, _, read_fields) = read(&out);
        prop_assert_eq!((read_status, read_fields), (status, sent));
    }

    #[test]
    fn no_field_injects_another_line(
        name in prop::collection::vec(any::<u8>(), 0..12), value in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let name = String::from_utf8_lossy(&name);
        let head = ResponseHead::new(200).field(&name, &value).field("X-Last", "z");
        let mut out = Vec::new();
        encode_head(&mut out, &head, Framing::Nothing, ConnectionField::Default, &HttpDate::from_unix(0));
        let (_, _, fields) = read(&out);
        prop_assert!((2..=3).contains(&fields.len()));
        prop_assert!(fields.contains(&("X-Last".to_owned(), b"z".to_vec())));
    }
}
