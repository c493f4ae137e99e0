//! The hand-off queue: how connections move to another process (unix(7), `SCM_RIGHTS`).
//!
//! The server has one `SOCK_SEQPACKET` pair, created before the first fork. One message is one
//! connection: its descriptor and its [`ConnectionRecord`]. Every worker receives from the same
//! end, so a connection is taken by another worker if one dies before it has taken it.
//!
//! A serving worker takes the waiting connections in batches of growing size, as long as it has
//! room and spare descriptors. A draining worker takes none while a serving worker is left. When
//! the whole server ends, each worker looks into the queue once more after it has sent its last
//! connection, so that no connection of a live worker is left behind.
//!
//! Nothing here blocks. A connection that does not fit into the queue stays with the sender. A
//! connection for which the receiver has no free descriptor stays in the queue, even if other
//! threads open files at the same time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;

use crate::app::Counters;
use crate::handoff::ConnectionRecord;
use crate::time::Time;
use crate::worker::arbiter_link::Watch;

/// The send buffer in bytes, which the kernel doubles and caps at `net.core.wmem_max`: room for
/// several of the longest records, or for some hundreds of short ones.
const QUEUE: usize = 256 * 1024;

/// The most connections taken before the worker's other connections have their turn. The limit
/// starts at one and grows by one each time: siblings get their share of a few connections, and
/// many are taken quickly.
const TAKEN_A_TURN: u32 = 64;

/// How long a serving worker then leaves the queue to its siblings, which may only just be waking
/// up.
const PAUSE_AFTER_BATCH: Duration = Duration::from_millis(1);

/// Descriptors that a worker keeps free for other purposes.
const HEADROOM: u64 = 16;

/// How long a worker without a free descriptor leaves the queue alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Creates a queue: the sending end and the receiving end.
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

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: Arc<OwnedFd>,
    /// The version of the records that are sent.
    version: u16,
}

/// Why a connection stays with the sender.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full; it becomes writable when there is room.
    #[error("the hand-off queue is full")]
    Full,
    /// Too many descriptors or too much memory is in transit; no event tells when that ends.
    #[error("too many connections are being handed off")]
    Exhausted,
    /// The connection cannot be sent at all.
    #[error("cannot hand a connection off: {0}")]
    Failed(#[source] io::Error),
}

impl Outbox {
    /// The version of the records that are sent.
    pub(in crate::worker) fn version(&self) -> u16 {
        self.version
    }

    /// Sends records of `version` from now on.
    #[must_use]
    pub fn writing(self, version: u16) -> Self {
        Self { version, ..self }
    }

