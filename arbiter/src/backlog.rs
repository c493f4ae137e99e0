//! Saves connections that no worker will accept, because their listener ends (D4) or its slot has
//! no worker.
//!
//! The arbiter accepts these connections and passes them to workers through the hand-off queue.
//! Listeners end in two ways:
//!
//! - A unix socket is ended first: its queue can still be accepted afterwards.
//! - A TCP socket is ended last, because that resets its queue. First its [`gate`] drops new
//!   connects, then open handshakes get the time of [`wait`] to complete, and the socket is ended
//!   when its queue is empty.
//!
//! No function waits: work that the hand-off queue or the limit of descriptors does not allow is
//! continued in a later turn of the loop.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use remuda_core::handoff::ConnectionRecord;
use remuda_core::peer::Origin;
use remuda_core::time::Time;
use remuda_core::worker::handoff::{Outbox, SendError, receive};
use remuda_core::worker::{AcceptError, Accepted, Bound, Draws, Listener, sys};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use self::wait::Wait;
use crate::gate::{self, Gate};
use crate::handshakes::{Handshake, Handshakes};
use crate::listener::end;

mod wait;

/// Connections between the kernel's queues and the workers.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// Unix sockets that have ended and whose queues may not be empty.
    ended: Vec<Listener>,
    /// TCP sockets that are about to end.
    ending: Vec<Ending>,
    /// None if open handshakes cannot be listed.
    handshakes: Option<Handshakes>,
    /// Connections accepted and not passed on yet.
    held: VecDeque<(OwnedFd, ConnectionRecord)>,
    draws: Draws,
    /// When to continue, if nothing happens before.
    look_at: Option<Time>,
    /// Whether the hand-off queue was full.
    full: bool,
    /// A descriptor to close if none is free, so that lost connections can be accepted and counted.
    spare: Option<OwnedFd>,
    lost: usize,
    /// The limit of descriptors before it was raised.
    limit: Rlimit,
}

/// TCP listeners at one address whose gates were shut together. Each slot may have one.
#[derive(Debug)]
struct Ending {
    addr: SocketAddr,
    listeners: Vec<Listener>,
    wait: Wait,
    /// Whether descriptors or memory ran out.
    exhausted: bool,
}

/// The pause after descriptors or memory ran out.
const MOMENT: Duration = Duration::from_millis(5);

/// Connections taken in a row from a listener that does not end.
const TAKEN_A_TURN: u32 = 64;

impl Backlog {
    /// Creates an empty backlog, and raises the limit of descriptors.
    pub(crate) fn new(now: Time) -> Self {
        Self {
            ended: Vec::new(),
            ending: Vec::new(),
            handshakes: None,
            held: VecDeque::new(),
            draws: Draws::new(),
            look_at: Some(now),
            full: false,
            spare: None,
            lost: 0,
            limit: raise_descriptor_limit(),
        }
    }

    /// Begins to end `listeners`, which this server owns: shuts their gates, or ends them if they
    /// are unix sockets.
    pub(crate) fn end(&mut self, listeners: Vec<Listener>, now: Time) {
        // A copy of any descriptor serves: closing it makes one free.
        if self.spare.is_none() {
            self.spare = listeners.first().and_then(|listener| listener.socket.try_clone().ok());
        }
        let first_new = self.ending.len();
        for listener in listeners {
            let Bound::Inet(addr) = listener.bound else {
                end(&listener);
                self.ended.push(listener);
                continue;
            };
            let has_gate = gate::shut(&listener) != Gate::None;
            // Listeners of several slots share a wait: the kernel lists handshakes by address.
            let known = self.ending[first_new..].iter().position(|ending| ending.addr == addr);
            let place = known.map_or(self.ending.len(), |place| first_new + place);
            if known.is_none() {
                self.ending.push(Ending {
                    addr,
                    listeners: Vec::new(),
                    wait: Wait::new(sys::now()),
                    exhausted: false,
                });
            }
            let Ending { listeners, wait, .. } = &mut self.ending[place];
            listeners.push(listener);
            if !has_gate {
                wait.shorten();
            }
        }
        if self.handshakes.is_none() && !self.ending.is_empty() {
            let handshakes = Handshakes::new();
            self.handshakes =
                handshakes.inspect_err(|error| debug!("cannot list open handshakes: {error}")).ok();
        }
        self.look_at = Some(now);
    }

    /// Shortens the wait for open handshakes to what D3 allows.
    pub(crate) fn hurry(&mut self, now: Time) {
        self.ending.iter_mut().for_each(|ending| ending.wait.shorten());
        self.look_at = Some(now);
    }

    /// Takes up to [`TAKEN_A_TURN`] connections from the queue of `listener`, which does not end.
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

