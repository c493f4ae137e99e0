//! Fork, signals, environment, process title and inherited descriptors.
//!
//! The only file of this crate with `unsafe`. fork(2) is harmless here because the arbiter has one
//! thread: the child is a complete copy, in which no lock is held by a missing thread. The child
//! may allocate, log and run a backend without an exec.
#![allow(unsafe_code)]

use std::env;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{self, ForkResult, fork as fork_process, setresuid};
use remuda_core::time::Time;
use remuda_core::worker::limits_of_tasks;
use remuda_core::worker::sys::LEAVE_BY;
use rustix::event::Timespec;
use rustix::process::{Pid, Uid, getpid, getppid, set_parent_process_death_signal};
use thiserror::Error;

/// Which process this is, after a fork.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The arbiter.
    Parent { child: Pid },
    /// The child of `parent`.
    Child { parent: Pid },
}

/// Why a fork failed.
#[derive(Debug, Error)]
pub(crate) enum ForkError {
    /// The process has several threads, so the child would not be a complete copy.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// The kernel refused.
    #[error("cannot fork: {source}{limits}", source = .0, limits = limits(.0))]
    System(#[source] io::Error),
}

/// The process has further threads, which a child would lack, including the locks that they hold.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("cannot fork a process with {} threads ({}); {}", threads.len(), threads.join(", "), advice(.culprit))]
pub struct ThreadsError {
    threads: Vec<String>,
    /// The code that started them, if known.
    culprit: Option<&'static str>,
}

impl ThreadsError {
    /// Names `culprit` as the code that started the threads.
    pub(crate) fn because_of(self, culprit: &'static str) -> Self {
        Self { culprit: Some(culprit), ..self }
    }
}

fn advice(culprit: &Option<&'static str>) -> String {
    match culprit {
        Some(culprit) => format!("{culprit} has started them: threads and runtimes belong in the workers"),
        None => {
            "call `remuda::run` from a plain `main`, before anything starts a thread or a runtime, and start \
                 none in a hook"
                .to_owned()
        }
    }
}

/// The limits of processes, if one of them caused `error`.
fn limits(error: &io::Error) -> String {
    let is_shortage = error.raw_os_error() == Some(libc::EAGAIN);
    if is_shortage { limits_of_tasks() } else { String::new() }
}

/// Forks, if this process has one thread.
pub(crate) fn fork() -> Result<Fork, ForkError> {
    only_thread()?;
    let parent = getpid();
    // SAFETY: this is the only thread, so the child may do all that this process may.
    match unsafe { fork_process() } {
        Ok(ForkResult::Child) => Ok(Fork::Child { parent }),
        Ok(ForkResult::Parent { child }) => {
            Ok(Fork::Parent { child: Pid::from_raw(child.as_raw()).expect("a child has a pid above zero") })
        }
        Err(errno) => Err(ForkError::System(errno.into())),
    }
}

/// Checks that this process has one thread, by /proc/self/task (proc(5)). Succeeds if /proc is not
/// mounted.
///
/// # Errors
///
/// The process has more threads; the error names them.
pub(crate) fn only_thread() -> Result<(), ThreadsError> {
    // A joined thread remains in the list for a moment, and no event tells when it is gone.
    for _ in 0..20 {
        if threads().len() <= 1 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    match threads() {
        threads if threads.len() > 1 => Err(ThreadsError { threads, culprit: None }),
        _ => Ok(()),
    }
}

fn threads() -> Vec<String> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let name = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        format!("{} {}", name.trim_end(), task.file_name().display())
    };
    tasks.flatten().map(name).collect()
}

/// Requests `signal` at the death of `parent` (prctl(2), `PR_SET_PDEATHSIG`). Called in a child.
/// Returns false if the parent has already died: the signal will not come.
pub(crate) fn follow(parent: Pid, signal: rustix::process::Signal) -> io::Result<bool> {
    set_parent_process_death_signal(Some(signal))?;
    Ok(getppid() == Some(parent))
}

