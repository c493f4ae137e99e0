//! The drive loop and its readiness bits, with a machine that follows a script.

use super::*;
use crate::config::Limits;
use crate::http1::HttpDate;
use crate::machine::{Move, Timer};
use crate::shutdown::Finish;
use crate::testing::{Pipe, START};

/// Reads into a buffer of a few bytes, and writes its output.
#[derive(Debug)]
struct Echo {
    buffer: [u8; 8],
    read: Vec<u8>,
    unsent: Vec<u8>,
    eof: bool,
    /// The step that it returns instead of waiting.
    says: Option<Step>,
    /// The step that it returns once the peer has ended its side.
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
        assert!(n > 0, "a read has bytes");
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

fn driven(machine: &mut Echo, io: &mut Io<Pipe>) -> Next {
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
fn no_read_that_would_block_follows_a_short_one() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend(b"short");
    assert_eq!(driven(&mut machine, &mut io), Next::Wait { interest: READ, deadline: None });
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
fn an_end_reported_with_the_last_bytes_is_found() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    driven(&mut machine, &mut io);
    pipe.0.borrow_mut().incoming.extend(b"last");
    pipe.0.borrow_mut().eof = true;
    io.ready(Readiness { read_closed: true, ..READABLE });
    driven(&mut machine, &mut io);
    assert!(machine.eof && machine.read == b"last");
    calls(&pipe);
    assert_eq!(driven(&mut machine, &mut io), Next::Wait { interest: Interest::NONE, deadline: None });
    assert_eq!(calls(&pipe), 0, "an end is found once");
}

#[test]
fn no_write_that_would_block_follows_a_short_one() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b"response"));
    pipe.0.borrow_mut().room = 5;
    io.readable = false;
    let outcome = driven(&mut machine, &mut io);
    assert_eq!(outcome, Next::Wait { interest: Interest { read: true, write: true }, deadline: None });
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
fn a_direction_without_interest_is_not_used() {
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
        assert_eq!(driven(&mut machine, &mut io), Next::Close(CloseReason::TransportFailed));
    }
}

#[test]
fn a_machine_can_give_its_own_reason_for_a_failure() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    machine.says_at_eof = Some(Step::Close(CloseReason::Finished));
    pipe.0.borrow_mut().failure = Some(io::ErrorKind::ConnectionReset);
    assert_eq!(driven(&mut machine, &mut io), Next::Close(CloseReason::Finished));
}

#[test]
fn a_half_close_reaches_the_transport_and_does_not_end_the_machine() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    machine.says = Some(Step::HalfClose);
    assert_eq!(driven(&mut machine, &mut io), Next::Wait { interest: READ, deadline: None });
    assert!(pipe.0.borrow().half_closed);
    assert_eq!(machine.steps, 2);
}

#[test]
fn steps_of_the_machine_reach_the_backend() {
    for (step, outcome) in [
        (Step::Move(Move::Lease), Next::Move(Move::Lease)),
        (Step::Move(Move::Handoff), Next::Move(Move::Handoff)),
        (Step::Close(CloseReason::Finished), Next::Close(CloseReason::Finished)),
        (Step::Yield, Next::Again),
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

/// However late the loop reads them, the bytes are in time.
#[test]
fn bytes_move_between_a_handlers_end_and_the_next_step() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    machine.says = Some(Step::Move(Move::Lease));
    assert_eq!(driven(&mut machine, &mut io), Next::Move(Move::Lease));
    pipe.0.borrow_mut().incoming.extend(b"request");
    machine.unsent.extend(b"response");
    io.ready(Readiness { readable: true, ..Readiness::default() });
    machine.says = Some(Step::Close(CloseReason::TimedOut(Timer::Write)));
    driven(&mut machine, &mut io);
    assert_eq!(machine.read, b"request");
    assert_eq!(pipe.0.borrow().outgoing, b"response");
}

#[test]
fn arrived_bytes_are_read_before_the_first_step() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend(b"request");
    machine.says = Some(Step::Close(CloseReason::DrainIdle));
    driven(&mut machine, &mut io);
    assert_eq!(machine.read, b"request");
}

#[test]
fn an_endless_sender_leaves_others_their_turn() {
    let ((pipe, mut io), mut machine) = (io(), Echo::new(b""));
    pipe.0.borrow_mut().incoming.extend([b'x'; 10_000]);
    assert_eq!(driven(&mut machine, &mut io), Next::Again);
    assert_eq!(machine.steps, TURNS);
}
