//! Log files: shared by processes, reopened after a rotation, and written without waiting.
//!
//! The program's own log has no thread: each process writes its own lines, and keeps in memory
//! those for which there is no room. They are retried with each further line, and whenever the loop
//! of the process calls [`LogFile::tend`] at the log's deadline. Beyond [`ROOM`] bytes, lines are
//! dropped and counted, in memory that all processes of the server share. The first process that
//! has written all of its lines logs the number of lost lines, including those of processes that
//! have ended.
//!
//! Workers open no log files: they may run as a user without access to them. The arbiter reopens
//! the files and sends the descriptors ([`Logs::reopen`](super::Logs::reopen),
//! [`WorkerLogs::continue_in`](super::WorkerLogs::continue_in)).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf, absolute};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::sink::{PIPE_BUF, Sink};
use crate::time::Time;
use crate::worker::sys;
use crate::worker::sys::shared_memory;

/// The most bytes of lines that a process keeps while a log has no room for them.
const ROOM: usize = 64 * 1024;

/// How soon a log that had no room is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// The least time between two reports of lost lines.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// A file that is only appended to (open(2), `O_APPEND`): each write is one or several whole lines,
/// so that all processes of a server can share the file.
#[derive(Debug)]
pub struct LogFile {
    /// None for a stream that the process was started with, which is never reopened.
    path: Option<PathBuf>,
    state: Mutex<FileState>,
    /// Whether lines wait, readable without the lock.
    waits: AtomicBool,
    /// Lines that were dropped and not reported yet, by any process of the server.
    lost: &'static AtomicU64,
}

#[derive(Debug)]
struct FileState {
    sink: Arc<Sink>,
    /// Lines for which there was no room. The first may be the rest of a line.
    waiting: Vec<u8>,
    /// The process that the waiting lines belong to. A forked child has a copy of them, which it
    /// must not write.
    owner: u32,
    /// When the waiting lines are tried again.
    retry_at: Time,
    /// The earliest time of the next report of lost lines.
    complain_at: Time,
    /// Whether the last write failed with an error other than a lack of room.
    failed: bool,
}

impl LogFile {
    /// Opens the file at `path`, and creates it if it does not exist, with mode 0644 less the
    /// umask. The path may also be that of a FIFO, with or without a reader.
    ///
    /// # Errors
    ///
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = absolute(path)?;
        let fd = open(&path)?;
        Ok(Self::new(Some(path), fd))
    }

    /// A stream that is already open, such as standard output. It is never reopened.
    pub fn stream(fd: OwnedFd) -> Self {
        Self::new(None, fd)
    }

    fn new(path: Option<PathBuf>, fd: OwnedFd) -> Self {
        let state = FileState {
            sink: Arc::new(Sink::new(fd)),
            waiting: Vec::new(),
            owner: process::id(),
            retry_at: Time::ZERO,
            complain_at: Time::ZERO,
            failed: false,
        };
        Self { path, state: Mutex::new(state), waits: AtomicBool::new(false), lost: counter() }
    }

    /// Continues in the file that is at the path now. If it cannot be opened, the old file is kept
    /// and an error is logged.
    pub fn reopen(&self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(fd) => self.continue_in(fd),
            Err(error) => tracing::error!("cannot reopen the log {path:?}, the old file is kept: {error}"),
        }
    }

    /// Continues in `fd`.
    pub fn continue_in(&self, fd: OwnedFd) {
        self.state().sink = Arc::new(Sink::new(fd));
    }

    /// Retries waiting lines, and reports the number of lost lines once no line waits. Called by
    /// loops in each turn, and at [`deadline`](Self::deadline).
    pub fn tend(&self, now: Time) {
        if !self.waits.load(Ordering::Relaxed) && self.lost.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state();
        if !state.waiting.is_empty() && now >= state.retry_at {
            state.write_out(now, self.lost);
        }
        self.note(&state);
        let is_due = state.waiting.is_empty() && now >= state.complain_at;
        drop(state);
        if is_due {
            self.report_lost(now);
        }
    }

    pub(super) fn report_lost(&self, now: Time) {
        if self.lost.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.state().complain_at = now + COMPLAIN_EVERY;
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            // Logged at a level that every log level except `off` includes.
            tracing::error!(dropped = lost, "log not read in time: {lost} lines dropped");
            if self.state().failed {
                self.lost.fetch_add(lost - 1, Ordering::Relaxed); // this line counts itself
            }
        }
    }

    /// When [`tend`](Self::tend) has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.waits.load(Ordering::Relaxed).then(|| self.state().retry_at)
    }

    /// Waits until all lines are written, at most for `limit`; remaining lines are dropped and
    /// counted. Called at the end of a process.
    pub fn flush(&self, limit: Duration) {
        let until = sys::now() + limit;
        loop {
            let now = sys::now();
            let mut state = self.state();
            state.write_out(now, self.lost);
            if now >= until && !state.waiting.is_empty() {
                state.drop_all(self.lost);
            }
            self.note(&state);
            if state.waiting.is_empty() {
                return;
            }
            let (sink, left) = (state.sink.clone(), until - now);
            drop(state);
            sink.wait(&Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            // The sink may be ready and still have too little room: do not spin.
            let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
        }
    }

    /// Whether it was opened by its path, so that it can be reopened.
    pub(super) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// The current sink.
    pub(super) fn sink(&self) -> Arc<Sink> {
        self.state().sink.clone()
    }

    fn note(&self, state: &FileState) {
        self.waits.store(!state.waiting.is_empty(), Ordering::Relaxed);
    }

    /// Stays locked during a write, which never waits for a reader.
    fn state(&self) -> MutexGuard<'_, FileState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.owner != process::id() {
            state.owner = process::id();
            state.waiting.clear();
        }
        state
    }
}

