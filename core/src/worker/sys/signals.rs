//! Signal handlers of a worker, and the kernel timer that ends a worker whose handlers do not
//! return.
//!
//! Handlers write to a pipe, arm the timer, ignore a signal or call `_exit`, and nothing else
//! (signal-safety(7)). The handler of ABRT, whose process is about to end, also reads the stacks of
//! the loop and of threads that run handlers, and sends them to the arbiter.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::pipe::PipeFlags;

use super::{EXIT_MARGIN, QUICK_STOP, duplicate, now};
use crate::app::busy_since;
use crate::order::{FRAMES_MAX, MESSAGE_MAX, encode_stack};
use crate::time::Time;
use crate::worker::exit::Exit;

/// The signal that accompanies an order to drain and carries the deadline as its value, in
/// nanoseconds of [`Time`]. It only arms the timer: the loop is not informed, because it reads the
/// order. Workers of versions without a handler for it ignore it.
pub const LEAVE_BY: libc::c_int = libc::SIGURG;

/// The write end of the pipe that the handlers write signal numbers to. Never closed: a handler may
/// run until the process ends.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// The timer that ends the process. A null pointer is a valid timer: the kernel counts timers from
/// 0.
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());
/// Whether [`TIMER`] has been created.
static HAS_TIMER: AtomicBool = AtomicBool::new(false);
/// The time the timer is set for, which only ever gets earlier.
static ARMED: AtomicU64 = AtomicU64::new(u64::MAX);
/// Where [`ARMED`] is published for the keeper, if there is one.
static PUBLISHED: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// What is done before the timer ends the process, if anything.
static LAST_ACT: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());
/// The worker's end of its order socket, through which a worker that aborts sends its stacks. Never
/// closed, like the pipe.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
/// Whether a thread has received ABRT. The first one that does sends it to all others.
static ABORTING: AtomicBool = AtomicBool::new(false);
/// How many of the other threads have sent their stacks, or have none to send.
static SAID: AtomicU32 = AtomicU32::new(0);
/// Whether the worker has reported that it is ready or that its boot failed. Before that it has
/// accepted nothing, so nothing is lost if it ends at once. After a failed boot it ends by itself,
/// with the status of the failure.
static DECIDED: AtomicBool = AtomicBool::new(false);
/// The graceful timeout in nanoseconds, for a TERM that arrives while the loop is stuck.
static GRACE: AtomicU64 = AtomicU64::new(30_000_000_000);

/// Installs a worker's signal handlers and timer; the handler of ABRT writes to the order socket
/// `orders`. Returns the descriptor on which signal numbers arrive, a byte each. Blocked signals
/// stay blocked.
///
/// # Errors
///
/// As pipe2(2), timer_create(2) and sigaction(2).
pub(in crate::worker) fn install_signals(orders: &OwnedFd) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    PIPE.store(write.into_raw_fd(), Ordering::Relaxed);
    TIMER.store(create_timer()?, Ordering::Relaxed);
    HAS_TIMER.store(true, Ordering::Relaxed);
    ARMED.store(u64::MAX, Ordering::Relaxed);
    SOCKET.store(duplicate(orders)?.into_raw_fd(), Ordering::Relaxed);
    // The unwinder initialises itself at its first use, which must not happen inside a handler.
    read_stack(&mut [0; FRAMES_MAX]);

    for signal in [libc::SIGTERM, libc::SIGINT] {
        handle(signal, on_stop)?;
    }
    handle(LEAVE_BY, on_order)?;
    handle(libc::SIGUSR1, on_notice)?;
    handle(libc::SIGQUIT, on_quit)?;
    handle(libc::SIGABRT, on_abort)?;
    handle(libc::SIGALRM, on_deadline)?;
    // An ignored signal stays ignored across execve(2), also in a program that the application
    // starts; a handler does not. Signals that were ignored when the server was started (nohup(1))
    // are left alone, except PIPE, which Rust's runtime ignores.
    for signal in [libc::SIGHUP, libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH] {
        if !is_ignored(signal)? {
            handle(signal, on_other)?;
        }
    }
    handle(libc::SIGPIPE, on_other)?;
    act(libc::SIGCHLD, libc::SIG_DFL)?;
    Ok(read)
}

/// The worker accepts from now on, or ends by itself: from here on a stop begins a drain instead of
/// ending the process at once.
pub(in crate::worker) fn set_decided() {
    DECIDED.store(true, Ordering::Release);
}

/// Unblocks all signals.
pub(in crate::worker) fn unblock_signals() -> io::Result<()> {
    let none = nix::sys::signal::SigSet::empty();
    Ok(nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)?)
}

