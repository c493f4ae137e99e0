use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;

use rustix::net::send;

use super::*;
use crate::config::READ_BUFFER_MAX;
use crate::order::PolicyId;
use crate::peer::{Origin, Peer};
use crate::shutdown::{Drain, Reason};

fn record(draw: u32, unread: usize) -> ConnectionRecord {
    let fresh = ConnectionRecord::fresh(Origin::new(0, Peer::Unix, draw), Time::from_nanos(1));
    ConnectionRecord { unread: vec![b'x'; unread].into(), ..fresh }
}

/// A connection, with its other end.
fn connection() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

fn inbox(queue: OwnedFd) -> (Inbox, Arc<Watch>) {
    let watch = Arc::new(Watch::new().unwrap());
    (Inbox::new(queue, watch.clone(), Arc::default()), watch)
}

#[test]
fn a_connection_arrives_with_its_record_and_still_works() {
    use std::io::{Read, Write};

    let (outbox, queue) = queue().unwrap();
    assert!(receive(queue.as_fd()).unwrap().is_none());
    for unread in [0, READ_BUFFER_MAX] {
        let (mut here, there) = connection();
        outbox.send(there.as_fd(), &record(5, unread)).unwrap();
        drop(there);
        let adopted = receive(queue.as_fd()).unwrap().unwrap();
        assert_eq!(adopted.record, record(5, unread));
        let flags = rustix::io::fcntl_getfd(&adopted.socket).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        UnixStream::from(adopted.socket).write_all(b"hello").unwrap();
        let mut text = String::new();
        here.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "and no other process holds it");
    }
    assert!(receive(queue.as_fd()).unwrap().is_none());
}

#[test]
fn a_full_queue_returns_an_error_and_loses_nothing() {
    let (outbox, queue) = queue().unwrap();
    let (_here, there) = connection();
    let sent = (0..)
        .find(|draw| match outbox.send(there.as_fd(), &record(*draw, READ_BUFFER_MAX)) {
            Ok(()) => false,
            Err(SendError::Full) => true,
            Err(error) => panic!("{error}"),
        })
        .unwrap();
    assert!(sent >= 2, "{sent} records fit");
    let mut received = 0;
    while let Some(adopted) = receive(queue.as_fd()).unwrap() {
        assert_eq!(adopted.record.draw, received);
        received += 1;
    }
    assert_eq!(received, sent);
    outbox.send(there.as_fd(), &record(0, 0)).unwrap();
}

#[test]
fn a_message_without_a_connection_is_refused_and_closed() {
    let (outbox, queue) = queue().unwrap();
    let refused = || match receive(queue.as_fd()) {
        Err(error) => error.kind() == io::ErrorKind::InvalidData,
        Ok(adopted) => panic!("{adopted:?}"),
    };
    send(&outbox, &record(0, 0).encode(), SendFlags::empty()).unwrap();
    assert!(refused(), "a record alone");
    let (here, there) = connection();
    outbox.clone().writing(9).send(there.as_fd(), &record(0, 0)).unwrap();
    assert!(refused(), "a record of another version");
    outbox.send(there.as_fd(), &record(0, READ_BUFFER_MAX + 1000)).unwrap();
    assert!(refused(), "a record that is too long");
    let both = [there.as_fd(), there.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&both)));
    sendmsg(&outbox, &[IoSlice::new(&record(0, 0).encode())], &mut control, SendFlags::empty()).unwrap();
    assert!(refused(), "two descriptors");
    drop(there);
    here.set_nonblocking(true).unwrap();
    assert_eq!(io::Read::read(&mut &here, &mut [0]).unwrap(), 0, "a copy was left open");
}

#[test]
fn the_last_look_into_an_inbox_comes_after_the_end_of_the_backlog() {
    let now = Time::from_nanos(1);
    let (outbox, queue) = queue().unwrap();
    let (mut inbox, watch) = inbox(queue);
    let (_here, there) = connection();
    watch.state().enter(Drain::new(Reason::Stop, now, now + PAUSE), PolicyId::Stop);
    watch.state().backlog_comes();
    inbox.wake();
    assert!(inbox.take(now, false).is_none());
    assert_eq!(inbox.deadline(false), None);
    outbox.send(there.as_fd(), &record(1, 0)).unwrap();
    watch.state().backlog_ends();
    assert!(watch.state().backlog_has_ended());
    assert_eq!(inbox.take(now, false).unwrap().record.draw, 1, "no wake-up was needed");
    assert!(inbox.take(now, false).is_none(), "the worker's other connections have their turn");
    assert!(watch.state().backlog_has_ended(), "there may be another");
    assert_eq!(inbox.deadline(false), Some(Time::ZERO));
    assert!(inbox.take(now, false).is_none());
    assert!(!watch.state().backlog_has_ended());
}

