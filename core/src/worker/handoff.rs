//! The hand-off queue: how connections move to another process (unix(7), `SCM_RIGHTS`).
//!
//! One `SOCK_SEQPACKET` pair for the whole server, made before the first fork. One message is one connection: its
//! descriptor and its [`HandOff`] record. Every worker receives from the same end, so a connection that one does not
//! live to take is taken by the next.
//!
//! Who serves takes what there is, in helpings that grow, as long as it has room and descriptors to spare. Who drains takes
//! nothing, until nobody is left who would: each worker looks once more after it has sent its last, so that nothing is left
//! behind that a worker has sent which lives.
//!
//! Nothing here blocks. What the queue does not take now is still the sender's, and what a worker has no descriptor
//! free for stays in the queue.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;

use super::watch::Watch;
use crate::app::Counters;
use crate::handoff::HandOff;
use crate::time::Time;

/// Bytes that the kernel may queue, which it doubles and caps at `net.core.wmem_max`: several of the longest records, or
/// some hundreds of short ones.
const QUEUE: usize = 256 * 1024;

/// Connections taken at most before the worker's others have their turn. It begins with one and takes one more each time, so
/// that siblings have their share of a few, and many do not take long.
const TAKEN_A_TURN: u32 = 64;

/// How long a worker that serves leaves the queue to its siblings then: those that are only just waking up get their share.
const BREATH: Duration = Duration::from_millis(1);

/// Descriptors that a worker keeps for what else it may need.
const HEADROOM: u64 = 16;

/// How long a worker leaves the queue alone that has no descriptor free.
const PAUSE: Duration = Duration::from_millis(100);

/// A new queue: the sending end, and the receiving one.
///
/// # Errors
///
/// As socketpair(2).
pub fn queue() -> io::Result<(Outbox, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (send, receive) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    sockopt::set_socket_send_buffer_size(&send, QUEUE)?;
    Ok((send.into(), receive))
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: Arc<OwnedFd>,
    /// The version of its records.
    version: u16,
}

/// Why a connection is still the sender's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full; it becomes writable.
    #[error("the hand-off queue is full")]
    Full,
    /// Too many descriptors or too much memory is on its way; nothing tells when that passes.
    #[error("too many connections are being handed off")]
    Exhausted,
    /// It cannot be sent at all.
    #[error("cannot hand a connection off: {0}")]
    Failed(#[source] io::Error),
}

impl Outbox {
    /// The same that sends records of this version.
    #[must_use]
    pub fn writing(self, version: u16) -> Self {
        Self { version, ..self }
    }

    /// Sends `connection` with its `record`. The sender then closes its own descriptor, and never shuts it down.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send(&self, connection: BorrowedFd<'_>, record: &HandOff) -> Result<(), SendError> {
        let descriptors = [connection];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the space is that of one descriptor");
        let record = record.encode_as(self.version);
        loop {
            return match sendmsg(&*self.queue, &[IoSlice::new(&record)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Err(SendError::Full),
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => Err(SendError::Exhausted),
                Err(error) => Err(SendError::Failed(error.into())),
            };
        }
    }
}

