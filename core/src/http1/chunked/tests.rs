//! Chunked bodies by the rule they keep or break, whole and in pieces.

use proptest::prelude::*;

use super::*;
use crate::http1::{Decoder, push_end};

const OVERHEAD: u32 = 16 * 1024;

/// The outcome of an input: the body, how much of the input was used, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    body: Vec<u8>,
    used: usize,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Done,
    Incomplete,
    Bad(BodyError),
}

/// Decodes `wire` as it arrives in pieces of `sizes` (repeated), `max` bytes of body at a time.
fn decode(wire: &[u8], sizes: &[usize], max: usize) -> Next {
    let (mut decoder, mut body) = (Decoder::chunked(OVERHEAD), Vec::new());
    let (mut used, mut here) = (0, 0);
    let mut sizes = sizes.iter().cycle();
    let end = loop {
        if decoder.is_done() {
            break End::Done;
        }
        match decoder.decode(&wire[used..here], max) {
            Ok(Decoded { skip: 0, data: 0 }) if here == wire.len() => break End::Incomplete,
            Ok(Decoded { skip: 0, data: 0 }) => {
                assert_eq!(used, here, "arrived bytes are used before more are needed");
                here = wire.len().min(here + sizes.next().expect("there is a size"));
            }
            Ok(Decoded { skip, data }) => {
                assert!(data <= max);
                body.extend_from_slice(&wire[used + skip..used + skip + data]);
                used += skip + data;
            }
            Err(error) => break End::Bad(error),
        }
    };
    Next { body, used, end }
}

/// Decodes `wire` whole and byte by byte, which must give the same.
fn end_of(wire: impl AsRef<[u8]>) -> End {
    let wire = wire.as_ref();
    let whole = decode(wire, &[wire.len().max(1)], usize::MAX);
    let bytewise = decode(wire, &[1], usize::MAX);
    assert_eq!(
        (&whole.body, &whole.end),
        (&bytewise.body, &bytewise.end),
        "{:?}",
        String::from_utf8_lossy(wire)
    );
    whole.end
}

fn error(wire: impl AsRef<[u8]>) -> &'static str {
    match end_of(&wire) {
        End::Bad(BodyError::Chunked(what)) => what,
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(wire.as_ref())),
    }
}

#[test]
fn rfc9112_7_1_a_chunked_body_is_its_chunks() {
    let wire = b"4\r\nwiki\r\n5\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\n\r\nGET /";
    let outcome = decode(wire, &[wire.len()], usize::MAX);
    assert_eq!(outcome.body, b"wikipedia in\r\n\r\nchunks.");
    assert_eq!((outcome.used, outcome.end), (wire.len() - 5, End::Done));
}

#[test]
fn rfc9112_7_1_sizes_are_hexadecimal_in_any_case() {
    let body = "x".repeat(0xab);
    for size in ["ab", "AB", "aB", "0ab", "000000000000000000000000ab"] {
        assert_eq!(end_of(format!("{size}\r\n{body}\r\n0\r\n\r\n")), End::Done, "{size}");
    }
    for size in ["", " 1", "+1", "-1", "0x1", "x", "g", "1g", "1_0", "１", ";a", "1 1", "1\t1", "\"1\""] {
        error(format!("{size}\r\n{body}\r\n0\r\n\r\n"));
    }
}

#[test]
fn rfc9112_7_1_a_size_that_does_not_fit_is_an_error() {
    assert_eq!(end_of("ffffffffffffffff\r\na"), End::Incomplete);
    assert_eq!(end_of("0000ffffffffffffffff\r\na"), End::Incomplete);
    for size in ["10000000000000000", "fffffffffffffffff", "1ffffffffffffffff"] {
        assert_eq!(error(format!("{size}\r\na")), "a chunk size does not fit into 64 bits");
    }
}

