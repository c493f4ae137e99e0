//! What each place in a worker that runs handlers is busy with. The worker writes it, the arbiter
//! reads it.
//!
//! An [`Activity`] consists of atomics under a sequence lock. Its only writer never waits. A reader
//! that meets a write, or the traces of a writer that was killed during one, gets the time without
//! the request.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use crate::time::Time;

/// The activities of one worker: one for its loop, then one for each thread. Empty: nothing is
/// recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activities(&'static [Activity]);

impl Activities {
    /// The first is the loop's.
    pub const fn new(activities: &'static [Activity]) -> Self {
        Self(activities)
    }

    /// Records that the loop runs the handler of `request`, or polls its future, until the guard is
    /// dropped. Of a request, method and path are recorded, cut to fit.
    pub fn on_loop(&self, request: &[u8], now: Time) -> Option<ActivityGuard> {
        self.0.first().map(|activity| activity.take(request, now, None))
    }

    /// The same for an exchange in flight whose handler is called again.
    pub(crate) fn on_loop_again(
        &self,
        request: &[u8],
        now: Time,
        since: Time,
        number: u64,
    ) -> Option<ActivityGuard> {
        self.0.first().map(|activity| activity.take(request, now, Some((since, number))))
    }

    /// Records that a thread runs a handler, until the guard is dropped. If there are more threads
    /// than activities, those without an activity are not recorded.
    pub fn on_thread(&self, request: &[u8], now: Time) -> Option<ActivityGuard> {
        let threads = self.0.get(1..)?;
        let free = threads.iter().find(|activity| !activity.taken.swap(true, Ordering::Acquire))?;
        Some(free.take(request, now, None))
    }

    /// Since when all of the first `threads` threads are busy. None if one is free, or if they do
    /// not all have an activity.
    pub fn threads_busy_since(&self, threads: usize) -> Option<Time> {
        let activities = self.0.get(1..=threads)?;
        activities.iter().try_fold(Time::ZERO, |latest, activity| Some(latest.max(activity.running_since()?)))
    }

    /// All busy places, the loop first.
    pub fn busy(&self) -> impl Iterator<Item = Busy> + use<> {
        self.seen().map(|(_, busy)| busy)
    }

    /// The same, each with the number of its exchange among those in flight. 0: it is not among
    /// them.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (u64, Busy)> + use<> {
        let read = |(index, activity): (usize, &Activity)| {
            let (number, busy) = activity.read()?;
            Some((number, Busy { on_loop: index == 0, ..busy }))
        };
        self.0.iter().enumerate().filter_map(read)
    }

    /// Frees all activities, whatever the previous worker was doing.
    #[cfg(feature = "worker")]
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(Activity::clear);
    }
}

thread_local! {
    /// When the handler began that this thread runs, in nanoseconds. 0: none. A signal handler
    /// reads it, so it needs neither initialisation nor a destructor.
    static BUSY: Cell<u64> = const { Cell::new(0) };
}

/// Since when this thread is busy, according to its activity. None if it is not busy.
/// Async-signal-safe.
#[cfg(feature = "worker")]
pub(crate) fn busy_since() -> Option<Time> {
    Some(BUSY.get()).filter(|since| *since > 0).map(Time::from_nanos)
}

/// One exchange of a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Busy {
    /// What the exchange waits for, or that its handler runs.
    pub doing: Doing,
    /// Whether its handler runs on the loop, and so blocks all connections.
    pub on_loop: bool,
    /// When it began: if its handler is called once, the time of that call, otherwise the time its
    /// head was complete.
    pub since: Time,
    /// Since when its handler runs without a pause. None while it waits.
    pub running: Option<Time>,
    /// Method and path, cut to fit. None if they were being written at that moment.
    pub request: Option<String>,
}

/// The state of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
#[allow(clippy::exhaustive_enums, reason = "each state of an exchange is one of these")]
pub enum Doing {
    /// Its handler runs, on the loop or on a thread.
    Running = 0,
    /// Its handler is called once the rest of its body has arrived.
    Receiving = 1,
    /// It waits for a thread.
    Queued = 2,
    /// Its async handler waits, and has not begun a response.
    Waiting = 3,
    /// Its response has begun, or it has changed the protocol, and its async handler waits.
    Responding = 4,
    /// Its handler has returned, and its response is being sent.
    Sending = 5,
    /// The drain's deadline has cut it.
    Cut = 6,
}

impl Doing {
    /// All states, each at the index of its number.
    pub const ALL: [Self; 7] = [
        Self::Running,
        Self::Receiving,
        Self::Queued,
        Self::Waiting,
        Self::Responding,
        Self::Sending,
        Self::Cut,
    ];

    /// Its name in `status` and in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Receiving => "receiving",
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Responding => "responding",
            Self::Sending => "sending",
            Self::Cut => "cut",
        }
    }

    /// Whether a handler was called and has not returned.
    pub(crate) fn has_handler(self) -> bool {
        matches!(self, Self::Running | Self::Waiting | Self::Responding)
    }
}

