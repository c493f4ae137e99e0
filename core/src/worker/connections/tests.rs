//! Places, turns and timers, with scripted machines and transports of two queues.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::*;
use crate::config::Limits;
use crate::http1::HttpDate;
use crate::machine::{Deadline, Interest, IoSlices, Move, Step, Timer, Wire};
use crate::shutdown::Finish;
use crate::testing::{Pipe, START, ms};

/// The steps that a scripted machine returns, once each; after them it waits for bytes. It counts
/// its steps and the bytes it has read.
#[derive(Clone, Debug, Default)]
struct Puppet(Rc<RefCell<Strings>>);

#[derive(Debug, Default)]
struct Strings {
    says: VecDeque<Step>,
    deadline: Option<Time>,
    steps: u32,
    read: usize,
    busy: bool,
}

impl Puppet {
    fn saying(steps: impl IntoIterator<Item = Step>) -> Self {
        let puppet = Self::default();
        puppet.0.borrow_mut().says.extend(steps);
        puppet
    }

    fn steps(&self) -> u32 {
        mem::take(&mut self.0.borrow_mut().steps)
    }
}

/// The machine, which owns the read buffer.
#[derive(Debug)]
struct Dancer(Puppet, [u8; 8]);

impl Wire for Dancer {
    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.1
    }

    fn handle_read(&mut self, n: usize, _: Time) {
        self.0.0.borrow_mut().read += n;
    }

    fn handle_eof(&mut self, _: Time) {}

    fn transmit<'a>(&'a self, _: &mut IoSlices<'a>) {}

    fn handle_written(&mut self, _: usize, _: Time) {}
}

impl Machine for Dancer {
    fn step(&mut self, _: &Cx<'_>) -> Step {
        let mut strings = self.0.0.borrow_mut();
        strings.steps += 1;
        if strings.busy {
            return Step::Yield;
        }
        let deadline = strings.deadline.map(|at| Deadline { at, why: Timer::Head });
        let wait = Step::Wait { interest: Interest { read: true, write: false }, deadline };
        strings.says.pop_front().unwrap_or(wait)
    }
}

struct TestLoop {
    connections: Connections<Dancer, Pipe>,
    now: Duration,
}

impl Default for TestLoop {
    fn default() -> Self {
        Self { connections: Connections::new(|| {}), now: Duration::ZERO }
    }
}

impl TestLoop {
    fn insert(&mut self, puppet: &Puppet) -> (Token, Pipe) {
        let pipe = Pipe::default();
        (self.connections.insert(Dancer(puppet.clone(), [0; 8]), pipe.clone()), pipe)
    }

    /// One turn of a backend's loop. Returns the work left to the backend.
    fn turn(&mut self) -> Vec<Work<Dancer, Pipe>> {
        let (date, limits) = (HttpDate::from_unix(0), Limits::default());
        let cx = Cx::new(START + self.now, &date, Waker::noop(), &limits, &Finish);
        self.connections.begin_turn(cx.now);
        std::iter::from_fn(|| self.connections.work(&cx)).collect()
    }
}

const READABLE: Readiness = Readiness { readable: true, writable: false, read_closed: false, broken: false };

#[test]
fn a_new_connection_has_one_turn_and_then_one_for_each_event() {
    let (mut test, puppet) = (TestLoop::default(), Puppet::default());
    let (token, pipe) = test.insert(&puppet);
    assert_eq!(test.connections.deadline(), Some(Time::ZERO), "a connection is queued");
    test.turn();
    assert_eq!((puppet.steps(), test.connections.deadline()), (1, None));
    test.turn();
    assert_eq!(puppet.steps(), 0);
    pipe.0.borrow_mut().incoming.extend(b"hi");
    test.connections.ready(token, READABLE);
    test.connections.ready(token, READABLE);
    test.turn();
    assert_eq!((puppet.steps(), puppet.0.borrow().read), (1, 2), "it is queued once");
}

#[test]
fn an_event_for_an_ended_connection_is_ignored() {
    let mut test = TestLoop::default();
    let (old, _) = test.insert(&Puppet::saying([Step::Close(CloseReason::Finished)]));
    let work = test.turn();
    assert!(matches!(work[..], [Work::Closed(CloseReason::Finished, _)]));
    assert!(test.connections.is_empty(), "it is removed");

    let puppet = Puppet::default();
    let (new, pipe) = test.insert(&puppet);
    assert_eq!(old.index(), new.index(), "it has the place of the old one");
    test.turn();
    puppet.steps();
    pipe.0.borrow_mut().incoming.extend(b"hi");
    test.connections.ready(old, READABLE);
    test.turn();
    assert_eq!((puppet.steps(), puppet.0.borrow().read), (0, 0));
}

