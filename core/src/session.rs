//! A connection with its application: the machine that every backend drives.
//!
//! [`Session::step`](Machine::step) runs parsing, the exchange and encoding until only I/O or time can help. A
//! handler that says it is short runs inside the step; any other makes the step [`Step::Run`], and the backend calls
//! [`Session::run`] where it may block.

use std::mem;
use std::sync::Arc;

use crate::app::{Inline, Kind, Service, Turn, answer};
use crate::config::STEP_BUDGET;
use crate::conn::{Buffered, Connection, Event};
use crate::handoff::HandOff;
use crate::http1::RequestHead;
use crate::machine::{CloseReason, Cx, IoSlices, Machine, Step, Wire};
use crate::shutdown::Idle;
use crate::time::Time;

/// One connection, and at most one exchange on it.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    service: Arc<Service>,
    exchange: Exchange,
    /// It could not be handed off, so the fallback decides from here on.
    stays: bool,
}

#[derive(Debug, Default)]
enum Exchange {
    /// There is none.
    #[default]
    None,
    /// A short handler runs once all of the body has arrived.
    Collecting(Box<RequestHead>),
    /// A handler waits for a place where it may block.
    Waiting(Box<RequestHead>),
}

impl Session {
    /// A session on `connection` that `service` answers.
    pub fn new(connection: Connection, service: Arc<Service>) -> Self {
        Self { connection, service, exchange: Exchange::None, stays: false }
    }

    /// Runs the blocking handler that a [`Step::Run`] asked for. Blocks as `turn` does.
    pub fn run(&mut self, turn: &mut dyn Turn) {
        if let Exchange::Waiting(head) = mem::take(&mut self.exchange) {
            self.answer(head, turn);
        }
    }

    /// The record that lets another worker go on with this session.
    ///
    /// # Errors
    ///
    /// The session itself, when it cannot move; the fallback policy decides about it from then on.
    #[allow(clippy::result_large_err, reason = "the caller keeps the session that could not move")]
    pub fn into_hand_off(self) -> Result<HandOff, Self> {
        let Self { connection, service, exchange, .. } = self;
        connection.into_hand_off().map_err(|connection| Self { connection, service, exchange, stays: true })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends the session at once, because the transport did.
    pub fn end(&mut self, reason: CloseReason) {
        self.connection.end(reason);
    }

    fn answer(&mut self, head: Box<RequestHead>, turn: &mut dyn Turn) {
        let before = self.connection.served();
        match &self.service.app.kind {
            Kind::Blocking(handler) => {
                answer(&**handler, &head, &mut self.connection, turn, &self.service);
            }
        }
        self.connection.recycle(head);
        if self.connection.served() > before {
            self.service.counters.finished.increment();
        }
    }

    /// Takes a complete head on: answers it here if its handler is short and all of the body has arrived.
    fn take_on(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.service.counters.requests.increment();
        let short = match &self.service.app.kind {
            Kind::Blocking(handler) => handler.is_short(&head.view()),
        };
        if short {
            self.collect(head, cx);
        } else {
            self.exchange = Exchange::Waiting(head);
        }
    }

    fn collect(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        match self.connection.collect_body(cx) {
            Buffered::Complete => self.answer(head, &mut Inline(*cx)),
            Buffered::Partial => self.exchange = Exchange::Collecting(head),
            Buffered::TooLarge => self.exchange = Exchange::Waiting(head),
        }
    }

    /// What to wait for, or what has become of the connection while there was nothing else to do.
    fn wait(&mut self, cx: &Cx<'_>) -> Step {
        if !self.stays
            && let Some(drain) = cx.draining_now().filter(|drain| drain.receiver)
        {
            let view = self.connection.view();
            if view.movable && cx.policy.idle(drain, &view, cx.now) == Idle::HandOff {
                return Step::HandOff;
            }
        }
        let deadline = self.connection.handle_time(cx);
        match self.connection.ending(cx) {
            Some(step) => step,
            None => Step::Wait { interest: self.connection.interest(), deadline },
        }
    }
}

impl Machine for Session {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        for _ in 0..STEP_BUDGET {
            if let Some(step) = self.connection.ending(cx) {
                return step;
            }
            match mem::take(&mut self.exchange) {
                Exchange::None => match self.connection.poll_event(cx) {
                    Some(Event::Request(head)) => self.take_on(head, cx),
                    None => return self.wait(cx),
                },
                Exchange::Collecting(head) => {
                    // A body that comes too late is there in full as far as it will ever be.
                    self.connection.handle_time(cx);
                    self.collect(head, cx);
                    if let Exchange::Collecting(_) = self.exchange {
                        return self.wait(cx);
                    }
                }
                waiting @ Exchange::Waiting(_) => {
                    self.exchange = waiting;
                    return Step::Run;
                }
            }
        }
        Step::Yield
    }
}

impl Wire for Session {
    fn read_buf(&mut self) -> &mut [u8] {
        self.connection.read_buf()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        self.connection.handle_read(n, now);
    }

    fn handle_eof(&mut self, now: Time) {
        self.connection.handle_eof(now);
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.connection.transmit(out);
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        self.connection.handle_written(n, now);
    }
}

#[cfg(test)]
mod tests;
