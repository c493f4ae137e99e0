//! The definition of a setting.

use std::fmt;

use super::kind::Kind;

/// One setting. Its flag, its variable and its key in the file are derived from its name.
#[derive(Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Key in the file, and the long flag without its dashes: `worker-class`.
    pub name: &'static str,
    /// The short flag.
    pub short: Option<char>,
    /// Its heading.
    pub category: Category,
    /// The type of its value, which parses and stores it.
    pub kind: Kind,
    /// The default, as it would be written. Empty for none.
    pub default: &'static str,
    /// A variable that platforms set; `REMUDA_*` overrides it.
    pub platform: Option<Platform>,
    /// Whether a reload applies a new value. Otherwise a new start is needed.
    pub reload: bool,
    /// One line for `-h`.
    pub help: &'static str,
    /// Further sentences for `--help`: unit, meaning of zero, when to change it.
    pub about: &'static str,
}

impl Setting {
    /// The flag that turns it off, if it is a switch that is on by default: `no-rescue`.
    pub fn negation(&self) -> Option<String> {
        (self.kind.is_switch() && self.default == "true").then(|| format!("no-{}", self.name))
    }

    /// The environment variable: `REMUDA_WORKER_CLASS`.
    pub fn variable(&self) -> String {
        format!("REMUDA_{}", self.name.replace('-', "_").to_uppercase())
    }
}

/// A variable that hosting platforms set.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Platform {
    /// Its name.
    pub variable: &'static str,
    /// The prefix that turns its value into a value of the setting.
    pub prefix: &'static str,
}

impl Platform {
    pub(crate) const fn new(variable: &'static str, prefix: &'static str) -> Self {
        Self { variable, prefix }
    }
}

/// The category of a setting: its heading in `--help`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Category {
    /// Workers and their threads.
    Processes,
    /// Listeners, and numbers of connections.
    Sockets,
    /// Time limits of connections.
    Timeouts,
    /// Limits of requests and connections.
    Limits,
    /// Proxies in front of the server, and trust in them.
    Proxies,
    /// Stops, drains and upgrades.
    Shutdown,
    /// Logs.
    Logging,
    /// Directory, files, user and names of the processes.
    System,
    /// Control socket and admin listener.
    Operators,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
