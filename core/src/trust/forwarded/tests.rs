//! What fields say of a client, by the rule that tells. The peer is trusted, and so are 10.0.0.0/8 and `fd00::/8`.

use proptest::prelude::*;

use super::*;

fn read<'a>(lines: &'a [&str]) -> Result<Forwarded<'a>, Refusal> {
    let fields = lines.iter().map(|line| line.split_once(": ").expect("a field line"));
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
fn the_client_is_the_right_most_that_is_not_trusted() {
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
        // All of them are ours: the first is where it began.
        ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
        // A trusted one does not know who it was.
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
fn what_is_no_address_is_refused() {
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
        "[2001:db8::1%1]",
        "_",
        "_a b",
        "1.2.3.4\u{e9}",
        "\"192.0.2.1\"",
    ] {
        refused(&[&format!("X-Forwarded-For: {value}")]);
        refused(&[&format!("X-Forwarded-For: 192.0.2.1, {value}, 10.0.0.1")]);
    }
}

#[test]
fn rfc_7239_examples_are_understood() {
    assert_eq!(client(&["Forwarded: for=\"_gazonk\""]), None);
    assert_eq!(client(&["Forwarded: For=\"[2001:db8:cafe::17]:4711\""]).unwrap(), "2001:db8:cafe::17 4711");
    let all = read(&["Forwarded: for=192.0.2.60;proto=http;by=203.0.113.43"]).unwrap();
    assert_eq!((all.node.unwrap().ip.to_string(), all.scheme), ("192.0.2.60".into(), Some(Scheme::Http)));
    assert_eq!(client(&["Forwarded: for=192.0.2.43, for=198.51.100.17"]).unwrap(), "198.51.100.17");
    let host = read(&["Forwarded: host=\"example.org:8080\" ; PROTO=HTTPS ; ext=\"a,b;c\\\"\""]);
    refused(&["Forwarded: host=\"example.org:8080\";ext=\"a"]);
    // Only what is read may not be escaped, but nobody escapes anything.
    assert_eq!(host, Err(Refusal::BadForwarding));
    let host = read(&["Forwarded: host=\"example.org:8080\" ; PROTO=HTTPS ; ext=\"a,b;c\""]).unwrap();
    assert_eq!(
        (host.node, host.scheme, host.host),
        (None, Some(Scheme::Https), Some(&b"example.org:8080"[..]))
    );
}

#[test]
fn scheme_and_host_are_those_that_the_client_asked_for() {
    let chain = "Forwarded: for=198.51.100.1;proto=ftp;host=evil, for=192.0.2.1:80;proto=https;host=a, for=10.0.0.1;proto=http;host=b";
    refused(&[chain]);
    let chain = chain.replace("192.0.2.1:80", "\"192.0.2.1:80\"");
    let chain = [chain.as_str()];
    let all = read(&chain).unwrap();
    assert_eq!((all.scheme, all.host), (Some(Scheme::Https), Some(&b"a"[..])));
    assert_eq!(all.node, Some(Node { ip: [192, 0, 2, 1].into(), port: Some(80) }));
    let two = read(&["Forwarded: for=192.0.2.1;proto=https", "Forwarded: for=10.0.0.1;proto=http"]).unwrap();
    assert_eq!(two.scheme, Some(Scheme::Https));
}

#[test]
fn a_malformed_element_is_refused() {
    for value in [
        "for",
        "for=",
        "=192.0.2.1",
        "for =192.0.2.1",
        "for= 192.0.2.1",
        "for=192.0.2.1 proto=http",
        "for=[::1]",
        "for=\"::1\"",
        "for=\"192.0.2.1",
        "for=192.0.2.1\"",
        "for=\"192.0.2.1\"x",
        "for=\"\\192.0.2.1\"",
        "for=192.0.2.1;for=192.0.2.1",
        "proto=http;proto=http",
        "proto=gopher",
        "proto=\"\"",
        "host=\"\"",
        "host=\"a b\"",
        "host=\"u@a\"",
        "host=a:80",
        "host=\":80\"",
        "by=x;by=x",
        "for=localhost",
        "f(r=1",
    ] {
        refused(&[&format!("Forwarded: {value}")]);
        refused(&[&format!("Forwarded: {value}, for=10.0.0.1")]);
    }
    // Wherever a quote begins, what follows is no longer to be told apart.
    refused(&["Forwarded: x=\", for=192.0.2.1"]);
}

#[test]
fn the_usual_fields_say_scheme_and_host_once() {
    let all = read(&["X-Forwarded-Proto: https", "X-Forwarded-Host: example.org:8080"]).unwrap();
    assert_eq!((all.scheme, all.host), (Some(Scheme::Https), Some(&b"example.org:8080"[..])));
    assert_eq!(read(&["X-Forwarded-Proto: WSS"]).unwrap().scheme, Some(Scheme::Https));
    assert_eq!(read(&["X-Forwarded-Proto: "]).unwrap(), Forwarded::default());
    assert_eq!(read(&["X-Forwarded-Proto: https, https"]).unwrap().scheme, Some(Scheme::Https));
    assert!(read(&["X-Forwarded-Host: a, A", "X-Forwarded-Host: a"]).is_ok());
    refused(&["X-Forwarded-Proto: https, http"]);
    refused(&["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"]);
    refused(&["X-Forwarded-Proto: h2"]);
    refused(&["X-Forwarded-Host: a, b"]);
    refused(&["X-Forwarded-Host: http://a/"]);
}

#[test]
fn both_kinds_have_to_say_the_same() {
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
    fn no_bytes_are_too_strange(values in prop::collection::vec("[ -~]{0,40}", 4)) {
        for name in ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"] {
            let lines: Vec<_> = values.iter().map(|value| format!("{name}: {value}")).collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            if let Ok(Forwarded { host: Some(host), .. }) = read(&lines) {
                prop_assert!(is_authority(host) && !host.is_empty());
            }
        }
    }

    /// Whatever a client puts to the left of what the proxy adds, it does not become somebody else.
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