#[test]
fn a_backend_keeps_the_numbers_below_the_first_token() {
    assert_eq!(Token::from_u64(Token::FIRST - 1), None);
    let (token, _) = TestLoop::default().insert(&Puppet::default());
    assert!(token.as_u64() >= Token::FIRST);
    assert_eq!(Token::from_u64(token.as_u64()), Some(token));
}

#[test]
fn events_during_a_handler_are_remembered() {
    let (mut test, puppet) = (TestLoop::default(), Puppet::saying([Step::Move(Move::Lease)]));
    let (token, pipe) = test.insert(&puppet);
    // The first read finds nothing, so that only later reports count.
    let Some(Work::Move(Move::Lease, mut job)) = test.turn().pop() else { panic!("it asks to be run") };
    let interest = Interest { read: true, write: false };
    assert!(!crate::pump::pump(&mut job.active.machine, &mut job.active.io, interest, START).expect("fine"));

    pipe.0.borrow_mut().incoming.extend(b"hi");
    test.connections.ready(token, READABLE);
    test.connections.wake_all();
    assert!(test.turn().is_empty(), "it is detached");
    assert_eq!((test.connections.len(), puppet.0.borrow().read), (1, 0));

    test.connections.restore(job);
    test.turn();
    assert_eq!(puppet.0.borrow().read, 2);
}

#[test]
fn a_deadline_gives_a_turn_once_it_has_passed() {
    let (mut test, puppet) = (TestLoop::default(), Puppet::default());
    puppet.0.borrow_mut().deadline = Some(START + ms(100));
    test.insert(&puppet);
    test.turn();
    puppet.steps();
    assert_eq!(test.connections.deadline(), Some(START + ms(100)));
    test.now = ms(99);
    test.turn();
    assert_eq!(puppet.steps(), 0);
    test.now = ms(100);
    puppet.0.borrow_mut().deadline = Some(START + ms(300));
    test.turn();
    assert_eq!((puppet.steps(), test.connections.deadline()), (1, Some(START + ms(300))));
}

#[test]
fn an_earlier_deadline_is_met_and_a_later_one_costs_one_look() {
    let (mut test, puppet) = (TestLoop::default(), Puppet::default());
    let (token, _) = test.insert(&puppet);
    for at in [500, 200, 900] {
        puppet.0.borrow_mut().deadline = Some(START + ms(at));
        test.connections.ready(token, READABLE);
        test.turn();
    }
    assert_eq!(test.connections.deadline(), Some(START + ms(200)));
    puppet.steps();
    for (now, steps) in [(200, 1), (500, 0), (899, 0), (900, 1)] {
        test.now = ms(now);
        test.turn();
        assert_eq!(puppet.steps(), steps, "at {now} ms");
        // After 900 ms it would be driven in every turn.
        if now == 900 {
            break;
        }
    }
}

#[test]
fn a_deadline_during_a_handler_waits_for_its_return() {
    let (mut test, puppet) = (TestLoop::default(), Puppet::default());
    puppet.0.borrow_mut().deadline = Some(START + ms(100));
    let (token, _) = test.insert(&puppet);
    test.turn();
    puppet.0.borrow_mut().says.push_back(Step::Move(Move::Lease));
    test.connections.ready(token, READABLE);
    let Some(Work::Move(Move::Lease, job)) = test.turn().pop() else { panic!("it asks to be run") };
    test.now = ms(100);
    test.turn();
    assert_eq!(test.connections.deadline(), None, "nothing spins meanwhile");
    puppet.0.borrow_mut().deadline = Some(START + ms(200));
    test.connections.restore(job);
    test.turn();
    assert_eq!(test.connections.deadline(), Some(START + ms(200)));
}

#[test]
fn timers_do_not_grow_with_the_number_of_deadlines() {
    let mut test = TestLoop::default();
    let puppets: Vec<_> = (0..10).map(|_| Puppet::default()).collect();
    let tokens: Vec<_> = puppets.iter().map(|puppet| test.insert(puppet).0).collect();
    let mut most = 0;
    for n in 0..10_000_u64 {
        test.now = ms(n * 7);
        for (puppet, token) in puppets.iter().zip(&tokens) {
            // Near and far deadlines in turn, as for a response and then an idle connection.
            let length = if n % 2 == 0 { 30_000 } else { 5000 };
            puppet.0.borrow_mut().deadline = Some(START + test.now + ms(length));
            test.connections.ready(*token, READABLE);
        }
        test.turn();
        most = test.connections.timers.len().max(most);
    }
    assert!(most <= 10 * 8, "{most} entries for 10 places");
}

