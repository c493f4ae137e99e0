//! The access log: a line for each request, written by a separate thread, so that neither a slow
//! disk nor a full pipe delays a request.
//!
//! Lines wait in memory for the thread, in a bounded queue. Lines that do not fit are dropped; the
//! error log reports their number from time to time.
//!
//! ```text
//! loop, handlers ─ answered ─▶ queue ─▶ thread ─ whole lines, at most PIPE_BUF a write ─▶ file
//! ```

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::io::Errno;
use tracing::{error, warn};

use self::format::Moment;
pub use self::format::{Format, FormatError};
use super::file::{LogFile, whole_lines};
use super::sink::PIPE_BUF;
use crate::app::{Answered, Observer};
use crate::http1::HttpDate;
use crate::time::Time;
use crate::worker::sys;

mod format;

/// How many bytes of lines may wait; the last line may exceed it.
const ROOM: usize = 1024 * 1024;

/// How long the thread waits for room before it checks whether dropped lines are to be reported.
const WAIT: Duration = Duration::from_millis(500);

/// The least time between two reports of dropped lines in the error log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// A worker's access log.
pub struct AccessLog {
    format: Arc<Format>,
    pid: u32,
    queue: Arc<Queue>,
}

impl AccessLog {
    /// Starts the thread that writes to `file`.
    ///
    /// # Errors
    ///
    /// As pthread_create(3).
    pub fn start(file: Arc<LogFile>, format: Arc<Format>) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut writer = Writer { file, queue: queue.clone(), complained: Time::ZERO };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { format, pid: process::id(), queue })
    }

    /// Waits until all lines are written, at most for `limit`. If lines remain, their number is
    /// reported in the error log.
    pub fn flush(&self, limit: Duration) {
        let waits = |state: &mut QueueState| !state.is_idle;
        let waited = self.queue.changed.wait_timeout_while(self.queue.state(), limit, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (dropped, left) = (state.untold(), if state.is_idle { 0 } else { state.left() });
        drop(state);
        if left > 0 {
            warn!(dropped = left, "access log not written to its end within {limit:?}: {left} lines lost");
        }
        complain(dropped);
    }
}

impl Observer for AccessLog {
    fn answered(&self, answered: &Answered<'_>) {
        let moment = Moment { pid: self.pid, ..Moment::present() };
        self.queue.push(|lines| self.format.write(answered, &moment, lines));
    }

    fn wants_fields(&self) -> bool {
        self.format.wants_fields()
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Moment {
    /// The wall clock. Each thread formats each second once.
    fn present() -> Self {
        thread_local! {
            static SECOND: Cell<(u64, HttpDate)> = Cell::new((0, HttpDate::from_unix(0)));
        }
        let wall = sys::wall_clock();
        let (mut second, mut date) = SECOND.get();
        if second != wall.as_secs() {
            second = wall.as_secs();
            date = HttpDate::from_unix(second);
            SECOND.set((second, date));
        }
        Self { date, millis: wall.subsec_millis(), pid: 0 }
    }
}

/// The lines that wait for the thread.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    /// The waiting lines, each with its line break.
    lines: Vec<u8>,
    /// How many lines did not fit.
    dropped: u64,
    /// How many of them have been reported in the error log.
    told: u64,
    /// How many lines the thread has taken and not written yet.
    in_hand: u64,
    /// Whether the thread waits, with nothing to write.
    is_idle: bool,
}

impl QueueState {
    /// How many lines are not written yet.
    fn left(&self) -> u64 {
        self.in_hand + count(&self.lines)
    }

    /// Takes the number of dropped lines that have not been reported yet.
    fn untold(&mut self) -> u64 {
        let told = mem::replace(&mut self.told, self.dropped);
        self.dropped - told
    }
}

impl Queue {
    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if state.lines.len() >= ROOM {
            state.dropped += 1;
            return;
        }
        write(&mut state.lines);
        if mem::take(&mut state.is_idle) {
            drop(state);
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread runs.
struct Writer {
    file: Arc<LogFile>,
    queue: Arc<Queue>,
    /// When dropped lines were last reported.
    complained: Time,
}

impl Writer {
    fn run(&mut self) {
        let mut batch = Vec::new();
        loop {
            self.wait(&mut batch);
            self.write(&batch);
            batch.clear();
            batch.shrink_to(PIPE_BUF);
        }
    }

    /// Waits for lines, and takes all of them.
    fn wait(&mut self, batch: &mut Vec<u8>) {
        loop {
            self.attend();
            let mut state = self.queue.state();
            if !state.lines.is_empty() {
                mem::swap(&mut state.lines, batch);
                state.in_hand = count(batch);
                return;
            }
            state.is_idle = true;
            self.queue.changed.notify_all(); // wakes `flush`
            let waits = |state: &mut QueueState| state.is_idle;
            let limit = if state.dropped > state.told { COMPLAIN_EVERY } else { Duration::MAX };
            let waited = self.queue.changed.wait_timeout_while(state, limit, waits);
            waited.unwrap_or_else(PoisonError::into_inner).0.is_idle = false;
        }
    }

    fn write(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            self.attend();
            let (now, later) = lines.split_at(whole_lines(lines));
            match self.write_some(now) {
                Ok(n) => {
                    self.queue.state().in_hand -= count(&lines[..n]);
                    lines = &lines[n..];
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => {
                    let mut state = self.queue.state();
                    state.in_hand -= count(now);
                    state.dropped += count(now);
                    let is_due = self.is_due(&state);
                    drop(state);
                    if is_due {
                        error!("cannot write to the access log: {errno}");
                    }
                    lines = later;
                }
            }
        }
    }

    /// Writes once, as soon as there is room. `AGAIN` if there was no room for [`WAIT`].
    fn write_some(&self, lines: &[u8]) -> Result<usize, Errno> {
        const LIMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: WAIT.subsec_nanos() as _ };
        let sink = self.file.sink();
        if sink.wait(&LIMIT) { sink.write(lines) } else { Err(Errno::AGAIN) }
    }

    /// Logs how many lines were dropped since the last warning, at most once per
    /// [`COMPLAIN_EVERY`].
    fn attend(&mut self) {
        let mut state = self.queue.state();
        let dropped = if self.is_due(&state) { state.untold() } else { 0 };
        drop(state);
        if dropped > 0 {
            self.complained = sys::now();
            complain(dropped);
        }
    }

    /// Whether dropped lines have not been reported, and the last report was long enough ago.
    fn is_due(&self, state: &QueueState) -> bool {
        state.dropped > state.told && sys::now() >= self.complained + COMPLAIN_EVERY
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

fn complain(dropped: u64) {
    if dropped > 0 {
        let lines = if dropped == 1 { "line" } else { "lines" };
        warn!(dropped, "access log does not keep up: {dropped} {lines} dropped");
    }
}

#[cfg(test)]
mod tests;
