//! What proxies say of the client in fields: `Forwarded` (RFC 7239), and X-Forwarded-For, -Proto and -Host, which no standard
//! has.
//!
//! Each proxy adds an element behind those that it was sent, so that they are read from the right: the element of the peer,
//! which is trusted, and, as long as it names another trusted one, that one's. The first that names somebody else is the
//! client's; what stands to its left was said by nobody that is trusted, and is not looked at. Nothing is guessed: what is
//! malformed up to there, or said twice and differently, is refused.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;

use super::Refusal;
use super::chunked::is_token;
use super::target::is_authority;
use crate::client::Scheme;
use crate::trust::Trusted;

/// What the fields say of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Forwarded<'a> {
    pub(super) node: Option<Node>,
    pub(super) scheme: Option<Scheme>,
    /// The host that it has asked for, perhaps with a port.
    pub(super) host: Option<&'a [u8]>,
}

/// An address, and the port if that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) ip: IpAddr,
    pub(super) port: Option<u16>,
}

/// Whether this is the name of a field about forwarding.
pub(super) fn is_about_forwarding(name: &[u8]) -> bool {
    [FORWARDED, FOR, PROTO, HOST].iter().any(|known| name.eq_ignore_ascii_case(known))
}

const FORWARDED: &[u8] = b"forwarded";
const FOR: &[u8] = b"x-forwarded-for";
const PROTO: &[u8] = b"x-forwarded-proto";
const HOST: &[u8] = b"x-forwarded-host";

/// Reads the fields of a request that a trusted peer has sent.
///
/// # Errors
///
/// What is read of them is malformed or contradictory.
pub(super) fn forwarded<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    trusted: &Trusted,
) -> Result<Forwarded<'a>, Refusal> {
    let named = |wanted: &'static [u8]| {
        let fields = fields.clone().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        fields.map(|(_, value)| value)
    };
    let members = |wanted| {
        let members = named(wanted).flat_map(|value| value.split(|&byte| byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    };

    let mut elements = Vec::new();
    for value in named(FORWARDED) {
        elements.extend(split_unquoted(value, b',')?.into_iter().filter(|element| !element.is_empty()));
    }
    let standard = nearest(elements.into_iter().rev().map(element), trusted)?;

    let addresses: Vec<_> = members(FOR).collect();
    let addresses = addresses.into_iter().rev();
    let usual = Forwarded {
        scheme: agreed(members(PROTO).map(scheme), Scheme::eq)?,
        host: agreed(members(HOST).map(host), is_same_host)?,
        ..nearest(
            addresses.map(|text| Ok(Forwarded { node: address(text)?, ..Forwarded::default() })),
            trusted,
        )?
    };

    Ok(Forwarded {
        node: agreed(standard.node.into_iter().chain(usual.node).map(Ok), Node::is)?,
        scheme: agreed(standard.scheme.into_iter().chain(usual.scheme).map(Ok), Scheme::eq)?,
        host: agreed(standard.host.into_iter().chain(usual.host).map(Ok), is_same_host)?,
    })
}

impl Node {
    /// Whether both are the same, as far as their ports are known.
    fn is(&self, other: &Self) -> bool {
        self.ip.to_canonical() == other.ip.to_canonical()
            && self.port.zip(other.port).is_none_or(|(one, other)| one == other)
    }
}

const REFUSED: Refusal = Refusal::BadForwarding;

/// The last element that is to be believed, of those from right to left. Where it names nobody, the one before it has
/// named the last that is known.
fn nearest<'a>(
    elements: impl Iterator<Item = Result<Forwarded<'a>, Refusal>>,
    trusted: &Trusted,
) -> Result<Forwarded<'a>, Refusal> {
    let mut nearest = Forwarded::default();
    for element in elements {
        let element = element?;
        nearest = Forwarded { node: element.node.or(nearest.node), ..element };
        if element.node.is_none_or(|node| !trusted.has_ip(node.ip)) {
            break;
        }
    }
    Ok(nearest)
}

/// What all say that say anything.
fn agreed<T>(
    said: impl Iterator<Item = Result<T, Refusal>>,
    is_same: impl Fn(&T, &T) -> bool,
) -> Result<Option<T>, Refusal> {
    let mut agreed = None;
    for one in said {
        let one = one?;
        if agreed.as_ref().is_some_and(|before| !is_same(before, &one)) {
            return Err(REFUSED);
        }
        agreed.get_or_insert(one);
    }
    Ok(agreed)
}

