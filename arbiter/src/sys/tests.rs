use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::sync::mpsc;
use std::thread;

use super::*;

#[test]
fn a_process_with_threads_is_refused_with_their_names() {
    let (started, start) = mpsc::channel::<()>();
    let (stop, stopped) = mpsc::channel::<()>();
    let bystander = thread::Builder::new().name("bystander".into());
    let thread = bystander.spawn(move || {
        started.send(()).unwrap();
        stopped.recv().unwrap_err()
    });
    start.recv().unwrap(); // a thread names itself
    let refusal = only_thread().unwrap_err().to_string();
    drop(stop);
    thread.unwrap().join().unwrap();
    assert!(refusal.contains("bystander "), "{refusal}");
    assert!(refusal.contains("call `remuda::run` from a plain `main`"), "{refusal}");
}

#[test]
fn the_code_that_started_threads_is_named_if_known() {
    let refusal = ThreadsError { threads: vec!["a 1".into(), "b 2".into()], culprit: None };
    let sentence = "cannot fork a process with 2 threads (a 1, b 2); the hook on_starting has started them: threads and \
                    runtimes belong in the workers";
    assert_eq!(refusal.because_of("the hook on_starting").to_string(), sentence);
}

#[test]
fn a_descriptor_is_adopted_if_the_check_succeeds() {
    let fd = TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd();
    let refused = adopt(fd, |_| Err(io::Error::other("no")));
    assert_eq!(refused.unwrap_err().to_string(), "no");
    let adopted = adopt(fd, |_| Ok::<_, io::Error>(())).unwrap();
    assert_eq!(adopted.as_raw_fd(), fd);
}

#[test]
fn a_descriptor_that_is_not_open_is_refused() {
    for fd in [-1, 999_999] {
        let error = adopt(fd, |_| Ok::<_, io::Error>(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}

#[test]
fn signals_arrive_on_the_descriptor_and_are_restored() {
    let mask = || {
        let mut mask = SigSet::empty();
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask)).unwrap();
        mask
    };
    let before = mask();
    let signals = Signals::block().unwrap();
    assert!(mask().contains(Signal::SIGTERM) && mask().contains(Signal::SIGPIPE));
    assert!(NOT_BLOCKED.into_iter().all(|signal| !mask().contains(signal)));
    assert_eq!(signals.next(), None);
    nix::sys::signal::raise(Signal::SIGTERM).unwrap();
    assert_eq!(signals.next(), Some(libc::SIGTERM));
    nix::sys::signal::raise(Signal::SIGTERM).unwrap();
    signals.restore(0); // swallows the late one, or this test process is gone
    assert_eq!(mask(), before);
}

#[test]
fn the_queue_is_counted_for_tcp_and_unknown_for_unix_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(queued(&listener), Some(0));
    let _clients = [0, 1].map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    assert_eq!(queued(&listener), Some(2));
    let dir = tempfile::tempdir().unwrap();
    let unix = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert_eq!(queued(&unix), None);
}
