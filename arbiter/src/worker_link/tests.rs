use std::os::fd::AsFd;

use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;

use super::*;

fn drain(nanos: u64) -> Order {
    let drain = Drain::new(Reason::Stop, Time::ZERO, Time::from_nanos(nanos));
    Order::Drain { drain, policy: remuda_core::order::PolicyId::Stop }
}

/// What a worker reads next.
fn read(end: impl AsFd) -> Option<Order> {
    let mut buffer = [0; MESSAGE_MAX];
    match recv(end, &mut buffer, RecvFlags::DONTWAIT) {
        Ok((_, len)) => Some(Order::decode(&buffer[..len]).unwrap()),
        Err(errno) => {
            assert_eq!(errno, Errno::AGAIN);
            None
        }
    }
}

fn say(end: impl AsFd, report: &Report) {
    send(end, &report.encode(), SendFlags::empty()).unwrap();
}

#[test]
fn orders_that_do_not_fit_wait_in_order_and_hold_nobody_up() {
    let (mut link, theirs) = Link::pair().unwrap();
    let mut sent = 0;
    while link.queue.len() < 3 {
        link.send(&drain(sent));
        sent += 1;
    }
    assert!(link.interest().is_some());
    for expected in 0..sent {
        assert_eq!(read(&theirs), Some(drain(expected)));
        link.flush();
    }
    assert_eq!(read(&theirs), None);
    assert!(link.queue.is_empty());
}

#[test]
fn orders_to_a_worker_that_closed_its_end_are_dropped() {
    let (mut link, theirs) = Link::pair().unwrap();
    drop(theirs);
    link.send(&drain(1));
    assert!(link.queue.is_empty());
    assert_eq!(link.receive(), []);
    assert!(link.interest().is_none(), "a closed socket is not waited for");
    link.send(&drain(2));
    assert!(link.queue.is_empty());
}

#[test]
fn the_last_words_of_a_worker_that_left_orders_unread_are_heard() {
    let (mut link, theirs) = Link::pair().unwrap();
    let report = Report::BootFailed { status: 4, message: "no database".into() };
    link.send(&drain(1));
    say(&theirs, &report);
    drop(theirs);
    assert_eq!(link.receive(), [report]);
    assert!(link.interest().is_none());
}

#[test]
fn what_is_no_report_is_skipped() {
    let (mut link, theirs) = Link::pair().unwrap();
    send(&theirs, b"what?", SendFlags::empty()).unwrap();
    say(&theirs, &Report::Ready);
    assert_eq!(link.receive(), [Report::Ready]);
    assert!(link.interest().is_some());
}

#[test]
fn a_worker_that_never_stops_talking_gets_no_more_than_its_turn() {
    let (mut link, theirs) = Link::pair().unwrap();
    (0..=REPORTS_A_TURN).for_each(|_| say(&theirs, &Report::Ready));
    assert_eq!(link.receive().len(), REPORTS_A_TURN);
    assert_eq!(link.receive().len(), 1);
}
