//! Parses a head (RFC 9112 §2 to §5): httparse's tokens, and their meaning.
//!
//! A head is read once, from the first byte to the empty line. That one pass over the fields
//! decides everything the connection machine needs: framing, persistence, expectation. Ambiguous
//! framing is refused, never guessed (RFC 9112 §6.3, §11.2), and so is a line end or a target that
//! two recipients could read differently.

use std::mem::MaybeUninit;

use httparse::Status;

use super::{FIELDS_ON_STACK, RequestHead, Span, VERSION, Version};
use crate::http1::chunked::is_token;
use crate::http1::framing::Decoder;
use crate::http1::refusal::Refusal;
use crate::http1::target::{is_authority, path_and_query};
use crate::trust::is_about_forwarding;

/// The limits of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole head.
    pub(crate) head: usize,
    pub(crate) request_line: usize,
    pub(crate) fields: usize,
    pub(crate) field_size: usize,
    /// Bytes of framing of its body, beyond one for each byte of the body.
    pub(crate) framing: u32,
}

/// The result of parsing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// The head ends at this offset.
    Complete(usize),
    /// The head is incomplete, and valid so far.
    Partial,
    /// The bytes cannot become a valid head.
    Refused(Refusal),
}

/// Parses the head at the beginning of `bytes` into `out`, except for its `buf`.
///
/// The result depends on the bytes, not on how many of them arrived at once.
pub(crate) fn parse_head(bytes: &[u8], limits: HeadLimits, out: &mut RequestHead) -> Parsed {
    match parse(bytes, limits, out) {
        Parsed::Refused(Refusal::UnknownVersion) => match as_http_1_1(bytes) {
            Some(bytes) => parse(&bytes, limits, out),
            None => Parsed::Refused(Refusal::UnknownVersion),
        },
        parsed => parsed,
    }
}

fn parse(bytes: &[u8], limits: HeadLimits, out: &mut RequestHead) -> Parsed {
    // A field line has at least `a:` and its line ending, so a generous limit allocates no more
    // than the bytes need.
    let most = limits.fields.min(bytes.len() / 3 + 1);
    if most <= FIELDS_ON_STACK {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
        parse_into(bytes, limits, &mut fields[..most], out)
    } else {
        let mut fields = Vec::new();
        fields.resize_with(most, MaybeUninit::uninit);
        parse_into(bytes, limits, &mut fields, out)
    }
}

fn parse_into<'b>(
    bytes: &'b [u8],
    limits: HeadLimits,
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
    out: &mut RequestHead,
) -> Parsed {
    let mut request = httparse::Request::new(&mut []);
    match scan(bytes, fields, &mut request) {
        Parsed::Complete(len) => match over_limit(&bytes[..len], limits) {
            None => parse_fields(&bytes[..len], &request, limits, out)
                .map_or_else(Parsed::Refused, |()| Parsed::Complete(len)),
            Some((_, refusal)) => Parsed::Refused(refusal),
        },
        Parsed::Partial => {
            over_limit(bytes, limits).map_or(Parsed::Partial, |(_, refusal)| Parsed::Refused(refusal))
        }
        // The first fault counts: a limit that was exceeded before the syntax error.
        Parsed::Refused(fault) => match over_limit(bytes, limits) {
            Some((seen, refusal))
                if scan(&bytes[..seen], fields, &mut httparse::Request::new(&mut [])) == Parsed::Partial =>
            {
                Parsed::Refused(refusal)
            }
            _ => Parsed::Refused(fault),
        },
    }
}

/// Parses the head without regard to the length of its lines.
fn scan<'h, 'b>(
    bytes: &'b [u8],
    fields: &'h mut [MaybeUninit<httparse::Header<'b>>],
    request: &mut httparse::Request<'h, 'b>,
) -> Parsed {
    match request.parse_with_uninit_headers(bytes, fields) {
        Ok(Status::Complete(len)) => Parsed::Complete(len),
        Ok(Status::Partial) => Parsed::Partial,
        Err(httparse::Error::Version) => {
            let target = request.path.expect("a target is parsed before the version");
            foreign_version(&bytes[Span::of(target.as_bytes(), bytes).range().end + 1..])
        }
        Err(httparse::Error::TooManyHeaders) => Parsed::Refused(Refusal::FieldsTooLarge),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => Parsed::Refused(Refusal::BadField),
        Err(_) => Parsed::Refused(Refusal::BadRequestLine),
    }
}

