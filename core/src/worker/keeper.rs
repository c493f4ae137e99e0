//! The keeper of a worker: a second process that goes on with the connections of a worker that has
//! ended suddenly (D20).
//!
//! It shares the descriptor table of the worker and nothing else, so the connections are open for
//! as long as one of the two lives, however the worker ends. It waits for that end. Then it closes
//! every descriptor that is no connection, hands the connections that are between requests to other
//! workers, and answers requests in flight of which no byte of a response was sent ([`rescue`]).
//! What other workers do not take it holds, by the clocks that the worker would have kept.
//!
//! The keeper is a copy of the worker, made before the application is built, while the process has
//! one thread. It never allocates: it gives back all memory of the copy except its stack and shared
//! memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Resource, getpid, getppid, getrlimit, pidfd_open};
use rustix::thread;

use self::rescue::Rescue;
use super::accept::Listener;
use super::handoff::Outbox;
use super::scoreboard::{Ledger, Seat};
use super::sys;
use super::sys::keeper::{Cloned, clone_sharing_descriptors};
use super::sys::shared_memory::{self, Arrivals, RescueMemory};
use crate::config::Limits;
use crate::rescue::{ByteCounts, Entry, EntryMemory};

mod rescue;

/// The most descriptors for which there are entries. The connections of others are lost with their
/// worker.
const ENTRIES_MAX: usize = 1 << 20;

/// The entries of a worker's connections, by descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    memory: &'static RescueMemory,
    entries: &'static [EntryMemory],
}

impl Entries {
    /// Maps entries for as many descriptors as this process may open. Untouched ones cost only
    /// address space.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn map() -> io::Result<Self> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let entries = usize::try_from(limit).unwrap_or(ENTRIES_MAX).clamp(1, ENTRIES_MAX);
        Ok(Self { memory: &shared_memory::map::<RescueMemory>(1)?[0], entries: shared_memory::map(entries)? })
    }

    /// The entry of a connection's descriptor. [`Entry::NONE`] if its number is too high.
    pub fn entry(&self, socket: &impl AsFd) -> Entry {
        let number = socket.as_fd().as_raw_fd() as usize;
        let Some(entry) = self.entries.get(number) else {
            if self.memory.mark_beyond() {
                tracing::warn!(
                    descriptor = number,
                    "a descriptor is beyond the {} entries of the keeper: such connections are lost if the worker dies",
                    self.entries.len()
                );
            }
            return Entry::NONE;
        };
        self.memory.raise(number + 1);
        Entry::new(entry)
    }

    /// Announces that connections are about to be accepted. A connection that is accepted, but not
    /// published, when the worker dies, is found by its listener.
    pub(super) fn arrival(&self) -> Arrival {
        self.memory.set_arrivals(Some(Arrivals::Uncounted));
        Arrival(self.memory)
    }

    /// How many bytes of a connection that this worker takes over were read and written before. None:
    /// the kernel does not count them, as on unix sockets.
    pub(super) fn counts(socket: &impl AsFd) -> Option<ByteCounts> {
        sys::keeper::tcp_counts(socket.as_fd())
    }

    /// The entries that were ever used, and unused ones between them.
    pub(super) fn used(&self) -> &'static [EntryMemory] {
        &self.entries[..self.memory.used().min(self.entries.len())]
    }
}

/// The time from before a connection is accepted until it is published.
#[derive(Debug)]
pub(super) struct Arrival(&'static RescueMemory);

impl Arrival {
    /// The connection is counted as accepted.
    pub(super) fn is_counted(&self) {
        self.0.set_arrivals(Some(Arrivals::Counted));
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.set_arrivals(None);
    }
}

/// What a keeper goes by.
#[derive(Debug)]
#[allow(clippy::exhaustive_structs, reason = "the arbiter fills it in")]
pub struct KeeperCx<'a> {
    /// The seat of the worker, in whose counters the keeper counts.
    pub seat: Seat,
    /// The stage of the server.
    pub ledger: Ledger,
    /// The arbiter, the parent of both.
    pub arbiter: Pid,
    /// The listeners of the worker.
    pub listeners: &'a [Listener],
    /// The sending end of the hand-off queue.
    pub outbox: &'a Outbox,
    /// The limits of the connections.
    pub limits: &'a Limits,
}

/// The times for which a keeper holds connections; zero: without a limit.
#[derive(Clone, Copy, Debug)]
struct Patience {
    keep_alive: Duration,
    header: Duration,
    linger: Duration,
}

/// Starts the keeper of this worker, and returns the entries in which the worker publishes its
/// connections. The keeper has the title that this process has now.
///
/// Called in a worker that has changed its user, has one thread, and has blocked the signals of the
/// arbiter. The pid of the keeper is in the worker's seat before this returns.
///
/// # Errors
///
/// As mmap(2), pidfd_open(2) and clone(2): the worker serves without a keeper.
pub fn start(cx: &KeeperCx<'_>) -> io::Result<Entries> {
    let entries = Entries::map()?;
    let worker = pidfd_open(getpid(), PidfdFlags::empty())?;
    let patience = Patience {
        keep_alive: cx.limits.keep_alive,
        header: cx.limits.header_timeout,
        linger: cx.limits.linger,
    };
    // The keeper has its name from the beginning, also in ps(1).
    let name = thread::name()?;
    thread::set_name(c"keeper")?;
    let cloned = clone_sharing_descriptors(cx.seat.keeper_memory());
    if !matches!(cloned, Ok(Cloned::Copy)) {
        thread::set_name(&name)?;
    }
    match cloned? {
        Cloned::Original => {
            sys::publish_deadline(entries.memory.deadline());
            // The keeper waits on this number. It is closed with the table.
            let _ = worker.into_raw_fd();
            Ok(entries)
        }
        Cloned::Copy => {
            let rescue = Rescue::new(entries, cx, patience);
            keep(&worker, rescue)
        }
    }
}

/// Makes this worker do without a keeper. All that is left of [D10](crate::shutdown): when the
/// worker ends by the deadline of a drain, it answers the requests that it has not answered,
/// instead of the handlers that still run.
///
/// # Errors
///
/// As mmap(2): such clients see the end of their connection.
pub fn without() -> io::Result<Entries> {
    let entries = *ALONE.get_or_init(|| Entries::map().ok());
    sys::set_last_act(answer_last);
    entries.ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// The entries of a worker that has no keeper.
static ALONE: OnceLock<Option<Entries>> = OnceLock::new();

/// The last act of a worker without a keeper that ends by the deadline of a drain. Neither allocates
/// nor waits: a signal handler calls it.
pub fn answer_last() {
    if let Some(Some(entries)) = ALONE.get() {
        rescue::answer_all(*entries);
    }
}

/// The life of a keeper.
fn keep(worker: &OwnedFd, rescue: Rescue) -> ! {
    sys::keeper::block_all_signals();
    sys::keeper::give_memory_back();
    sys::keeper::wait_for_end(worker);
    rescue.run()
}

/// Whether the arbiter is dead: then its children have another parent.
fn is_orphan(arbiter: Pid) -> bool {
    getppid() != Some(arbiter)
}