/// Ends a child without the parent's exit handlers (_exit(2)). The child's output buffered by Rust
/// is written; the parent's buffer was flushed before the fork, so nothing is written twice.
pub(crate) fn exit(status: u8) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status.into()) }
}

/// The signals of an arbiter, on a descriptor (signalfd(2)) instead of in handlers.
///
/// They are blocked before the first fork, and children inherit that, so that no signal reaches a
/// child before it has its own handlers.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    mask_before: SigSet,
    child_before: SigAction,
}

/// Signals that operators send, and whose default action ends or stops a process.
const OPERATORS: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The exit status for a signal that arrives after the end of the server.
static STATUS: AtomicU8 = AtomicU8::new(0);

extern "C" fn on_late_signal(_: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(STATUS.load(Ordering::Relaxed).into()) }
}

/// Signals that are not blocked: faults must end the program, and job control belongs to the shell.
const NOT_BLOCKED: [Signal; 10] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGABRT,
    Signal::SIGSTOP,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

impl Signals {
    /// Blocks the signals and opens the descriptor. SIGCHLD gets its default action: if it were
    /// ignored, the kernel would reap children and discard how they ended.
    pub(crate) fn block() -> io::Result<Self> {
        let mut mask = SigSet::all();
        NOT_BLOCKED.into_iter().for_each(|signal| mask.remove(signal));
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mask_before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code of this process.
        let child_before = unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        Ok(Self { fd, mask_before, child_before })
    }

    /// Returns the number of a signal that has arrived. TTIN and TTOU from the terminal are
    /// dropped: they mean that a background worker has read or written there, not that an operator
    /// changes the number of workers.
    pub(crate) fn next(&self) -> Option<i32> {
        loop {
            let info = self.fd.read_signal().ok().flatten()?;
            let signal = i32::try_from(info.ssi_signo).ok()?;
            let is_terminal = info.ssi_code == libc::SI_KERNEL;
            if !(is_terminal && matches!(signal, libc::SIGTTIN | libc::SIGTTOU)) {
                return Some(signal);
            }
        }
    }

    /// Restores the mask and SIGCHLD, at the end of the arbiter. Pending signals are discarded, or
    /// a second Ctrl-C would turn a clean exit into a death by signal. A signal that arrives later,
    /// before the program has returned from its main function, ends the process with `status`.
    pub(crate) fn restore(self, status: u8) {
        while self.next().is_some() {}
        STATUS.store(status, Ordering::Relaxed);
        let handler = SigHandler::Handler(on_late_signal);
        let late = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        for signal in OPERATORS {
            // SAFETY: the handler is async-signal-safe.
            let before = unsafe { sigaction(signal, &late) };
            if let Ok(before) = before
                && !matches!(before.handler(), SigHandler::SigDfl)
            {
                // SAFETY: this action was in force before, and whatever handler it names is still
                // there.
                let _ = unsafe { sigaction(signal, &before) };
            }
        }
        self.hand_back();
    }

    /// Restores everything, in a child that executes another program.
    pub(crate) fn hand_back(&self) {
        // SAFETY: this action was in force before, and whatever handler it names is still there.
        let _ = unsafe { sigaction(Signal::SIGCHLD, &self.child_before) };
        let _ = self.mask_before.thread_set_mask();
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reaps an ended child, if there is one (wait4(2)). Returns its pid, its status and its largest
/// resident memory in bytes.
///
/// # Errors
///
/// There is no child (`ECHILD`), or a signal arrived first (`EINTR`).
pub(crate) fn reap() -> nix::Result<Option<(Pid, ExitStatus, u64)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes into both, which live through the call.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    // SAFETY: plain integers, for which zeros are valid.
    let peak = unsafe { usage.assume_init() }.ru_maxrss;
    let child = Pid::from_raw(Errno::result(pid)?);
    let peak = u64::try_from(peak).unwrap_or_default() * 1024;
    Ok(child.map(|pid| (pid, ExitStatus::from_raw(status), peak)))
}

/// The peer of a unix socket at the time of its connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    /// 0 if the peer is in a pid namespace that this process cannot see.
    pub(crate) pid: i32,
    pub(crate) uid: Uid,
}

