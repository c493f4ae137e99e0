//! The keepers of workers that have ended (D20): what they do for the connections of their workers,
//! and how long they live.
//!
//! The entries are the real ones, with what the machines of a worker have published in them. A
//! keeper does at once what a real one does within milliseconds, and lives on for a while.

use std::time::Duration;

use remuda_core::rescue::{EntryMemory, Standing};

use super::monitor::ms;
use super::process::Process;
use super::world::{Event, Input, World};

/// The response to a request whose worker has ended.
const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The response to one that the deadline of a drain has cut.
const STOPPED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The most connections of a schedule.
const ENTRIES: usize = 8;

/// Entries for the connections of a schedule, the same for all schedules of a thread.
pub(super) fn entries() -> &'static [EntryMemory] {
    thread_local! {
        static MEMORY: &'static [EntryMemory] =
            Box::leak((0..ENTRIES).map(|_| EntryMemory::default()).collect::<Box<[_]>>());
    }
    MEMORY.with(|memory| {
        memory.iter().for_each(EntryMemory::free);
        *memory
    })
}

impl World {
    /// Does for a connection what the keeper of its worker would. Returns whether the connection is
    /// accounted for.
    pub(super) fn rescue(&mut self, conn: u32, process: &Process) -> bool {
        if !self.script.rescue {
            return false;
        }
        let now = self.now();
        let memory = &self.entries[conn as usize];
        let client = &mut self.clients[conn as usize];
        let mut wire = client.wire.borrow_mut();
        // Unix sockets have no counts.
        let counts = self.script.is_counted.then_some(wire.counts);
        let own = &self.arbiters[process.parent];
        let is_over = process.drain().is_some_and(|drain| drain.is_over(now));
        match memory.found().resolve(counts) {
            Some(Standing::Fresh | Standing::Idle { .. }) if own.is_alive && !own.stopping => {
                self.monitor.trace(|| format!("keeper   hands {conn} off"));
                wire.moves = true;
                client.owner = None;
                self.records.count.rescued += 1;
                let inbox = own.inbox;
                drop(wire);
                self.inboxes[inbox].push_back((conn, memory.record(now)));
                self.wake_inbox(inbox);
                true
            }
            Some(Standing::Unanswered) => {
                let response = if is_over { STOPPED } else { FAILED };
                if wire.reset || wire.window < wire.sent.len() + response.len() {
                    return false;
                }
                self.monitor.trace(|| format!("keeper   answers {conn}"));
                wire.sent.extend(response);
                // It reads what still comes, for as long as it lingers.
                wire.arrived.clear();
                wire.half_closed = Some(now);
                wire.was_over |= is_over;
                self.monitor.tell(conn);
                self.monitor.touch(conn);
                true
            }
            _ => false,
        }
    }

    /// The keeper of a worker that ends goes on for it.
    pub(super) fn keep(&mut self, process: &Process) {
        if !self.script.rescue || !self.arbiters[process.parent].is_alive {
            return;
        }
        let (arbiter, pid, seat) = (process.parent, process.pid, process.seat);
        let keeper = self.records.next_pid();
        self.arbiters[arbiter].keepers.insert(keeper, seat);
        self.notify(arbiter, Input::Kept(pid, keeper));
        // What it holds may keep it, and it may hang.
        let lives = match self.rng.u8(..) {
            0..180 => Duration::from_micros(self.rng.u64(0..3000)),
            180..252 => ms(self.rng.u64(0..2000)),
            _ => return,
        };
        self.at(self.now() + lives, Event::KeeperEnds(arbiter, keeper));
    }

    pub(super) fn end_keeper(&mut self, arbiter: usize, keeper: i32) {
        if let Some(seat) = self.arbiters[arbiter].keepers.remove(&keeper) {
            self.notify(arbiter, Input::KeeperGone(seat));
        }
    }
}
