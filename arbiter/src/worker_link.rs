//! The arbiter's end of a worker's order socket: orders go out, reports come in. No call waits.
//!
//! The socket is a `SOCK_SEQPACKET` pair (unix(7)). A worker that does not read cannot delay the
//! arbiter: orders for which the kernel has no room are queued, in order, until the socket is
//! writable.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use nix::unistd::Uid;
use remuda_core::order::{MESSAGE_MAX, Order, Report};
use remuda_core::worker::Sink;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use tracing::warn;

/// An order socket, and the orders that are not sent yet.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    /// None once the worker has closed its end.
    socket: Option<OwnedFd>,
    queue: VecDeque<Message>,
    /// The user that the worker runs as. None: the arbiter's.
    pub(crate) user: Option<Uid>,
}

/// An order, with its descriptors.
#[derive(Debug)]
struct Message {
    order: Vec<u8>,
    descriptors: Vec<Arc<Sink>>,
}

/// The largest number of descriptors of one order: those of two logs.
const DESCRIPTORS_MAX: usize = 2;

/// Reports read from one worker in a row. A worker sends three in its life, one for each USR1, and,
/// when it aborts, one for each thread that runs a handler.
const REPORTS_A_TURN: usize = 128;

impl WorkerLink {
    /// Creates a link, and the worker's end of it. Both are closed on exec.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        ioctl_fionbio(&ours, true)?;
        Ok((Self { socket: Some(ours), queue: VecDeque::new(), user: None }, theirs))
    }

    /// Sends `order` now, or later if the socket is full.
    pub(crate) fn send(&mut self, order: &Order) {
        self.send_with(order, Vec::new());
    }

    /// Sends `order` with copies of at most [`DESCRIPTORS_MAX`] descriptors.
    pub(crate) fn send_with(&mut self, order: &Order, descriptors: Vec<Arc<Sink>>) {
        self.queue.push_back(Message { order: order.encode(), descriptors });
        self.flush();
    }

    /// Sends queued orders until the socket is full.
    pub(crate) fn flush(&mut self) {
        let Some(socket) = &self.socket else { return self.queue.clear() };
        while let Some(message) = self.queue.front_mut() {
            match message.send(socket) {
                Err(Errno::INTR) => {}
                // The kernel's limit of descriptors in flight is reached, because workers do not
                // read (unix(7)). The order goes without them, and the worker logs that they are
                // missing.
                Err(Errno::TOOMANYREFS) => message.descriptors.clear(),
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Ok(_) => drop(self.queue.pop_front()),
                Err(_) => return self.queue.clear(), // the worker has closed its end
            }
        }
    }

    /// Returns the reports that have arrived, up to [`REPORTS_A_TURN`].
    pub(crate) fn receive(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..REPORTS_A_TURN {
            let Some(socket) = &self.socket else { break };
            match recv(socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => self.socket = None,
                Ok((len, _)) => match Report::decode(&buffer[..len]) {
                    Ok(report) => reports.push(report),
                    Err(error) => warn!("malformed report from a worker: {error}"),
                },
                // A worker that exits with unread orders resets the socket. The error comes once,
                // before its last reports.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.socket = None,
            }
        }
        reports
    }

    /// The descriptor to wait for. None once the worker has closed its end.
    pub(crate) fn interest(&self) -> Option<PollFd<'_>> {
        let write = if self.queue.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        self.socket.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN | write))
    }
}

impl Message {
    fn send(&self, socket: &OwnedFd) -> Result<usize, Errno> {
        let descriptors: Vec<_> = self.descriptors.iter().map(|sink| sink.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
            debug_assert!(fits, "the space is that of all logs");
        }
        sendmsg(socket, &[IoSlice::new(&self.order)], &mut control, SendFlags::NOSIGNAL)
    }
}

#[cfg(test)]
mod tests;
