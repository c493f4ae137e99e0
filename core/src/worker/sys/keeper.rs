//! The system calls of a keeper: the copy of a worker that shares its descriptors, and what that
//! copy does to its memory and to descriptors that nothing owns any more.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::libc;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

use crate::rescue::ByteCounts;

/// Which of two processes this is, after a clone.
pub(in crate::worker) enum Cloned {
    /// The worker.
    Original,
    /// Its keeper.
    Copy,
}

/// Copies this process. The copy shares its descriptor table and its parent. The kernel stores the
/// pid of the copy in `pid`, which is shared memory, before either continues.
///
/// Called while the process has one thread, as for fork(2). The C library learns nothing of the
/// copy, in which gettid(3) and what depends on it are wrong.
///
/// # Errors
///
/// As clone(2).
pub(in crate::worker) fn clone_sharing_descriptors(pid: &'static AtomicU32) -> io::Result<Cloned> {
    let flags = libc::CLONE_FILES | libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack of its own the copy continues on a copy of this
    // stack, as after fork(2); the kernel writes an integer to `pid`, which is never unmapped.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, pid.as_ptr(), 0_usize, 0_usize) };
    match result {
        0 => Ok(Cloned::Copy),
        1.. => Ok(Cloned::Original),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks all signals that can be blocked: those to the process group are for the worker.
pub(in crate::worker) fn block_all_signals() {
    let all = nix::sys::signal::SigSet::all();
    let _ = nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&all), None);
}

/// Waits until the process of this pidfd has ended.
pub(in crate::worker) fn wait_for_end(process: &impl AsFd) {
    let mut wait = [PollFd::new(process, PollFlags::IN)];
    // If the application has closed the descriptor, the kernel still holds it during the call.
    while poll(&mut wait, None).is_err() {}
}

/// Lets `time` pass.
pub(in crate::worker) fn nap(time: Duration) {
    let _ = poll(&mut [], Some(&time.try_into().unwrap_or_default()));
}

/// The descriptor with this number, which nothing closes while the keeper uses it. It may be
/// closed, and then every call on it fails.
pub(in crate::worker) fn borrow(number: i32) -> BorrowedFd<'static> {
    // SAFETY: the number is not negative. The worker is gone, so that the keeper alone closes
    // descriptors of the table, and it uses none that it has closed.
    unsafe { BorrowedFd::borrow_raw(number.max(0)) }
}

/// Closes the descriptors from `first` to `last`, if there are any (close_range(2)).
pub(in crate::worker) fn close_between(first: i32, last: i32) {
    if first <= last {
        // SAFETY: the keeper owns the table, since the worker is gone, and holds no other value for
        // these descriptors that would close them.
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) };
    }
}

/// The beginning of `struct tcp_info` since Linux 4.1 (linux/tcp.h).
#[repr(C)]
struct TcpInfo {
    state: u8,
    flags: [u8; 7],
    numbers: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
}

/// `TCP_CLOSE_WAIT`: the peer has ended its side.
const CLOSE_WAIT: u8 = 8;

/// The counts of a TCP socket. None of any other, or if its connection is over.
pub(in crate::worker) fn tcp_counts(socket: BorrowedFd<'_>) -> Option<ByteCounts> {
    // Each is the sum of two numbers that the kernel tells one after the other: a segment that
    // arrives in between makes it wrong. Two equal readings are right.
    let mut counts = read_tcp_counts(socket)?;
    for _ in 0..READINGS {
        let again = read_tcp_counts(socket)?;
        if again == counts {
            break;
        }
        counts = again;
    }
    Some(counts)
}

/// How often counts are read again that change.
const READINGS: u32 = 8;

fn read_tcp_counts(socket: BorrowedFd<'_>) -> Option<ByteCounts> {
    let mut info = MaybeUninit::<TcpInfo>::zeroed();
    let mut len = size_of::<TcpInfo>() as libc::socklen_t;
    let (mut unread, mut unacked): (libc::c_int, libc::c_int) = (0, 0);
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes into `info`, an integer into each of the
    // others; all live through the calls.
    let results = unsafe {
        [
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len),
            libc::ioctl(fd, libc::FIONREAD, &raw mut unread),
            libc::ioctl(fd, libc::TIOCOUTQ, &raw mut unacked),
        ]
    };
    let is_whole = len as usize >= offset_of!(TcpInfo, bytes_received) + size_of::<u64>();
    if results != [0; 3] || !is_whole {
        return None;
    }
    // SAFETY: plain integers, for which zeros are valid; the kernel has overwritten some.
    let info = unsafe { info.assume_init() };
    // The end of the peer's side counts as a byte that was received and never read.
    let end = u64::from(info.state == CLOSE_WAIT);
    Some(ByteCounts {
        read: info.bytes_received.wrapping_sub(unread as u64 + end),
        written: info.bytes_acked + unacked as u64,
    })
}

