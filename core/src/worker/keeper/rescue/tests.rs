use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use super::*;

fn is_found(descriptor: &impl AsRawFd, peer: Peer) -> bool {
    connection(descriptor.as_raw_fd(), peer).is_some()
}

#[test]
fn a_connection_is_known_by_its_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, peer) = listener.accept().unwrap();
    assert!(is_found(&server, Peer::Inet(peer)));
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(is_found(&one, Peer::Unix));
    drop(client);
}

#[test]
fn what_an_application_has_put_in_its_place_is_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_server, peer) = listener.accept().unwrap();
    let peer = Peer::Inet(peer);
    let (pair, _other) = UnixStream::pair().unwrap();
    let name = format!("remuda-test-{}", std::process::id());
    let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    assert!(!is_found(&client, peer), "a connection with another peer");
    assert!(!is_found(&client, Peer::Unix), "a TCP connection for one of a unix socket");
    assert!(!is_found(&pair, peer), "a unix socket for a TCP connection");
    assert!(!is_found(&listener, peer), "a listener");
    assert!(!is_found(&unix, Peer::Unix), "a listener of the same kind");
    assert!(!is_found(&UdpSocket::bind("127.0.0.1:0").unwrap(), peer), "a datagram socket");
    assert!(!is_found(&File::open("/dev/null").unwrap(), peer), "a file");
    assert!(connection(i32::MAX, peer).is_none(), "no descriptor");
}
