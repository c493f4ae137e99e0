//! The arbiter's end of a worker's control socket: orders go out, reports come in, nothing ever waits.
//!
//! The socket is a `SOCK_SEQPACKET` pair (unix(7)). A worker that does not read cannot hold the arbiter up: what
//! the kernel does not take is queued here, in order, until the socket is writable.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use remuda_core::order::{MESSAGE_MAX, Order, Report};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use tracing::warn;

/// A control socket and what it would not take yet.
#[derive(Debug)]
pub(crate) struct Link {
    /// None once the worker has closed its end.
    socket: Option<OwnedFd>,
    queue: VecDeque<Vec<u8>>,
}

/// Reports read from one worker before others get their turn. A worker sends three in its life, and when it aborts one for each
/// thread that runs a handler.
const REPORTS_A_TURN: usize = 128;

impl Link {
    /// A link, and the worker's end of it. Both are closed on exec.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        ioctl_fionbio(&ours, true)?;
        Ok((Self { socket: Some(ours), queue: VecDeque::new() }, theirs))
    }

    /// Sends `order` now or, if the worker does not keep up, later.
    pub(crate) fn send(&mut self, order: &Order) {
        self.queue.push_back(order.encode());
        self.flush();
    }

    /// Sends what is queued, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) {
        let Some(socket) = &self.socket else { return self.queue.clear() };
        while let Some(message) = self.queue.front() {
            match send(socket, message, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Ok(_) => drop(self.queue.pop_front()),
                Err(_) => return self.queue.clear(), // the worker has closed its end: nobody is left to tell
            }
        }
    }

    /// The reports that have arrived, a few at a time.
    pub(crate) fn receive(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..REPORTS_A_TURN {
            let Some(socket) = &self.socket else { break };
            match recv(socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => self.socket = None,
                Ok((len, _)) => match Report::decode(&buffer[..len]) {
                    Ok(report) => reports.push(report),
                    Err(error) => warn!("a worker sent what the arbiter does not understand: {error}"),
                },
                // A worker that leaves orders unread resets the socket, which is told once, before its last words.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.socket = None,
            }
        }
        reports
    }

    /// What to wait for; nothing once the worker has closed its end.
    pub(crate) fn interest(&self) -> Option<PollFd<'_>> {
        let write = if self.queue.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        self.socket.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN | write))
    }
}

#[cfg(test)]
#[path = "worker_link/tests.rs"]
mod tests;
