//! The bench for the machine's tests: a session between a scripted peer and a test's handler, in
//! virtual time.
//!
//! The peer's events are put on a timeline beforehand. Time passes only when nothing else can
//! happen. Every wait of the session is checked: its deadline lies ahead, and another step asks for
//! the same wait.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use crate::app::{App, BlockingIo, Counters, DrainSignal, DrainWatch, Handler, Placement, Service};
use crate::config::Limits;
use crate::conn::Connection;
use crate::http1::HttpDate;
use crate::machine::{
    CloseReason, Cx, Deadline, Interest, IoSlices, Machine, Move, Step, Transport, Wants, Wire,
};
use crate::peer::{Origin, Peer};
use crate::pump::{Io, Next, Readiness, advance, drive, push};
use crate::session::{LeasedCall, Protocol, Session};
use crate::shutdown::{Drain, Finish, Reason, ShutdownPolicy};
use crate::time::Time;

/// When a bench begins. Not zero, so that a duration measured from zero shows.
pub(crate) const START: Time = Time::from_nanos(1_000_000_000_000);

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// An event of the peer, or of the worker.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Bytes(Vec<u8>),
    /// The peer ends its side.
    Eof,
    /// The connection breaks.
    Reset,
    /// The peer reads so many bytes more.
    Room(usize),
    Drain(Drain),
    /// The peer ends its side, and an edge-triggered wait reports it, whatever it waits for.
    HalfClose,
    /// The peer is gone in both directions.
    Gone,
    /// An event that an application waits for happens.
    Open(Gate),
    /// The worker is frozen until so many milliseconds from the start. Meanwhile these bytes arrive
    /// and the peer reads so many bytes more, which no wait reports before the next step.
    Freeze {
        until: u64,
        came: Vec<u8>,
        room: usize,
    },
}

/// An event that a test's application waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Mutex<(bool, Option<Waker>)>>);

impl Gate {
    pub(crate) fn open(&self) {
        let mut state = self.0.lock().expect("not poisoned");
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.0.lock().expect("not poisoned");
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(waker.clone());
        Poll::Pending
    }

    pub(crate) async fn opened(&self) {
        poll_fn(|cx| self.poll(cx.waker())).await;
    }
}

/// Counts how often it was woken, and wakes a thread that waits for it.
#[derive(Debug, Default)]
pub(crate) struct Alert {
    woken: Mutex<u32>,
    /// How often it was woken in all.
    pub(crate) all: AtomicU32,
    changed: Condvar,
}

impl Alert {
    /// How often it was woken since the last call.
    pub(crate) fn take(&self) -> u32 {
        std::mem::take(&mut *self.woken.lock().expect("not poisoned"))
    }

    /// Waits until it is woken, for at most ten seconds of real time.
    pub(crate) fn wait(&self) {
        let woken = self.woken.lock().expect("not poisoned");
        let limit = Duration::from_secs(10);
        let waited = self.changed.wait_timeout_while(woken, limit, |woken| *woken == 0);
        let result = waited.expect("not poisoned").1;
        assert!(!result.timed_out(), "the machine was not woken");
    }
}

impl Wake for Alert {
    fn wake(self: Arc<Self>) {
        self.all.fetch_add(1, Ordering::Relaxed);
        *self.woken.lock().expect("not poisoned") += 1;
        self.changed.notify_all();
    }
}

/// A transport made of two queues. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipe(pub(crate) Rc<RefCell<Ends>>);

#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) incoming: VecDeque<u8>,
    pub(crate) eof: bool,
    pub(crate) failure: Option<io::ErrorKind>,
    pub(crate) outgoing: Vec<u8>,
    /// How many bytes were read.
    pub(crate) taken: u64,
    /// How many bytes may still be written before a write would block.
    pub(crate) room: usize,
    /// How many bytes one call moves at most.
    pub(crate) read_most: usize,
    pub(crate) write_most: usize,
    pub(crate) interruptions: u32,
    pub(crate) half_closed: bool,
    pub(crate) calls: u32,
    /// A runtime watches the transport and has not reported it yet, so nothing is tried before a
    /// look.
    pub(crate) untold: bool,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            incoming: VecDeque::new(),
            eof: false,
            failure: None,
            outgoing: Vec::new(),
            taken: 0,
            room: usize::MAX,
            read_most: usize::MAX,
            write_most: usize::MAX,
            interruptions: 0,
            half_closed: false,
            calls: 0,
            untold: false,
        }
    }
}

