//! The reports of the reactor, over real descriptors, and under a runtime that polls.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::worker::TokioContext;

/// Returns what poll(2) returns, and wakes no task.
struct Polling;

impl Runtime for Polling {
    type Stream = Registered;

    fn spawn(&self, _: impl Future<Output = ()> + 'static) {
        unreachable!("a reactor spawns nothing");
    }

    fn watch(&self, socket: OwnedFd, reactor: &Reactor) -> io::Result<Registered> {
        Registered::new(socket, reactor)
    }

    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static> {
        Ok(move |_: &mut Context<'_>| match is_readable(&descriptor, Duration::ZERO) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        })
    }

    fn context(&self) -> TokioContext {
        unreachable!("a reactor runs no handlers");
    }
}

fn is_readable(descriptor: impl AsFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(&descriptor, PollFlags::IN)];
    poll(&mut fds, Some(&within.try_into().expect("a short time"))).expect("poll(2) takes a descriptor") > 0
}

/// A waker that counts its wake-ups.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A reactor, and the far ends of its descriptors.
struct Scene {
    reactor: Reactor,
    control: [UnixStream; 2],
    inbox: UnixStream,
    /// Kept open, as a worker does.
    _near: [UnixStream; 3],
}

impl Scene {
    fn new() -> Self {
        let [(orders, a), (signals, b), (inbox, c)] = [(); 3].map(|()| pair());
        let control = [orders.as_fd(), signals.as_fd()];
        let reactor = Reactor::new(&Polling, control, Some(inbox.as_fd())).expect("epoll(7) is there");
        Self { reactor, control: [a, b], inbox: c, _near: [orders, signals, inbox] }
    }

    fn look(&mut self) {
        self.reactor.process(&mut Context::from_waker(Waker::noop())).expect("epoll_wait(2) does not fail");
    }

    /// A registered socket without unread reports, and its peer.
    fn watch(&mut self) -> (Registered, UnixStream) {
        let (near, far) = pair();
        let watched = Registered::new(near.into(), &self.reactor).expect("a socket can be watched");
        self.look();
        assert_eq!(watched.readiness(), Readiness { writable: true, ..Readiness::default() });
        (watched, far)
    }
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("socketpair(2) makes a pair")
}

/// Waits for the socket like a connection whose application is at work.
fn wait(watched: &Registered, task: &Arc<Task>) -> Poll<()> {
    watched.poll_ready(Interest::NONE, &mut Context::from_waker(&task.clone().into()))
}

#[test]
fn each_event_is_reported_once() {
    let mut scene = Scene::new();
    scene.look();
    assert_eq!((scene.reactor.has_orders(), scene.reactor.has_arrivals()), (false, false));
    for n in 0..2 {
        scene.control[n].write_all(b"!").expect("there is room");
        scene.look();
        assert_eq!((scene.reactor.has_orders(), scene.reactor.has_arrivals()), (true, false));
    }
    scene.inbox.write_all(b"!").expect("there is room");
    scene.look();
    scene.look();
    assert_eq!((scene.reactor.has_orders(), scene.reactor.has_arrivals()), (false, true));
    assert_eq!((scene.reactor.has_orders(), scene.reactor.has_arrivals()), (false, false));
}

#[test]
fn a_close_is_reported_once_and_does_not_keep_the_loop_awake() {
    let mut scene = Scene::new();
    scene.control[0].shutdown(std::net::Shutdown::Both).expect("a socket can end");
    scene.look();
    assert!(scene.reactor.has_orders());
    assert!(!is_readable(&scene.reactor.set.epoll, Duration::ZERO));
    scene.look();
    assert!(!scene.reactor.has_orders());
}

#[test]
fn a_close_is_reported_while_no_read_is_pending() {
    let mut scene = Scene::new();
    let ((watched, peer), task) = (scene.watch(), Arc::new(Task::default()));
    assert!(wait(&watched, &task).is_pending());
    drop(peer);
    scene.look();
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    assert!(wait(&watched, &task).is_ready());
    assert!(watched.readiness().broken);
    assert_eq!(watched.readiness(), Readiness::default(), "it was reported before");
}

#[test]
fn a_peer_that_ends_only_its_side_is_still_connected() {
    let mut scene = Scene::new();
    let ((watched, peer), task) = (scene.watch(), Arc::new(Task::default()));
    assert!(wait(&watched, &task).is_pending());
    peer.shutdown(std::net::Shutdown::Write).expect("a socket can end one side");
    scene.look();
    let readiness = watched.readiness();
    assert!(readiness.read_closed && readiness.readable && !readiness.broken, "{readiness:?}");
}

#[test]
fn a_dropped_socket_that_another_process_holds_is_deregistered() {
    let mut scene = Scene::new();
    let (watched, mut peer) = scene.watch();
    let elsewhere = watched.as_fd().try_clone_to_owned().expect("a descriptor can be duplicated");
    drop(watched);
    peer.write_all(b"!").expect("there is room");
    assert!(!is_readable(&scene.reactor.set.epoll, Duration::ZERO));
    assert!(scene.reactor.set.sockets().is_empty());
    drop(elsewhere);
}

#[test]
fn the_timer_wakes_for_the_first_deadline_and_ignores_later_ones() {
    let mut scene = Scene::new();
    let (task, now) = (Context::from_waker(Waker::noop()), sys::now());
    let mut wake_by = |at| {
        scene.reactor.wake_by(at, now, &task).expect("a timer can be set");
        scene.reactor.armed
    };
    let (soon, later) = (now + Duration::from_millis(20), now + Duration::from_secs(3600));
    assert_eq!(wake_by(Time::MAX), None);
    assert_eq!(wake_by(later), Some(later));
    assert_eq!(wake_by(soon), Some(soon));
    assert_eq!(wake_by(later), Some(soon));
    assert!(is_readable(&scene.reactor.set.epoll, Duration::from_secs(10)));
    scene.look();
    assert_eq!(scene.reactor.armed, None);
    assert!(sys::now() >= soon);
}

#[test]
fn a_deadline_in_the_past_wakes_at_once() {
    let mut scene = Scene::new();
    let task = Arc::new(Task::default());
    let now = sys::now();
    scene.reactor.wake_by(now, now, &Context::from_waker(&task.clone().into())).expect("nothing is set");
    assert_eq!((task.0.load(Ordering::Relaxed), scene.reactor.armed), (1, None));
}
