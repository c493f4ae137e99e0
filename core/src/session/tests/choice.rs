//! The choice of a protocol by the first bytes of a connection.

use super::*;
use crate::app::Service;
use crate::app::streams::{ExchangeCall, Opening, OtherProtocol, Streams};
use crate::conn::Connection;
use crate::machine::{CloseReason, Cx, Interest, IoSlices, Machine, Step, Wire};
use crate::peer::Origin;
use crate::proxy::ProxyProtocol;
use crate::session::Protocol;
use crate::testing::{Event, START};
use crate::time::Time;

const PREFACE: &str = "GEM ";

/// A protocol that begins with the preface and sends back what follows, until its peer ends.
struct Echo;

impl OtherProtocol for Echo {
    fn is_begun_by(&self, origin: &Origin, first: &[u8]) -> Option<bool> {
        assert_eq!(origin.draw, 7);
        let compared = first.len().min(PREFACE.len());
        match first[..compared] == PREFACE.as_bytes()[..compared] {
            true if compared < PREFACE.len() => None,
            is_begun => Some(is_begun),
        }
    }

    fn machine(&self, opening: Opening) -> Box<dyn Streams> {
        assert_eq!(opening.accepted, START);
        let prefix = format!("<{}>", opening.connection.peer);
        let out = [prefix.as_bytes(), &opening.received[PREFACE.len()..]].concat();
        Box::new(Echoing { space: [0; 64], out, has_ended: false })
    }
}

struct Echoing {
    space: [u8; 64],
    out: Vec<u8>,
    has_ended: bool,
}

impl Machine for Echoing {
    fn step(&mut self, _: &Cx<'_>) -> Step {
        match self.has_ended && self.out.is_empty() {
            true => Step::Close(CloseReason::PeerClosed),
            false => Step::Wait {
                interest: Interest { read: !self.has_ended, write: !self.out.is_empty() },
                deadline: None,
            },
        }
    }
}

impl Wire for Echoing {
    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.space
    }

    fn handle_read(&mut self, n: usize, _: Time) {
        self.out.extend_from_slice(&self.space[..n]);
    }

    fn handle_eof(&mut self, _: Time) {
        self.has_ended = true;
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        out.push(&self.out);
    }

    fn handle_written(&mut self, n: usize, _: Time) {
        self.out.drain(..n);
    }
}

impl Streams for Echoing {
    fn next_call(&mut self) -> Option<ExchangeCall> {
        None
    }

    fn return_call(&mut self, _: ExchangeCall) {}

    fn end(&mut self, _: CloseReason) {
        self.has_ended = true;
    }
}

/// A bench whose application is also served over [`Echo`].
fn either() -> Bench {
    short_bench().serving_as(over)
}

fn over(service: Service) -> Service {
    let app = service.app.clone().over(Echo);
    Service { app, ..service }
}

#[test]
fn the_first_bytes_choose_however_they_arrive() {
    let (other, http) = (format!("{PREFACE}and more"), get("/"));
    for cut in 0..=other.len() {
        let mut bench = either().bytes(0, &other[..cut]).bytes(5, &other[cut..]).at(9, Event::Eof);
        let transcript = bench.run();
        assert_eq!(transcript.out, "<unix>and more", "cut at {cut}");
        assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
    }
    for cut in 0..=http.len() {
        let mut bench = either().bytes(0, &http[..cut]).bytes(5, &http[cut..]).at(9, Event::Eof);
        let transcript = bench.run();
        assert!(transcript.out.ends_with("\r\n\r\nhello"), "cut at {cut}: {transcript:?}");
    }
}

#[test]
fn later_requests_do_not_choose() {
    let script = get("/") + PREFACE;
    let transcript = either().bytes(0, script).at(9, Event::Eof).run();
    assert_eq!(count(&transcript.out, "HTTP/1.1 "), 1, "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::PeerAborted));
}

#[test]
fn a_connection_without_a_choice_ends_as_one_with_half_a_head() {
    for first in ["", "GE"] {
        let plain = short_bench().bytes(0, first).run();
        assert_eq!(either().bytes(0, first).run(), plain, "{first:?}: by time");
        let plain = short_bench().bytes(0, first).at(5, Event::Eof).run();
        assert_eq!(either().bytes(0, first).at(5, Event::Eof).run(), plain, "{first:?}: by its peer");
        let plain = short_bench().bytes(0, first).drain(5, 2000).run();
        assert_eq!(either().bytes(0, first).drain(5, 2000).run(), plain, "{first:?}: by a drain");
    }
}

#[test]
fn the_bytes_behind_a_proxy_header_choose() {
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n";
    let script = format!("{header}{PREFACE}x");
    for cut in 0..=script.len() {
        let mut bench = either().limits(|limits| limits.proxies.proxy_protocol = ProxyProtocol::V1);
        bench = bench.bytes(0, &script[..cut]).bytes(5, &script[cut..]).at(9, Event::Eof);
        assert_eq!(bench.run().out, "<192.0.2.1:4660>x", "cut at {cut}");
    }
}

#[test]
fn a_connection_that_moves_before_the_choice_chooses_in_the_other_worker() {
    let mut first = either().bytes(0, "GE");
    first.until(10);
    let record = first.session.as_ref().unwrap().hand_off(first.world.now).expect("it moves");
    let again = Connection::resume(record, first.world.now);
    let mut second = either();
    second.session = Some(crate::session::Session::new(again, second.service.clone()));
    assert_eq!(second.bytes(20, "M on").at(30, Event::Eof).run().out, "<unix>on");
}

#[test]
fn a_connection_of_another_protocol_is_not_handed_off() {
    let mut bench = either().bytes(0, PREFACE);
    bench.until(10);
    let session = bench.session.as_ref().expect("it is there");
    assert!(session.connection().is_none());
    assert!(session.hand_off(bench.world.now).is_none());
}

#[test]
fn without_another_protocol_there_is_no_choice() {
    let transcript = short_bench().bytes(0, format!("{PREFACE}x\r\n\r\n")).at(9, Event::Eof).run();
    assert!(transcript.out.starts_with("HTTP/1.1 400 "), "{transcript:?}");
}