impl Ends {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.interruptions > 0 {
            self.interruptions -= 1;
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.failure.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl Transport for Pipe {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        ends.call()?;
        assert!(!buffer.is_empty(), "a read into an empty buffer looks like an end");
        if ends.untold {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = buffer.len().min(ends.incoming.len()).min(ends.read_most);
        for (place, byte) in buffer.iter_mut().zip(ends.incoming.drain(..n)) {
            *place = byte;
        }
        ends.taken += n as u64;
        if n == 0 && !ends.eof { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn look(&mut self) {
        self.0.borrow_mut().untold = false;
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        ends.call()?;
        assert!(!ends.half_closed, "a write after the end of the sending side");
        let most = ends.room.min(ends.write_most);
        let before = ends.outgoing.len();
        for slice in slices {
            let n = slice.len().min(most - (ends.outgoing.len() - before));
            ends.outgoing.extend_from_slice(&slice[..n]);
        }
        let n = ends.outgoing.len() - before;
        if ends.room != usize::MAX {
            ends.room -= n;
        }
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn close_write(&mut self) -> io::Result<()> {
        let mut ends = self.0.borrow_mut();
        assert!(!ends.half_closed, "the sending side ends once");
        ends.half_closed = true;
        Ok(())
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }
}

impl Pipe {
    /// What a level-triggered wait for `interest` would report.
    pub(crate) fn readiness(&self, interest: Interest) -> Readiness {
        let ends = self.0.borrow();
        let broken = ends.failure.is_some();
        Readiness {
            readable: interest.read && (broken || ends.eof || !ends.incoming.is_empty()),
            writable: interest.write && (broken || ends.room > 0),
            read_closed: false,
            broken: false,
        }
    }
}

/// The drain as handlers see it, set by the bench.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    drain: Mutex<Option<Drain>>,
    /// The time, in nanoseconds.
    now: AtomicU64,
    waiting: Mutex<BTreeMap<usize, Waker>>,
}

impl Shown {
    pub(crate) fn begin(&self, drain: Drain) {
        *self.drain.lock().expect("not poisoned") = Some(drain);
        self.waiting.lock().expect("not poisoned").values().for_each(Waker::wake_by_ref);
    }

    /// How many futures wait for the drain.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().expect("not poisoned").len()
    }
}

impl DrainWatch for Shown {
    fn drain(&self) -> Option<Drain> {
        *self.drain.lock().expect("not poisoned")
    }

    fn wait(&self, _: Duration) -> bool {
        self.drain().is_some()
    }

    fn register(&self, waker: &Waker, place: Option<usize>) -> usize {
        let mut waiting = self.waiting.lock().expect("not poisoned");
        let place = place.unwrap_or_else(|| waiting.last_key_value().map_or(0, |(last, _)| last + 1));
        waiting.insert(place, waker.clone());
        place
    }

    fn deregister(&self, place: usize) {
        self.waiting.lock().expect("not poisoned").remove(&place);
    }

    fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::Relaxed))
    }
}

/// The state that a step may see, and the remaining events.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) limits: Limits,
    pub(crate) drain: Option<Drain>,
    pub(crate) policy: Box<dyn ShutdownPolicy>,
    /// Reads the time within a step. None: the time stands still.
    pub(crate) clock: Option<fn() -> Time>,
    date: HttpDate,
    pipe: Pipe,
    timeline: BTreeMap<(Time, usize), Event>,
    pub(crate) shown: Arc<Shown>,
    /// Woken by futures.
    pub(crate) alert: Arc<Alert>,
    waker: Waker,
}

