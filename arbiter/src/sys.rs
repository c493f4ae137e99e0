//! Fork, the arbiter's signals, its environment and title, descriptors that others opened: what needs care.
//!
//! The only file of this crate with `unsafe` in it. What makes fork(2) harmless here is that the arbiter has
//! one thread: the child is a complete copy, in which no lock is held by a thread that does not exist, so it
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
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, fork as fork_process};
use remuda_core::time::Time;
use remuda_core::worker::sys::LEAVE_BY;
use rustix::process::{Pid, getpid, getppid, set_parent_process_death_signal};
use thiserror::Error;

/// Which process this is, after a fork.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The arbiter.
    Parent { child: Pid },
    /// The child of `parent`.
    Child { parent: Pid },
}

/// Why there is no child.
#[derive(Debug, Error)]
pub(crate) enum ForkError {
    /// It would not be a complete copy.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// The kernel refused.
    #[error("cannot fork: {0}")]
    System(#[source] io::Error),
}

/// The process has threads that a child would lack, with whatever locks they hold.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("cannot fork a process with {} threads ({}); {}", threads.len(), threads.join(", "), advice(.culprit))]
pub struct ThreadsError {
    threads: Vec<String>,
    /// Who has started them, if that is known.
    culprit: Option<&'static str>,
}

impl ThreadsError {
    /// The same where the threads were not there before `culprit`.
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

/// Whether this process has one thread, by /proc/self/task (proc(5)). Where /proc is not mounted nobody can
/// tell, and the answer is yes.
///
/// # Errors
///
/// It has more; the error names them.
pub(crate) fn only_thread() -> Result<(), ThreadsError> {
    // One that has been joined is there for a moment still, and nothing tells when it is gone.
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

/// In a child: asks the kernel for `signal` when `parent` dies (prctl(2), `PR_SET_PDEATHSIG`). False if it already
/// has: then the signal will not come.
pub(crate) fn follow(parent: Pid, signal: rustix::process::Signal) -> io::Result<bool> {
    set_parent_process_death_signal(Some(signal))?;
    Ok(getppid() == Some(parent))
}

/// Ends a child without running what the parent registered for its own exit (_exit(2)). What the child printed
/// and Rust buffers is written; the parent's buffer was flushed before the fork, so nothing is written twice.
pub(crate) fn exit(status: u8) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status.into()) }
}

/// All signals that concern an arbiter, on a descriptor (signalfd(2)) instead of in handlers.
///
/// Blocked before the first fork and inherited by children, so that none is delivered to a child before it has
/// handlers of its own.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    mask_before: SigSet,
    child_before: SigAction,
}

/// Left alone: faults of this very program must end it, and job control belongs to the shell.
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
    /// Blocks them and opens the descriptor. Where SIGCHLD was ignored on entry it no longer is: the kernel would
    /// reap children by itself and nobody would learn how they ended.
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

    /// The number of a signal that has arrived.
    pub(crate) fn next(&self) -> Option<i32> {
        let info = self.fd.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok()
    }

    /// In the arbiter, at its end: everything as it was found. Signals that came too late to matter are
    /// swallowed, or an impatient second Ctrl-C would turn a clean exit into a death by signal.
    pub(crate) fn restore(self) {
        while self.next().is_some() {}
        self.hand_back();
    }

    /// In a child that is to become another program: everything as it was found.
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

/// Collects a child that has ended, if there is one: which it was, how it ended, and how many bytes of memory it had resident
/// at most (wait4(2)).
///
/// # Errors
///
/// There is no child (`ECHILD`), or a signal came first (`EINTR`).
pub(crate) fn reap() -> nix::Result<Option<(Pid, ExitStatus, u64)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes into both, which live through the call.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    // SAFETY: it is plain integers, of which zeros are valid ones.
    let peak = unsafe { usage.assume_init() }.ru_maxrss;
    let child = Pid::from_raw(Errno::result(pid)?);
    let peak = u64::try_from(peak).unwrap_or_default() * 1024;
    Ok(child.map(|pid| (pid, ExitStatus::from_raw(status), peak)))
}

/// Tells worker `pid` by when it is to have drained, so that its timer is armed even if it reads no order (D10). A deadline
/// that an address has no room for, as it may where that has 32 bits, is not told.
pub(crate) fn tell_deadline(pid: Pid, deadline: Time) {
    let Ok(deadline) = usize::try_from(deadline.as_nanos()) else { return };
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(deadline) };
    // SAFETY: the value is a number, which nobody takes for an address. Who has gone is not told.
    unsafe { libc::sigqueue(pid.as_raw_nonzero().get(), LEAVE_BY, value) };
}

/// Adds `variables` to the environment of this process, which children inherit, in place of those that have such a name.
pub(crate) fn set_variables(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
        unsafe { env::set_var(name, value) };
    }
}

