//! Notifications to the service manager: datagrams to the socket of `NOTIFY_SOCKET` (sd_notify(3)).
//!
//! | when | what |
//! |---|---|
//! | all workers are ready, for the first time | `READY=1`, `MAINPID`, `STATUS` |
//! | one worker more or less is asked for | `STATUS` |
//! | the server becomes a lame duck, and when it begins to stop | `STOPPING=1`, `STATUS` |
//! | a reload begins | `RELOADING=1`, `MONOTONIC_USEC` |
//! | a reload is over, whatever came of it | `READY=1`, `STATUS` |
//! | it ends, and a new arbiter serves on | `MAINPID` of the new one and `STATUS`; the last message |
//! | twice in each `WATCHDOG_USEC` | `WATCHDOG=1`, from the loop: a stuck arbiter sends none |
//!
//! A message has one line for each of these. A manager that does not read never delays the arbiter,
//! as sd_notify(3) would: messages are kept in order and sent again every [`RETRY`], and the end of
//! the arbiter waits for at most [`FLUSH`]. Beyond [`KEPT`] messages further ones are dropped, with
//! a warning.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::thread;
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::sys::now;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use rustix::process::{Pid, getpid};
use tracing::warn;

use crate::plan::notice::Notice;
use crate::plan::words::{ReloadEnd, counted};

/// The variables of the manager: its socket, and the watchdog.
pub(crate) const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_PID];

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The pause before a message is sent again.
const RETRY: Duration = Duration::from_millis(50);

/// The longest time that the end of the arbiter waits for messages to be sent.
const FLUSH: Duration = Duration::from_millis(100);

/// The largest number of waiting messages.
const KEPT: usize = 64;

/// The service manager, if one started this process.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    line: Option<Line>,
    watchdog: Option<Watchdog>,
}

/// The socket to the manager.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// Messages that are not sent yet, in order.
    waiting: VecDeque<String>,
    /// When to send them again.
    retry_at: Time,
    /// Nothing more is sent: the manager follows another arbiter.
    is_over: bool,
}

#[derive(Debug)]
struct Watchdog {
    interval: Duration,
    next: Time,
}

impl Manager {
    /// Connects to the manager of this process. An invalid variable is logged, and counts as unset.
    pub(crate) fn of_process() -> Self {
        let Some(name) = env::var_os(SOCKET) else { return Self::default() };
        match connect(&name) {
            Ok(line) => Self { line: Some(line), watchdog: Watchdog::read(|name| env::var(name).ok()) },
            Err(error) => {
                warn!("cannot notify the service manager: {SOCKET} is {name:?}: {error}");
                Self::default()
            }
        }
    }

    /// Notifies that all workers are ready.
    pub(crate) fn ready(&mut self, workers: usize) {
        let workers = counted(workers, "worker");
        self.tell(&format!("READY=1\nMAINPID={}\nSTATUS={workers} ready", getpid()));
    }

    /// Notifies that a reload begins (`Type=notify-reload` in systemd.service(5)).
    pub(crate) fn reloading(&mut self, now: Time) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", now.as_nanos() / 1000));
    }

    /// Notifies that another arbiter is the main process from now on. It is the last message.
    pub(crate) fn hand_over(&mut self, new: Pid) {
        self.tell(&format!("MAINPID={new}\nSTATUS=handed over to {new}"));
        self.watchdog = None;
        self.line.iter_mut().for_each(|line| line.is_over = true);
    }

    /// Notifies of log notices that concern the manager.
    pub(crate) fn hear(&mut self, notice: &Notice) {
        match notice {
            Notice::Lameduck { .. } => self.tell("STOPPING=1\nSTATUS=serving until the stop"),
            Notice::Stopping { reason, .. } => self.tell(&format!("STOPPING=1\nSTATUS=stopping ({reason})")),
            Notice::Reloaded { end: ReloadEnd::Done, .. } => self.tell("READY=1\nSTATUS=reloaded"),
            Notice::Reloaded { end: ReloadEnd::Failed(why), .. } => {
                self.tell(&format!("READY=1\nSTATUS=not reloaded: {}", why.replace('\n', " ")));
            }
            Notice::Scaled { workers } => {
                self.tell(&format!("STATUS=scaled to {}", counted(*workers, "worker")));
            }
            Notice::Resting => self.tell("STATUS=all workers drained, none serves until HUP or resume"),
            _ => {}
        }
    }

    /// Sends the watchdog message and waiting messages, as far as they are due.
    pub(crate) fn advance(&mut self, now: Time) {
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.is_due(now)) {
            self.tell("WATCHDOG=1");
        }
        self.line.iter_mut().filter(|line| line.retry_at <= now).for_each(Line::send);
    }

    /// When [`advance`](Self::advance) has work.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
        let line = self.line.as_ref().filter(|line| !line.waiting.is_empty());
        watchdog.into_iter().chain(line.map(|line| line.retry_at)).min()
    }

    /// Sends waiting messages at the end of the arbiter, for at most [`FLUSH`].
    pub(crate) fn end(&mut self) {
        let Some(line) = &mut self.line else { return };
        let until = now() + FLUSH;
        line.send();
        while !line.waiting.is_empty() && now() < until {
            thread::sleep(Duration::from_millis(5));
            line.send();
        }
    }

    fn tell(&mut self, message: &str) {
        let Some(line) = self.line.as_mut().filter(|line| !line.is_over) else { return };
        // A message equal to the one before it, such as that of the watchdog, is not queued twice.
        if line.waiting.back().is_some_and(|last| last == message) {
            return;
        }
        if line.waiting.len() >= KEPT {
            return warn!("cannot send {:?} to the service manager: it does not read", first_line(message));
        }
        line.waiting.push_back(message.to_owned());
        line.send();
    }
}

impl Line {
    /// Sends waiting messages until the manager's socket is full.
    fn send(&mut self) {
        while let Some(message) = self.waiting.front() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendto(&self.socket, message.as_bytes(), flags, &self.address) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.retry_at = now() + RETRY;
                    return;
                }
                Err(error) => warn!("cannot send {:?} to the service manager: {error}", first_line(message)),
                Ok(_) => {}
            }
            self.waiting.pop_front();
        }
    }
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

impl Watchdog {
    /// None if no watchdog watches this process.
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

/// Opens a socket, for the manager's address: a path, or an abstract name after `@` (unix(7)).
fn connect(name: &OsStr) -> io::Result<Line> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        [b'/', ..] => SocketAddrUnix::new(name)?,
        _ => return Err(io::Error::other("it begins neither with a slash nor with an @")),
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(Line { socket, address, waiting: VecDeque::new(), retry_at: Time::ZERO, is_over: false })
}

#[cfg(test)]
mod tests;