impl World {
    pub(crate) fn cx(&self) -> Cx<'_> {
        self.shown.now.store(self.now.as_nanos(), Ordering::Relaxed);
        let cx = Cx::new(self.now, &self.date, &self.waker, &self.limits, &*self.policy);
        let cx = cx.draining(self.drain.as_ref());
        self.clock.map_or(cx, |clock| cx.reading(clock))
    }

    /// Lets time pass until `interest` can be served, `deadline` passes or the worker begins to
    /// drain. `None` if none of these happens before `end`.
    fn wait(&mut self, interest: Interest, deadline: Option<Deadline>, end: Time) -> Option<Readiness> {
        loop {
            let readiness = self.pipe.readiness(interest);
            if readiness.readable || readiness.writable || self.alert.take() > 0 {
                return Some(readiness);
            }
            let event = self.timeline.first_key_value().map(|((at, _), _)| *at);
            let deadline = deadline.map(|deadline| deadline.at);
            let next = [event, deadline].into_iter().flatten().min().filter(|at| *at <= end)?;
            self.now = self.now.max(next);
            // The deadline comes before the next event.
            if Some(next) != event {
                return Some(Readiness::default());
            }
            let (_, event) = self.timeline.pop_first().expect("it is the first");
            let mut ends = self.pipe.0.borrow_mut();
            match event {
                Event::Bytes(bytes) => ends.incoming.extend(bytes),
                Event::Eof => ends.eof = true,
                Event::Reset => ends.failure = Some(io::ErrorKind::ConnectionReset),
                Event::Room(more) => ends.room += more,
                Event::HalfClose => {
                    ends.eof = true;
                    return Some(Readiness { readable: true, read_closed: true, ..Readiness::default() });
                }
                Event::Gone => {
                    ends.failure = Some(io::ErrorKind::BrokenPipe);
                    return Some(Readiness {
                        readable: true,
                        writable: true,
                        read_closed: true,
                        broken: true,
                    });
                }
                Event::Open(gate) => gate.open(),
                Event::Freeze { until, came, room } => {
                    ends.incoming.extend(came);
                    ends.room = ends.room.saturating_add(room);
                    self.now = self.now.max(START + ms(until));
                    return Some(Readiness::default());
                }
                Event::Drain(drain) => {
                    self.drain = Some(drain);
                    self.shown.begin(drain);
                    return Some(Readiness::default());
                }
            }
        }
    }
}

/// The I/O of a blocking handler on the bench, which waits by letting time pass.
struct BenchIo<'a> {
    world: &'a mut World,
    io: &'a mut Io<Pipe>,
    peak_unsent: &'a mut usize,
}

