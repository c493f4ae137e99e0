//! Heads by the rule they keep or break. Each of them is also parsed byte by byte, see [`verdict`].

use proptest::prelude::*;

use super::parse::decimal;
use super::*;

const LIMITS: HeadLimits =
    HeadLimits { head: 32 * 1024, request_line: 8190, fields: 100, field_size: 8190, framing: 16 * 1024 };

/// The result for the shortest prefix of `bytes` that has one. Every longer prefix must have the
/// same.
fn verdict(bytes: &[u8], limits: HeadLimits) -> Parsed {
    let mut out = RequestHead::default();
    let mut verdict = Parsed::Partial;
    for n in 0..=bytes.len() {
        let now = parse_head(&bytes[..n], limits, &mut out);
        if verdict != Parsed::Partial {
            assert_eq!(now, verdict, "after {n} bytes of {:?}", String::from_utf8_lossy(bytes));
        }
        verdict = now;
    }
    verdict
}

fn refused(bytes: impl AsRef<[u8]>) -> Refusal {
    match verdict(bytes.as_ref(), LIMITS) {
        Parsed::Refused(refusal) => refusal,
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(bytes.as_ref())),
    }
}

fn complete(bytes: impl AsRef<[u8]>) -> RequestHead {
    let bytes = bytes.as_ref();
    assert_eq!(verdict(bytes, LIMITS), Parsed::Complete(bytes.len()), "{:?}", String::from_utf8_lossy(bytes));
    let mut head = RequestHead::default();
    parse_head(bytes, LIMITS, &mut head);
    head.buf = bytes.to_vec();
    head
}

/// A request with these field lines and Host.
fn with(version: &str, fields: &str) -> String {
    format!("POST /a HTTP/{version}\r\nHost: example.org\r\n{fields}\r\n")
}

fn framing(fields: &str) -> Result<Decoder, Refusal> {
    let text = with("1.1", fields);
    match verdict(text.as_bytes(), LIMITS) {
        Parsed::Complete(_) => Ok(complete(text).framing),
        Parsed::Refused(refusal) => Err(refusal),
        Parsed::Partial => panic!("incomplete: {text:?}"),
    }
}

#[test]
fn a_complete_head_is_seen_as_it_was_sent() {
    let head = complete(
        "GET /a/b?c=d?e HTTP/1.1\r\nHost: example.org:8000\r\nX-Empty:\r\n\
         x-odd: \t a, \"b\" \t\r\nX-Odd: c\r\n\r\n",
    );
    let view = head.view();
    assert_eq!((view.method(), view.target(), view.version()), ("GET", "/a/b?c=d?e", Version::Http11));
    assert_eq!((view.path(), view.query()), ("/a/b", Some("c=d?e")));
    assert_eq!(
        view.fields().collect::<Vec<_>>(),
        [("Host", &b"example.org:8000"[..]), ("X-Empty", b""), ("x-odd", b"a, \"b\""), ("X-Odd", b"c"),]
    );
    assert_eq!(view.field("X-ODD"), Some(&b"a, \"b\""[..]), "the first of two");
    assert_eq!(view.field("x-od"), None);
    assert_eq!(head.framing, Decoder::none());
    assert!(!head.is_head && !head.expects_continue && head.keep_alive);
}

#[test]
fn a_reused_head_keeps_nothing_of_the_previous_one() {
    let mut head = RequestHead::default();
    let first = b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n";
    parse_head(first, LIMITS, &mut head);
    assert!(head.is_head && head.expects_continue && head.framing == Decoder::length(7));
    let second = b"GET / HTTP/1.0\r\n\r\n";
    parse_head(second, LIMITS, &mut head);
    assert!(!head.is_head && !head.expects_continue && !head.keep_alive);
    assert_eq!((head.version(), head.framing.clone()), (Version::Http10, Decoder::none()));
    assert_eq!(head.view().fields().count(), 0);
}

