use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Wake;
use std::time::Duration;

use super::*;
use crate::worker::{Bound, Ownership, handoff};

/// Longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an event is watched for that must not happen.
const WHILE: Duration = Duration::from_millis(100);

/// A loop that asks for connections and is woken.
struct Asker {
    thread: AcceptThread,
    waker: Waker,
    woken: Receiver<()>,
    entries: Entries,
    counters: Arc<Counters>,
}

struct Wakes(Mutex<Sender<()>>);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().send(()).unwrap();
    }
}

impl Asker {
    fn new(listener: &TcpListener) -> Self {
        Self::with_outbox(listener, None)
    }

    fn with_outbox(listener: &TcpListener, outbox: Option<Outbox>) -> Self {
        let bound = Bound::Inet(listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(listener.try_clone().unwrap());
        let listeners = vec![Listener::new(3, socket, bound, Ownership::Sole)];
        let (entries, counters) = (Entries::map().unwrap(), Arc::new(Counters::default()));
        let thread = AcceptThread::start(listeners, outbox, Some(entries), counters.clone()).unwrap();
        let (wake, woken) = channel();
        let waker = Arc::new(Wakes(Mutex::new(wake))).into();
        Self { thread, waker, woken, entries, counters }
    }

    fn ask(&self) -> Poll<Option<Accepted>> {
        self.thread.poll_accept(&Context::from_waker(&self.waker)).map(|next| next.map(Result::unwrap))
    }

    /// How many connections are published.
    fn published(&self) -> usize {
        self.entries.used().iter().filter(|entry| entry.is_taken()).count()
    }

    /// Waits for the answer.
    fn answer(&self) -> Option<Accepted> {
        loop {
            match self.ask() {
                Poll::Ready(answer) => return answer,
                Poll::Pending => self.woken.recv_timeout(PATIENCE).expect("an answer"),
            }
        }
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn connect(listener: &TcpListener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).unwrap()
}

/// Whether a connection waits in the queue.
fn has_backlog(listener: &TcpListener) -> bool {
    listener.accept().is_ok()
}

#[test]
fn each_request_has_one_answer() {
    let listener = listener();
    let asker = Asker::new(&listener);
    let clients = [(); 3].map(|()| connect(&listener));
    for _ in &clients[..2] {
        assert_eq!(asker.answer().unwrap().listener, 3);
    }
    assert!(asker.woken.recv_timeout(WHILE).is_err());
    assert!(has_backlog(&listener), "it was accepted without a request");
}

#[test]
fn a_later_connection_wakes_the_task_that_asked() {
    let listener = listener();
    let asker = Asker::new(&listener);
    assert!(asker.ask().is_pending());
    assert!(asker.ask().is_pending());
    let client = connect(&listener);
    let accepted = asker.answer().unwrap();
    assert_eq!(accepted.peer, crate::peer::Peer::Inet(client.local_addr().unwrap()));
}

#[test]
fn a_loop_that_does_not_ask_takes_no_share() {
    let listener = listener();
    let [busy, idle] = [(); 2].map(|()| Asker::new(&listener));
    // The loop had received its one connection before it hung.
    assert!(busy.ask().is_pending());
    let mut clients = vec![connect(&listener)];
    busy.woken.recv_timeout(PATIENCE).unwrap();
    for _ in 0..20 {
        clients.push(connect(&listener));
        assert!(idle.answer().is_some());
    }
    assert!(busy.ask().is_ready());
}

#[test]
fn a_connection_that_the_loop_does_not_take_goes_to_another_worker() {
    let listener = listener();
    let (outbox, queue) = handoff::queue().unwrap();
    let asker = Asker::with_outbox(&listener, Some(outbox));
    assert!(asker.ask().is_pending());
    let client = connect(&listener);
    asker.woken.recv_timeout(PATIENCE).unwrap();
    assert_eq!((asker.published(), asker.counters.accepted.get()), (1, 1), "a keeper would have it");
    poll(&mut [PollFd::new(&queue, PollFlags::IN)], None).unwrap();
    let adopted = handoff::receive(queue.as_fd()).unwrap().expect("the connection");
    assert_eq!((adopted.record.listener, adopted.record.served), (3, 0));
    assert_eq!(adopted.record.peer, crate::peer::Peer::Inet(client.local_addr().unwrap()));
    // It is the other worker's now.
    assert_eq!(asker.published(), 0);
    while asker.counters.handed.get() == 0 {
        thread::yield_now();
    }
    // The loop has not received it, and may ask again.
    assert!(asker.ask().is_pending());
    let _next = connect(&listener);
    assert!(asker.answer().is_some());
}

#[test]
fn closing_ends_a_request_and_closes_the_listener() {
    let listener = listener();
    let asker = Asker::new(&listener);
    assert!(asker.ask().is_pending());
    asker.thread.close();
    assert!(asker.answer().is_none());
    let client = connect(&listener);
    assert!(asker.answer().is_none());
    assert!(has_backlog(&listener));
    // The test holds the last descriptor of the listener now.
    let addr = listener.local_addr().unwrap();
    drop((client, listener));
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn closing_loses_no_connection_that_was_accepted_before() {
    let listener = listener();
    let asker = Asker::new(&listener);
    assert!(asker.ask().is_pending());
    let _client = connect(&listener);
    asker.woken.recv_timeout(PATIENCE).unwrap();
    asker.thread.close();
    assert!(asker.answer().is_some());
    assert!(asker.answer().is_none());
}

#[test]
fn closing_ends_a_thread_without_a_request() {
    let listener = listener();
    let asker = Asker::new(&listener);
    asker.thread.close();
    assert!(asker.answer().is_none());
}
