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
fn head_is_as_get_and_other_methods_are_told_which_are_allowed() {
    assert_eq!(Request::of("HEAD", "/bytes", "n=5"), Ok(Request::Bytes(5)));
    assert_eq!(Request::of("POST", "/", ""), Err(Refusal::Method { allow: "GET, HEAD" }));
    assert_eq!(Request::of("GET", "/echo", ""), Err(Refusal::Method { allow: "POST" }));
    // RFC 9110 §9.1: methods are case-sensitive.
    assert_eq!(Request::of("get", "/", ""), Err(Refusal::Method { allow: "GET, HEAD" }));
}

#[test]
fn a_bad_parameter_is_named_with_what_is_allowed() {
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
    // A million chunks of the most bytes that leaves for each, and none of any.
    assert!(get("/stream", "chunks=1000000&size=1073").is_ok());
    assert!(get("/stream", "chunks=0").is_ok());
}

#[test]
fn short_is_what_is_computed_at_once_and_small() {
    let short = |path| get(path, "").unwrap().is_short();
    assert!(["/", "/info", "/headers", "/status"].into_iter().all(short));
    assert!(!["/sleep", "/block", "/stream", "/bytes", "/events", "/upgrade"].into_iter().any(short));
    assert!(!Request::Echo.is_short());
}
