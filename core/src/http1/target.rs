//! What a request asks for: the forms of a target (RFC 9112 §3.2), and the authority that a target or Host names.

use std::net::Ipv6Addr;

/// Whether a target has one of the four forms that RFC 9112 §3.2 knows.
pub(super) fn is_target(method: &str, target: &str) -> bool {
    match method {
        "CONNECT" => has_port(target) && is_authority(target.as_bytes()),
        "OPTIONS" if target == "*" => true,
        _ => {
            target.bytes().all(|byte| class_of(byte) & TARGET != 0)
                && (target.starts_with('/')
                    || absolute(target).is_some_and(|(authority, _)| {
                        !authority.is_empty() && is_authority(authority.as_bytes())
                    }))
        }
    }
}

/// A target's path, empty where an absolute form has none, and its query.
pub(super) fn path_and_query(target: &str) -> (&str, Option<&str>) {
    let origin = absolute(target).map_or(target, |(_, rest)| rest);
    match memchr::memchr(b'?', origin.as_bytes()) {
        Some(mark) => (&origin[..mark], Some(&origin[mark + 1..])),
        None => (origin, None),
    }
}

/// Whether this is a host, and behind it perhaps a port (RFC 9110 §7.2, RFC 3986 §3.2): no user and no password, which
/// RFC 9110 §4.2.4 takes for an attempt to deceive. Empty is fine: that is how a Host says that there is none.
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
        name => name.split_at(name_len(name)),
    };
    match port {
        [] => true,
        [b':', digits @ ..] => !host.is_empty() && is_port(digits),
        _ => false,
    }
}

/// The authority of a target in absolute form, and what follows it.
fn absolute(target: &str) -> Option<(&str, &str)> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then(|| rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
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

/// How many bytes of `text` are the name of a host.
fn name_len(text: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let rest = &text[len..];
        len += rest.iter().position(|&byte| class_of(byte) & NAME == 0).unwrap_or(rest.len());
        match text[len..] {
            [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => len += 3,
            _ => return len,
        }
    }
}

/// It may stand in the name of a host as it is.
const NAME: u8 = 1;
/// It may stand in a target. Some of these should have been escaped (RFC 3986 §2); what is taken is what
/// [`http::Uri`] takes, so that no application sees another target than was sent.
const TARGET: u8 = 2;

/// Every request asks for some dozens of bytes.
fn class_of(byte: u8) -> u8 {
    static CLASSES: [u8; 256] = {
        let mut classes = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let b = byte as u8;
            if b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=')
            {
                classes[byte] |= NAME;
            }
            if b > b' ' && b != 0x7f && !matches!(b, b'"' | b'#' | b'<' | b'>' | b'`') {
                classes[byte] |= TARGET;
            }
            byte += 1;
        }
        classes
    };
    CLASSES[usize::from(byte)]
}

#[cfg(test)]
mod tests;
