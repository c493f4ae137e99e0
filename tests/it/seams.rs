//! One machine, three ways to wait: the interfaces that every backend uses.
//!
//! A session is driven by poll(2), by mio and by an async task, each over a real socket. The drive
//! loop, the machine and the application are the same. The transcripts must be equal to the byte,
//! however the request is split.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use remuda_core::app::{
    App, AppError, BodyReader, Counters, DrainSignal, DrainWatch, Handler, Responder, Service,
};
use remuda_core::config::Limits;
use remuda_core::conn::Connection;
use remuda_core::http1::{Head, ResponseHead};
use remuda_core::machine::{CloseReason, Cx, Deadline, Interest, Transport, Wants};
use remuda_core::peer::{Origin, Peer};
use remuda_core::pump::{Io, Next, Readiness, drive};
use remuda_core::session::Session;
use remuda_core::shutdown::{Drain, Finish};
use remuda_core::time::Time;
use remuda_core::worker::{Clock, Socket, sys};

/// Requests of every kind that needs no second thread. The last one announces close.
const SCRIPT: &[u8] = b"GET /a HTTP/1.1\r\nHost: seams\r\n\r\n\
    POST /b HTTP/1.1\r\nHost: seams\r\nContent-Length: 5\r\n\r\nhello\
    POST /c HTTP/1.1\r\nHost: seams\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n\
    HEAD /d HTTP/1.1\r\nHost: seams\r\nConnection: close\r\n\r\n";

#[test]
fn three_drivers_give_one_transcript() {
    let whole = [SCRIPT.len()];
    let bytes = [1; SCRIPT.len()];
    let expected = transcript(by_poll, &whole);
    assert_eq!(expected.matches("HTTP/1.1 200 OK").count(), 4, "{expected}");
    assert!(expected.contains("POST /b: hello") && expected.contains("POST /c: abcdefg"), "{expected}");
    for (name, driver) in [("poll", by_poll as Driver), ("mio", by_mio), ("async", by_task)] {
        for pieces in [&whole[..], &bytes[..], &[40, 60, 30, 90][..]] {
            assert_eq!(transcript(driver, pieces), expected, "{name}, in {} pieces", pieces.len());
        }
    }
}

type Driver = fn(TcpStream, &mut Session) -> io::Result<CloseReason>;

/// The responses to a client that sends the script in pieces, without dates.
fn transcript(driver: Driver, pieces: &[usize]) -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port is free");
    let addr = listener.local_addr().expect("a listener has an address");
    let server = thread::spawn(move || {
        let (stream, peer) = listener.accept().expect("the client connects");
        stream.set_nonblocking(true).expect("a socket can be non-blocking");
        let mut session = session(Peer::Inet(peer));
        driver(stream, &mut session).expect("the driver's own calls do not fail")
    });
    let mut client = TcpStream::connect(addr).expect("the server listens");
    client.set_nodelay(true).expect("a TCP socket has Nagle's algorithm");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("ten seconds are a timeout");
    let mut rest = SCRIPT;
    for len in pieces {
        let (piece, after) = rest.split_at((*len).min(rest.len()));
        client.write_all(piece).expect("the server reads");
        rest = after;
    }
    client.write_all(rest).expect("the server reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the server answers and ends");
    client.shutdown(Shutdown::Both).ok();
    drop(client);
    assert_eq!(server.join().expect("the server does not panic"), CloseReason::Finished);
    answer.lines().filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\n")
}

/// Answers with the request's method, path and body.
struct Told;

impl Handler for Told {
    fn call(&self, head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        let mut text = format!("{} {}: ", head.method(), head.path());
        body.read_to_string(&mut text)?;
        Ok(out.send(ResponseHead::new(200), text)?)
    }

    fn is_short(&self, _: &Head<'_>) -> bool {
        true
    }
}

struct NoDrain;

impl DrainWatch for NoDrain {
    fn drain(&self) -> Option<Drain> {
        None
    }

    fn wait(&self, _: Duration) -> bool {
        false
    }

    fn register(&self, _: &Waker, _: Option<usize>) -> usize {
        0
    }

