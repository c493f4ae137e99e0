//! Accepting in turn (epoll_ctl(2), `EPOLLEXCLUSIVE`).
//!
//! All workers wait on the same listeners. The kernel wakes one of them for a connection, the one whose
//! registration stands first; a worker that has accepted goes to the end of that queue by registering anew. So each
//! worker gets its share, and a worker that does not come back to its loop gets none.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags};
use thiserror::Error;

use super::{Bound, Listener};
use crate::handoff::Peer;
use crate::time::Time;

/// How long accepting pauses when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// A worker's share of the server's listeners, registered with an epoll instance that somebody else waits on.
#[derive(Debug)]
pub struct Acceptor {
    /// `None` once it has ended.
    listeners: Vec<Option<Listener>>,
    epoll: OwnedFd,
    /// The token of the first listener; the others follow.
    first_token: u64,
    registered: bool,
    /// Accepting resumes then, after resources ran out.
    paused_until: Option<Time>,
    exhaustion_logged: bool,
}

/// A connection that was accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// Its socket, non-blocking.
    pub socket: OwnedFd,
    /// Its other end.
    pub peer: Peer,
    /// Index of the listener.
    pub listener: u16,
}

/// Why a listener gives no connection.
#[derive(Debug, Error)]
#[allow(clippy::exhaustive_enums, reason = "it may be tried again, or it may not")]
pub enum AcceptError {
    /// Descriptors or memory have run out; the connection waits.
    #[error("cannot accept: {0}")]
    Exhausted(#[source] io::Error),
    /// Nothing is to be accepted any more.
    #[error("the listener has ended: {0}")]
    Ended(#[source] io::Error),
}

impl Listener {
    /// Accepts one connection, without blocking; none if there is none.
    ///
    /// # Errors
    ///
    /// See [`AcceptError`].
    pub fn accept(&self) -> Result<Option<Accepted>, AcceptError> {
        loop {
            return match rustix::net::acceptfrom_with(self, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => {
                    let peer = peer_of(&self.bound, peer);
                    Ok(Some(Accepted { socket, peer, listener: self.index }))
                }
                // That connection has gone already, or its network has; the next may be there (accept(2)).
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
    /// An acceptor of `listeners`, with tokens from `first_token` on, that waits through `epoll`. It accepts nothing
    /// before [`resume`](Self::resume).
    pub fn new(listeners: Vec<Listener>, epoll: OwnedFd, first_token: u64) -> Self {
        for listener in &listeners {
            if let Bound::Inet(_) = listener.bound {
                // Accepted sockets inherit it, which saves a call for each (tcp(7)). A listener that is no TCP
                // socket after all does without.
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

    /// Waits for connections again.
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

    /// Leaves connections to the other workers, or in the backlog.
    pub fn pause(&mut self) {
        if self.registered {
            for listener in self.listeners.iter().flatten() {
                deregister(&self.epoll, listener);
            }
            self.registered = false;
        }
    }

    /// Accepts nothing ever again, and gives the listeners up. They are deregistered first: other processes hold them
    /// open, so closing alone would leave them in the epoll set.
    ///
    /// Gives what was accepted last: the kernel may have woken this worker for a connection of each listener, and then
    /// has told no other, so that the connection would wait until the next one comes.
    pub fn close(&mut self) -> Vec<Accepted> {
        let chosen = self.registered;
        self.pause();
        self.paused_until = None;
        let last = self.listeners.drain(..).flatten().filter(|_| chosen);
        last.filter_map(|listener| listener.accept().ok().flatten()).collect()
    }

    /// Accepts one connection from the listener that `token` stands for, if one is still there, and lines up behind
    /// the other workers.
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
            // Shut down by its owner: epoll would report that for ever.
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

    /// When a pause ends that running out of resources began.
    pub fn deadline(&self) -> Option<Time> {
        self.paused_until
    }

    /// Ends such a pause once it is over.
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
            tracing::error!(
                "cannot accept: {error}; accepting every {} ms until that passes",
                PAUSE.as_millis()
            );
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
    // Not being registered is as good as no longer being registered.
    let _ = epoll::delete(epoll, listener);
}

fn peer_of(bound: &Bound, addr: Option<SocketAddrAny>) -> Peer {
    match (bound, addr.and_then(|addr| addr.try_into().ok())) {
        (Bound::Inet(_), Some(addr)) => Peer::Inet(addr),
        _ => Peer::Unix,
    }
}

#[cfg(test)]
#[path = "acceptor/tests.rs"]
mod tests;
