//! Who runs handlers in a worker, and what each is busy with: written by the worker, read by whoever looks after it.
//!
//! A [`Hand`] is plain atomics under a sequence lock: its one writer never waits, and a reader that meets a write, or
//! the remains of a writer that was killed in one, gets the time without the request.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use crate::time::Time;

/// The hands of one worker: its loop, then a hand for each thread. Without any, nothing is noted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hands(&'static [Hand]);

impl Hands {
    /// The first is the loop's.
    pub const fn new(hands: &'static [Hand]) -> Self {
        Self(hands)
    }

    /// Notes that the loop runs the handler of `request`, or polls its future, until the guard is dropped. What is noted
    /// of a request is its method and path, cut to fit.
    pub fn on_loop(&self, request: &[u8], now: Time) -> Option<Serving> {
        self.0.first().map(|hand| hand.take(request, now))
    }

    /// Notes that a thread runs a handler, until the guard is dropped. Where there are more threads than hands, what
    /// some of them do is not noted.
    pub fn on_thread(&self, request: &[u8], now: Time) -> Option<Serving> {
        let threads = self.0.get(1..)?;
        let free = threads.iter().find(|hand| !hand.taken.swap(true, Ordering::Acquire))?;
        Some(free.take(request, now))
    }

    /// Since when the first `threads` threads are all busy; none if one is free, or they are not all noted.
    pub fn threads_busy_since(&self, threads: usize) -> Option<Time> {
        let hands = self.0.get(1..=threads)?;
        hands.iter().try_fold(Time::ZERO, |latest, hand| Some(latest.max(hand.since()?)))
    }

    /// What they are busy with, the loop first.
    pub fn busy(&self) -> impl Iterator<Item = Busy> + use<> {
        let read = |(index, hand): (usize, &Hand)| Some(Busy { on_loop: index == 0, ..hand.read()? });
        self.0.iter().enumerate().filter_map(read)
    }

    /// All are free, whatever their last owner was in the middle of.
    #[cfg(feature = "worker")]
    pub(crate) fn clear(&self) {
        for hand in self.0 {
            hand.since.store(0, Ordering::Relaxed);
            hand.taken.store(false, Ordering::Relaxed);
            hand.version.store(0, Ordering::Release);
        }
    }
}

thread_local! {
    /// When the handler began that this thread runs, in nanoseconds; 0: none. A handler of a signal reads it, so that it is
    /// there without being made, and nothing is to be done at its end.
    static BUSY: Cell<u64> = const { Cell::new(0) };
}

/// Since when this thread is busy, as its hand says; none if it is not. Async-signal-safe.
#[cfg(feature = "worker")]
pub(crate) fn busy_since() -> Option<Time> {
    Some(BUSY.get()).filter(|since| *since > 0).map(Time::from_nanos)
}

/// One handler that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Busy {
    /// Whether it runs on the loop, and holds up all connections, or on a thread.
    pub on_loop: bool,
    /// When it began.
    pub since: Time,
    /// Method and path, cut to fit; none if they were just being written.
    pub request: Option<String>,
}

/// While this lives, a hand is busy.
#[derive(Debug)]
pub struct Serving(&'static Hand);

impl Drop for Serving {
    fn drop(&mut self) {
        BUSY.set(0);
        self.0.since.store(0, Ordering::Relaxed);
        self.0.taken.store(false, Ordering::Release);
    }
}

/// Bytes of a request that are noted.
const TEXT: usize = 104;

/// Reads of a hand that is just being written before the request is given up.
const ATTEMPTS: usize = 3;

/// One place where a handler can run.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Hand {
    /// Odd while the rest is written.
    version: AtomicU64,
    /// When the handler began, in nanoseconds of [`Time`]; 0: there is none.
    since: AtomicU64,
    /// Whether a thread has it.
    taken: AtomicBool,
    /// Bytes of `text` that count.
    len: AtomicU32,
    /// Method, a space, path.
    text: [AtomicU64; TEXT / 8],
}

impl Hand {
    fn take(&'static self, request: &[u8], now: Time) -> Serving {
        let text = &request[..request.len().min(TEXT)];
        // One writer: no other changes the version between these.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let since = now.as_nanos().max(1);
        BUSY.set(since);
        self.since.store(since, Ordering::Relaxed);
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
        Serving(self)
    }

    fn read(&self) -> Option<Busy> {
        for _ in 0..ATTEMPTS {
            let before = self.version.load(Ordering::Acquire);
            let since = self.since()?;
            let request = self.text();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return Some(Busy { on_loop: false, since, request: Some(request) });
            }
        }
        Some(Busy { on_loop: false, since: self.since()?, request: None })
    }

    fn since(&self) -> Option<Time> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Time::from_nanos(since)),
        }
    }

    /// What is noted, fit for a log whatever it is.
    fn text(&self) -> String {
        let words = self.text.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        let bytes: Vec<u8> = words.take(self.len.load(Ordering::Relaxed) as usize).collect();
        String::from_utf8_lossy(&bytes).escape_debug().to_string()
    }
}

#[cfg(test)]
#[path = "activity/tests.rs"]
mod tests;
