//! Clocks, and the few system calls that have no safe wrapper: signal handlers, the kernel timer that ends a worker
//! whose handlers do not return, and memory that processes share.
//!
//! Handlers write to a pipe, arm the timer or `_exit`, and nothing else (signal-safety(7)).

#![allow(unsafe_code, reason = "signal handlers, timers and raw descriptors of other crates")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use rustix::pipe::PipeFlags;

use crate::app::Hand;
use crate::time::Time;
use crate::worker::Exit;
use crate::worker::ledger::Page;
use crate::worker::scoreboard::Slot;

/// How long after a drain's deadline a worker that has not ended itself is ended by the kernel timer (D10).
pub const EXIT_MARGIN: Duration = Duration::from_millis(500);

/// What INT leaves of a drain (D11).
pub const QUICK_STOP: Duration = Duration::from_secs(2);

/// The signal that tells a worker, beside an order to drain, by when: its value is the deadline in nanoseconds of [`Time`].
/// It means nothing but that, so the loop, which has the order, is not told of it. One that knows nothing of it ignores it.
pub const LEAVE_BY: libc::c_int = libc::SIGURG;

/// Reads `CLOCK_MONOTONIC`.
pub fn now() -> Time {
    Time::from_nanos(u64::try_from(read(ClockId::CLOCK_MONOTONIC).as_nanos()).unwrap_or(u64::MAX))
}

/// Reads the wall clock: time since the epoch.
pub fn wall_clock() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// Through libc, whose vDSO call also works under valgrind.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock)
        .map_or(Duration::ZERO, |t| Duration::new(t.tv_sec().max(0) as u64, t.tv_nsec() as u32))
}

/// A descriptor of the same open file as `owner`'s.
///
/// For crates that show their descriptor as a number only: the duplicate is owned, so it cannot dangle.
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
    // SAFETY: fcntl returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What may live in memory that several processes read and write at the same time.
///
/// # Safety
///
/// All of it is atomics or padding, zeros are a valid value, and dropping it does nothing.
pub(super) unsafe trait Shared: Sync + 'static {}

// SAFETY: atomic integers in a C layout.
unsafe impl Shared for Slot {}
// SAFETY: atomic integers in a C layout.
unsafe impl Shared for Page {}
// SAFETY: atomic integers and an atomic bool, which nobody writes but as one, in a C layout.
unsafe impl Shared for Hand {}

/// `count` values, zeros at first, that this process shares with all that it forks from now on. Pages that nobody
/// touches cost address space alone. Never unmapped: other threads may write as long as the process lives.
///
/// # Errors
///
/// As mmap(2).
pub(super) fn share<T: Shared>(count: usize) -> io::Result<&'static [T]> {
    let len = count.checked_mul(size_of::<T>()).filter(|&len| len > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has room for `count` values, is aligned to a page and so to them, stays for ever, and
    // holds zeros, which are valid ones; all access through the reference is atomic (`Shared`).
    Ok(unsafe { std::slice::from_raw_parts(memory.cast(), count) })
}

/// The write end of the pipe that signals arrive on. Never closed: a handler may run until the process ends.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// The timer that ends the process. A null pointer is a valid one: the kernel counts timers from 0.
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());
/// Whether there is a timer.
static HAS_TIMER: AtomicBool = AtomicBool::new(false);
/// When it is armed for; it only ever moves closer.
static ARMED: AtomicU64 = AtomicU64::new(u64::MAX);
/// The graceful timeout, for a TERM that finds the loop stuck.
static GRACE: AtomicU64 = AtomicU64::new(30_000_000_000);

/// Installs a worker's signal handlers and timer and gives the descriptor that signal numbers arrive on, a byte
/// each. All signals stay blocked as they were.
///
/// # Errors
///
/// As pipe2(2), timer_create(2) and sigaction(2).
pub(super) fn install_signals() -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    PIPE.store(write.into_raw_fd(), Ordering::Relaxed);
    TIMER.store(create_timer()?, Ordering::Relaxed);
    HAS_TIMER.store(true, Ordering::Relaxed);
    ARMED.store(u64::MAX, Ordering::Relaxed);

    for signal in [libc::SIGTERM, libc::SIGINT] {
        handle(signal, on_stop)?;
    }
    handle(LEAVE_BY, on_order)?;
    handle(libc::SIGUSR1, on_notice)?;
    handle(libc::SIGQUIT, on_quit)?;
    handle(libc::SIGALRM, on_deadline)?;
    for signal in [libc::SIGHUP, libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH, libc::SIGPIPE] {
        act(signal, libc::SIG_IGN)?;
    }
    act(libc::SIGCHLD, libc::SIG_DFL)?;
    Ok(read)
}