#[test]
fn rfc9112_2_2_empty_lines_before_the_request_line_are_skipped() {
    let head = complete("\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.view().method(), head.view().path()), ("GET", "/a"));
    assert_eq!(verdict(b"\r\n\r\n\r", LIMITS), Parsed::Partial);
    assert_eq!(refused("\r\n\rGET / HTTP/1.1\r\n"), Refusal::BadRequestLine);
    assert_eq!(refused("\nGET / HTTP/1.0\r\n\r\n"), Refusal::BadRequestLine);
    assert_eq!(refused("\r\n\nGET / HTTP/1.0\r\n\r\n"), Refusal::BadRequestLine);
}

#[test]
fn rfc9112_2_2_every_line_ends_with_crlf() {
    assert_eq!(refused("GET / HTTP/1.0\n\r\n"), Refusal::BadRequestLine);
    assert_eq!(refused("GET / HTTP/1.0\r\n\n"), Refusal::BadField);
    assert_eq!(refused("GET / HTTP/1.0\n\n"), Refusal::BadRequestLine);
    for fields in ["A: b\nC: d\r\n", "A: b\r\nC: d\n", "A:\nC: d\r\n", "A: b \t\nC: d\r\n", "A: b\n", "A:\n"]
    {
        assert_eq!(refused(with("1.1", fields)), Refusal::BadField, "{fields:?}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\n"), Refusal::BadField);
}

#[test]
fn rfc9112_2_2_a_bare_cr_is_no_line_end() {
    assert_eq!(refused("GET / HTTP/1.1\rHost: a\r\n\r\n"), Refusal::BadRequestLine);
    assert_eq!(refused("GET /\rHTTP/1.1\r\n\r\n"), Refusal::BadRequestLine);
    for fields in ["A: b\rC: d\r\n", "A:\rC: d\r\n", "A: b\r\r\n", "A\r: b\r\n"] {
        assert_eq!(refused(with("1.1", fields)), Refusal::BadField, "{fields:?}");
    }
    assert_eq!(refused("GET / HTTP/1.0\r\n\rA: b\r\n\r\n").status(), 400);
}

#[test]
fn rfc9112_3_a_request_line_is_three_parts_and_single_spaces() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / a HTTP/1.1",
        "GET /",
        "GET",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "G(T / HTTP/1.1",
        "G\0T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.",
        "GET / HTTP/1.10",
        "GET / HTTP/11",
        "GET / HTTX/1.1",
        "GET / HTTP/+.1",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_eq!(refused(format!("{line}\r\nHost: a\r\n\r\n")), Refusal::BadRequestLine, "{line:?}");
    }
    assert_eq!(refused(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::BadRequestLine);
}

#[test]
fn rfc9110_9_1_methods_are_case_sensitive_tokens() {
    for method in ["get", "Head", "PROPFIND", "M-SEARCH", "!#$%&'*+-.^_`|~", "GE", "POSTS", "X"] {
        let head = complete(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(head.view().method(), method);
        assert!(!head.is_head);
    }
    assert!(complete("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").is_head);
}

#[test]
fn rfc9110_15_6_6_other_versions_are_not_supported() {
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/9.9"] {
        assert_eq!(refused(format!("GET / {version}\r\nHost: a\r\n\r\n")), Refusal::UnknownVersion);
        assert_eq!(refused(format!("\r\nGET / {version}")), Refusal::UnknownVersion);
    }
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Refusal::UnknownVersion);
    assert_eq!(verdict(b"GET / HTTP/2.", LIMITS), Parsed::Partial);
}

#[test]
fn rfc9110_2_5_a_higher_minor_version_is_processed_as_1_1() {
    for minor in 2..=9 {
        let head = complete(format!("\r\nGET /a?b HTTP/1.{minor}\r\nHost: a\r\nContent-Length: 5\r\n\r\n"));
        assert_eq!((head.view().path(), head.version(), head.keep_alive), ("/a", Version::Http11, true));
        assert_eq!(head.view().request_line(), format!("GET /a?b HTTP/1.{minor}").as_bytes());
        assert_eq!(head.framing, Decoder::length(5));
        assert_eq!(refused(format!("GET / HTTP/1.{minor}0\r\nHost: a\r\n\r\n")), Refusal::BadRequestLine);
        assert_eq!(refused(format!("GET / HTTP/1.{minor}\r\n\r\n")), Refusal::BadHost);
        assert_eq!(refused(format!("GET / HTTP/1.{minor}\nHost: a\r\n\r\n")), Refusal::BadRequestLine);
    }
}

