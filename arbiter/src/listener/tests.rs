use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::slice;
use std::thread;
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd};
use tempfile::{TempDir, tempdir};

use super::error::PATH_MAX;
use super::*;

const ANY: &str = "127.0.0.1:0";

const NOBODY: Owner = (None, None);

fn bind_one(bind: Bind) -> Result<Listeners, BindError> {
    bind_all(&[bind])
}

fn bind_all(binds: &[Bind]) -> Result<Listeners, BindError> {
    let mut listeners = Listeners::default();
    listeners.choose(binds, 16, NOBODY)?;
    Ok(listeners)
}

impl Listeners {
    fn all(&self) -> ListenerSet {
        ListenerSet { all: self.held.iter().map(|held| held.listener.index).collect(), new: Vec::new() }
    }

    fn written(&self) -> String {
        self.describe(&self.all())
    }
}

fn tcp(addr: impl ToString) -> Bind {
    Bind::Inet(addr.to_string().parse().unwrap())
}

fn addr_of(listeners: &Listeners, index: usize) -> SocketAddr {
    match listeners.held[index].listener.bound {
        Bound::Inet(addr) => addr,
        Bound::Unix(_) => panic!("not a TCP listener"),
    }
}

fn unix_in(dir: &TempDir) -> (Bind, PathBuf) {
    let path = dir.path().join("app.sock");
    (Bind::Unix(path.clone()), path)
}

