//! Connections that a worker had accepted, and not yet published, when it died. Their listeners show
//! which descriptors they are.

use std::array;
use std::net::SocketAddr;

use rustix::io::{Errno, fcntl_getfd};
use rustix::net::{SocketAddrAny, getsockname};

use super::{Entries, Rescue, stream_to};
use crate::peer::{Origin, Peer};
use crate::rescue::{ByteCounts, Entry, Standing};
use crate::time::Time;
use crate::worker::accept::Listener;
use crate::worker::sys;
use crate::worker::sys::keeper::{borrow, tcp_counts};
use crate::worker::sys::shared_memory::Arrivals;

/// The most listeners whose connections are found. The few connections of others that are being
/// accepted are lost with their worker.
pub(super) const LISTENERS: usize = 16;

/// So many numbers of closed descriptors in a row are the end of the table: accept(2) returns the
/// lowest number that is free.
const CLOSED: u32 = 1024;

/// Where a listener accepts connections.
#[derive(Clone, Debug)]
pub(super) struct ListenerAddress {
    /// The index of the listener.
    listener: u16,
    bound: SocketAddrAny,
}

/// The first listeners.
pub(super) fn addresses(listeners: &[Listener]) -> [Option<ListenerAddress>; LISTENERS] {
    array::from_fn(|n| {
        let listener = listeners.get(n)?;
        Some(ListenerAddress { listener: listener.index, bound: getsockname(listener).ok()? })
    })
}

impl ListenerAddress {
    /// Whether a connection with this `local` address was accepted here.
    fn has_accepted(&self, local: &SocketAddrAny) -> bool {
        match (SocketAddr::try_from(self.bound.clone()), SocketAddr::try_from(local.clone())) {
            (Ok(bound), Ok(local)) => {
                bound.is_ipv6() == local.is_ipv6()
                    && bound.port() == local.port()
                    && (bound.ip().is_unspecified() || bound.ip() == local.ip())
            }
            (Err(_), Err(_)) => self.bound == *local,
            _ => false,
        }
    }
}

impl Rescue {
    /// Publishes the connections that the worker, which ended at `gone`, had accepted and not
    /// published.
    pub(super) fn enter_arrivals(&self, gone: Time) {
        let Some(arrivals) = self.entries.memory.arrivals() else { return };
        for _ in 0..enter(self.entries, &self.listeners, gone) {
            if arrivals == Arrivals::Uncounted {
                self.seat.rescue_accepts();
            }
        }
    }
}

/// Publishes the connections of these listeners that have no entry, and returns how many there are.
pub(super) fn enter(entries: Entries, listeners: &[Option<ListenerAddress>], now: Time) -> u32 {
    let (mut found, mut closed) = (0, 0);
    for (number, memory) in entries.entries.iter().enumerate() {
        if memory.is_taken() {
            closed = 0;
            continue;
        }
        let Some((listener, peer)) = arrived(number as i32, listeners) else {
            let is_closed = fcntl_getfd(borrow(number as i32)) == Err(Errno::BADF);
            closed = if is_closed { closed + 1 } else { 0 };
            if closed > CLOSED && number >= entries.memory.used() {
                break;
            }
            continue;
        };
        let entry = Entry::new(memory);
        // The number of the descriptor and the time are as good as any random number.
        let draw = (now.as_nanos() as u32).wrapping_mul(number as u32 | 1);
        entry.describe(Origin::new(listener, peer, draw), now, None, Some(ByteCounts::default()));
        entry.publish(Standing::Fresh);
        entries.memory.raise(number + 1);
        found += 1;
    }
    found
}

/// The listener and the client of a connection that was accepted, and of which nothing was read.
/// None for every other descriptor.
fn arrived(number: i32, listeners: &[Option<ListenerAddress>]) -> Option<(u16, Peer)> {
    let socket = borrow(number);
    let client = stream_to(socket)?;
    let local = getsockname(socket).ok()?;
    let from = listeners.iter().flatten().find(|listener| listener.has_accepted(&local))?;
    let Some(peer) = client.and_then(|client| SocketAddr::try_from(client).ok()) else {
        return Some((from.listener, Peer::Unix));
    };
    // The worker may not have undone what the listener's end did to the socket (D4).
    let _ = sys::set_least_hops(socket, peer.is_ipv6(), 0);
    let is_untouched = tcp_counts(socket) == Some(ByteCounts::default());
    is_untouched.then_some((from.listener, Peer::Inet(peer)))
}

#[cfg(test)]
mod tests;
