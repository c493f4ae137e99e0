//! The record of a connection that moves to another worker (D19).
//!
//! The record is complete: the successor resumes from it as if the connection had always been its
//! own. Sending it belongs to the `worker` feature.
//!
//! The bytes, with little-endian numbers; sender and receiver may be of two builds that meet in an
//! upgrade:
//!
//! ```text
//! version u16 · listener u16 · served u32 · draw u32 · accepted u64 · handed? · idle_since?
//! · head_since? · peer · proxied? · length u32 · unread
//!
//! x?: 0, or 1 and x          peer: 0 unix, 4 ip port, 6 ip port flowinfo scope
//! ```

use core::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use bytes::{BufMut, Bytes};
use thiserror::Error;

use crate::config::READ_BUFFER_MAX;
use crate::peer::{Origin, Peer};
use crate::time::Time;

/// A connection between two owners.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnectionRecord {
    /// The version of the record. A receiver refuses a version that it does not know.
    pub version: u16,
    /// Index of the listener that accepted the connection.
    pub listener: u16,
    /// Requests answered so far.
    pub served: u32,
    /// When it was accepted.
    pub accepted: Time,
    /// When the previous worker handed it over. None if no worker has had it yet.
    pub handed: Option<Time>,
    /// When its last response was flushed. None if it had none.
    pub idle_since: Option<Time>,
    /// When the first byte of an unfinished head arrived, so that D12 holds across owners.
    pub head_since: Option<Time>,
    /// Its random number.
    pub draw: u32,
    /// The other end of the socket.
    pub peer: Peer,
    /// The client that a trusted PROXY header has named, or `peer` if the header named none. None
    /// if there was no header yet, and one may still come.
    pub proxied: Option<Peer>,
    /// The bytes that were read and not processed, at most [`READ_BUFFER_MAX`].
    pub unread: Bytes,
}

/// Why a record could not be decoded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Another version wrote it.
    #[error("record of version {found}, this program reads {}", Records::default())]
    Version {
        /// Its version.
        found: u16,
    },
    /// The record is too short, too long, or has a value out of range.
    #[error("malformed record of {len} bytes")]
    Malformed {
        /// Its length.
        len: usize,
    },
}

impl ConnectionRecord {
    /// The version that this program writes.
    pub const VERSION: u16 = 1;

    /// A model of a later version, which will never be assigned: version 1 with another number,
    /// `u32`, after `draw`. Only servers configured for it write it (see [`Records`]), to test an
    /// upgrade between two versions.
    pub const TRIAL: u16 = u16::MAX;

    /// A size that holds any record without unread bytes.
    pub const HEAD_MAX: usize = 128;

    /// A size that holds any record, in bytes.
    pub const MAX: usize = Self::HEAD_MAX + READ_BUFFER_MAX;

    /// The record of a connection that was accepted at `accepted` and has not been read from.
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

    /// The same for a receiver that reads `version`.
    pub fn encode_as(&self, version: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::HEAD_MAX + self.unread.len());
        self.put_into(version, &mut out);
        out
    }

    /// The same into an array, without allocating. The record has no unread bytes. Returns how many
    /// bytes it took.
    pub fn encode_into(&self, version: u16, bytes: &mut [u8; Self::HEAD_MAX]) -> usize {
        let mut rest = &mut bytes[..];
        self.put_into(version, &mut rest);
        let left = rest.len();
        Self::HEAD_MAX - left
    }

    fn put_into(&self, version: u16, out: &mut impl BufMut) {
        out.put_slice(&version.to_le_bytes());
        out.put_slice(&self.listener.to_le_bytes());
        out.put_slice(&self.served.to_le_bytes());
        out.put_slice(&self.draw.to_le_bytes());
        if version == Self::TRIAL {
            out.put_slice(&(!self.draw).to_le_bytes());
        }
        put_time(out, self.accepted);
        put_option(out, self.handed, put_time);
        put_option(out, self.idle_since, put_time);
        put_option(out, self.head_since, put_time);
        put_peer(out, self.peer);
        put_option(out, self.proxied, put_peer);
        out.put_slice(&(self.unread.len() as u32).to_le_bytes());
        out.put_slice(&self.unread);
    }

    /// Decodes a record.
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

/// The versions of records that a program reads, and the one that it writes. As text, the numbers,
/// with the written one last: `2,1`.
///
/// All processes that share a queue have to read what each of them writes. During an upgrade two
/// programs share it, and the newer one writes what the older one reads. So each version has to be
/// read by the versions after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    /// Never empty. The last one is written.
    reads: Vec<u16>,
}

impl Records {
    /// The version that is written.
    pub fn written(&self) -> u16 {
        self.reads.last().copied().unwrap_or(ConnectionRecord::VERSION)
    }

    /// The versions to use while another program, with the versions `theirs`, shares the queue.
    /// That one continues to write what it writes. This one writes the newest version that both
    /// read. None if it does not read what the other one writes.
    pub fn beside(&self, theirs: &Self) -> Option<Self> {
        let is_read = self.reads.contains(&theirs.written());
        let common = self.reads.iter().filter(|version| theirs.reads.contains(version)).max();
        let written = common.filter(|_| is_read)?;
        let others = self.reads.iter().filter(|version| *version != written);
        Some(Self { reads: others.chain([written]).copied().collect() })
    }
}

impl Default for Records {
    /// The versions of this program if it is alone.
    fn default() -> Self {
        Self { reads: vec![ConnectionRecord::VERSION] }
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

fn put_time(out: &mut impl BufMut, time: Time) {
    out.put_slice(&time.as_nanos().to_le_bytes());
}

fn put_option<B: BufMut, T>(out: &mut B, value: Option<T>, put: fn(&mut B, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_peer(out: &mut impl BufMut, peer: Peer) {
    match peer {
        Peer::Unix => out.put_u8(UNIX),
        Peer::Inet(SocketAddr::V4(addr)) => {
            out.put_u8(IPV4);
            out.put_slice(&addr.ip().octets());
            out.put_slice(&addr.port().to_le_bytes());
        }
        Peer::Inet(SocketAddr::V6(addr)) => {
            out.put_u8(IPV6);
            out.put_slice(&addr.ip().octets());
            out.put_slice(&addr.port().to_le_bytes());
            out.put_slice(&addr.flowinfo().to_le_bytes());
            out.put_slice(&addr.scope_id().to_le_bytes());
        }
    }
}

/// The part of a record that has not been read yet. Methods return None if the bytes do not
/// suffice.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// Everything after the version.
    fn record(mut self, version: u16) -> Option<ConnectionRecord> {
        let (listener, served, draw) = (self.u16()?, self.u32()?, self.u32()?);
        if version == ConnectionRecord::TRIAL && self.u32()? != !draw {
            return None;
        }
        Some(ConnectionRecord {
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

    /// The rest, which has to have the announced length.
    fn unread(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.u32()?).ok()?;
        (len == self.0.len() && len <= READ_BUFFER_MAX).then(|| Bytes::copy_from_slice(self.0))
    }
}

#[cfg(test)]
mod tests;