#[test]
fn rfc9110_9_3_6_no_request_follows_a_connect() {
    assert!(!complete("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: keep-alive\r\n\r\n").keep_alive);
}

#[test]
fn rfc9112_3_2_host_is_sent_exactly_once() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Refusal::BadHost);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost:\r\n\r\n"), Refusal::BadHost);
    assert_eq!(refused("GET / HTTP/1.1\r\nHosts: a\r\nHos: b\r\n\r\n"), Refusal::BadHost);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), Refusal::BadHost);
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), Refusal::BadHost);
    complete("GET / HTTP/1.0\r\n\r\n");
    complete("GET / HTTP/1.0\r\nHOST: a\r\n\r\n");
}

#[test]
fn rfc9112_3_2_a_faulty_host_or_target_is_refused() {
    for host in ["a b", "u@a", "a:b", "a:65536", "[::1", "a/b"] {
        assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Refusal::BadHost, "{host:?}");
        let text = format!("GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n");
        if host != "a/b" {
            assert_eq!(refused(&text), Refusal::BadRequestLine, "{host:?}");
        }
    }
    for target in ["/#a", "a", "*", "/<a>", "http://"] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused(&text), Refusal::BadRequestLine, "{target:?}");
    }
    assert_eq!(complete("GET http://b?c HTTP/1.1\r\nHost: a\r\n\r\n").view().path(), "/");
    assert_eq!(refused("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Misdirected);
}

#[test]
fn rfc9112_5_1_a_colon_follows_the_name_at_once() {
    for fields in
        ["A : b\r\n", "A\t: b\r\n", " A: b\r\n", "A b: c\r\n", ": b\r\n", "A\r\n", "Content-Length : 5\r\n"]
    {
        assert_eq!(refused(with("1.1", fields)), Refusal::BadField, "{fields:?}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), Refusal::BadField);
}

#[test]
fn rfc9112_5_2_folded_lines_are_refused() {
    for fields in ["A: b\r\n c\r\n", "A: b\r\n\tc\r\n", "A:\r\n b\r\n", "Transfer-Encoding:\r\n chunked\r\n"]
    {
        assert_eq!(refused(with("1.1", fields)), Refusal::BadField, "{fields:?}");
    }
}

#[test]
fn rfc9110_5_5_values_have_no_control_characters() {
    for byte in (0_u8..32).chain([127]).filter(|b| !b"\t\r\n".contains(b)) {
        let text = with("1.1", &format!("A: b{}c\r\n", byte as char));
        assert_eq!(refused(text), Refusal::BadField, "{byte}");
        let text = with("1.1", &format!("A{}: b\r\n", byte as char));
        assert_eq!(refused(text), Refusal::BadField, "{byte}");
    }
    let mut text = with("1.1", "A: \t b\t\"c\"").into_bytes();
    text.splice(text.len() - 2.., *b"\x80\xff\r\n\r\n");
    assert_eq!(complete(text).view().field("a"), Some(&b"b\t\"c\"\x80\xff"[..]));
}

#[test]
fn rfc9110_8_6_content_length_is_digits_only() {
    for (value, n) in [("0", 0), ("5", 5), ("0005", 5), ("18446744073709551615", u64::MAX), (" \t5 ", 5)] {
        assert_eq!(framing(&format!("content-LENGTH:{value}\r\n")), Ok(Decoder::length(n)), "{value:?}");
    }
    let long = "9".repeat(400);
    for value in [
        "",
        " ",
        "+5",
        "-5",
        "0x10",
        "1e3",
        "5.0",
        "5,",
        ",5",
        "5 ,5",
        "5, 5",
        "5 5",
        "5;a",
        "\"5\"",
        "five",
        "５",
        "18446744073709551616",
        "99999999999999999999",
        &long,
    ] {
        let fields = format!("Content-Length: {value}\r\n");
        assert_eq!(framing(&fields), Err(Refusal::BadContentLength), "{value:?}");
    }
}

#[test]
fn rfc9112_6_3_content_length_is_not_repeated() {
    let twice = |a, b| framing(&format!("Content-Length: {a}\r\nX: y\r\nContent-Length: {b}\r\n"));
    assert_eq!(twice("5", "5"), Err(Refusal::BadContentLength));
    assert_eq!(twice("5", "6"), Err(Refusal::BadContentLength));
    assert_eq!(twice("0", "5"), Err(Refusal::BadContentLength));
    assert_eq!(twice("5", ""), Err(Refusal::BadContentLength));
}

#[test]
fn rfc9112_6_1_transfer_encoding_with_content_length_is_refused() {
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\ntransfer-encoding: CHUNKED\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:\r\n",
    ] {
        assert_eq!(framing(fields), Err(Refusal::AmbiguousFraming), "{fields:?}");
    }
}

#[test]
fn rfc9112_6_1_transfer_encoding_in_http_1_0_is_refused() {
    for fields in
        ["Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n"]
    {
        assert_eq!(refused(with("1.0", fields)), Refusal::AmbiguousFraming, "{fields:?}");
    }
}

#[test]
fn rfc9112_6_3_chunked_is_the_last_coding_and_only_there() {
    for value in ["chunked", "Chunked", " \tCHUNKED\t "] {
        assert_eq!(
            framing(&format!("Transfer-Encoding:{value}\r\n")),
            Ok(Decoder::chunked(LIMITS.framing)),
            "{value:?}"
        );
    }
    for value in [
        "",
        ",",
        ",chunked",
        "chunked,",
        "chunked, identity",
        "chunked, gzip",
        "chunked, chunked",
        "chunked, gzip, chunked",
        "chunked chunked",
        "chunked;q=1",
        "chunked ;",
        "\"chunked\"",
        "gzip, chunked;q=1",
        "gzip,, chunked",
        "gz(ip",
        ";q=1",
    ] {
        let fields = format!("Transfer-Encoding: {value}\r\n");
        assert_eq!(framing(&fields), Err(Refusal::AmbiguousFraming), "{value:?}");
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
    ] {
        assert_eq!(framing(fields), Err(Refusal::AmbiguousFraming), "{fields:?}");
    }
}

#[test]
fn rfc9112_6_1_other_codings_are_not_implemented() {
    for fields in [
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity,chunked\r\n",
        "Transfer-Encoding: gzip;q=\"1\" , chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ] {
        assert_eq!(framing(fields), Err(Refusal::UnknownTransferCoding), "{fields:?}");
    }
}

#[test]
fn rfc9112_9_3_persistence_is_by_version_and_connection() {
    for (version, fields, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: upgrade , CLOSE\r\n", false),
        ("1.1", "Connection: upgrade\r\nconnection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: closed, not-close\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: close\r\nConnection: keep-alive\r\n", false),
        ("1.0", "Connection: keep-alives\r\n", false),
    ] {
        assert_eq!(complete(with(version, fields)).keep_alive, keep_alive, "{version} {fields:?}");
    }
}

#[test]
fn rfc9110_7_8_an_upgrade_takes_both_fields_and_http_1_1() {
    for (version, fields, offered) in [
        ("1.1", "Connection: keep-alive, Upgrade\r\nUPGRADE: a, b/2\r\n", true),
        ("1.1", "Upgrade: a\r\nConnection: close\r\nConnection: upgrade\r\n", true),
        ("1.1", "Upgrade: a\r\n", false),
        ("1.1", "Connection: upgrade\r\n", false),
        ("1.1", "Connection: upgraded\r\nUpgrade: a\r\n", false),
        ("1.0", "Connection: upgrade\r\nUpgrade: a\r\n", false),
    ] {
        assert_eq!(complete(with(version, fields)).offers_upgrade, offered, "{version} {fields:?}");
    }
}

#[test]
fn rfc9110_10_1_1_a_100_is_expected_in_http_1_1_only() {
    for (version, fields, expected) in [
        ("1.1", "Expect: 100-continue\r\n", true),
        ("1.1", "expect: 100-Continue,\r\nExpect: 100-continue\r\n", true),
        ("1.1", "Expect:\r\n", false),
        ("1.1", "", false),
        ("1.0", "Expect: 100-continue\r\n", false),
        ("1.0", "Expect: other\r\n", false),
    ] {
        assert_eq!(complete(with(version, fields)).expects_continue, expected, "{version} {fields:?}");
    }
}

#[test]
fn rfc9110_10_1_1_other_expectations_are_not_met() {
    for fields in [
        "Expect: other\r\n",
        "Expect: 100-continue\r\nExpect: 100-continued\r\n",
        "Expect: 100-continue;a\r\n",
    ] {
        assert_eq!(refused(with("1.1", fields)), Refusal::UnknownExpectation, "{fields:?}");
        assert_eq!(refused(with("1.1", &format!("{fields}Host: b\r\n"))), Refusal::BadHost);
    }
}

#[test]
fn the_limit_of_a_request_line_is_exact() {
    let limits = HeadLimits { request_line: 24, ..LIMITS };
    let line = |n: usize| format!("GET /{} HTTP/1.1", "a".repeat(n - "GET / HTTP/1.1".len()));
    for before in ["", "\r\n", "\r\n\r\n"] {
        let fits = format!("{before}{}\r\nHost: a\r\n\r\n", line(24));
        assert_eq!(verdict(fits.as_bytes(), limits), Parsed::Complete(fits.len()));
        let over = format!("{before}{}\r\nHost: a\r\n\r\n", line(25));
        assert_eq!(verdict(over.as_bytes(), limits), Parsed::Refused(Refusal::UriTooLong));
    }
    let endless = format!("GET /{}", "a".repeat(100));
    assert_eq!(verdict(&endless.as_bytes()[..25], limits), Parsed::Partial, "a CR and an LF may follow");
    assert_eq!(verdict(&endless.as_bytes()[..26], limits), Parsed::Refused(Refusal::UriTooLong));
    // RFC 9112 §3
    assert_eq!(verdict("A".repeat(30).as_bytes(), limits), Parsed::Refused(Refusal::UnknownMethod));
}

#[test]
fn the_limit_of_a_field_is_exact() {
    let limits = HeadLimits { field_size: 24, ..LIMITS };
    let head = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\nX: y\r\n\r\n");
    for (name, value) in [("A: ", "b"), ("A:", " "), ("A: b", "\t"), ("", "n")] {
        let fill = |n: usize| match name {
            "" => format!("{}: c", value.repeat(n - 3)),
            _ => format!("{name}{}", value.repeat(n - name.len())),
        };
        let fits = head(&fill(24));
        assert_eq!(verdict(fits.as_bytes(), limits), Parsed::Complete(fits.len()), "{fits:?}");
        let over = head(&fill(25));
        assert_eq!(verdict(over.as_bytes(), limits), Parsed::Refused(Refusal::FieldsTooLarge), "{over:?}");
    }
    let last = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(19));
    assert_eq!(verdict(last.as_bytes(), limits), Parsed::Refused(Refusal::FieldsTooLarge));
    let line = "GET /a/long/target/is/no/field HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(verdict(line.as_bytes(), limits), Parsed::Complete(line.len()));
}

#[test]
fn the_limit_of_the_field_count_is_exact() {
    for most in [1, 3, 100, 128, 129, 1000] {
        let limits = HeadLimits { fields: most, ..LIMITS };
        let head = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(n - 1));
        let mut out = RequestHead::default();
        let fits = head(most);
        assert_eq!(parse_head(fits.as_bytes(), limits, &mut out), Parsed::Complete(fits.len()), "{most}");
        assert_eq!(out.fields.len(), most);
        let refused = Parsed::Refused(Refusal::FieldsTooLarge);
        assert_eq!(parse_head(head(most + 1).as_bytes(), limits, &mut out), refused, "{most}");
    }
}

