//! The PROXY protocol, versions 1 and 2: who the client is, said by a proxy in front before the client's first byte.
//! The standard is HAProxy's [proxy-protocol.txt](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//!
//! A pure function of bytes. It says nothing of who may send such a header (that is [`trust`](crate::trust)), and takes
//! nothing for a header that is none: §5 forbids guessing. Of what a header may say besides, the client's address is all
//! that is read; a checksum is verified where there is one.
//!
//! ```text
//! 1: PROXY TCP4|TCP6 source destination port port CR LF     PROXY UNKNOWN ... CR LF            at most 107 bytes
//! 2: 12 bytes of signature · version, command · family, transport · length u16 · addresses · TLVs
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::{self, FromStr};

use thiserror::Error;

/// Which versions of the header a connection must begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "there are two versions")]
pub enum ProxyProtocol {
    /// None: a header is no request, and refused as such.
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
    /// Its bytes, behind which the client's begin.
    pub len: usize,
    /// The client; none if the proxy speaks for itself (LOCAL) or says nothing about it (UNKNOWN, UNSPEC, unix sockets), so
    /// that the address of the socket counts.
    pub client: Option<SocketAddr>,
}

/// These bytes do not begin a header, whatever follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("missing or malformed PROXY header")]
#[allow(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct NoProxyHeader;

/// Bytes that a header of version 1 has at most, with its line end (§2.1).
pub const V1_MAX: usize = 107;

/// Bytes that a header of version 2 may have at most, TLVs included. The standard lets a receiver set a limit from 536
/// bytes on; this is nginx's.
pub const V2_MAX: usize = 4096;

/// Parses the header at the beginning of `bytes`; none if more have to arrive first.
///
/// The answer is a matter of the bytes alone, never of how many of them arrived at once, and it comes as soon as there
/// is one.
///
/// # Errors
///
/// There is no header, it is malformed or too large, of a version that is not wanted, or its checksum is wrong.
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
        // All that stands behind it is to be ignored.
        Some(b"UNKNOWN") => None,
        Some(b"TCP4") => Some(endpoints::<Ipv4Addr>(parts)?),
        Some(b"TCP6") => Some(endpoints::<Ipv6Addr>(parts)?),
        _ => return Err(NoProxyHeader),
    };
    Ok(Some(ProxyHeader { len: feed + 1, client }))
}

/// The source, of two addresses and two ports and nothing else.
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

/// Decimal digits without a sign, and without zeros in front (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

/// Bytes before the addresses.
const FIXED: usize = 16;

/// The second version with one of its two commands.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The families with their transports; there are no others.
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
    // What a proxy says for itself is to be ignored, its family as well, and so is what is of no family.
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

/// Takes the TLVs from offset `at` on for what they say, of which only the checksum is known here (§2.2.3).
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

/// The checksum of RFC 3309, bit by bit: a header comes once a connection, and few have one.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

#[cfg(test)]
mod tests;
