use std::io::Read;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use http::HeaderMap;

use super::*;
use crate::app::{App, AppError, BodyReader, Counters, DrainSignal, Responder};
use crate::exchange::{Abort, Answer, BodyRead, BodyState, ExchangeState, RespondError};
use crate::http1::{BodyLen, Head, HttpDate, ResponseHead};
use crate::peer::Peer;
use crate::shutdown::Finish;
use crate::testing::{Alert, START, Shown};

/// A stream whose body is this text. It is complete once there is any.
#[derive(Default)]
struct Text {
    body: Vec<u8>,
    status: u16,
}

struct TextExchange<'a>(&'a mut Text);

impl StreamState for Text {
    type Exchange<'e> = TextExchange<'e>;

    fn exchange<'e>(&'e mut self, _: &Cx<'_>) -> TextExchange<'e> {
        TextExchange(self)
    }
}

impl Exchange for TextExchange<'_> {
    fn info(&self) -> ConnectionInfo {
        INFO
    }

    fn state(&self) -> ExchangeState {
        let answer = if self.0.status == 0 { Answer::Awaited } else { Answer::Begun };
        ExchangeState::new(START, answer, BodyState::Coming(None))
    }

    fn read_body(&mut self, buffer: &mut [u8]) -> BodyRead {
        let n = self.0.body.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.0.body[..n]);
        if n == 0 { BodyRead::NeedInput } else { BodyRead::Data(n) }
    }

    fn trailers(&mut self) -> HeaderMap {
        HeaderMap::new()
    }

    fn discard_body(&mut self) {}

    fn interim(&mut self, _: &ResponseHead) -> Result<(), RespondError> {
        Ok(())
    }

    fn respond(&mut self, head: &ResponseHead, _: BodyLen) -> Result<(), RespondError> {
        self.0.status = head.status();
        Ok(())
    }

    fn upgrade(&mut self, _: &ResponseHead) -> Result<(), RespondError> {
        Err(RespondError::NotOffered)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, RespondError> {
        Ok(bytes.len())
    }

    fn write_shared(&mut self, _: Bytes) -> Result<(), RespondError> {
        Ok(())
    }

    fn finish(&mut self, _: Option<&HeaderMap>) -> Result<(), RespondError> {
        Ok(())
    }

    fn abort(&mut self, _: Abort) {}
}

const INFO: ConnectionInfo = ConnectionInfo { peer: Peer::Unix, requests: 1 };

/// A thread beside the loop, or the loop's own, whose machine does `work` when it is driven.
struct At<'a> {
    cx: Cx<'a>,
    work: Option<&'a mut dyn FnMut()>,
}

impl CallPlace for At<'_> {
    fn cx(&mut self) -> Cx<'_> {
        self.cx
    }

    fn drive(&mut self, may_continue: &dyn Fn() -> bool) -> Option<io::Result<()>> {
        let work = self.work.as_mut()?;
        work();
        assert!(may_continue(), "it would wait for ever");
        Some(Ok(()))
    }
}

