use super::*;

fn list(items: &str) -> Trusted {
    Trusted::parse(items.split(',')).unwrap_or_else(|item| panic!("{item} is not allowed"))
}

fn has(items: &str, ip: &str) -> bool {
    let ip: IpAddr = ip.parse().unwrap();
    let peer = Peer::Inet((ip, 1).into());
    assert_eq!(list(items).has(peer), list(items).has_ip(ip));
    list(items).has_ip(ip)
}

#[test]
fn a_list_has_its_addresses_and_networks() {
    assert!(has("127.0.0.1, ::1", "127.0.0.1") && has("127.0.0.1,::1", "::1"));
    assert!(!has("127.0.0.1,::1", "127.0.0.2") && !has("127.0.0.1,::1", "::2"));
    assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
    assert!(has("fd00::/8", "fd12::1") && !has("fd00::/8", "fe00::1"));
    assert!(has("*", "192.0.2.1") && has("0.0.0.0/0", "192.0.2.1") && !has("0.0.0.0/0", "::1"));
    assert!(!has("", "127.0.0.1"));
}

#[test]
fn a_mapped_address_equals_its_ipv4_address() {
    assert!(has("10.0.0.0/8", "::ffff:10.1.2.3") && has("::ffff:10.0.0.1", "10.0.0.1"));
}

#[test]
fn peers_on_unix_sockets_are_in_every_list() {
    for items in ["", "unix", "127.0.0.1", "*"] {
        assert!(list(items).has(Peer::Unix));
    }
    assert!(list("").is_empty() && !list("unix").is_empty() && !has("unix", "127.0.0.1"));
}

#[test]
fn a_malformed_item_is_returned_as_the_error() {
    for item in ["localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "::1/129", "10.0.0.1:80", "[::1]", "**"]
    {
        assert_eq!(Trusted::parse(["127.0.0.1", item]), Err(item));
    }
}

#[test]
fn the_default_is_this_host() {
    assert_eq!(Trusted::local().items(), ["127.0.0.1", "::1"]);
}
