use std::io;
use std::thread;

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};

use super::*;

const BOTH: Interest = Interest { read: true, write: true };

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// The reports since the last call.
fn reported(epoll: &mut Epoll) -> Vec<(u64, Readiness)> {
    let mut events = Events::default();
    epoll.wait(&mut events, Duration::ZERO).unwrap();
    Epoll::reported(&events).collect()
}

#[test]
fn each_change_is_reported_once() {
    let mut epoll = Epoll::new().unwrap();
    let (here, there) = pair();
    epoll.register(here.as_fd(), 7, BOTH).unwrap();
    let writable = Readiness { writable: true, ..Readiness::default() };
    assert_eq!(reported(&mut epoll), [(7, writable)]);
    assert_eq!(reported(&mut epoll), []);
    rustix::io::write(&there, b"x").unwrap();
    assert_eq!(reported(&mut epoll), [(7, Readiness { readable: true, ..writable })]);
    assert_eq!(reported(&mut epoll), []);
    shutdown(&there, Shutdown::Write).unwrap();
    assert_eq!(reported(&mut epoll), [(7, Readiness { readable: true, read_closed: true, ..writable })]);
    drop(there);
    let all = Readiness { readable: true, writable: true, read_closed: true, broken: true };
    assert_eq!(reported(&mut epoll), [(7, all)]);
    epoll.deregister(here.as_fd());
    epoll.register(here.as_fd(), 8, Interest { read: true, write: false }).unwrap();
    assert_eq!(reported(&mut epoll), [(8, all)]);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "wakers are called from any thread")]
fn every_wake_ends_a_wait() -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let waker = epoll.waker(3)?;
    let mut events = Events::default();
    for _ in 0..3 {
        let waker = waker.clone();
        let ringer = thread::spawn(move || waker.wake());
        epoll.wait(&mut events, Duration::from_secs(10))?;
        assert_eq!(Epoll::reported(&events).map(|(number, _)| number).collect::<Vec<_>>(), [3]);
        ringer.join().unwrap();
    }
    Ok(())
}
