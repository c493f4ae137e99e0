//! The configuration of a server, as the arbiter reads it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use remuda_core::config::Jitter;
use remuda_core::worker::{Logs, Policies, WorkerConfig};

use crate::process::ProcessConfig;

/// The configuration of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArbiterConfig {
    /// Worker processes. Default 1; 0 counts as 1.
    pub workers: u16,
    /// Addresses to listen on, at least one. Default `127.0.0.1:8000`.
    pub binds: Vec<Bind>,
    /// Connections that the kernel queues on each listener (listen(2)). Default 2048. Inherited
    /// listeners keep their own.
    pub backlog: u32,
    /// Whether each slot has its own TCP listener for each address (`SO_REUSEPORT`), instead of one
    /// that all workers share. Default false.
    pub reuse_port: bool,
    /// The configuration of workers. The arbiter reads `graceful_timeout`, `timeout` and `threads`
    /// of it.
    pub worker: WorkerConfig,
    /// Whether the application is built once, before any fork, in memory that workers share until
    /// they write to it. A reload neither changes this setting nor builds the application anew.
    /// Default false.
    pub preload: bool,
    /// Time that a worker has to become ready. Default 60 s; zero: no limit.
    pub boot_timeout: Duration,
    /// Failed boots after which a server gives up if no worker was ever ready. Default 0: after the
    /// first boot that reports a reason, and never if workers just die.
    pub max_boot_failures: u32,
    /// Time after which a worker is replaced, counted from its readiness (D15). Default 0: never.
    pub max_lifetime: Duration,
    /// Maximum random addition to `max_lifetime`: a percentage, or nanoseconds. Default 10 %.
    pub max_lifetime_jitter: Jitter,
    /// Bytes of resident memory at which a worker is replaced (D15). Default 0: never.
    pub max_rss: u64,
    /// Maximum random addition to `max_rss`: a percentage, or bytes. Default 10 %.
    pub max_rss_jitter: Jitter,
    /// Time that the server serves on after TERM, before the stop begins. Not part of
    /// `graceful_timeout`. Default 0: none.
    pub lameduck: Duration,
    /// Workers that are recycled at a time (D15). Default 1; 0 counts as 1.
    pub recycle_concurrency: u16,
    /// Workers that are replaced at a time in a reload (D16). Default 1; 0 counts as 1.
    pub reload_concurrency: u16,
    /// Whether this arbiter ends by itself once the new arbiter of an upgrade is ready. Default:
    /// yes.
    pub upgrade_drain: UpgradeDrain,
    /// The policies of drains.
    pub policies: Policies,
    /// Directory, user and names of the processes.
    pub process: ProcessConfig,
    /// Logs of the arbiter and of workers; USR1 reopens them. Default: none.
    pub logs: Logs,
    /// Path of the operators' control socket. Default: none.
    pub control_socket: Option<PathBuf>,
    /// Address of `/healthz`, `/readyz` and `/metrics`. Default: none.
    pub admin: Option<Bind>,
    /// The version that `status` shows. Default: that of this crate.
    pub version: String,
}

impl ArbiterConfig {
    /// Maximum number of workers that exist in addition because others are being replaced.
    pub fn replaced(&self) -> u16 {
        self.recycle_concurrency.max(1).saturating_add(self.reload_concurrency.max(1))
    }
}

impl Default for ArbiterConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            binds: vec![Bind::Inet(SocketAddr::from(([127, 0, 0, 1], 8000)))],
            backlog: 2048,
            reuse_port: false,
            worker: WorkerConfig::default(),
            preload: false,
            boot_timeout: Duration::from_secs(60),
            max_boot_failures: 0,
            max_lifetime: Duration::ZERO,
            max_lifetime_jitter: Jitter::default(),
            max_rss: 0,
            max_rss_jitter: Jitter::default(),
            lameduck: Duration::ZERO,
            recycle_concurrency: 1,
            reload_concurrency: 1,
            upgrade_drain: UpgradeDrain::default(),
            policies: Policies::default(),
            process: ProcessConfig::default(),
            logs: Logs::default(),
            control_socket: None,
            admin: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What the old arbiter does once the new arbiter of an upgrade is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum UpgradeDrain {
    /// The old arbiter drains its workers and ends.
    #[default]
    Automatic,
    /// The old arbiter serves on beside the new one until an operator ends one of the two.
    Manual,
}

/// An address to listen on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Bind {
    /// A TCP address. Port 0 lets the kernel choose; `[::]` serves IPv4 too.
    Inet(SocketAddr),
    /// The path of a unix socket. The umask gives its mode, and its owner is the user that workers
    /// run as. A path that begins with `@` names an abstract socket (unix(7)): it is no file, and
    /// every process of the network namespace may connect.
    Unix(PathBuf),
    /// An inherited listening descriptor: `fd://3`.
    Fd(i32),
    /// All listeners with this name from a service manager (`FileDescriptorName=` in
    /// systemd.socket(5)).
    Named(String),
    /// All listeners from a service manager.
    Activated,
}

impl Bind {
    pub(crate) fn is_any_port(&self) -> bool {
        matches!(self, Self::Inet(addr) if addr.port() == 0)
    }
}

/// The form of the settings: `127.0.0.1:8000`, `unix:/run/app.sock`, `fd://3`.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(fd) => write!(f, "fd://{fd}"),
            Self::Named(name) => write!(f, "fd://{name}"),
            Self::Activated => f.write_str("systemd"),
        }
    }
}

#[cfg(test)]
mod tests;
