//! A descriptor for log lines, written by calls that never wait for a reader.
//!
//! The open file description may be shared with programs that expect it to block (a shell, the
//! parent, the application's own output), so `O_NONBLOCK` is never set on it. How a write avoids
//! waiting depends on the kind of descriptor:
//!
//! - pipe: pwritev2(2) with `RWF_NOWAIT`; where the kernel lacks that for pipes (Linux before 6.4),
//!   poll(2) and then at most `PIPE_BUF` bytes
//! - FIFO: the same, but through a new description with `O_NONBLOCK`, because the kernel lacks
//!   `RWF_NOWAIT` for FIFOs; if it may not be opened, poll(2)
//! - socket: send(2) with `MSG_DONTWAIT`
//! - terminal: a new description with `O_NONBLOCK`; if it may not be opened, poll(2) and then a few
//!   bytes
//! - anything else: write(2), which may wait for a disk

use std::io::{IoSlice, IsTerminal as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, fstatfs, open};
use rustix::io::{Errno, ReadWriteFlags, pwritev2, write};
use rustix::net::{SendFlags, send};

/// The most bytes that a pipe takes as a whole or not at all (pipe(7), `PIPE_BUF`). One free slot
/// of a pipe has room for as many.
pub(super) const PIPE_BUF: usize = 4096;

/// How many bytes are written at once to a terminal that poll(2) reports as ready, without saying
/// for how many.
const PIECE: usize = 64;

/// A descriptor that log lines are written to.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    kind: SinkKind,
}

#[derive(Debug)]
enum SinkKind {
    /// A pipe. `polls`: the kernel has refused `RWF_NOWAIT` for it.
    Pipe {
        polls: AtomicBool,
    },
    Socket,
    /// A terminal whose description blocks and is shared with other programs.
    Terminal,
    /// A file without a reader to wait for, or a description of the server's own with `O_NONBLOCK`.
    Plain,
}

impl Sink {
    /// Detects the kind of `fd`.
    pub(in crate::worker) fn new(fd: OwnedFd) -> Self {
        match fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Socket) => Self { fd, kind: SinkKind::Socket },
            // Opened by its path, and for reading too if it had no reader: otherwise lines that
            // wait in it would be lost.
            Ok(FileType::Fifo) if is_named(&fd) && !blocks(&fd) => Self { fd, kind: SinkKind::Plain },
            Ok(FileType::Fifo) => match open_own(&fd).filter(|_| is_named(&fd)) {
                Some(own) => Self { fd: own, kind: SinkKind::Plain },
                None => Self { fd, kind: SinkKind::Pipe { polls: AtomicBool::new(false) } },
            },
            Ok(FileType::CharacterDevice) if fd.is_terminal() => match open_own(&fd) {
                Some(own) => Self { fd: own, kind: SinkKind::Plain },
                None => Self { fd, kind: SinkKind::Terminal },
            },
            _ => Self { fd, kind: SinkKind::Plain },
        }
    }

    /// Writes as many of `bytes` as there is room for now, and returns their number. A pipe takes
    /// up to [`PIPE_BUF`] bytes as a whole or not at all.
    ///
    /// # Errors
    ///
    /// As write(2); `AGAIN` if there is no room.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match &self.kind {
            SinkKind::Pipe { polls } if !polls.load(Ordering::Relaxed) => {
                // An offset of -1 means the current position, which pipes require (pwritev2(2)).
                match pwritev2(&self.fd, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT) {
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                        polls.store(true, Ordering::Relaxed);
                        self.write(bytes)
                    }
                    result => result,
                }
            }
            SinkKind::Pipe { .. } => self.write_if_ready(&bytes[..bytes.len().min(PIPE_BUF)]),
            SinkKind::Terminal => self.write_if_ready(&bytes[..bytes.len().min(PIECE)]),
            SinkKind::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            SinkKind::Plain => write(&self.fd, bytes),
        }
    }

    /// Waits at most for `limit` until there is room, and returns whether there is.
    pub(super) fn wait(&self, limit: &Timespec) -> bool {
        poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(limit)).is_ok_and(|ready| ready > 0)
    }

    fn write_if_ready(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if self.wait(&at_once) { write(&self.fd, bytes) } else { Err(Errno::AGAIN) }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens the file behind `fd` again, in a new description that does not block (proc(5),
/// /proc/self/fd). None if it may not be opened, or is a FIFO without a reader.
fn open_own(fd: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty()).ok()
}

/// Whether a write to `fd` waits for room.
fn blocks(fd: &OwnedFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK))
}

/// Whether a pipe is a FIFO with a name in a file system (statfs(2), `PIPEFS_MAGIC`).
fn is_named(pipe: &OwnedFd) -> bool {
    const PIPEFS_MAGIC: u64 = 0x5049_5045;
    fstatfs(pipe).is_ok_and(|system| system.f_type as u64 != PIPEFS_MAGIC)
}

#[cfg(test)]
mod tests;
