//! Clocks, and the system calls that have no safe wrapper.

#![allow(unsafe_code, reason = "signal handlers, timers, shared memory and raw descriptors of other crates")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};

pub use self::signals::LEAVE_BY;
pub(super) use self::signals::{
    arm_exit, install_signals, publish_deadline, set_decided, set_grace, set_last_act, unblock_signals,
};
use crate::time::Time;

pub(super) mod keeper;
pub(super) mod shared_memory;
mod signals;

/// How long after a drain's deadline the kernel timer ends a worker that has not ended by itself
/// (D10).
pub const EXIT_MARGIN: Duration = Duration::from_millis(500);

/// How long a drain may take after INT (D11).
pub const QUICK_STOP: Duration = Duration::from_secs(2);

/// Reads `CLOCK_MONOTONIC`.
pub fn now() -> Time {
    Time::from_nanos(u64::try_from(read(ClockId::CLOCK_MONOTONIC).as_nanos()).unwrap_or(u64::MAX))
}

/// Reads the wall clock: time since the epoch.
pub fn wall_clock() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// Uses libc, whose vDSO call also works under valgrind.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock)
        .map_or(Duration::ZERO, |t| Duration::new(t.tv_sec().max(0) as u64, t.tv_nsec() as u32))
}

/// Ends this process at once, without running destructors or anything else.
pub(super) fn leave(status: u8) -> ! {
    // SAFETY: _exit does not return.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Duplicates the descriptor of `owner`.
///
/// For crates that expose their descriptor only as a number: the duplicate is owned, so it cannot
/// dangle.
///
/// # Errors
///
/// As fcntl(2) with `F_DUPFD_CLOEXEC`.
pub fn duplicate(owner: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: duplicating touches no memory, and `owner` keeps its descriptor open during the call.
    let fd = unsafe { libc::fcntl(owner.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl returned a new descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a TCP socket drop segments with fewer than `least` hops left (ip(7), `IP_MINTTL`; for IPv6
/// `IPV6_MINHOPCOUNT`, which ipv6(7) does not list). 0: drops none. An IPv6 socket may have peers
/// of both kinds, so both options are set on it.
///
/// # Errors
///
/// As setsockopt(2). Some systems know neither option, and MPTCP supports neither.
pub(super) fn set_least_hops(socket: BorrowedFd<'_>, is_ipv6: bool, least: u8) -> io::Result<()> {
    let least = libc::c_int::from(least);
    let options = [(libc::IPPROTO_IP, libc::IP_MINTTL), (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)];
    for (level, option) in &options[..1 + usize::from(is_ipv6)] {
        // SAFETY: the kernel reads an integer of that length during the call, and it lives through
        // that.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                *level,
                *option,
                (&raw const least).cast(),
                size_of_val(&least) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
