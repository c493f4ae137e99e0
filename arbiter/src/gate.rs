//! The gate of a TCP listener that ends (D4): it drops new connects while open handshakes complete.
//!
//! A socket filter does that best; newer Linux requires `CAP_NET_ADMIN` to attach one to TCP.
//! Without it the gate is shut by [hops](Listener::shut_by_hops): a request right behind its
//! handshake is then received when the client sends it again, some 200 ms later. If neither is
//! available, a connect in that moment may be reset.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use remuda_core::worker::{Bound, Gates, Listener, Ownership};
use tracing::{debug, warn};

use crate::handshakes::Handshakes;
use crate::sys;

/// The mechanism that drops new connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Gate {
    /// A filter attached to the socket (socket(7), `SO_ATTACH_FILTER`).
    Filter,
    /// A minimum TTL of segments (ip(7), `IP_MINTTL`).
    Hops,
    /// None is available.
    None,
}

/// What this system, and the privileges of this process, offer to end TCP listeners without losing
/// a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ListenerEnd {
    /// What drops new connects while open handshakes complete.
    pub gate: Gate,
    /// Whether open handshakes can be listed (sock_diag(7)), so that the wait is exactly as long as
    /// they take.
    pub sees_handshakes: bool,
}

impl ListenerEnd {
    /// Tries both with a listener of its own, on a loopback port that the kernel chooses. None if
    /// it cannot be created.
    pub fn of_this_system() -> Option<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let addr = listener.local_addr().ok()?;
        let listener = Listener::new(0, listener.into(), Bound::Inet(addr), Ownership::Sole);
        let gates = Gates::map().ok()?;
        Some(Self { gate: shut(&listener.with_gates(gates)), sees_handshakes: can_see(addr).is_ok() })
    }

    /// Logs what a stop of this server may cost. Called once.
    pub(crate) fn tell(self) {
        if self.gate == Gate::None {
            warn!(
                "neither a socket filter nor IP_MINTTL is available for TCP listeners: clients that connect at the moment of a stop may be reset"
            );
        }
        if !self.sees_handshakes {
            warn!(
                "open handshakes cannot be listed (NETLINK_SOCK_DIAG): clients more than 40 ms away that \
                 connect at the moment of a stop may be reset"
            );
        }
    }
}

fn can_see(addr: SocketAddr) -> io::Result<()> {
    Handshakes::new()?.open_at(addr).map(drop)
}

/// Shuts the gate of `listener`, and returns the mechanism.
pub(crate) fn shut(listener: &Listener) -> Gate {
    let Err(no_filter) = sys::drop_connects(listener.as_fd()) else { return Gate::Filter };
    match listener.shut_by_hops() {
        Ok(()) => Gate::Hops,
        Err(no_hops) => {
            let bound = &listener.bound;
            debug!(
                "connects to {bound} may be reset now: no socket filter ({no_filter}), no IP_MINTTL ({no_hops})"
            );
            Gate::None
        }
    }
}