    fn deregister(&self, _: usize) {}

    fn now(&self) -> Time {
        sys::now()
    }
}

fn session(peer: Peer) -> Session {
    let drain = DrainSignal::new(Arc::new(NoDrain));
    let service = Service::new(App::blocking(Told), drain, Arc::new(Counters::default()));
    Session::new(Connection::new(Origin::new(0, peer, 0), sys::now()), Arc::new(service))
}

/// Runs the drive loop up to its next wait, or to the end.
fn go<T: Transport>(
    session: &mut Session,
    io: &mut Io<T>,
) -> Result<(Interest, Option<Deadline>), CloseReason> {
    let (clock, limits) = (Clock::new(), Limits::default());
    let cx = Cx::new(clock.now(), clock.date(), Waker::noop(), &limits, &Finish);
    loop {
        match drive(session, io, &cx) {
            Next::Wait { interest, deadline } => return Ok((interest, deadline)),
            Next::Again => {}
            Next::Close(reason) => return Err(reason),
            other => panic!("{other:?} of a short handler"),
        }
    }
}

/// The time left until a deadline.
fn left(deadline: Option<Deadline>) -> Option<Duration> {
    deadline.map(|deadline| deadline.at - sys::now())
}

fn by_poll(stream: TcpStream, session: &mut Session) -> io::Result<CloseReason> {
    use rustix::event::{PollFd, PollFlags, poll};

    let mut io = Io::new(Socket::new(OwnedFd::from(stream)));
    loop {
        let (interest, deadline) = match go(session, &mut io) {
            Ok(wait) => wait,
            Err(reason) => return Ok(reason),
        };
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, interest.read);
        events.set(PollFlags::OUT, interest.write);
        let mut fds = [PollFd::new(io.transport(), events)];
        let timeout = left(deadline).map(|left| left.try_into().expect("a deadline is near"));
        poll(&mut fds, timeout.as_ref())?;
        let got = fds[0].revents();
        io.ready(Readiness {
            readable: got.intersects(PollFlags::IN | PollFlags::HUP),
            writable: got.contains(PollFlags::OUT),
            read_closed: got.contains(PollFlags::HUP),
            ..Readiness::default()
        });
    }
}

fn by_mio(stream: TcpStream, session: &mut Session) -> io::Result<CloseReason> {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(0), both)?;
    let mut io = Io::new(Socket::new(OwnedFd::from(stream)));
    loop {
        let (_, deadline) = match go(session, &mut io) {
            Ok(wait) => wait,
            Err(reason) => return Ok(reason),
        };
        poll.poll(&mut events, left(deadline))?;
        for event in &events {
            io.ready(Readiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                ..Readiness::default()
            });
        }
    }
}

fn by_task(stream: TcpStream, session: &mut Session) -> io::Result<CloseReason> {
    use smol::future::or;
    use smol::{Async, Timer};

    smol::block_on(async {
        let mut io = Io::new(Task(Async::new(stream)?));
        loop {
            let (interest, deadline) = match go(session, &mut io) {
                Ok(wait) => wait,
                Err(reason) => return Ok(reason),
            };
            let stream = &io.transport().0;
            let readable = async {
                match interest.read {
                    true => stream.readable().await.map(|()| (true, false)),
                    false => smol::future::pending().await,
                }
            };
            let writable = async {
                match interest.write {
                    true => stream.writable().await.map(|()| (false, true)),
                    false => smol::future::pending().await,
                }
            };
            let late = async {
                match left(deadline) {
                    Some(left) => Timer::after(left).await,
                    None => smol::future::pending().await,
                };
                Ok((false, false))
            };
            let (readable, writable) = or(or(readable, writable), late).await?;
            io.ready(Readiness { readable, writable, ..Readiness::default() });
        }
    })
}

/// A transport over a type that hides its descriptor.
struct Task(smol::Async<TcpStream>);

impl Transport for Task {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_ref().read(buffer)
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_ref().write_vectored(slices)
    }

    fn close_write(&mut self) -> io::Result<()> {
        self.0.get_ref().shutdown(Shutdown::Write)
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }
}
