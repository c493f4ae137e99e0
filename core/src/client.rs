//! The client of a request, as an application and a log know it.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::peer::Peer;

/// The client of a request, as far as it is known: the other end of the socket, unless a PROXY
/// header or the fields of a trusted proxy name another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct Client {
    /// Its address. None for a client of a unix socket.
    pub ip: Option<IpAddr>,
    /// Its port. None for a client of a unix socket, or if the proxy did not name it.
    pub port: Option<u16>,
    /// The scheme by which it reached the first proxy or, without one, the server.
    pub scheme: Scheme,
}

/// The scheme of a requested target (RFC 9110 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(clippy::exhaustive_enums, reason = "HTTP has two")]
pub enum Scheme {
    /// Over TCP or a unix socket.
    #[default]
    Http,
    /// Over TLS, which ends at a proxy.
    Https,
}

impl From<Peer> for Client {
    /// The other end of a socket.
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Inet(addr) => Self { ip: Some(addr.ip()), port: Some(addr.port()), scheme: Scheme::Http },
            Peer::Unix => Self::default(),
        }
    }
}

impl fmt::Display for Client {
    /// Address and port, as far as they are known. `unix` without an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (None, _) => f.write_str("unix"),
            (Some(ip), None) => ip.fmt(f),
            (Some(ip), Some(port)) => SocketAddr::new(ip, port).fmt(f),
        }
    }
}

impl Scheme {
    /// As it is written in a target.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