fn assert_is_served(mut client: impl io::Read, mut server: impl io::Write) {
    server.write_all(b"x").unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn silent_peers_of_a_tcp_listener_are_probed() {
    let listeners = bind_one(tcp(ANY)).unwrap();
    let listener = &listeners.held[0].listener;
    let _client = TcpStream::connect(addr_of(&listeners, 0)).unwrap();
    let server = rustix::net::accept(listener).unwrap();
    assert!(sockopt::socket_keepalive(&server).unwrap());
    assert_eq!(sockopt::tcp_keepidle(&server).unwrap(), PROBED_AFTER);
    assert_eq!(sockopt::tcp_keepintvl(&server).unwrap(), PROBED_EVERY);
    assert_eq!(sockopt::tcp_keepcnt(&server).unwrap(), PROBES);
}

#[test]
fn a_tcp_listener_knows_the_port_it_got_and_is_ready_for_workers() {
    let listeners = bind_one(tcp(ANY)).unwrap();
    let addr = addr_of(&listeners, 0);
    assert_ne!(addr.port(), 0);
    assert_eq!(listeners.written(), format!("http://{addr}"));
    let listener = listeners.into_vec().pop().unwrap();
    assert_eq!((listener.index, listener.ownership), (0, Ownership::Sole));
    assert!(fcntl_getfl(&listener).unwrap().contains(OFlags::NONBLOCK));
    assert!(fcntl_getfd(&listener).unwrap().contains(FdFlags::CLOEXEC));
    let client = TcpStream::connect(addr).unwrap();
    let listener = TcpListener::from(listener.socket);
    listener.set_nonblocking(false).unwrap();
    assert_is_served(client, listener.accept().unwrap().0);
}

#[test]
fn several_addresses_are_bound_in_order_and_port_0_may_be_named_twice() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let listeners = bind_all(&[tcp(ANY), unix, tcp(ANY)]).unwrap();
    let (first, last) = (addr_of(&listeners, 0), addr_of(&listeners, 2));
    assert_ne!(first, last);
    assert_eq!(listeners.written(), format!("http://{first}, unix:{}, http://{last}", path.display()));
    assert_eq!(listeners.into_vec().iter().map(|listener| listener.index).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn no_address_is_an_error() {
    assert_eq!(bind_all(&[]).unwrap_err(), BindError::Nowhere);
}

#[test]
fn a_port_in_use_names_the_address_and_the_cause() {
    let other = TcpListener::bind(ANY).unwrap();
    let addr = other.local_addr().unwrap();
    let error = bind_one(tcp(addr)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {addr}: address already in use; another program listens there")
    );
}

#[test]
fn one_address_twice_is_an_error() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    assert_eq!(bind_all(&[unix.clone(), unix.clone()]).unwrap_err(), BindError::Twice { bind: unix });
    assert!(!path.exists(), "what was bound before is released");
}

#[test]
fn overlapping_addresses_of_one_server_have_their_own_error() {
    let port = bind_one(tcp(ANY)).map(|free| addr_of(&free, 0).port()).unwrap();
    let (wide, narrow) = (tcp(format!("0.0.0.0:{port}")), tcp(format!("127.0.0.1:{port}")));
    let error = bind_all(&[wide.clone(), narrow.clone()]).unwrap_err();
    let Bind::Inet(held) = wide else { unreachable!() };
    assert_eq!(error, BindError::Overlap { bind: narrow, other: Bound::Inet(held) });
}

#[test]
fn one_address_on_two_interfaces_is_two_addresses() {
    let at = |text: &str| text.parse().unwrap();
    assert!(!overlap(at("[fe80::1%1]:80"), at("[fe80::1%2]:80")));
    assert!(overlap(at("[fe80::1%1]:80"), at("[fe80::1%1]:80")));
    assert!(overlap(at("[::]:80"), at("[fe80::1%2]:80")));
    assert!(
        !overlap(at("127.0.0.1:80"), at("127.0.0.2:80")) && overlap(at("0.0.0.0:80"), at("127.0.0.2:80"))
    );
}

#[test]
fn all_addresses_of_ipv6_include_those_of_ipv4() {
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert!(overlap(addr("[::]:80"), addr("127.0.0.1:80")));
    assert!(overlap(addr("0.0.0.0:80"), addr("[::]:80")));
    assert!(!overlap(addr("0.0.0.0:80"), addr("[::1]:80")));
    assert!(!overlap(addr("0.0.0.0:80"), addr("127.0.0.1:81")));

    match bind_one(tcp("[::]:0")) {
        Ok(listeners) => {
            let port = addr_of(&listeners, 0).port();
            assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        // A machine without IPv6 reports it.
        Err(error) => assert!(error.to_string().starts_with("cannot listen on [::]:0: "), "{error}"),
    }
}

#[test]
fn an_address_of_another_machine_is_refused_with_advice() {
    let error = bind_one(tcp("192.0.2.1:8000")).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 192.0.2.1:8000: "), "{error}");
    assert!(error.ends_with("; no interface of this machine has this address"), "{error}");
}

#[test]
fn an_error_releases_what_was_bound_before() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let free = bind_one(tcp(ANY)).map(|listeners| addr_of(&listeners, 0)).unwrap();
    let taken = TcpListener::bind(ANY).unwrap();
    let binds = [tcp(free), unix, tcp(taken.local_addr().unwrap())];
    bind_all(&binds).unwrap_err();
    assert!(!path.exists());
    TcpListener::bind(free).unwrap();
}

#[test]
fn d3_the_end_reaches_all_copies_and_removes_the_file() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let mut listeners = bind_all(&[tcp(ANY), unix]).unwrap();
    let addr = addr_of(&listeners, 0);
    let copies: Vec<_> =
        listeners.held.iter().map(|held| held.listener.socket.try_clone().unwrap()).collect();
    listeners.end();
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(!path.exists());
    assert!(!sockopt::socket_acceptconn(&copies[0]).unwrap());
}

#[test]
fn d3_the_file_of_another_server_stays() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let mut listeners = bind_one(unix).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    listeners.end();
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_stale_socket_file_is_replaced() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = bind_one(unix).unwrap().into_vec().pop().unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let listener = UnixListener::from(listener.socket);
    listener.set_nonblocking(false).unwrap();
    assert_is_served(client, listener.accept().unwrap().0);
}

