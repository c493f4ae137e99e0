//! The drive loop and its readiness bits, over a machine that does as it is told.

use super::*;
use crate::config::Limits;
use crate::http1::HttpDate;
use crate::machine::Timer;
use crate::shutdown::Finish;
use crate::testing::{Pipe, START};

/// Reads into a buffer of a few bytes, and writes what it has.
#[derive(Debug)]
struct Echo {
    buffer: [u8; 8],
    read: Vec<u8>,
    unsent: Vec<u8>,
    eof: bool,
    /// What it says instead of waiting.
    says: Option<Step>,
    /// What it says once the peer has ended its side.
    says_at_eof: Option<Step>,
    steps: u32,
}

impl Echo {
    fn new(unsent: &[u8]) -> Self {
        Self {
            buffer: [0; 8],
            read: Vec::new(),
            unsent: unsent.to_vec(),
            eof: false,
            says: None,
            says_at_eof: None,
            steps: 0,
        }
    }
}

impl Wire for Echo {
    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn handle_read(&mut self, n: usize, _: Time) {
        assert!(n > 0, "nothing is not something");
        self.read.extend_from_slice(&self.buffer[..n]);
    }

    fn handle_eof(&mut self, _: Time) {
        self.eof = true;
        self.says = self.says_at_eof;
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        out.push(&self.unsent);
    }

    fn handle_written(&mut self, n: usize, _: Time) {
        self.unsent.drain(..n);
    }
}

impl Machine for Echo {
    fn step(&mut self, _: &Cx<'_>) -> Step {
        self.steps += 1;
        let interest = Interest { read: !self.eof, write: !self.unsent.is_empty() };
        self.says.take().unwrap_or(Step::Wait { interest, deadline: None })
    }
}

fn driven(machine: &mut Echo, io: &mut Io<Pipe>) -> Outcome {
    let (date, limits) = (HttpDate::from_unix(0), Limits::default());
    drive(machine, io, &Cx::new(START, &date, std::task::Waker::noop(), &limits, &Finish))
}

fn io() -> (Pipe, Io<Pipe>) {
    let pipe = Pipe::default();
    (pipe.clone(), Io::new(pipe))
}

const READ: Interest = Interest { read: true, write: false };
const READABLE: Readiness = Readiness { readable: true, writable: false, read_closed: false, broken: false };

fn calls(pipe: &Pipe) -> u32 {
    mem::take(&mut pipe.0.borrow_mut().calls)
}

#[test]
fn a_short_read_is_not_followed_by_one_that_would_block() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend(b"short");
    assert_eq!(driven(&mut machine, &mut io), Outcome::Wait { interest: READ, deadline: None });
    assert_eq!((machine.read.as_slice(), calls(&pipe)), (&b"short"[..], 1));
    driven(&mut machine, &mut io);
    assert_eq!(calls(&pipe), 0, "nothing is tried before a wait says so");
    io.ready(READABLE);
    driven(&mut machine, &mut io);
    assert_eq!(calls(&pipe), 1);
}

#[test]
fn a_full_read_is_followed_by_another() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend(b"more than eight bytes");
    driven(&mut machine, &mut io);
    assert_eq!((machine.read.as_slice(), calls(&pipe)), (&b"more than eight bytes"[..], 3));
}

#[test]
fn an_end_that_was_reported_with_the_last_bytes_is_found_behind_a_short_read() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    driven(&mut machine, &mut io);
    pipe.0.borrow_mut().incoming.extend(b"last");
    pipe.0.borrow_mut().eof = true;
    io.ready(Readiness { read_closed: true, ..READABLE });
    driven(&mut machine, &mut io);
    assert!(machine.eof && machine.read == b"last");
    calls(&pipe);
    assert_eq!(driven(&mut machine, &mut io), Outcome::Wait { interest: Interest::NONE, deadline: None });
    assert_eq!(calls(&pipe), 0, "an end is found once");
}

#[test]
fn a_short_write_is_not_followed_by_one_that_would_block() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b"response"));
    pipe.0.borrow_mut().room = 5;
    io.readable = false;
    let outcome = driven(&mut machine, &mut io);
    assert_eq!(outcome, Outcome::Wait { interest: Interest { read: true, write: true }, deadline: None });
    assert_eq!(calls(&pipe), 1);
    assert_eq!(pipe.0.borrow().outgoing, b"respo");
    pipe.0.borrow_mut().room = 5;
    driven(&mut machine, &mut io);
    assert_eq!(calls(&pipe), 0);
    io.ready(Readiness { writable: true, ..Readiness::default() });
    driven(&mut machine, &mut io);
    assert_eq!(calls(&pipe), 1);
    assert_eq!(pipe.0.borrow().outgoing, b"response");
}

