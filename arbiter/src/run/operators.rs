//! What is asked for on the control socket.

use std::ops::ControlFlow::{self, Continue};

use remuda_core::order::{Level, Order};
use remuda_core::worker::log_level;
use remuda_core::worker::sys::now;
use serde_json::Value;
use tracing::info;

use super::{Leave, Run};
use crate::control::{self, Request};
use crate::plan::{Event, Ticket};
use crate::status;

impl Run {
    pub(super) fn serve_operators(&mut self) -> ControlFlow<Leave> {
        let Some(control) = &mut self.control else { return Continue(()) };
        for (ticket, request) in control.advance(now()) {
            match request {
                Request::Status => self.answer(ticket, self.status()),
                Request::Plan { command, wait } => self.feed(Event::Asked { ticket, command, wait })?,
                Request::LogLevel(level) => {
                    let answer = self.log_from(level);
                    self.answer(ticket, [answer]);
                }
            }
        }
        Continue(())
    }

    pub(super) fn answer(&mut self, ticket: Ticket, lines: impl IntoIterator<Item = Value>) {
        if let Some(control) = &mut self.control {
            control.answer(ticket, lines, now());
        }
    }

    pub(super) fn status(&self) -> Vec<Value> {
        let server = status::Server {
            version: &self.current.loaded.config.version,
            backend: self.current.loaded.worker.name(),
            generation: self.current.number,
            started: self.ledger.started(),
            listeners: &self.listeners,
        };
        status::lines(server, &self.plan, &self.board, now())
    }

    /// Changes the level of the log, here and in all workers.
    pub(super) fn log_from(&mut self, level: Level) -> Value {
        if !log_level::set(level) {
            return control::refusal("the program's own log has a level of its own");
        }
        self.links.iter_mut().for_each(|(_, link)| link.send(&Order::LogLevel(level)));
        info!("logging from level {} on", level.name());
        control::done()
    }
}