#[test]
fn rfc9112_7_1_only_crlf_ends_a_line() {
    for wire in [
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r\n0\n\r\n",
        "1\r\na\r\n0\r\n\n",
        "1\ra\r\n0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "1\r\na\r\n0\r\r\n",
        "1\r\na\r\n0\r\n\r\r",
        "1\r\r\na\r\n0\r\n\r\n",
        "1;x\na\r\n0\r\n\r\n",
        "1;x\ra\r\n0\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\rC: d\r\n\r\n",
        "0\r\nA: b\r\n\n",
    ] {
        error(wire);
    }
}

#[test]
fn rfc9112_7_1_data_is_as_long_as_its_size_says() {
    for wire in ["1\r\nab\r\n0\r\n\r\n", "3\r\na\r\n0\r\n\r\n", "1\r\na0\r\n\r\n", "1\r\na\r\n\r\n0\r\n\r\n"]
    {
        error(wire);
    }
}

#[test]
fn rfc9112_7_1_1_extensions_are_checked_and_dropped() {
    for extension in [
        ";a",
        ";a=b",
        ";a=\"b\"",
        "; a = \"b;\\\"c\" ;d",
        " ;a",
        "\t; a",
        ";a=\"\"",
        ";a=\"\u{e9}\\\u{e9}\t\" ; b",
        ";a ;b",
    ] {
        let outcome =
            decode(format!("1{extension}\r\nx\r\n0{extension}\r\n\r\n").as_bytes(), &[3], usize::MAX);
        assert_eq!((outcome.body.as_slice(), outcome.end), (&b"x"[..], End::Done), "{extension:?}");
    }
    for extension in [
        ";a\0",
        ";a\n",
        ";a\r",
        ";a=\"b\r\n",
        ";a=\"\\\r\n",
        ";\x7f",
        " a",
        "g;",
        " ",
        "\t ",
        ";",
        "; ",
        ";;",
        ";a;",
        ";a ",
        ";a=b ",
        ";a=\"b\" ",
        ";a=",
        ";a= ",
        ";a==b",
        ";=b",
        ";\u{e9}",
        ";a=\u{e9}",
        ";a b",
        ";a=b c",
        ";a=\"b\"c",
        ";a=\"b",
        ";a=b\"c\"",
        ";a[",
        ";a=\"\\\0\"",
    ] {
        error(format!("1{extension}\r\nx\r\n0\r\n\r\n"));
    }
}

#[test]
fn rfc9112_7_1_2_trailers_are_checked() {
    for trailers in ["", "A: b\r\n", "A:\r\nB: c d\t\r\n", "Content-Length: 5\r\n", "a: \u{e9}\r\n"] {
        let wire = format!("1\r\nx\r\n0\r\n{trailers}\r\n");
        let outcome = decode(format!("{wire}more").as_bytes(), &[5], usize::MAX);
        assert_eq!(outcome, Next { body: b"x".to_vec(), used: wire.len(), end: End::Done });
    }
    for trailers in [
        "A\r\n",
        ": b\r\n",
        " A: b\r\n",
        "A : b\r\n",
        "A: b\r\n c\r\n",
        "A: \0\r\n",
        "A(: b\r\n",
        "A\0: b\r\n",
    ] {
        error(format!("0\r\n{trailers}\r\n"));
    }
}

#[test]
fn rfc9112_7_1_2_trailers_are_returned_once() {
    let wire = b"1\r\nx\r\n0\r\nA: b\r\nC:\t d \r\na:\r\nHost: e\r\n\r\nMore: f\r\n\r\n";
    for piece in 1..=wire.len() {
        let (mut decoder, mut at) = (Decoder::chunked(OVERHEAD), 0);
        assert!(decoder.take_trailers().is_empty());
        while !decoder.is_done() {
            let seen = wire.len().min(at + piece);
            let Decoded { skip, data } = decoder.decode(&wire[at..seen], 1).expect("well-formed");
            at += skip + data;
        }
        let trailers = decoder.take_trailers();
        let fields: Vec<_> = trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("a", b"b".as_slice()), ("a", b""), ("c", b"d")], "in pieces of {piece}");
        assert!(decoder.take_trailers().is_empty());
    }
}

