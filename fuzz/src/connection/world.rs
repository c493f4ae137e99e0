//! The surroundings of the connection: the peer, the clock and the worker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use remuda_core::app::DrainWatch;
use remuda_core::config::Limits;
use remuda_core::http1::HttpDate;
use remuda_core::machine::{Cx, Deadline, Interest, Transport, Wants};
use remuda_core::proxy::ProxyProtocol;
use remuda_core::pump::Readiness;
use remuda_core::shutdown::{CloseIdle, Drain, Finish, Grace, Handoff, Reason, ShutdownPolicy, Spread};
use remuda_core::time::Time;

use super::app::Application;
use super::script::{Event, Kind, Settings};

/// A transport whose other end belongs to the world.
#[derive(Clone, Debug)]
pub(crate) struct Pipe(pub(crate) Rc<RefCell<Ends>>);

#[derive(Debug)]
pub(crate) struct Ends {
    /// Bytes that have arrived and were not read.
    pub(crate) incoming: VecDeque<u8>,
    eof: bool,
    failed: bool,
    /// All bytes written.
    pub(crate) outgoing: Vec<u8>,
    /// How many bytes may still be written before a write would block.
    room: usize,
    /// How many bytes a call moves at most.
    most: usize,
    half_closed: bool,
    calls: usize,
    /// How many bytes were moved in either direction.
    pub(crate) moved: usize,
}

impl Ends {
    /// The peer is not slow for ever, so that a run ends.
    fn most(&mut self) -> usize {
        self.calls += 1;
        if self.calls < 1000 { self.most } else { usize::MAX }
    }
}

impl Transport for Pipe {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        assert!(!buffer.is_empty(), "a read into an empty buffer looks like an end");
        if ends.failed {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = buffer.len().min(ends.incoming.len()).min(ends.most());
        for (place, byte) in buffer.iter_mut().zip(ends.incoming.drain(..n)) {
            *place = byte;
        }
        ends.moved += n;
        if n == 0 && !ends.eof { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        assert!(!ends.half_closed, "a write after the end of the sending side");
        if ends.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let most = ends.most().min(ends.room);
        let mut n = 0;
        for slice in slices {
            let part = slice.len().min(most - n);
            ends.outgoing.extend_from_slice(&slice[..part]);
            n += part;
        }
        ends.room -= n;
        ends.moved += n;
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
    fn new(room: usize) -> Self {
        Self(Rc::new(RefCell::new(Ends {
            incoming: VecDeque::new(),
            eof: false,
            failed: false,
            outgoing: Vec::new(),
            room,
            most: usize::MAX,
            half_closed: false,
            calls: 0,
            moved: 0,
        })))
    }

    /// What a level-triggered wait for `interest` reports.
    fn readiness(&self, interest: Interest) -> Readiness {
        let ends = self.0.borrow();
        Readiness {
            readable: interest.read && (ends.failed || ends.eof || !ends.incoming.is_empty()),
            writable: interest.write && (ends.failed || ends.room > 0),
            ..Readiness::default()
        }
    }
}

/// The drain as handlers see it.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<(Option<Drain>, Time)>);

impl DrainWatch for Shown {
    fn drain(&self) -> Option<Drain> {
        self.0.lock().expect("not poisoned").0
    }

    fn wait(&self, _: Duration) -> bool {
        self.drain().is_some()
    }

    fn register(&self, _: &Waker, place: Option<usize>) -> usize {
        place.unwrap_or(0)
    }

    fn deregister(&self, _: usize) {}

    fn now(&self) -> Time {
        self.0.lock().expect("not poisoned").1
    }
}

/// Remembers that it was woken.
#[derive(Debug, Default)]
struct Alert(AtomicBool);

impl Wake for Alert {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The state that a step may see, and the remaining events.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) pipe: Pipe,
    pub(crate) limits: Limits,
    policy: Box<dyn ShutdownPolicy>,
    drain: Option<Drain>,
    pub(crate) shown: Arc<Shown>,
    date: HttpDate,
    alert: Arc<Alert>,
    waker: Waker,
    events: std::vec::IntoIter<Event>,
    app: Arc<Application>,
    settings: Settings,
    /// All bytes that arrived, read or not.
    pub(crate) arrived: Vec<u8>,
    /// How many events have happened.
    pub(crate) happened: usize,
}

impl World {
    pub(crate) fn new(settings: &Settings, events: Vec<Event>, app: Arc<Application>) -> Self {
        let alert = Arc::new(Alert::default());
        Self {
            now: START,
            pipe: Pipe::new(if settings.no_room { 0 } else { usize::MAX }),
            limits: limits(settings),
            policy: match settings.policy % 6 {
                0 => Box::new(Finish),
                1 => Box::new(CloseIdle),
                2 => Box::new(Grace(Duration::from_secs(1))),
                3 => Box::new(Spread(Duration::from_secs(10))),
                4 => Box::new(Handoff::default()),
                _ => Box::new(Handoff(Arc::new(CloseIdle))),
            },
            drain: None,
            shown: Arc::new(Shown::default()),
            date: HttpDate::from_unix(784_111_777),
            waker: Waker::from(alert.clone()),
            alert,
            events: events.into_iter(),
            app,
            settings: *settings,
            arrived: Vec::new(),
            happened: 0,
        }
    }