#[test]
fn the_limit_of_a_head_is_exact() {
    let limits = HeadLimits { head: 100, ..LIMITS };
    let head = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\nB:\r\n\r\n", "a".repeat(n - 36));
    let fits = head(100);
    assert_eq!(verdict(fits.as_bytes(), limits), Parsed::Complete(100));
    assert_eq!(
        verdict(format!("{fits}{fits}").as_bytes(), limits),
        Parsed::Complete(100),
        "what follows is another"
    );
    let over = head(101);
    assert_eq!(verdict(&over.as_bytes()[..100], limits), Parsed::Partial);
    assert_eq!(verdict(over.as_bytes(), limits), Parsed::Refused(Refusal::FieldsTooLarge));
    assert_eq!(verdict(&[b'A'; 101], limits), Parsed::Refused(Refusal::FieldsTooLarge));
    assert_eq!(verdict(&[b'\n'; 101], limits), Parsed::Refused(Refusal::FieldsTooLarge));
}

#[test]
fn unbounded_limits_allocate_nothing() {
    let limits = HeadLimits {
        head: usize::MAX,
        request_line: usize::MAX,
        fields: usize::MAX,
        field_size: usize::MAX,
        ..LIMITS
    };
    let text = with("1.1", "A: b\r\n");
    assert_eq!(verdict(text.as_bytes(), limits), Parsed::Complete(text.len()));
}