/// Records an activity until it is dropped.
#[derive(Debug)]
pub struct ActivityGuard(&'static Activity);

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        BUSY.set(0);
        self.0.since.store(0, Ordering::Relaxed);
        self.0.taken.store(false, Ordering::Release);
    }
}

/// How many bytes of a request are recorded.
pub(crate) const TEXT: usize = 144;

/// How many times an activity that is being written is read before its request is left out.
const ATTEMPTS: usize = 3;

/// One place that runs handlers, or one exchange in flight.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Activity {
    /// Odd while the other fields are being written.
    version: AtomicU64,
    /// For a place, when its handler was called; for an exchange, when it began. In nanoseconds of
    /// [`Time`]. 0: none.
    since: AtomicU64,
    /// When the exchange began whose handler was called again. 0: it was not called before.
    begun: AtomicU64,
    /// For an exchange in flight, its number.
    number: AtomicU64,
    /// Whether a thread uses it.
    taken: AtomicBool,
    /// How many bytes of `text` are valid.
    len: AtomicU32,
    /// A [`Doing`], as its number.
    doing: AtomicU32,
    /// Method, a space, path.
    text: [AtomicU64; TEXT / 8],
}

impl Activity {
    fn take(&'static self, request: &[u8], now: Time, again: Option<(Time, u64)>) -> ActivityGuard {
        let (begun, number) = again.map_or((0, 0), |(begun, number)| (begun.as_nanos(), number));
        BUSY.set(now.as_nanos().max(1));
        self.write(request, now, |activity| {
            activity.begun.store(begun, Ordering::Relaxed);
            activity.number.store(number, Ordering::Relaxed);
        });
        ActivityGuard(self)
    }

    /// Records an exchange in flight.
    pub(super) fn enter(&self, request: &[u8], since: Time, number: u64, doing: Doing) {
        self.write(request, since, |activity| {
            activity.number.store(number, Ordering::Relaxed);
            activity.doing.store(doing as u32, Ordering::Relaxed);
        });
    }

    /// Changes its state.
    pub(super) fn is_doing(&self, doing: Doing) {
        self.doing.store(doing as u32, Ordering::Relaxed);
    }

    /// Ends the record.
    pub(super) fn leave(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn write(&self, request: &[u8], since: Time, more: impl FnOnce(&Self)) {
        let text = &request[..request.len().min(TEXT)];
        // There is one writer, so no other changes the version in between.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.since.store(since.as_nanos().max(1), Ordering::Relaxed);
        more(self);
        self.len.store(text.len() as u32, Ordering::Relaxed);
        let (words, rest) = text.as_chunks::<8>();
        for (to, word) in self.text.iter().zip(words) {
            to.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        if let Some(to) = self.text.get(words.len()) {
            let word = array::from_fn(|i| rest.get(i).copied().unwrap_or_default());
            to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The running handler, with the number of its exchange.
    fn read(&self) -> Option<(u64, Busy)> {
        let (since, number, text) = self.consistent()?;
        let begun = Some(self.begun.load(Ordering::Relaxed)).filter(|begun| *begun > 0);
        let busy = Busy {
            doing: Doing::Running,
            on_loop: false,
            since: begun.map_or(since, Time::from_nanos),
            running: Some(since),
            request: text,
        };
        Some((number, busy))
    }

    /// The exchange in flight that is recorded here, with its number.
    #[cfg(any(test, feature = "worker"))]
    pub(super) fn in_flight(&self) -> Option<(u64, Busy)> {
        let (since, number, request) = self.consistent()?;
        Some((number, Busy { doing: self.doing(), on_loop: false, since, running: None, request }))
    }

    pub(super) fn doing(&self) -> Doing {
        let doing = Doing::ALL.get(self.doing.load(Ordering::Relaxed) as usize);
        doing.copied().unwrap_or(Doing::Waiting)
    }

    /// Time, number and text of one write. Without the text if they are being written.
    fn consistent(&self) -> Option<(Time, u64, Option<String>)> {
        for _ in 0..ATTEMPTS {
            let before = self.version.load(Ordering::Acquire);
            let since = self.running_since()?;
            let (number, request) = (self.number.load(Ordering::Relaxed), self.text());
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return Some((since, number, Some(request)));
            }
        }
        Some((self.running_since()?, self.number.load(Ordering::Relaxed), None))
    }

    fn running_since(&self) -> Option<Time> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Time::from_nanos(since)),
        }
    }

    /// The recorded text, escaped for a log.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).escape_debug().to_string()
    }

    /// The recorded bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let words = self.text.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        words.take(self.len.load(Ordering::Relaxed) as usize).collect()
    }

    #[cfg(feature = "worker")]
    pub(super) fn clear(&self) {
        for number in [&self.since, &self.begun, &self.number] {
            number.store(0, Ordering::Relaxed);
        }
        self.taken.store(false, Ordering::Relaxed);
        self.version.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
