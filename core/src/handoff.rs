//! What travels with a connection when it moves to another worker (D19).
//!
//! The record is complete: the successor resumes from it as if the connection had always been its own. How it
//! is sent belongs to the `worker` feature; this module knows no descriptor.
//!
//! As bytes, numbers little-endian, after the version; sender and receiver may be of two builds that meet in an upgrade:
//!
//! ```text
//! version u16 · listener u16 · served u32 · draw u32 · accepted u64 · handed? · idle_since? · head_since? · peer
//! · proxied? · length u32 · unread          x?: 0, or 1 and x          peer: 0 unix, 4 ip port, 6 ip port flowinfo scope
//! ```

use core::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;

use crate::config::READ_BUFFER_MAX;
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
    /// When the worker that had it handed it over; none if no worker has had it yet.
    pub handed: Option<Time>,
    /// When its last response was flushed; none if it had none.
    pub idle_since: Option<Time>,
    /// When the first byte of an unfinished head arrived, so that D12 holds across owners.
    pub head_since: Option<Time>,
    /// Its random number.
    pub draw: u32,
    /// The other end of the socket.
    pub peer: Peer,
    /// The client as a trusted PROXY header named it, and `peer` once more if that named none: there is something here as
    /// soon as there was a header, which may still be to come where there is nothing.
    pub proxied: Option<Peer>,
    /// What has been read and not used, at most [`READ_BUFFER_MAX`] bytes.
    pub unread: Bytes,
}

/// Why a record was not understood.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Another version wrote it.
    #[error("record of version {found}, this program reads {}", Records::default())]
    Version {
        /// The version that it begins with.
        found: u16,
    },
    /// It is too short, too long, or holds a value out of range.
    #[error("malformed record of {len} bytes")]
    Malformed {
        /// Its length.
        len: usize,
    },
}

impl HandOff {
    /// The version that this program writes.
    pub const VERSION: u16 = 1;

    /// What a later version may be like, never given to one: version 1 with a number more, `u32`, behind `draw`. Written by
    /// servers alone that are told to (see [`Records`]), to show what becomes of an upgrade between two versions.
    pub const TRIAL: u16 = u16::MAX;

    /// Bytes that hold any record.
    pub const MAX: usize = 128 + READ_BUFFER_MAX;

    /// The record of a connection that was accepted at `accepted` and not looked at since.
    pub fn fresh(origin: Origin, accepted: Time) -> Self {
        Self {
            version: Self::VERSION,
            listener: origin.listener,
            served: 0,
            accepted,
            handed: None,
            idle_since: None,
            head_since: None,
            draw: origin.draw,
            peer: origin.peer,
            proxied: None,
            unread: Bytes::new(),
        }
    }

    /// The record as bytes, at most [`MAX`](Self::MAX).
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(self.version)
    }

    /// The same for those who read `version`.
    pub fn encode_as(&self, version: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.unread.len());
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&self.listener.to_le_bytes());
        out.extend_from_slice(&self.served.to_le_bytes());
        out.extend_from_slice(&self.draw.to_le_bytes());
        if version == Self::TRIAL {
            out.extend_from_slice(&(!self.draw).to_le_bytes());
        }
        put_time(&mut out, self.accepted);
        put_option(&mut out, self.handed, put_time);
        put_option(&mut out, self.idle_since, put_time);
        put_option(&mut out, self.head_since, put_time);
        put_peer(&mut out, self.peer);
        put_option(&mut out, self.proxied, put_peer);
        out.extend_from_slice(&(self.unread.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.unread);
        out
    }

    /// The record that `bytes` are.
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let malformed = RecordError::Malformed { len: bytes.len() };
        let mut reader = Reader(bytes);
        match reader.array().map(u16::from_le_bytes) {
            Some(version @ (Self::VERSION | Self::TRIAL)) => reader.record(version).ok_or(malformed),
            Some(found) => Err(RecordError::Version { found }),
            None => Err(malformed),
        }
    }
}