#[test]
fn d21_a_reload_does_not_wait_for_the_lock_of_a_sockets_directory() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let mut listeners = bind_one(tcp(ANY)).unwrap();
    let lock = fs::File::open(dir.path()).unwrap();
    lock.lock().unwrap();
    let start = Instant::now();
    let refused = BindError::DirectoryLocked { bind: unix.clone() };
    assert_eq!(listeners.choose(slice::from_ref(&unix), 16, NOBODY).unwrap_err(), refused);
    assert_eq!(Listeners::bind(&unix, 16, NOBODY, None).unwrap_err(), refused);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(!path.exists());

    // A start waits, and goes on when the lock is free.
    let unlocked = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        drop(lock);
    });
    assert_eq!(bind_one(unix).unwrap().held.len(), 1);
    unlocked.join().unwrap();
}

#[test]
fn a_unix_socket_with_a_listener_is_not_replaced() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let live = UnixListener::bind(&path).unwrap();
    assert_eq!(bind_one(unix.clone()).unwrap_err(), BindError::InUse { bind: unix.clone() });
    live.set_nonblocking(true).unwrap();
    live.accept().unwrap(); // the probe
    assert!(UnixStream::connect(&path).is_ok());

    // A full backlog does not mean a dead server.
    listen(&live, 0).unwrap();
    assert_eq!(bind_one(unix.clone()).unwrap_err(), BindError::InUse { bind: unix });
}

#[test]
fn an_abstract_socket_has_no_file_and_one_server() {
    let name = format!("@remuda-{}-{:?}", std::process::id(), thread::current().id());
    let bind = Bind::Unix(name.clone().into());
    // A file of that name is not the abstract socket.
    let file = Path::new(&name);
    fs::write(file, "").unwrap();
    let mut listeners = bind_one(bind.clone()).unwrap();
    let address = <std::os::unix::net::SocketAddr as SocketAddrExt>::from_abstract_name(&name[1..]).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok());
    assert_eq!(bind_one(bind.clone()).unwrap_err(), BindError::InUse { bind: bind.clone() });
    assert!(
        matches!(&listeners.held[0], Held { file: None, listener, .. } if listener.bound.to_string() == format!("unix:{name}"))
    );
    listeners.end();
    assert!(UnixStream::connect_addr(&address).is_err());
    assert!(bind_one(bind).is_ok(), "nothing is left behind");
    assert!(file.exists(), "it is not the socket's");
    fs::remove_file(file).unwrap();
}

#[test]
fn a_file_that_is_not_a_socket_is_not_replaced() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    fs::write(&path, "precious").unwrap();
    assert_eq!(bind_one(unix.clone()).unwrap_err(), BindError::NotASocket { bind: unix });
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn paths_that_cannot_be_bound_are_refused_with_a_reason() {
    let dir = tempdir().unwrap();
    let long = dir.path().join("x".repeat(108));
    let len = long.as_os_str().len();
    let error = bind_one(Bind::Unix(long)).unwrap_err().to_string();
    assert!(error.ends_with(&format!("the path is {len} bytes, limit 107")), "{error}");
    let missing = dir.path().join("missing/app.sock");
    let error = bind_one(Bind::Unix(missing)).unwrap_err().to_string();
    assert!(error.ends_with("; create the directory first"), "{error}");
    assert_eq!(bind_one(Bind::Unix(PathBuf::new())).unwrap_err(), BindError::NoPath);
}

#[test]
fn the_longest_path_is_107_bytes() {
    let dir = tempdir().unwrap();
    let room = PATH_MAX - dir.path().as_os_str().len() - 1;
    for (len, fits) in [(room, true), (room + 1, false)] {
        let path = dir.path().join("x".repeat(len));
        assert_eq!(bind_one(Bind::Unix(path)).is_ok(), fits);
    }
}

