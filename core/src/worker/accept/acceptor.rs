//! Accepting connections in turn with the other workers (epoll_ctl(2), `EPOLLEXCLUSIVE`).
//!
//! All workers wait on the same listeners. For each connection the kernel wakes one worker, the one
//! whose registration is first; after accepting, a worker moves to the end of that queue by
//! registering again. So each worker gets its share, and a worker that does not return to its loop
//! gets none.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags};
use thiserror::Error;

use super::listener::{Bound, Listener};
use crate::peer::Peer;
use crate::time::Time;

/// How long accepting pauses after descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// A worker's registration of the server's listeners with an epoll instance. The owner of that
/// instance waits on it.
#[derive(Debug)]
pub struct Acceptor {
    /// `None` for a listener that has ended.
    listeners: Vec<Option<Listener>>,
    epoll: OwnedFd,
    /// The token of the first listener; the other listeners have the numbers that follow.
    first_token: u64,
    registered: bool,
    /// When accepting resumes after resources ran out.
    paused_until: Option<Time>,
    exhaustion_logged: bool,
}

/// An accepted connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The non-blocking socket.
    pub socket: OwnedFd,
    /// The address of the client.
    pub peer: Peer,
    /// The index of the listener.
    pub listener: u16,
}

/// Why a listener returns no connection.
#[derive(Debug, Error)]
#[allow(clippy::exhaustive_enums, reason = "it may be tried again, or it may not")]
pub enum AcceptError {
    /// Descriptors or memory have run out; the connection stays in the queue.
    #[error("cannot accept: {0}")]
    Exhausted(#[source] io::Error),
    /// The listener accepts nothing any more.
    #[error("the listener has ended: {0}")]
    Ended(#[source] io::Error),
}

impl Listener {
    /// Accepts one connection, without blocking. None if no connection waits.
    ///
    /// While the gate of the listener is shut ([`shut_by_hops`](Self::shut_by_hops)), a connection
    /// accepted directly with accept(2) would receive nothing from its client.
    ///
    /// # Errors
    ///
    /// See [`AcceptError`].
    pub fn accept(&self) -> Result<Option<Accepted>, AcceptError> {
        loop {
            return match rustix::net::acceptfrom_with(self, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => {
                    self.open_gate_of(&socket);
                    let peer = peer_of(&self.bound, peer);
                    Ok(Some(Accepted { socket, peer, listener: self.index }))
                }
                // This connection or its network has failed already; the next one may be fine
                // (accept(2)).
                Err(
                    Errno::CONNABORTED
                    | Errno::INTR
                    | Errno::PROTO
                    | Errno::PERM
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::NONET
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::NOPROTOOPT
                    | Errno::OPNOTSUPP
                    | Errno::TIMEDOUT,
                ) => continue,
                Err(Errno::AGAIN) => Ok(None),
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    Err(AcceptError::Exhausted(error.into()))
                }
                Err(error) => Err(AcceptError::Ended(error.into())),
            };
        }
    }
}

impl Acceptor {
    /// An acceptor for `listeners`, which are registered in `epoll` under the tokens from
    /// `first_token` on. Accepts nothing before [`resume`](Self::resume).
    pub fn new(listeners: Vec<Listener>, epoll: OwnedFd, first_token: u64) -> Self {
        for listener in &listeners {
            if let Bound::Inet(_) = listener.bound {
                // Accepted sockets inherit the option, which saves a call for each (tcp(7)). A
                // listener that turns out to be no TCP socket is used without it.
                let _ = rustix::net::sockopt::set_tcp_nodelay(listener, true);
            }
        }
        Self {
            listeners: listeners.into_iter().map(Some).collect(),
            epoll,
            first_token,
            registered: false,
            paused_until: None,
            exhaustion_logged: false,
        }
    }

    /// Registers the listeners again, unless a pause after exhaustion still lasts.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    pub fn resume(&mut self) -> io::Result<()> {
        if !self.registered && self.paused_until.is_none() {
            for index in 0..self.listeners.len() {
                self.register(index)?;
            }
            self.registered = true;
        }
        Ok(())
    }

    /// Deregisters the listeners: connections go to the other workers or stay in the backlog.
    pub fn pause(&mut self) {
        if self.registered {
            for listener in self.listeners.iter().flatten() {
                deregister(&self.epoll, listener);
            }
            self.registered = false;
        }
    }

    /// Ends accepting for good (D2), and closes the listeners. They are deregistered first: other
    /// processes hold them open, so closing alone would leave them in the epoll set.
    ///
    /// Returns the last connections accepted: the kernel may have woken this worker, and no other,
    /// for one connection of each listener. Without this last accept, that connection would wait
    /// until the next one arrives.
    pub fn close(&mut self) -> Vec<Accepted> {
        let chosen = self.registered;
        self.pause();
        self.paused_until = None;
        let last = self.listeners.drain(..).flatten().filter(|_| chosen);
        last.filter_map(|listener| listener.accept().ok().flatten()).collect()
    }

    /// Accepts one connection from the listener with `token`, if one still waits, and moves this
    /// worker behind the others.
    pub fn accept(&mut self, token: u64, now: Time) -> Option<Accepted> {
        let index = usize::try_from(token.checked_sub(self.first_token)?).ok()?;
        let listener = self.listeners.get(index)?.as_ref()?;
        if !self.registered {
            return None;
        }
        let accepted = match listener.accept() {
            Ok(accepted) => accepted,
            Err(AcceptError::Exhausted(error)) => {
                self.exhausted(error, now);
                return None;
            }
            // The owner has shut the listener down, which epoll would report for ever.
            Err(AcceptError::Ended(error)) => {
                tracing::debug!(listener = %listener.bound, "the listener has ended: {error}");
                deregister(&self.epoll, listener);
                self.listeners[index] = None;
                return None;
            }
        };
        self.exhaustion_logged &= accepted.is_none();
        deregister(&self.epoll, listener);
        if let Err(error) = self.register(index) {
            tracing::error!("cannot wait for connections: {error}");
        }
        accepted
    }

    /// When the pause after resources ran out ends, if there is one.
    pub fn deadline(&self) -> Option<Time> {
        self.paused_until
    }

    /// Ends that pause, and resumes accepting, once its time is over.
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume).
    pub fn handle_time(&mut self, now: Time) -> io::Result<()> {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.resume()?;
        }
        Ok(())
    }

    fn exhausted(&mut self, error: io::Error, now: Time) {
        if !self.exhaustion_logged {
            tracing::error!("cannot accept: {error}; next tries every {} ms", PAUSE.as_millis());
            self.exhaustion_logged = true;
        }
        self.pause();
        self.paused_until = Some(now + PAUSE);
    }

    fn register(&self, index: usize) -> io::Result<()> {
        if let Some(listener) = &self.listeners[index] {
            let token = EventData::new_u64(self.first_token + index as u64);
            epoll::add(&self.epoll, listener, token, EventFlags::IN | EventFlags::EXCLUSIVE)?;
        }
        Ok(())
    }
}

fn deregister(epoll: &OwnedFd, listener: &Listener) {
    // The only failure is that it is not registered, which is the intended state.
    let _ = epoll::delete(epoll, listener);
}

fn peer_of(bound: &Bound, addr: Option<SocketAddrAny>) -> Peer {
    match (bound, addr.and_then(|addr| addr.try_into().ok())) {
        (Bound::Inet(_), Some(addr)) => Peer::Inet(addr),
        _ => Peer::Unix,
    }
}

#[cfg(test)]
mod tests;
