use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Instant;

use remuda_core::shutdown::Reason;
use tempfile::tempdir;

use super::*;

fn manager(name: impl AsRef<OsStr>) -> Manager {
    Manager { line: Some(connect(name.as_ref()).unwrap()), watchdog: None }
}

fn heard(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    socket.set_nonblocking(true).unwrap();
    let len = socket.recv(&mut buffer).unwrap_or_default();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn a_path_and_an_abstract_name_get_the_same_messages() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("notify");
    let by_path = UnixDatagram::bind(&path).unwrap();
    let name = format!("remuda-notify-{}", getpid());
    let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (socket, name) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
        let mut manager = manager(name);
        manager.ready(4);
        assert_eq!(heard(&socket), format!("READY=1\nMAINPID={}\nSTATUS=4 workers ready", getpid()));
        manager.hear(&Notice::Scaled { workers: 5 });
        assert_eq!(heard(&socket), "STATUS=scaled to 5 workers");
        manager.hear(&Notice::Lameduck { left: Duration::from_secs(1) });
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=serving until the stop");
        manager.hear(&Notice::Stopping { reason: Reason::Stop, left: Duration::ZERO });
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=stopping (stop)");
        manager.hear(&Notice::TooFew);
        assert_eq!(heard(&socket), "");
    }
}

#[test]
fn a_reload_and_its_end_are_notified() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut manager = manager(&path);
    manager.reloading(Time::from_nanos(7_000_123));
    assert_eq!(heard(&socket), "RELOADING=1\nMONOTONIC_USEC=7000\nSTATUS=reloading");
    let mut told = |end| {
        manager.hear(&Notice::Reloaded { generation: 2, end });
        heard(&socket)
    };
    assert_eq!(told(ReloadEnd::Done), "READY=1\nSTATUS=reloaded");
    let why = ReloadEnd::Failed("one\ntwo".into());
    assert_eq!(told(why), "READY=1\nSTATUS=not reloaded: one two");
    assert_eq!(told(ReloadEnd::Overtaken), "", "the newer one goes on");
    assert_eq!(told(ReloadEnd::TooLate), "", "the server stops, and has said so or will");
}

#[test]
fn a_name_that_is_not_a_socket_is_refused() {
    for name in ["", "notify", "vsock:2:9"] {
        assert!(connect(name.as_ref()).is_err(), "{name:?}");
    }
}

#[test]
fn a_manager_that_does_not_read_gets_messages_later_in_order() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut manager = manager(&path);
    let waiting = |manager: &Manager| manager.line.as_ref().unwrap().waiting.len();
    let start = Instant::now();
    let mut said = 0;
    // Until its queue (net.unix.max_dgram_qlen) and the arbiter's are full.
    while waiting(&manager) < KEPT {
        manager.hear(&Notice::Scaled { workers: said + 2 });
        said += 1;
        assert!(said < 10_000, "its queue has no end");
    }
    manager.hear(&Notice::Scaled { workers: 1 });
    assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
    assert!(manager.deadline().is_some(), "what waits is tried again");

    for workers in 2..said + 2 {
        manager.advance(Time::MAX);
        assert_eq!(heard(&socket), format!("STATUS=scaled to {workers} workers"));
    }
    assert_eq!((waiting(&manager), manager.deadline(), heard(&socket).as_str()), (0, None, ""));
}

#[test]
fn the_end_waits_a_moment_for_a_manager_that_does_not_read() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("notify");
    let _deaf = UnixDatagram::bind(&path).unwrap();
    let mut manager = manager(&path);
    while manager.deadline().is_none() {
        manager.tell("STATUS=hello");
    }
    let start = Instant::now();
    manager.end();
    assert!((FLUSH..10 * FLUSH).contains(&start.elapsed()), "it took {:?}", start.elapsed());
}

#[test]
fn the_watchdog_is_notified_twice_in_its_time() {
    let read = |limit: &'static str, pid: Option<String>| {
        Watchdog::read(move |name| if name == WATCHDOG { Some(limit.to_owned()) } else { pid.clone() })
    };
    assert!(Watchdog::read(|_| None).is_none());
    assert!(read("0", None).is_none());
    assert!(read("soon", None).is_none());
    assert!(read("1000000", Some("1".to_owned())).is_none(), "it waits for another process");
    let mut watchdog = read("1000000", Some(getpid().to_string())).unwrap();
    let start = Time::ZERO + Duration::from_secs(1);
    assert!(watchdog.is_due(start));
    assert!(!watchdog.is_due(start + Duration::from_millis(499)));
    assert_eq!(watchdog.next, start + Duration::from_millis(500));
    assert!(watchdog.is_due(start + Duration::from_millis(500)));
}
