//! A test double of a protocol with streams: two exchanges at a time on one connection, one with a
//! blocking handler on a thread and one with an async handler inside the step.
//!
//! It speaks frames: the number of the stream, a kind (`H` head, `D` data, `E` end), a length of
//! one byte, and as many bytes. The exchange alone is leased; the machine stays with the loop.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem;
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use super::*;
use crate::app::{App, AsyncCall, Body, Incoming, Kind, LeasedExchange, Service, Storage, answer};
use crate::config::{HIGH_WATER, Limits};
use crate::exchange::{Abort, Answer, BodyRead, BodyState, Exchange, ExchangeState, RespondError, Upgrade};
use crate::http1::{BodyLen, HeadLimits, Parsed, RequestHead, parse_head};
use crate::machine::{CloseReason, Cx, Interest, IoSlices, Machine, Step, Wire};
use crate::peer::{ConnectionInfo, Peer};
use crate::pump::{Io, Next, drive};
use crate::testing::{Pipe, START};
use crate::time::Time;

/// One exchange.
struct Stream {
    body: Vec<u8>,
    body_ended: bool,
    answer: Answer,
    /// Frames that wait to be sent.
    out: Vec<u8>,
}

/// The exchanges of a connection, which handlers on threads share with its machine.
#[derive(Default)]
struct Streams {
    open: Mutex<BTreeMap<u8, Stream>>,
    /// Bytes have arrived, or have been taken.
    changed: Condvar,
}

fn frame(id: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("it is short");
    [&[id, kind, len], payload].concat()
}

/// The view of one stream.
struct StreamExchange<'a> {
    id: u8,
    stream: &'a mut Stream,
}

impl Exchange for StreamExchange<'_> {
    fn info(&self) -> ConnectionInfo {
        ConnectionInfo { peer: Peer::Unix, requests: self.id.into() }
    }

    fn state(&self) -> ExchangeState {
        ExchangeState {
            now: START,
            answer: self.stream.answer,
            body: match self.stream.body_ended && self.stream.body.is_empty() {
                true => BodyState::Ended,
                false => BodyState::Coming(None),
            },
            unsent: self.stream.out.len(),
            sends_content: true,
            sends_trailers: false,
            upgrade: Upgrade::None,
            has_peer_ended: false,
            cancels_on_end: false,
            is_draining: false,
            due: None,
            is_overdue: false,
        }
    }

    fn read_body(&mut self, buffer: &mut [u8]) -> BodyRead {
        let n = buffer.len().min(self.stream.body.len());
        match n {
            0 if self.stream.body_ended => return BodyRead::End,
            0 => return BodyRead::NeedInput,
            _ => {}
        }
        buffer[..n].copy_from_slice(&self.stream.body[..n]);
        self.stream.body.drain(..n);
        BodyRead::Data(n)
    }

    fn trailers(&mut self) -> HeaderMap {
        HeaderMap::new()
    }

    fn discard_body(&mut self) {
        self.stream.body.clear();
    }

    fn interim(&mut self, _: &ResponseHead) -> Result<(), RespondError> {
        Ok(())
    }

    fn respond(&mut self, head: &ResponseHead, _: BodyLen) -> Result<(), RespondError> {
        self.stream.answer = Answer::Begun;
        self.stream.out.extend(frame(self.id, b'H', head.status().to_string().as_bytes()));
        Ok(())
    }

    fn upgrade(&mut self, _: &ResponseHead) -> Result<(), RespondError> {
        Err(RespondError::NotOffered)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, RespondError> {
        if self.stream.out.len() >= HIGH_WATER {
            return Ok(0);
        }
        let n = bytes.len().min(usize::from(u8::MAX));
        self.stream.out.extend(frame(self.id, b'D', &bytes[..n]));
        Ok(n)
    }

    fn write_shared(&mut self, bytes: Bytes) -> Result<(), RespondError> {
        bytes
            .chunks(usize::from(u8::MAX))
            .for_each(|piece| self.stream.out.extend(frame(self.id, b'D', piece)));
        Ok(())
    }

    fn finish(&mut self, _: Option<&HeaderMap>) -> Result<(), RespondError> {
        if mem::replace(&mut self.stream.answer, Answer::Over) == Answer::Begun {
            self.stream.out.extend(frame(self.id, b'E', b""));
        }
        Ok(())
    }

    fn abort(&mut self, why: Abort) {
        panic!("no exchange of these tests fails: {why:?}");
    }
}