#[test]
fn an_inherited_listener_is_served_and_only_closed() {
    let outside = TcpListener::bind(ANY).unwrap();
    let addr = outside.local_addr().unwrap();
    let fd = outside.try_clone().unwrap().into_raw_fd();
    let mut listeners = bind_one(Bind::Fd(fd)).unwrap();
    assert_eq!(addr_of(&listeners, 0), addr);
    let listener = &listeners.held[0].listener;
    assert_eq!((listener.socket.as_raw_fd(), listener.ownership), (fd, Ownership::Inherited));
    assert!(fcntl_getfl(listener).unwrap().contains(OFlags::NONBLOCK));
    assert!(fcntl_getfd(listener).unwrap().contains(FdFlags::CLOEXEC));
    listeners.end();
    assert!(TcpStream::connect(addr).is_ok(), "the backlog is its owner's");
}

#[test]
fn an_inherited_unix_listener_keeps_its_file() {
    let dir = tempdir().unwrap();
    let (_, path) = unix_in(&dir);
    let fd = UnixListener::bind(&path).unwrap().into_raw_fd();
    let mut listeners = bind_one(Bind::Fd(fd)).unwrap();
    assert_eq!(listeners.written(), format!("unix:{}", path.display()));
    listeners.end();
    assert!(path.exists());
}

#[test]
fn descriptors_that_are_not_listeners_are_refused_and_stay_open() {
    let file = tempfile::tempfile().unwrap();
    let udp = UdpSocket::bind(ANY).unwrap();
    let listener = TcpListener::bind(ANY).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    for (fd, problem) in [
        (file.as_raw_fd(), "it is not a socket"),
        (udp.as_raw_fd(), "it is a socket, but not a stream"),
        (client.as_raw_fd(), "it is a socket, but does not listen"),
        (999_999, "it is not open"),
    ] {
        let error = bind_one(Bind::Fd(fd)).unwrap_err();
        assert_eq!(error, BindError::BadDescriptor { bind: Bind::Fd(fd), problem });
    }
    assert!(client.set_nodelay(true).is_ok() && file.metadata().is_ok());
}

#[test]
fn a_unix_socket_is_given_to_its_owner() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let root = nix::unistd::geteuid().is_root();
    // Only root may give a file to another user; every user may give it to itself.
    let number = |own: u32| if root { 65534 } else { own };
    let (uid, gid) = (number(nix::unistd::geteuid().as_raw()), number(nix::unistd::getegid().as_raw()));
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let mut listeners = Listeners::default();
    listeners.choose(&[unix], 16, owner).unwrap();
    let file = fs::symlink_metadata(&path).unwrap();
    assert_eq!((file.uid(), file.gid()), (uid, gid));
    listeners.end();
    assert!(!path.exists());
}

#[test]
fn a_listener_that_the_manager_did_not_pass_on_is_refused() {
    let bind = Bind::Named("web".into());
    assert_eq!(bind_one(bind.clone()).unwrap_err(), BindError::NotPassed { bind, passed: Vec::new() });
}

#[test]
fn one_of_two_servers_that_start_over_a_stale_socket_is_refused() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    for _ in 0..200 {
        drop(UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(2);
        let server = || {
            start.wait();
            bind_one(unix.clone())
        };
        let (a, b) = thread::scope(|scope| {
            let other = scope.spawn(server);
            (server(), other.join().unwrap())
        });
        let (mut first, second) = match (a, b) {
            (Ok(first), Err(second)) | (Err(second), Ok(first)) => (first, second),
            other => panic!("both are one or the other: {other:?}"),
        };
        assert_eq!(second, BindError::InUse { bind: unix.clone() });
        drop(UnixStream::connect(&path).unwrap());
        first.end();
    }
}

/// A server on any port and on a unix socket, with its set of listeners.
fn serving(dir: &TempDir) -> (Listeners, [Bind; 2], ListenerSet) {
    let binds = [tcp(ANY), unix_in(dir).0];
    let mut listeners = Listeners::default();
    let chosen = listeners.choose(&binds, 16, NOBODY).unwrap();
    (listeners, binds, chosen)
}

