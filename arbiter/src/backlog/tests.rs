use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use remuda_core::peer::Peer;
use remuda_core::worker::handoff::{Adopted, queue};
use remuda_core::worker::sys::now;
use remuda_core::worker::{Gates, Ownership};

use super::*;
use crate::Bind;
use crate::listener::Listeners;
use crate::listener::per_slot::PerSlotListeners;

fn tcp(addr: SocketAddr) -> (Listener, SocketAddr) {
    let listener = TcpListener::bind(addr).unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = Listener::new(3, listener.into(), Bound::Inet(addr), Ownership::Sole);
    (listener.with_gates(gates()), addr)
}

fn gates() -> Gates {
    static GATES: std::sync::OnceLock<Gates> = std::sync::OnceLock::new();
    *GATES.get_or_init(|| Gates::map().unwrap())
}

/// Advances as the loop would, with a receiver of all connections.
fn pass_on(backlog: &mut Backlog, outbox: &Outbox, queue: &OwnedFd) -> (Vec<Adopted>, usize) {
    let limit = now() + Duration::from_secs(10);
    let mut taken = Vec::new();
    loop {
        assert!(now() < limit, "it never ends");
        let over = backlog.advance(outbox, now());
        taken.extend(iter::from_fn(|| receive(queue.as_fd()).unwrap()));
        if let Some(lost) = over {
            return (taken, lost);
        }
        if !backlog.is_blocked() {
            let wait = backlog.deadline().expect("it waits for something") - now();
            std::thread::sleep(wait);
        }
    }
}

fn answer_all(taken: Vec<Adopted>) {
    for Adopted { socket, .. } in taken {
        rustix::io::write(&socket, b"hello").unwrap();
    }
}

fn ending(listener: Listener, now: Time) -> Backlog {
    let mut backlog = Backlog::new(now);
    backlog.end(vec![listener], now);
    backlog
}

#[test]
fn d4_waiting_tcp_connections_are_passed_on_and_new_ones_refused() {
    for addr in [SocketAddr::from(([127, 0, 0, 1], 0)), "[::1]:0".parse().unwrap()] {
        let (listener, addr) = tcp(addr);
        let (outbox, queue) = queue().unwrap();
        let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let mut backlog = ending(listener, now());
        let (taken, lost) = pass_on(&mut backlog, &outbox, &queue);
        assert_eq!((taken.len(), lost), (100, 0));
        assert_eq!(taken[0].record.listener, 3);
        assert_eq!(taken[0].record.peer, Peer::Inet(clients[0].local_addr().unwrap()));
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        answer_all(taken);
        assert_greeted(clients);
    }
}

#[test]
fn d4_listeners_may_end_while_others_are_ending() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let [(first, first_addr), (second, second_addr)] = [tcp(any), tcp(any)];
    let (outbox, queue) = queue().unwrap();
    let connect = |addr| (0..20).map(move |_| TcpStream::connect(addr).unwrap());
    let clients: Vec<_> = connect(first_addr).chain(connect(second_addr)).collect();
    let mut backlog = ending(first, now());
    assert_eq!(backlog.advance(&outbox, now()), None);
    backlog.end(vec![second], now());
    let (taken, lost) = pass_on(&mut backlog, &outbox, &queue);
    assert_eq!((taken.len(), lost), (40, 0));
    for addr in [first_addr, second_addr] {
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    answer_all(taken);
    assert_greeted(clients);
}

