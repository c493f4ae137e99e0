//! What a keeper does once its worker is gone. Nothing here allocates.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketType, sockopt};
use rustix::process::Pid;

use self::arrivals::ListenerAddress;
use super::{Entries, KeeperCx, Patience, is_orphan};
use crate::config::LINGER_AT_DEADLINE;
use crate::handoff::ConnectionRecord;
use crate::peer::Peer;
use crate::rescue::{EntryMemory, Found, Standing};
use crate::time::Time;
use crate::worker::exit::Exit;
use crate::worker::handoff::{Outbox, SendError};
use crate::worker::scoreboard::{Ledger, Seat, ServerStage};
use crate::worker::sys;
use crate::worker::sys::keeper::{borrow, close_between, tcp_counts};

/// The response to a request whose worker is gone.
const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// The response to one that was cut by the deadline of a drain (D10).
const STOPPED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// How long a connection lingers that was not answered, or that ends with the server.
const LINGER_LAST: Duration = Duration::from_millis(500);

/// How long after the deadline of a stop everything ends: a worker that its timer has ended is
/// answered for, and the arbiter kills what is left later.
const LAST: Duration = Duration::from_millis(1200);

/// How soon connections that are held are looked at again, at the least.
const NAP: Duration = Duration::from_millis(5);

/// The same while the queue is full, and other workers take from it.
const NAP_FULL: Duration = Duration::from_millis(1);

/// A keeper that nothing is taken from sleeps at least so many times as long as it has worked: many
/// connections that are held cost little.
const REST: u32 = 10;

/// How many bytes of a lingering connection are discarded before others have their turn.
const DISCARDED_A_TURN: usize = 64;

mod arrivals;

pub(super) struct Rescue {
    entries: Entries,
    seat: Seat,
    ledger: Ledger,
    arbiter: Pid,
    /// The number of the sending end of the queue, and the version of the records.
    queue: i32,
    version: u16,
    patience: Patience,
    listeners: [Option<ListenerAddress>; arrivals::LISTENERS],
    /// Whether the queue had no room at the last attempt.
    is_full: bool,
}

/// The state of the server, as far as a keeper is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    /// Other workers take connections, now or later.
    Receives,
    /// It stops by this time, or its arbiter is gone.
    Stops(Option<Time>),
}

impl Rescue {
    pub(super) fn new(entries: Entries, cx: &KeeperCx<'_>, patience: Patience) -> Self {
        let KeeperCx { seat, ledger, arbiter, listeners, outbox, .. } = *cx;
        let (queue, version) = (outbox.as_raw_fd(), outbox.version());
        let listeners = arrivals::addresses(listeners);
        Self { entries, seat, ledger, arbiter, queue, version, patience, listeners, is_full: false }
    }

    /// Goes on with the connections of the worker until none is left.
    pub(super) fn run(mut self) -> ! {
        let gone = sys::now();
        self.enter_arrivals(gone);
        self.close_others();
        let mut left = self.look_at_all(gone);
        self.seat.rescue_begins(left);
        while left > 0 {
            let now = sys::now();
            let server = self.server();
            if let Server::Stops(Some(deadline)) = server
                && now >= deadline + LAST
            {
                break;
            }
            let before = left;
            left = self.tend_all(server, gone, now);
            self.seat.rescue_holds(left);
            if left > 0 {
                let took = sys::now() - now;
                // Workers that take connections are waited for only shortly: most of that time was
                // spent on these, or without a processor.
                let has_receiver = self.is_full && left < before;
                sys::keeper::nap(if has_receiver { NAP_FULL } else { NAP.max(took * REST) });
            }
        }
        self.end_all();
        sys::leave(Exit::Clean.status())
    }

    fn server(&self) -> Server {
        if is_orphan(self.arbiter) {
            return Server::Stops(None);
        }
        match self.ledger.stage() {
            ServerStage::Stopping if !self.ledger.is_elsewhere() => Server::Stops(self.ledger.deadline()),
            _ => Server::Receives,
        }
    }

