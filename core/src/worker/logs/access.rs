//! The access log: a line for each request, written by a thread of its own, so that a disk that is slow or a pipe that
//! is full holds up nobody who serves.
//!
//! Lines wait in memory for the thread, in a bounded queue. What does not fit is dropped, and the error log says now
//! and then how much that was.
//!
//! ```text
//! loop, handlers ── answered ──▶ queue ──▶ thread ── whole lines, at most PIPE_BUF bytes a write ──▶ file
//! ```

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::{error, warn};

use self::format::Moment;
pub use self::format::{Format, FormatError};
use super::log_file::LogFile;
use super::sys;
use crate::app::{Answered, Observer};
use crate::http1::HttpDate;
use crate::time::Time;

#[path = "access/format.rs"]
mod format;

/// Bytes of lines that wait at most, but for the last line.
const ROOM: usize = 1024 * 1024;

/// Bytes that are written at once unless a line has more: as many as a pipe takes in one piece, also from several
/// processes (pipe(7), `PIPE_BUF`).
const WRITE: usize = 4096;

/// How long the thread waits for room before it looks for something else to do.
const WAIT: Duration = Duration::from_millis(500);

/// How often the error log is told at most that lines were lost.
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

    /// Goes on in the file that is at the path now.
    pub(super) fn reopen(&self) {
        self.queue.state().reopen = true;
        self.queue.changed.notify_all();
    }

    /// Waits until all lines are written, at most for `limit`; the error log is told if they are not.
    pub fn flush(&self, limit: Duration) {
        let waits = |state: &mut State| !state.is_idle;
        let waited = self.queue.changed.wait_timeout_while(self.queue.state(), limit, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (dropped, left) = (state.untold(), !state.is_idle);
        drop(state);
        if left {
            warn!("the access log was not written to its end within {limit:?}");
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
    /// The wall clock, whose second is spelled once on each thread.
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

/// Lines on their way to the thread.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What waits, each line with its end.
    lines: Vec<u8>,
    /// Lines that did not fit.
    dropped: u64,
    /// How many of them the error log was told of.
    told: u64,
    reopen: bool,
    /// The thread has nothing to do, and waits.
    is_idle: bool,
}

impl State {
    /// How many lines the error log is to be told of now.
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
struct Writer {
    file: Arc<LogFile>,
    queue: Arc<Queue>,
    /// When the error log was told of lost lines.
    complained: Time,
}

impl Writer {
    fn run(&mut self) {
        let mut batch = Vec::new();
        loop {
            self.wait(&mut batch);
            self.write(&batch);
            batch.clear();
            batch.shrink_to(WRITE);
        }
    }

    /// Waits for lines, and takes all there are.
    fn wait(&mut self, batch: &mut Vec<u8>) {
        loop {
            self.attend();
            let mut state = self.queue.state();
            if !state.lines.is_empty() {
                return mem::swap(&mut state.lines, batch);
            }
            state.is_idle = true;
            self.queue.changed.notify_all(); // who waits for that
            let waits = |state: &mut State| state.is_idle && !state.reopen;
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
                Ok(n) => lines = &lines[n..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => {
                    let mut state = self.queue.state();
                    state.dropped += memchr::memchr_iter(b'\n', now).count() as u64;
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

    /// Writes once, as soon as there is room. `AGAIN` if there was none for a while.
    fn write_some(&self, lines: &[u8]) -> Result<usize, Errno> {
        const LIMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: WAIT.subsec_nanos() as _ };
        let file = self.file.current();
        match poll(&mut [PollFd::new(&*file, PollFlags::OUT)], Some(&LIMIT))? {
            0 => Err(Errno::AGAIN),
            _ => rustix::io::write(&*file, lines),
        }
    }

    /// Does what somebody waits for, and says what nobody has been told of.
    fn attend(&mut self) {
        let mut state = self.queue.state();
        let reopen = mem::take(&mut state.reopen);
        let dropped = if self.is_due(&state) { state.untold() } else { 0 };
        drop(state);
        if reopen {
            self.file.reopen();
        }
        if dropped > 0 {
            self.complained = sys::now();
            complain(dropped);
        }
    }

    /// Whether there is reason to complain, and the last time was long enough ago.
    fn is_due(&self, state: &State) -> bool {
        state.dropped > state.told && sys::now() >= self.complained + COMPLAIN_EVERY
    }
}

/// How much of `lines` one write takes.
fn whole_lines(lines: &[u8]) -> usize {
    let first = || memchr::memchr(b'\n', lines);
    let last = memchr::memrchr(b'\n', &lines[..lines.len().min(WRITE)]);
    last.or_else(first).map_or(lines.len(), |end| end + 1)
}

fn complain(dropped: u64) {
    if dropped > 0 {
        warn!(dropped, "the access log does not keep up: {dropped} lines were dropped");
    }
}

#[cfg(test)]
#[path = "access/tests.rs"]
mod tests;