/// Takes variables out of the environment of this process.
pub(crate) fn remove_variables(names: &[&str]) {
    for name in names {
        // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
}

/// What ps(1) shows of this process: the memory in which its arguments came, followed by that of its environment.
#[derive(Debug)]
pub(crate) struct Title {
    memory: &'static mut [u8],
    /// How much of it the arguments had.
    arguments: usize,
}

impl Title {
    /// Makes that memory free to be written: arguments and variables are moved elsewhere, where the program finds them as
    /// before. None where the kernel does not say where it is (proc(5), /proc/self/stat).
    pub(crate) fn claim() -> Option<Self> {
        let stat = fs::read("/proc/self/stat").ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // The second field is a name in parentheses, in which anything may be.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok().filter(|at| *at != 0);
        let (stack, start, end) = (field(28)?, field(48)?, field(49)?);
        let end_of_all = field(51).filter(|last| field(50) == Some(end) && *last > end).unwrap_or(end);
        let arguments = end.checked_sub(start).filter(|len| *len > 0)?;

        let words = stack as *mut usize;
        // SAFETY: the kernel put the number of arguments here, and behind it their addresses, when it started the program
        // (execve(2), the ABI's initial process stack). They stay there for as long as the process lives.
        let count = unsafe { words.read() };
        if count != env::args_os().len() {
            return None; // not what was expected, so nothing here is to be relied upon
        }
        for (index, argument) in env::args_os().enumerate() {
            // SAFETY: the address of an argument, of which there are `count`. Nothing reads it but this one thread.
            let address = unsafe { &mut *words.add(1 + index) };
            if (start..end).contains(address) {
                *address = CString::new(argument.into_vec()).ok()?.into_raw() as usize;
            }
        }
        // What has no name that could be set is lost, if the title is long.
        for (name, value) in env::vars_os().filter(|(name, _)| !name.as_bytes().contains(&b'=')) {
            // SAFETY: the process has one thread. The C library puts what it is given into memory of its own.
            unsafe { env::set_var(name, value) };
        }
        // SAFETY: by what the kernel says the strings of arguments and environment are here, on the stack below main, which
        // is readable and writable for as long as the process lives. Since they were moved nothing refers to them.
        let memory = unsafe { slice::from_raw_parts_mut(start as *mut u8, end_of_all - start) };
        Some(Self { memory, arguments })
    }

    /// Shows `title`, or as much of it as there is room for. While the place of the arguments ends with a zero it is the
    /// command line; otherwise that goes on into the place of the environment (proc(5), /proc/pid/cmdline).
    pub(crate) fn set(&mut self, title: &str) {
        let room = if title.len() < self.arguments { self.arguments } else { self.memory.len() };
        let len = title.len().min(room - 1);
        self.memory[..len].copy_from_slice(&title.as_bytes()[..len]);
        self.memory[len..room].fill(0);
    }
}

/// Descriptor `fd`, which came with the process.
///
/// # Errors
///
/// Nothing is open there (`EBADF`).
pub(crate) fn inherited(fd: i32) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: F_GETFD only looks the number up, whatever it is.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (above), hence not -1. Nothing of this process opened it or knows it, so nothing closes it but who
    // takes it over by `adopt`, at a time when the process has one thread.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes over descriptor `fd`, which came with the process, if `check` agrees. It is left alone otherwise.
///
/// # Errors
///
/// Nothing is open there (`EBADF`), or what `check` says.
pub(crate) fn adopt<E: From<io::Error>>(
    fd: i32,
    check: impl FnOnce(BorrowedFd<'_>) -> Result<(), E>,
) -> Result<OwnedFd, E> {
    check(inherited(fd)?)?;
    // SAFETY: it is open, and by naming it in the settings the operator gives it to the server; nothing else of
    // this process opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a listening TCP socket deaf to new connects, while handshakes under way complete: a classic BPF program
/// (socket(7), `SO_ATTACH_FILTER`) that drops segments with SYN and without ACK. It sees each segment from its TCP header
/// on, over IPv4 and IPv6 alike. Accepted connections inherit it, and are sent no such segments.
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
    // SAFETY: the kernel reads `filter` and the program that it points to during the call; both are locals, and their
    // lengths are given with them.
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

/// How many connections wait in the queue of a listening TCP socket (tcp(7), `TCP_INFO`: of a listener, `tcpi_unacked` is
/// that). None of any other socket.
pub(crate) fn queued(listener: impl AsFd) -> Option<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, and how many into `len`; both live through the call.
    let result = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    // SAFETY: it is plain integers, of which zeros are valid ones; the kernel has written over some.
    (result == 0).then(|| unsafe { info.assume_init() }.tcpi_unacked)
}

#[cfg(test)]
mod tests;