#[test]
fn the_default_limits_are_exact_to_the_byte() {
    let mut out = RequestHead::default();
    let mut parse = |target: usize, value: usize| {
        let (target, value) = ("a".repeat(target - 14), "b".repeat(value - 3));
        let text = format!("GET /{target} HTTP/1.1\r\nHost: a\r\nA: {value}\r\n\r\n");
        match parse_head(text.as_bytes(), LIMITS, &mut out) {
            Parsed::Complete(len) => assert_eq!(len, text.len()),
            other => return Some(other),
        }
        None
    };
    assert_eq!(parse(8190, 8190), None);
    assert_eq!(parse(8191, 8190), Some(Parsed::Refused(Refusal::UriTooLong)));
    assert_eq!(parse(8190, 8191), Some(Parsed::Refused(Refusal::FieldsTooLarge)));
}

#[test]
fn of_two_faults_the_first_counts() {
    let limits = HeadLimits { head: 60, request_line: 20, fields: 3, field_size: 12, ..LIMITS };
    let long = "a".repeat(40);
    for (text, refusal) in [
        (format!("G(T /{long}"), Refusal::BadRequestLine),
        (format!("GET /{long} HTTP/2.0\r\n"), Refusal::UriTooLong),
        ("GET /aaaaaa HTTP/2.0\r\n".to_owned(), Refusal::UnknownVersion),
        ("GET /aaaaaaaaaa HTTP/2.0\r\n".to_owned(), Refusal::UriTooLong),
        (format!("GET / HTTP/1.1\r\nA b\r\nA: {long}\r\n\r\n"), Refusal::BadField),
        (format!("GET / HTTP/1.1\r\nA: {long}\r\nA b\r\n\r\n"), Refusal::FieldsTooLarge),
        (format!("GET / HTTP/1.1\r\nContent-Length: x\r\nA: {long}\r\n\r\n"), Refusal::FieldsTooLarge),
        (format!("GET / HTTP/1.1\r\n\r\nA: {long}"), Refusal::BadHost),
        (
            "GET /aaaaa HTTP/1.1\r\nA: aaaaaaaaa\r\nA: aaaaaaaaa\r\nA: aaaaaaaa\0".to_owned(),
            Refusal::BadField,
        ),
        (
            "GET /aaaaa HTTP/1.1\r\nA: aaaaaaaaa\r\nA: aaaaaaaaa\r\nA: aaaaaaaaa\0".to_owned(),
            Refusal::FieldsTooLarge,
        ),
    ] {
        assert_eq!(verdict(text.as_bytes(), limits), Parsed::Refused(refusal), "{text:?}");
    }
}

