//! The pipe between a connection and the reader of its request's body.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Wake, Waker};
use std::thread;

use super::*;
use crate::app::{ClientEnd, ConnectionInfo, DrainSignal};
use crate::http1::BodyError;
use crate::peer::Peer;
use crate::testing::Shown;

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// A pipe of ten bytes, its reading end, and the connection's waker.
fn pipe() -> (Arc<Pipe>, Incoming, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    let pipe = Arc::new(Pipe::new(Some(10)));
    drop(pipe.polling(&Waker::from(woken.clone())));
    let drain = DrainSignal::new(Arc::new(Shown::default()));
    let connection = ConnectionInfo { peer: Peer::Unix, requests: 1 };
    let info = RequestInfo {
        drain,
        client_end: ClientEnd::default(),
        connection,
        client: Peer::Unix.into(),
        forwarded_host: None,
        interim: Arc::default(),
        upgrade: None,
    };
    (pipe.clone(), Incoming::new(Some(pipe), info), woken)
}

fn poll(body: &mut Incoming, waker: &Waker) -> Poll<Option<Result<Bytes, BodyError>>> {
    let frame = Pin::new(body).poll_frame(&mut Context::from_waker(waker));
    frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().expect("data"))))
}

#[test]
fn a_request_of_a_future_wakes_the_machine_unless_it_runs() {
    let (pipe, mut body, machine) = pipe();
    assert!(!pipe.is_wanted());
    assert!(poll(&mut body, Waker::noop()).is_pending());
    assert!(pipe.is_wanted());
    assert_eq!(machine.take(), 1);

    let waker = Waker::from(machine.clone());
    let polling = pipe.polling(&waker);
    assert!(poll(&mut body, Waker::noop()).is_pending());
    drop(polling);
    assert_eq!(machine.take(), 0);
    drop(body);
    assert!(pipe.is_abandoned());
    assert_eq!(machine.take(), 1);
}

#[test]
fn a_piece_wakes_its_reader_but_not_the_machine_that_gives_it() {
    let (pipe, mut body, machine) = pipe();
    let (own, reader) = (Waker::from(machine.clone()), Arc::new(Woken::default()));
    assert!(poll(&mut body, &own).is_pending());
    machine.take();
    pipe.give(Bytes::from("abc"), None);
    assert_eq!(machine.take(), 0);
    assert_eq!(poll(&mut body, &own), Poll::Ready(Some(Ok(Bytes::from("abc")))));

    assert!(poll(&mut body, &Waker::from(reader.clone())).is_pending());
    pipe.give(Bytes::from("d"), None);
    assert_eq!(reader.take(), 1);
}

#[test]
fn the_rest_of_a_body_is_its_unread_part() {
    let (pipe, mut body, _) = pipe();
    pipe.give(Bytes::from("0123456789"), Some(HeaderMap::new()));
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(10), false));
    assert!(poll(&mut body, Waker::noop()).is_ready());
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
    assert_eq!(poll(&mut body, Waker::noop()), Poll::Ready(None));
}

#[test]
fn an_ended_connection_wakes_its_reader_and_is_woken_no_more() {
    let (pipe, mut body, machine) = pipe();
    let reader = Arc::new(Woken::default());
    assert!(poll(&mut body, &Waker::from(reader.clone())).is_pending());
    machine.take();
    pipe.close();
    assert_eq!(reader.take(), 1);
    for _ in 0..2 {
        assert_eq!(poll(&mut body, Waker::noop()), Poll::Ready(Some(Err(BodyError::Closed))));
    }
    drop(body);
    assert_eq!((machine.take(), Arc::strong_count(&machine)), (0, 1), "nor kept");
}

#[test]
fn an_end_that_has_been_given_outlives_the_connection() {
    let (pipe, mut body, _) = pipe();
    pipe.give(Bytes::from("all"), Some(HeaderMap::new()));
    pipe.close();
    assert_eq!(poll(&mut body, Waker::noop()), Poll::Ready(Some(Ok(Bytes::from("all")))));
    assert_eq!(poll(&mut body, Waker::noop()), Poll::Ready(None));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a body may move to any thread")]
fn a_reader_that_moves_is_woken_where_it_is() {
    let (pipe, mut body, machine) = pipe();
    let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    assert!(poll(&mut body, &Waker::from(first.clone())).is_pending());
    assert!(poll(&mut body, &Waker::from(second.clone())).is_pending());
    assert_eq!(Arc::strong_count(&first), 1, "the former waker is dropped");
    pipe.give(Bytes::from("x"), None);
    assert_eq!((first.take(), second.take()), (0, 1));

    let moved = Arc::new(Woken::default());
    drop(pipe.polling(&Waker::from(moved.clone())));
    machine.take();
    thread::scope(|scope| drop(scope.spawn(move || drop(body))));
    assert_eq!((machine.take(), moved.take()), (0, 1), "so is the machine");
}
