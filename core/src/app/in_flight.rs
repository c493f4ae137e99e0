//! The exchanges of a worker that are in flight and wait: for their handler, their body, a thread
//! or their client.
//!
//! An exchange is entered when its connection comes to rest before it is over. One that is answered
//! at once is never entered, and costs nothing. The number of visible exchanges is bounded: the
//! [`SHOWN`] oldest without a response, and the [`SHOWN`] oldest whose response has begun. The
//! others are kept in the worker's own memory and move up as exchanges leave, so that the oldest
//! are always visible. The number of exchanges is counted separately, and exact.
//!
//! ```text
//! enter ──▶ entries, in memory that others read ──▶ leave
//!    └──▶ hidden, oldest first ──▶ (an entry is free)
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(any(test, feature = "worker"))]
use super::activity::Busy;
use super::activity::{Activity, Doing, TEXT};
use crate::time::Time;

/// How many exchanges of each of the two kinds are visible.
pub const SHOWN: usize = 32;

/// The visible exchanges, in memory that the worker writes and other processes read. Without
/// entries, none is recorded or counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Board {
    entries: &'static [Activity],
    /// The number of handlers that were called, have not returned, and have no [`Activity`] of
    /// their own.
    handlers: Option<&'static AtomicU64>,
}

impl Board {
    /// How many entries there are.
    pub const ENTRIES: usize = 2 * SHOWN;

    /// A board with [`ENTRIES`](Self::ENTRIES) `entries`.
    pub const fn new(entries: &'static [Activity], handlers: &'static AtomicU64) -> Self {
        Self { entries, handlers: Some(handlers) }
    }

    /// The number of handlers that were called, have not returned, and have no [`Activity`] of
    /// their own: those that wait, visible or not.
    pub fn handlers(&self) -> u64 {
        self.handlers.map_or(0, |handlers| handlers.load(Ordering::Relaxed))
    }

    /// The visible exchanges, the oldest first, each with its number.
    #[cfg(any(test, feature = "worker"))]
    pub(crate) fn seen(&self) -> Vec<(u64, Busy)> {
        let mut seen: Vec<_> = self.entries.iter().filter_map(Activity::in_flight).collect();
        seen.sort_by_key(|(number, busy)| (busy.since, *number));
        seen
    }

    /// Removes all exchanges.
    #[cfg(feature = "worker")]
    pub(crate) fn clear(&self) {
        self.entries.iter().for_each(Activity::clear);
        self.handlers.into_iter().for_each(|handlers| handlers.store(0, Ordering::Relaxed));
    }
}

/// The exchanges of one worker that are in flight and wait.
pub struct InFlight {
    board: Board,
    lists: Mutex<Lists>,
}

/// An exchange that was entered, to be [left](InFlight::leave) when it is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entered {
    pub(crate) number: u64,
    pub(crate) since: Time,
    pub(crate) doing: Doing,
}

#[derive(Default)]
struct Lists {
    /// The number of exchanges that were entered so far.
    last: u64,
    handlers: u64,
    /// Those without a response, and those whose response has begun.
    kinds: [List; 2],
}

/// Orders exchanges by their beginning.
type Key = (Time, u64);

#[derive(Default)]
struct List {
    /// The exchange in each entry.
    shown: [Option<Key>; SHOWN],
    /// How many entries are used.
    len: usize,
    /// The exchanges without an entry, with their request and state.
    hidden: BTreeMap<Key, (Box<[u8]>, Doing)>,
}

impl InFlight {
    /// No exchanges, to be shown on `board`.
    pub fn new(board: Board) -> Self {
        Self { board, lists: Mutex::default() }
    }

    /// Enters an exchange that began at `since` and waits.
    pub(crate) fn enter(&self, request: &[u8], since: Time, doing: Doing) -> Option<Entered> {
        let mut lists = self.lists()?;
        lists.last += 1;
        let entered = Entered { number: lists.last, since, doing };
        lists.insert(self.board.entries, entered, request);
        self.count(&mut lists, None, Some(doing));
        Some(entered)
    }

    /// Changes the state of an exchange.
    pub(crate) fn is_doing(&self, entered: Entered, doing: Doing) -> Entered {
        let now = Entered { doing, ..entered };
        if let Some(mut lists) = self.lists() {
            self.count(&mut lists, Some(entered.doing), Some(doing));
            let entries = self.board.entries;
            if kind(entered.doing) == kind(doing) {
                lists.kinds[kind(doing)].change(shown(entries, kind(doing)), now);
            } else {
                let text = lists.text(entries, entered);
                lists.remove(entries, entered);
                lists.insert(entries, now, &text);
            }
        }
        now
    }

    /// Removes an exchange.
    pub(crate) fn leave(&self, entered: Entered) {
        if let Some(mut lists) = self.lists() {
            lists.remove(self.board.entries, entered);
            self.count(&mut lists, Some(entered.doing), None);
        }
    }

