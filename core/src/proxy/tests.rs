use proptest::prelude::*;

use super::*;

/// The result for the shortest prefix of `bytes` that has one. Every longer prefix must have the
/// same.
fn verdict(bytes: &[u8], wanted: ProxyProtocol) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let mut verdict = Ok(None);
    for n in 0..=bytes.len() {
        let now = parse_proxy(&bytes[..n], wanted);
        if verdict != Ok(None) {
            assert_eq!(now, verdict, "after {n} bytes of {:?}", String::from_utf8_lossy(bytes));
        }
        verdict = now;
    }
    verdict
}

/// The client that a header of either version names. None if it names none. Bytes after the header
/// are not used.
fn client(header: &[u8]) -> Option<String> {
    let version = if header[0] == b'P' { ProxyProtocol::V1 } else { ProxyProtocol::V2 };
    let parsed = verdict(&[header, b"GET / HTTP/1.1\r\n"].concat(), version);
    assert_eq!(parsed, verdict(header, ProxyProtocol::Auto));
    let parsed = parsed.expect("a header").expect("a complete one");
    assert_eq!(parsed.len, header.len());
    parsed.client.map(|client| client.to_string())
}

#[track_caller]
fn refused(bytes: &[u8]) {
    assert_eq!(
        verdict(bytes, ProxyProtocol::Auto),
        Err(NoProxyHeader),
        "{:?}",
        bytes.escape_ascii().to_string()
    );
}

/// A header of version 2, with its actual length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family][..], &len, rest].concat()
}

/// 192.0.2.1:4660 to 192.0.2.2:80.
const INET: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0, 80];

#[test]
fn version_1_names_the_source() {
    assert_eq!(client(b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n").unwrap(), "192.0.2.1:4660");
    assert_eq!(client(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n").unwrap(), "0.0.0.0:0");
    assert_eq!(client(b"PROXY TCP6 2001:db8::1 ::1 4660 80\r\n").unwrap(), "[2001:db8::1]:4660");
    let longest = b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    let longest = String::from_utf8_lossy(longest).replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff");
    assert_eq!(longest.len(), 104);
    assert_eq!(client(longest.as_bytes()).unwrap(), "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
}

#[test]
fn of_an_unknown_source_the_rest_is_ignored() {
    assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!(client(b"PROXY UNKNOWN 192.0.2.1 whatever \xff\r\n"), None);
}

#[test]
fn version_1_is_parsed_strictly() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4660 80 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4660 80 1\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 4660 80\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 4660 80\r\n",
        "PROXY\tTCP4 192.0.2.1 192.0.2.2 4660 80\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 4660 80\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 4660 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4660\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4660 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +4660 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 04660 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4660 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.256 4660 80\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 4660 80\r\n",
        "PROXY TCP4 ::1 ::2 4660 80\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 4660 80\r\n",
        "PROXY TCP6 ::1%1 ::2 4660 80\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 4660 80\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        " ",
    ] {
        refused(line.as_bytes());
    }
}

#[test]
fn version_1_has_107_bytes_at_most() {
    let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - "PROXY UNKNOWN \r\n".len()));
    assert_eq!(client(line(107).as_bytes()), None);
    refused(line(108).as_bytes());
    let endless = "PROXY UNKNOWN ".to_owned() + &"x".repeat(200);
    assert_eq!(parse_proxy(&endless.as_bytes()[..106], ProxyProtocol::V1), Ok(None));
    assert_eq!(parse_proxy(&endless.as_bytes()[..107], ProxyProtocol::V1), Err(NoProxyHeader));
}

#[test]
fn version_2_names_the_source() {
    assert_eq!(client(&v2(PROXY, TCP4, INET)).unwrap(), "192.0.2.1:4660");
    assert_eq!(client(&v2(PROXY, UDP4, INET)).unwrap(), "192.0.2.1:4660");
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[2], &[0x12, 0x34, 0, 80]].concat();
    assert_eq!(client(&v2(PROXY, TCP6, &six)).unwrap(), "[2001:db8::1]:4660");
    assert_eq!(client(&v2(PROXY, UDP6, &six)).unwrap(), "[2001:db8::1]:4660");
}

#[test]
fn a_header_without_a_client_is_accepted() {
    for header in [
        v2(LOCAL, UNSPEC, b""),
        // Addresses of a LOCAL header are ignored, whatever they are.
        v2(LOCAL, TCP4, INET),
        v2(LOCAL, 0xff, b"?"),
        v2(PROXY, UNSPEC, b""),
        v2(PROXY, UNSPEC, INET),
        v2(PROXY, UNIX_STREAM, &[b'/'; 216]),
        v2(PROXY, UNIX_DATAGRAM, &[0; 216]),
    ] {
        assert_eq!(client(&header), None, "{:?}", header.escape_ascii().to_string());
    }
}