/// Takes one line per write. Never fails and never waits for a reader: a line without room is kept,
/// or dropped and counted.
impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.take(line, self.lost);
        self.note(&state);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileState {
    fn take(&mut self, line: &[u8], lost: &AtomicU64) {
        if !self.waiting.is_empty() {
            self.write_out(sys::now(), lost);
        }
        let is_first = self.waiting.is_empty();
        if is_first || self.waiting.len() + line.len() <= ROOM {
            self.waiting.extend_from_slice(line);
        } else {
            lost.fetch_add(lines(line), Ordering::Relaxed);
        }
        if is_first {
            self.write_out(sys::now(), lost);
        }
    }

    /// Writes as many lines as there is room for.
    fn write_out(&mut self, now: Time, lost: &AtomicU64) {
        let mut written = 0;
        while written < self.waiting.len() {
            let left = &self.waiting[written..];
            match self.sink.write(&left[..whole_lines(left)]) {
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.retry_at = now + RETRY;
                    break;
                }
                Err(_) => {
                    self.waiting.drain(..written);
                    self.failed = true;
                    return self.drop_all(lost);
                }
            }
        }
        self.waiting.drain(..written);
        if written > 0 {
            self.failed = false;
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(PIPE_BUF);
        }
    }

    fn drop_all(&mut self, lost: &AtomicU64) {
        lost.fetch_add(lines(&self.waiting), Ordering::Relaxed);
        self.waiting = Vec::new();
    }
}

/// How many bytes of `lines` one write takes: whole lines up to [`PIPE_BUF`] bytes, or one longer
/// line.
pub(super) fn whole_lines(lines: &[u8]) -> usize {
    let first = || memchr::memchr(b'\n', lines);
    let last = memchr::memrchr(b'\n', &lines[..lines.len().min(PIPE_BUF)]);
    last.or_else(first).map_or(lines.len(), |end| end + 1)
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count().max(1) as u64
}

/// A counter that this process shares with all processes it forks from now on; without memory for
/// that, a private counter.
fn counter() -> &'static AtomicU64 {
    match shared_memory::map(1) {
        Ok(shared) => &shared[0],
        Err(_) => Box::leak(Box::default()),
    }
}

/// `O_NONBLOCK` matters for FIFOs only (fifo(7)): neither this open waits for a reader, nor a later
/// write for room.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let how = OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    match openat(CWD, path, how | OFlags::WRONLY, mode) {
        // A FIFO without a reader: opened for reading too, it holds lines until a reader comes.
        Err(Errno::NXIO) => Ok(openat(CWD, path, how | OFlags::RDWR, mode)?),
        result => Ok(result?),
    }
}

#[cfg(test)]
pub(super) mod tests;
