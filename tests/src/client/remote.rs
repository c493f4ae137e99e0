//! A client at any distance: it has its own TCP (RFC 9293), and sends each segment when the test
//! says.
//!
//! It sends by a raw socket (raw(7)) on the loopback interface, which needs `CAP_NET_RAW`, and
//! receives the server's segments there. So does the kernel, which would answer with a reset. To
//! prevent that, the client's port belongs to a listener whose gate is shut, so the kernel drops
//! segments for it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use remuda_core::worker::{Bound, Gates, Listener, Ownership};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recv, sendto, socket_with,
};

use super::{End, PATIENCE};

/// A client that has sent its SYN and received a SYN-ACK, or is further on.
#[derive(Debug)]
pub struct Remote {
    raw: OwnedFd,
    /// Holds its port, for which the kernel sends nothing.
    _port: Listener,
    local: SocketAddr,
    server: SocketAddr,
    /// The sequence number of the first byte that the server has not acknowledged.
    sequence: u32,
    /// The sequence number of the next byte from the server.
    expected: u32,
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// When unacknowledged data is sent again, as kernels do (RFC 6298, with a shorter minimum).
const AGAIN: Duration = Duration::from_millis(200);

impl Remote {
    /// Begins a handshake with the server at `to`, and waits for the answer. None: the SYN is not
    /// answered.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if this user may open no raw socket.
    pub fn begin(to: SocketAddr) -> io::Result<Option<Self>> {
        let (family, ip) = match to {
            SocketAddr::V4(_) => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))),
            SocketAddr::V6(_) => (AddressFamily::INET6, to.ip()),
        };
        let raw = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        bind(&raw, &SocketAddr::new(ip, 0))?;
        let port = TcpListener::bind((ip, 0))?;
        let local = port.local_addr()?;
        let port =
            Listener::new(0, port.into(), Bound::Inet(local), Ownership::Sole).with_gates(Gates::map()?);
        port.shut_by_hops()?;
        let mut remote = Self { raw, _port: port, local, server: to, sequence: 1, expected: 0 };
        remote.send(SYN, &[])?;
        remote.sequence += 1;
        let answer = remote.hear(Instant::now() + PATIENCE / 20, |flags, _, _| flags & SYN != 0)?;
        Ok(answer.map(|(_, sequence, _)| {
            remote.expected = sequence.wrapping_add(1);
            remote
        }))
    }

    /// Completes the handshake, sends `request` in a segment right after it, and reads until the
    /// server ends the connection.
    ///
    /// # Errors
    ///
    /// As send(2) and recv(2).
    pub fn ask(&mut self, request: &str) -> io::Result<(String, End)> {
        self.send(ACK, &[])?;
        self.send(ACK | PSH, request.as_bytes())?;
        let (deadline, mut again) = (Instant::now() + PATIENCE, Instant::now() + AGAIN);
        let asked = self.sequence.wrapping_add(request.len() as u32);
        let mut text = Vec::new();
        while Instant::now() < deadline {
            let from = self.expected;
            let heard =
                self.hear(again.min(deadline), |flags, sequence, _| flags & RST != 0 || sequence == from)?;
            let Some((flags, _, data)) = heard else {
                if self.sequence != asked {
                    self.send(ACK | PSH, request.as_bytes())?;
                }
                again += AGAIN;
                continue;
            };
            if flags & RST != 0 {
                return Ok((String::from_utf8_lossy(&text).into_owned(), End::Reset));
            }
            if !data.is_empty() {
                self.sequence = asked; // the server has received what it answers
            }
            self.expected = self.expected.wrapping_add(data.len() as u32 + u32::from(flags & FIN != 0));
            text.extend(&data);
            if flags & FIN != 0 {
                self.send(ACK | FIN, &[])?;
                return Ok((String::from_utf8_lossy(&text).into_owned(), End::Fin));
            }
            if !data.is_empty() {
                self.send(ACK, &[])?;
            }
        }
        Ok((String::from_utf8_lossy(&text).into_owned(), End::StillOpen))
    }

    /// Sends a segment (RFC 9293 §3.1).
    fn send(&self, flags: u8, data: &[u8]) -> io::Result<()> {
        const WORDS: u8 = 5;
        let mut segment = Vec::with_capacity(20 + data.len());
        segment.extend(self.local.port().to_be_bytes());
        segment.extend(self.server.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.expected.to_be_bytes());
        segment.extend([WORDS << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(data);
        let sum = checksum(self.local.ip(), self.server.ip(), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        // The address of a raw socket has no port.
        let to = SocketAddr::new(self.server.ip(), 0);
        Ok(sendto(&self.raw, &segment, SendFlags::empty(), &to).map(drop)?)
    }

    /// Waits for a segment from the server to this client whose flags, sequence number and data are
    /// `wanted`.
    fn hear(
        &self,
        deadline: Instant,
        wanted: impl Fn(u8, u32, &[u8]) -> bool,
    ) -> io::Result<Option<(u8, u32, Vec<u8>)>> {
        let mut packet = vec![0; 65536];
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Ok(None);
            }
            let _ = poll(&mut [PollFd::new(&self.raw, PollFlags::IN)], patience.try_into().ok().as_ref());
            let len = match recv(&self.raw, &mut packet[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => len,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // IPv4 packets come with their header (ip(7)), IPv6 packets without (ipv6(7)).
            let header = if self.local.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
            let Some(segment) = packet.get(header..len).filter(|segment| segment.len() >= 20) else {
                continue;
            };
            let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
            if (port(0), port(2)) != (self.server.port(), self.local.port()) {
                continue;
            }
            let sequence = u32::from_be_bytes(segment[4..8].try_into().expect("four bytes"));
            let Some(data) = segment.get(usize::from(segment[12] >> 4) * 4..) else { continue };
            if wanted(segment[13], sequence, data) {
                return Ok(Some((segment[13], sequence, data.to_owned())));
            }
        }
    }
}

/// Whether this user may open raw sockets. The error is the reason.
///
/// # Errors
///
/// As socket(2).
pub fn may_be_remote() -> io::Result<()> {
    match socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP)) {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(ErrorKind::PermissionDenied, format!("no raw socket: {error}"))),
    }
}

/// The checksum of a segment, which covers its addresses (RFC 9293 §3.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    const TCP: u8 = 6;
    let mut bytes = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend([0, TCP]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