/// Greets all clients, and closes.
fn assert_greeted(clients: impl IntoIterator<Item = impl io::Read>) {
    for mut client in clients {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a test says what it does not show")]
fn d4_a_gate_drops_connects_and_nothing_else() {
    let shut = |name: &str, listener: &Listener| match name {
        "a filter" => crate::sys::drop_connects(listener.as_fd()),
        _ => listener.shut_by_hops(),
    };
    // The last pair is an IPv4 client at an IPv6 listener.
    for (at, client) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        for name in ["a filter", "hops"] {
            let (listener, addr) = tcp(at.parse().unwrap());
            let addr = SocketAddr::new(client.parse().unwrap(), addr.port());
            let mut before = TcpStream::connect(addr).unwrap();
            match shut(name, &listener) {
                Err(error) if name == "a filter" && error.kind() == io::ErrorKind::PermissionDenied => {
                    eprintln!("not shown, because this user may attach no filter to TCP (CAP_NET_ADMIN)");
                    continue;
                }
                result => result.unwrap(),
            }
            let late = TcpStream::connect_timeout(&addr, Duration::from_millis(50));
            assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut, "{name}");
            before.write_all(b"hello").unwrap();
            let accepted = listener.accept().unwrap().expect("a complete connection stays");
            assert!(listener.accept().unwrap().is_none());
            let mut stream = TcpStream::from(accepted.socket);
            stream.set_nonblocking(false).unwrap();
            let mut text = [0; 5];
            stream.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
        }
    }
}

#[test]
fn d4_this_system_has_a_gate_and_shows_handshakes() {
    let end = gate::ListenerEnd::of_this_system().unwrap();
    assert!(end.gate != Gate::None && end.sees_handshakes, "{end:?}");
}

#[test]
fn d4_listeners_at_one_address_end_together_and_each_is_emptied() {
    let mut shared = Listeners::default().with_gates(Some(gates()));
    let any = Bind::Inet(([127, 0, 0, 1], 0).into());
    shared.choose(&[any], 128, (None, None)).unwrap();
    let mut slots = PerSlotListeners::new(true, 3, 128);
    slots.open_all(&mut shared).unwrap();
    let mut listeners = shared.release();
    listeners.append(&mut slots.release_all());
    assert_eq!(listeners.len(), 3);
    let Bound::Inet(addr) = listeners[0].bound else { panic!("it is TCP") };
    let clients: Vec<_> = (0..40).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let (outbox, queue) = queue().unwrap();
    let mut backlog = Backlog::new(now());
    backlog.end(listeners, now());
    assert_eq!(backlog.ending.len(), 1);
    let (taken, lost) = pass_on(&mut backlog, &outbox, &queue);
    assert_eq!((taken.len(), lost), (40, 0));
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    answer_all(taken);
    assert_greeted(clients);
}

#[test]
fn d4_waiting_unix_connections_are_passed_on_and_new_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = Listener::new(0, listener.into(), Bound::Unix(path.clone()), Ownership::Sole);
    let (outbox, queue) = queue().unwrap();
    let clients: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut backlog = ending(listener, now());
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let (taken, lost) = pass_on(&mut backlog, &outbox, &queue);
    assert_eq!((taken.len(), lost), (100, 0));
    answer_all(taken);
    assert_greeted(clients);
}

#[test]
fn d4_an_unread_queue_blocks_nothing_and_its_contents_are_counted() {
    let (listener, addr) = tcp(([127, 0, 0, 1], 0).into());
    let (outbox, queue) = queue().unwrap();
    // Small enough to be filled by the connections of a test.
    rustix::net::sockopt::set_socket_send_buffer_size(&outbox, 1).unwrap();
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let start = now();
    let mut backlog = ending(listener, start);
    assert_eq!(backlog.deadline(), Some(start));
    assert_eq!(backlog.advance(&outbox, start), None);
    while !backlog.ending.is_empty() {
        let wait = backlog.deadline().expect("the listener is about to end") - now();
        assert!(wait < MOMENT);
        std::thread::sleep(wait);
        assert_eq!(backlog.advance(&outbox, now()), None);
    }
    assert!(backlog.is_blocked());
    assert_eq!(backlog.deadline(), None, "only the queue can help");
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(abandon(Some(backlog), Some(queue.as_fd()), now()), clients.len());
    assert_eq!(abandon(None, Some(queue.as_fd()), now()), 0);
}

#[test]
fn d4_a_backlog_that_is_never_accepted_is_counted() {
    let (listener, addr) = tcp(([127, 0, 0, 1], 0).into());
    let (_outbox, queue) = queue().unwrap();
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let backlog = ending(listener, now());
    assert_eq!(abandon(Some(backlog), Some(queue.as_fd()), now()), clients.len());
}
