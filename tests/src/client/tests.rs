//! The client against a peer that sends given bytes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;

/// A client that receives `bytes` and then the end of the connection.
fn receiving(bytes: &[u8]) -> Client {
    let (client, mut peer) = pair();
    peer.write_all(bytes).unwrap();
    client
}

fn pair() -> (Client, UnixStream) {
    let (socket, peer) = UnixStream::pair().unwrap();
    (Client { socket: OwnedFd::from(socket).into(), unread: Vec::new() }, peer)
}

fn cut(result: Result<Response, Broken>) -> End {
    match result {
        Err(Broken::Cut { end, .. }) => end,
        other => panic!("not cut: {other:?}"),
    }
}

#[test]
fn bodies_are_decoded_from_each_framing() {
    let mut client = receiving(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab\
          HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n\
          HTTP/1.1 204 No Content\r\n\r\n\
          HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrest",
    );
    assert_eq!(client.response().text(), "ab");
    assert_eq!(client.response().text(), "cde");
    assert_eq!(client.response().framing, Framing::Nothing);
    let last = client.response();
    assert_eq!((last.text().as_str(), last.announces_close()), ("rest", true));
    assert_eq!(client.end(PATIENCE), End::Fin);
}

#[test]
fn a_body_that_ends_early_is_cut_and_not_short() {
    assert_eq!(cut(receiving(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").try_response()), End::Fin);
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    assert_eq!(cut(receiving(chunked).try_response()), End::Fin);
    assert_eq!(cut(receiving(b"HTTP/1.1 200 OK\r\n").try_response()), End::Fin);
}

#[test]
fn responses_that_violate_the_rfc_are_malformed() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nbare\nfeed: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
    ] {
        let result = receiving(bytes.as_bytes()).try_response();
        assert!(matches!(result, Err(Broken::Malformed(_))), "{bytes:?} gave {result:?}");
    }
}

#[test]
fn kinds_of_connection_end_are_distinguished() {
    let (mut client, peer) = pair();
    assert_eq!(client.end(Duration::from_millis(10)), End::StillOpen);
    drop(peer);
    assert_eq!(client.end(PATIENCE), End::Fin);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Address::Inet(listener.local_addr().unwrap()).connect(PATIENCE).unwrap();
    let (peer, _) = listener.accept().unwrap();
    client.send("unread when the peer closes, so it resets");
    peer.peek(&mut [0]).unwrap();
    drop(peer);
    assert_eq!(client.end(PATIENCE), End::Reset);
}

#[test]
fn a_refused_connect_is_noticed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Inet(listener.local_addr().unwrap());
    assert_eq!(address.refused(Duration::from_millis(30)), None);
    drop(listener);
    assert!(address.refused(PATIENCE).is_some());
}

#[test]
fn numbers_are_found_in_json() {
    let mut client = receiving(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"pid\": 12, \"x\":345}");
    let response = client.response();
    assert_eq!((response.number("pid"), response.number("x")), (12, 345));
}
