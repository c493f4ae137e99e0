//! The client according to the fields, by the rule that decides. The peer is trusted, and so are
//! 10.0.0.0/8 and `fd00::/8`.

use proptest::prelude::*;

use super::*;

fn read<'a>(lines: &[&'a str]) -> Result<Forwarded<'a>, Refusal> {
    let fields = lines.iter().copied().map(|line| line.split_once(": ").expect("a field line"));
    let trusted = Trusted::parse(["10.0.0.0/8", "fd00::/8"]).expect("these are networks");
    forwarded(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())), &trusted)
}

#[track_caller]
fn client(lines: &[&str]) -> Option<String> {
    let node = read(lines).unwrap_or_else(|error| panic!("{error}: {lines:?}")).node?;
    Some(match node.port {
        Some(port) => format!("{} {port}", node.ip),
        None => node.ip.to_string(),
    })
}

#[track_caller]
fn refused(lines: &[&str]) {
    assert_eq!(read(lines), Err(Refusal::BadForwarding), "{lines:?}");
}

#[test]
fn the_client_is_the_rightmost_untrusted_address() {
    for (list, expected) in [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ("192.0.2.1,10.0.0.1 ,\t10.0.0.2", "192.0.2.1"),
        ("198.51.100.1, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ("<script>, 192.0.2.1", "192.0.2.1"),
        ("2001:db8::1, fd00::1", "2001:db8::1"),
        ("::ffff:192.0.2.1, ::ffff:10.0.0.1", "::ffff:192.0.2.1"),
        ("192.0.2.1:80", "192.0.2.1 80"),
        ("[2001:db8::1]:80, [fd00::1]", "2001:db8::1 80"),
        ("192.0.2.1, , 10.0.0.1,", "192.0.2.1"),
        // All addresses are trusted: the first is the origin of the request.
        ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
        // A trusted proxy does not know its client.
        ("192.0.2.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("192.0.2.1, _hidden, 10.0.0.2", "10.0.0.2"),
    ] {
        assert_eq!(client(&[&format!("X-Forwarded-For: {list}")]).as_deref(), Some(expected), "{list}");
    }
    assert_eq!(client(&["X-Forwarded-For: 192.0.2.1", "x-forwarded-for: 10.0.0.1"]).unwrap(), "192.0.2.1");
    assert_eq!(client(&["X-Forwarded-For: "]), None);
    assert_eq!(client(&["X-Forwarded-For: 192.0.2.1, unknown"]), None);
    assert_eq!(client(&["X-Forwarded-For: 192.0.2.1, unix:"]), None);
}

#[test]
fn a_malformed_address_names_no_client() {
    for value in [
        "localhost",
        "192.0.2.256",
        "192.0.2.1 10.0.0.1",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:+1",
        "[192.0.2.1]",
        "[2001:db8::1",
        "2001:db8::1]",
        "192.0.2.1%eth0",
        "fe80::1%",
        "_",
        "_a b",
        "1.2.3.4\u{e9}",
        "\"192.0.2.1\"",
    ] {
        let line = format!("X-Forwarded-For: {value}");
        let alone = read(&[line.as_str()]).unwrap();
        assert_eq!((alone.node, alone.is_unclear), (None, true), "{value}");
        let behind = format!("X-Forwarded-For: 192.0.2.1, {value}, 10.0.0.1");
        assert_eq!(client(&[&behind]).as_deref(), Some("10.0.0.1"), "the last known address: {value}");
        // Elements to the left of the client are ignored.
        let line = format!("X-Forwarded-For: {value}, 192.0.2.1");
        let left = read(&[line.as_str()]).unwrap();
        assert!(left.node.is_some() && !left.is_unclear, "{value}");
    }
}

/// Go's proxies and Node write a client with a link-local address like this.
#[test]
fn rfc4007_11_a_zone_is_ignored() {
    for value in ["fe80::1%eth0", "fe80::1%2", "[fe80::1%eth0]", "[fe80::1%25eth0]"] {
        let line = format!("X-Forwarded-For: {value}");
        let said = read(&[line.as_str()]).unwrap();
        assert_eq!(said.node.map(|node| node.ip.to_string()).as_deref(), Some("fe80::1"), "{value}");
        assert!(!said.is_unclear);
    }
    assert_eq!(client(&["X-Forwarded-For: 192.0.2.1, [fd00::1%eth0]:80"]).as_deref(), Some("192.0.2.1"));
    assert_eq!(client(&["Forwarded: for=\"[fe80::1%eth0]:80\""]).as_deref(), Some("fe80::1 80"));
}

#[test]
fn rfc7239_examples_are_parsed() {
    assert_eq!(client(&["Forwarded: for=\"_gazonk\""]), None);
    assert_eq!(client(&["Forwarded: For=\"[2001:db8:cafe::17]:4711\""]).unwrap(), "2001:db8:cafe::17 4711");
    let all = read(&["Forwarded: for=192.0.2.60;proto=http;by=203.0.113.43"]).unwrap();
    assert_eq!((all.node.unwrap().ip.to_string(), all.scheme), ("192.0.2.60".into(), Some(Scheme::Http)));
    assert_eq!(client(&["Forwarded: for=192.0.2.43, for=198.51.100.17"]).unwrap(), "198.51.100.17");
    let host = read(&["Forwarded: host=\"example.org:8080\" ; PROTO=HTTPS ; ext=\"a,b;c\\\"\""]);
    refused(&["Forwarded: host=\"example.org:8080\";ext=\"a"]);
    assert_eq!(host.unwrap().host, Some(&b"example.org:8080"[..]), "an unused value may have escapes");
    let host = read(&["Forwarded: host=\"example.org:8080\" ; PROTO=HTTPS ; ext=\"a,b;c\""]).unwrap();
    assert_eq!(
        (host.node, host.scheme, host.host),
        (None, Some(Scheme::Https), Some(&b"example.org:8080"[..]))
    );
}

#[test]
fn scheme_and_host_are_the_clients() {
    let chain = "Forwarded: for=198.51.100.1;proto=ftp;host=evil, for=192.0.2.1:80;proto=https;host=a, for=10.0.0.1;proto=http;host=b";
    // An address with a port requires quotes, and is often written without.
    for chain in [chain.to_owned(), chain.replace("192.0.2.1:80", "\"192.0.2.1:80\"")] {
        let chain = [chain.as_str()];
        let all = read(&chain).unwrap();
        assert_eq!((all.scheme, all.host), (Some(Scheme::Https), Some(&b"a"[..])));
        assert_eq!(all.node, Some(Node { ip: [192, 0, 2, 1].into(), port: Some(80) }));
        assert!(!all.is_unclear, "values of other elements are ignored");
    }
    let two = read(&["Forwarded: for=192.0.2.1;proto=https", "Forwarded: for=10.0.0.1;proto=http"]).unwrap();
    assert_eq!(two.scheme, Some(Scheme::Https));
}

#[test]
fn an_element_that_cannot_be_parsed_is_refused() {
    for value in [
        "for",
        "=192.0.2.1",
        "for =192.0.2.1",
        "for= 192.0.2.1",
        "for=192.0.2.1 proto=http",
        "for=\"192.0.2.1",
        "for=192.0.2.1\"",
        "for=\"192.0.2.1\"x",
        "for=\"a\"b\"",
        "for=a\\",
        "for=192.0.2.1;for=192.0.2.1",
        "proto=http;proto=http",
        "by=x;by=x",
        "f(r=1",
    ] {
        refused(&[&format!("Forwarded: {value}")]);
        refused(&[&format!("Forwarded: {value}, for=10.0.0.1")]);
    }
    // After an unmatched quote, elements cannot be separated.
    refused(&["Forwarded: x=\", for=192.0.2.1"]);
    refused(&["Forwarded: x=\"", "Forwarded: for=192.0.2.1"]);
}

#[test]
fn a_malformed_value_of_an_element_is_ignored() {
    for value in [
        "for=",
        "for=localhost",
        "for=\"\\192.0.2.1\"",
        "proto=gopher",
        "proto=\"\"",
        "host=\"\"",
        "host=\"a b\"",
        "host=\"u@a\"",
        "host=\":80\"",
        "host=\"a\\\"\"",
    ] {
        let line = format!("Forwarded: {value}");
        let said = read(&[line.as_str()]).unwrap();
        assert_eq!(said, Forwarded { is_unclear: true, ..Forwarded::default() }, "{value}");
    }
    for (value, address) in [("for=[::1]", "::1"), ("for=\"::1\"", "::1"), ("for=2001:db8::1", "2001:db8::1")]
    {
        assert_eq!(
            client(&[&format!("Forwarded: {value}")]).as_deref(),
            Some(address),
            "without brackets or quotes"
        );
    }
    assert_eq!(read(&["Forwarded: host=a:80"]).unwrap().host, Some(&b"a:80"[..]));
}

#[test]
fn x_forwarded_fields_give_scheme_and_host() {
    let all = read(&["X-Forwarded-Proto: https", "X-Forwarded-Host: example.org:8080"]).unwrap();
    assert_eq!((all.scheme, all.host), (Some(Scheme::Https), Some(&b"example.org:8080"[..])));
    assert_eq!(read(&["X-Forwarded-Proto: WSS"]).unwrap().scheme, Some(Scheme::Https));
    assert_eq!(read(&["X-Forwarded-Proto: "]).unwrap(), Forwarded::default());
    assert_eq!(read(&["X-Forwarded-Proto: https, https"]).unwrap().scheme, Some(Scheme::Https));
    assert!(read(&["X-Forwarded-Host: a, A", "X-Forwarded-Host: a"]).is_ok());
    let unclear = Forwarded { is_unclear: true, ..Forwarded::default() };
    for fields in [
        &["X-Forwarded-Proto: https, http"][..],
        &["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"],
        &["X-Forwarded-Proto: h2"],
        &["X-Forwarded-Host: a, b"],
        &["X-Forwarded-Host: http://a/"],
    ] {
        assert_eq!(read(fields), Ok(unclear), "{fields:?}");
    }
}

/// Some proxies append to these fields as to X-Forwarded-For, others replace them.
#[test]
fn of_different_schemes_or_hosts_the_clients_counts() {
    let said = |addresses: &str, schemes: &str, hosts: &str| {
        let fields = [("For", addresses), ("Proto", schemes), ("Host", hosts)];
        let lines = fields.map(|(name, value)| format!("X-Forwarded-{name}: {value}"));
        let lines = lines.each_ref().map(String::as_str);
        let said = read(&lines).unwrap();
        (said.scheme.map(Scheme::as_str), said.host.map(|host| String::from_utf8_lossy(host).into_owned()))
    };
    let ab = |scheme: &'static str, host: &str| (Some(scheme), Some(host.to_owned()));
    assert_eq!(said("192.0.2.1, 10.0.0.1", "https, http", "a, b"), ab("https", "a"));
    assert_eq!(said("10.0.0.2, 10.0.0.1", "https, http", "a, b"), ab("https", "a"));
    assert_eq!(said("192.0.2.1, 192.0.2.2", "https, http", "a, b"), ab("http", "b"), "a is the client's");
    assert_eq!(said("192.0.2.1", "https, http", "a, b"), (None, None), "the counts differ");
    assert_eq!(said("192.0.2.1, 10.0.0.1", "https", "a"), ab("https", "a"), "the fields were replaced");
}

#[test]
fn both_kinds_of_fields_have_to_agree() {
    let standard = "Forwarded: for=192.0.2.1;proto=https;host=a";
    for other in [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-For: 192.0.2.1:80",
        "X-Forwarded-For: ::ffff:192.0.2.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: A",
        "X-Forwarded-For: unknown",
        "X-Other: 1",
    ] {
        assert!(read(&[standard, other]).is_ok(), "{other}");
    }
    for other in [
        "X-Forwarded-For: 192.0.2.2",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: b",
    ] {
        refused(&[standard, other]);
    }
    refused(&["Forwarded: for=\"192.0.2.1:80\"", "X-Forwarded-For: 192.0.2.1:81"]);
}

proptest! {
    #[test]
    fn no_bytes_panic(values in prop::collection::vec("[ -~]{0,40}", 4)) {
        for name in ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"] {
            let lines: Vec<_> = values.iter().map(|value| format!("{name}: {value}")).collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            if let Ok(Forwarded { host: Some(host), .. }) = read(&lines) {
                prop_assert!(is_authority(host) && !host.is_empty());
            }
        }
    }

    /// A client cannot pose as another one by what it writes to the left of the proxy's element.
    #[test]
    fn a_client_cannot_name_itself(forged in "[ -~]{0,60}", ip: [u8; 4]) {
        prop_assume!(ip[0] != 10);
        let ip = Ipv4Addr::from(ip).to_string();
        let usual = format!("X-Forwarded-For: {forged}, {ip}, 10.0.0.1");
        prop_assert_eq!(client(&[&usual]), Some(ip.clone()));
        let standard = format!("Forwarded: {forged}, for={ip}, for=10.0.0.1");
        if let Ok(Forwarded { node, .. }) = read(&[&standard]) {
            prop_assert_eq!(node.map(|node| node.ip.to_string()), Some(ip));
        }
    }
}
