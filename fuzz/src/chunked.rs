//! The chunked coding: the input is a body and what follows it.
//!
//! The decoder is compared with a line-by-line reading of RFC 9112 §7.1, which has the whole body
//! at once, and with itself, however the input is cut and however few bytes are read at a time.

use remuda_core::fuzz::Chunked;

use crate::head::is_token;

/// Checks the decoding of `input`.
pub fn check(input: &[u8]) {
    let whole = decode(input, &[], usize::MAX);
    agrees_with_lines(input, &whole);
    agrees_with_find_end(input, &whole);
    assert_eq!(decode(input, &[], 1), whole, "a byte of body at a time");
    assert_eq!(decode(input, &(0..input.len()).collect::<Vec<_>>(), 7), whole, "byte by byte");
    for cut in (0..input.len()).step_by(input.len() / 64 + 1) {
        assert_eq!(decode(input, &[cut], usize::MAX), whole, "cut at {cut}");
    }
    bounded(input, &whole);
}

/// The outcome of a body.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Decoded {
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The body ends before this byte.
    Done(usize),
    /// More bytes have to come.
    Open,
    /// The body is malformed.
    Malformed,
}

/// Decodes `input`, which arrives in pieces, into at most `max` bytes of body at a time.
fn decode(input: &[u8], cuts: &[usize], max: usize) -> Decoded {
    let mut decoder = Chunked::default();
    let (mut at, mut body) = (0, Vec::new());
    for &arrived in cuts.iter().chain([&input.len()]) {
        loop {
            match decoder.decode(&input[at..arrived], max) {
                Ok((0, 0)) => break,
                Ok((skip, data)) => {
                    assert!(data <= max && at + skip + data <= arrived);
                    body.extend_from_slice(&input[at + skip..][..data]);
                    at += skip + data;
                }
                Err(error) => {
                    let again = decoder.decode(b"0\r\n\r\n", max);
                    assert_eq!(again, Err(error), "no body follows an error");
                    return Decoded { body, end: End::Malformed };
                }
            }
        }
        if decoder.is_done() {
            return Decoded { body, end: End::Done(at) };
        }
        assert_eq!(at, arrived, "the decoder reads all that arrived");
    }
    Decoded { body, end: End::Open }
}

fn agrees_with_find_end(input: &[u8], whole: &Decoded) {
    let expected = match whole.end {
        End::Done(at) => Ok(Some(at)),
        End::Open => Ok(None),
        End::Malformed => Err(()),
    };
    assert_eq!(Chunked::default().find_end(input).map_err(|_| ()), expected);
}

/// The decoder sees a fault before its line is complete, and limits framing. Otherwise both agree.
fn agrees_with_lines(input: &[u8], whole: &Decoded) {
    let read = read(input);
    match (whole.end, read.end) {
        (End::Malformed, End::Done(at)) => {
            let framing = at - read.body.len();
            assert!(framing > PADDING_MAX, "{framing} bytes of framing are within the limit");
        }
        (End::Malformed, _) => assert!(read.body.starts_with(&whole.body), "body after a fault"),
        _ => assert_eq!(whole, &read),
    }
}

/// Framing is limited even if it consists only of small chunks. Beside counted bytes, each chunk
/// may have a size of 16 digits, a semicolon and two line ends, and each trailer field a colon and
/// a line end. Each byte of body allows one byte of framing.
fn bounded(input: &[u8], whole: &Decoded) {
    if whole.end != End::Malformed {
        let read = if let End::Done(at) = whole.end { at } else { input.len() };
        let (counted, chunks) = (PADDING_MAX + whole.body.len(), whole.body.len() + 1);
        assert!(read - whole.body.len() <= counted + 3 * TRAILERS_MAX + 21 * chunks + 8, "{read} bytes");
    }
}

/// How many bytes extensions, trailers and padding may take, beyond one for each byte of body.
const PADDING_MAX: usize = 16 * 1024;

/// How many trailer fields a body may have.
const TRAILERS_MAX: usize = 100;

/// RFC 9112 §7.1, line by line.
pub(crate) fn read(input: &[u8]) -> Decoded {
    let mut body = Vec::new();
    let mut at = 0;
    let end = loop {
        let Some(line) = line(&input[at..]) else { break End::Open };
        at += line.len() + 2;
        match chunk_size(line) {
            None => break End::Malformed,
            Some(0) => break read_trailers(input, at),
            Some(size) => {
                let left = input.len() - at;
                let here = usize::try_from(size).map_or(left, |size| size.min(left));
                body.extend_from_slice(&input[at..at + here]);
                at += here;
                if (here as u64) < size {
                    break End::Open;
                }
                match &input[at..] {
                    [] | [b'\r'] => break End::Open,
                    [b'\r', b'\n', ..] => at += 2,
                    _ => break End::Malformed,
                }
            }
        }
    };
    Decoded { body, end }
}

fn read_trailers(input: &[u8], mut at: usize) -> End {
    let mut fields = 0;
    loop {
        let Some(line) = line(&input[at..]) else { return End::Open };
        at += line.len() + 2;
        if line.is_empty() {
            return End::Done(at);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        fields += 1;
        if !is_token(&line[..colon]) || has_control(&line[colon..]) || fields > TRAILERS_MAX {
            return End::Malformed;
        }
    }
}

/// `chunk-size [ chunk-ext ]`. The size is a 64-bit number.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    let size = u64::from_str_radix(str::from_utf8(size).ok()?, 16).ok()?;
    are_extensions(extensions).then_some(size)
}

/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 §7.1.1)
fn are_extensions(mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let named = space(text).strip_prefix(b";").and_then(|rest| token(space(rest)));
        let Some(rest) = named else { return false };
        text = match space(rest).strip_prefix(b"=") {
            None => rest,
            Some(value) => match token(space(value)).or_else(|| quoted(space(value))) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
    true
}

fn space(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| b" \t".contains(byte)).count()..]
}

/// The text after a token.
fn token(text: &[u8]) -> Option<&[u8]> {
    let len = text.iter().take_while(|byte| is_token(std::slice::from_ref(byte))).count();
    (len > 0).then(|| &text[len..])
}

/// The text after a quoted string (RFC 9110 §5.6.4).
fn quoted(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if !has_control(&[*byte]) => rest,
            _ => return None,
        };
    }
}

fn has_control(text: &[u8]) -> bool {
    text.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control())
}

/// The first line of `input`, without its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    input.windows(2).position(|end| end == b"\r\n").map(|at| &input[..at])
}
