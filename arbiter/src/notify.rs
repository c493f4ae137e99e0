//! What a service manager is told: a datagram to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
//!
//! | when | what |
//! |---|---|
//! | all workers are ready, for the first time | `READY=1`, `MAINPID`, `STATUS` |
//! | one worker more or less is asked for | `STATUS` |
//! | the server becomes a lame duck, and when it begins to stop | `STOPPING=1`, `STATUS` |
//! | a reload begins | `RELOADING=1`, `MONOTONIC_USEC` |
//! | a reload is over, whatever came of it | `READY=1`, `STATUS` |
//! | it ends, and the new arbiter of an upgrade serves on | `MAINPID` of that one, and nothing more |
//! | twice in each `WATCHDOG_USEC` | `WATCHDOG=1`, by the loop itself: an arbiter that is stuck says nothing |
//!
//! A message is a line for each of these. Nothing depends on it that it arrives, and a manager that does not read delays
//! the arbiter by no more than [`PATIENCE`]; sd_notify(3) itself would wait for ever.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use remuda_core::time::Time;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use rustix::process::{Pid, getpid};
use tracing::warn;

use crate::notice::Notice;
use crate::plan::ReloadEnd;

/// Where the manager listens, and how often it wants to hear.
pub(crate) const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_PID];

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// How long a message may wait for the manager to read the ones before.
const PATIENCE: Duration = Duration::from_millis(100);

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    line: Option<(OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    interval: Duration,
    next: Time,
}

impl Manager {
    /// The one that started this process. A variable that makes no sense is said, and counts as none.
    pub(crate) fn of_process() -> Self {
        let Some(name) = env::var_os(SOCKET) else { return Self::default() };
        match connect(&name) {
            Ok(line) => Self { line: Some(line), watchdog: Watchdog::read(|name| env::var(name).ok()) },
            Err(error) => {
                warn!("cannot tell the service manager anything: {SOCKET} is {name:?}: {error}");
                Self::default()
            }
        }
    }

    /// All workers are ready.
    pub(crate) fn ready(&self, workers: usize) {
        let plural = if workers == 1 { "" } else { "s" };
        self.tell(&format!("READY=1\nMAINPID={}\nSTATUS={workers} worker{plural} ready", getpid()));
    }

    /// Settings and application are about to be loaded afresh (`Type=notify-reload` in systemd.service(5)).
    pub(crate) fn reloading(&self, now: Time) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", now.as_nanos() / 1000));
    }

    /// Another arbiter serves on, and is the one to listen to from now on.
    pub(crate) fn hand_over(&mut self, heir: Pid) {
        self.tell(&format!("MAINPID={heir}\nSTATUS=handed over to {heir}"));
        *self = Self::default();
    }

    /// What people are told may concern the manager, too.
    pub(crate) fn hear(&self, notice: &Notice) {
        match notice {
            Notice::Lameduck { .. } => self.tell("STOPPING=1\nSTATUS=serving until the stop"),
            Notice::Stopping { reason, .. } => self.tell(&format!("STOPPING=1\nSTATUS=stopping ({reason})")),
            Notice::Reloaded { end: ReloadEnd::Done, .. } => self.tell("READY=1\nSTATUS=reloaded"),
            Notice::Reloaded { end: ReloadEnd::Failed(why), .. } => {
                self.tell(&format!("READY=1\nSTATUS=not reloaded: {}", why.replace('\n', " ")));
            }
            Notice::Scaled { workers: 1 } => self.tell("STATUS=1 worker asked for"),
            Notice::Scaled { workers } => self.tell(&format!("STATUS={workers} workers asked for")),
            _ => {}
        }
    }

    /// Says that the loop goes round, if that is due.
    pub(crate) fn reassure(&mut self, now: Time) {
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.is_due(now)) {
            self.tell("WATCHDOG=1");
        }
    }

    /// When [`reassure`](Self::reassure) has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    fn tell(&self, message: &str) {
        let Some((socket, address)) = &self.line else { return };
        if let Err(error) = sendto(socket, message.as_bytes(), SendFlags::NOSIGNAL, address) {
            warn!(
                "cannot tell the service manager {:?}: {error}",
                message.lines().next().unwrap_or_default()
            );
        }
    }
}

impl Watchdog {
    /// None where nobody waits for this process.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let ours = variable(WATCHDOG_PID).is_none_or(|pid| pid == getpid().to_string());
        let limit = variable(WATCHDOG)?.parse().ok().filter(|limit| *limit > 0 && ours)?;
        Some(Self { interval: Duration::from_micros(limit) / 2, next: Time::ZERO })
    }

    fn is_due(&mut self, now: Time) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.interval;
        }
        due
    }
}

/// A socket to tell by, and where the other one is: a path, or with an `@` in front a name that is no file (unix(7)).
fn connect(name: &OsStr) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        [b'/', ..] => SocketAddrUnix::new(name)?,
        _ => return Err(io::Error::other("it begins neither with a slash nor with an @")),
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests;
