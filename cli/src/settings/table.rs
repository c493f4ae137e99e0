//! The table: what a setting is, and where all of them are.

use std::fmt;

use super::kind::Kind;
use super::{limits, logging, operators, processes, proxies, shutdown, sockets, system, timeouts};

/// One setting. Its flag, its variable and its key in the file all follow from its name.
#[derive(Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Key in the file, and the long flag without its dashes: `worker-class`.
    pub name: &'static str,
    /// The short flag.
    pub short: Option<char>,
    /// What it belongs to.
    pub category: Category,
    /// What it may be, how it is read, and where it goes.
    pub kind: Kind,
    /// The value without file, variables and flags, as it would be written; empty for none.
    pub default: &'static str,
    /// A variable that platforms set and that counts below `REMUDA_*`.
    pub platform: Option<Platform>,
    /// Whether a reload applies a new value; otherwise it takes a new start.
    pub reload: bool,
    /// One line for `-h`.
    pub help: &'static str,
    /// What `--help` says besides: unit, what zero means, when to change it.
    pub about: &'static str,
}

impl Setting {
    /// The environment variable: `REMUDA_WORKER_CLASS`.
    pub fn variable(&self) -> String {
        format!("REMUDA_{}", self.name.replace('-', "_").to_uppercase())
    }
}

/// A variable that is not ours, as hosting platforms set them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Platform {
    /// Its name.
    pub variable: &'static str,
    /// What is put before its value to make a value of the setting.
    pub prefix: &'static str,
}

impl Platform {
    pub(crate) const fn new(variable: &'static str, prefix: &'static str) -> Self {
        Self { variable, prefix }
    }
}

/// What a setting belongs to: its heading in `--help`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Category {
    /// Workers and their threads.
    Processes,
    /// Where connections come from.
    Sockets,
    /// How long a connection may take.
    Timeouts,
    /// How large a request may be, and what else a connection may take.
    Limits,
    /// Who stands in front of the server, and what is believed of them.
    Proxies,
    /// How the server ends.
    Shutdown,
    /// What is written to the log.
    Logging,
    /// What the processes are to the system that they run on.
    System,
    /// How operators talk to the server.
    Operators,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Every setting, category by category.
pub fn table() -> impl Iterator<Item = &'static Setting> {
    [
        processes::SETTINGS,
        sockets::SETTINGS,
        timeouts::SETTINGS,
        limits::SETTINGS,
        proxies::SETTINGS,
        shutdown::SETTINGS,
        logging::SETTINGS,
        system::SETTINGS,
        operators::SETTINGS,
    ]
    .into_iter()
    .flatten()
}

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    table().find(|setting| setting.name == name)
}
