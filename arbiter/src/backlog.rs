//! What becomes of connections that no worker will accept, because their listener ends (D4) or its slot has no worker.
//!
//! The arbiter accepts them and passes them to the workers through the hand-off queue. Of listeners that end a unix socket
//! is ended first, because its queue can still be accepted then. A TCP socket's queue would be reset, so that one is made
//! deaf to new connects first, handshakes under way get a moment to complete, and it is ended when its queue is empty.
//!
//! Nothing here waits: what the queue, or the number of descriptors, does not allow now is done when the loop comes
//! round again.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use remuda_core::handoff::{HandOff, Origin};
use remuda_core::time::Time;
use remuda_core::worker::handoff::{Outbox, SendError, receive};
use remuda_core::worker::{AcceptError, Accepted, Bound, Draws, Listener};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use crate::listener::end;
use crate::sys;

/// Connections between the kernel's queues and the workers.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// Those that end, and whose queues may hold more.
    listeners: Vec<Listener>,
    /// Accepted and not passed on yet.
    held: VecDeque<(OwnedFd, HandOff)>,
    draws: Draws,
    /// Handshakes have had their time.
    settled_at: Time,
    /// TCP connects are refused from then on, whatever descriptor limits leave behind (D3).
    refuse_at: Time,
    /// When to go on, if nothing happens before.
    look_at: Option<Time>,
    /// The hand-off queue took no more.
    full: bool,
    /// A descriptor to give up where none is free, so that what is lost can be counted.
    spare: Option<OwnedFd>,
    lost: usize,
    /// Of descriptors, as it was before.
    limit: Rlimit,
}

/// What a handshake under way gets to complete, and the pause where descriptors or memory have run out.
const MOMENT: Duration = Duration::from_millis(5);

/// Connections taken from a listener that goes on before the arbiter looks after everything else.
const TAKEN_A_TURN: u32 = 64;

/// D3 allows 50 ms.
const REFUSE_AFTER: Duration = Duration::from_millis(40);

impl Backlog {
    /// None yet, and no listeners that end.
    pub(crate) fn new(now: Time) -> Self {
        Self {
            listeners: Vec::new(),
            held: VecDeque::new(),
            draws: Draws::new(),
            settled_at: now,
            refuse_at: now,
            look_at: Some(now),
            full: false,
            spare: None,
            lost: 0,
            limit: raise_descriptor_limit(),
        }
    }

    /// Makes `listeners`, all of them this server's own, refuse new connections, or at least not complete any.
    pub(crate) fn end(&mut self, listeners: Vec<Listener>, now: Time) {
        for listener in &listeners {
            match listener.bound {
                Bound::Unix(_) => end(listener),
                Bound::Inet(_) => {
                    if let Err(error) = sys::drop_connects(listener.as_fd()) {
                        warn!("connects to {} may be reset in this moment: {error}", listener.bound);
                    }
                }
            }
        }
        if self.spare.is_none() {
            self.spare = listeners.first().and_then(|listener| listener.socket.try_clone().ok());
        }
        self.listeners.extend(listeners);
        self.settled_at = now + MOMENT;
        self.refuse_at = now + REFUSE_AFTER;
        self.look_at = Some(now);
    }

    /// Takes some of what the queue of `listener` holds, which goes on.
    ///
    /// # Errors
    ///
    /// See [`AcceptError`].
    pub(crate) fn take(&mut self, listener: &Listener, now: Time) -> Result<(), AcceptError> {
        for _ in 0..TAKEN_A_TURN {
            let Some(accepted) = listener.accept()? else { break };
            self.hold(accepted, now);
        }
        Ok(())
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.held.is_empty()
    }

    /// Accepts and passes on to `outbox` what goes now. Once nothing is left to do: how many connections are lost.
    pub(crate) fn advance(&mut self, outbox: &Outbox, now: Time) -> Option<usize> {
        loop {
            self.accept(now);
            // What has been passed on makes room for more.
            let goes_on = self.pass(outbox) && !self.listeners.is_empty();
            if !goes_on {
                break;
            }
        }
        if now >= self.refuse_at {
            self.refuse();
        }
        if self.is_empty() {
            return Some(self.lost);
        }
        let timed = !self.full || self.listeners.iter().any(is_tcp);
        self.look_at = timed.then(|| now + MOMENT);
        None
    }

