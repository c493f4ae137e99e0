//! A connection with a peer, a clock and an application. All of them act as the input says: see
//! [`script`].
//!
//! Whatever they do, the connection comes to rest at each wait, ends once and for one reason, holds
//! a bounded number of bytes, and sends and passes on what the received bytes ask for: see
//! [`verdict`].

use std::sync::Arc;

use remuda_core::app::{
    App, BlockingIo, BodyReader, Counters, DrainSignal, Placement, Responder, Service, Short,
};
use remuda_core::config::{HIGH_WATER, READ_BUFFER_MAX};
use remuda_core::conn::Connection;
use remuda_core::handoff::ConnectionRecord;
use remuda_core::http1::Head;
use remuda_core::machine::{CloseReason, Cx, Deadline, Interest, IoSlices, Machine, Move, Step};
use remuda_core::peer::{Origin, Peer};
use remuda_core::pump::{Io, Next, advance, drive, push};
use remuda_core::session::{LeasedCall, Protocol, Session};

use self::app::Application;
use self::direct::Direct;
pub use self::script::Script;
use self::script::{Kind, Settings};
use self::world::{Pipe, START, World};

mod app;
mod direct;
mod script;
mod verdict;
mod world;

/// Plays a script.
pub fn check(script: Script) {
    let Script { settings, commands, events } = script;
    let app = Arc::new(Application::new(commands));
    let world = World::new(&settings, events, app.clone());
    // A peer that may send a PROXY header.
    let peer = Peer::Inet(([127, 0, 0, 1], 4711).into());
    let connection = Connection::new(Origin::new(0, peer, 0x5555_5555), START);
    let service = service(&settings, &app, &world);
    let machine = match settings.kind {
        Kind::Direct => Player::Direct(Box::new(Direct::new(connection, app.clone()))),
        _ => Player::Session(Box::new(Session::new(connection, service.clone()))),
    };
    let io = Io::new(world.pipe.clone());
    let mut play = Play { machine, io, world, service, settings };
    let reason = play.run();
    verdict::check(&play.world, &app.calls(), reason);
}

/// The record after a hand-off to another process.
fn moved(record: &ConnectionRecord) -> ConnectionRecord {
    assert!(record.unread.len() <= READ_BUFFER_MAX);
    let bytes = record.encode();
    assert!(bytes.len() <= ConnectionRecord::MAX);
    let again = ConnectionRecord::decode(&bytes).expect("an encoded record can be decoded");
    assert_eq!(&again, record);
    again
}

fn service(settings: &Settings, app: &Arc<Application>, world: &World) -> Arc<Service> {
    let handler = {
        let app = app.clone();
        move |head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>| app::call(&app, head, body, out)
    };
    let app = match settings.kind {
        Kind::Blocking => App::blocking(handler),
        Kind::Short => App::blocking(Short(handler)),
        Kind::Direct | Kind::Future => App::future(app::Future(app.clone())),
    };
    let drain = DrainSignal::new(world.shown.clone());
    let service = Arc::new(Service::new(app, drain, Arc::new(Counters::default())));
    if settings.in_turns { service.placed(Placement::OnThread) } else { service }
}

struct Play {
    machine: Player,
    io: Io<Pipe>,
    world: World,
    service: Arc<Service>,
    settings: Settings,
}

enum Player {
    Direct(Box<Direct>),
    Session(Box<Session>),
}

impl Play {
    /// Drives the connection to its end, and returns the reason.
    fn run(&mut self) -> CloseReason {
        let (mut before, mut idle) = ((0, 0), 0);
        loop {
            let outcome = self.drive();
            self.is_bounded();
            let progress = (self.world.happened, self.world.pipe.0.borrow().moved);
            idle = if progress == before { idle + 1 } else { 0 };
            before = progress;
            assert!(idle < 1000, "the connection never comes to rest: {outcome:?}");
            match outcome {
                Next::Wait { interest, deadline } => {
                    self.is_at_rest(interest, deadline);
                    let readiness = self.world.wait(interest, deadline);
                    self.io.ready(readiness);
                }
                Next::Again => {}
                Next::Move(Move::Lease) => self.take_turn(),
                Next::Move(Move::Handoff) => self.hand_off(),
                Next::Spawn => unreachable!("HTTP/1.1 spawns no calls"),
                Next::Close(reason) => {
                    self.is_over(reason);
                    return reason;
                }
            }
        }
    }