/// An element of `Forwarded`: pairs, of which each name comes once (RFC 7239 §4).
fn element(text: &[u8]) -> Result<Forwarded<'_>, Refusal> {
    let (mut by, mut node, mut protocol, mut asked) = (None, None, None, None);
    for pair in split_unquoted(text, b';')?.into_iter().filter(|pair| !pair.is_empty()) {
        let equals = memchr::memchr(b'=', pair).ok_or(REFUSED)?;
        let (name, value) = (&pair[..equals], unquoted(&pair[equals + 1..])?);
        let place = match name.to_ascii_lowercase().as_slice() {
            b"for" => &mut node,
            b"proto" => &mut protocol,
            b"host" => &mut asked,
            b"by" => &mut by,
            // Others may follow one day (§5.5).
            other if !other.is_empty() && other.iter().all(|&byte| is_token(byte)) => continue,
            _ => return Err(REFUSED),
        };
        if place.replace(value).is_some() {
            return Err(REFUSED);
        }
    }
    Ok(Forwarded {
        node: node.map(self::node).transpose()?.flatten(),
        scheme: protocol.map(scheme).transpose()?,
        host: asked.map(host).transpose()?,
    })
}

/// A value that is a token, or what is in its quotes. Nothing that is read here has to be escaped, and what is escaped all
/// the same is not understood.
fn unquoted(value: &[u8]) -> Result<&[u8], Refusal> {
    match value {
        [b'"', inner @ .., b'"'] if !inner.iter().any(|byte| b"\"\\".contains(byte)) => Ok(inner),
        token if !token.is_empty() && token.iter().all(|&byte| is_token(byte)) => Ok(token),
        _ => Err(REFUSED),
    }
}

/// The parts of a text between separators that are in no quotes (RFC 9110 §5.6.4), without the white space around them.
fn split_unquoted(text: &[u8], separator: u8) -> Result<Vec<&[u8]>, Refusal> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => return byte == separator && !quoted,
        }
        false
    });
    let parts = parts.map(<[u8]>::trim_ascii).collect();
    if quoted { Err(REFUSED) } else { Ok(parts) }
}

/// As in X-Forwarded-For: an address, with a port as in `Forwarded`, or nobody. Its own clients on unix sockets nginx calls
/// `unix:`.
fn address(text: &[u8]) -> Result<Option<Node>, Refusal> {
    if text == b"unix:" {
        return Ok(None);
    }
    match str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
        Some(ip) => Ok(Some(Node { ip, port: None })),
        None => node(text),
    }
}

/// A node of RFC 7239 §6; none if its address is unknown or kept secret.
fn node(text: &[u8]) -> Result<Option<Node>, Refusal> {
    let text = str::from_utf8(text).map_err(|_| REFUSED)?;
    let bracket = text.rfind(']').map_or(0, |end| end + 1);
    let (name, port) = match text[bracket..].find(':') {
        Some(colon) => (&text[..bracket + colon], Some(&text[bracket + colon + 1..])),
        None => (text, None),
    };
    let port = match port {
        Some(port) if !is_obfuscated(port) => Some(number(port).ok_or(REFUSED)?),
        _ => None,
    };
    if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) {
        return Ok(None);
    }
    let ip: Option<IpAddr> = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => name.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => name.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    };
    ip.map(|ip| Some(Node { ip, port })).ok_or(REFUSED)
}

/// A name that a proxy has made up (RFC 7239 §6.3).
fn is_obfuscated(name: &str) -> bool {
    let made_up = name.strip_prefix('_');
    made_up.is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    })
}

/// The number of a port, one to five digits.
fn number(text: &str) -> Option<u16> {
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// As proxies write it, who may also name the protocol that a request asks to change to.
fn scheme(text: &[u8]) -> Result<Scheme, Refusal> {
    match text.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Ok(Scheme::Http),
        b"https" | b"wss" => Ok(Scheme::Https),
        _ => Err(REFUSED),
    }
}

/// A host, and perhaps a port (RFC 9110 §7.2).
fn host(text: &[u8]) -> Result<&[u8], Refusal> {
    if !text.is_empty() && is_authority(text) { Ok(text) } else { Err(REFUSED) }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as agreed() asks")]
fn is_same_host(one: &&[u8], other: &&[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}

#[cfg(test)]
#[path = "forwarded/tests.rs"]
mod tests;
