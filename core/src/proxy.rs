//! The PROXY protocol, versions 1 and 2: a proxy in front names the client before the client's
//! first byte. The standard is HAProxy's
//! [proxy-protocol.txt](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//!
//! A pure function of bytes. Which peers may send such a header is decided by
//! [`trust`](crate::trust). No bytes are taken for a header that are none: §5 forbids guessing.
//! Only the client's address is read from a header, and a checksum is verified if there is one.
//!
//! ```text
//! 1: PROXY TCP4|TCP6 source destination port port CR LF  PROXY UNKNOWN ... CR LF  ≤ 107 bytes
//! 2: 12 bytes of signature · version, command · family, transport · length u16 · addresses · TLVs
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::{self, FromStr};

use thiserror::Error;

/// Which versions of the header a connection must begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "there are two versions")]
pub enum ProxyProtocol {
    /// None: a header is refused as a malformed request.
    #[default]
    Off,
    /// Version 1, which is text.
    V1,
    /// Version 2, which is binary.
    V2,
    /// Either.
    Auto,
}

/// A complete header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProxyHeader {
    /// The length of the header in bytes. The client's bytes follow it.
    pub len: usize,
    /// The client. None if the proxy sends requests of its own (LOCAL) or does not name the client
    /// (UNKNOWN, UNSPEC, unix sockets): then the address of the socket counts.
    pub client: Option<SocketAddr>,
}

/// The bytes do not begin with a header, whatever follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("missing or malformed PROXY header")]
#[allow(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct NoProxyHeader;

/// The maximum length of a header of version 1, with its line end, in bytes (§2.1).
pub const V1_MAX: usize = 107;

/// The maximum length of a header of version 2, TLVs included, in bytes. The standard lets a
/// receiver set a limit of at least 536 bytes; this is nginx's.
pub const V2_MAX: usize = 4096;

/// Parses the header at the beginning of `bytes`. None if more bytes have to arrive first.
///
/// The result depends on the bytes, not on how many of them arrived at once, and is given as early
/// as possible.
///
/// # Errors
///
/// There is no header, it is malformed or too large, of an unwanted version, or its checksum is
/// wrong.
pub fn parse_proxy(bytes: &[u8], wanted: ProxyProtocol) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let (v1, v2) = match wanted {
        ProxyProtocol::Off => return Err(NoProxyHeader),
        ProxyProtocol::V1 => (true, false),
        ProxyProtocol::V2 => (false, true),
        ProxyProtocol::Auto => (true, true),
    };
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, like)| byte == like);
    if v1 && begins(GREETING) && !bytes.is_empty() {
        parse_v1(bytes)
    } else if v2 && begins(SIGNATURE) && !bytes.is_empty() {
        parse_v2(bytes)
    } else if bytes.is_empty() {
        Ok(None)
    } else {
        Err(NoProxyHeader)
    }
}

const GREETING: &[u8] = b"PROXY ";

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A line of text (§2.1), with one space between its parts.
fn parse_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let Some(feed) = memchr::memchr(b'\n', &bytes[..bytes.len().min(V1_MAX)]) else {
        return if bytes.len() < V1_MAX { Ok(None) } else { Err(NoProxyHeader) };
    };
    let line = bytes[GREETING.len()..feed].strip_suffix(b"\r").ok_or(NoProxyHeader)?;
    let mut parts = line.split(|&byte| byte == b' ');
    let client = match parts.next() {
        // Everything after it is ignored.
        Some(b"UNKNOWN") => None,
        Some(b"TCP4") => Some(endpoints::<Ipv4Addr>(parts)?),
        Some(b"TCP6") => Some(endpoints::<Ipv6Addr>(parts)?),
        _ => return Err(NoProxyHeader),
    };
    Ok(Some(ProxyHeader { len: feed + 1, client }))
}

/// The source, from exactly two addresses and two ports.
fn endpoints<'a, A: FromStr + Into<IpAddr>>(
    mut parts: impl Iterator<Item = &'a [u8]>,
) -> Result<SocketAddr, NoProxyHeader> {
    let mut part = || str::from_utf8(parts.next()?).ok();
    let mut address = || part()?.parse::<A>().ok();
    let (source, destination) = (address(), address());
    let mut port = || part().and_then(port);
    let (source_port, destination_port) = (port(), port());
    let rest = parts.next();
    match (source, source_port, destination.and(destination_port), rest) {
        (Some(ip), Some(port), Some(_), None) => Ok(SocketAddr::new(ip.into(), port)),
        _ => Err(NoProxyHeader),
    }
}

/// Decimal digits without a sign or leading zeros (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

/// Bytes before the addresses.
const FIXED: usize = 16;

/// Version 2 with one of its two commands.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// All families with their transports.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

/// The binary form (§2.2).
fn parse_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let Some(command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if ![LOCAL, PROXY].contains(command) {
        return Err(NoProxyHeader);
    }
    let Some((fixed, _)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., family, high, low] = *fixed;
    let len = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > V2_MAX {
        return Err(NoProxyHeader);
    }
    // The addresses of a LOCAL header are ignored, whatever its family, and so are those of an
    // unspecified family.
    let addresses = match family {
        _ if *command == LOCAL => 0,
        UNSPEC => 0,
        TCP4 | UDP4 => 2 * (4 + 2),
        TCP6 | UDP6 => 2 * (16 + 2),
        UNIX_STREAM | UNIX_DATAGRAM => 2 * 108,
        _ => return Err(NoProxyHeader),
    };
    if len < FIXED + addresses {
        return Err(NoProxyHeader);
    }
    let Some(header) = bytes.get(..len) else { return Ok(None) };
    if addresses > 0 {
        check(header, FIXED + addresses)?;
    }
    let source = &header[FIXED..];
    let port = |at: usize| u16::from_be_bytes([source[at], source[at + 1]]);
    let client = match addresses {
        12 => source.first_chunk::<4>().map(|ip| SocketAddr::from((*ip, port(8)))),
        36 => source.first_chunk::<16>().map(|ip| SocketAddr::from((*ip, port(32)))),
        _ => None,
    };
    Ok(Some(ProxyHeader { len, client }))
}

/// Checks the TLVs from offset `at` on. Only the checksum has a meaning here (§2.2.3).
fn check(header: &[u8], mut at: usize) -> Result<(), NoProxyHeader> {
    const CRC32C: u8 = 0x03;
    while at < header.len() {
        let [kind, high, low] = *header[at..].first_chunk().ok_or(NoProxyHeader)?;
        at += 3;
        let value = header.get(at..at + usize::from(u16::from_be_bytes([high, low]))).ok_or(NoProxyHeader)?;
        if kind == CRC32C {
            let sum: [u8; 4] = value.try_into().map_err(|_| NoProxyHeader)?;
            let without = [&header[..at], &[0; 4], &header[at + 4..]];
            if crc32c(without.into_iter().flatten()) != u32::from_be_bytes(sum) {
                return Err(NoProxyHeader);
            }
        }
        at += value.len();
    }
    Ok(())
}

/// The checksum of RFC 3309, bit by bit: a connection has at most one header, and few have a
/// checksum.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

#[cfg(test)]
mod tests;
