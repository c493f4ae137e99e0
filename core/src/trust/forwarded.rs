//! Forwarding fields, in which proxies name the client: `Forwarded` (RFC 7239), and
//! X-Forwarded-For, -Proto and -Host, which no standard defines.
//!
//! Each proxy appends an element to those that it received, so elements are read from the right:
//! the element of the peer, which is trusted, and, while an element names another trusted proxy,
//! the element of that proxy. The first other address is the client's. Elements to its left were
//! not written by a trusted proxy, and are ignored.
//!
//! A client cannot correct what proxies write, so a value that cannot be parsed is ignored, as
//! `unknown` is, and no request is refused for it. A request is refused only for fields that a
//! client may have written to pose as another one: unmatched quotes and malformed pairs in
//! `Forwarded`, which could hide the element of a proxy, and contradictions between `Forwarded` and
//! the other fields.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;

use super::Trusted;
use crate::client::Scheme;
use crate::http1::{Refusal, is_authority, is_token};

/// The client according to the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Forwarded<'a> {
    pub(crate) node: Option<Node>,
    pub(crate) scheme: Option<Scheme>,
    /// The requested host, with an optional port.
    pub(crate) host: Option<&'a [u8]>,
    /// A value that matters could not be parsed, and is ignored.
    pub(crate) is_unclear: bool,
}

/// An address, and the port if it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
}

/// Whether this is the name of a forwarding field.
pub(crate) fn is_about_forwarding(name: &[u8]) -> bool {
    [FORWARDED, FOR, PROTO, HOST].iter().any(|known| name.eq_ignore_ascii_case(known))
}

const FORWARDED: &[u8] = b"forwarded";
const FOR: &[u8] = b"x-forwarded-for";
const PROTO: &[u8] = b"x-forwarded-proto";
const HOST: &[u8] = b"x-forwarded-host";

/// Evaluates the fields of a request that a trusted peer has sent.
///
/// # Errors
///
/// `Forwarded` is no list of pairs, or contradicts the other fields.
pub(crate) fn forwarded<'a>(
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
    let (standard, _) = nearest(elements.into_iter().rev().map(element), trusted)?;

    let addresses: Vec<_> = members(FOR).collect();
    let hops = addresses.len();
    let addresses = addresses.into_iter().rev().map(|text| Ok(Forwarded::default().with_node(address(text))));
    let (usual, depth) = nearest(addresses, trusted)?;
    let said_of = |all| Said { all, hops, depth };
    let usual = usual
        .with_scheme(said_of(members(PROTO).collect()).pick(scheme, Scheme::eq))
        .with_host(said_of(members(HOST).collect()).pick(host, is_same_host));

    // Many proxies write one form and pass the other on as the client wrote it: where the two
    // differ, one may be forged.
    Ok(Forwarded {
        node: agreed(standard.node, usual.node, Node::is)?,
        scheme: agreed(standard.scheme, usual.scheme, Scheme::eq)?,
        host: agreed(standard.host, usual.host, is_same_host)?,
        is_unclear: standard.is_unclear || usual.is_unclear,
    })
}

/// A value that could not be parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Unclear;

impl<'a> Forwarded<'a> {
    fn with_node(self, node: Result<Option<Node>, Unclear>) -> Self {
        let is_unclear = self.is_unclear || node.is_err();
        Self { node: node.ok().flatten(), is_unclear, ..self }
    }

    fn with_scheme(self, scheme: Result<Option<Scheme>, Unclear>) -> Self {
        let is_unclear = self.is_unclear || scheme.is_err();
        Self { scheme: scheme.ok().flatten(), is_unclear, ..self }
    }

    fn with_host(self, host: Result<Option<&'a [u8]>, Unclear>) -> Self {
        let is_unclear = self.is_unclear || host.is_err();
        Self { host: host.ok().flatten(), is_unclear, ..self }
    }
}

/// The members of X-Forwarded-Proto or -Host. Some proxies append to these fields as to
/// X-Forwarded-For, others replace them.
struct Said<'a> {
    all: Vec<&'a [u8]>,
    /// The number of elements of X-Forwarded-For.
    hops: usize,
    /// How many of those elements are trusted, counted from the right.
    depth: usize,
}

impl<'a> Said<'a> {
    /// The common value of all members. If they differ, the member beside the client's address, if
    /// there is one for each address.
    fn pick<T>(
        self,
        read: impl Fn(&'a [u8]) -> Result<T, Unclear>,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Result<Option<T>, Unclear> {
        let Some((first, rest)) = self.all.split_first() else { return Ok(None) };
        let is_first = |text: &&'a [u8]| matches!((read(first), read(text)), (Ok(one), Ok(other)) if is_same(&one, &other));
        if rest.iter().all(is_first) {
            return read(first).map(Some);
        }
        let beside = self.all.len().checked_sub(self.depth).filter(|_| self.all.len() == self.hops);
        beside.and_then(|at| self.all.get(at)).map(|text| read(text)).ok_or(Unclear)?.map(Some)
    }
}

impl Node {
    /// Whether both are the same, as far as their ports are known.
    fn is(&self, other: &Self) -> bool {
        self.ip.to_canonical() == other.ip.to_canonical()
            && self.port.zip(other.port).is_none_or(|(one, other)| one == other)
    }
}

const REFUSED: Refusal = Refusal::BadForwarding;

/// The last trusted element, from right to left, and its number. An element without an address
/// leaves the address of the element before it.
fn nearest<'a>(
    elements: impl Iterator<Item = Result<Forwarded<'a>, Refusal>>,
    trusted: &Trusted,
) -> Result<(Forwarded<'a>, usize), Refusal> {
    let (mut nearest, mut depth) = (Forwarded::default(), 0);
    for element in elements {
        let element = element?;
        nearest = Forwarded { node: element.node.or(nearest.node), ..element };
        depth += 1;
        if element.node.is_none_or(|node| !trusted.has_ip(node.ip)) {
            break;
        }
    }
    Ok((nearest, depth))
}

