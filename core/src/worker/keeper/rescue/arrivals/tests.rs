use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process;

use super::*;
use crate::worker::{Bound, Ownership};

const NOW: Time = Time::from_nanos(1_000_000_000);

fn listener(index: u16, socket: &TcpListener) -> Listener {
    let bound = Bound::Inet(socket.local_addr().unwrap());
    Listener::new(index, OwnedFd::from(socket.try_clone().unwrap()), bound, Ownership::Sole)
}

/// The entry of a descriptor: its listener and standing.
fn entered(entries: &Entries, socket: &impl AsRawFd) -> Option<(u16, Standing)> {
    let memory = &entries.entries[socket.as_raw_fd() as usize];
    memory.found().standing.map(|standing| (memory.record(NOW).listener, standing))
}

#[test]
fn an_accepted_connection_without_an_entry_is_found_by_its_listener() {
    let entries = Entries::map().unwrap();
    let (any, own) = (TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let dual = TcpListener::bind("[::]:0").unwrap();
    let places = addresses(&[listener(0, &any), listener(1, &own), listener(2, &dual)]);
    let accepted = |at: &TcpListener| {
        let port = at.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        (at.accept().unwrap().0, client)
    };
    let connections = [accepted(&any), accepted(&own), accepted(&dual)];
    (&connections[0].1).write_all(b"GET / HTTP/1.1").unwrap();
    assert_eq!(enter(entries, &places, NOW), 3);
    for (index, (server, client)) in connections.iter().enumerate() {
        assert_eq!(entered(&entries, server), Some((index as u16, Standing::Fresh)));
        assert_eq!(entered(&entries, client), None, "the other end");
    }
    assert_eq!(enter(entries, &places, NOW), 0, "all have entries now");
}

#[test]
fn what_the_application_has_opened_is_no_arrival() {
    let entries = Entries::map().unwrap();
    let (own, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let places = addresses(&[listener(0, &own)]);
    let client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    let served = other.accept().unwrap().0;
    let to_own = TcpStream::connect(own.local_addr().unwrap()).unwrap();
    let mut used = own.accept().unwrap().0;
    used.write_all(b"HTTP/1.1 200 OK").unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    assert_eq!(enter(entries, &places, NOW), 0);
    for number in [client.as_raw_fd(), served.as_raw_fd(), to_own.as_raw_fd(), pair.as_raw_fd()] {
        assert!(!entries.entries[number as usize].is_taken());
    }
    assert_eq!(entered(&entries, &used), None, "bytes were written");
}

#[test]
fn an_arrival_on_a_unix_socket_is_found_by_its_path() {
    let entries = Entries::map().unwrap();
    let name = format!("remuda-arrivals-{}", process::id());
    let address = unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    let listener = Listener::new(
        7,
        OwnedFd::from(socket.try_clone().unwrap()),
        Bound::Unix("abstract".into()),
        Ownership::Sole,
    );
    let client = UnixStream::connect_addr(&address).unwrap();
    let (server, _) = socket.accept().unwrap();
    assert_eq!(enter(entries, &addresses(&[listener]), NOW), 1);
    assert_eq!(entered(&entries, &server), Some((7, Standing::Fresh)));
    assert_eq!(entered(&entries, &client), None);
}
