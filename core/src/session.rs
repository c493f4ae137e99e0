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
    Collecting(RequestHead),
    /// A handler waits for a place where it may block.
    Waiting(RequestHead),
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

    fn answer(&mut self, head: RequestHead, turn: &mut dyn Turn) {
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

    /// What to do with a complete head: whether its handler may run inside the step.
    fn begin(&self, head: RequestHead) -> Exchange {
        self.service.counters.requests.increment();
        match &self.service.app.kind {
            Kind::Blocking(handler) if handler.is_short(&head.view()) => Exchange::Collecting(head),
            Kind::Blocking(_) => Exchange::Waiting(head),
        }
    }

    fn wait(&self, cx: &Cx<'_>) -> Step {
        if !self.stays
            && let Some(drain) = cx.draining_now().filter(|drain| drain.receiver)
        {
            let view = self.connection.view();
            if view.movable && cx.policy.idle(drain, &view, cx.now) == Idle::HandOff {
                return Step::HandOff;
            }
        }
        Step::Wait { interest: self.connection.interest(), deadline: self.connection.deadline(cx) }
    }
}

impl Machine for Session {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        self.connection.handle_time(cx);
        let mut budget = STEP_BUDGET;
        loop {
            if let Some(step) = self.connection.ending(cx) {
                return step;
            }
            match mem::take(&mut self.exchange) {
                Exchange::None if budget == 0 => return Step::Yield,
                Exchange::None => match self.connection.poll_event(cx) {
                    Some(Event::Request(head)) => {
                        budget -= 1;
                        self.exchange = self.begin(head);
                    }
                    // An end of input may have ended the connection just now.
                    None => return self.connection.ending(cx).unwrap_or_else(|| self.wait(cx)),
                },
                Exchange::Collecting(head) => match self.connection.collect_body(cx) {
                    Buffered::Complete => self.answer(head, &mut Inline(*cx)),
                    Buffered::Partial => {
                        self.exchange = Exchange::Collecting(head);
                        return self.wait(cx);
                    }
                    Buffered::TooLarge => self.exchange = Exchange::Waiting(head),
                },
                Exchange::Waiting(head) => {
                    self.exchange = Exchange::Waiting(head);
                    return Step::Run;
                }
            }
        }
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
