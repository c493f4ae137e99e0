//! The chunked coding: the input is a body and what follows it.
//!
//! Held against a reading of RFC 9112 §7.1 by lines, which has all of the body before it at once; and against itself,
//! however the input is cut and however little is asked for.

use remuda_core::fuzz::Chunked;

/// Checks what is made of `input`.
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

/// What became of a body.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Decoded {
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It ends before this byte.
    Done(usize),
    /// More has to come.
    Open,
    /// It will never end.
    Malformed,
}

/// Decodes `input`, which arrives in pieces, at most `max` bytes of body at once.
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
                    assert_eq!(again, Err(error), "nothing behind an error is a body");
                    return Decoded { body, end: End::Malformed };
                }
            }
        }
        if decoder.is_done() {
            return Decoded { body, end: End::Done(at) };
        }
        assert_eq!(at, arrived, "nothing is left undone");
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

/// The decoder sees a fault before its line is complete, and bounds what is not body; but for that both say the same.
fn agrees_with_lines(input: &[u8], whole: &Decoded) {
    let read = read(input);
    match (whole.end, read.end) {
        (End::Malformed, End::Done(at)) => {
            let framing = at - read.body.len();
            assert!(framing > PADDING_MAX, "{framing} bytes of framing are no reason to refuse it");
        }
        (End::Malformed, _) => assert!(read.body.starts_with(&whole.body), "body behind a fault"),
        _ => assert_eq!(whole, &read),
    }
}

/// Framing has an end even if it is made of nothing but small chunks: what each of them may have without being counted is
/// a size of 16 digits, a semicolon and two line ends.
fn bounded(input: &[u8], whole: &Decoded) {
    if whole.end != End::Malformed {
        let chunks = whole.body.len() + 1;
        let read = if let End::Done(at) = whole.end { at } else { input.len() };
        assert!(read - whole.body.len() <= 4 * PADDING_MAX + 21 * chunks + 8, "{read} bytes of framing");
    }
}

/// What extensions, trailers and padding may take.
const PADDING_MAX: usize = 16 * 1024;

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
    loop {
        let Some(line) = line(&input[at..]) else { return End::Open };
        at += line.len() + 2;
        if line.is_empty() {
            return End::Done(at);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if colon == 0 || !line[..colon].iter().all(is_token) || has_control(&line[colon..]) {
            return End::Malformed;
        }
    }
}

/// `chunk-size [ BWS ";" ...]`: a number of 64 bits, and behind it nothing but white space or an extension.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if has_control(line) || !(rest.is_empty() || rest.starts_with(b";")) || within_quotes(rest) {
        return None;
    }
    let significant = str::from_utf8(&line[..digits]).ok()?;
    u64::from_str_radix(significant, 16).ok()
}

/// Whether a quoted string has begun in `text` and not ended.
fn within_quotes(text: &[u8]) -> bool {
    match text.iter().position(|byte| *byte == b'"') {
        None => false,
        Some(opening) => {
            let mut inside = text[opening + 1..].iter();
            while let Some(byte) = inside.next() {
                match byte {
                    b'"' => return within_quotes(inside.as_slice()),
                    b'\\' => drop(inside.next()),
                    _ => {}
                }
            }
            true
        }
    }
}

fn has_control(text: &[u8]) -> bool {
    text.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control())
}

/// The first line of `input`, without its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    input.windows(2).position(|end| end == b"\r\n").map(|at| &input[..at])
}