#[test]
fn d16_kept_addresses_keep_their_sockets_and_new_ones_are_bound() {
    let dir = tempdir().unwrap();
    let (mut listeners, [any, unix], before) = serving(&dir);
    let addr = addr_of(&listeners, 0);
    let sockets: Vec<_> = listeners.held.iter().map(|held| held.listener.socket.as_raw_fd()).collect();
    let new = Bind::Unix(dir.path().join("new.sock"));
    for same in [any.clone(), tcp(addr)] {
        let chosen = listeners.choose(&[new.clone(), unix.clone(), same], 16, NOBODY).unwrap();
        assert_eq!((&chosen.all[..], &chosen.new[..]), (&[2, 1, 0][..], &[2][..]));
        assert_eq!(
            listeners.held[..2].iter().map(|held| held.listener.socket.as_raw_fd()).collect::<Vec<_>>(),
            sockets
        );
        assert_eq!(listeners.describe(&before), format!("http://{addr}, {unix}"));
        listeners.drop_new(&chosen);
        assert!(
            !dir.path().join("new.sock").exists(),
            "a generation that was given up leaves nothing behind"
        );
    }
    let chosen = listeners.choose(&[any.clone(), any], 16, NOBODY).unwrap();
    assert_eq!((chosen.all, chosen.new), (vec![0, 2], vec![2]), "each port 0 is one of its own");
}

#[test]
fn d16_addresses_that_cannot_be_bound_change_nothing() {
    let dir = tempdir().unwrap();
    let (mut listeners, [any, _], _) = serving(&dir);
    let taken = TcpListener::bind(ANY).unwrap();
    let taken = tcp(taken.local_addr().unwrap());
    let new = dir.path().join("new.sock");
    let error = listeners.choose(&[any, Bind::Unix(new.clone()), taken.clone()], 16, NOBODY).unwrap_err();
    assert_eq!(error, BindError::InUse { bind: taken });
    assert!(!new.exists());
    assert_eq!(listeners.held.len(), 2);
    TcpStream::connect(addr_of(&listeners, 0)).unwrap();
}

#[test]
fn d16_an_overlap_with_a_bound_address_needs_an_upgrade() {
    let dir = tempdir().unwrap();
    let (mut listeners, [any, _], _) = serving(&dir);
    let wide = format!("0.0.0.0:{}", addr_of(&listeners, 0).port());
    let error = listeners.choose(&[tcp(&wide)], 16, NOBODY).unwrap_err();
    assert!(error.to_string().ends_with("the two overlap; that needs an upgrade"), "{error}");
    // With both addresses in the settings an upgrade would not help.
    let error = listeners.choose(&[any, tcp(&wide)], 16, NOBODY).unwrap_err();
    assert!(matches!(error, BindError::Overlap { .. }), "{error}");
}

#[test]
fn d16_an_inherited_descriptor_stays_and_no_other_is_accepted() {
    let other = TcpListener::bind(ANY).unwrap();
    let own = TcpListener::bind(ANY).unwrap().into_raw_fd();
    let mut listeners = bind_one(Bind::Fd(own)).unwrap();
    let chosen = listeners.choose(&[Bind::Fd(own)], 16, NOBODY).unwrap();
    assert_eq!((chosen.all, chosen.new), (vec![0], vec![]));
    let bind = Bind::Fd(other.as_raw_fd());
    assert_eq!(
        listeners.choose(slice::from_ref(&bind), 16, NOBODY).unwrap_err(),
        BindError::NeedsStart { bind }
    );
    assert!(listeners.release_others(&[]).is_empty(), "it is closed, and not for us to end");
    assert!(listeners.held.is_empty());
}