impl BlockingIo for BenchIo<'_> {
    fn cx(&mut self) -> Cx<'_> {
        self.world.cx()
    }

    fn advance(&mut self, connection: &mut Connection) -> io::Result<()> {
        *self.peak_unsent = connection.unsent().max(*self.peak_unsent);
        if let Some(interest) = advance(connection, self.io, &self.world.cx())? {
            let deadline = connection.deadline(&self.world.cx());
            match self.world.wait(interest, deadline, Time::MAX) {
                Some(readiness) => self.io.ready(readiness),
                None => return Err(io::Error::other("the handler would wait for ever")),
            }
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

/// The outcome of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Transcript {
    pub(crate) out: String,
    pub(crate) log: Vec<String>,
    pub(crate) reason: Option<CloseReason>,
}

pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// A session, its transport and its world.
pub(crate) struct Bench {
    pub(crate) session: Option<Session>,
    pub(crate) io: Io<Pipe>,
    pub(crate) pipe: Pipe,
    pub(crate) world: World,
    pub(crate) service: Arc<Service>,
    pub(crate) log: Log,
    pub(crate) reason: Option<CloseReason>,
    /// Whether the session asks for a hand-off.
    pub(crate) leaving: bool,
    /// The most bytes that were queued and unsent at any time.
    pub(crate) peak_unsent: usize,
    /// How often the session yielded to others.
    pub(crate) yields: u32,
    /// How many handlers were run on a thread.
    pub(crate) turns: u32,
    /// Dropped last, when the session is gone.
    pub(crate) _audit: Audit,
}

impl Bench {
    /// A fresh connection whose requests `handler` answers.
    pub(crate) fn new(handler: impl Handler) -> Self {
        Self::resuming(handler, |now| Connection::new(Origin::new(0, Peer::Unix, 7), now))
    }

    /// A fresh connection whose requests `app` answers.
    pub(crate) fn of(app: App) -> Self {
        Self::serving(app, |now| Connection::new(Origin::new(0, Peer::Unix, 7), now))
    }

    pub(crate) fn resuming(handler: impl Handler, connection: impl FnOnce(Time) -> Connection) -> Self {
        Self::serving(App::blocking(handler), connection)
    }

    fn serving(app: App, connection: impl FnOnce(Time) -> Connection) -> Self {
        let alert = Arc::new(Alert::default());
        let (pipe, shown) = (Pipe::default(), Arc::new(Shown::default()));
        let drain = DrainSignal::new(shown.clone());
        let service = Arc::new(Service::new(app, drain, Arc::new(Counters::default())));
        Self {
            session: Some(Session::new(connection(START), service.clone())),
            io: Io::new(pipe.clone()),
            pipe: pipe.clone(),
            world: World {
                now: START,
                // Interim responses are off by default, which has its own test.
                limits: Limits { interim_responses: true, ..Limits::default() },
                drain: None,
                policy: Box::new(Finish),
                clock: None,
                date: HttpDate::from_unix(784_111_777),
                pipe,
                timeline: BTreeMap::new(),
                shown,
                waker: Waker::from(alert.clone()),
                alert,
            },
            _audit: Audit(service.counters.clone()),
            service,
            log: Log::default(),
            reason: None,
            leaving: false,
            peak_unsent: 0,
            yields: 0,
            turns: 0,
        }
    }

    /// Runs all exchanges off the loop, futures included. The bench runs them itself.
    pub(crate) fn placed(self) -> Self {
        let service = self.service.placed(Placement::OnThread);
        let session = Session::new(Connection::new(Origin::new(0, Peer::Unix, 7), START), service.clone());
        Self { service, session: Some(session), ..self }
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.world.limits);
        self
    }

    /// The steps can read `clock`.
    pub(crate) fn reading(mut self, clock: fn() -> Time) -> Self {
        self.world.clock = Some(clock);
        self
    }

    /// The same connection with a changed service.
    pub(crate) fn serving_as(self, change: impl FnOnce(Service) -> Service) -> Self {
        let service = Arc::new(change((*self.service).clone()));
        let session = Session::new(Connection::new(Origin::new(0, Peer::Unix, 7), START), service.clone());
        Self { service, session: Some(session), ..self }
    }

    pub(crate) fn policy(mut self, policy: impl ShutdownPolicy) -> Self {
        self.world.policy = Box::new(policy);
        self
    }

    /// Puts `event` on the timeline, `at` milliseconds from the start.
    pub(crate) fn at(mut self, at: u64, event: Event) -> Self {
        self.schedule(START + ms(at), event);
        self
    }

    pub(crate) fn bytes(self, at: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.at(at, Event::Bytes(bytes.as_ref().to_vec()))
    }

    /// The worker is frozen from `at` until `until`, and `came` arrives meanwhile.
    pub(crate) fn frozen(self, at: u64, until: u64, came: impl AsRef<[u8]>) -> Self {
        self.at(at, Event::Freeze { until, came: came.as_ref().to_vec(), room: 0 })
    }

    /// The worker drains from `at` to `deadline`.
    pub(crate) fn drain(self, at: u64, deadline: u64) -> Self {
        let drain = Drain::new(Reason::Stop, START + ms(at), START + ms(deadline));
        self.at(at, Event::Drain(drain))
    }

    pub(crate) fn schedule(&mut self, at: Time, event: Event) {
        let number = self.world.timeline.len();
        let place = (0..).map(|more| (at, number + more)).find(|key| !self.world.timeline.contains_key(key));
        self.world.timeline.insert(place.expect("there is a free one"), event);
    }

    /// Runs all events within `at` milliseconds of the start. A handler that has begun by then runs
    /// to its end.
    pub(crate) fn until(&mut self, at: u64) -> &mut Self {
        let end = START + ms(at);
        self.go(end);
        self.world.now = self.world.now.max(end);
        self.go(end);
        self
    }

    /// Runs all events.
    pub(crate) fn run(&mut self) -> Transcript {
        self.go(Time::MAX);
        self.transcript()
    }

    pub(crate) fn transcript(&self) -> Transcript {
        Transcript {
            out: String::from_utf8_lossy(&self.pipe.0.borrow().outgoing).into_owned(),
            log: self.log.lock().expect("not poisoned").clone(),
            reason: self.reason,
        }
    }

    pub(crate) fn out(&self) -> String {
        self.transcript().out
    }

    pub(crate) fn connection(&self) -> &Connection {
        let session = self.session.as_ref().expect("the session is there");
        session.connection().expect("it carries HTTP/1.1")
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.world.now.since(START).as_millis()).expect("small")
    }

    /// Runs all events until `end`, or until the session asks for a hand-off.
    pub(crate) fn go(&mut self, end: Time) {
        let Some(session) = &mut self.session else { return };
        for _ in 0..1_000_000 {
            if self.reason.is_some() || self.leaving {
                return;
            }
            let outcome = drive(session, &mut self.io, &self.world.cx());
            let unsent = session.connection().map_or(0, Connection::unsent);
            self.peak_unsent = unsent.max(self.peak_unsent);
            match outcome {
                Next::Wait { interest, deadline } => {
                    check_wait(session, &self.world, interest, deadline);
                    match self.world.wait(interest, deadline, end) {
                        Some(readiness) => self.io.ready(readiness),
                        None => return,
                    }
                }
                Next::Again => self.yields += 1,
                Next::Move(Move::Lease) => {
                    self.turns += 1;
                    if let Some(LeasedCall::Blocking(call)) = session.lease(&self.world.cx()) {
                        let mut io = BenchIo {
                            world: &mut self.world,
                            io: &mut self.io,
                            peak_unsent: &mut self.peak_unsent,
                        };
                        let mut held = session.hold(&mut io).expect("it carries HTTP/1.1");
                        let now = call.run(&mut held);
                        session.settle(call, now.expect("its lease has no expiry"));
                    }
                }
                Next::Move(Move::Handoff) => self.leaving = true,
                Next::Spawn => panic!("HTTP/1.1 has no calls without their connection"),
                Next::Close(reason) => {
                    self.reason = Some(reason);
                    if reason != CloseReason::TransportFailed {
                        assert_eq!(session.step(&self.world.cx()), Step::Close(reason), "an end is final");
                    }
                }
            }
        }
        panic!("the session never comes to rest: {session:?}");
    }
}