/// A valid head, and its meaning.
#[derive(Clone, Debug)]
struct Valid {
    text: Vec<u8>,
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
}

fn valid_head() -> impl Strategy<Value = Valid> {
    let name = "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}".prop_filter("fields that mean something", |name| {
        !["host", "expect", "connection", "content-length", "transfer-encoding"]
            .contains(&name.to_ascii_lowercase().as_str())
    });
    let inner = prop_oneof![3 => 0x21_u8..0x7f, 1 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80_u8..];
    let value = prop::collection::vec(inner, 0..24).prop_map(|bytes| bytes.trim_ascii().to_vec());
    let space = "[ \t]{0,3}";
    let field = (name, space, value, space);
    (
        0_usize..3,
        "[A-Z]{1,9}|[!#$%&'*+.^_`|~0-9a-z-]{1,9}",
        r"(/[!$&'()*+,.0-9:;=@A-Z\[\]_a-z|~-]{0,9}|%[0-9A-Fa-f]{2}){1,4}(\?[!$%&'()*+,./0-9:;=?@A-Z\\\[\]^_a-z{|}~-]{0,20})?"
            .prop_filter("an origin form", |target| target.starts_with('/')),
        prop::collection::vec(field, 0..8),
    )
        .prop_filter("CONNECT has other targets", |(_, method, ..)| method != "CONNECT")
        .prop_map(|(empty, method, target, fields)| {
            let mut text = "\r\n".repeat(empty).into_bytes();
            text.extend_from_slice(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n").as_bytes());
            for (name, before, value, after) in &fields {
                for part in [name.as_bytes(), b":", before.as_bytes(), value, after.as_bytes(), b"\r\n"] {
                    text.extend_from_slice(part);
                }
            }
            text.extend_from_slice(b"\r\n");
            let mut sent = vec![("Host".to_owned(), b"a".to_vec())];
            sent.extend(fields.into_iter().map(|(name, _, value, _)| (name, value)));
            Valid { text, method, target, fields: sent }
        })
}

/// Parts of heads, valid and invalid.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET ",
        "POST /a",
        "OPTIONS * ",
        "/",
        " ",
        "HTTP/1.1",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "HTTP/2.0",
        "HTTP/",
        "\r\n",
        "\r\n\r\n",
        "\r",
        "\n",
        "\0",
        "\t",
        ":",
        ",",
        "é",
        "Host: a\r\n",
        "Host:",
        "Connection: close\r\n",
        "Content-Length: 5\r\n",
        "Content-Length:",
        "5",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:",
        "chunked",
        "A: b\r\n",
        "aaaaaaaaaaaaaaaa",
    ]);
    prop_oneof![
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #[test]
    fn a_valid_head_is_partial_until_it_is_complete(
        head in valid_head(), after in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut out = RequestHead::default();
        for n in 0..head.text.len() {
            prop_assert_eq!(parse_head(&head.text[..n], LIMITS, &mut out), Parsed::Partial);
        }
        let whole = [&head.text[..], &after].concat();
        for bytes in [&head.text, &whole] {
            prop_assert_eq!(parse_head(bytes, LIMITS, &mut out), Parsed::Complete(head.text.len()));
            out.buf = head.text.clone();
            let view = out.view();
            prop_assert_eq!((view.method(), view.target()), (head.method.as_str(), head.target.as_str()));
            prop_assert!(view.path().starts_with('/'));
            let fields = view.fields().map(|(name, value)| (name.to_owned(), value.to_vec()));
            let fields: Vec<_> = fields.collect();
            prop_assert_eq!(&fields, &head.fields);
        }
    }

    #[test]
    fn one_changed_byte_never_depends_on_the_split(
        head in valid_head(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut text = head.text;
        let at = at.index(text.len());
        text[at] = byte;
        verdict(&text, LIMITS);
    }

    #[test]
    fn no_input_panics_or_depends_on_the_split(
        start in prop::sample::select(vec!["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"]),
        rest in pieces(), head in 0_usize..120, request_line in 0_usize..40, fields in 0_usize..5,
        field_size in 0_usize..30,
    ) {
        let bytes = [start.as_bytes(), &rest].concat();
        verdict(&bytes, HeadLimits { head, request_line, fields, field_size, ..LIMITS });
        verdict(&bytes, LIMITS);
    }

    #[test]
    fn a_length_is_the_value_of_its_digits(text in "[0-9]{1,24}|[0-9+_ -]{0,6}") {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u128>().ok().filter(|_| digits).and_then(|number| u64::try_from(number).ok());
        prop_assert_eq!(decimal(text.as_bytes()), number);
    }
}