/// Distinguishes an unsupported version (505) from a malformed one (400), once enough bytes have
/// arrived.
fn foreign_version(token: &[u8]) -> Parsed {
    let form = b"HTTP/0.0";
    let fits = token.iter().zip(form).all(|(byte, like)| match like {
        b'0' => byte.is_ascii_digit(),
        _ => byte == like,
    });
    match fits {
        true if token.len() < form.len() => Parsed::Partial,
        true => Parsed::Refused(Refusal::UnknownVersion),
        false => Parsed::Refused(Refusal::BadRequestLine),
    }
}

/// The same head in HTTP/1.1, if its minor version is higher: it is processed as 1.1 (RFC 9110
/// §2.5).
#[cold]
fn as_http_1_1(bytes: &[u8]) -> Option<Vec<u8>> {
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
    let mut spaces = memchr::memchr_iter(b' ', &bytes[start..]);
    let minor = start + spaces.nth(1)? + VERSION.len() - 1;
    (bytes[..minor].ends_with(b"HTTP/1.") && matches!(bytes[minor], b'2'..=b'9')).then(|| {
        let mut bytes = bytes.to_vec();
        bytes[minor] = b'1';
        bytes
    })
}

/// The first limit that is exceeded, if any: how many bytes show it, and the refusal.
fn over_limit(bytes: &[u8], limits: HeadLimits) -> Option<(usize, Refusal)> {
    let head = (bytes.len() > limits.head).then(|| (limits.head + 1, Refusal::FieldsTooLarge));
    [line_over_limit(bytes, limits), head].into_iter().flatten().min_by_key(|(seen, _)| *seen)
}

/// The same for the lines.
fn line_over_limit(bytes: &[u8], limits: HeadLimits) -> Option<(usize, Refusal)> {
    if bytes.len() <= limits.request_line.min(limits.field_size) {
        return None;
    }
    let mut start = bytes.iter().position(|&b| b != b'\r' && b != b'\n')?;
    let (mut limit, mut refusal) = (limits.request_line, Refusal::UriTooLong);
    loop {
        let line = &bytes[start..];
        let feed = memchr::memchr(b'\n', line);
        if feed.unwrap_or(line.len()) > limit.saturating_add(1) {
            let seen = limit + 2;
            // RFC 9112 §3: a method longer than any that is implemented.
            let is_method = refusal == Refusal::UriTooLong && !line[..seen].contains(&b' ');
            return Some((start + seen, if is_method { Refusal::UnknownMethod } else { refusal }));
        }
        start += feed? + 1;
        (limit, refusal) = (limits.field_size, Refusal::FieldsTooLarge);
    }
}