/// The lease of one stream on a thread: without expiry, and without the connection.
struct StreamLease {
    id: u8,
    streams: Arc<Streams>,
    machine: Waker,
}

impl StreamLease {
    fn is_waiting(stream: &Stream) -> bool {
        stream.body.is_empty() && !stream.body_ended
    }
}

impl LeasedExchange for StreamLease {
    type Exchange<'e> = StreamExchange<'e>;

    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut StreamExchange<'e>) -> R) -> Option<R> {
        let mut open = self.streams.open.lock().expect("not poisoned");
        open.get_mut(&self.id).map(|stream| work(&mut StreamExchange { id: self.id, stream }))
    }

    fn advance(&mut self) -> io::Result<()> {
        self.push();
        let open = self.streams.open.lock().expect("not poisoned");
        let waits = |open: &mut BTreeMap<u8, Stream>| open.get(&self.id).is_some_and(Self::is_waiting);
        drop(self.streams.changed.wait_while(open, waits).expect("not poisoned"));
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn push(&mut self) {
        self.machine.wake_by_ref();
    }

    fn look_for_end(&mut self) {}

    fn look_for_reset(&mut self) {}
}

/// The machine of a connection.
struct Frames {
    received: Vec<u8>,
    space: [u8; 1024],
    queue: Vec<u8>,
    streams: Arc<Streams>,
    service: Arc<Service>,
    calls: BTreeMap<u8, AsyncCall>,
    storage: Storage,
    is_over: bool,
}

impl Frames {
    fn new(service: Arc<Service>) -> Self {
        Self {
            received: Vec::new(),
            space: [0; 1024],
            queue: Vec::new(),
            streams: Arc::default(),
            service,
            calls: BTreeMap::new(),
            storage: Storage::default(),
            is_over: false,
        }
    }

    fn take_in(&mut self, cx: &Cx<'_>) {
        while let [id, kind, len, rest @ ..] = &self.received[..]
            && rest.len() >= usize::from(*len)
        {
            let (id, kind, payload) = (*id, *kind, rest[..usize::from(*len)].to_vec());
            self.received.drain(..3 + payload.len());
            let mut open = self.streams.open.lock().expect("not poisoned");
            match kind {
                b'H' => {
                    let answer = Answer::Awaited;
                    open.insert(id, Stream { body: Vec::new(), body_ended: false, answer, out: Vec::new() });
                    drop(open);
                    self.begin(id, &payload, cx);
                }
                b'D' => open.get_mut(&id).expect("it is open").body.extend(payload),
                _ => open.get_mut(&id).expect("it is open").body_ended = true,
            }
            self.streams.changed.notify_all();
        }
    }

    /// Calls the handler of a stream: a blocking one by a lease, on a thread.
    #[allow(clippy::disallowed_methods, reason = "a blocking handler runs on a thread")]
    fn begin(&mut self, id: u8, head: &[u8], cx: &Cx<'_>) {
        let Limits { head: most, request_line, fields, field_size, framing, .. } = Limits::default();
        let limits = HeadLimits { head: most, request_line, fields, field_size, framing };
        let mut request: Box<RequestHead> = Box::default();
        assert!(matches!(parse_head(head, limits, &mut request), Parsed::Complete(_)));
        request.buf = head.to_vec();
        if request.view().path() == "/blocking" {
            let mut lease = StreamLease { id, streams: self.streams.clone(), machine: cx.waker.clone() };
            let service = self.service.clone();
            let info = ConnectionInfo { peer: Peer::Unix, requests: id.into() };
            thread::spawn(move || {
                let ended = answer(&shout, &request, info, &service, &mut lease);
                assert!(ended.is_some(), "its lease has no expiry");
                lease.push();
            });
            return;
        }
        let Kind::Future(call) = &self.service.app.kind else { panic!("the application is async") };
        let mut open = self.streams.open.lock().expect("not poisoned");
        let exchange = StreamExchange { id, stream: open.get_mut(&id).expect("it is open") };
        let call = AsyncCall::begin(call, &request, &exchange, &self.service, &mut self.storage, cx.waker);
        self.calls.insert(id, call.expect("a request that http can represent"));
    }
}

