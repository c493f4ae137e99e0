//! Reloads and upgrades: what was loaded takes the place of what counts, and one arbiter that of another.

use remuda_core::worker::Scoreboard;
use rustix::fs::RenameFlags;
use rustix::process::getpid;
use tracing::{info, warn};

use super::open::{listen, shape};
use super::{Generation, Run};
use crate::listener::Listeners;
use crate::plan::Event;
use crate::{ArbiterConfig, UpgradeDrain};

impl Run {
    /// Loads and binds what is to be a generation of that number. Nothing changes if that fails.
    pub(super) fn load(&mut self, number: u32) -> Event {
        let prepared = (self.load)(&self.current.loaded).and_then(|mut loaded| {
            loaded.keep_preloaded(&self.current.loaded);
            has_room(&loaded.config, &self.board)?;
            keeps_listening_alike(&loaded.config, &self.current.loaded.config)?;
            let chosen = listen(&loaded.config, &mut self.listeners, &mut self.slots)
                .map_err(|error| error.to_string())?;
            Ok(Generation { number, loaded, chosen })
        });
        match prepared {
            Ok(next) => {
                let shape = shape(&next.loaded.config, self.board.seats());
                self.next = Some(next);
                Event::Loaded { shape }
            }
            Err(why) => Event::NotLoaded { why },
        }
    }

    /// Makes what was loaded last what counts. Whether it is listened elsewhere from now on.
    pub(super) fn adopt(&mut self) -> bool {
        let Some(next) = self.next.take() else { return false };
        let is_elsewhere = next.chosen.all != self.current.chosen.all;
        if is_elsewhere {
            let addresses = self.listeners.describe(&next.chosen);
            info!(%addresses, "listening on {addresses}");
        }
        self.orphans.disagree(&self.current.chosen, &next.chosen);
        self.hooked.adopted(next.number);
        self.current = next;
        let backlog = self.current.loaded.config.backlog;
        self.listeners.listen_again(backlog);
        self.slots.listen_again(backlog);
        self.current.loaded.apply();
        is_elsewhere
    }

    /// The server is this arbiter's alone.
    pub(super) fn reclaim(&mut self) {
        self.upgrade.forget();
        self.hooked.alone();
        self.all_listeners().for_each(Listeners::reclaim);
        self.slots.unshare_others(&[]);
        if !self.plan.is_ending() {
            self.take_the_name();
        }
    }

    /// Programs and people find this arbiter from now on where they look for the server's.
    pub(super) fn take_the_name(&mut self) {
        self.named = true;
        if let (Some(file), Some(path)) = (&mut self.pidfile, &self.current.loaded.config.process.pidfile)
            && let Err(errno) = file.rename(path, RenameFlags::empty())
        {
            warn!("the pidfile {} names another process: {errno}", path.display());
        }
        self.manager.ready(self.plan.workers());
    }

    pub(super) fn announce_ready(&mut self, workers: usize) {
        // One that is to be compared with the old one has its name when that is gone.
        if !self.upgrade.has_elder() || self.current.loaded.config.upgrade_drain == UpgradeDrain::Automatic {
            self.take_the_name();
        }
        let mut kept: Vec<_> = self.all_listeners().flat_map(|listeners| listeners.shared()).collect();
        kept.extend(self.slots.shared());
        self.upgrade.tell_ready(&kept);
        let Generation { loaded, chosen, .. } = &self.current;
        let (backend, pid) = (loaded.worker.name(), getpid());
        let addresses = self.listeners.describe(chosen);
        let plural = if workers == 1 { "" } else { "s" };
        info!(
            %addresses, backend, workers, %pid,
            "ready: {addresses}, {workers} {backend} worker{plural}, pid {pid}; stop with TERM or Ctrl-C"
        );
        for admin in self.admin.iter() {
            info!("admin listener: {}/healthz, /readyz, /metrics", admin.bound);
        }
        self.hooked.ready();
    }
}

/// Whether `config` has slots listen as they do `now`: a socket that all share cannot become several (D16).
fn keeps_listening_alike(config: &ArbiterConfig, now: &ArbiterConfig) -> Result<(), String> {
    match (config.reuse_port, now.reuse_port) {
        (new, old) if new == old => Ok(()),
        (new, old) => {
            Err(format!("reuse-port is {new}, and this server runs with {old}; that needs upgrade"))
        }
    }
}

/// Whether workers as `config` has them fit on the scoreboard, which is as large as it was at the start.
fn has_room(config: &ArbiterConfig, board: &Scoreboard) -> Result<(), String> {
    let refuse = |what, n: usize, room| {
        Err(format!("{what} is {n}, and this server has room for {room}; that needs a new start"))
    };
    let replaced = usize::from(config.replaced());
    let (workers, threads) = (usize::from(config.workers), config.worker.threads);
    match board.seats().saturating_sub(replaced) {
        room if workers > room => refuse("workers", workers, room),
        _ if threads > board.threads() => refuse("threads", threads, board.threads()),
        _ => Ok(()),
    }
}