#[test]
fn a_direction_without_interest_is_left_alone() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b"response"));
    pipe.0.borrow_mut().incoming.extend(b"request");
    assert!(!pump(&mut machine, &mut io, Interest::NONE, START).expect("nothing fails"));
    assert_eq!(calls(&pipe), 0);
}

#[test]
fn an_interrupted_call_is_made_again() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b"response"));
    pipe.0.borrow_mut().incoming.extend(b"request");
    pipe.0.borrow_mut().interruptions = 3;
    driven(&mut machine, &mut io);
    assert_eq!((machine.read.as_slice(), machine.unsent.len()), (&b"request"[..], 0));
}

#[test]
fn a_failure_either_way_ends_the_connection() {
    for (unsent, readable) in [(&b"response"[..], false), (b"", true)] {
        let ((pipe, mut io), mut machine) = (io(), Echo::new(unsent));
        io.readable = readable;
        pipe.0.borrow_mut().failure = Some(io::ErrorKind::ConnectionReset);
        assert_eq!(driven(&mut machine, &mut io), Outcome::Close(CloseReason::TransportFailed));
    }
}

#[test]
fn a_machine_whose_end_a_failure_is_gives_its_own_reason() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    machine.says_at_eof = Some(Step::Close(CloseReason::Finished));
    pipe.0.borrow_mut().failure = Some(io::ErrorKind::ConnectionReset);
    assert_eq!(driven(&mut machine, &mut io), Outcome::Close(CloseReason::Finished));
}

#[test]
fn a_half_close_reaches_the_transport_and_the_machine_goes_on() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    machine.says = Some(Step::HalfClose);
    assert_eq!(driven(&mut machine, &mut io), Outcome::Wait { interest: READ, deadline: None });
    assert!(pipe.0.borrow().half_closed);
    assert_eq!(machine.steps, 2);
}

#[test]
fn what_a_machine_says_reaches_the_backend() {
    for (step, outcome) in [
        (Step::Run, Outcome::Run),
        (Step::HandOff, Outcome::HandOff),
        (Step::Close(CloseReason::Finished), Outcome::Close(CloseReason::Finished)),
        (Step::Yield, Outcome::Again),
    ] {
        let ((_, mut io), mut machine) = (io(), Echo::new(b""));
        machine.says = Some(step);
        assert_eq!(driven(&mut machine, &mut io), outcome);
    }
}

#[test]
fn a_machine_that_yields_sends_what_it_has_and_reads_nothing() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b"response"));
    machine.says = Some(Step::Yield);
    driven(&mut machine, &mut io);
    pipe.0.borrow_mut().incoming.extend(b"request");
    machine.says = Some(Step::Yield);
    driven(&mut machine, &mut io);
    assert_eq!((machine.unsent.len(), machine.read.len()), (0, 0));
}

/// However long it took to come back to it, it is in time.
#[test]
fn what_has_arrived_while_a_handler_ran_and_what_it_has_left_moves_before_the_next_step() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    machine.says = Some(Step::Run);
    assert_eq!(driven(&mut machine, &mut io), Outcome::Run);
    pipe.0.borrow_mut().incoming.extend(b"request");
    machine.unsent.extend(b"response");
    io.ready(Readiness { readable: true, ..Readiness::default() });
    machine.says = Some(Step::Close(CloseReason::TimedOut(Timer::Write)));
    driven(&mut machine, &mut io);
    assert_eq!(machine.read, b"request");
    assert_eq!(pipe.0.borrow().outgoing, b"response");
}

#[test]
fn what_has_arrived_is_read_before_the_first_step() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend(b"request");
    machine.says = Some(Step::Close(CloseReason::DrainIdle));
    driven(&mut machine, &mut io);
    assert_eq!(machine.read, b"request");
}

#[test]
fn a_peer_that_sends_without_end_lets_others_have_their_turn() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend([b'x'; 10_000]);
    assert_eq!(driven(&mut machine, &mut io), Outcome::Again);
    assert_eq!(machine.steps, TURNS);
}
