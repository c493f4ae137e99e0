//! A listener, and what it is bound to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::gates::Gates;
use crate::worker::sys;
use crate::worker::sys::shared_memory::GateMark;

/// The hop limit that accepts every segment.
const ANY: u8 = 0;

/// The hop limit that drops every segment a router has forwarded, and every segment sent with fewer
/// than 255 hops, as those of all usual clients are.
const NONE_PASSED: u8 = u8::MAX;

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listener {
    /// The number of the listener in the server, from 0.
    pub index: u16,
    /// The listening socket.
    pub socket: OwnedFd,
    /// The address or path that the socket is bound to.
    pub bound: Bound,
    /// Whether this server may shut it down.
    pub ownership: Ownership,
    /// The mark of its gate in shared memory. None: the gate cannot be shut by hops.
    mark: Option<&'static GateMark>,
}

impl Listener {
    /// The `index`-th listener of the server.
    pub fn new(index: u16, socket: OwnedFd, bound: Bound, ownership: Ownership) -> Self {
        Self { index, socket, bound, ownership, mark: None }
    }

    /// Lets the gate of the listener be shut for all processes that share `gates`.
    #[must_use]
    pub fn with_gates(self, gates: Gates) -> Self {
        Self { mark: Some(gates.mark(self.index)), ..self }
    }

    /// From now on drops new connects, in all processes that hold the listener, while handshakes
    /// under way complete. Connections returned by [`accept`](Self::accept) work as before, in each
    /// of these processes.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a unix socket and for a listener without [gates](Self::with_gates);
    /// otherwise as setsockopt(2).
    pub fn shut_by_hops(&self) -> io::Result<()> {
        let (Bound::Inet(addr), Some(GateMark(mark))) = (&self.bound, self.mark) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        mark.store(true, Ordering::SeqCst);
        sys::set_least_hops(self.as_fd(), addr.is_ipv6(), NONE_PASSED)
    }

    /// Resets the hop limit that an accepted `socket` has inherited from a listener whose gate was
    /// shut.
    pub(super) fn open_gate_of(&self, socket: impl AsFd) {
        let (Bound::Inet(addr), Some(GateMark(mark))) = (&self.bound, self.mark) else { return };
        if mark.load(Ordering::SeqCst)
            && let Err(error) = sys::set_least_hops(socket.as_fd(), addr.is_ipv6(), ANY)
        {
            tracing::error!("cannot reopen the gate (IP_MINTTL) of a connection to {}: {error}", self.bound);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a listener is bound to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "HTTP is served over these two")]
pub enum Bound {
    /// An address and port; the port that the kernel chose if 0 was asked for.
    Inet(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Bound {
    /// As in a client's command line: `http://127.0.0.1:8000`, `unix:/run/app.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "http://{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether a server may end a listener (D3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "the contract names three")]
pub enum Ownership {
    /// Bound by this server and held by no other arbiter: it may be shut down and unlinked.
    Sole,
    /// Held by both arbiters of an upgrade: it may only be closed.
    Shared,
    /// Received through socket activation or `fd://`: it may only be closed, also after an upgrade.
    Inherited,
}
