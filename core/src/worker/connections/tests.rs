//! Places, turns and timers, over machines that say what they are told and transports of two queues.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::*;
use crate::config::Limits;
use crate::http1::HttpDate;
use crate::machine::{Deadline, Interest, IoSlices, Step, Timer, Wire};
use crate::shutdown::Finish;
use crate::testing::{Pipe, START, ms};

/// What a test has a machine say, once each; then it waits for bytes. It counts its steps and the bytes it has read.
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
        std::mem::take(&mut self.0.borrow_mut().steps)
    }
}

/// The machine half, which owns the buffer that a puppet cannot lend.
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

struct Stage {
    intake: Intake<Dancer, Pipe>,
    now: Duration,
}

impl Default for Stage {
    fn default() -> Self {
        Self { intake: Intake::new(|| {}), now: Duration::ZERO }
    }
}

impl Stage {
    fn insert(&mut self, puppet: &Puppet) -> (Token, Pipe) {
        let pipe = Pipe::default();
        (self.intake.insert(Dancer(puppet.clone(), [0; 8]), pipe.clone()), pipe)
    }

    /// One turn of a backend's loop; what it is left to do.
    fn turn(&mut self) -> Vec<Work<Dancer, Pipe>> {
        let (date, limits) = (HttpDate::from_unix(0), Limits::default());
        let cx = Cx::new(START + self.now, &date, Waker::noop(), &limits, &Finish);
        self.intake.begin_turn(cx.now);
        std::iter::from_fn(|| self.intake.work(&cx)).collect()
    }
}

const READABLE: Readiness = Readiness { readable: true, writable: false, read_closed: false, broken: false };

#[test]
fn a_new_connection_has_a_turn_and_then_only_when_something_happens() {
    let (mut stage, puppet) = (Stage::default(), Puppet::default());
    let (token, pipe) = stage.insert(&puppet);
    assert_eq!(stage.intake.deadline(), Some(Time::ZERO), "there is something to do");
    stage.turn();
    assert_eq!((puppet.steps(), stage.intake.deadline()), (1, None));
    stage.turn();
    assert_eq!(puppet.steps(), 0);
    pipe.0.borrow_mut().incoming.extend(b"hi");
    stage.intake.ready(token, READABLE);
    stage.intake.ready(token, READABLE);
    stage.turn();
    assert_eq!((puppet.steps(), puppet.0.borrow().read), (1, 2), "it is queued once");
}

#[test]
fn an_event_for_a_connection_that_has_gone_reaches_nobody() {
    let mut stage = Stage::default();
    let (old, _) = stage.insert(&Puppet::saying([Step::Close(CloseReason::Finished)]));
    let work = stage.turn();
    assert!(matches!(work[..], [Work::Closed(CloseReason::Finished, _)]));
    assert!(stage.intake.is_empty(), "it leaves");

    let puppet = Puppet::default();
    let (new, pipe) = stage.insert(&puppet);
    assert_eq!(old.index(), new.index(), "it has the place of the old one");
    stage.turn();
    puppet.steps();
    pipe.0.borrow_mut().incoming.extend(b"hi");
    stage.intake.ready(old, READABLE);
    stage.turn();
    assert_eq!((puppet.steps(), puppet.0.borrow().read), (0, 0));
}

#[test]
fn a_backend_keeps_the_numbers_below_the_first_token() {
    assert_eq!(Token::from_u64(Token::FIRST - 1), None);
    let (token, _) = Stage::default().insert(&Puppet::default());
    assert!(token.as_u64() >= Token::FIRST);
    assert_eq!(Token::from_u64(token.as_u64()), Some(token));
}

#[test]
fn what_happens_while_a_handler_has_a_connection_is_not_forgotten() {
    let (mut stage, puppet) = (Stage::default(), Puppet::saying([Step::Run]));
    let (token, pipe) = stage.insert(&puppet);
    // A first read finds nothing, so only what is reported from now on counts.
    let Some(Work::Run(mut job)) = stage.turn().pop() else { panic!("it asks to be run") };
    let interest = Interest { read: true, write: false };
    assert!(!crate::pump::pump(&mut job.active.machine, &mut job.active.io, interest, START).expect("fine"));

    pipe.0.borrow_mut().incoming.extend(b"hi");
    stage.intake.ready(token, READABLE);
    stage.intake.wake_all();
    assert!(stage.turn().is_empty(), "it is away");
    assert_eq!((stage.intake.len(), puppet.0.borrow().read), (1, 0));

    stage.intake.restore(job);
    stage.turn();
    assert_eq!(puppet.0.borrow().read, 2);
}

