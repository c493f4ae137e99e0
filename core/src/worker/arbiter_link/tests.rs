use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    send, sendmsg, socketpair,
};

use super::orders::ASK_AGAIN;
use super::*;
use crate::app::{Counters, Quota};
use crate::order::{MESSAGE_MAX, Order, PolicyId};
use crate::shutdown::{Drain, Reason};
use crate::worker::logs::{LogFile, Logs};
use crate::worker::scoreboard::Scoreboard;

const START: Time = Time::from_nanos(1_000_000_000);
const GRACE: Duration = Duration::from_secs(30);

/// A worker's link without signal handlers, and the arbiter's end of it.
fn link() -> (ArbiterLink, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (orders, arbiter) = pair();
    let (signals, _) = pair();
    let seat = Scoreboard::map(1, 1, 1).unwrap().seat(0).unwrap();
    seat.occupy(1);
    let reader = Arc::new(OrderReader::new(Arc::new(orders), signals));
    reader.set_seat(seat);
    reader.set_graceful_timeout(GRACE);
    (ArbiterLink { reader, watch: Arc::new(Watch::new().unwrap()) }, arbiter)
}

fn lameduck() -> Order {
    let drain = Drain::new(Reason::Stop, START, START + 2 * GRACE).lameduck();
    Order::Drain { drain, policy: PolicyId::Stop }
}

fn phase(link: &ArbiterLink) -> Phase {
    link.reader.seat().unwrap().read().unwrap().phase
}

#[test]
fn a_lame_duck_records_its_phase_and_serves_on() {
    let (mut link, arbiter) = link();
    send(&arbiter, &lameduck().encode(), SendFlags::empty()).unwrap();
    assert!(!link.handle(START));
    assert_eq!((phase(&link), link.watch.current()), (Phase::Lameduck, None));
    assert_eq!(link.watch.exit(0, &Counters::default(), START), None);
}

#[test]
fn d18_a_lame_duck_without_an_arbiter_drains() {
    let (mut link, arbiter) = link();
    send(&arbiter, &lameduck().encode(), SendFlags::empty()).unwrap();
    link.handle(START);
    drop(arbiter);
    assert!(link.handle(START + GRACE / 2));
    let (drain, _) = link.watch.current().unwrap();
    assert_eq!((drain.reason, drain.since), (Reason::ArbiterDied, START + GRACE / 2));
    assert_eq!(phase(&link), Phase::Draining);
}

#[test]
fn d15_the_last_request_of_a_quota_is_reported_from_any_thread() {
    let (link, arbiter) = link();
    // A quota only takes a function that any thread may call.
    let reports = link.reports();
    let quota = Quota::new(1, move || reports.report_recycle(Reason::RecycleRequests));
    quota.count(1);
    let mut message = [0; MESSAGE_MAX];
    let (len, _) = rustix::net::recv(&arbiter, &mut message, RecvFlags::empty()).unwrap();
    let reason = Reason::RecycleRequests;
    assert_eq!(Report::decode(&message[..len]), Ok(Report::Recycle { reason }));
}

#[test]
fn d18_without_an_arbiter_a_drain_has_no_receiver() {
    let (mut link, arbiter) = link();
    link.watch.state().expect_backlog();
    let drain = Drain::new(Reason::RecycleAsked, START, START + GRACE).with_receiver();
    let order = Order::Drain { drain, policy: PolicyId::Recycle };
    send(&arbiter, &order.encode(), SendFlags::empty()).unwrap();
    assert!(link.handle(START));
    assert!(link.watch.current().unwrap().0.receiver && !link.watch.state().backlog_has_ended());
    drop(arbiter);
    assert!(link.handle(START + GRACE / 2));
    let (drain, policy) = link.watch.current().unwrap();
    assert_eq!((drain.receiver, drain.reason, policy), (false, Reason::RecycleAsked, PolicyId::Recycle));
    assert!(link.watch.state().backlog_has_ended(), "it looks into the queue once more");
    assert!(!link.handle(START + GRACE / 2), "the change is reported once");
}

#[test]
fn log_files_that_did_not_arrive_are_asked_for_again() {
    let (mut link, arbiter) = link();
    let file = || LogFile::open(Path::new("/dev/null")).unwrap();
    let logs = Logs { error: Some(Arc::new(file())), access: None };
    link.set_logs(logs.start().unwrap());
    assert_eq!(link.logs_deadline(), None);
    // The kernel delivers an order without its descriptors if the process has no free ones.
    send(&arbiter, &Order::ReopenLogs.encode(), SendFlags::empty()).unwrap();
    link.handle(START);
    assert_eq!(link.logs_deadline(), Some(START + ASK_AGAIN));

    let asked = |link: &ArbiterLink, now| {
        link.tend_logs(now);
        let mut message = [0; MESSAGE_MAX];
        let (len, _) = rustix::net::recv(&arbiter, &mut message, RecvFlags::empty()).ok()?;
        Report::decode(&message[..len]).ok()
    };
    assert_eq!(asked(&link, START + ASK_AGAIN / 2), None);
    assert_eq!(asked(&link, START + ASK_AGAIN), Some(Report::ReopenLogs));
    assert_eq!(link.logs_deadline(), Some(START + 2 * ASK_AGAIN), "the answer may lack them too");

    let opened = logs.to_continue_in();
    let descriptors = [opened[0].as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let order = Order::ReopenLogs.encode();
    sendmsg(&arbiter, &[IoSlice::new(&order)], &mut control, SendFlags::empty()).unwrap();
    link.handle(START + ASK_AGAIN);
    assert_eq!((link.logs_deadline(), asked(&link, START + 9 * ASK_AGAIN)), (None, None));
}
