//! The addresses of trusted proxies in front of the server, and how their forwarding fields are
//! read.

use core::net::IpAddr;
use std::fmt;

use ipnet::IpNet;

use crate::peer::Peer;

pub(crate) use self::forwarded::{Forwarded, forwarded, is_about_forwarding};

mod forwarded;

/// The trusted peers. Peers on unix sockets always are: permissions decide which processes may
/// connect to one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trusted {
    all: bool,
    nets: Vec<IpNet>,
    /// The list as it was written.
    items: Vec<String>,
}

impl Trusted {
    /// The items that [`parse`](Self::parse) accepts.
    pub const ALLOWED: &str = "addresses, networks as in 10.0.0.0/8, unix, *";

    /// Parses a list of addresses, networks in CIDR notation, `*` for every peer, and `unix`, which
    /// adds no peer and is for lists without an address. Empty items are ignored. The error is the
    /// first invalid item.
    ///
    /// # Errors
    ///
    /// The first item that is not allowed. A network with bits after its prefix is not, since
    /// another network may be meant.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut trusted = Self::default();
        for item in items.into_iter().map(str::trim).filter(|item| !item.is_empty()) {
            match item {
                "*" => trusted.all = true,
                "unix" => {}
                _ => trusted.nets.push(net(item).ok_or(item)?),
            }
            trusted.items.push(item.to_owned());
        }
        Ok(trusted)
    }

    /// This host only, which is the default: `127.0.0.1` and `::1`.
    pub fn local() -> Self {
        Self::parse(["127.0.0.1", "::1"]).expect("these are addresses")
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items of the list.
    pub fn items(&self) -> &[String] {
        &self.items
    }

    /// Whether the list has this peer.
    pub fn has(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix => true,
            Peer::Inet(addr) => self.has_ip(addr.ip()),
        }
    }

    /// Whether the list has this address. An IPv4 address that is mapped into IPv6 is the IPv4
    /// address.
    pub fn has_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.all || self.nets.iter().any(|net| net.contains(&ip))
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.items.join(", "))
    }
}

fn net(item: &str) -> Option<IpNet> {
    match item.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical().into()),
        Err(_) => item.parse::<IpNet>().ok().filter(|net| net.addr() == net.network()),
    }
}

#[cfg(test)]
mod tests;