#[test]
fn a_deadline_gives_a_turn_once_it_has_passed() {
    let (mut stage, puppet) = (Stage::default(), Puppet::default());
    puppet.0.borrow_mut().deadline = Some(START + ms(100));
    stage.insert(&puppet);
    stage.turn();
    puppet.steps();
    assert_eq!(stage.intake.deadline(), Some(START + ms(100)));
    stage.now = ms(99);
    stage.turn();
    assert_eq!(puppet.steps(), 0);
    stage.now = ms(100);
    puppet.0.borrow_mut().deadline = Some(START + ms(300));
    stage.turn();
    assert_eq!((puppet.steps(), stage.intake.deadline()), (1, Some(START + ms(300))));
}

#[test]
fn a_deadline_that_moves_closer_is_met_and_one_that_moves_away_costs_one_look() {
    let (mut stage, puppet) = (Stage::default(), Puppet::default());
    let (token, _) = stage.insert(&puppet);
    for at in [500, 200, 900] {
        puppet.0.borrow_mut().deadline = Some(START + ms(at));
        stage.intake.ready(token, READABLE);
        stage.turn();
    }
    assert_eq!(stage.intake.deadline(), Some(START + ms(200)));
    puppet.steps();
    for (now, steps) in [(200, 1), (500, 0), (899, 0), (900, 1)] {
        stage.now = ms(now);
        stage.turn();
        assert_eq!(puppet.steps(), steps, "at {now} ms");
        // Past 900 ms it would be asked for ever.
        if now == 900 {
            break;
        }
    }
}

#[test]
fn a_deadline_while_a_handler_has_the_connection_waits_for_its_return() {
    let (mut stage, puppet) = (Stage::default(), Puppet::default());
    puppet.0.borrow_mut().deadline = Some(START + ms(100));
    let (token, _) = stage.insert(&puppet);
    stage.turn();
    puppet.0.borrow_mut().says.push_back(Step::Run);
    stage.intake.ready(token, READABLE);
    let Some(Work::Run(job)) = stage.turn().pop() else { panic!("it asks to be run") };
    stage.now = ms(100);
    stage.turn();
    assert_eq!(stage.intake.deadline(), None, "nothing spins meanwhile");
    puppet.0.borrow_mut().deadline = Some(START + ms(200));
    stage.intake.restore(job);
    stage.turn();
    assert_eq!(stage.intake.deadline(), Some(START + ms(200)));
}

#[test]
fn timers_do_not_grow_with_what_connections_do() {
    let mut stage = Stage::default();
    let puppets: Vec<_> = (0..10).map(|_| Puppet::default()).collect();
    let tokens: Vec<_> = puppets.iter().map(|puppet| stage.insert(puppet).0).collect();
    let mut most = 0;
    for n in 0..10_000_u64 {
        stage.now = ms(n * 7);
        for (puppet, token) in puppets.iter().zip(&tokens) {
            // A response under way, then an idle connection: far and near by turns.
            let length = if n % 2 == 0 { 30_000 } else { 5000 };
            puppet.0.borrow_mut().deadline = Some(START + stage.now + ms(length));
            stage.intake.ready(*token, READABLE);
        }
        stage.turn();
        most = stage.intake.timers.len().max(most);
    }
    assert!(most <= 10 * 8, "{most} entries for 10 places");
}

#[test]
fn everyone_is_woken_when_the_world_changes() {
    let mut stage = Stage::default();
    let puppets: Vec<_> = (0..5).map(|_| Puppet::default()).collect();
    puppets.iter().for_each(|puppet| drop(stage.insert(puppet)));
    stage.turn();
    for puppet in &puppets {
        puppet.steps();
    }
    stage.intake.wake_all();
    stage.intake.wake_all();
    stage.turn();
    assert!(puppets.iter().all(|puppet| puppet.steps() == 1));
}

#[test]
fn a_busy_connection_does_not_keep_others_from_their_turn() {
    let mut stage = Stage::default();
    let puppets = [Puppet::default(), Puppet::default()];
    for puppet in &puppets {
        puppet.0.borrow_mut().busy = true;
        stage.insert(puppet);
    }
    for _ in 0..10 {
        stage.turn();
    }
    assert_eq!(puppets.map(|puppet| puppet.steps()), [10, 10], "one step a turn each");
}

