//! The other end of a connection: its address, the listener that accepted it, and what an
//! application sees of both.

use core::net::SocketAddr;
use std::fmt;

/// The other end of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a listener is bound to one or the other")]
pub enum Peer {
    /// An IPv4 or IPv6 address.
    Inet(SocketAddr),
    /// A unix socket. Its clients have no address.
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

/// The origin of a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Origin {
    /// Index of the listener that accepted it.
    pub listener: u16,
    /// The other end, as accept(2) gave it.
    pub peer: Peer,
    /// A random number fixed for the life of the connection, for policies that spread connections.
    pub draw: u32,
}

impl Origin {
    /// A connection accepted from `listener`.
    pub fn new(listener: u16, peer: Peer, draw: u32) -> Self {
        Self { listener, peer, draw }
    }
}

/// Facts about the connection of a request, for the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The other end of the socket, or the client that a PROXY header has named.
    pub peer: Peer,
    /// Requests on this connection so far, including this one.
    pub requests: u32,
}