#[test]
fn trailers_are_bounded_in_number() {
    let body = |n: usize| format!("0\r\n{}\r\n", "a:\r\n".repeat(n));
    assert_eq!(end_of(body(100)), End::Done);
    assert_eq!(error(body(101)), "there are more than 100 trailer fields");
}

#[test]
fn extensions_trailers_and_padding_are_bounded_together() {
    let too_much = "extensions, trailers and padding are over their limit";
    let max = OVERHEAD as usize;
    let body = |zeros: usize, spaces: usize, extension: usize, trailer: usize| {
        format!(
            "{}0;{}{}\r\nA:{}\r\n\r\n",
            "0".repeat(zeros),
            " ".repeat(spaces),
            "e".repeat(extension + 1),
            "t".repeat(trailer)
        )
    };
    let names = 2;
    for (zeros, spaces, extension, trailer) in [
        (max - names, 0, 0, 0),
        (0, max - names, 0, 0),
        (0, 0, max - names, 0),
        (0, 0, 0, max - names),
        (100, 200, 300, max - 600 - names),
    ] {
        assert_eq!(end_of(body(zeros, spaces, extension, trailer)), End::Done);
        assert_eq!(error(body(zeros, spaces, extension, trailer + 1)), too_much);
    }
    assert_eq!(error("0".repeat(max + 2)), too_much);
    assert_eq!(error(format!("1;{}", "e".repeat(max + 1))), too_much);
    assert_eq!(error(format!("0\r\n{}", "t".repeat(max + 1))), too_much);
}

#[test]
fn extensions_that_are_no_longer_than_the_body_are_not_bounded() {
    let signed = format!("64;chunk-signature={}\r\n{}\r\n", "5".repeat(64), "x".repeat(100));
    assert_eq!(end_of(signed.repeat(1000) + "0\r\n\r\n"), End::Done);
    let longer = format!("1;{}\r\nx\r\n", "e".repeat(10));
    assert_eq!(end_of(longer.repeat(1800) + "0\r\n\r\n"), End::Done);
    assert_eq!(
        error(longer.repeat(1900) + "0\r\n\r\n"),
        "extensions, trailers and padding are over their limit"
    );
}

#[test]
fn plain_chunks_are_not_bounded() {
    let mut wire = "0001\r\nx\r\n".repeat(5000);
    wire.push_str("0\r\n\r\n");
    assert_eq!(decode(wire.as_bytes(), &[1000], usize::MAX).body, vec![b'x'; 5000]);
}

#[test]
fn an_error_is_final() {
    for bad in ["x", "1\n", "0\r\n:", "1;\0", "1\r\nab"] {
        let mut decoder = ChunkDecoder::new(OVERHEAD);
        let mut at = 0;
        let first = loop {
            match decoder.decode(&bad.as_bytes()[at..], usize::MAX) {
                Ok(Decoded { skip, data }) => at += skip + data,
                Err(error) => break error,
            }
        };
        assert_eq!(decoder.decode(b"0\r\n\r\n", usize::MAX), Err(first));
        assert!(!decoder.is_done());
    }
}

#[test]
fn nothing_is_decoded_after_the_end() {
    let mut decoder = ChunkDecoder::new(OVERHEAD);
    assert_eq!(decoder.decode(b"0\r\n\r\n0\r\n", 1), Ok(Decoded { skip: 5, data: 0 }));
    assert_eq!(decoder.decode(b"0\r\n", 1), Ok(Decoded::default()));
    assert!(decoder.is_done());
}