    /// Records that the drain's deadline has cut an exchange. It remains visible until the seat is
    /// emptied, if there is room.
    pub(crate) fn cut(&self, entered: Option<Entered>, request: &[u8], since: Time) {
        if let Some(entered) = entered {
            self.is_doing(entered, Doing::Cut);
        } else {
            self.enter(request, since, Doing::Cut);
        }
    }

    /// How many exchanges were entered so far.
    #[cfg(test)]
    pub(crate) fn entered(&self) -> u64 {
        self.lists().map_or(0, |lists| lists.last)
    }

    fn count(&self, lists: &mut Lists, before: Option<Doing>, after: Option<Doing>) {
        let is_one = |doing: Option<Doing>| u64::from(doing.is_some_and(Doing::has_handler));
        let (less, more) = (is_one(before), is_one(after));
        if less != more {
            lists.handlers = lists.handlers + more - less;
            self.board.handlers.into_iter().for_each(|seen| seen.store(lists.handlers, Ordering::Relaxed));
        }
    }

    /// None if nothing is recorded.
    fn lists(&self) -> Option<MutexGuard<'_, Lists>> {
        let is_noted = self.board.entries.len() == Board::ENTRIES;
        is_noted.then(|| self.lists.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("handlers", &self.board.handlers()).finish_non_exhaustive()
    }
}

/// The index of the list for this state.
fn kind(doing: Doing) -> usize {
    usize::from(matches!(doing, Doing::Responding | Doing::Sending))
}

/// The entries of one list.
fn shown(entries: &'static [Activity], kind: usize) -> &'static [Activity] {
    &entries[kind * SHOWN..][..SHOWN]
}

impl Lists {
    fn insert(&mut self, entries: &'static [Activity], entered: Entered, request: &[u8]) {
        let kind = kind(entered.doing);
        self.kinds[kind].insert(shown(entries, kind), entered, request);
    }

    fn remove(&mut self, entries: &'static [Activity], entered: Entered) {
        let kind = kind(entered.doing);
        self.kinds[kind].remove(shown(entries, kind), entered);
    }

    /// The recorded request.
    fn text(&self, entries: &'static [Activity], entered: Entered) -> Vec<u8> {
        let (kind, key) = (kind(entered.doing), (entered.since, entered.number));
        let list = &self.kinds[kind];
        match (list.hidden.get(&key), list.place(key)) {
            (Some((text, _)), _) => text.to_vec(),
            (None, Some(place)) => shown(entries, kind)[place].bytes(),
            (None, None) => Vec::new(),
        }
    }
}

impl List {
    fn insert(&mut self, entries: &[Activity], entered: Entered, request: &[u8]) {
        let key = (entered.since, entered.number);
        let request = &request[..request.len().min(TEXT)];
        let place = if self.len < SHOWN {
            self.len += 1;
            self.shown.iter().position(Option::is_none)
        } else {
            self.give_way(entries, key)
        };
        match place {
            Some(place) => {
                self.shown[place] = Some(key);
                entries[place].enter(request, entered.since, entered.number, entered.doing);
            }
            None => drop(self.hidden.insert(key, (request.into(), entered.doing))),
        }
    }

    /// The entry of the youngest visible exchange, if that is younger than `key`.
    fn give_way(&mut self, entries: &[Activity], key: Key) -> Option<usize> {
        let (place, youngest) = self.shown.iter().enumerate().max_by_key(|(_, shown)| **shown)?;
        let youngest = youngest.filter(|youngest| *youngest > key)?;
        self.hidden.insert(youngest, (entries[place].bytes().into(), entries[place].doing()));
        Some(place)
    }

    fn change(&mut self, entries: &[Activity], entered: Entered) {
        let key = (entered.since, entered.number);
        if let Some(place) = self.place(key) {
            entries[place].is_doing(entered.doing);
        } else if let Some((_, doing)) = self.hidden.get_mut(&key) {
            *doing = entered.doing;
        }
    }

    fn remove(&mut self, entries: &[Activity], entered: Entered) {
        let key = (entered.since, entered.number);
        if !self.hidden.is_empty() && self.hidden.remove(&key).is_some() {
            return;
        }
        let Some(place) = self.place(key) else { return };
        match self.hidden.pop_first() {
            Some((next, (text, doing))) => {
                entries[place].enter(&text, next.0, next.1, doing);
                self.shown[place] = Some(next);
            }
            None => {
                entries[place].leave();
                self.shown[place] = None;
                self.len -= 1;
            }
        }
    }

    fn place(&self, key: Key) -> Option<usize> {
        self.shown.iter().position(|shown| *shown == Some(key))
    }
}

#[cfg(test)]
mod tests;
