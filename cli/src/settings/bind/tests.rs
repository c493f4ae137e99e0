use super::*;

fn parsed(text: &str) -> String {
    parse("bind", text, &mut Names::default())
        .unwrap_or_else(|refusal| panic!("{text:?}: {refusal:?}"))
        .to_string()
}

fn refused(text: &str) -> String {
    let Err(Refusal(why)) = parse("bind", text, &mut Names::default()) else { panic!("{text:?} is taken") };
    why.expect("a reason")
}

#[test]
fn addresses_are_read_as_they_are_printed() {
    for text in [
        "127.0.0.1:8000",
        "0.0.0.0:0",
        "[::1]:8000",
        "[::]:80",
        "unix:run/app.sock",
        "unix:/a b",
        "unix:@app",
        "[fe80::1%1]:8000",
        "fd://3",
        "fd://web",
        "systemd",
    ] {
        assert_eq!(parsed(text), text);
    }
}

#[test]
fn a_host_name_is_resolved_to_its_ipv4_address() {
    assert_eq!(parsed("localhost:8000"), "127.0.0.1:8000");
}

#[test]
fn an_interface_is_resolved_by_its_name() {
    // The loopback interface is the first of every network namespace.
    assert_eq!(parsed("[fe80::1%lo]:8000"), "[fe80::1%1]:8000");
}

#[test]
fn a_bad_address_is_refused_with_a_reason() {
    assert_eq!(refused("8000"), r#""8000" has no port"#);
    assert_eq!(refused("127.0.0.1:"), r#"port "" is not from 0 to 65535"#);
    assert_eq!(refused("127.0.0.1:65536"), r#"port "65536" is not from 0 to 65535"#);
    assert_eq!(refused(":8000"), "the host is missing; all IPv4 addresses are 0.0.0.0:8000");
    assert_eq!(refused("::1:8000"), "an IPv6 address needs brackets: [::1]:8000");
    assert_eq!(refused("unix:"), "the path is missing");
    assert_eq!(refused("unix:@"), "the name is missing, as in unix:@app");
    assert_eq!(refused("tcp://0.0.0.0:80/"), r#"which remuda writes as "0.0.0.0:80""#);
    assert_eq!(refused("ssl://0.0.0.0:443"), "TLS is terminated by a proxy in front");
    assert_eq!(refused("[fe80::1]:80"), "a link-local address needs its interface, as in [fe80::1%eth0]:80");
    assert_eq!(refused("[fe80::1%nowhere0]:80"), r#""fe80::1%nowhere0" names no interface of this system"#);
    assert_eq!(refused(&format!("unix:{}", "x".repeat(108))), "the path is 108 bytes long, limit 107");
    for text in ["fd://", "fd://-1", "fd://2147483648", "fd://a:b", "fd://a\nb"] {
        assert_eq!(refused(text), "which is neither the number nor the name of a descriptor", "{text:?}");
    }
    // RFC 6761 §6.4: names below "invalid" never resolve.
    assert!(refused("nowhere.invalid:80").starts_with(r#""nowhere.invalid" is unknown: "#));
}

#[test]
fn a_path_of_107_bytes_is_accepted() {
    let path = "x".repeat(107);
    assert_eq!(parsed(&format!("unix:{path}")), format!("unix:{path}"));
}

#[test]
fn no_address_is_taken_twice_except_port_0() {
    let all = |texts: &[&str]| {
        parse_all(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), &mut Names::default())
    };
    assert_eq!(all(&["127.0.0.1:0", "127.0.0.1:0"]).unwrap().len(), 2);
    assert_eq!(all(&["localhost:80", "127.0.0.1:80"]), Err(because("127.0.0.1:80 is given twice")));
    assert_eq!(all(&[]), Err(because("at least one address is required")));
}
