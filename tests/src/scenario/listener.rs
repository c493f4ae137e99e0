//! Listeners in a drain: nothing new is accepted (D2), and a socket is ended by its owner only
//! (D3).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{get, took};
use crate::Harness;
use crate::client::{Address, End, PATIENCE};
use crate::process::Server;

/// The contract's 50 ms, and a margin for a busy machine.
pub(super) const AT_ONCE: f64 = 0.25;

pub(crate) fn d2_nothing_new_is_accepted_in_a_drain(harness: &Harness) {
    // An inherited listener stays open, so a connect still succeeds, and its queue shows whether
    // the server accepts.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut server = harness.serve_inherited(&listener, &[]);
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1200"));
    server.arbiter().signal(Signal::TERM);
    thread::sleep(Duration::from_secs_f64(AT_ONCE));
    let mut late = server.connect();
    late.send(get("/"));

    busy.last_response(200);
    drop(busy);
    assert_eq!(server.exit(PATIENCE), 0);
    assert_eq!(late.end(Duration::ZERO), End::StillOpen);
    assert_eq!(accepted(&listener), 1, "connections in the queue");
}

pub(crate) fn d3_connect_is_refused_after_term(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1000"));
    assert_refused_after_term(&server);
    // The workers were alive all the time.
    busy.last_response(200);
}

pub(crate) fn d3_connect_is_refused_while_all_handlers_are_busy(harness: &Harness) {
    let server = harness.serve(&["--threads", "1"]);
    let mut busy = [server.connect(), server.connect()];
    server.begin(&mut busy[0], get("/block?ms=5000"));
    busy[1].send(get("/block?ms=5000"));
    assert_refused_after_term(&server);
}

pub(crate) fn an_abstract_socket_is_served_and_passed_on_and_ends(harness: &Harness) {
    let name = format!("remuda-{}-{}", std::process::id(), harness.backend());
    let name = format!("{name}-{:?}", thread::current().id()).replace(['(', ')'], "");
    let mut server = harness.launch(&format!("unix:@{name}"), &["-w", "2"]);
    assert!(server.logs(&format!("ready: unix:@{name}, 2 "), PATIENCE), "{}", server.log());
    let address = <SocketAddr as SocketAddrExt>::from_abstract_name(&name).expect("the name is short enough");
    let ask = || {
        let mut stream = UnixStream::connect_addr(&address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    assert!(ask().expect("it is served").starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(fs::read_dir(server.dir()).expect("it is there").count(), 0, "an abstract socket has no file");
    let new = server.begin_upgrade();
    server.pass_to(new);
    assert!(ask().expect("another arbiter serves it").starts_with("HTTP/1.1 200 OK\r\n"));
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(ask().is_err(), "the socket has ended");
}

pub(crate) fn d3_unix_socket_is_refused_and_unlinked(harness: &Harness) {
    let mut server = harness.serve_unix(&[]);
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=500"));
    assert_refused_after_term(&server);
    busy.last_response(200);
    drop(busy);
    assert_eq!(server.exit(PATIENCE), 0);
    let Address::Unix(path) = server.address() else { panic!("it listens at {:?}", server.address()) };
    assert!(!path.exists(), "{} is still there", path.display());
}

pub(crate) fn d3_inherited_listener_survives(harness: &Harness) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut server = harness.serve_inherited(&listener, &["-w", "2"]);
    server.connect().get("/");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let _client = server.connect();
    assert_eq!(accepted(&listener), 1, "connections in the queue");
}

pub(crate) fn d3_inherited_unix_socket_survives(harness: &Harness) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("owner.sock");
    let listener = UnixListener::bind(&path).expect("the directory is new");
    let mut server = harness.serve_inherited(&listener, &[]);
    server.connect().get("/");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let _client = UnixStream::connect(&path).expect("the socket is open");
    listener.accept().expect("it still listens");
}

pub(crate) fn d3_every_listener_is_refused(harness: &Harness) {
    let server = harness.serve(&["-b", "unix:other.sock"]);
    let other = Address::Unix(server.dir().join("other.sock"));
    other.connect(PATIENCE).expect("it listens there too").get("/");
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1000"));
    assert_refused_after_term(&server);
    assert!(other.refused(Duration::from_secs_f64(AT_ONCE)).is_some(), "the other one still listens");
    busy.last_response(200);
}

#[track_caller]
pub(super) fn assert_refused_after_term(server: &Server) {
    let term = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert!(server.address().refused(PATIENCE).is_some(), "connects are never refused");
    took("connects were refused", term, 0.0..AT_ONCE);
}

/// How many connections wait in the queue of `listener`.
pub(super) fn accepted(listener: &TcpListener) -> usize {
    listener.set_nonblocking(true).expect("the listener is open");
    std::iter::from_fn(|| listener.accept().ok()).count()
}