/// The common value of both, or the only one. Values that differ are refused.
fn agreed<T>(
    one: Option<T>,
    other: Option<T>,
    is_same: impl Fn(&T, &T) -> bool,
) -> Result<Option<T>, Refusal> {
    match (one, other) {
        (Some(one), Some(other)) if !is_same(&one, &other) => Err(REFUSED),
        (one, other) => Ok(one.or(other)),
    }
}

/// An element of `Forwarded`: pairs with different names (RFC 7239 §4).
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
            // Extensions are allowed (§5.5).
            other if !other.is_empty() && other.iter().all(|&byte| is_token(byte)) => continue,
            _ => return Err(REFUSED),
        };
        if place.replace(value).is_some() {
            return Err(REFUSED);
        }
    }
    Ok(Forwarded::default()
        .with_node(node.map_or(Ok(None), |value| value.and_then(address)))
        .with_scheme(protocol.map(|value| value.and_then(scheme)).transpose())
        .with_host(asked.map(|value| value.and_then(host)).transpose()))
}

/// The value without its quotes, if it has any. Values that require quotes are often written
/// without. No value that is read here needs an escape, and one with an escape is not parsed.
///
/// # Errors
///
/// The end of the value is ambiguous.
fn unquoted(value: &[u8]) -> Result<Result<&[u8], Unclear>, Refusal> {
    let [b'"', inner @ .., b'"'] = value else {
        let ends_somewhere = value.iter().any(|byte| byte.is_ascii_whitespace() || b"\"\\".contains(byte));
        return if ends_somewhere { Err(REFUSED) } else { Ok(Ok(value)) };
    };
    let mut escaped = false;
    for byte in inner {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Err(REFUSED),
            _ => {}
        }
    }
    Ok(if inner.contains(&b'\\') { Err(Unclear) } else { Ok(inner) })
}

/// The parts of a text between separators outside quotes (RFC 9110 §5.6.4), without surrounding
/// white space.
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

/// An address as in X-Forwarded-For, with a port as in `Forwarded`, or None. nginx writes `unix:`
/// for its own clients on unix sockets.
fn address(text: &[u8]) -> Result<Option<Node>, Unclear> {
    let text = str::from_utf8(text).map_err(|_| Unclear)?;
    if text == "unix:" {
        return Ok(None);
    }
    match text.parse::<Ipv4Addr>().ok().map(IpAddr::from).or_else(|| ipv6(text)) {
        Some(ip) => Ok(Some(Node { ip, port: None })),
        None => node(text),
    }
}

/// A node of RFC 7239 §6. None if its address is unknown or obfuscated.
fn node(text: &str) -> Result<Option<Node>, Unclear> {
    let bracket = text.rfind(']').map_or(0, |end| end + 1);
    let (name, port) = match text[bracket..].find(':') {
        Some(colon) => (&text[..bracket + colon], Some(&text[bracket + colon + 1..])),
        None => (text, None),
    };
    let port = match port {
        Some(port) if !is_obfuscated(port) => Some(number(port).ok_or(Unclear)?),
        _ => None,
    };
    if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) {
        return Ok(None);
    }
    let ip: Option<IpAddr> = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => ipv6(name),
        None => name.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    };
    ip.map(|ip| Some(Node { ip, port })).ok_or(Unclear)
}

/// An IPv6 address. The zone of a link-local one (RFC 4007 §11) names an interface of the proxy,
/// and is ignored.
fn ipv6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        Some((address, zone)) if !zone.is_empty() => address,
        Some(_) => return None,
        None => text,
    };
    address.parse::<Ipv6Addr>().ok().map(IpAddr::from)
}

/// An obfuscated name (RFC 7239 §6.3).
fn is_obfuscated(name: &str) -> bool {
    let made_up = name.strip_prefix('_');
    made_up.is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    })
}

/// A port number of one to five digits.
fn number(text: &str) -> Option<u16> {
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// The scheme as proxies write it. Some name the protocol of an upgrade.
fn scheme(text: &[u8]) -> Result<Scheme, Unclear> {
    match text.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Ok(Scheme::Http),
        b"https" | b"wss" => Ok(Scheme::Https),
        _ => Err(Unclear),
    }
}

/// A host with an optional port (RFC 9110 §7.2).
fn host(text: &[u8]) -> Result<&[u8], Unclear> {
    if !text.is_empty() && is_authority(text) { Ok(text) } else { Err(Unclear) }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as agreed() asks")]
fn is_same_host(one: &&[u8], other: &&[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests;
