//! What a request asks for: the forms of a target (RFC 9112 §3.2), and the authority that a target or Host names.

use std::net::Ipv6Addr;

use super::framing::Refusal;

/// The path of a target, empty where an absolute form has none, and its query.
///
/// # Errors
///
/// It has none of the four forms that RFC 9112 §3.2 knows, or not the one that goes with `method`; or it names something
/// that is not to be had on a connection like this (RFC 9110 §7.4).
pub(super) fn path_and_query<'t>(
    method: &str,
    target: &'t str,
) -> Result<(&'t str, Option<&'t str>), Refusal> {
    let whole = |fits| if fits { Ok((target, None)) } else { Err(Refusal::BadRequestLine) };
    match method {
        "CONNECT" => whole(has_port(target) && is_authority(target.as_bytes())),
        "OPTIONS" if target == "*" => whole(true),
        _ if target.starts_with('/') => origin(target).ok_or(Refusal::BadRequestLine),
        _ => {
            let (scheme, authority, rest) = absolute(target).ok_or(Refusal::BadRequestLine)?;
            let parts = origin(rest).filter(|_| is_authority(authority.as_bytes()));
            // What is secured by something that this connection does not have is not answered without it.
            match parts.ok_or(Refusal::BadRequestLine)? {
                parts if scheme.eq_ignore_ascii_case("http") => Ok(parts),
                _ => Err(Refusal::Misdirected),
            }
        }
    }
}

/// The authority of a target in absolute form.
pub(super) fn authority(target: &str) -> Option<&str> {
    absolute(target).map(|(_, authority, _)| authority)
}

/// Whether this is a host, and behind it perhaps a port (RFC 9110 §7.2, RFC 3986 §3.2): no user and no password, which
/// RFC 9110 §4.2.4 takes for an attempt to deceive. Without a name it is none: the scheme asks for one (§4.2.1), and a server
/// may refuse to guess (RFC 9112 §3.3).
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', literal @ ..] => {
            let Some(end) = memchr::memchr(b']', literal) else { return false };
            let address = str::from_utf8(&literal[..end]);
            if !address.is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
                return false;
            }
            literal.split_at(end + 1)
        }
        name => name.split_at(run_of(NAME, name)),
    };
    match port {
        _ if host.is_empty() => false,
        [] => true,
        [b':', digits @ ..] => is_port(digits),
        _ => false,
    }
}

/// The path and the query of what an origin has.
fn origin(text: &str) -> Option<(&str, Option<&str>)> {
    let (path, rest) = text.split_at(run_of(PATH, text.as_bytes()));
    match rest.as_bytes() {
        [] => Some((path, None)),
        [b'?', query @ ..] if query.iter().all(|byte| class_of(*byte) & QUERY != 0) => {
            Some((path, Some(&rest[1..])))
        }
        _ => None,
    }
}

/// The scheme and the authority of a target in absolute form, and what follows them.
fn absolute(target: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    is_scheme.then_some((scheme, authority, rest))
}

/// Whether an authority has a port that is not left empty.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'))
}

/// `port = *DIGIT`, of those that there are.
fn is_port(digits: &[u8]) -> bool {
    let add = |port: u32, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        Some(port * 10 + u32::from(digit)).filter(|port| *port <= u32::from(u16::MAX))
    };
    digits.iter().try_fold(0, add).is_some()
}

/// How many bytes at the beginning of `text` are of `class`, or such as are escaped (RFC 3986 §2.1).
fn run_of(class: u8, text: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let rest = &text[len..];
        len += rest.iter().position(|&byte| class_of(byte) & class == 0).unwrap_or(rest.len());
        match text[len..] {
            [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => len += 3,
            _ => return len,
        }
    }
}

/// It may stand in the name of a host as it is. Of what RFC 3986 §3.2.2 lets stand there the comma may not: to whoever reads
/// a list, it would be two names.
const NAME: u8 = 1;
/// It may stand in a path as it is: what RFC 3986 §3.3 lets stand there, and what browsers do not escape.
const PATH: u8 = 2;
/// It may stand in a query. Browsers escape even less of it, nor every `%`; what is taken is what [`http::Uri`] takes of
/// ASCII, so that no application sees another target than was sent.
const QUERY: u8 = 4;

/// Every request asks for some dozens of bytes.
fn class_of(byte: u8) -> u8 {
    static CLASSES: [u8; 256] = {
        let mut classes = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let b = byte as u8;
            if b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b'+' | b';' | b'=')
            {
                classes[byte] |= NAME | PATH;
            }
            if matches!(b, b'/' | b',' | b':' | b'@' | b'[' | b']' | b'|') {
                classes[byte] |= PATH;
            }
            if b.is_ascii_graphic() && !matches!(b, b'"' | b'#' | b'<' | b'>' | b'`') {
                classes[byte] |= QUERY;
            }
            byte += 1;
        }
        classes
    };
    CLASSES[usize::from(byte)]
}

#[cfg(test)]
mod tests;
