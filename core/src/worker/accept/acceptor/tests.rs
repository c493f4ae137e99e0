use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::CreateFlags;

use super::*;
use crate::worker::{Gates, Ownership, sys};

fn acceptor(listener: &TcpListener) -> (Acceptor, OwnedFd) {
    let bound = Bound::Inet(listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let socket = OwnedFd::from(listener.try_clone().unwrap());
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let listener = Listener::new(0, socket, bound, Ownership::Sole);
    let mut acceptor = Acceptor::new(vec![listener], epoll.try_clone().unwrap(), 0);
    acceptor.resume().unwrap();
    (acceptor, epoll)
}

fn wait(epoll: &OwnedFd) {
    let mut events = Vec::with_capacity(1);
    let limit = Duration::from_secs(10).try_into().unwrap();
    assert_eq!(epoll::wait(epoll, spare_capacity(&mut events), Some(&limit)), Ok(1));
}

#[test]
fn closing_accepts_a_connection_that_woke_this_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut acceptor, epoll) = acceptor(&listener);
    let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _second = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    wait(&epoll);
    let last = acceptor.close();
    let [accepted] = &last[..] else { panic!("{last:?}") };
    assert_eq!(accepted.peer, Peer::Inet(first.local_addr().unwrap()));
    assert!(acceptor.close().is_empty());
}

#[test]
fn closing_after_a_pause_accepts_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut acceptor, epoll) = acceptor(&listener);
    let _connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    wait(&epoll);
    acceptor.pause();
    assert!(acceptor.close().is_empty());
}

#[test]
fn d4_a_gate_shut_by_hops_drops_connects_and_no_connection() {
    // The last pair is an IPv4 client of an IPv6 listener.
    for (at, client) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        let socket = TcpListener::bind(at).unwrap();
        let addr = SocketAddr::new(client.parse().unwrap(), socket.local_addr().unwrap().port());
        let gates = Gates::map().unwrap();
        let listener = |index| {
            let socket = socket.try_clone().unwrap();
            socket.set_nonblocking(true).unwrap();
            let bound = Bound::Inet(socket.local_addr().unwrap());
            Listener::new(index, socket.into(), bound, Ownership::Sole).with_gates(gates)
        };
        // The listener as the arbiter holds it, and as a worker does.
        let (arbiters, workers, other) = (listener(7), listener(7), listener(8));
        let mut before = TcpStream::connect(addr).unwrap();
        arbiters.shut_by_hops().unwrap();
        let late = TcpStream::connect_timeout(&addr, Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let accepted = workers.accept().unwrap().expect("what was complete stays");
        assert!(workers.accept().unwrap().is_none());

        // This handshake was complete before, so its socket has not inherited the limit; one that
        // completes now would have.
        sys::set_least_hops(accepted.socket.as_fd(), addr.is_ipv6(), u8::MAX).unwrap();
        other.open_gate_of(&accepted.socket);
        before.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        assert_eq!(
            rustix::io::read(&accepted.socket, &mut text),
            Err(Errno::AGAIN),
            "it is of a gate that is open"
        );
        workers.open_gate_of(&accepted.socket);
        let mut stream = TcpStream::from(accepted.socket);
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}