#[test]
fn version_2_is_parsed_strictly() {
    refused(b"\r\n\r\n\0\r\nQUIT\r");
    for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        refused(&v2(command, TCP4, INET));
    }
    for family in [0x01, 0x02, 0x10, 0x13, 0x20, 0x30, 0x33, 0x40, 0x41, 0xff] {
        refused(&v2(PROXY, family, &[0; 300]));
    }
    refused(&v2(PROXY, TCP4, &INET[..11]));
    refused(&v2(PROXY, TCP6, &[0; 35]));
    refused(&v2(PROXY, UNIX_STREAM, &[0; 215]));
}

#[test]
fn version_2_has_a_maximum_length() {
    let padded = |len: usize| {
        let padding = len - FIXED - INET.len() - 3;
        let tlv = [&[4][..], &(padding as u16).to_be_bytes(), &vec![0; padding]].concat();
        v2(PROXY, TCP4, &[INET, &tlv].concat())
    };
    assert_eq!(client(&padded(536)).unwrap(), "192.0.2.1:4660");
    assert_eq!(client(&padded(V2_MAX)).unwrap(), "192.0.2.1:4660");
    // A header over the limit is not waited for.
    assert_eq!(parse_proxy(&padded(V2_MAX + 1)[..FIXED], ProxyProtocol::V2), Err(NoProxyHeader));
    refused(&v2(LOCAL, UNSPEC, &[0; V2_MAX]));
}

#[test]
fn tlvs_fill_the_rest_of_the_header() {
    let with = |tlvs: &[u8]| v2(PROXY, TCP4, &[INET, tlvs].concat());
    assert_eq!(client(&with(&[0xea, 0, 3, 1, 2, 3, 4, 0, 0])).unwrap(), "192.0.2.1:4660");
    for tlvs in [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0, 2, 9], &[4, 0, 0, 1, 0xff, 0xff]] {
        refused(&with(tlvs));
    }
}

#[test]
fn a_checksum_is_verified() {
    // RFC 3720 §B.4.
    assert_eq!(crc32c([0; 32].iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].iter()), 0x62a8_ab43);
    let header = |sum: u32, behind: &[u8]| {
        let tlv = [&[4, 0, 1, 7, 3, 0, 4][..], &sum.to_be_bytes(), behind].concat();
        v2(PROXY, TCP4, &[INET, &tlv].concat())
    };
    for behind in [&[][..], &[5, 0, 2, 1, 2]] {
        let sum = crc32c(header(0, behind).iter());
        assert_eq!(client(&header(sum, behind)).unwrap(), "192.0.2.1:4660");
        refused(&header(sum ^ 1, behind));
    }
    refused(&v2(PROXY, TCP4, &[INET, &[3, 0, 3, 1, 2, 3]].concat()));
}

#[test]
fn only_the_configured_version_is_accepted() {
    let (one, two) = (b"PROXY UNKNOWN\r\n", v2(LOCAL, UNSPEC, b""));
    assert_eq!(verdict(one, ProxyProtocol::V2), Err(NoProxyHeader));
    assert_eq!(verdict(&two, ProxyProtocol::V1), Err(NoProxyHeader));
    assert_eq!(parse_proxy(&one[..1], ProxyProtocol::V2), Err(NoProxyHeader), "the first byte decides");
    assert_eq!(parse_proxy(one, ProxyProtocol::Off), Err(NoProxyHeader));
}

fn endpoint() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u16; 8], u16)>().prop_map(SocketAddr::from),
    ]
}

proptest! {
    #[test]
    fn a_written_header_is_read_unchanged(source in endpoint(), tlv in prop::collection::vec(any::<u8>(), 0..600)) {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (source.ip(), source.port());
        let line = format!("PROXY {family} {ip} {ip} {port} {port}\r\n");
        prop_assert_eq!(client(line.as_bytes()), Some(source.to_string()));

        let (family, ip) = match ip {
            IpAddr::V4(ip) => (TCP4, ip.octets().to_vec()),
            IpAddr::V6(ip) => (TCP6, ip.octets().to_vec()),
        };
        let port = port.to_be_bytes();
        let tlv = [&[0xe0][..], &(tlv.len() as u16).to_be_bytes(), &tlv].concat();
        let rest = [&ip[..], &ip, &port, &port, &tlv].concat();
        prop_assert_eq!(client(&v2(PROXY, family, &rest)), Some(source.to_string()));
    }

    #[test]
    fn more_bytes_never_change_a_result(
        start in prop_oneof![Just(&b""[..]), Just(GREETING), Just(&b"PROXY TCP4 "[..]), Just(&SIGNATURE[..])],
        rest in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x21), Just(0x11), Just(0), Just(b'\n')], 0..200),
    ) {
        let bytes = [start, &rest].concat();
        let _ = verdict(&bytes, ProxyProtocol::Auto);
        let long = [&bytes[..], &[0; 5000]].concat();
        prop_assert!(parse_proxy(&long, ProxyProtocol::Auto) != Ok(None), "the parser waits without end");
    }
}