#[test]
fn wake_all_gives_every_connection_a_turn() {
    let mut test = TestLoop::default();
    let puppets: Vec<_> = (0..5).map(|_| Puppet::default()).collect();
    puppets.iter().for_each(|puppet| drop(test.insert(puppet)));
    test.turn();
    for puppet in &puppets {
        puppet.steps();
    }
    test.connections.wake_all();
    test.connections.wake_all();
    test.turn();
    assert!(puppets.iter().all(|puppet| puppet.steps() == 1));
}

#[test]
fn a_busy_connection_does_not_keep_others_from_their_turn() {
    let mut test = TestLoop::default();
    let puppets = [Puppet::default(), Puppet::default()];
    for puppet in &puppets {
        puppet.0.borrow_mut().busy = true;
        test.insert(puppet);
    }
    for _ in 0..10 {
        test.turn();
    }
    assert_eq!(puppets.map(|puppet| puppet.steps()), [10, 10], "one step a turn each");
}

#[test]
fn a_handed_off_connection_frees_its_place() {
    let mut test = TestLoop::default();
    test.insert(&Puppet::saying([Step::Move(Move::Handoff)]));
    test.insert(&Puppet::saying([Step::Close(CloseReason::PeerClosed)]));
    let mut work = test.turn();
    assert!(matches!(work[..], [Work::Move(Move::Handoff, _), Work::Closed(CloseReason::PeerClosed, _)]));
    let Work::Move(Move::Handoff, job) = work.swap_remove(0) else { unreachable!() };
    assert_eq!((test.connections.len(), test.connections.deadline()), (1, None), "until it is forgotten");
    let token = job.token;
    drop(job);
    test.connections.forget(token);
    assert!(test.connections.is_empty());
    test.connections.ready(token, Readiness { readable: true, ..Readiness::default() });
    test.insert(&Puppet::default());
    test.connections.ready(token, Readiness { readable: true, ..Readiness::default() });
    test.connections.forget(token);
    assert_eq!(test.connections.len(), 1, "late reports do not reach the connection in its place");
}

#[test]
fn a_connection_that_cannot_be_handed_off_is_restored() {
    let mut test = TestLoop::default();
    let puppet = Puppet::saying([Step::Move(Move::Handoff)]);
    test.insert(&puppet);
    let Some(Work::Move(Move::Handoff, job)) = test.turn().pop() else { panic!("it asks to leave") };
    test.connections.restore(job);
    assert_eq!(test.connections.deadline(), Some(Time::ZERO), "it is queued");
    assert!(test.turn().is_empty() && puppet.steps() > 1);
}

#[test]
fn a_detached_connection_without_a_place_is_dropped() {
    let mut test = TestLoop::default();
    test.insert(&Puppet::saying([Step::Move(Move::Lease)]));
    let Some(Work::Move(Move::Lease, job)) = test.turn().pop() else { panic!("it asks to be run") };
    let mut other = TestLoop::default();
    other.connections.restore(job);
    assert!(other.turn().is_empty() && other.connections.is_empty());
}

/// A machine that takes everything made for it by other threads, and waits for more.
#[derive(Clone, Debug, Default)]
struct Taker(Arc<Takings>);

#[derive(Debug, Default)]
struct Takings {
    waker: Mutex<Option<Waker>>,
    made: AtomicUsize,
    taken: AtomicUsize,
    steps: AtomicUsize,
}

impl Taker {
    fn waker(&self) -> Waker {
        self.0.waker.lock().expect("not poisoned").clone().expect("it has had a step")
    }

    fn steps(&self) -> usize {
        self.0.steps.load(Ordering::Relaxed)
    }
}

impl Wire for Taker {
    fn read_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn handle_read(&mut self, _: usize, _: Time) {}

    fn handle_eof(&mut self, _: Time) {}

    fn transmit<'a>(&'a self, _: &mut IoSlices<'a>) {}

    fn handle_written(&mut self, _: usize, _: Time) {}
}

impl Machine for Taker {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
        *self.0.waker.lock().expect("not poisoned") = Some(cx.waker.clone());
        self.0.taken.fetch_add(self.0.made.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        Step::Wait { interest: Interest::NONE, deadline: None }
    }
}