    /// Sends `connection` with its `record`. The sender must then close its own descriptor without
    /// shutting the socket down.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send(&self, connection: BorrowedFd<'_>, record: &ConnectionRecord) -> Result<(), SendError> {
        Self::send_bytes(self.as_fd(), connection, &record.encode_as(self.version))
    }

    /// Sends `connection` with an encoded record through `queue`. Does not allocate.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub(in crate::worker) fn send_bytes(
        queue: BorrowedFd<'_>,
        connection: BorrowedFd<'_>,
        record: &[u8],
    ) -> Result<(), SendError> {
        let descriptors = [connection];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the space is that of one descriptor");
        loop {
            return match sendmsg(queue, &[IoSlice::new(record)], &mut control, SendFlags::NOSIGNAL) {
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
    /// The sending end of a queue that another process has created.
    fn from(queue: OwnedFd) -> Self {
        Self { queue: Arc::new(queue), version: ConnectionRecord::VERSION }
    }
}

impl AsRawFd for Outbox {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// A connection received from the queue.
#[derive(Debug)]
#[non_exhaustive]
pub struct Adopted {
    /// The non-blocking socket.
    pub socket: OwnedFd,
    /// The state of the connection, from which `Connection::resume` continues.
    pub record: ConnectionRecord,
}

/// Receives one connection from `queue`; none if the queue is empty or has no sender left.
///
/// If descriptors run out meanwhile, because other threads open files, the connection stays in the
/// queue: the first look at a message does not take it out.
///
/// # Errors
///
/// As recvmsg(2). `EMFILE`: no descriptor is free, and the connection is still in the queue.
/// `InvalidData`: a message was not a connection; descriptors in it are closed.
pub fn receive(queue: BorrowedFd<'_>) -> io::Result<Option<Adopted>> {
    receive_with(queue, 0)
}

/// The same, but leaves `headroom` descriptors free for other purposes.
fn receive_with(queue: BorrowedFd<'_>, headroom: u64) -> io::Result<Option<Adopted>> {
    // A receiver without a free descriptor takes the message out of the queue and loses the
    // connection (`MSG_CTRUNC`). So a first look (`MSG_PEEK`) receives a descriptor of the
    // connection and leaves the message in the queue, and a spare descriptor is closed for the
    // second call, which takes the message out. If another thread uses the freed descriptor first,
    // the descriptor of the first look serves instead, unless another process has taken that
    // message in between.
    let spare = rustix::io::fcntl_dupfd_cloexec(queue, 0)?;
    let first_free = spare.as_raw_fd() as u64;
    if getrlimit(Resource::Nofile).current.is_some_and(|limit| first_free + headroom >= limit) {
        return Err(Errno::MFILE.into());
    }
    let mut record = vec![0; ConnectionRecord::MAX];
    let seen = match take_message(queue, &mut record, RecvFlags::PEEK)? {
        Some(seen) if seen.is_short && seen.sockets.is_empty() => return Err(Errno::MFILE.into()),
        Some(seen) => (record[..seen.len].to_vec(), seen.sockets),
        None => return Ok(None),
    };
    drop(spare);
    let Some(mut taken) = take_message(queue, &mut record, RecvFlags::empty())? else { return Ok(None) };
    let record = &record[..taken.len];
    if taken.is_short && taken.sockets.is_empty() && seen.0 == record {
        (taken.sockets, taken.is_short) = (seen.1, false);
    }
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    if taken.is_short {
        return Err(invalid("a connection was received in part"));
    }
    match (taken.sockets.pop(), taken.sockets.len()) {
        (None, _) if record.is_empty() => Ok(None),
        (None, _) => Err(invalid("a record came without its connection")),
        (Some(_), 1..) => Err(invalid("a record came with several connections")),
        (Some(socket), 0) => match ConnectionRecord::decode(record) {
            Ok(record) => Ok(Some(Adopted { socket, record })),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
    }
}

/// A message from the queue.
struct QueueMessage {
    /// The length of its record, which is in the buffer.
    len: usize,
    sockets: Vec<OwnedFd>,
    /// Whether part of the message is missing: bytes, or a connection for which no descriptor was
    /// free.
    is_short: bool,
}

/// The next message of `queue`, whose record is stored in `buffer`; none if the queue is empty.
fn take_message(
    queue: BorrowedFd<'_>,
    buffer: &mut [u8],
    how: RecvFlags,
) -> io::Result<Option<QueueMessage>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match recvmsg(queue, &mut slices, &mut control, how | RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let is_short = message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    Ok(Some(QueueMessage { len: message.bytes, sockets: sockets.flatten().collect(), is_short }))
}

/// Since when the first connection in `queue` has been waiting; none if the queue is empty. Takes
/// nothing out.
pub fn waiting_since(queue: BorrowedFd<'_>) -> Option<Time> {
    let mut record = vec![0; ConnectionRecord::MAX];
    let (len, _) = rustix::net::recv(queue, &mut record, RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
    ConnectionRecord::decode(&record[..len]).ok().map(|record| record.handed.unwrap_or(record.accepted))
}

/// A worker's receiving end of the queue.
///
/// A backend waits for [`source`](Self::source) to be readable and calls [`wake`](Self::wake) when
/// it is. In every turn it calls [`take`](Self::take), **after** it has handled orders: an order is
/// sent before the connections that it concerns, so that none of them is served as if there were no
/// drain.
#[derive(Debug)]
pub struct Inbox {
    /// None: the worker receives no connections.
    queue: Option<OwnedFd>,
    watch: Arc<Watch>,
    counters: Arc<Counters>,
    /// Whether the queue may hold a connection.
    readable: bool,
    taken: u32,
    /// How many connections may be taken in this turn.
    batch: u32,
    paused_until: Option<Time>,
    exhaustion_logged: bool,
}

impl Inbox {
    /// The inbox of a worker that receives no connections.
    pub(in crate::worker) fn none(watch: Arc<Watch>) -> Self {
        Self {
            queue: None,
            watch,
            counters: Arc::default(),
            readable: false,
            taken: 0,
            batch: 1,
            paused_until: None,
            exhaustion_logged: false,
        }
    }

    /// The inbox of a worker that receives from `queue`, and that at a stop does not exit before
    /// the backlog has ended (D4).
    pub(in crate::worker) fn new(queue: OwnedFd, watch: Arc<Watch>, counters: Arc<Counters>) -> Self {
        watch.state().expect_backlog();
        Self { queue: Some(queue), counters, ..Self::none(watch) }
    }

    /// The descriptor to wait on for reading, if there is one.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(AsFd::as_fd)
    }

    /// A wait has reported the source as readable.
    pub fn wake(&mut self) {
        self.readable = true;
    }

    /// The next connection to take over. None if the queue is empty, if the worker's other
    /// connections have their turn first, or if other workers should take it: this one is full
    /// (`is_full`) or drains.
    pub fn take(&mut self, now: Time, is_full: bool) -> Option<Adopted> {
        // Read before the queue: once the backlog has ended, an empty queue stays empty.
        let last_look = self.watch.state().backlog_has_ended();
        let may_take = (self.readable || last_look) && self.is_open(is_full);
        if !may_take || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        // Siblings that are only just waking up get their share of the queue; in a drain there are
        // none to wait for.
        if self.taken >= self.batch {
            (self.taken, self.batch) = (0, (self.batch + 1).min(TAKEN_A_TURN));
            self.paused_until = (!self.watch.state().has_begun()).then(|| now + PAUSE_AFTER_BATCH);
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
                    tracing::error!("handed-off connection lost: {error}");
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.exhaustion_logged, true) {
                        let pause = PAUSE.as_millis();
                        tracing::error!(
                            "cannot receive handed-off connections: {error}; next tries every {pause} ms"
                        );
                    }
                    self.readable = true;
                    self.paused_until = Some(now + PAUSE);
                    return None;
                }
            }
        }
        // The queue is empty: wait for the next report, and begin with a small batch again.
        self.readable = false;
        (self.taken, self.batch) = (0, 1);
        if last_look {
            self.watch.state().backlog_is_empty();
        }
        None
    }

    /// When to call [`take`](Self::take) again if nothing happens before; [`Time::ZERO`] while
    /// there may be more.
    pub fn deadline(&self, is_full: bool) -> Option<Time> {
        let may_hold = self.readable || self.watch.state().backlog_has_ended();
        (may_hold && self.is_open(is_full)).then(|| self.paused_until.unwrap_or(Time::ZERO))
    }

    /// Whether this worker takes connections. A draining worker takes them at the end of the
    /// server, even if it is full: no other worker would.
    fn is_open(&self, is_full: bool) -> bool {
        match self.watch.current() {
            None => !is_full,
            Some((drain, _)) => !drain.receiver && self.watch.state().backlog_is_due(),
        }
    }

    fn count(&self, record: &ConnectionRecord, now: Time) {
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
mod tests;