    pub(crate) fn cx(&self) -> Cx<'_> {
        self.shown.0.lock().expect("not poisoned").1 = self.now;
        Cx::new(self.now, &self.date, &self.waker, &self.limits, &*self.policy).draining(self.drain.as_ref())
    }

    /// The connection moves to another worker, which does not drain yet.
    pub(crate) fn change_worker(&mut self) {
        self.drain = None;
        self.shown.0.lock().expect("not poisoned").0 = None;
    }

    /// Lets events happen until `interest` can be served, `deadline` passes or a wait ends
    /// otherwise.
    pub(crate) fn wait(&mut self, interest: Interest, deadline: Option<Deadline>) -> Readiness {
        loop {
            let readiness = self.pipe.readiness(interest);
            let due = deadline.is_some_and(|deadline| deadline.at <= self.now);
            if readiness.readable || readiness.writable || due || self.alert.0.swap(false, Ordering::Relaxed)
            {
                return readiness;
            }
            self.happened += 1;
            let ended = match self.events.next() {
                Some(event) => self.happen(event),
                None => self.come_to_an_end(deadline),
            };
            if let Some(readiness) = ended {
                return readiness;
            }
        }
    }

    /// What a wait reports if `event` ends it.
    fn happen(&mut self, event: Event) -> Option<Readiness> {
        let mut ends = self.pipe.0.borrow_mut();
        if let Event::Bytes(bytes) | Event::Freeze(bytes, _) = &event
            && !ends.eof
            && self.arrived.len() < BYTES_MAX
        {
            self.arrived.extend_from_slice(bytes);
            ends.incoming.extend(bytes);
        }
        match event {
            Event::Bytes(_) => {}
            Event::Freeze(_, length) => {
                self.now = self.now + length;
                return Some(Readiness::default());
            }
            Event::Eof => ends.eof = true,
            Event::Reset => ends.failed = true,
            Event::Gone => {
                ends.failed = true;
                return Some(Readiness { readable: true, writable: true, read_closed: true, broken: true });
            }
            Event::Room(more) => ends.room = ends.room.saturating_add(more),
            Event::Most(most) => ends.most = most,
            Event::Time(length) => self.now = self.now + length,
            Event::Drain { reason, grace, receiver, lameduck } => {
                let reason = Reason::from_u8(reason % 11).expect("there are eleven");
                let drain = Drain::new(reason, self.now, self.now + grace);
                let drain = if receiver { drain.with_receiver() } else { drain };
                let drain = if lameduck { drain.lameduck() } else { drain };
                match &mut self.drain {
                    Some(earlier) => earlier.merge(drain),
                    none => *none = Some(drain),
                }
                self.shown.0.lock().expect("not poisoned").0 = self.drain;
                return Some(Readiness::default());
            }
            Event::Open => self.app.open(),
            Event::Wake => return Some(Readiness::default()),
        }
        None
    }

    /// No more events: the peer reads everything and sends nothing more, and time passes if that is
    /// not enough.
    fn come_to_an_end(&mut self, deadline: Option<Deadline>) -> Option<Readiness> {
        let mut ends = self.pipe.0.borrow_mut();
        if ends.room < usize::MAX {
            ends.room = usize::MAX;
        } else if self.app.open_for_good() || (self.settings.kind == Kind::Direct && self.app.has_more()) {
            return Some(Readiness::default());
        } else if !ends.eof && (!self.settings.silent || deadline.is_none()) {
            ends.eof = true;
        } else {
            let deadline =
                deadline.unwrap_or_else(|| panic!("the connection waits for nothing: {:?}", self.app));
            self.now = self.now.max(deadline.at);
        }
        None
    }
}

/// How many bytes arrive on a connection, or are sent by an application, up to a last piece: more
/// would only be slow.
pub(crate) const BYTES_MAX: usize = 160 * 1024;

/// Not zero, so that a duration measured from zero shows.
pub(crate) const START: Time = Time::from_nanos(1_000_000_000_000);

fn limits(settings: &Settings) -> Limits {
    let mut limits = Limits::default();
    limits.interim_responses = true;
    let times = [
        &mut limits.keep_alive,
        &mut limits.header_timeout,
        &mut limits.body_timeout,
        &mut limits.write_timeout,
        &mut limits.linger,
    ];
    for (bit, time) in times.into_iter().enumerate() {
        if settings.zeroes >> bit & 1 == 1 {
            *time = Duration::ZERO;
        }
    }
    if settings.zeroes >> 5 & 1 == 1 {
        limits.request_timeout = Duration::from_secs(7);
    }
    if settings.zeroes >> 6 & 1 == 1 {
        (limits.body_rate, limits.write_rate) = (0, 0);
    }
    if settings.proxied {
        limits.proxies.proxy_protocol = ProxyProtocol::Auto;
    }
    if settings.small_bodies {
        limits.body = 64;
    }
    limits
}