#[test]
fn who_leaves_gives_its_place_up() {
    let mut stage = Stage::default();
    stage.insert(&Puppet::saying([Step::HandOff]));
    stage.insert(&Puppet::saying([Step::Close(CloseReason::PeerClosed)]));
    let mut work = stage.turn();
    assert!(matches!(work[..], [Work::HandOff(_), Work::Closed(CloseReason::PeerClosed, _)]));
    let Work::HandOff(job) = work.swap_remove(0) else { unreachable!() };
    assert_eq!((stage.intake.len(), stage.intake.deadline()), (1, None), "until it has left");
    let token = job.token;
    drop(job);
    stage.intake.forget(token);
    assert!(stage.intake.is_empty());
    stage.intake.ready(token, Readiness { readable: true, ..Readiness::default() });
    stage.insert(&Puppet::default());
    stage.intake.ready(token, Readiness { readable: true, ..Readiness::default() });
    stage.intake.forget(token);
    assert_eq!(stage.intake.len(), 1, "what is still said of it is not said of who has its place");
}

#[test]
fn who_cannot_leave_is_where_it_was() {
    let mut stage = Stage::default();
    let puppet = Puppet::saying([Step::HandOff]);
    stage.insert(&puppet);
    let Some(Work::HandOff(job)) = stage.turn().pop() else { panic!("it asks to leave") };
    stage.intake.restore(job);
    assert_eq!(stage.intake.deadline(), Some(Time::ZERO), "it has a turn");
    assert!(stage.turn().is_empty() && puppet.steps() > 1);
}

#[test]
fn a_job_whose_connection_has_gone_is_dropped() {
    let mut stage = Stage::default();
    stage.insert(&Puppet::saying([Step::Run]));
    let Some(Work::Run(job)) = stage.turn().pop() else { panic!("it asks to be run") };
    let mut other = Stage::default();
    other.intake.restore(job);
    assert!(other.turn().is_empty() && other.intake.is_empty());
}

/// A machine that takes everything that others have made for it, and waits for more.
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

/// A loop over takers; what ends its wait is a channel.
struct Loop {
    intake: Intake<Taker, Pipe>,
    wakes: Receiver<()>,
}

impl Loop {
    fn new() -> Self {
        let (wake, wakes) = channel();
        Self { intake: Intake::new(move || wake.send(()).expect("the loop is here")), wakes }
    }

    /// A taker that has had a step, and its place.
    fn insert(&mut self) -> (Taker, Token) {
        let taker = Taker::default();
        let token = self.intake.insert(taker.clone(), Pipe::default());
        self.turn();
        (taker, token)
    }

    fn turn(&mut self) {
        let (date, limits) = (HttpDate::from_unix(0), Limits::default());
        let cx = Cx::new(START, &date, Waker::noop(), &limits, &Finish);
        self.intake.begin_turn(cx.now);
        assert!(self.intake.work(&cx).is_none());
    }
}

#[test]
fn who_is_woken_has_one_turn_and_the_wait_ends_once() {
    let mut stage = Loop::new();
    let (taker, _) = stage.insert();
    assert_eq!(stage.intake.deadline(), None);
    let waker = taker.waker();
    for _ in 0..1000 {
        waker.wake_by_ref();
    }
    assert_eq!(stage.wakes.try_iter().count(), 1, "one call wakes the loop");
    assert_eq!(stage.intake.bell.rung().len(), 1, "the list does not grow");
    assert_eq!(stage.intake.deadline(), Some(Time::ZERO), "there is something to do");
    stage.intake.awake();
    stage.turn();
    assert_eq!((taker.steps(), stage.intake.deadline()), (2, None));
}

#[test]
fn nobody_wakes_a_loop_that_is_awake() {
    let mut stage = Loop::new();
    let (taker, _) = stage.insert();
    assert_eq!(stage.intake.deadline(), None);
    // Something else has ended the wait, and an alarm rings before the turn begins.
    stage.intake.awake();
    taker.waker().wake();
    stage.turn();
    // A future wakes itself in its step.
    taker.waker().wake();
    assert_eq!(stage.intake.deadline(), Some(Time::ZERO), "so the loop does not wait");
    stage.intake.awake();
    stage.turn();
    assert_eq!((stage.wakes.try_iter().count(), taker.steps()), (0, 3));
}

#[test]
fn a_waker_that_outlives_its_connection_reaches_nobody() {
    let mut stage = Loop::new();
    let (gone, token) = stage.insert();
    drop(stage.intake.remove(token));
    let (taker, _) = stage.insert();
    gone.waker().wake();
    stage.turn();
    assert_eq!(taker.steps(), 1);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "wakers are called from any thread")]
fn a_wake_from_another_thread_is_never_lost() {
    const EACH: usize = 20_000;
    let mut stage = Loop::new();
    let takers = [stage.insert().0, stage.insert().0, stage.insert().0];
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
            if stage.intake.deadline().is_none() {
                stage.wakes.recv_timeout(Duration::from_secs(10)).expect("a wake was lost");
            }
            stage.intake.awake();
            stage.turn();
        }
    });
}