    /// Closes all descriptors but connections and the queue: locks, pipes and listeners of the
    /// worker end with it.
    fn close_others(&self) {
        let mut first = 0;
        for (number, entry) in self.entries.used().iter().enumerate() {
            let number = number as i32;
            if entry.is_taken() || number == self.queue {
                close_between(first, number - 1);
                first = number + 1;
            }
        }
        if self.queue >= first {
            close_between(first, self.queue - 1);
            first = self.queue + 1;
        }
        close_between(first, i32::MAX);
    }

    /// Decides about each connection of the worker, which ended at `gone`, and answers those that
    /// can be answered. Returns how many are left.
    fn look_at_all(&self, gone: Time) -> usize {
        let mut left = 0;
        for (number, entry) in self.entries.used().iter().enumerate() {
            if !entry.is_taken() {
                continue;
            }
            let Some(socket) = connection(number as i32, entry.peer()) else {
                self.seat.rescue_lost();
                entry.free();
                continue;
            };
            let standing = resolve(socket, entry, entry.found());
            entry.publish(standing);
            match standing {
                Standing::Head => self.linger(entry, socket, gone, LINGER_LAST),
                Standing::Closing => entry.linger_until(gone + LINGER_LAST),
                Standing::Begun => {
                    self.seat.rescue_cut();
                    end(entry, socket);
                }
                Standing::Fresh | Standing::Idle { .. } | Standing::Unanswered => {}
            }
            left += usize::from(entry.is_taken());
        }
        left
    }

    /// Does what can be done for each connection now, and returns how many are left.
    fn tend_all(&mut self, server: Server, gone: Time, now: Time) -> usize {
        let mut left = 0;
        self.is_full = false;
        for (number, entry) in self.entries.used().iter().enumerate() {
            if entry.is_taken() {
                self.tend(borrow(number as i32), entry, server, gone, now);
                left += usize::from(entry.is_taken());
            }
        }
        left
    }

    fn tend(&mut self, socket: BorrowedFd<'_>, entry: &EntryMemory, server: Server, gone: Time, now: Time) {
        let Some(standing) = entry.found().standing else { return };
        let until = match standing {
            Standing::Unanswered => return self.answer(entry, socket, gone, now),
            Standing::Closing => return self.discard(entry, socket, now),
            Standing::Fresh => limit(entry.accepted(), self.patience.header),
            Standing::Idle { since, .. } => limit(since, self.patience.keep_alive),
            Standing::Head | Standing::Begun => now,
        };
        match server {
            Server::Stops(Some(deadline)) if deadline <= now => end(entry, socket),
            Server::Stops(_) => self.linger(entry, socket, now, LINGER_LAST),
            Server::Receives if now >= until => self.linger(entry, socket, now, LINGER_LAST),
            Server::Receives if self.is_full => {}
            Server::Receives => self.hand_off(entry, socket, now),
        }
    }

    /// Hands a connection to another worker, if the queue has room.
    fn hand_off(&mut self, entry: &EntryMemory, socket: BorrowedFd<'_>, now: Time) {
        let mut bytes = [0; ConnectionRecord::HEAD_MAX];
        let record = entry.record(now);
        let len = record.encode_into(self.version, &mut bytes);
        match Outbox::send_bytes(borrow(self.queue), socket, &bytes[..len]) {
            Ok(()) => {
                self.seat.rescue_moved();
                entry.free();
                close_between(socket.as_raw_fd(), socket.as_raw_fd());
            }
            Err(SendError::Full | SendError::Exhausted) => self.is_full = true,
            Err(SendError::Failed(_)) => self.linger(entry, socket, now, LINGER_LAST),
        }
    }

