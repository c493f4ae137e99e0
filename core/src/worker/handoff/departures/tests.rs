use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use super::*;
use crate::app::{App, DrainSignal, Handler, Responder, Service};
use crate::app::{AppError, BodyReader};
use crate::conn::Connection;
use crate::handoff::{Origin, Peer};
use crate::http1::Head;
use crate::worker::Watch;
use crate::worker::handoff::{queue, receive};

const START: Time = Time::from_nanos(1_000_000_000);

struct Nothing;

impl Handler for Nothing {
    fn call(&self, _: &Head<'_>, _: BodyReader<'_>, _: Responder<'_>) -> Result<(), AppError> {
        Ok(())
    }
}

/// A queue with its receiving end, the way there, and what sessions are made of.
struct Stage {
    departures: Departures,
    queue: OwnedFd,
    service: Arc<Service>,
    socket: UnixStream,
    _peer: UnixStream,
}

impl Stage {
    fn new() -> Self {
        let (outbox, queue) = queue().unwrap();
        let drain = DrainSignal::new(Arc::new(Watch::new().unwrap()));
        let service = Arc::new(Service::new(App::blocking(Nothing), drain, Arc::default()));
        let (socket, _peer) = UnixStream::pair().unwrap();
        let departures = Departures::new(Some(outbox), service.counters.clone());
        Self { departures, queue, service, socket, _peer }
    }

    fn session(&self, draw: u32) -> Session {
        Session::new(Connection::new(Origin::new(0, Peer::Unix, draw), START), self.service.clone())
    }

    fn send(&mut self, session: &mut Session, now: Time) -> bool {
        self.departures.send(session, self.socket.as_fd(), now)
    }

    /// Sends sessions until one is told to wait.
    fn fill(&mut self) -> (u32, Session) {
        (0..)
            .find_map(|n| {
                let mut session = self.session(n);
                (!self.send(&mut session, START)).then_some((n, session))
            })
            .unwrap()
    }

    fn held(&self, why: Held) -> u64 {
        self.service.counters.held[why as usize].get()
    }
}

#[test]
fn d19_a_session_leaves_with_its_record_and_is_over_here() {
    let mut stage = Stage::new();
    let mut session = stage.session(7);
    assert!(stage.send(&mut session, START));
    assert!(session.connection().is_ending());
    let adopted = receive(stage.queue.as_fd()).unwrap().unwrap();
    assert_eq!((adopted.record.draw, adopted.record.handed), (7, Some(START)));
}

#[test]
fn d19_a_full_queue_is_tried_again_when_it_has_room() {
    let mut stage = Stage::new();
    let (sent, mut waits) = stage.fill();
    assert_eq!(stage.held(Held::Full), 1);
    let mut other = stage.session(sent + 1);
    assert!(!stage.send(&mut other, START), "nobody else asks the kernel meanwhile");
    assert_eq!(stage.held(Held::Full), 1);
    while receive(stage.queue.as_fd()).unwrap().is_some() {}
    assert!(!stage.send(&mut waits, START + PAUSE / 2));
    for session in [&mut waits, &mut other] {
        assert!(stage.send(session, START + PAUSE));
    }
    assert_eq!(receive(stage.queue.as_fd()).unwrap().unwrap().record.draw, sent);
    assert_eq!((stage.held(Held::Late), stage.held(Held::Failed)), (0, 0));
}

#[test]
fn d19_whoever_finds_no_room_for_too_long_stays() {
    let mut stage = Stage::new();
    let (_, mut waits) = stage.fill();
    let mut now = START;
    while waits.hand_off(now).is_some() {
        now = now + PAUSE;
        assert!(!stage.send(&mut waits, now) && now <= START + PATIENCE);
    }
    assert_eq!((now, stage.held(Held::Late)), (START + PATIENCE, 1));
    let mut another = stage.session(1);
    assert!(!stage.send(&mut another, now) && another.hand_off(now).is_none(), "nor does anybody else wait");
}

#[test]
fn d19_as_long_as_the_queue_takes_some_the_others_wait() {
    let mut stage = Stage::new();
    let (_, mut waits) = stage.fill();
    for n in 1..4 {
        let now = START + n * (PATIENCE / 2);
        receive(stage.queue.as_fd()).unwrap();
        let mut next = stage.session(n);
        assert!(stage.send(&mut next, now), "there is room for one");
        assert!(!stage.send(&mut waits, now) && waits.hand_off(now).is_some());
    }
    assert_eq!(stage.held(Held::Late), 0);
}

#[test]
fn d19_what_cannot_be_sent_stays_at_once() {
    let mut stage = Stage::new();
    stage.queue = stage.socket.try_clone().unwrap().into();
    let mut session = stage.session(1);
    assert!(!stage.send(&mut session, START), "nobody is left to receive it");
    assert!(session.hand_off(START).is_none() && stage.held(Held::Failed) == 1);
    stage.departures.outbox = None;
    let mut session = stage.session(2);
    assert!(!stage.send(&mut session, START) && session.hand_off(START).is_none(), "there is no queue");
}
