//! Request targets: their forms (RFC 9112 §3.2), and the authority in a target or in Host.

use std::net::Ipv6Addr;

use super::refusal::Refusal;

/// The path of a target, empty if an absolute form has none, and its query.
///
/// # Errors
///
/// The target has none of the four forms of RFC 9112 §3.2, or not the one that `method` requires;
/// or its scheme requires a secured connection, which this one is not (RFC 9110 §7.4).
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
            // An https target is not answered over a connection without TLS.
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

/// Whether the text is a host with an optional port (RFC 9110 §7.2, RFC 3986 §3.2): no user and no
/// password, which RFC 9110 §4.2.4 treats as an attempt to deceive. The host must not be empty: the
/// scheme requires one (§4.2.1), and a server may refuse to guess (RFC 9112 §3.3).
pub(crate) fn is_authority(text: &[u8]) -> bool {
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

/// The path and the query of an origin form.
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

/// The scheme and the authority of a target in absolute form, and the rest of it.
fn absolute(target: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    is_scheme.then_some((scheme, authority, rest))
}

/// Whether an authority has a port that is not empty.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'))
}

/// `port = *DIGIT`, up to 65535.
fn is_port(digits: &[u8]) -> bool {
    let add = |port: u32, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        Some(port * 10 + u32::from(digit)).filter(|port| *port <= u32::from(u16::MAX))
    };
    digits.iter().try_fold(0, add).is_some()
}

/// The length of the prefix of `text` whose bytes are of `class`, or are escaped (RFC 3986 §2.1).
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

/// Bytes allowed unescaped in a host name: those of RFC 3986 §3.2.2 without the comma, which a
/// reader of lists would take for a separator of two names.
const NAME: u8 = 1;
/// Bytes allowed unescaped in a path: those of RFC 3986 §3.3, and those that browsers do not
/// escape.
const PATH: u8 = 2;
/// Bytes allowed in a query. Browsers escape fewer of them, and not every `%`. The set is the ASCII
/// that [`http::Uri`] accepts, so that an application sees the target as it was sent.
const QUERY: u8 = 4;

/// A table, because every request looks up dozens of bytes.
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
