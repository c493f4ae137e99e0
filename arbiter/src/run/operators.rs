//! Control socket and admin listener, and the commands on the control socket.

use std::mem;
use std::ops::ControlFlow::{self, Continue};

use remuda_core::order::{Level, Order};
use remuda_core::worker::Bound;
use remuda_core::worker::logs::level;
use remuda_core::worker::sys::now;
use serde_json::Value;
use tracing::info;

use super::open::bind_admin;
use super::{Host, Leave};
use crate::config::{ArbiterConfig, Bind};
use crate::control::server::ControlSocket;
use crate::control::{self, Request};
use crate::listener::Listeners;
use crate::plan::words::Ticket;
use crate::plan::{Event, Plan};
use crate::status;
use crate::supervisor::Supervisor;

/// Control socket and admin listener. The helper keeps the admin listener; every other child closes
/// both.
pub(super) struct Operators {
    pub(super) control: Option<ControlSocket>,
    /// The admin listener, served by the helper.
    pub(super) admin: Listeners,
    /// Whether the helper lacks some of the current listeners.
    pub(super) has_new_listeners: bool,
}

impl Operators {
    pub(super) fn new(control: Option<ControlSocket>, admin: Listeners) -> Self {
        Self { control, admin, has_new_listeners: false }
    }

    /// The listeners of both.
    pub(super) fn listeners_mut(&mut self) -> Vec<&mut Listeners> {
        let control = self.control.as_mut().map(ControlSocket::listeners_mut);
        control.into_iter().chain([&mut self.admin]).collect()
    }

    pub(super) fn answer(&mut self, ticket: Ticket, lines: impl IntoIterator<Item = Value>) {
        if let Some(control) = &mut self.control {
            control.answer(ticket, lines, now());
        }
    }

    /// Leaves the control socket to another arbiter that serves.
    pub(super) fn give_way(&mut self) {
        self.control.iter_mut().for_each(ControlSocket::give_way);
    }

    /// Creates lost files of unix sockets again.
    pub(super) fn renew(&mut self, config: &ArbiterConfig) -> Result<(), String> {
        if let Some(control) = &mut self.control {
            control.renew().map_err(|error| format!("control-socket: {error}"))?;
        }
        let lost = self.admin.lost(None).next().map(|(bound, lost)| (bound.clone(), lost));
        if let Some((Bound::Unix(path), lost)) = lost {
            let new = bind_admin(&Bind::Unix(path), config, None)
                .map_err(|error| format!("admin-bind: {error}"))?;
            let mut old = mem::replace(&mut self.admin, new);
            old.iter().for_each(|old| info!("admin listener {}: {lost}; bound again", old.bound));
            old.end();
            self.has_new_listeners = true;
        }
        Ok(())
    }

    /// Ends both at the end of the server.
    pub(super) fn end(&mut self) {
        self.admin.end();
        self.control.iter_mut().for_each(ControlSocket::end);
    }

    /// Returns the admin listener. Called in the helper.
    pub(super) fn in_helper(self) -> Listeners {
        drop(self.control);
        self.admin
    }
}

impl Supervisor<Host> {
    pub(super) fn serve_operators(&mut self) -> ControlFlow<Leave> {
        let Some(control) = &mut self.system.operators.control else { return Continue(()) };
        for (ticket, request) in control.advance(now()) {
            match request {
                Request::Status => {
                    let status = self.system.status(&self.plan);
                    self.system.operators.answer(ticket, status);
                }
                Request::Plan { command, wait } => self.feed(Event::Asked { ticket, command, wait })?,
                Request::LogLevel(level) => {
                    let answer = self.system.log_from(level);
                    self.system.operators.answer(ticket, [answer]);
                }
            }
        }
        Continue(())
    }
}

impl Host {
    fn status(&self, plan: &Plan) -> Vec<Value> {
        let server = status::Server {
            version: &self.current.loaded.config.version,
            backend: self.current.loaded.worker.name(),
            generation: self.current.number,
            started: self.children.ledger.started(),
            listeners: &self.sockets.listeners,
            lost: self.lost(),
            rescue: self.current.loaded.config.worker.rescue,
        };
        status::lines(server, plan, &self.children.board, now())
    }

    /// Lists missing files by which the server is found, one sentence each.
    fn lost(&self) -> Vec<String> {
        let control = self.operators.control.as_ref().map(ControlSocket::listeners);
        let sockets = self.sockets.listeners.lost(Some(&self.current.chosen)).map(|lost| ("", lost));
        let control = control.into_iter().flat_map(|listeners| listeners.lost(None));
        let sockets = sockets.chain(control.map(|lost| ("control socket ", lost)));
        let sockets = sockets.chain(self.operators.admin.lost(None).map(|lost| ("admin listener ", lost)));
        let sockets = sockets.map(|(what, (bound, lost))| format!("{what}{bound}: {lost}"));
        let pidfile = self.identity.pidfile.as_ref().and_then(|file| Some((file.path(), file.lost()?)));
        let pidfile = pidfile.map(|(path, lost)| format!("pidfile {}: {lost}", path.display()));
        sockets.chain(pidfile).collect()
    }

    /// Changes the level of the log, here and in all workers.
    fn log_from(&mut self, level: Level) -> Value {
        if !level::set(level) {
            return control::refusal("the program has a log subscriber of its own, which keeps its level");
        }
        self.children.send_all(&Order::LogLevel(level));
        info!("log level set to {}", level.name());
        control::done()
    }
}