/// Chunks with all the variations that a sender may use: body, wire.
fn encoded() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let data = prop::collection::vec(any::<u8>(), 1..40);
    let size = ("0{0,3}", any::<bool>(), "( ?;[a-z]{1,4}(=([a-z]{1,4}|\"[a-z ;,]{0,4}\"))?){0,2}");
    let trailers = prop::collection::vec("[A-Za-z-]{1,8}:[ -~]{0,8}\r\n", 0..3);
    (prop::collection::vec((data, size), 0..6), size, trailers).prop_map(|(chunks, last, trailers)| {
        let (mut body, mut wire) = (Vec::new(), Vec::new());
        let line = |len: usize, (zeros, upper, extension): &(String, bool, String)| match upper {
            true => format!("{zeros}{len:X}{extension}\r\n"),
            false => format!("{zeros}{len:x}{extension}\r\n"),
        };
        for (data, size) in &chunks {
            body.extend_from_slice(data);
            wire.extend_from_slice(line(data.len(), size).as_bytes());
            wire.extend_from_slice(data);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(line(0, &last).as_bytes());
        wire.extend_from_slice(trailers.concat().as_bytes());
        wire.extend_from_slice(b"\r\n");
        (body, wire)
    })
}

/// Bytes that often look like chunks.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "0",
        "1",
        "a",
        "F",
        "2\r\n",
        "1\r\nx\r\n",
        "0\r\n\r\n",
        "\r\n",
        "\r",
        "\n",
        ";",
        "=",
        "\"",
        "\\",
        " ",
        "\t",
        ":",
        "A: b\r\n",
        "\0",
        "\x7f",
        "ffffffffffffffff",
    ]);
    prop_oneof![
        3 => prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ]
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..20, 1..10)
}

proptest! {
    #[test]
    fn decoding_is_the_inverse_of_any_encoding(
        (body, wire) in encoded(), sizes in pieces(), max in 1_usize..50, after in noise(),
    ) {
        let whole = [&wire[..], &after].concat();
        prop_assert_eq!(decode(&whole, &sizes, max), Next { body, used: wire.len(), end: End::Done });
    }

    #[test]
    fn every_prefix_of_a_body_is_incomplete((body, wire) in encoded(), max in 1_usize..50) {
        for n in 0..wire.len() {
            let outcome = decode(&wire[..n], &[n.max(1)], max);
            prop_assert_eq!(outcome.end, End::Incomplete);
            prop_assert!(body.starts_with(&outcome.body));
        }
    }

    #[test]
    fn no_input_panics_or_depends_on_the_split(wire in noise(), sizes in pieces(), max in 1_usize..10) {
        let whole = decode(&wire, &[wire.len().max(1)], usize::MAX);
        let split = decode(&wire, &sizes, max);
        prop_assert_eq!((whole.body, whole.end), (split.body, split.end));
    }

    #[test]
    fn end_within_agrees_with_decode((_, wire) in encoded(), noise in noise(), max in 1_usize..50) {
        for wire in [&wire, &[&wire[..], &noise].concat(), &noise] {
            let (mut decoder, mut at) = (Decoder::chunked(OVERHEAD), 0);
            let outcome = decode(wire, &[wire.len().max(1)], usize::MAX);
            let end = (outcome.end == End::Done).then_some(outcome.used);
            loop {
                for have in at..=wire.len() {
                    let expected = end.filter(|end| *end <= have).map(|end| end - at);
                    prop_assert_eq!(decoder.end_within(&wire[at..have]), expected);
                }
                match decoder.decode(&wire[at..], max) {
                    Ok(Decoded { skip, data }) if skip + data > 0 => at += skip + data,
                    _ => break,
                }
            }
        }
    }

    #[test]
    fn a_chunk_header_is_the_size_in_hexadecimal(len in 1..=usize::MAX, shift in 0_u32..63) {
        for len in [(len >> shift).max(1), 1, usize::MAX] {
            let header = ChunkHeader::new(len);
            prop_assert_eq!(String::from_utf8_lossy(header.as_bytes()), format!("{len:x}\r\n"));
        }
    }

    #[test]
    fn a_body_sent_in_chunks_is_received_unchanged(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(ChunkHeader::new(chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        push_end(&mut wire, None);
        let outcome = decode(&wire, &[wire.len()], usize::MAX);
        prop_assert_eq!(outcome, Next { body: chunks.concat(), used: wire.len(), end: End::Done });
    }
}
