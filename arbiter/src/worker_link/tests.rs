use std::os::fd::AsFd;

use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;

use rustix::net::send;

use super::*;

fn drain(nanos: u64) -> Order {
    let drain = Drain::new(Reason::Stop, Time::ZERO, Time::from_nanos(nanos));
    Order::Drain { drain, policy: remuda_core::order::PolicyId::Stop }
}

/// The next message that the worker reads.
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
fn orders_that_do_not_fit_wait_in_order_without_blocking() {
    let (mut link, theirs) = WorkerLink::pair().unwrap();
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
fn descriptors_are_sent_with_their_own_order() {
    use std::io::IoSliceMut;

    use remuda_core::worker::{LogFile, Logs};
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg};

    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs::default();
    logs.error = Some(Arc::new(LogFile::open(&dir.path().join("log")).unwrap()));
    let (mut link, theirs) = WorkerLink::pair().unwrap();
    link.send(&drain(1));
    link.send_with(&Order::ReopenLogs, logs.to_continue_in());
    let next = || {
        let mut buffer = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message =
            recvmsg(&theirs, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::empty()).unwrap();
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        (Order::decode(&buffer[..message.bytes]).unwrap(), rights.flatten().collect::<Vec<OwnedFd>>())
    };
    let (first, none) = next();
    assert_eq!((first, none.len()), (drain(1), 0));
    let (second, one) = next();
    assert_eq!((second, one.len()), (Order::ReopenLogs, 1));
    rustix::io::write(&one[0], b"written by the worker\n").unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "written by the worker\n");
}

#[test]
fn orders_to_a_worker_that_closed_its_end_are_dropped() {
    let (mut link, theirs) = WorkerLink::pair().unwrap();
    drop(theirs);
    link.send(&drain(1));
    assert!(link.queue.is_empty());
    assert_eq!(link.receive(), []);
    assert!(link.interest().is_none(), "a closed socket is not waited for");
    link.send(&drain(2));
    assert!(link.queue.is_empty());
}

#[test]
fn last_reports_of_a_worker_with_unread_orders_are_received() {
    let (mut link, theirs) = WorkerLink::pair().unwrap();
    let report = Report::BootFailed { status: 4, message: "no database".into() };
    link.send(&drain(1));
    say(&theirs, &report);
    drop(theirs);
    assert_eq!(link.receive(), [report]);
    assert!(link.interest().is_none());
}

#[test]
fn a_malformed_report_is_skipped() {
    let (mut link, theirs) = WorkerLink::pair().unwrap();
    send(&theirs, b"what?", SendFlags::empty()).unwrap();
    say(&theirs, &Report::Ready);
    assert_eq!(link.receive(), [Report::Ready]);
    assert!(link.interest().is_some());
}

#[test]
fn a_worker_that_reports_endlessly_gets_a_bounded_turn() {
    let (mut link, theirs) = WorkerLink::pair().unwrap();
    (0..=REPORTS_A_TURN).for_each(|_| say(&theirs, &Report::Ready));
    assert_eq!(link.receive().len(), REPORTS_A_TURN);
    assert_eq!(link.receive().len(), 1);
}