    /// Answers a request in flight, as soon as the kernel has room for the response.
    fn answer(&self, entry: &EntryMemory, socket: BorrowedFd<'_>, gone: Time, now: Time) {
        let stopped = self.entries.memory.has_passed_deadline(gone);
        let response = if stopped { STOPPED } else { FAILED };
        match rustix::net::send(socket, response, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(n) if n == response.len() => {
                self.seat.rescue_answered();
                let time = if stopped { LINGER_AT_DEADLINE } else { self.patience.linger };
                self.linger(entry, socket, now, time);
            }
            Err(Errno::AGAIN | Errno::INTR) if now < gone + self.patience.linger => {}
            _ => {
                self.seat.rescue_cut();
                end(entry, socket);
            }
        }
    }

    /// Ends the sending side of a connection, which then lingers (D7).
    fn linger(&self, entry: &EntryMemory, socket: BorrowedFd<'_>, now: Time, time: Duration) {
        if rustix::net::shutdown(socket, Shutdown::Write).is_err() {
            return end(entry, socket);
        }
        entry.linger_until(now + time);
        self.discard(entry, socket, now);
    }

    /// Discards what has arrived on a lingering connection, and ends it once its peer has, or its
    /// time is over.
    fn discard(&self, entry: &EntryMemory, socket: BorrowedFd<'_>, now: Time) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..DISCARDED_A_TURN {
            match rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((1.., _)) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok((0, _)) | Err(_) => return end(entry, socket),
            }
        }
        if now >= entry.lingers_until() {
            end(entry, socket);
        }
    }

    /// Ends what is left.
    fn end_all(&self) {
        for (number, entry) in self.entries.used().iter().enumerate() {
            if entry.is_taken() {
                end(entry, borrow(number as i32));
            }
        }
    }
}

/// Answers the requests in flight of this process, whose deadline has passed, and ends the sending
/// sides.
pub(super) fn answer_all(entries: Entries) {
    for (number, entry) in entries.used().iter().enumerate() {
        if entry.found().standing == Some(Standing::Unanswered)
            && let Some(socket) = connection(number as i32, entry.peer())
        {
            entry.publish(Standing::Closing);
            let _ = rustix::net::send(socket, STOPPED, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
    }
}

/// Ends a connection. Children of the application may hold copies of the descriptor.
fn end(entry: &EntryMemory, socket: BorrowedFd<'_>) {
    entry.free();
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
    close_between(socket.as_raw_fd(), socket.as_raw_fd());
}

/// When `time` after `since` is over. Zero: never.
fn limit(since: Time, time: Duration) -> Time {
    if time.is_zero() { Time::MAX } else { since + time }
}

/// The descriptor with this number, if it is the connection with this peer: an application may have
/// put another one in its place.
fn connection(number: i32, peer: Peer) -> Option<BorrowedFd<'static>> {
    let socket = borrow(number);
    let found = stream_to(socket)?.and_then(|found| std::net::SocketAddr::try_from(found).ok());
    let is_it = match peer {
        Peer::Inet(addr) => found == Some(addr),
        Peer::Unix => sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX),
    };
    is_it.then_some(socket)
}

/// The other end of a connected stream socket, which has no address on some unix sockets. None for
/// every other descriptor.
fn stream_to(socket: BorrowedFd<'_>) -> Option<Option<SocketAddrAny>> {
    let is_stream = sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(socket) == Ok(false);
    rustix::net::getpeername(socket).ok().filter(|_| is_stream)
}

/// The standing of a connection. If its worker was perhaps about to read or to write, the counts of
/// the kernel show whether it has. A unix socket has none.
fn resolve(socket: BorrowedFd<'_>, entry: &EntryMemory, found: Found) -> Standing {
    // Most connections are between requests. With many, the first would wait for the counts of all.
    let needs_counts = entry.peer() != Peer::Unix && found.needs_counts();
    let counts = if needs_counts { tcp_counts(socket) } else { None };
    found.resolve(counts).unwrap_or(Standing::Begun)
}

#[cfg(test)]
mod tests;
