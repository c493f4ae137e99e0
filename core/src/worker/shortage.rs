//! Which limit may be the reason when the system refuses a thread or process.

#![allow(clippy::disallowed_methods, reason = "the kernel tells in files what a process has and may have")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, getuid};

/// Starts a thread and waits for its end. Called before runtimes that start a thread themselves and
/// panic if they cannot.
///
/// # Errors
///
/// As pthread_create(3): `EAGAIN` at the limit of threads.
pub fn probe_thread() -> io::Result<()> {
    probe_threads(1)
}

/// The same with `count` threads that exist at the same time.
pub(super) fn probe_threads(count: usize) -> io::Result<()> {
    let before = tasks()?;
    let gate = RwLock::new(());
    let started = thread::scope(|scope| {
        // Each thread ends when this lock is released, on every path out of the scope.
        let _shut = gate.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            let wait = || drop(gate.read());
            thread::Builder::new().name("probe".to_owned()).spawn_scoped(scope, wait)?;
        }
        Ok(())
    });
    // The kernel counts a thread until it has released it, a moment after the join.
    for _ in 0..RELEASED_WITHIN {
        if tasks()? <= before {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    started
}

/// For how many milliseconds the release of ended threads is waited for.
const RELEASED_WITHIN: u32 = 100;

/// How many threads this process has (proc(5), /proc/pid/task).
fn tasks() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// Whether `error` is the one that pthread_create(3) and fork(2) return at a limit of threads or
/// processes.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AGAIN.raw_os_error())
}

/// The limits of threads and processes that apply to this process, to append to an error message,
/// as in `; no more threads or processes: user 1000 may have 64 (ulimit -u, RLIMIT_NPROC)`.
pub fn limits_of_tasks() -> String {
    let user = getrlimit(Resource::Nproc).current;
    let user =
        user.map(|most| format!("user {} may have {most} (ulimit -u, RLIMIT_NPROC)", getuid().as_raw()));
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|groups| pids_max(&groups));
    let group = group.map(|most| format!("its control group {most} (pids.max, TasksMax=)"));
    let limits: Vec<_> = user.into_iter().chain(group).collect();
    match limits.is_empty() {
        true => "; no more threads or processes (kernel.threads-max, kernel.pid_max)".to_owned(),
        false => format!("; no more threads or processes: {}", limits.join(", ")),
    }
}

/// The lowest `pids.max` of the control group that `groups` names and of its ancestors (cgroups(7),
/// version 2).
fn pids_max(groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = PathBuf::from("/sys/fs/cgroup").join(own);
    let around = own.ancestors().take_while(|path| path.starts_with("/sys/fs/cgroup"));
    let limit = |path: &Path| fs::read_to_string(path.join("pids.max")).ok()?.trim().parse().ok();
    around.filter_map(limit).min()
}