fn with_cx<R>(work: impl FnOnce(Cx<'_>) -> R) -> R {
    let (date, limits) = (HttpDate::from_unix(0), Limits::default());
    work(Cx::new(START, &date, Waker::noop(), &limits, &Finish))
}

fn service(
    handler: impl Fn(&Head<'_>, BodyReader<'_>, Responder<'_>) -> Result<(), AppError> + Send + Sync + 'static,
) -> Arc<Service> {
    let drain = DrainSignal::new(Arc::new(Shown::default()));
    Arc::new(Service::new(App::blocking(handler), drain, Arc::new(Counters::default())))
}

/// Answers 200 once there is a body.
fn read_once(_: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    let n = body.read(&mut [0; 8])?;
    Ok(out.send(ResponseHead::new(200 + n as u16), "")?)
}

fn head() -> Box<RequestHead> {
    parse_head(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", &Limits::default()).expect("it is valid")
}

#[allow(clippy::disallowed_methods, reason = "a handler elsewhere runs on a thread")]
fn on_thread(work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(work)
}

/// An exchange, the call of its handler, and what the call wakes.
fn lent(service: &Arc<Service>) -> (SharedExchange<Text>, ExchangeCall, Arc<Alert>) {
    let (shared, alert) = (SharedExchange::new(Text::default()), Arc::new(Alert::default()));
    let call = shared.lend(head(), INFO, service.clone(), Waker::from(alert.clone()));
    (shared, call, alert)
}

#[test]
fn a_handler_elsewhere_waits_until_its_machine_has_changed_the_exchange() {
    let service = service(read_once);
    let (shared, mut call, alert) = lent(&service);
    let handler = on_thread(move || with_cx(|cx| call.run(&mut At { cx, work: None })));
    alert.wait();
    assert!(shared.is_lent(), "the handler waits, and has woken its machine");
    shared.with(|text| text.body = b"abc".to_vec());
    assert!(!handler.is_finished());
    shared.notify();
    handler.join().expect("it ends");
    assert_eq!((shared.is_lent(), shared.with(|text| text.status)), (false, Some(203)));
}

#[test]
fn a_handler_on_the_loop_drives_its_machine_while_it_waits() {
    let service = service(read_once);
    let (shared, mut call, _) = lent(&service);
    let mut driven = 0;
    let mut work = || {
        driven += 1;
        shared.with(|text| text.body = b"ab".to_vec());
        shared.notify();
    };
    with_cx(|cx| call.run(&mut At { cx, work: Some(&mut work) }));
    assert_eq!((shared.is_lent(), shared.with(|text| text.status)), (false, Some(202)));
    assert!(driven > 0);
}

#[test]
fn a_handler_whose_exchange_is_taken_away_gets_errors() {
    let (give, seen) = channel();
    let service = service(move |_, mut body, out| {
        let read = body.read(&mut [0; 8]).map_err(|error| error.kind());
        let sent = out.send(ResponseHead::new(200), "").map_err(|error| error.kind());
        Ok(give.send((read, sent))?)
    });
    let (shared, mut call, alert) = lent(&service);
    let handler = on_thread(move || with_cx(|cx| call.run(&mut At { cx, work: None })));
    alert.wait();
    assert_eq!(shared.take().expect("it is there").status, 0);
    let expected = (Err(io::ErrorKind::TimedOut), Err(io::ErrorKind::TimedOut));
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok(expected));
    handler.join().expect("it ends");
    assert!(!shared.is_lent());
}

#[test]
fn a_handler_does_not_begin_once_its_exchange_was_taken_away() {
    let service = service(|_, _, _| panic!("it is called"));
    let (shared, mut call, alert) = lent(&service);
    shared.take();
    assert!(shared.is_lent());
    with_cx(|cx| call.run(&mut At { cx, work: None }));
    drop(call);
    assert_eq!((shared.is_lent(), alert.take(), service.counters.panics.get()), (false, 1, 0));
}

#[test]
fn a_dropped_call_returns_its_exchange() {
    let service = service(|_, _, _| panic!("it is called"));
    let (shared, call, alert) = lent(&service);
    drop(call);
    assert_eq!((shared.is_lent(), alert.take()), (false, 1));
    assert_eq!(shared.with(|text| text.status), Some(0), "the machine answers");
}

#[test]
fn a_panic_of_a_handler_returns_its_exchange() {
    let service = service(|_, _, _| panic!("as it was asked to"));
    let (shared, mut call, _) = lent(&service);
    with_cx(|cx| call.run(&mut At { cx, work: None }));
    assert_eq!((shared.is_lent(), shared.with(|text| text.status)), (false, Some(500)));
    assert_eq!(service.counters.panics.get(), 1);
}

#[test]
fn a_head_has_to_be_whole_and_alone() {
    let limits = Limits::default();
    let text = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(parse_head(text, &limits).expect("it is valid").view().path(), "/a");
    assert!(parse_head(&text[..text.len() - 1], &limits).is_err());
    assert!(parse_head(&[text, &b"x"[..]].concat(), &limits).is_err());
    assert_eq!(parse_head(b"GET\r\n\r\n", &limits).err(), Some(Refusal::BadRequestLine));
}

#[test]
fn a_request_is_counted_once_by_its_end() {
    let service = service(read_once);
    let request = || CountedRequest::new(service.clone(), START);
    let (answered, cut, dropped, _open) = (request(), request(), request(), request());
    answered.answered(404, START + Duration::from_millis(3));
    cut.cut();
    drop(dropped);
    let tally = service.counters.tally();
    assert_eq!((tally.requests, tally.statuses[3], tally.finished), (4, 1, 1));
    assert_eq!((tally.aborted, tally.cut, tally.in_flight()), (2, 1, 1));
}
