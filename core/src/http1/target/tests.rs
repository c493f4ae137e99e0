use super::*;

#[test]
fn rfc9112_3_2_a_target_has_one_of_four_forms() {
    for (method, target, path) in [
        ("GET", "/", "/"),
        ("GET", "//a", "//a"),
        ("GET", "/a?b/c", "/a"),
        ("GET", "/a?u=http://b/c", "/a"),
        ("GET", "/http://b/c", "/http://b/c"),
        ("GET", "http://b", ""),
        ("GET", "http://b/c?d", "/c"),
        ("GET", "http://b?d/e", ""),
        ("GET", "http://[::1]:80/c", "/c"),
        ("GET", "HTTP://b/c", "/c"),
        ("GET", "/%41;b=c,d", "/%41;b=c,d"),
        ("GET", "/?a=100%", "/"),
        ("OPTIONS", "*", "*"),
        ("OPTIONS", "/a", "/a"),
        ("CONNECT", "a.b:443", "a.b:443"),
        ("CONNECT", "[::1]:443", "[::1]:443"),
    ] {
        assert_eq!(path_and_query(method, target).map(|(path, _)| path), Ok(path), "{method} {target}");
    }
    for (method, target) in [
        ("GET", "*"),
        ("GET", "a"),
        ("GET", "a/b"),
        ("GET", "?a"),
        ("GET", "a:80"),
        ("GET", "@a/b"),
        ("GET", "/a#b"),
        ("GET", "/a\\b"),
        ("GET", "/{a}"),
        ("GET", "/é"),
        ("GET", "/?é"),
        ("GET", "/%"),
        ("GET", "/%4"),
        ("GET", "/%4g"),
        ("GET", "http://"),
        ("GET", "http:///a"),
        ("GET", "http://?a"),
        ("GET", "http://u@a/"),
        ("GET", "http://u:p@a/"),
        ("GET", "http://a:b/"),
        ("GET", "http://a:80:80/"),
        ("GET", "http://a#b"),
        ("GET", "://a"),
        ("GET", "1a://b"),
        ("GET", "a b://c"),
        ("GET", "a_b://c"),
        ("CONNECT", "/a"),
        ("CONNECT", "a"),
        ("CONNECT", "a:"),
        ("CONNECT", ":80"),
        ("CONNECT", "[::1]"),
        ("CONNECT", "u@a:80"),
        ("CONNECT", "a/b:80"),
        ("CONNECT", "http://a:80"),
        ("OPTIONS", "*a"),
    ] {
        assert_eq!(path_and_query(method, target), Err(Refusal::BadRequestLine), "{method} {target}");
    }
}

#[test]
fn rfc9110_7_4_other_schemes_are_for_other_servers() {
    for target in ["https://a/", "ftp://a", "git+ssh://b/c"] {
        assert_eq!(path_and_query("GET", target), Err(Refusal::Misdirected), "{target}");
    }
    assert_eq!(path_and_query("GET", "https://u@a/"), Err(Refusal::BadRequestLine));
}

#[test]
fn rfc9112_3_2_host_is_a_host_and_a_port() {
    for host in [
        "a",
        "a.b:80",
        "a:",
        "a:0",
        "a:65535",
        "127.0.0.1:8000",
        "[::1]:80",
        "[2001:db8::192.0.2.1]",
        "a_b-c~",
        "a%20b",
        "!$&'()*+;=",
    ] {
        assert!(is_authority(host.as_bytes()), "{host:?}");
    }
    for host in [
        "",
        ":",
        "a,b",
        "a b",
        "a\tb",
        "a/b",
        "a?b",
        "a#b",
        "u@a",
        "u:p@a",
        "a\\b",
        "\"a\"",
        "<a>",
        "{a}",
        "a|b",
        "a^b",
        "é",
        ":80",
        "a:b",
        "a:8 0",
        "a:-1",
        "a:65536",
        "a:99999999999",
        "a:80:80",
        "a%",
        "a%2",
        "a%zz",
        "[",
        "[]",
        "[::1",
        "::1",
        "[::1]a",
        "[::1]:a",
        "[::1%25lo]",
        "[127.0.0.1]",
        "[v1.a]",
        "a[::1]",
    ] {
        assert!(!is_authority(host.as_bytes()), "{host:?}");
    }
}

#[test]
fn frameworks_parse_every_accepted_target() {
    for byte in (0..=127_u8).map(char::from).filter(|byte| byte.is_ascii_graphic()) {
        for target in [format!("/a{byte}b"), format!("/a?b{byte}c")] {
            let uri = http::Uri::try_from(&target).ok().map(|uri| uri.to_string());
            let refused = if target.contains('?') { "\"#<>`" } else { "\"#<>`\\^{}%" };
            let is_target = path_and_query("GET", &target).is_ok();
            assert_eq!(is_target, !refused.contains(byte), "{target}");
            assert!(!is_target || uri.as_deref() == Some(&*target), "{target}");
        }
    }
}
