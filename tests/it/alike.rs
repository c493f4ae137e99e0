//! Both kinds of the built-in application send the same bytes, except for dates.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::Server;

#[test]
fn both_built_in_applications_send_the_same_bytes() {
    let serve = |kind| Harness::new("threaded", kind, Path::new(env!("CARGO_BIN_EXE_fixture"))).serve(&[]);
    let (blocking, future) = (serve("blocking"), serve("async"));
    let mut requests = Vec::new();
    for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS", "BREW"] {
        for target in [
            "/",
            "/echo",
            "/sleep?ms=0",
            "/block?ms=1",
            "/bytes?n=5",
            "/stream?chunks=2&size=3&ms=1",
            "/headers",
            "/status?code=201&body=1",
            "/status?code=204&body=1",
            "/status?code=304&body=1",
            "/status?code=405",
            "/status?code=600",
            "/upgrade",
            "/nothing",
            "/%00",
            "/%62ytes?%6e=%33",
        ] {
            requests.push(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n"));
        }
    }
    requests.push("OPTIONS * HTTP/1.1\r\nHost: a\r\n".to_owned());
    requests.push("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n".to_owned());
    requests.push(
        "GET /headers HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-B:\r\nX-A: 3\r\nx-c: 4\r\nX-B: \u{e9}\r\n"
            .to_owned(),
    );
    requests.push("GET /bytes?n=3 HTTP/1.0\r\n".to_owned());
    requests.push("GET /stream?chunks=2&size=3&ms=0 HTTP/1.0\r\n".to_owned());
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nConnection: close\r\n";
        requests.push(format!("{head}{body}"));
    }
    for request in requests {
        let request = match request.contains("\r\n\r\n") {
            true => request,
            false => format!("{request}Connection: close\r\n\r\n"),
        };
        assert_eq!(answer(&blocking, &request), answer(&future, &request), "{request:?}");
    }
}

/// Everything the server sends on a connection of its own, without dates.
fn answer(server: &Server, request: &str) -> String {
    let Address::Inet(address) = server.address() else { panic!("it listens on TCP") };
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{request:?}: {error}"));
    let answer = String::from_utf8(answer).expect("what is sent is UTF-8");
    answer.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}