/// Sets how long a drain may take that TERM begins.
pub(in crate::worker) fn set_grace(grace: Duration) {
    GRACE.store(u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Publishes the time for which the timer is set in `place`, which is shared memory.
pub(in crate::worker) fn publish_deadline(place: &'static AtomicU64) {
    PUBLISHED.store(ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
}

/// Makes the kernel end this process with status 6 at `at` plus [`EXIT_MARGIN`], unless the timer
/// is already set for an earlier time. Async-signal-safe.
pub(in crate::worker) fn arm_exit(at: Time) {
    let mut at = (at + EXIT_MARGIN).as_nanos();
    if !HAS_TIMER.load(Ordering::Relaxed) || ARMED.fetch_min(at, Ordering::Relaxed) <= at {
        return;
    }
    // A signal handler may have set it for an earlier time in the meantime, which has to win.
    loop {
        set_timer(at);
        match ARMED.load(Ordering::Relaxed) {
            armed if armed < at => at = armed,
            _ => return,
        }
    }
}

fn set_timer(at: u64) {
    // SAFETY: it is null, or came from a reference to memory that is never unmapped.
    if let Some(place) = unsafe { PUBLISHED.load(Ordering::Relaxed).as_ref() } {
        place.store(at, Ordering::Relaxed);
    }
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

/// A signal handler of the kind `SA_SIGINFO`: its arguments are the signal, the signal's details,
/// and the interrupted context.
type SignalHandler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(signal: libc::c_int, handler: SignalHandler) -> io::Result<()> {
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

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    // SAFETY: sigaction is plain data, for which zeros are valid.
    let mut found: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `found` lives through the call, which changes no action.
    match unsafe { libc::sigaction(signal, ptr::null(), &mut found) } {
        0 => Ok(found.sa_sigaction == libc::SIG_IGN),
        _ => Err(io::Error::last_os_error()),
    }
}

/// HUP, USR2, TTIN, TTOU, WINCH and PIPE have no meaning for a worker. A background process that
/// receives TTIN or TTOU from the terminal would retry its read or write for ever, once per signal:
/// the call only fails if the signal is ignored.
extern "C" fn on_other(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the signal's details to a handler installed with `SA_SIGINFO`.
    let from_terminal = unsafe { (*info).si_code } == libc::SI_KERNEL;
    if from_terminal && matches!(signal, libc::SIGTTIN | libc::SIGTTOU) {
        // SAFETY: errno is restored for the interrupted code.
        let errno = unsafe { *libc::__errno_location() };
        // If the action cannot be changed, the handler is simply called again.
        let _ = act(signal, libc::SIG_IGN);
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }
}

/// TERM and INT. A worker that is not ready ends at once: it has nothing to finish, and the
/// application's constructor may block for any time. Otherwise the signal is passed to the loop,
/// and the timer is set in case the loop is stuck.
extern "C" fn on_stop(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    end_unready();
    let grace = GRACE.load(Ordering::Relaxed);
    let grace = if signal == libc::SIGINT { grace.min(QUICK_STOP.as_nanos() as u64) } else { grace };
    arm_exit(now() + Duration::from_nanos(grace));
    on_notice(signal, info, context);
}

/// [`LEAVE_BY`]: the arbiter has sent an order to drain. A stuck loop does not read it, so the
/// timer is set here.
extern "C" fn on_order(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the signal's details to a handler installed with `SA_SIGINFO`; a
    // signal sent by sigqueue(3) has a value, and others are ignored.
    let deadline = unsafe { ((*info).si_code == libc::SI_QUEUE).then(|| (*info).si_value().sival_ptr) };
    if let Some(deadline) = deadline {
        end_unready();
        arm_exit(Time::from_nanos(deadline.addr() as u64));
    }
}

/// Ends a worker that is still booting, with status 0. Async-signal-safe.
fn end_unready() {
    if !DECIDED.load(Ordering::Acquire) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(i32::from(Exit::Clean.status())) }
    }
}

extern "C" fn on_notice(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let byte = signal as u8;
    // SAFETY: the pipe is open for the life of the process; errno is restored for the interrupted
    // code.
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

/// ABRT: sends the stacks of the loop and of threads that run handlers, then ends the process by
/// the signal. The first thread that receives ABRT sends it to all others. If anything here hangs,
/// the arbiter's SIGKILL arrives a second after the signal.
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
        // SAFETY: raise is async-signal-safe. The signal stays blocked until this handler returns,
        // and then ends the process.
        unsafe { libc::raise(libc::SIGABRT) };
    }
}

/// How long the thread that aborts waits for the others.
const ABORT_PATIENCE: Duration = Duration::from_millis(500);

/// Sends ABRT to all other threads of this process that /proc lists, and returns their number.
/// Async-signal-safe.
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
        // SAFETY: these calls take and return numbers only.
        let sent = unsafe {
            tid > 0
                && tid != libc::gettid()
                && libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGABRT) == 0
        };
        told += u32::from(sent);
    }
    told
}

/// Sends the stack of this thread to the arbiter, if it is the loop's thread or runs a handler.
/// Async-signal-safe.
fn say_where() {
    // SAFETY: these calls return numbers only.
    let on_loop = unsafe { libc::gettid() == libc::getpid() };
    let since = busy_since();
    if !on_loop && since.is_none() {
        return;
    }
    let mut frames = [0; FRAMES_MAX];
    let len = read_stack(&mut frames);
    let mut message = [0; MESSAGE_MAX];
    let message = encode_stack(on_loop, since, &frames[..len], &mut message);
    // SAFETY: send is async-signal-safe; the descriptor stays open, and the message lives through
    // the call.
    unsafe {
        libc::send(
            SOCKET.load(Ordering::Relaxed),
            message.as_ptr().cast(),
            message.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
}

/// Stores the return addresses on this thread's stack, the innermost first, and returns their
/// number. Does not allocate, and does not wait for other threads if the C library finds unwind
/// tables without a lock, as glibc does since 2.35 (`_dl_find_object`).
fn read_stack(frames: &mut [u64; FRAMES_MAX]) -> usize {
    let mut len = 0;
    // SAFETY: the unwinder of Linux may be called by several threads at a time.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            frames[len] = frame.ip().addr() as u64;
            len += 1;
            len < FRAMES_MAX
        });
    }
    len
}

/// Sets what the handler of the timer does before it ends the process. Has to be async-signal-safe.
pub(in crate::worker) fn set_last_act(act: fn()) {
    LAST_ACT.store(act as *mut libc::c_void, Ordering::Release);
}

extern "C" fn on_deadline(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let act = LAST_ACT.load(Ordering::Acquire);
    if !act.is_null() {
        // SAFETY: only `set_last_act` writes it, with a function of this type.
        unsafe { mem::transmute::<*mut libc::c_void, fn()>(act)() };
    }
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(i32::from(Exit::CutOff.status())) }
}