/// Lets all signals in.
pub(super) fn unblock_signals() -> io::Result<()> {
    let none = nix::sys::signal::SigSet::empty();
    Ok(nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)?)
}

/// Tells the handler of TERM how long a drain may take.
pub(super) fn set_grace(grace: Duration) {
    GRACE.store(u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Makes the kernel end this process with 6 at `at` plus [`EXIT_MARGIN`], unless it is to do so earlier already.
/// Async-signal-safe.
pub(super) fn arm_exit(at: Time) {
    let mut at = (at + EXIT_MARGIN).as_nanos();
    if !HAS_TIMER.load(Ordering::Relaxed) || ARMED.fetch_min(at, Ordering::Relaxed) <= at {
        return;
    }
    // A handler of a signal may have armed it for an earlier time in the meantime, which has to stand.
    loop {
        set_timer(at);
        match ARMED.load(Ordering::Relaxed) {
            armed if armed < at => at = armed,
            _ => return,
        }
    }
}

fn set_timer(at: u64) {
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let value = libc::itimerspec {
        it_interval: never,
        it_value: libc::timespec {
            tv_sec: libc::time_t::try_from(at / 1_000_000_000).unwrap_or(libc::time_t::MAX),
            tv_nsec: (at % 1_000_000_000) as libc::c_long,
        },
    };
    // SAFETY: `timer` came from timer_create and is never deleted; `value` lives through the call.
    unsafe {
        libc::timer_settime(
            TIMER.load(Ordering::Relaxed).cast(),
            libc::TIMER_ABSTIME,
            &value,
            ptr::null_mut(),
        )
    };
}

fn create_timer() -> io::Result<*mut libc::c_void> {
    // SAFETY: sigevent is plain data, for which zeros are valid.
    let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGALRM;
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: both pointers are to locals that live through the call.
    match unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } {
        0 => Ok(timer.cast()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A handler as `SA_SIGINFO` calls it: the signal, what is known of it, and what was interrupted.
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(signal: libc::c_int, handler: Handler) -> io::Result<()> {
    act(signal, handler as *const () as libc::sighandler_t)
}

fn act(signal: libc::c_int, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: sigaction is plain data, for which zeros are valid: an empty mask.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = action;
    new.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
    // SAFETY: `new` lives through the call, and every handler passed here is async-signal-safe.
    match unsafe { libc::sigaction(signal, &new, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// TERM and INT: the loop is told, and the timer armed in case it never listens.
extern "C" fn on_stop(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let grace = GRACE.load(Ordering::Relaxed);
    let grace = if signal == libc::SIGINT { grace.min(QUICK_STOP.as_nanos() as u64) } else { grace };
    arm_exit(now() + Duration::from_nanos(grace));
    on_notice(signal, info, context);
}

/// The arbiter has sent an order to drain, which a loop that is stuck does not read: the timer is armed all the same.
extern "C" fn on_order(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler installed with `SA_SIGINFO` what is known of the signal; one that sigqueue(3) has
    // sent has a value, and others are ignored.
    let deadline = unsafe { ((*info).si_code == libc::SI_QUEUE).then(|| (*info).si_value().sival_ptr) };
    if let Some(deadline) = deadline {
        arm_exit(Time::from_nanos(deadline.addr() as u64));
    }
}

extern "C" fn on_notice(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let byte = signal as u8;
    // SAFETY: the pipe is open for the life of the process; errno is put back for the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(PIPE.load(Ordering::Relaxed), ptr::from_ref(&byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

extern "C" fn on_quit(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(i32::from(Exit::Clean.status())) }
}

extern "C" fn on_deadline(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(i32::from(Exit::CutOff.status())) }
}