#[test]
fn d16_listeners_no_longer_chosen_are_released() {
    let dir = tempdir().unwrap();
    let (mut listeners, [any, _], _) = serving(&dir);
    let chosen = listeners.choose(&[any], 16, NOBODY).unwrap();
    let others = listeners.release_others(&chosen.all);
    assert_eq!(others.iter().map(|listener| listener.index).collect::<Vec<_>>(), [1]);
    assert!(!unix_in(&dir).1.exists());
    assert_eq!(listeners.into_set(&chosen).len(), 1);
}

#[test]
fn d16_the_backlog_of_listeners_changes() {
    let listeners = bind_one(tcp(ANY)).unwrap();
    let addr = addr_of(&listeners, 0);
    listeners.listen_again(64);
    // With a backlog of 16 the eighteenth connect would wait.
    let waiting: Vec<_> =
        (0..40).map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(500))).collect();
    assert!(waiting.iter().all(Result::is_ok));
}

/// Copies of the own listeners in `listeners`, as another arbiter inherits them.
fn inherited(listeners: &Listeners) -> Vec<InheritedListener> {
    let own = listeners.to_pass_on().filter(|(_, _, own)| *own);
    own.map(|(fd, file, _)| InheritedListener { socket: fd.try_clone_to_owned().unwrap(), file }).collect()
}

fn take_from(inherited: Vec<InheritedListener>, binds: &[Bind]) -> Listeners {
    let mut listeners = Listeners::among(inherited);
    listeners.choose(binds, 16, NOBODY).unwrap();
    listeners
}

#[test]
fn an_inherited_listener_keeps_its_socket_and_new_ones_are_bound() {
    let dir = tempdir().unwrap();
    let (unix, _) = unix_in(&dir);
    let old = bind_all(&[tcp(ANY), unix.clone()]).unwrap();
    let addr = addr_of(&old, 0);
    let binds = [unix, tcp(ANY), tcp("127.0.0.1:0")];
    let new = take_from(inherited(&old), &binds);
    assert_eq!(addr_of(&new, 1), addr, "any port is the one that the other has");
    assert_ne!(addr_of(&new, 2), addr);
    assert_eq!(new.shared().len(), 2);
    let owners: Vec<_> = new.into_vec().iter().map(|listener| listener.ownership).collect();
    assert_eq!(owners, [Ownership::Shared, Ownership::Shared, Ownership::Sole]);
}

#[test]
fn d3_a_shared_listener_is_not_ended_before_the_other_arbiter() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let mut old = bind_all(&[tcp(ANY), unix.clone()]).unwrap();
    let addr = addr_of(&old, 0);
    let mut new = take_from(inherited(&old), &[tcp(addr), unix]);
    old.share();
    old.end();
    TcpStream::connect(addr).unwrap();
    UnixStream::connect(&path).unwrap();
    new.reclaim();
    new.end();
    TcpStream::connect(addr).unwrap_err();
    assert!(!path.exists());
    old.reclaim(); // the file is not there any more, or another's
}

#[test]
fn d3_the_last_arbiter_removes_a_file_that_both_released() {
    let dir = tempdir().unwrap();
    let (unix, path) = unix_in(&dir);
    let mut old = bind_all(&[unix]).unwrap();
    old.share();
    assert_eq!(old.release().len(), 0);
    assert!(path.exists());
    old.reclaim();
    assert!(!path.exists());
}

#[test]
fn the_old_arbiter_ends_listeners_unused_by_the_new_one() {
    let mut old = bind_all(&[tcp(ANY), tcp(ANY)]).unwrap();
    let (kept, other) = (addr_of(&old, 0), addr_of(&old, 1));
    let copies = inherited(&old);
    old.share();
    let shared = old.shared();
    old.unshare_others(&shared[..1]);
    old.end();
    TcpStream::connect(kept).unwrap();
    TcpStream::connect(other).unwrap_err();
    drop(copies); // the other arbiter has had both until now
}
