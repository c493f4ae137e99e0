//! Clocks, and the few system calls that have no safe wrapper: signal handlers, the kernel timer that ends a worker
//! whose handlers do not return, and memory that processes share.
//!
//! Handlers write to a pipe, arm the timer or `_exit`, and nothing else (signal-safety(7)); but that of ABRT, whose process
//! is lost, also reads the stacks of its threads and sends them to the arbiter.

#![allow(unsafe_code, reason = "signal handlers, timers and raw descriptors of other crates")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::pipe::PipeFlags;

use crate::app::{Hand, busy_since};
use crate::order::{FRAMES_MAX, MESSAGE_MAX, encode_stack};
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
/// The worker's end of its control socket, where a worker that aborts says where it stands. Never closed, as the pipe.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
/// A thread has been told to abort, and the others have been told by it.
static ABORTING: AtomicBool = AtomicBool::new(false);
/// How many of the others have said where they stand.
static SAID: AtomicU32 = AtomicU32::new(0);
/// The graceful timeout, for a TERM that finds the loop stuck.
static GRACE: AtomicU64 = AtomicU64::new(30_000_000_000);

/// Installs a worker's signal handlers and timer, of which one writes to the control socket `orders`, and gives the descriptor that signal numbers arrive on, a byte
/// each. All signals stay blocked as they were.
///
/// # Errors
///
/// As pipe2(2), timer_create(2) and sigaction(2).
pub(super) fn install_signals(orders: &OwnedFd) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    PIPE.store(write.into_raw_fd(), Ordering::Relaxed);
    TIMER.store(create_timer()?, Ordering::Relaxed);
    HAS_TIMER.store(true, Ordering::Relaxed);
    ARMED.store(u64::MAX, Ordering::Relaxed);
    SOCKET.store(duplicate(orders)?.into_raw_fd(), Ordering::Relaxed);
    // What the unwinder does once only, it has done before a handler needs it.
    read_stack(&mut [0; FRAMES_MAX]);

    for signal in [libc::SIGTERM, libc::SIGINT] {
        handle(signal, on_stop)?;
    }
    handle(LEAVE_BY, on_order)?;
    handle(libc::SIGUSR1, on_notice)?;
    handle(libc::SIGQUIT, on_quit)?;
    handle(libc::SIGABRT, on_abort)?;
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

/// ABRT: says where the loop and the threads that run handlers stand, and then dies of it. The first thread that gets it has
/// all others get it, too. Whatever keeps it from that, the arbiter's SIGKILL comes a second after the signal.
extern "C" fn on_abort(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if ABORTING.swap(true, Ordering::Relaxed) {
        say_where();
        SAID.fetch_add(1, Ordering::Release);
        loop {
            // SAFETY: pause is async-signal-safe.
            unsafe { libc::pause() };
        }
    }
    let others = tell_others();
    say_where();
    let patience = now() + ABORT_PATIENCE;
    while SAID.load(Ordering::Acquire) < others && now() < patience {
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: nanosleep is async-signal-safe, and `nap` lives through the call.
        unsafe { libc::nanosleep(&raw const nap, ptr::null_mut()) };
    }
    if act(libc::SIGABRT, libc::SIG_DFL).is_ok() {
        // SAFETY: raise is async-signal-safe. The signal is blocked until this handler returns, and then ends the process.
        unsafe { libc::raise(libc::SIGABRT) };
    }
}

/// How long the thread that aborts waits for the others.
const ABORT_PATIENCE: Duration = Duration::from_millis(500);

/// Sends ABRT to all other threads of this process, as far as /proc names them; how many there are. Async-signal-safe.
fn tell_others() -> u32 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(c"/proc/self/task", flags, Mode::empty()) else { return 0 };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut tasks = RawDir::new(directory, &mut buffer);
    let mut told = 0;
    while let Some(Ok(task)) = tasks.next() {
        let digits = task.file_name().to_bytes();
        let number = |n: libc::pid_t, digit: &u8| n * 10 + libc::pid_t::from(digit - b'0');
        let tid = digits.iter().take_while(|digit| digit.is_ascii_digit()).fold(0, number);
        // SAFETY: these only take and give numbers.
        let sent = unsafe {
            tid > 0
                && tid != libc::gettid()
                && libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGABRT) == 0
        };
        told += u32::from(sent);
    }
    told
}

/// Tells the arbiter where this thread stands, if it is the loop's or runs a handler. Async-signal-safe.
fn say_where() {
    // SAFETY: these only give numbers.
    let on_loop = unsafe { libc::gettid() == libc::getpid() };
    let since = busy_since();
    if !on_loop && since.is_none() {
        return;
    }
    let mut frames = [0; FRAMES_MAX];
    let len = read_stack(&mut frames);
    let mut message = [0; MESSAGE_MAX];
    let message = encode_stack(on_loop, since, &frames[..len], &mut message);
    // SAFETY: send is async-signal-safe; the descriptor stays open, and the message lives through the call.
    unsafe {
        libc::send(
            SOCKET.load(Ordering::Relaxed),
            message.as_ptr().cast(),
            message.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
}

/// The addresses of code that this thread is in, the innermost first, and how many there are. It neither allocates nor, where
/// the C library finds unwind tables without a lock as glibc has since 2.35 (`_dl_find_object`), waits for other threads.
fn read_stack(frames: &mut [u64; FRAMES_MAX]) -> usize {
    let mut len = 0;
    // SAFETY: it is other systems whose unwinders need to be called by one thread at a time; that of Linux does not.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            frames[len] = frame.ip().addr() as u64;
            len += 1;
            len < FRAMES_MAX
        });
    }
    len
}

extern "C" fn on_deadline(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(i32::from(Exit::CutOff.status())) }
}