    fn drive(&mut self) -> Next {
        let cx = self.world.cx();
        match &mut self.machine {
            Player::Direct(direct) => drive(&mut **direct, &mut self.io, &cx),
            Player::Session(session) => drive(&mut **session, &mut self.io, &cx),
        }
    }

    fn take_turn(&mut self) {
        let Player::Session(session) = &mut self.machine else {
            unreachable!("a direct machine has no handlers")
        };
        if let Some(LeasedCall::Blocking(call)) = session.lease(&self.world.cx()) {
            let io = &mut PollBlocking { world: &mut self.world, io: &mut self.io };
            let now =
                call.run(&mut session.hold(io).expect("it carries HTTP/1.1")).expect("its lease is held");
            session.settle(call, now);
        }
    }

    fn hand_off(&mut self) {
        let now = self.world.now;
        let Player::Session(session) = &mut self.machine else {
            unreachable!("a direct machine asks for no hand-off")
        };
        if self.settings.stays {
            session.refuse_handoff();
        } else if self.settings.hand_off_fails {
            self.settings.hand_off_fails = false;
            session.delay_handoff(now + std::time::Duration::from_millis(20));
        } else {
            let record = session.hand_off(now).expect("the session asked for a hand-off");
            session.end(CloseReason::HandedOff);
            self.world.change_worker();
            let connection = Connection::resume(moved(&record), now);
            **session = Session::new(connection, self.service.clone());
            self.io = Io::new(self.world.pipe.clone());
        }
    }

    fn connection(&self) -> &Connection {
        match &self.machine {
            Player::Direct(direct) => &direct.connection,
            Player::Session(session) => session.connection().expect("it carries HTTP/1.1"),
        }
    }

    /// Asserts that the connection holds a bounded number of bytes.
    fn is_bounded(&self) {
        let unsent = self.connection().unsent();
        assert!(unsent <= HIGH_WATER + PIECE_MAX + 8192, "{unsent} bytes are queued");
    }

    /// Asserts that each wait ends by bytes or by a future deadline, and that nothing was left
    /// undone.
    fn is_at_rest(&mut self, interest: Interest, deadline: Option<Deadline>) {
        let now = self.world.now;
        assert!(deadline.is_none_or(|deadline| deadline.at > now), "{deadline:?} has passed at {now:?}");
        assert_eq!(interest.write, self.connection().unsent() > 0);
        let Player::Session(session) = &mut self.machine else { return };
        let step = session.step(&self.world.cx());
        assert_eq!(step, Step::Wait { interest, deadline }, "a second step does something");
        let mut out = IoSlices::new();
        remuda_core::machine::Wire::transmit(&**session, &mut out);
        assert_eq!(out.bytes() > 0, interest.write, "queued bytes ask for a write");
    }

    /// Asserts that an end is final.
    fn is_over(&mut self, reason: CloseReason) {
        if reason == CloseReason::TransportFailed {
            return;
        }
        let spoke = !matches!(reason, CloseReason::IdleTimeout | CloseReason::DrainIdle);
        let unread = self.world.pipe.0.borrow().incoming.len();
        assert!(spoke || unread == 0, "{reason:?}, but {unread} bytes arrived in time");
        let cx = self.world.cx();
        let step = match &mut self.machine {
            Player::Direct(direct) => direct.step(&cx),
            Player::Session(session) => session.step(&cx),
        };
        assert_eq!(step, Step::Close(reason));
        assert!(self.connection().deadline(&cx).is_none(), "an ended connection has no deadline");
        assert_eq!(self.connection().interest(), Interest::NONE);
    }
}

/// The most bytes that a script writes at once.
const PIECE_MAX: usize = 155 * 155 * 4;

/// The I/O of a blocking handler.
struct PollBlocking<'a> {
    world: &'a mut World,
    io: &'a mut Io<Pipe>,
}

impl BlockingIo for PollBlocking<'_> {
    fn cx(&mut self) -> Cx<'_> {
        self.world.cx()
    }

    fn advance(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        if let Some(interest) = advance(connection, self.io, &self.world.cx())? {
            let deadline = connection.deadline(&self.world.cx());
            let readiness = self.world.wait(interest, deadline);
            self.io.ready(readiness);
        }
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn push(&mut self, connection: &mut Connection) {
        push(connection, self.io, self.world.now);
    }
}
