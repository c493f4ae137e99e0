//! What the lookout tells, over real descriptors, and under a runtime that polls.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::worker::TokioContext;

/// Says what poll(2) says, and wakes nobody.
struct Polling;

impl Runtime for Polling {
    type Stream = Watched;

    fn spawn(&self, _: impl Future<Output = ()> + 'static) {
        unreachable!("a lookout spawns nothing");
    }

    fn watch(&self, socket: OwnedFd, lookout: &Lookout) -> io::Result<Watched> {
        Watched::new(socket, lookout)
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
        unreachable!("a lookout runs no handlers");
    }
}

fn is_readable(descriptor: impl AsFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(&descriptor, PollFlags::IN)];
    poll(&mut fds, Some(&within.try_into().expect("a short time"))).expect("poll(2) takes a descriptor") > 0
}

/// A task that counts how often it is woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A lookout, and the far ends of what it watches.
struct Scene {
    lookout: Lookout,
    control: [UnixStream; 2],
    inbox: UnixStream,
    /// Kept open, as a worker does.
    _near: [UnixStream; 3],
}

impl Scene {
    fn new() -> Self {
        let [(orders, a), (signals, b), (inbox, c)] = [(); 3].map(|()| pair());
        let control = [orders.as_fd(), signals.as_fd()];
        let lookout = Lookout::new(&Polling, control, Some(inbox.as_fd())).expect("epoll(7) is there");
        Self { lookout, control: [a, b], inbox: c, _near: [orders, signals, inbox] }
    }

    fn look(&mut self) {
        self.lookout.look(&mut Context::from_waker(Waker::noop())).expect("epoll_wait(2) does not fail");
    }

    /// A watched socket of which nothing is news, and its peer.
    fn watch(&mut self) -> (Watched, UnixStream) {
        let (near, far) = pair();
        let watched = Watched::new(near.into(), &self.lookout).expect("a socket can be watched");
        self.look();
        assert_eq!(watched.readiness(), Readiness { writable: true, ..Readiness::default() });
        (watched, far)
    }
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("socketpair(2) makes a pair")
}

/// Waits for the socket as a connection does whose application is at work.
fn wait(watched: &Watched, task: &Arc<Task>) -> Poll<()> {
    watched.poll_ready(Interest::NONE, &mut Context::from_waker(&task.clone().into()))
}

#[test]
fn what_happens_is_told_once() {
    let mut scene = Scene::new();
    scene.look();
    assert_eq!((scene.lookout.told(), scene.lookout.knocked()), (false, false));
    for n in 0..2 {
        scene.control[n].write_all(b"!").expect("there is room");
        scene.look();
        assert_eq!((scene.lookout.told(), scene.lookout.knocked()), (true, false));
    }
    scene.inbox.write_all(b"!").expect("there is room");
    scene.look();
    scene.look();
    assert_eq!((scene.lookout.told(), scene.lookout.knocked()), (false, true));
    assert_eq!((scene.lookout.told(), scene.lookout.knocked()), (false, false));
}

#[test]
fn an_end_is_told_once_and_keeps_nobody_awake() {
    let mut scene = Scene::new();
    scene.control[0].shutdown(std::net::Shutdown::Both).expect("a socket can end");
    scene.look();
    assert!(scene.lookout.told());
    assert!(!is_readable(&scene.lookout.sockets.epoll, Duration::ZERO));
    scene.look();
    assert!(!scene.lookout.told());
}

#[test]
fn a_peer_that_is_gone_is_reported_while_nobody_reads() {
    let mut scene = Scene::new();
    let ((watched, peer), task) = (scene.watch(), Arc::new(Task::default()));
    assert!(wait(&watched, &task).is_pending());
    drop(peer);
    scene.look();
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    assert!(wait(&watched, &task).is_ready());
    assert!(watched.readiness().broken);
    assert_eq!(watched.readiness(), Readiness::default(), "it is no news any more");
}

#[test]
fn a_peer_that_only_ends_its_side_is_not_gone() {
    let mut scene = Scene::new();
    let ((watched, peer), task) = (scene.watch(), Arc::new(Task::default()));
    assert!(wait(&watched, &task).is_pending());
    peer.shutdown(std::net::Shutdown::Write).expect("a socket can end one side");
    scene.look();
    let readiness = watched.readiness();
    assert!(readiness.read_closed && readiness.readable && !readiness.broken, "{readiness:?}");
}

#[test]
fn a_socket_that_was_dropped_is_forgotten_though_another_process_holds_it() {
    let mut scene = Scene::new();
    let (watched, mut peer) = scene.watch();
    let elsewhere = watched.as_fd().try_clone_to_owned().expect("a descriptor can be duplicated");
    drop(watched);
    peer.write_all(b"!").expect("there is room");
    assert!(!is_readable(&scene.lookout.sockets.epoll, Duration::ZERO));
    assert!(scene.lookout.sockets.known().is_empty());
    drop(elsewhere);
}

#[test]
fn the_timer_wakes_for_whatever_comes_first_and_is_left_alone_for_what_comes_later() {
    let mut scene = Scene::new();
    let (task, now) = (Context::from_waker(Waker::noop()), sys::now());
    let mut wake_by = |at| {
        scene.lookout.wake_by(at, now, &task).expect("a timer can be set");
        scene.lookout.armed
    };
    let (soon, later) = (now + Duration::from_millis(20), now + Duration::from_secs(3600));
    assert_eq!(wake_by(Time::MAX), None);
    assert_eq!(wake_by(later), Some(later));
    assert_eq!(wake_by(soon), Some(soon));
    assert_eq!(wake_by(later), Some(soon));
    assert!(is_readable(&scene.lookout.sockets.epoll, Duration::from_secs(10)));
    scene.look();
    assert_eq!(scene.lookout.armed, None);
    assert!(sys::now() >= soon);
}

#[test]
fn what_is_due_already_wakes_at_once() {
    let mut scene = Scene::new();
    let task = Arc::new(Task::default());
    let now = sys::now();
    scene.lookout.wake_by(now, now, &Context::from_waker(&task.clone().into())).expect("nothing is set");
    assert_eq!((task.0.load(Ordering::Relaxed), scene.lookout.armed), (1, None));
}