/// A loop over such machines, whose wait ends through a channel.
struct Loop {
    connections: Connections<Taker, Pipe>,
    wakes: Receiver<()>,
}

impl Loop {
    fn new() -> Self {
        let (wake, wakes) = channel();
        Self { connections: Connections::new(move || wake.send(()).expect("the loop is here")), wakes }
    }

    /// Such a machine after its first step, and its place.
    fn insert(&mut self) -> (Taker, Token) {
        let taker = Taker::default();
        let token = self.connections.insert(taker.clone(), Pipe::default());
        self.turn();
        (taker, token)
    }

    fn turn(&mut self) {
        let (date, limits) = (HttpDate::from_unix(0), Limits::default());
        let cx = Cx::new(START, &date, Waker::noop(), &limits, &Finish);
        self.connections.begin_turn(cx.now);
        assert!(self.connections.work(&cx).is_none());
    }
}

#[test]
fn a_woken_connection_has_one_turn_and_the_wait_ends_once() {
    let mut test = Loop::new();
    let (taker, _) = test.insert();
    assert_eq!(test.connections.deadline(), None);
    let waker = taker.waker();
    for _ in 0..1000 {
        waker.wake_by_ref();
    }
    assert_eq!(test.wakes.try_iter().count(), 1, "one call wakes the loop");
    assert_eq!(test.connections.wake_queue.woken().len(), 1, "the queue does not grow");
    assert_eq!(test.connections.deadline(), Some(Time::ZERO), "a connection is queued");
    test.connections.awake();
    test.turn();
    assert_eq!((taker.steps(), test.connections.deadline()), (2, None));
}

#[test]
fn a_loop_that_is_awake_is_not_woken() {
    let mut test = Loop::new();
    let (taker, _) = test.insert();
    assert_eq!(test.connections.deadline(), None);
    // Another event has ended the wait, and an alarm rings before the turn begins.
    test.connections.awake();
    taker.waker().wake();
    test.turn();
    // A future wakes itself in its step.
    taker.waker().wake();
    assert_eq!(test.connections.deadline(), Some(Time::ZERO), "so the loop does not wait");
    test.connections.awake();
    test.turn();
    assert_eq!((test.wakes.try_iter().count(), taker.steps()), (0, 3));
}

#[test]
fn a_waker_that_outlives_its_connection_has_no_effect() {
    let mut test = Loop::new();
    let (gone, token) = test.insert();
    drop(test.connections.remove(token));
    let (taker, _) = test.insert();
    gone.waker().wake();
    test.turn();
    assert_eq!(taker.steps(), 1);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "wakers are called from any thread")]
fn a_wake_from_another_thread_is_never_lost() {
    const EACH: usize = 20_000;
    let mut test = Loop::new();
    let takers = [test.insert().0, test.insert().0, test.insert().0];
    // Two threads share a connection.
    let ringers = [&takers[0], &takers[0], &takers[1], &takers[2]];
    thread::scope(|scope| {
        for taker in ringers {
            scope.spawn(|| {
                let waker = taker.waker();
                for _ in 0..EACH {
                    taker.0.made.fetch_add(1, Ordering::Relaxed);
                    waker.wake_by_ref();
                }
            });
        }
        let taken = || takers.iter().map(|taker| taker.0.taken.load(Ordering::Relaxed)).sum::<usize>();
        while taken() < ringers.len() * EACH {
            if test.connections.deadline().is_none() {
                test.wakes.recv_timeout(Duration::from_secs(10)).expect("a wake was lost");
            }
            test.connections.awake();
            test.turn();
        }
    });
}

#[test]
fn a_new_connection_can_be_driven_before_its_turn() {
    let (waits, ends) = (Puppet::default(), Puppet::saying([Step::Close(CloseReason::Finished)]));
    let mut test = TestLoop::default();
    let [older, newer] = [&waits, &ends].map(|puppet| test.insert(puppet).0);
    assert_eq!(test.connections.iter().map(|(token, _)| token).collect::<Vec<_>>(), [older, newer]);
    assert!(older < newer);
    let (date, limits) = (HttpDate::from_unix(0), Limits::default());
    let cx = Cx::new(START, &date, Waker::noop(), &limits, &Finish);
    assert!(matches!(test.connections.drive_one(newer, &cx), Some(Work::Closed(..))));
    assert!(test.connections.drive_one(newer, &cx).is_none(), "it is gone");
    assert_eq!((test.connections.len(), waits.steps()), (1, 0));
    assert_eq!((test.turn().len(), waits.steps()), (0, 1), "the other one has its turn");
}
