//! What travels with a connection when it moves to another worker (D19).
//!
//! The record is complete: the successor resumes from it as if the connection had always been its own. How it
//! is sent belongs to the `worker` feature; this module knows no descriptor.

use core::net::SocketAddr;
use std::fmt;

use bytes::Bytes;

use crate::time::Time;

/// The other end of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a listener is bound to one or the other")]
pub enum Peer {
    /// An IPv4 or IPv6 address.
    Inet(SocketAddr),
    /// A unix socket, whose clients have no address.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "{addr}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Where a new connection came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Origin {
    /// Index of the listener that accepted it.
    pub listener: u16,
    /// The other end, as accept(2) gave it.
    pub peer: Peer,
    /// A random number fixed for the life of the connection, for policies that spread.
    pub draw: u32,
}

impl Origin {
    /// A connection accepted from `listener`.
    pub fn new(listener: u16, peer: Peer, draw: u32) -> Self {
        Self { listener, peer, draw }
    }
}

/// A connection between two owners.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HandOff {
    /// Version of the record; a receiver refuses one that it does not know.
    pub version: u16,
    /// Index of the listener that accepted the connection.
    pub listener: u16,
    /// Requests answered so far.
    pub served: u32,
    /// When it was accepted.
    pub accepted: Time,
    /// When its last response was flushed; none if it had none.
    pub idle_since: Option<Time>,
    /// When the first byte of an unfinished head arrived, so that D12 holds across owners.
    pub head_since: Option<Time>,
    /// Its random number.
    pub draw: u32,
    /// The other end of the socket.
    pub peer: Peer,
    /// The client as a trusted PROXY header named it.
    pub proxied: Option<Peer>,
    /// What has been read and not used, at most [`READ_BUFFER_MAX`](crate::config::READ_BUFFER_MAX) bytes.
    pub unread: Bytes,
}

impl HandOff {
    /// The version that this program writes.
    pub const VERSION: u16 = 1;
}
