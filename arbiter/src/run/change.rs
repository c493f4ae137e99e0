//! Loads a generation for a reload, and checks that it fits the running server.

use std::ops::ControlFlow::{self, Continue};

use remuda_core::time::Time;
use remuda_core::worker::Scoreboard;

use super::open::listen;
use super::{Host, Leave};
use crate::background_job::Unloaded;
use crate::config::ArbiterConfig;
use crate::generation::{Generation, Loaded};
use crate::plan::words::{PlanConfig, counted};

impl Host {
    /// Loads and binds the generation `number`. A failure changes nothing, except that lost files
    /// by which the server is found are created again. None: the load is tried again after a
    /// background job, until `deadline` at most.
    pub(super) fn load_generation(
        &mut self,
        number: u32,
        deadline: Time,
    ) -> ControlFlow<Leave, Option<Result<PlanConfig, String>>> {
        let renewed = self.renew().map_err(Unloaded::Refused);
        let loaded = match renewed.and_then(|()| (self.load)(&self.current.loaded)) {
            Err(Unloaded::Awaits(job)) => return self.start_job(job, number, deadline),
            Err(Unloaded::Refused(why)) => return Continue(Some(Err(why))),
            Ok(loaded) => loaded,
        };
        Continue(Some(self.prepare(loaded, number)))
    }

    /// Binds the addresses of a loaded configuration, and keeps it until one of its workers is
    /// ready.
    fn prepare(&mut self, mut loaded: Loaded, number: u32) -> Result<PlanConfig, String> {
        loaded.keep_preloaded(&self.current.loaded);
        has_room(&loaded.config, &self.children.board)?;
        keeps_listening_alike(&loaded.config, &self.current.loaded.config)?;
        let sockets = &mut self.sockets;
        let chosen = listen(&loaded.config, &mut sockets.listeners, &mut sockets.per_slot)
            .map_err(|error| error.to_string())?;
        let config = PlanConfig::of(&loaded.config, self.children.board.seats());
        self.next = Some(Generation { number, loaded, chosen });
        Ok(config)
    }

    /// Creates lost files again by which operators and programs find this arbiter: its pidfile, its
    /// control socket and a unix socket of the admin listener. Sockets for clients belong to a
    /// generation.
    fn renew(&mut self) -> Result<(), String> {
        if let Some(pidfile) = &mut self.identity.pidfile {
            pidfile.renew().map_err(|error| error.to_string())?;
        }
        self.operators.renew(&self.current.loaded.config)
    }
}

/// Checks that `reuse_port` is unchanged: a shared socket cannot become several (D16).
fn keeps_listening_alike(config: &ArbiterConfig, now: &ArbiterConfig) -> Result<(), String> {
    match (config.reuse_port, now.reuse_port) {
        (new, old) if new == old => Ok(()),
        (new, old) => {
            Err(format!("reuse-port is {new}, and this server runs with {old}; that needs an upgrade"))
        }
    }
}

/// Checks that the workers of `config` fit on the scoreboard, whose size is that of the start.
fn has_room(config: &ArbiterConfig, board: &Scoreboard) -> Result<(), String> {
    let refuse = |what, n: usize, room| {
        Err(format!(
            "{what}s is {n}, and this server has room for {}; that needs a new start",
            counted(room, what)
        ))
    };
    let replaced = usize::from(config.replaced());
    let (workers, threads) = (usize::from(config.workers), config.worker.threads);
    match board.seats().saturating_sub(replaced) {
        room if workers > room => refuse("worker", workers, room),
        _ if threads > board.threads() => refuse("thread", threads, board.threads()),
        _ => Ok(()),
    }
}
