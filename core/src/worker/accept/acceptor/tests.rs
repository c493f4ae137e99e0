use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::CreateFlags;

use super::*;
use crate::worker::Ownership;

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
fn who_was_woken_for_a_connection_takes_it_along_when_it_closes() {
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
fn who_has_paused_leaves_all_to_others_when_it_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut acceptor, epoll) = acceptor(&listener);
    let _connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    wait(&epoll);
    acceptor.pause();
    assert!(acceptor.close().is_empty());
}
