use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::app::{ConnectionInfo, Cut};
use crate::http1::{HeadLimits, Parsed, RequestHead, parse_head};
use crate::peer::Peer;
use crate::time::Time;

fn moment() -> Moment {
    Moment { date: HttpDate::from_unix(784_111_777), millis: 7, pid: 42 }
}

const ADDRESS: Peer = Peer::Inet(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5555)));

/// A complete head.
fn head(text: &str) -> RequestHead {
    let mut head = RequestHead::default();
    let limits =
        HeadLimits { head: 8192, request_line: 8190, fields: 100, field_size: 8190, framing: 16 * 1024 };
    let text = text.replace('\n', "\r\n") + "\r\n\r\n";
    assert_eq!(parse_head(text.as_bytes(), limits, &mut head), Parsed::Complete(text.len()), "{text:?}");
    head.buf = text.into_bytes();
    head.client = ADDRESS.into();
    head
}

fn answered<'a>(head: &'a RequestHead, fields: &'a [u8]) -> Answered<'a> {
    Answered {
        head: head.view(),
        connection: ConnectionInfo { peer: ADDRESS, requests: 3 },
        status: Some(200),
        sent: 13,
        since: Time::ZERO,
        took: Duration::from_micros(2_345_678),
        cut: None,
        closes: false,
        fields,
    }
}

/// The line that `format` makes of an answer.
fn line(format: &str, answered: &Answered<'_>) -> String {
    let variable = |name: &str| (name == "SITE").then(|| "a\tb".to_owned());
    let mut out = Vec::new();
    Format::parse(format, variable).unwrap().write(answered, &moment(), &mut out);
    String::from_utf8(out).unwrap().strip_suffix('\n').expect("a line has an end").to_owned()
}

