//! The header of the PROXY protocol: the input is what a peer sends first.
//!
//! The parser is compared with a reading of HAProxy's proxy-protocol.txt that has the whole header
//! at once, and with itself, however few bytes have arrived.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use remuda_core::proxy::{ProxyHeader, ProxyProtocol, V1_MAX, V2_MAX, parse_proxy};

/// Checks the parsing of `input` in every mode, and of the same input with a correct checksum.
pub fn check(input: &[u8]) {
    judge(input);
    if let Some(right) = with_checksum(input) {
        judge(&right);
    }
}

fn judge(input: &[u8]) {
    for wanted in [ProxyProtocol::Off, ProxyProtocol::V1, ProxyProtocol::V2, ProxyProtocol::Auto] {
        let answer = |end: usize| match parse_proxy(&input[..end], wanted) {
            Ok(Some(ProxyHeader { len, client, .. })) => Read::Header(len, client),
            Ok(None) => Read::Open,
            Err(_) => Read::None,
        };
        let whole = answer(input.len());
        match (whole, read(input, wanted)) {
            // Bytes that cannot become a header may be refused before a header would end.
            (Read::None, Read::Open) => {}
            (answered, expected) => assert_eq!(answered, expected, "{wanted:?}"),
        }
        let mut known = Read::Open;
        for end in 0..input.len().min(300) {
            let now = answer(end);
            assert!(known == Read::Open || now == known, "{now:?} after {end} bytes, {known:?} after fewer");
            known = now;
        }
        assert!(known == Read::Open || whole == known, "{whole:?} after all bytes, {known:?} after fewer");
        if let Read::Header(len, _) = whole {
            assert_eq!(
                (answer(len - 1), answer(len)),
                (Read::Open, whole),
                "the header ends at its last byte"
            );
        }
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    /// A header of so many bytes, and the client if it names one.
    Header(usize, Option<SocketAddr>),
    /// More bytes have to arrive.
    Open,
    /// No header.
    None,
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub(crate) fn read(input: &[u8], wanted: ProxyProtocol) -> Read {
    let may_begin = |with: &[u8]| with.starts_with(&input[..input.len().min(with.len())]);
    let text = matches!(wanted, ProxyProtocol::V1 | ProxyProtocol::Auto) && may_begin(b"PROXY ");
    let binary = matches!(wanted, ProxyProtocol::V2 | ProxyProtocol::Auto) && may_begin(SIGNATURE);
    match () {
        () if text && input.len() >= 6 => read_text(input),
        () if binary && input.len() >= 16 => read_binary(input),
        () if text || binary => Read::Open,
        () => Read::None,
    }
}

/// §2.1
fn read_text(input: &[u8]) -> Read {
    let within = &input[..input.len().min(V1_MAX)];
    let Some(feed) = within.iter().position(|byte| *byte == b'\n') else {
        return if input.len() < V1_MAX { Read::Open } else { Read::None };
    };
    let Ok(line) = std::str::from_utf8(&within[6..feed]) else {
        let unknown = within[6..feed].starts_with(b"UNKNOWN ") && within[..feed].ends_with(b"\r");
        return if unknown { Read::Header(feed + 1, None) } else { Read::None };
    };
    let Some(line) = line.strip_suffix('\r') else { return Read::None };
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words[..] {
        ["UNKNOWN", ..] => return Read::Header(feed + 1, None),
        ["TCP4", source, destination, from, to] => ipv4(source)
            .zip(ipv4(destination))
            .zip(port(from))
            .zip(port(to))
            .map(|(((ip, _), port), _)| SocketAddr::new(IpAddr::V4(ip), port)),
        ["TCP6", source, destination, from, to] => {
            let ip = |text: &str| text.parse::<Ipv6Addr>().ok();
            ip(source)
                .zip(ip(destination))
                .zip(port(from))
                .zip(port(to))
                .map(|(((ip, _), port), _)| SocketAddr::new(IpAddr::V6(ip), port))
        }
        _ => None,
    };
    client.map_or(Read::None, |client| Read::Header(feed + 1, Some(client)))
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u8> = text.split('.').map(decimal).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(numbers).ok().map(Ipv4Addr::from)
}

fn port(text: &str) -> Option<u16> {
    decimal(text)
}

/// A number in its canonical form.
fn decimal<N: std::str::FromStr + ToString>(text: &str) -> Option<N> {
    text.parse().ok().filter(|n: &N| n.to_string() == text)
}

/// §2.2
fn read_binary(input: &[u8]) -> Read {
    let (command, family) = (input[12], input[13]);
    let len = 16 + usize::from(u16::from_be_bytes([input[14], input[15]]));
    let addresses = match (command, family) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11 | 0x12) => 12,
        (0x21, 0x21 | 0x22) => 36,
        (0x21, 0x31 | 0x32) => 216,
        _ => return Read::None,
    };
    if len > V2_MAX || len < 16 + addresses {
        return Read::None;
    }
    let Some(header) = input.get(..len) else { return Read::Open };
    let at = |n: usize| u16::from_be_bytes([header[n], header[n + 1]]);
    let client = match addresses {
        0 => return Read::Header(len, None),
        12 => Some(SocketAddr::from((<[u8; 4]>::try_from(&header[16..20]).expect("four bytes"), at(24)))),
        36 => Some(SocketAddr::from((<[u8; 16]>::try_from(&header[16..32]).expect("sixteen bytes"), at(48)))),
        _ => None,
    };
    let Some(values) = values(header, 16 + addresses) else { return Read::None };
    let right = values.iter().filter(|(kind, ..)| *kind == CRC32C).all(|&(_, from, to)| {
        let mut blank = header.to_vec();
        blank[from..to].fill(0);
        to - from == 4 && header[from..to] == crc32c(&blank).to_be_bytes()
    });
    if right { Read::Header(len, client) } else { Read::None }
}

const CRC32C: u8 = 3;

/// §2.2.1: kinds, and where their values are. None if a value goes beyond the header.
fn values(header: &[u8], mut at: usize) -> Option<Vec<(u8, usize, usize)>> {
    let mut values = Vec::new();
    while at < header.len() {
        let [kind, high, low] = <[u8; 3]>::try_from(header.get(at..at + 3)?).ok()?;
        let to = at + 3 + usize::from(u16::from_be_bytes([high, low]));
        header.get(at + 3..to)?;
        values.push((kind, at + 3, to));
        at = to;
    }
    Some(values)
}

/// RFC 3309, with the polynomial as written there and the bits reversed.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { (crc << 1) ^ 0x1edc_6f41 } else { crc << 1 };
        }
    }
    (!crc).reverse_bits()
}

/// The same header with a correct checksum, if it has one.
fn with_checksum(input: &[u8]) -> Option<Vec<u8>> {
    let len = 16 + usize::from(u16::from_be_bytes([*input.get(14)?, *input.get(15)?]));
    let addresses = match input[13] {
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return None,
    };
    let header = input.get(..len)?;
    let &(_, from, to) =
        values(header, 16 + addresses)?.iter().find(|(kind, from, to)| (*kind, to - from) == (CRC32C, 4))?;
    let mut right = input.to_vec();
    right[from..to].fill(0);
    let sum = crc32c(&right[..len]);
    right[from..to].copy_from_slice(&sum.to_be_bytes());
    Some(right)
}
