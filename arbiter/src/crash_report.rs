//! Reports about a worker that ends without having been told to, logged besides the requests that
//! it was serving: its memory, whether the kernel killed it for lack of memory, and stack traces of
//! its threads if it hung or aborted.
//!
//! A worker sends its stacks as addresses. They are valid in the arbiter as well, because the
//! worker is its fork. The [`symbolizer`](crate::symbolizer), a process of its own, resolves the
//! names.

use std::fs;
use std::time::Duration;

use remuda_core::order::Stack;
use remuda_core::worker::sys::now;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::plan::words::{Death, Memory};
use crate::symbolizer::Stacks;
use crate::sys::{resident, timespec};

/// Data about workers that are ending, or have just ended.
#[derive(Debug)]
pub(crate) struct CrashReports {
    /// Stacks reported by workers that are ending.
    stacks: Vec<(Pid, Stack)>,
    /// The last child that was reaped.
    last: Option<LastExit>,
    /// The number of processes of this control group that the kernel has killed for lack of memory.
    /// None if it cannot be read.
    oom_kills: Option<u64>,
    /// Stack traces that wait for the symbolizer.
    unwritten: Vec<Stacks>,
    /// The running symbolizer process. There is one at a time, so that a series of crashes does not
    /// take the processors from serving workers.
    symbolizer: Option<Pid>,
}

#[derive(Clone, Copy, Debug)]
struct LastExit {
    pid: Pid,
    death: Death,
    memory: Memory,
}

/// How many workers' stack traces are held until the symbolizer process can write them. Beyond that
/// they are dropped, with a warning.
const UNWRITTEN: usize = 64;

/// How long the end of the server waits for the symbolizer.
const PATIENCE: Duration = Duration::from_secs(1);

impl CrashReports {
    pub(crate) fn new() -> Self {
        Self {
            stacks: Vec::new(),
            last: None,
            oom_kills: oom_kills(),
            unwritten: Vec::new(),
            symbolizer: None,
        }
    }

    /// Stores the stack of a thread that a worker has reported.
    pub(crate) fn hear(&mut self, pid: Pid, stack: Stack) {
        self.stacks.push((pid, stack));
    }

    /// Records a reaped child. `peak` is its largest resident memory in bytes.
    pub(crate) fn died(&mut self, pid: Pid, death: Death, peak: u64) {
        self.symbolizer = self.symbolizer.filter(|symbolizer| *symbolizer != pid);
        let mut wanting = false;
        if death == Death::Signal(Signal::KILL.as_raw()) {
            let before = std::mem::replace(&mut self.oom_kills, oom_kills());
            wanting = before.is_some_and(|before| self.oom_kills > Some(before));
        }
        self.last = Some(LastExit { pid, death, memory: Memory { now: None, peak: Some(peak), wanting } });
    }

    /// Takes the stacks that a worker has reported.
    pub(crate) fn take_stacks(&mut self, pid: Pid) -> Vec<Stack> {
        self.stacks.extract_if(.., |(of, _)| *of == pid).map(|(_, stack)| stack).collect()
    }

    /// Holds `stacks` for the symbolizer. Returns false, and drops them, if [`UNWRITTEN`] are held
    /// already.
    pub(crate) fn keep(&mut self, stacks: Stacks) -> bool {
        let has_room = self.unwritten.len() < UNWRITTEN;
        self.unwritten.extend(Some(stacks).filter(|_| has_room));
        has_room
    }

    /// Takes the stack traces for a new symbolizer. Empty while one is running.
    pub(crate) fn take_unwritten(&mut self) -> Vec<Stacks> {
        if self.symbolizer.is_some() { Vec::new() } else { std::mem::take(&mut self.unwritten) }
    }

    /// Records the symbolizer that was forked.
    pub(crate) fn written_by(&mut self, pid: Pid) {
        self.symbolizer = Some(pid);
    }

    /// The memory of a worker: its peak if it is the child reaped last, else its current resident
    /// memory.
    pub(crate) fn memory(&self, pid: Pid) -> Memory {
        match self.of(pid) {
            Some(remains) => remains.memory,
            None => Memory { now: resident(pid.as_raw_nonzero().get()), ..Memory::default() },
        }
    }

    /// Whether the end of an idle worker is unexpected: by a signal, or with a status that no
    /// worker exits with.
    pub(crate) fn is_strange(&self, pid: Pid) -> bool {
        !matches!(self.of(pid), Some(LastExit { death: Death::Status(0 | 3 | 4 | 6), .. }))
    }

    /// Waits for the symbolizer, at most for [`PATIENCE`], then kills it.
    pub(crate) fn end(&mut self) {
        let until = now() + PATIENCE;
        if let Some(pid) = self.symbolizer.take() {
            if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timespec(until, now())));
            }
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }

    fn of(&self, pid: Pid) -> Option<&LastExit> {
        self.last.as_ref().filter(|remains| remains.pid == pid)
    }
}

/// Reads how many processes of this control group the kernel has killed for lack of memory
/// (cgroups(7)). None if the kernel does not report it.
fn oom_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    events(&groups).iter().find_map(|path| kills(&fs::read_to_string(path).ok()?))
}

/// The files with that number: in the group as the kernel names it, and at the top, for a container
/// that sees only its own group.
fn events(groups: &str) -> Vec<String> {
    let files = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (top, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.oom_control"),
            _ => return None,
        };
        Some([format!("{top}{}/{file}", group.trim_end_matches('/')), format!("{top}/{file}")])
    });
    files.flatten().collect()
}

/// Parses the number after `oom_kill`.
fn kills(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests;