impl From<OwnedFd> for Outbox {
    /// The sending end of a queue that another process has made.
    fn from(queue: OwnedFd) -> Self {
        Self { queue: Arc::new(queue), version: HandOff::VERSION }
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// A connection that another process has accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Adopted {
    /// Its socket, non-blocking.
    pub socket: OwnedFd,
    /// How far it has come; `Connection::resume` goes on from there.
    pub record: HandOff,
}

/// Receives one connection from `queue`; none if there is none, or nobody is left to send one.
///
/// # Errors
///
/// As recvmsg(2), `EMFILE` while no descriptor is free: the connection is still in the queue. `InvalidData`: a message
/// was no connection; what came with it is closed.
pub fn receive(queue: BorrowedFd<'_>) -> io::Result<Option<Adopted>> {
    receive_with(queue, 0)
}

/// The same that leaves so many descriptors to others.
fn receive_with(queue: BorrowedFd<'_>, headroom: u64) -> io::Result<Option<Adopted>> {
    // Without a free descriptor the kernel would drop the connection and deliver the rest.
    let first_free = rustix::io::fcntl_dupfd_cloexec(queue, 0)?.as_raw_fd() as u64;
    if getrlimit(Resource::Nofile).current.is_some_and(|limit| first_free + headroom >= limit) {
        return Err(Errno::MFILE.into());
    }
    let mut record = vec![0; HandOff::MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(&mut record)];
        match recvmsg(queue, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut sockets: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    if message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(invalid("a connection was handed over in part"));
    }
    match (sockets.pop(), sockets.len()) {
        (None, _) if message.bytes == 0 => Ok(None),
        (None, _) => Err(invalid("a record came without its connection")),
        (Some(_), 1..) => Err(invalid("a record came with several connections")),
        (Some(socket), 0) => match HandOff::decode(&record[..message.bytes]) {
            Ok(record) => Ok(Some(Adopted { socket, record })),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
    }
}

/// Since when the connection waits that is first in `queue`; none if there is none. Takes nothing.
pub fn waiting_since(queue: BorrowedFd<'_>) -> Option<Time> {
    let mut record = vec![0; HandOff::MAX];
    let (len, _) = rustix::net::recv(queue, &mut record, RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
    HandOff::decode(&record[..len]).ok().map(|record| record.handed.unwrap_or(record.accepted))
}

/// A worker's receiving end, and what it knows of the queue.
///
/// A backend waits on it for reading, says so to [`wake`](Self::wake), and in every turn takes what there is with
/// [`take`](Self::take), **after** the control has been handled: an order is sent before the connections that it is
/// about, so that none is served as if there were no drain.
#[derive(Debug)]
pub struct Inbox {
    /// None: this server has no queue.
    queue: Option<OwnedFd>,
    watch: Arc<Watch>,
    counters: Arc<Counters>,
    /// There may be something in it.
    readable: bool,
    taken: u32,
    /// How many may be taken in this turn.
    helping: u32,
    paused_until: Option<Time>,
    exhaustion_logged: bool,
}

impl Inbox {
    /// The inbox of a worker that is handed nothing.
    pub(super) fn none(watch: Arc<Watch>) -> Self {
        Self {
            queue: None,
            watch,
            counters: Arc::default(),
            readable: false,
            taken: 0,
            helping: 1,
            paused_until: None,
            exhaustion_logged: false,
        }
    }

    /// The inbox of a worker that receives from `queue`, and at a stop is not done before that has ended (D4).
    pub(super) fn new(queue: OwnedFd, watch: Arc<Watch>, counters: Arc<Counters>) -> Self {
        watch.expect_backlog();
        Self { queue: Some(queue), counters, ..Self::none(watch) }
    }

    /// The descriptor to wait on for reading, if there is one.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(AsFd::as_fd)
    }

    /// A wait has reported it.
    pub fn wake(&mut self) {
        self.readable = true;
    }

    /// The next connection to adopt; none if there is none, if others are to have their turn first, or if it is for other
    /// workers to take: this one has no room (`is_full`), or drains.
    pub fn take(&mut self, now: Time, is_full: bool) -> Option<Adopted> {
        // Asked before the queue is: what is put in later is not there to be missed.
        let last_look = self.watch.backlog_has_ended();
        let may_take = (self.readable || last_look) && self.is_open(is_full);
        if !may_take || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        if self.taken >= self.helping {
            (self.taken, self.helping) = (0, (self.helping + 1).min(TAKEN_A_TURN));
            self.paused_until = (!self.watch.has_begun()).then(|| now + BREATH);
            return None;
        }
        self.taken += 1;
        loop {
            match receive_with(self.queue.as_ref()?.as_fd(), HEADROOM) {
                Ok(Some(adopted)) => {
                    self.readable = true;
                    self.exhaustion_logged = false;
                    self.count(&adopted.record, now);
                    return Some(adopted);
                }
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.counters.unusable.increment();
                    tracing::error!("a connection is lost: {error}");
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.exhaustion_logged, true) {
                        let pause = PAUSE.as_millis();
                        tracing::error!(
                            "cannot take connections over: {error}; trying every {pause} ms until that passes"
                        );
                    }
                    self.readable = true;
                    self.paused_until = Some(now + PAUSE);
                    return None;
                }
            }
        }
        self.readable = false;
        (self.taken, self.helping) = (0, 1);
        if last_look {
            self.watch.backlog_is_empty();
        }
        None
    }

    /// When [`take`](Self::take) should be called again if nothing happens before; [`Time::ZERO`] while there is more.
    pub fn deadline(&self, is_full: bool) -> Option<Time> {
        let may_hold = self.readable || self.watch.backlog_has_ended();
        (may_hold && self.is_open(is_full)).then(|| self.paused_until.unwrap_or(Time::ZERO))
    }

    /// Whether it is for this worker to take connections. One that drains takes what comes at the end of the server, however
    /// full it is: nobody else has it any more.
    fn is_open(&self, is_full: bool) -> bool {
        match self.watch.current() {
            None => !is_full,
            Some((drain, _)) => !drain.receiver && self.watch.backlog_is_due(),
        }
    }

    fn count(&self, record: &HandOff, now: Time) {
        match record.handed {
            Some(handed) => {
                self.counters.adopted.increment();
                self.counters.queued.add(now.since(handed).as_nanos() as u64);
            }
            None => self.counters.accepted.increment(),
        }
    }
}

#[cfg(test)]
#[path = "handoff/queue/tests.rs"]
mod tests;