/// Around the thread's own memory, which the C library needs, so much is kept.
const THREAD_MEMORY: usize = 256 * 1024;

/// Behind a mapped file, so much is kept: its variables without a value (`.bss`) may be there.
const VARIABLES: usize = 256 * 1024;

/// Unmaps the copies of the worker's memory, which would otherwise be kept as the worker changes
/// its own: all private memory without a file, except the stack, the thread's own memory and
/// variables. Pages of code that the keeper does not use are forgotten. Afterwards nothing can be
/// allocated, and no value on the heap used.
pub(in crate::worker) fn give_memory_back() {
    let Ok(maps) = rustix::fs::open(c"/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    // SAFETY: the address of errno is that of a variable of this thread.
    let own = unsafe { libc::__errno_location() } as usize;
    let mut lines = Lines { fd: maps.as_fd(), buffer: [0; 4096], len: 0 };
    let mut end_of_file = 0;
    while let Some(mapping) = lines.next() {
        if mapping.is_code {
            forget_pages(mapping.start, mapping.end);
        }
        if !mapping.is_heap {
            end_of_file = if mapping.has_file { mapping.end } else { end_of_file };
            continue;
        }
        let start = if mapping.start == end_of_file { mapping.start + VARIABLES } else { mapping.start };
        let (below, above) = (own.saturating_sub(THREAD_MEMORY), own + THREAD_MEMORY);
        if (mapping.start..mapping.end).contains(&own) {
            unmap(start, below);
            unmap(above.max(start), mapping.end);
        } else {
            unmap(start, mapping.end);
        }
    }
}

/// Forgets the pages of a file that is not written to: those that are used are found again.
fn forget_pages(start: usize, end: usize) {
    // SAFETY: code is never changed, so that its pages are those of the file.
    unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
}

/// Unmaps whole pages from `start` to `end`.
fn unmap(start: usize, end: usize) {
    const PAGE: usize = 4096;
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if start < end {
        // SAFETY: the range is heap memory of this process, of which it uses nothing any more: its
        // stack, shared memory, thread memory and variables are elsewhere.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start), end - start) };
    }
}

/// The lines of /proc/self/maps (proc(5)), read without allocating.
struct Lines<'a> {
    fd: BorrowedFd<'a>,
    buffer: [u8; 4096],
    len: usize,
}

/// One of them.
struct Mapping {
    start: usize,
    end: usize,
    has_file: bool,
    /// Code of a file.
    is_code: bool,
    /// Private, without a file, and neither the stack nor of the kernel.
    is_heap: bool,
}

impl Lines<'_> {
    fn next(&mut self) -> Option<Mapping> {
        loop {
            if let Some(end) = self.buffer[..self.len].iter().position(|byte| *byte == b'\n') {
                let mapping = Mapping::parse(&self.buffer[..end]);
                self.buffer.copy_within(end + 1..self.len, 0);
                self.len -= end + 1;
                return mapping;
            }
            match rustix::io::read(self.fd, &mut self.buffer[self.len..]) {
                Ok(n @ 1..) => self.len += n,
                _ => return None,
            }
        }
    }
}

impl Mapping {
    /// Parses `start-end permissions offset device inode path`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let mut range = words.next()?.split(|byte| *byte == b'-');
        let (start, end) = (hexadecimal(range.next()?), hexadecimal(range.next()?));
        let permissions = words.next()?;
        let (is_private, is_code) = (permissions.get(3) == Some(&b'p'), permissions.get(..3) == Some(b"r-x"));
        let has_file = words.nth(2)? != b"0";
        let path = words.next().unwrap_or_default();
        let is_plain = path.is_empty() || path == b"[heap]" || path.starts_with(b"[anon");
        let (is_code, is_heap) = (is_private && has_file && is_code, is_private && !has_file && is_plain);
        Some(Self { start, end, has_file, is_code, is_heap })
    }
}

fn hexadecimal(digits: &[u8]) -> usize {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or_default() as usize;
    digits.iter().fold(0, |number, byte| number << 4 | digit(byte))
}

#[cfg(test)]
mod tests;