    /// Whether nothing is left to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.ending.is_empty() && self.held.is_empty()
    }

    /// Accepts connections and passes them to `outbox`, as far as possible now. Returns the number
    /// of lost connections once nothing is left to do.
    pub(crate) fn advance(&mut self, outbox: &Outbox, now: Time) -> Option<usize> {
        for Ending { addr, wait, .. } in &mut self.ending {
            wait.look(now, || look(&mut self.handshakes, *addr));
        }
        loop {
            self.accept(now);
            // Descriptors passed on are closed here, so that more can be accepted.
            let goes_on = self.pass(outbox) && self.is_short();
            if !goes_on {
                break;
            }
        }
        self.end_in_time(now);
        if self.is_empty() {
            return Some(self.lost);
        }
        let holds = !self.ended.is_empty() || !self.held.is_empty();
        let again = self.ending.iter().any(|ending| ending.exhausted) || holds && !self.full;
        let waits = self.ending.iter().filter(|ending| !ending.wait.is_over(now));
        let waits = waits.map(|ending| ending.wait.deadline());
        self.look_at = again.then(|| now + MOMENT).into_iter().chain(waits).min();
        None
    }

    /// When to call [`advance`](Self::advance) again, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.look_at
    }

    /// Whether it waits for the hand-off queue to become writable.
    pub(crate) fn is_blocked(&self) -> bool {
        self.full
    }

    /// Accepts from the queues of all listeners, and ends listeners that need not wait.
    fn accept(&mut self, now: Time) {
        for listener in std::mem::take(&mut self.ended) {
            if self.empty(&listener, now).is_err() {
                self.ended.push(listener);
            }
        }
        for mut ending in std::mem::take(&mut self.ending) {
            ending.exhausted = false;
            for listener in &ending.listeners {
                ending.exhausted |= self.empty(listener, now).is_err();
            }
            if ending.exhausted || !ending.wait.is_over(now) || ending.wait.left() > 0 {
                self.ending.push(ending);
            } else {
                ending.listeners.iter().for_each(end);
            }
        }
    }

    /// Accepts until the queue of `listener` is empty.
    ///
    /// # Errors
    ///
    /// Whether descriptors or memory ran out.
    fn empty(&mut self, listener: &Listener, now: Time) -> Result<(), ()> {
        loop {
            match listener.accept() {
                Ok(Some(accepted)) => self.hold(accepted, now),
                Err(AcceptError::Exhausted(error)) => {
                    debug!("cannot accept the backlog of {} yet: {error}", listener.bound);
                    return Err(());
                }
                Ok(None) | Err(AcceptError::Ended(_)) => return Ok(()),
            }
        }
    }

    /// Whether descriptors or memory ran out.
    fn is_short(&self) -> bool {
        !self.ended.is_empty() || self.ending.iter().any(|ending| ending.exhausted)
    }

    fn hold(&mut self, accepted: Accepted, now: Time) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        self.held.push_back((accepted.socket, ConnectionRecord::fresh(origin, now)));
    }

    /// Passes connections on until the queue is full. True if at least one left.
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

    /// Ends the TCP listeners whose time is over, even if connections are lost (D3).
    fn end_in_time(&mut self, now: Time) {
        let is_late = |ending: &mut Ending| match ending.exhausted {
            true => ending.wait.is_late(now),
            false => ending.wait.is_over(now),
        };
        for Ending { listeners, wait, exhausted, .. } in
            self.ending.extract_if(.., is_late).collect::<Vec<_>>()
        {
            if wait.left() > 0 {
                let (bound, left, lasted) = (&listeners[0].bound, wait.left(), wait.lasted(now).as_millis());
                warn!("{left} handshakes at {bound} were still open after {lasted} ms, closing the listener");
                self.lost += wait.left();
            }
            for listener in listeners {
                if exhausted {
                    warn!("connections in the backlog of {} are lost: no descriptor is free", listener.bound);
                    self.lost += self.give_up(&listener);
                } else {
                    end(&listener);
                }
            }
        }
    }

    /// Ends `listener` and counts the connections in its queue.
    fn give_up(&mut self, listener: &Listener) -> usize {
        self.spare = None;
        let lost = iter::from_fn(|| listener.accept().ok().flatten()).count();
        end(listener);
        self.spare = listener.socket.try_clone().ok();
        lost
    }
}

/// Closes and counts connections that no worker will serve: the rest of `backlog` including open
/// handshakes, and the contents of `queue`, unless another arbiter shares it.
pub(crate) fn abandon(backlog: Option<Backlog>, queue: Option<BorrowedFd<'_>>, now: Time) -> usize {
    let mut lost = 0;
    if let Some(mut backlog) = backlog {
        lost += backlog.lost + backlog.held.drain(..).count();
        for Ending { addr, listeners, mut wait, .. } in std::mem::take(&mut backlog.ending) {
            lost += wait.look_now(now, || look(&mut backlog.handshakes, addr));
            lost += listeners.iter().map(|listener| backlog.give_up(listener)).sum::<usize>();
        }
        for listener in std::mem::take(&mut backlog.ended) {
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
                warn!("cannot count the connections left in the hand-off queue: {error}");
                return lost;
            }
        }
    }
}

/// Lists the open handshakes at `addr`.
fn look(handshakes: &mut Option<Handshakes>, addr: SocketAddr) -> io::Result<Vec<Handshake>> {
    match handshakes {
        Some(handshakes) => handshakes.open_at(addr),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Raises the limit of descriptors to its maximum, because a backlog may exceed the usual 1,024.
/// Returns the previous limit, which is restored for the workers.
fn raise_descriptor_limit() -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    limit_descriptors(Rlimit { current: limit.maximum, ..limit });
    limit
}

fn limit_descriptors(limit: Rlimit) {
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        debug!("cannot raise the limit of descriptors: {error}");
    }
}

impl Drop for Backlog {
    /// Restores the limit, also in a child forked meanwhile.
    fn drop(&mut self) {
        limit_descriptors(self.limit);
    }
}

#[cfg(test)]
mod tests;