    /// When [`advance`](Self::advance) should be called again if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.look_at
    }

    /// Whether it waits for the queue to become writable.
    pub(crate) fn is_blocked(&self) -> bool {
        self.full
    }

    fn accept(&mut self, now: Time) {
        for listener in std::mem::take(&mut self.listeners) {
            if is_tcp(&listener) && now < self.settled_at {
                self.listeners.push(listener);
                continue;
            }
            loop {
                match listener.accept() {
                    Ok(Some(accepted)) => self.hold(accepted, now),
                    Err(AcceptError::Exhausted(error)) => {
                        debug!("the backlog of {} has to wait: {error}", listener.bound);
                        self.listeners.push(listener);
                        break;
                    }
                    Ok(None) | Err(AcceptError::Ended(_)) => {
                        end(&listener);
                        break;
                    }
                }
            }
        }
    }

    fn hold(&mut self, accepted: Accepted, now: Time) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        self.held.push_back((accepted.socket, HandOff::fresh(origin, now)));
    }

    /// Passes on what the queue takes; whether that was anything.
    fn pass(&mut self, outbox: &Outbox) -> bool {
        let before = self.held.len();
        self.full = false;
        while let Some((socket, record)) = self.held.front() {
            match outbox.send(socket.as_fd(), record) {
                Ok(()) => {}
                Err(SendError::Full) => {
                    self.full = true;
                    break;
                }
                Err(SendError::Exhausted) => break,
                Err(error) => {
                    warn!("{error}");
                    self.lost += 1;
                }
            }
            self.held.pop_front();
        }
        self.held.len() < before
    }

    /// Ends the TCP listeners whose queues no descriptor was left for.
    fn refuse(&mut self) {
        for listener in self.listeners.extract_if(.., |listener| is_tcp(listener)).collect::<Vec<_>>() {
            warn!("connections are left in the backlog of {}: no descriptor is free", listener.bound);
            self.lost += self.give_up(&listener);
        }
    }

    /// Ends `listener` and counts what its queue held.
    fn give_up(&mut self, listener: &Listener) -> usize {
        self.spare = None;
        let lost = iter::from_fn(|| listener.accept().ok().flatten()).count();
        end(listener);
        self.spare = listener.socket.try_clone().ok();
        lost
    }
}

/// Counts and closes what no worker will serve: of `backlog`, if it was not all passed on, and of what `queue` still holds,
/// if that is nobody else's.
pub(crate) fn abandon(backlog: Option<Backlog>, queue: Option<BorrowedFd<'_>>) -> usize {
    let mut lost = 0;
    if let Some(mut backlog) = backlog {
        lost += backlog.lost + backlog.held.drain(..).count();
        for listener in std::mem::take(&mut backlog.listeners) {
            lost += backlog.give_up(&listener);
        }
    }
    let Some(queue) = queue else { return lost };
    loop {
        match receive(queue) {
            Ok(None) => return lost,
            Ok(Some(_)) => lost += 1,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => lost += 1,
            Err(error) => {
                warn!("cannot count what is left in the hand-off queue: {error}");
                return lost;
            }
        }
    }
}

fn is_tcp(listener: &Listener) -> bool {
    matches!(listener.bound, Bound::Inet(_))
}

/// A backlog may be longer than the usual limit of 1,024. Gives the limit that was; it is the workers', and put back.
fn raise_descriptor_limit() -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    limit_descriptors(Rlimit { current: limit.maximum, ..limit });
    limit
}

fn limit_descriptors(limit: Rlimit) {
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        debug!("the limit of descriptors stays as it is: {error}");
    }
}

impl Drop for Backlog {
    /// Also in who is forked meanwhile.
    fn drop(&mut self) {
        limit_descriptors(self.limit);
    }
}

#[cfg(test)]
mod tests;