impl Machine for Frames {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        self.take_in(cx);
        let mut open = self.streams.open.lock().expect("not poisoned");
        self.calls.retain(|id, call| {
            let mut exchange = StreamExchange { id: *id, stream: open.get_mut(id).expect("it is open") };
            !call.poll(&mut exchange, &self.service, &mut self.storage, cx.waker)
        });
        open.values_mut().for_each(|stream| self.queue.append(&mut stream.out));
        open.retain(|_, stream| stream.answer != Answer::Over);
        if self.is_over && open.is_empty() && self.queue.is_empty() {
            return Step::Close(CloseReason::PeerClosed);
        }
        Step::Wait {
            interest: Interest { read: !self.is_over, write: !self.queue.is_empty() },
            deadline: None,
        }
    }
}

impl Wire for Frames {
    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.space
    }

    fn handle_read(&mut self, n: usize, _: Time) {
        self.received.extend_from_slice(&self.space[..n]);
    }

    fn handle_eof(&mut self, _: Time) {
        self.is_over = true;
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        out.push(&self.queue);
    }

    fn handle_written(&mut self, n: usize, _: Time) {
        self.queue.drain(..n);
    }
}

/// A blocking handler: answers with the body in capital letters, once it has all of it.
fn shout(_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    let mut text = String::new();
    body.read_to_string(&mut text)?;
    Ok(out.send(ResponseHead::new(200), text.to_uppercase())?)
}

/// An async handler: answers with each piece of the body as it arrives.
fn echo(request: Request<Incoming>) -> Response<Body> {
    Response::new(Body::new(request.into_body()))
}

/// The frames among `bytes`, as text.
fn read(mut bytes: &[u8]) -> Vec<String> {
    let mut frames = Vec::new();
    while let [id, kind, len, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at((*len).into());
        frames.push(format!("{id}{} {}", char::from(*kind), payload.escape_ascii()));
        bytes = rest;
    }
    frames
}

#[test]
fn two_exchanges_of_one_connection_are_answered_at_a_time() {
    let bench = futures::served(|request| async move { echo(request) });
    let app: &App = &bench.service.app;
    assert!(app.is_future());
    let (pipe, mut machine) = (Pipe::default(), Frames::new(bench.service.clone()));
    let mut io = Io::new(pipe.clone());
    let mut sends = |frames: &[Vec<u8>], expected: &[&str]| {
        pipe.0.borrow_mut().incoming.extend(frames.concat());
        io.ready(crate::pump::Readiness { readable: true, ..Default::default() });
        loop {
            let next = drive(&mut machine, &mut io, &bench.world.cx());
            let seen = read(&pipe.0.borrow().outgoing);
            if seen.len() >= expected.len() {
                assert_eq!(seen, expected);
                pipe.0.borrow_mut().outgoing.clear();
                return next;
            }
            bench.world.alert.wait();
            bench.world.alert.take();
        }
    };
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();

    // The blocking handler waits on its thread, and the other stream goes on meanwhile.
    sends(
        &[
            frame(1, b'H', &head("/blocking")),
            frame(1, b'D', b"lo"),
            frame(2, b'H', &head("/")),
            frame(2, b'D', b"a piece"),
        ],
        &["2H 200", "2D a piece"],
    );
    // The blocking handler is answered while the async one waits for more.
    sends(&[frame(1, b'D', b"ud"), frame(1, b'E', b"")], &["1H 200", "1D LOUD", "1E "]);
    sends(&[frame(2, b'D', b"and another"), frame(2, b'E', b"")], &["2D and another", "2E "]);
    pipe.0.borrow_mut().eof = true;
    assert_eq!(sends(&[], &[]), Next::Close(CloseReason::PeerClosed));
}