/// Derives everything that the connection needs from a complete head, in one pass over its fields.
fn parse_fields(
    bytes: &[u8],
    request: &httparse::Request<'_, '_>,
    limits: HeadLimits,
    out: &mut RequestHead,
) -> Result<(), Refusal> {
    let invariant = "a complete head has a request line";
    let (method, target) = (request.method.expect(invariant), request.path.expect(invariant));
    out.version = if request.version.expect(invariant) == 1 { Version::Http11 } else { Version::Http10 };
    out.method = Span::of(method.as_bytes(), bytes);
    out.target = Span::of(target.as_bytes(), bytes);
    out.is_head = method == "HEAD";
    // The bytes after a CONNECT that is not granted may have been meant for the tunnel (RFC 9110
    // §9.3.6).
    let mut close = method == "CONNECT";
    out.keep_alive = out.version == Version::Http11;
    out.expects_continue = false;
    out.is_forwarded = false;
    out.forwarded_host = None;
    out.fields.clear();

    // RFC 9112 §2.2 allows a recipient to accept a lone LF as a line end. Another recipient that
    // does not would see other fields, which is enough for request smuggling. So every line has to
    // end with CRLF here.
    let empty_lines = &bytes[..out.method.range().start];
    let lines_end = bytes[out.target.range().end + VERSION.len()] == b'\r'
        && empty_lines.chunks(2).all(|line| line == b"\r\n");
    if !lines_end {
        return Err(Refusal::BadRequestLine);
    }
    let (path, query) = path_and_query(method, target)?;
    out.path = Span::of(path.as_bytes(), bytes);
    out.query = query.map(|query| Span::of(query.as_bytes(), bytes));

    let mut hosts = 0;
    let mut length: Option<u64> = None;
    let mut coding: Option<&[u8]> = None;
    let mut codings = 0;
    let mut expects_other = false;
    let (mut names_protocol, mut upgrade) = (false, false);
    for field in request.headers.iter() {
        let (name, value) = (field.name.as_bytes(), field.value);
        let name_span = Span::of(name, bytes);
        if bytes[name_span.range().start - 2] != b'\r' {
            return Err(Refusal::BadField);
        }
        // The length of a name distinguishes most fields before any letter is compared.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                hosts += 1;
                if !is_authority(value) {
                    return Err(Refusal::BadHost);
                }
            }
            // RFC 9110 §10.1.1: an expectation of HTTP/1.0 is ignored, since that version has no
            // interim responses.
            6 if name.eq_ignore_ascii_case(b"expect") && out.version == Version::Http11 => {
                for expectation in tokens(value).filter(|expectation| !expectation.is_empty()) {
                    let is_continue = expectation.eq_ignore_ascii_case(b"100-continue");
                    out.expects_continue |= is_continue;
                    expects_other |= !is_continue;
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => names_protocol = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in tokens(value) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    out.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9110 §8.6 would accept a repeated equal number, in a list or in several
                // fields. But a repetition may come from two senders, and one of them may be an
                // attacker.
                let n = decimal(value).ok_or(Refusal::BadContentLength)?;
                if length.replace(n).is_some() {
                    return Err(Refusal::BadContentLength);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                coding = Some(value);
                codings += 1;
            }
            9 | 15..=17 if matches!(name[0] | 0x20, b'f' | b'x') => {
                out.is_forwarded |= is_about_forwarding(name);
            }
            _ => {}
        }
        out.fields.push((name_span, Span::of(value, bytes)));
    }
    if !bytes.ends_with(b"\r\n\r\n") {
        return Err(Refusal::BadField);
    }
    out.keep_alive &= !close;
    // RFC 9110 §7.8: HTTP/1.0 cannot offer an upgrade, and an Upgrade field without a Connection
    // option is not for this hop.
    out.offers_upgrade = names_protocol && upgrade && out.version == Version::Http11;
    // RFC 9112 §3.2: exactly one Host in HTTP/1.1, at most one in any version.
    if hosts > 1 || (hosts == 0 && out.version == Version::Http11) {
        return Err(Refusal::BadHost);
    }
    out.framing = match (coding, length) {
        (None, None) => Decoder::none(),
        (None, Some(n)) => Decoder::length(n),
        // RFC 9112 §6.1: in HTTP/1.0 the framing is faulty; with Content-Length it may be an
        // attack.
        (Some(_), _) if out.version == Version::Http10 => return Err(Refusal::AmbiguousFraming),
        (Some(_), Some(_)) => return Err(Refusal::AmbiguousFraming),
        (Some(coding), None) if codings == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Decoder::chunked(limits.framing)
        }
        (Some(_), None) => return Err(foreign_coding(request.headers)),
    };
    if expects_other {
        return Err(Refusal::UnknownExpectation);
    }
    Ok(())
}

/// The refusal for a list of transfer codings that is not supported. If chunked is repeated, has
/// parameters or is not the last coding, or a member is malformed, the end of the body is unknown
/// (RFC 9112 §6.3, §7.1). Any other list has a coding that is not implemented (§6.1). Either
/// response ends the connection.
fn foreign_coding(fields: &[httparse::Header<'_>]) -> Refusal {
    let mut ended = false;
    let members = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("transfer-encoding"))
        .flat_map(|field| tokens(field.value));
    for member in members {
        let name = member.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
        let is_coding = !name.is_empty() && name.iter().all(|&byte| is_token(byte));
        let is_chunked = name.eq_ignore_ascii_case(b"chunked");
        if ended || !is_coding || (is_chunked && name.len() < member.len()) {
            return Refusal::AmbiguousFraming;
        }
        ended = is_chunked;
    }
    Refusal::UnknownTransferCoding
}

/// The members of a comma-separated list, without surrounding white space.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

/// A number of decimal digits only (RFC 9110 §8.6).
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |n, &digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d <= 9)?;
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