/// Which versions of records a program reads, and which it writes; as text the numbers, the one that it writes last: `2,1`.
///
/// All who share a queue have to read what each of them writes. That of an upgrade is shared by two programs, of which the newer
/// one writes what the older one reads. So what a version writes is read by the versions that come after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    /// Never empty; the last is written.
    reads: Vec<u16>,
}

impl Records {
    /// The version that is written.
    pub fn written(&self) -> u16 {
        self.reads.last().copied().unwrap_or(HandOff::VERSION)
    }

    /// What this program does beside another, which writes as `theirs` says whatever this one does: it writes the newest
    /// version that both read. None if it does not read what the other writes.
    pub fn beside(&self, theirs: &Self) -> Option<Self> {
        let is_read = self.reads.contains(&theirs.written());
        let common = self.reads.iter().filter(|version| theirs.reads.contains(version)).max();
        let written = common.filter(|_| is_read)?;
        let others = self.reads.iter().filter(|version| *version != written);
        Some(Self { reads: others.chain([written]).copied().collect() })
    }
}

impl Default for Records {
    /// What this program reads and writes if nobody else is there.
    fn default() -> Self {
        Self { reads: vec![HandOff::VERSION] }
    }
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.reads.iter().map(u16::to_string).collect();
        f.write_str(&words.join(","))
    }
}

impl FromStr for Records {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reads = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { reads })
    }
}

const UNIX: u8 = 0;
const IPV4: u8 = 4;
const IPV6: u8 = 6;

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend_from_slice(&time.as_nanos().to_le_bytes());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: fn(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_peer(out: &mut Vec<u8>, peer: Peer) {
    match peer {
        Peer::Unix => out.push(UNIX),
        Peer::Inet(SocketAddr::V4(addr)) => {
            out.push(IPV4);
            out.extend_from_slice(&addr.ip().octets());
            out.extend_from_slice(&addr.port().to_le_bytes());
        }
        Peer::Inet(SocketAddr::V6(addr)) => {
            out.push(IPV6);
            out.extend_from_slice(&addr.ip().octets());
            out.extend_from_slice(&addr.port().to_le_bytes());
            out.extend_from_slice(&addr.flowinfo().to_le_bytes());
            out.extend_from_slice(&addr.scope_id().to_le_bytes());
        }
    }
}

/// What of a record has not been read yet. Every question is answered with none where the bytes do not say.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// All that follows the version.
    fn record(mut self, version: u16) -> Option<HandOff> {
        let (listener, served, draw) = (self.u16()?, self.u32()?, self.u32()?);
        if version == HandOff::TRIAL && self.u32()? != !draw {
            return None;
        }
        Some(HandOff {
            version,
            listener,
            served,
            draw,
            accepted: self.time()?,
            handed: self.option(Self::time)?,
            idle_since: self.option(Self::time)?,
            head_since: self.option(Self::time)?,
            peer: self.peer()?,
            proxied: self.option(Self::peer)?,
            unread: self.unread()?,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn time(&mut self) -> Option<Time> {
        self.array().map(|nanos| Time::from_nanos(u64::from_le_bytes(nanos)))
    }

    fn option<T>(&mut self, read: fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.array()? {
            [0] => Some(None),
            [1] => read(self).map(Some),
            _ => None,
        }
    }

    fn peer(&mut self) -> Option<Peer> {
        let addr = match self.array()? {
            [UNIX] => return Some(Peer::Unix),
            [IPV4] => SocketAddrV4::new(self.array::<4>()?.into(), self.u16()?).into(),
            [IPV6] => {
                SocketAddrV6::new(self.array::<16>()?.into(), self.u16()?, self.u32()?, self.u32()?).into()
            }
            _ => return None,
        };
        Some(Peer::Inet(addr))
    }

    /// The rest, which is exactly as long as it says.
    fn unread(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.u32()?).ok()?;
        (len == self.0.len() && len <= READ_BUFFER_MAX).then(|| Bytes::copy_from_slice(self.0))
    }
}

#[cfg(test)]
mod tests;
