use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use super::*;
use crate::app::{App, DrainSignal, Handler, Responder, Service};
use crate::app::{AppError, BodyReader};
use crate::conn::Connection;
use crate::http1::Head;
use crate::peer::{Origin, Peer};
use crate::session::Session;
use crate::worker::Watch;
use crate::worker::handoff::{queue, receive};

const START: Time = Time::from_nanos(1_000_000_000);

struct Nothing;

impl Handler for Nothing {
    fn call(&self, _: &Head<'_>, _: BodyReader<'_>, _: Responder<'_>) -> Result<(), AppError> {
        Ok(())
    }
}

/// A queue with its receiving end, its sender, and the parts of a session.
struct TestSender {
    departures: Departures,
    queue: OwnedFd,
    service: Arc<Service>,
    socket: UnixStream,
    _peer: UnixStream,
}

impl TestSender {
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
        self.departures.send(session, self.socket.as_fd(), Entry::NONE, now)
    }

    /// Sends sessions until the queue is full.
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
    let mut test = TestSender::new();
    let mut session = test.session(7);
    assert!(test.send(&mut session, START));
    assert!(session.connection().unwrap().is_ending());
    let adopted = receive(test.queue.as_fd()).unwrap().unwrap();
    assert_eq!((adopted.record.draw, adopted.record.handed), (7, Some(START)));
}

#[test]
fn d19_a_full_queue_is_tried_again_when_it_has_room() {
    let mut test = TestSender::new();
    let (sent, mut waits) = test.fill();
    assert_eq!(test.held(Held::Full), 1);
    let mut other = test.session(sent + 1);
    assert!(!test.send(&mut other, START), "no other session is tried meanwhile");
    assert_eq!(test.held(Held::Full), 1);
    while receive(test.queue.as_fd()).unwrap().is_some() {}
    assert!(!test.send(&mut waits, START + PAUSE / 2));
    for session in [&mut waits, &mut other] {
        assert!(test.send(session, START + PAUSE));
    }
    assert_eq!(receive(test.queue.as_fd()).unwrap().unwrap().record.draw, sent);
    assert_eq!((test.held(Held::Late), test.held(Held::Failed)), (0, 0));
}

#[test]
fn d19_a_connection_stays_if_the_queue_is_full_for_too_long() {
    let mut test = TestSender::new();
    let (_, mut waits) = test.fill();
    let mut now = START;
    while waits.hand_off(now).is_some() {
        now = now + PAUSE;
        assert!(!test.send(&mut waits, now) && now <= START + PATIENCE);
    }
    assert_eq!((now, test.held(Held::Late)), (START + PATIENCE, 1));
    let mut another = test.session(1);
    assert!(
        !test.send(&mut another, now) && another.hand_off(now).is_none(),
        "no other session waits either"
    );
}

#[test]
fn d19_connections_wait_while_the_queue_takes_some() {
    let mut test = TestSender::new();
    let (_, mut waits) = test.fill();
    for n in 1..4 {
        let now = START + n * (PATIENCE / 2);
        receive(test.queue.as_fd()).unwrap();
        let mut next = test.session(n);
        assert!(test.send(&mut next, now), "there is room for one");
        assert!(!test.send(&mut waits, now) && waits.hand_off(now).is_some());
    }
    assert_eq!(test.held(Held::Late), 0);
}

#[test]
fn d19_a_connection_that_cannot_be_sent_stays() {
    let mut test = TestSender::new();
    test.queue = test.socket.try_clone().unwrap().into();
    let mut session = test.session(1);
    assert!(!test.send(&mut session, START), "no receiver is left");
    assert!(session.hand_off(START).is_none() && test.held(Held::Failed) == 1);
    test.departures.outbox = None;
    let mut session = test.session(2);
    assert!(!test.send(&mut session, START) && session.hand_off(START).is_none(), "there is no queue");
}
