use super::*;

fn get(path: &str, query: &str) -> Result<Request, Refusal> {
    Request::of("GET", path, query)
}

fn refused(path: &str, query: &str) -> String {
    get(path, query).expect_err("a refusal").to_string()
}

#[test]
fn each_path_is_a_request() {
    assert_eq!(get("/", ""), Ok(Request::Hello));
    assert_eq!(Request::of("POST", "/echo", ""), Ok(Request::Echo));
    assert_eq!(get("/sleep", "ms=20"), Ok(Request::Sleep(Duration::from_millis(20))));
    assert_eq!(get("/block", ""), Ok(Request::Block(Duration::from_secs(1))));
    assert_eq!(
        get("/stream", "ms=0&chunks=3&size=70000"),
        Ok(Request::Stream { chunks: 3, size: 70000, pause: Duration::ZERO })
    );
    assert_eq!(get("/bytes", "n=0"), Ok(Request::Bytes(0)));
    assert_eq!(get("/events", ""), Ok(Request::Events));
    assert_eq!(get("/info", ""), Ok(Request::Info));
    assert_eq!(get("/headers", ""), Ok(Request::Headers));
    assert_eq!(get("/status", "code=204&body=1"), Ok(Request::Status { code: 204, body: true }));
    assert_eq!(get("/upgrade", ""), Ok(Request::Upgrade));
    assert_eq!(get("/nothing", ""), Err(Refusal::Path));
}

#[test]
fn head_is_treated_as_get_and_405_lists_the_methods() {
    assert_eq!(Request::of("HEAD", "/bytes", "n=5"), Ok(Request::Bytes(5)));
    let (get, post) = ("GET, HEAD, OPTIONS", "POST, OPTIONS");
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE"] {
        assert_eq!(Request::of(method, "/", ""), Err(Refusal::Method { allow: get }), "{method}");
        assert_eq!(Request::of(method, "/sleep", "ms=soon"), Err(Refusal::Method { allow: get }), "{method}");
        assert_eq!(Request::of(method, "/nothing", ""), Err(Refusal::Path), "{method}");
    }
    for method in ["GET", "HEAD", "PUT"] {
        assert_eq!(Request::of(method, "/echo", ""), Err(Refusal::Method { allow: post }), "{method}");
    }
}

#[test]
fn rfc9110_9_1_an_unknown_method_is_501_on_every_path() {
    // Methods are case-sensitive.
    for method in ["get", "Head", "PROPFIND", "CONNECT", "X"] {
        for path in ["/", "/echo", "/nothing", "a:80"] {
            assert_eq!(Request::of(method, path, ""), Err(Refusal::Unknown), "{method} {path}");
        }
    }
}

#[test]
fn rfc9110_9_3_7_options_lists_methods_of_a_path_or_of_all() {
    let options = |path| Request::of("OPTIONS", path, "");
    assert_eq!(options("*"), Ok(Request::Options { allow: "GET, HEAD, POST, OPTIONS" }));
    assert_eq!(options("/echo"), Ok(Request::Options { allow: "POST, OPTIONS" }));
    assert_eq!(options("/bytes"), Ok(Request::Options { allow: "GET, HEAD, OPTIONS" }));
    assert_eq!(options("/nothing"), Err(Refusal::Path));
}

#[test]
fn rfc3986_6_2_2_needless_escapes_do_not_change_a_path() {
    assert_eq!(get("/%62yt%65s", "n=%35"), Ok(Request::Bytes(5)));
    assert_eq!(get("/bytes", "%6e=5"), Ok(Request::Bytes(5)));
    assert_eq!(get("/%2Fbytes", ""), Err(Refusal::Path));
    assert_eq!(get("/bytes%3fn=5", ""), Err(Refusal::Path));
    for path in ["/%00", "/%0d%0aX: y", "/%c0%af", "/%7f", "/%ff"] {
        assert_eq!(get(path, ""), Err(Refusal::Text), "{path}");
    }
}

#[test]
fn a_bad_parameter_is_refused_with_the_allowed_values() {
    assert_eq!(refused("/sleep", "ms=soon"), r#"ms is "soon"; allowed: a whole number from 0 to 600000"#);
    assert_eq!(refused("/sleep", "ms=600001"), r#"ms is "600001"; allowed: a whole number from 0 to 600000"#);
    assert_eq!(refused("/bytes", "n="), r#"n is ""; allowed: a whole number from 0 to 1073741824"#);
    assert_eq!(refused("/status", "code=101"), r#"code is "101"; allowed: a whole number from 200 to 599"#);
    assert_eq!(refused("/status", "body=2"), r#"body is "2"; allowed: a whole number from 0 to 1"#);
}

#[test]
fn a_stream_is_limited_as_a_whole() {
    assert!(get("/stream", "chunks=1024&size=1048576").is_ok());
    assert_eq!(
        refused("/stream", "chunks=1024&size=1048577"),
        r#"size is "1048577"; allowed: a whole number from 1 to 1048576"#
    );
    // A million chunks of the largest size that the limit permits, and no chunks of any size.
    assert!(get("/stream", "chunks=1000000&size=1073").is_ok());
    assert!(get("/stream", "chunks=0").is_ok());
}

#[test]
fn small_responses_computed_at_once_are_short() {
    let short = |path| get(path, "").unwrap().is_short();
    assert!(["/", "/info", "/headers", "/status"].into_iter().all(short));
    assert!(!["/sleep", "/block", "/stream", "/bytes", "/events", "/upgrade"].into_iter().any(short));
    assert!(!Request::Echo.is_short());
}
