//! Open handshakes of a TCP listener: the client's SYN was answered, and its ACK has not arrived.
//!
//! They are read by a dump of the kernel's sockets in SYN_RECV (sock_diag(7), `NETLINK_SOCK_DIAG`),
//! which needs no privilege. The kernel walks its table of connections for it: 0.2 ms with none,
//! some milliseconds with tens of thousands. Handshakes answered by SYN cookies (tcp(7),
//! `tcp_syncookies`) are stored nowhere and missing in the dump.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// A netlink socket for dumps.
#[derive(Debug)]
pub(crate) struct Handshakes {
    socket: OwnedFd,
    /// The sequence number of the last request.
    number: u32,
}

/// One handshake: addresses, ports, interface and the kernel's cookie (`struct inet_diag_sockid`).
pub(crate) type Handshake = [u8; 48];

/// The layout of messages (linux/netlink.h, linux/sock_diag.h).
const HEADER: usize = 16;
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;

/// `TCP_SYN_RECV` as a bit (linux/inet_diag.h, `idiag_states`).
const SYN_RECV: u32 = 1 << 3;

/// The longest message of a dump.
const PART: usize = 32 * 1024;

impl Handshakes {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// As socket(2); a sandbox may forbid the family (`EAFNOSUPPORT`).
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::SOCK_DIAG);
        Ok(Self { socket: socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?, number: 0 })
    }

    /// Returns the open handshakes of all listeners bound to `addr`. The kernel answers at once.
    ///
    /// # Errors
    ///
    /// As send(2) and recv(2), the kernel's answer (`ENOENT`: no diagnostics of TCP), and
    /// `InvalidData`.
    pub(crate) fn open_at(&mut self, addr: SocketAddr) -> io::Result<Vec<Handshake>> {
        self.number = self.number.wrapping_add(1);
        send(&self.socket, &question(addr, self.number), SendFlags::empty())?;
        let mut open = Vec::new();
        let mut part = vec![0; PART];
        loop {
            let (len, _) = match recv(&self.socket, &mut part[..], RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            if read(&part[..len], addr, self.number, &mut open)? {
                return Ok(open);
            }
        }
    }
}

/// The request for a dump of the sockets in SYN_RECV of a port (`struct nlmsghdr`, `struct
/// inet_diag_req_v2`). The listener's address family includes the sockets of all its clients.
fn question(addr: SocketAddr, number: u32) -> [u8; 72] {
    const TCP: u8 = 6;
    const LEN: usize = 72;
    let mut bytes = [0; LEN];
    let family =
        AddressFamily::as_raw(if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 });
    bytes[0..4].copy_from_slice(&(LEN as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes[8..12].copy_from_slice(&number.to_ne_bytes());
    bytes[16] = family as u8;
    bytes[17] = TCP;
    bytes[20..24].copy_from_slice(&SYN_RECV.to_ne_bytes());
    bytes[24..26].copy_from_slice(&addr.port().to_be_bytes());
    bytes
}

/// Adds the handshakes for `addr` in one message of the answer to `open`. True if it was the last
/// message.
fn read(part: &[u8], addr: SocketAddr, number: u32, open: &mut Vec<Handshake>) -> io::Result<bool> {
    let mut rest = part;
    while let Some((len, header)) = rest.first_chunk::<HEADER>().map(|header| (word(header, 0), header)) {
        let len = len as usize;
        let message = rest.get(HEADER..len).ok_or(io::ErrorKind::InvalidData)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if word(header, 8) == number {
            match kind {
                BY_FAMILY => open.extend(handshake(message).filter(|open| is_at(open, addr))),
                DONE => return Ok(true),
                ERROR => {
                    let error = message.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                }
                _ => {}
            }
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The handshake in a message (`struct inet_diag_msg`), if its socket is in SYN_RECV.
fn handshake(message: &[u8]) -> Option<Handshake> {
    let is_open = message.get(1).is_some_and(|state| 1 << state == SYN_RECV);
    is_open.then(|| message.get(4..)?.first_chunk().copied())?
}

/// Whether a handshake belongs to a listener at `addr`.
fn is_at(handshake: &Handshake, addr: SocketAddr) -> bool {
    let (port, source) = (u16::from_be_bytes([handshake[0], handshake[1]]), &handshake[4..20]);
    let is_there = match addr.ip() {
        ip if ip.is_unspecified() => true,
        IpAddr::V4(ip) => {
            Ipv4Addr::from_bits(u32::from_be_bytes(source[..4].try_into().expect("four"))) == ip
        }
        IpAddr::V6(ip) => Ipv6Addr::from_bits(u128::from_be_bytes(source.try_into().expect("sixteen"))) == ip,
    };
    port == addr.port() && is_there
}

fn word(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("a word is four bytes"))
}

#[cfg(test)]
mod tests;