/// Returns the peer of a unix socket (unix(7), `SO_PEERCRED`). The call of rustix has a pid that
/// cannot be 0, and takes this success for an error.
///
/// # Errors
///
/// As getsockopt(2).
pub(crate) fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes into `credentials`, which have that size and
    // are plain integers.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut credentials).cast(), &raw mut len)
    };
    Errno::result(result)?;
    if len as usize != size_of::<libc::ucred>() {
        return Err(io::Error::other("the kernel has told less than there is to tell"));
    }
    Ok(Peer { pid: credentials.pid, uid: Uid::from_raw(credentials.uid) })
}

/// Signals the drain's deadline to worker `pid`, so that its timer is armed even if it reads no
/// order (D10). A deadline that does not fit into a pointer, as with 32 bits, is not sent.
///
/// # Errors
///
/// As sigqueue(3).
pub(crate) fn tell_deadline(pid: Pid, deadline: Time) -> io::Result<()> {
    let Ok(deadline) = usize::try_from(deadline.as_nanos()) else { return Ok(()) };
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(deadline) };
    // SAFETY: the value is a number, and no code uses it as an address.
    match unsafe { libc::sigqueue(pid.as_raw_nonzero().get(), LEAVE_BY, value) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Calls `act`, which signals a process of `user`. If this process lacks the privilege (kill(2),
/// `CAP_KILL`), as root does in some containers, a child changes to that user and calls it. The
/// child is not waited for (D21): it is reaped like any other. None: the user is that of this
/// process. `failed` is called with the error, in the process that has it.
pub(crate) fn signal_as(
    user: Option<unistd::Uid>,
    act: impl Fn() -> io::Result<()>,
    failed: impl Fn(io::Error),
) {
    let (error, user) = match (act(), user) {
        (Ok(()), _) => return,
        (Err(error), Some(user)) if error.kind() == io::ErrorKind::PermissionDenied => (error, user),
        (Err(error), _) => return failed(error),
    };
    match fork() {
        Ok(Fork::Child { .. }) => {
            match setresuid(user, user, user).map_err(io::Error::from).and_then(|()| act()) {
                Ok(()) => exit(0),
                // It has ended and was reaped meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => exit(0),
                Err(error) => failed(error),
            }
            exit(1)
        }
        Ok(Fork::Parent { .. }) => {}
        Err(_) => failed(error),
    }
}

/// Sets `variables` in the environment of this process, which children inherit.
pub(crate) fn set_variables(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: the process has one thread, so no other thread reads the environment meanwhile.
        unsafe { env::set_var(name, value) };
    }
}

/// Removes variables from the environment of this process.
pub(crate) fn remove_variables(names: &[&str]) {
    for name in names {
        // SAFETY: the process has one thread, so no other thread reads the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
}

/// The title of this process in ps(1): the memory of its arguments, followed by that of its
/// environment.
#[derive(Debug)]
pub(crate) struct Title {
    memory: &'static mut [u8],
    /// The size of the arguments.
    arguments: usize,
}

impl Title {
    /// Makes the memory writable: arguments and variables are moved elsewhere, and the program
    /// finds them as before. None if the kernel does not report the memory's place (proc(5),
    /// /proc/self/stat).
    pub(crate) fn claim() -> Option<Self> {
        let stat = fs::read("/proc/self/stat").ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // The second field is a name in parentheses, with any characters.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok().filter(|at| *at != 0);
        let (stack, start, end) = (field(28)?, field(48)?, field(49)?);
        let end_of_all = field(51).filter(|last| field(50) == Some(end) && *last > end).unwrap_or(end);
        let arguments = end.checked_sub(start).filter(|len| *len > 0)?;

        let words = stack as *mut usize;
        // SAFETY: the kernel put the number of arguments here, and behind it their addresses, when
        // it started the program (execve(2), the ABI's initial process stack). They stay there for
        // as long as the process lives.
        let count = unsafe { words.read() };
        if count != env::args_os().len() {
            return None; // an unexpected layout, on which nothing can rely
        }
        for (index, argument) in env::args_os().enumerate() {
            // SAFETY: the address of one of `count` arguments. Only this one thread reads it.
            let address = unsafe { &mut *words.add(1 + index) };
            if (start..end).contains(address) {
                *address = CString::new(argument.into_vec()).ok()?.into_raw() as usize;
            }
        }
        // A variable whose name cannot be set is lost if the title is long.
        for (name, value) in env::vars_os().filter(|(name, _)| !name.as_bytes().contains(&b'=')) {
            // SAFETY: the process has one thread. The C library copies the value into its own
            // memory.
            unsafe { env::set_var(name, value) };
        }
        // SAFETY: the kernel reports that the strings of arguments and environment are here, on the
        // stack below main, which is readable and writable for as long as the process lives. Since
        // they were moved nothing refers to them.
        let memory = unsafe { slice::from_raw_parts_mut(start as *mut u8, end_of_all - start) };
        Some(Self { memory, arguments })
    }

    /// Sets the title, cut to the available size. While the memory of the arguments ends with a
    /// zero it is the command line; otherwise the command line continues into the memory of the
    /// environment (proc(5), /proc/pid/cmdline).
    pub(crate) fn set(&mut self, title: &str) {
        let room = if title.len() < self.arguments { self.arguments } else { self.memory.len() };
        let len = title.len().min(room - 1);
        self.memory[..len].copy_from_slice(&title.as_bytes()[..len]);
        self.memory[len..room].fill(0);
    }
}

/// Borrows the inherited descriptor `fd`.
///
/// # Errors
///
/// The descriptor is not open (`EBADF`).
pub(crate) fn inherited(fd: i32) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: F_GETFD only looks the number up, whatever it is.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (above), hence not -1. No code of this process opened it or knows it, so
    // only `adopt` can close it, at a time when the process has one thread.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes ownership of the inherited descriptor `fd` if `check` succeeds.
///
/// # Errors
///
/// The descriptor is not open (`EBADF`), or the error of `check`.
pub(crate) fn adopt<E: From<io::Error>>(
    fd: i32,
    check: impl FnOnce(BorrowedFd<'_>) -> Result<(), E>,
) -> Result<OwnedFd, E> {
    check(inherited(fd)?)?;
    // SAFETY: it is open, and by naming it in the settings the operator gives it to the server;
    // nothing else of this process opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a filter to a listening TCP socket that drops new connects while open handshakes
/// complete: a classic BPF program (socket(7), `SO_ATTACH_FILTER`) that drops segments with SYN and
/// without ACK. The program sees each segment from its TCP header on, for IPv4 and IPv6. Accepted
/// connections inherit it, and receive no such segments.
pub(crate) fn drop_connects(listener: BorrowedFd<'_>) -> io::Result<()> {
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_AT),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK),
        libc::sock_filter { jf: 1, ..op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN) },
        op(libc::BPF_RET | libc::BPF_K, 0),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `filter` and the program that it points to during the call; both are
    // locals, and their lengths are given with them.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of connections in the queue of a listening TCP socket (tcp(7), `TCP_INFO`:
/// `tcpi_unacked` of a listener). None for any other socket.
pub(crate) fn queued(listener: impl AsFd) -> Option<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, and how many into `len`; both live
    // through the call.
    let result = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    // SAFETY: plain integers, for which zeros are valid; the kernel has overwritten some.
    (result == 0).then(|| unsafe { info.assume_init() }.tcpi_unacked)
}

/// The time from `now` to `at`, for poll(2).
pub(crate) fn timespec(at: Time, now: Time) -> Timespec {
    let left = at - now;
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}

/// The resident memory of a process in bytes (proc(5), `statm`). None if it cannot be read.
pub(crate) fn resident(pid: i32) -> Option<u64> {
    let pages: u64 =
        fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests;