#[test]
fn a_turn_is_bounded_and_siblings_share_the_queue() {
    let now = Time::from_nanos(1);
    let (outbox, queue) = queue().unwrap();
    let (mut one, _) = inbox(queue.try_clone().unwrap());
    let (mut other, _) = inbox(queue);
    let (_here, there) = connection();
    let all = 2 * TAKEN_A_TURN;
    (0..all).for_each(|draw| outbox.send(there.as_fd(), &record(draw, 0)).unwrap());
    let mut taken = BTreeSet::new();
    let mut turn = |inbox: &mut Inbox, now: Time| {
        inbox.wake();
        std::iter::from_fn(|| inbox.take(now, false))
            .filter(|adopted| taken.insert(adopted.record.draw))
            .count()
    };
    for (n, breath) in (1..=10).zip(0..) {
        let now = now + breath * PAUSE_AFTER_BATCH;
        assert_eq!((turn(&mut one, now), turn(&mut other, now)), (n, n));
        assert_eq!(
            (turn(&mut one, now), one.deadline(false)),
            (0, Some(now + PAUSE_AFTER_BATCH)),
            "others may have some"
        );
    }
    let now = now + 10 * PAUSE_AFTER_BATCH;
    assert_eq!((turn(&mut one, now), turn(&mut other, now)), (11, 7));
    let now = now + PAUSE_AFTER_BATCH;
    assert_eq!(turn(&mut one, now), 0);
    assert_eq!(taken.len(), all as usize);
    assert_eq!((one.deadline(false), other.deadline(false)), (None, None));
    outbox.send(there.as_fd(), &record(all, 0)).unwrap();
    outbox.send(there.as_fd(), &record(all, 0)).unwrap();
    one.wake();
    assert!(
        one.take(now, false).is_some() && one.take(now, false).is_none(),
        "the batch starts at one again"
    );
}

#[test]
fn d19_full_and_draining_workers_leave_connections_to_others() {
    let now = Time::from_nanos(1);
    let (outbox, queue) = queue().unwrap();
    let (_here, there) = connection();
    let (mut full, _) = inbox(queue.try_clone().unwrap());
    let (mut drains, watch) = inbox(queue.try_clone().unwrap());
    outbox.send(there.as_fd(), &record(1, 0)).unwrap();
    full.wake();
    drains.wake();
    let drain = Drain::new(Reason::RecycleAsked, now, now + PAUSE);
    watch.state().enter(drain.with_receiver(), PolicyId::Recycle);
    assert!(full.take(now, true).is_none() && drains.take(now, false).is_none());
    assert_eq!(
        (full.deadline(true), drains.deadline(false)),
        (None, None),
        "there is nothing to do for them"
    );
    assert_eq!(full.deadline(false), Some(Time::ZERO), "once it has room");
    assert!(full.take(now, false).is_some());

    // At the end of the server, no other worker is left.
    outbox.send(there.as_fd(), &record(2, 0)).unwrap();
    watch.state().backlog_ends();
    assert!(drains.take(now, false).is_none(), "there is a receiver");
    watch.state().enter(drain, PolicyId::Recycle);
    assert_eq!(drains.deadline(true), Some(Time::ZERO));
    assert_eq!(drains.take(now, true).unwrap().record.draw, 2, "however full it is");
}

#[test]
fn d19_connections_are_counted_by_their_origin() {
    let now = Time::from_nanos(1_000);
    let (outbox, queue) = queue().unwrap();
    let (_here, there) = connection();
    let (mut inbox, _) = inbox(queue);
    let moved = ConnectionRecord { handed: Some(Time::from_nanos(300)), ..record(1, 0) };
    for (version, record) in [(1, moved), (1, record(1, 0)), (9, record(1, 0))] {
        outbox.clone().writing(version).send(there.as_fd(), &record).unwrap();
    }
    for turn in 0..4 {
        inbox.wake();
        while inbox.take(now + turn * PAUSE_AFTER_BATCH, false).is_some() {}
    }
    let tally = inbox.counters.tally();
    assert_eq!((tally.accepted, tally.adopted, tally.unusable, tally.queued), (1, 1, 1, 700));
}

#[test]
fn d19_the_wait_of_the_first_is_read_without_taking_it() {
    let (outbox, queue) = queue().unwrap();
    assert_eq!(waiting_since(queue.as_fd()), None);
    let (_here, there) = connection();
    let moved = ConnectionRecord { handed: Some(Time::from_nanos(3)), ..record(1, READ_BUFFER_MAX) };
    outbox.send(there.as_fd(), &moved).unwrap();
    outbox.send(there.as_fd(), &record(1, 0)).unwrap();
    assert_eq!(waiting_since(queue.as_fd()), Some(Time::from_nanos(3)));
    assert_eq!(receive(queue.as_fd()).unwrap().unwrap().record, moved);
    assert_eq!(waiting_since(queue.as_fd()), Some(Time::from_nanos(1)), "since it was accepted");
}

#[test]
fn an_inbox_without_a_sender_is_empty() {
    let (outbox, queue) = queue().unwrap();
    let (_here, there) = connection();
    outbox.send(there.as_fd(), &record(1, 0)).unwrap();
    drop((outbox, there));
    assert!(receive(queue.as_fd()).unwrap().is_some(), "sent is sent");
    assert!(receive(queue.as_fd()).unwrap().is_none());
}