/// Checks at the end of every test that each request was answered or aborted, once.
#[derive(Debug)]
pub(crate) struct Audit(Arc<Counters>);

impl Drop for Audit {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let tally = self.0.tally();
            assert_eq!(tally.requests, tally.answered() + tally.aborted, "{tally:?}");
            assert!(tally.cut <= tally.aborted, "{tally:?}");
        }
    }
}

/// Checks a wait: bytes or time can end it, its deadline lies ahead, nothing was left undone, and
/// the connection offers its queued bytes.
fn check_wait(session: &mut Session, world: &World, interest: Interest, deadline: Option<Deadline>) {
    let cx = world.cx();
    assert!(deadline.is_none_or(|deadline| deadline.at > cx.now), "{deadline:?} has passed at {:?}", cx.now);
    assert_eq!(session.step(&cx), Step::Wait { interest, deadline }, "a second step changes nothing");
    let is_unsent = session.connection().is_some_and(|connection| connection.unsent() > 0);
    assert!(interest.write == is_unsent || session.connection().is_none());
    let mut out = IoSlices::new();
    session.transmit(&mut out);
    assert_eq!(out.bytes() > 0, interest.write, "queued bytes ask for a write");
    if interest.read {
        assert!(!session.read_buf().is_empty(), "a read has room");
    }
    session.rest();
}

/// `out` without 100s: whether one is sent depends on the bytes that had arrived when the
/// application read the body.
pub(crate) fn without_interim(out: &str) -> String {
    out.replace("HTTP/1.1 100 Continue\r\n\r\n", "")
}
