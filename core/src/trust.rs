//! Whom to believe what they say of others: addresses of proxies in front of the server.

use core::net::IpAddr;
use std::fmt;

use ipnet::IpNet;

use crate::handoff::Peer;

/// The peers that are believed. Those on unix sockets always are: whoever may open one is a matter of its permissions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trusted {
    all: bool,
    nets: Vec<IpNet>,
    /// As they were written.
    items: Vec<String>,
}

impl Trusted {
    /// What [`parse`](Self::parse) takes.
    pub const ALLOWED: &str = "addresses, networks as in 10.0.0.0/8, unix, *";

    /// Reads a list: addresses, networks in CIDR notation, `*` for every peer, and `unix`, which adds nobody and is for
    /// lists that have no address. Empty items are left out. Gives an item back that is none of these.
    ///
    /// # Errors
    ///
    /// The first item that is not allowed. A network with bits behind its prefix is not: it may be meant to be another.
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

    /// This host alone, which is the default: `127.0.0.1` and `::1`.
    pub fn local() -> Self {
        Self::parse(["127.0.0.1", "::1"]).expect("these are addresses")
    }

    /// Whether nothing was listed.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What was listed.
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

    /// Whether the list has this address. One of IPv4 that IPv6 has mapped is the same.
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