#[test]
fn every_atom_is_what_gunicorn_writes() {
    let head = head(
        "GET /a%20b?x=1 HTTP/1.1\nHost: h\nReferer: http://r/\nUser-Agent: \"q\" \\ \u{e9}\nX-One: 1\n\
         Authorization: basic Ym9iOnNlY3JldA==",
    );
    let fields = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX: a: b\r\n\r\n";
    let answered = answered(&head, fields);
    for (atom, value) in [
        ("h", "10.0.0.1"),
        ("l", "-"),
        ("u", "bob"),
        ("t", "[06/Nov/1994:08:49:37 +0000]"),
        ("r", "GET /a%20b?x=1 HTTP/1.1"),
        ("m", "GET"),
        ("U", "/a%20b"),
        ("q", "x=1"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("B", "13"),
        ("b", "13"),
        ("f", "http://r/"),
        ("a", r"\x22q\x22 \x5C \xC3\xA9"),
        ("T", "2"),
        ("M", "2345"),
        ("D", "2345678"),
        ("L", "2.345678"),
        ("p", "<42>"),
        ("X", "+"),
        ("{x-one}i", "1"),
        ("{X-Two}i", "-"),
        ("{content-type}o", "text/plain"),
        ("{x}o", "a: b"),
        ("{y}o", "-"),
        ("{SITE}e", r"a\x09b"),
        ("{NONE}e", "-"),
    ] {
        assert_eq!(line(&format!("%({atom})s"), &answered), value, "{atom}");
        let letter = atom.rsplit('}').next().unwrap();
        assert!(Format::ALLOWED.contains(&format!("{letter},")) || letter == "e", "{letter} is not listed");
    }
}

#[test]
fn text_around_atoms_is_copied() {
    let head = head("GET / HTTP/1.0");
    let answered = answered(&head, b"");
    assert_eq!(line(r#"100%% "%(m)s"%(s)s\ä"#, &answered), r#"100% "GET"200\ä"#);
    assert_eq!(line("", &answered), "");
    assert_eq!(
        line(Format::DEFAULT, &answered),
        r#"10.0.0.1 - - [06/Nov/1994:08:49:37 +0000] "GET / HTTP/1.0" 200 13 "-" "-""#
    );
}

#[test]
fn a_missing_value_is_a_dash() {
    let nobody = RequestHead::of_refused(b"GET");
    let unix = ConnectionInfo { peer: Peer::Unix, requests: 0 };
    let cut = Answered { status: None, sent: 0, connection: unix, ..answered(&nobody, b"") };
    let format = "%(h)s %(u)s %(m)s %(U)s %(q)s %(H)s %(s)s %(b)s %(B)s %(f)s";
    assert_eq!(line(format, &cut), "- - - -  - - - 0 -");
    for credentials in ["Basic", "Basic !", "Digest Ym9iOnNlY3JldA==", "Basic Ym9i"] {
        let head = head(&format!("GET / HTTP/1.1\nHost: h\nAuthorization: {credentials}"));
        assert_eq!(line("%(u)s", &answered(&head, b"")), "-", "{credentials}");
    }
}

#[test]
fn json_is_one_object_of_known_members() {
    let head =
        head("GET /?x HTTP/1.1\nHost: h\nUser-Agent: \u{9b}1m\u{e9}\"\\\nAuthorization: Basic Ym9iOg==");
    assert_eq!(
        line("json", &answered(&head, b"")),
        r#"{"time":"1994-11-06T08:49:37.007Z","pid":42,"remote":"10.0.0.1","user":"bob","#.to_owned()
            + r#""request":"GET /?x HTTP/1.1","method":"GET","target":"/?x","protocol":"HTTP/1.1","#
            + r#""status":200,"bytes":13,"duration_us":2345678,"referer":null,"user_agent":"\u009b1mé\"\\","#
            + r#""connection_requests":3,"scheme":"http","cut":null}"#
    );
    let refused = RequestHead::of_refused(b"\x16\"\xff");
    let unix = ConnectionInfo { peer: Peer::Unix, requests: 0 };
    let cut = Answered { status: None, sent: 0, connection: unix, ..answered(&refused, b"") };
    assert_eq!(
        line("json", &cut),
        r#"{"time":"1994-11-06T08:49:37.007Z","pid":42,"remote":null,"user":null,"#.to_owned()
            + "\"request\":\"\\u0016\\\"\u{fffd}\",\"method\":null,\"target\":null,\"protocol\":null,"
            + r#""status":null,"bytes":0,"duration_us":2345678,"referer":null,"user_agent":null,"connection_requests":0,"scheme":"http","cut":null}"#
    );
}

#[test]
fn a_response_that_was_cut_does_not_look_whole() {
    let head = head("GET / HTTP/1.1\nHost: h");
    for (cut, closes, atom, member) in [
        (None, false, "+", "null"),
        (None, true, "-", "null"),
        (Some(Cut::Drain), true, "X", "\"drain\""),
        (Some(Cut::Client), true, "X", "\"client\""),
    ] {
        let answered = Answered { cut, closes, ..answered(&head, b"") };
        assert_eq!(line("%(s)s %(X)s", &answered), format!("200 {atom}"));
        assert!(line("json", &answered).ends_with(&format!(r#","cut":{member}}}"#)), "{answered:?}");
    }
}

#[test]
fn every_month_has_its_number() {
    for month in 1..=12_u64 {
        // The middle of each month of 1970.
        let moment = Moment { date: HttpDate::from_unix(((month - 1) * 30 + 15) * 86_400), ..moment() };
        let mut out = Vec::new();
        moment.iso(&mut out);
        assert!(out.starts_with(format!("1970-{month:02}-").as_bytes()), "{}", out.escape_ascii());
    }
}

#[test]
fn an_invalid_format_is_refused_with_the_reason() {
    let refused = |text: &str| Format::parse(text, |_| None).unwrap_err();
    for atom in ["x", "", "hh", "{}i", "{a}x", "{a}", "{ai", "H ", "{a}ii"] {
        assert_eq!(refused(&format!("%(h)s %({atom})s")), FormatError::Unknown(atom.to_owned()));
    }
    for text in ["%", "%h", "50% %(h)s", "%(h)d", "%(h", "%()"] {
        assert_eq!(refused(text), FormatError::Percent, "{text:?}");
    }
    assert_eq!(refused("%(h)s\n"), FormatError::Control);
    assert_eq!(refused("%(q)s %(z)s").to_string(), "%(z)s is not an atom");
}

#[test]
fn only_a_format_that_names_a_response_field_wants_them() {
    let wants = |text| Format::parse(text, |_| None).unwrap().wants_fields();
    assert!(wants("%({x}o)s") && !wants(Format::DEFAULT) && !wants("json"));
}

proptest! {
    #[test]
    fn values_from_outside_end_neither_a_line_nor_a_quote(
        bytes in prop::collection::vec(any::<u8>(), 0..200), value in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let head = RequestHead::of_refused(&bytes);
        let fields = [b"HTTP/1.1 200 OK\r\nX: ", &value[..], b"\r\n"].concat();
        let answered = answered(&head, &fields);
        let text = line(r#""%(r)s"%(m)s"%(U)s"%(q)s"%(H)s"%({x}o)s""#, &answered);
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
        prop_assert_eq!(text.matches('"').count(), 7, "{}", text);
        prop_assert!(text.match_indices('\\').all(|(at, _)| text[at + 1..].starts_with('x')), "{}", text);

        let object = line("json", &answered);
        prop_assert!(!object.contains(|c: char| c.is_control() || c == '\u{202e}'), "{object:?}");
        prop_assert_eq!(members(&object), Some(16), "{}", object);
    }
}

/// The number of members of an object that consists of strings, numbers and nulls; none for
/// anything else.
fn members(object: &str) -> Option<usize> {
    let mut rest = object.strip_prefix('{')?;
    for count in 1.. {
        rest = string(rest)?.strip_prefix(':')?;
        rest = match rest.starts_with('"') {
            true => string(rest)?,
            false => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric()),
        };
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (rest == "}").then_some(count),
        }
    }
    None
}

/// The text after the string at the beginning.
fn string(text: &str) -> Option<&str> {
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some(chars.as_str()),
            '\\' => drop(chars.next()?),
            _ => {}
        }
    }
}
