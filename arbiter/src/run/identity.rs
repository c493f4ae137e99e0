//! The identity of this arbiter: for the other arbiter of an upgrade, the service manager, ps(1),
//! and readers of the pidfile.

use std::io;

use rustix::fs::RenameFlags;
use tracing::warn;

use crate::notify::Manager;
use crate::pidfile::Pidfile;
use crate::process::ProcessConfig;
use crate::sys::Title;
use crate::upgrade::Upgrade;

/// The identity of this arbiter. A child keeps only the title, and changes it.
pub(super) struct Identity {
    pub(super) upgrade: Upgrade,
    pub(super) manager: Manager,
    /// The title in ps(1). None if it cannot be changed.
    title: Option<Title>,
    /// The file exists as long as this value.
    pub(super) pidfile: Option<Pidfile>,
    /// Whether operators and programs find this arbiter at the server's paths. Otherwise they find
    /// the old one.
    pub(super) is_named: bool,
}

impl Identity {
    pub(super) fn new(upgrade: Upgrade, pidfile: Option<Pidfile>, config: &ProcessConfig) -> Self {
        let mut title = Title::claim();
        title.iter_mut().for_each(|title| title.set(&config.title("arbiter")));
        let is_named = !upgrade.has_old_arbiter();
        Self { upgrade, manager: Manager::of_process(), title, pidfile, is_named }
    }

    /// Moves the pidfile to its place and reports to the service manager: operators and programs
    /// find this arbiter from now on.
    pub(super) fn take_the_name(&mut self, workers: usize, config: &ProcessConfig) {
        self.is_named = true;
        if let (Some(file), Some(path)) = (&mut self.pidfile, &config.pidfile) {
            // A removed file is created again first, so that it can be moved.
            let renewed = file.renew().map_err(|error| error.to_string());
            let moved = renewed.and_then(|_| {
                let moved = file.rename(path, RenameFlags::empty());
                moved.map_err(|errno| io::Error::from(errno).to_string())
            });
            if let Err(error) = moved {
                warn!("pidfile {} does not name this process: {error}", path.display());
            }
        }
        self.manager.ready(workers);
    }

    /// Sets the title of a child, and returns it.
    pub(super) fn in_child(self, config: &ProcessConfig, role: &str) -> Option<Title> {
        let Self { upgrade, manager, mut title, pidfile, is_named: _ } = self;
        drop((upgrade, manager, pidfile));
        title.iter_mut().for_each(|title| title.set(&config.title(role)));
        title
    }
}
