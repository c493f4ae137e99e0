use rustix::net::{AddressFamily, SocketFlags, SocketType, send, socketpair};

use super::super::Scoreboard;
use super::*;
use crate::app::{Counters, Quota};

const START: Time = Time::from_nanos(1_000_000_000);
const GRACE: Duration = Duration::from_secs(30);

/// A worker's ear without handlers of signals, and the arbiter's end of it.
fn control() -> (Control, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (orders, arbiter) = pair();
    let (signals, _) = pair();
    let seat = Scoreboard::map(1, 1, 1).unwrap().seat(0).unwrap();
    seat.sit(1);
    let heard =
        Heard { graceful_timeout: GRACE, seat: Some(seat), logs: WorkerLogs::default(), orphaned: false };
    let (heard, changed) = (Mutex::new(heard), AtomicBool::new(false));
    let ear = Arc::new(Ear { orders: Arc::new(orders), signals, heard, changed });
    (Control { ear, watch: Arc::new(Watch::new().unwrap()) }, arbiter)
}

fn lameduck() -> Order {
    let drain = Drain::new(Reason::Stop, START, START + 2 * GRACE).lameduck();
    Order::Drain { drain, policy: PolicyId::Stop }
}

fn phase(control: &Control) -> Phase {
    control.ear.heard().seat.unwrap().read().unwrap().phase
}

#[test]
fn a_lame_duck_says_so_and_has_nothing_to_do() {
    let (mut control, arbiter) = control();
    send(&arbiter, &lameduck().encode(), SendFlags::empty()).unwrap();
    assert!(!control.handle(START));
    assert_eq!((phase(&control), control.watch.current()), (Phase::Lameduck, None));
    assert_eq!(control.watch.exit(0, &Counters::default(), START), None);
}

#[test]
fn d18_a_lame_duck_without_an_arbiter_drains() {
    let (mut control, arbiter) = control();
    send(&arbiter, &lameduck().encode(), SendFlags::empty()).unwrap();
    control.handle(START);
    drop(arbiter);
    assert!(control.handle(START + GRACE / 2));
    let (drain, _) = control.watch.current().unwrap();
    assert_eq!((drain.reason, drain.since), (Reason::ArbiterDied, START + GRACE / 2));
    assert_eq!(phase(&control), Phase::Draining);
}

#[test]
fn d15_whoever_counts_the_last_request_can_tell_the_arbiter() {
    let (control, arbiter) = control();
    // A quota takes nothing that could not be called from any thread.
    let reporter = control.reporter();
    let quota = Quota::new(1, move || reporter.report_recycle(Reason::RecycleRequests));
    quota.count(1);
    let mut message = [0; MESSAGE_MAX];
    let (len, _) = rustix::net::recv(&arbiter, &mut message, RecvFlags::empty()).unwrap();
    let reason = Reason::RecycleRequests;
    assert_eq!(Report::decode(&message[..len]), Ok(Report::Recycle { reason }));
}

#[test]
fn d18_whoever_drains_has_no_receiver_without_an_arbiter() {
    let (mut control, arbiter) = control();
    control.watch.expect_backlog();
    let drain = Drain::new(Reason::RecycleAsked, START, START + GRACE).with_receiver();
    let order = Order::Drain { drain, policy: PolicyId::Recycle };
    send(&arbiter, &order.encode(), SendFlags::empty()).unwrap();
    assert!(control.handle(START));
    assert!(control.watch.current().unwrap().0.receiver && !control.watch.backlog_has_ended());
    drop(arbiter);
    assert!(control.handle(START + GRACE / 2));
    let (drain, policy) = control.watch.current().unwrap();
    assert_eq!((drain.receiver, drain.reason, policy), (false, Reason::RecycleAsked, PolicyId::Recycle));
    assert!(control.watch.backlog_has_ended(), "it looks into the queue once more");
    assert!(!control.handle(START + GRACE / 2), "that is said once");
}
