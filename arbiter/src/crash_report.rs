//! What is to be said of a worker that ends without having been asked to, besides what it was serving: how much memory it had,
//! whether the kernel ended it for want of that, and where its threads stood, if it hung or aborted.
//!
//! A worker sends its stacks as addresses. They mean the same in the arbiter, of which it is a fork; what is there is called
//! as the debug information of the executable says, which takes long to read. A process of its own does that
//! ([`Stacks::write`]), so that the arbiter neither waits nor grows.

use std::ffi::c_void;
use std::fmt;
use std::fs;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use remuda_core::app::Busy;
use remuda_core::order::Stack;
use remuda_core::worker::sys::now;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use tracing::error;

use crate::plan::Death;
use crate::run::timespec;
use crate::status::resident;

/// What is known of those that end.
#[derive(Debug)]
pub(crate) struct Obituaries {
    /// Of workers that are about to end.
    stacks: Vec<(Pid, Stack)>,
    /// The last one that has.
    last: Option<Remains>,
    /// How many processes the kernel has killed for want of memory, as far as it says.
    oom_kills: Option<u64>,
    /// What is still to be written.
    unwritten: Vec<Stacks>,
    /// The process that writes: one at a time, so that workers that crash one after the other leave the machine to others.
    scribe: Option<Pid>,
}

/// How much memory a worker has, or had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Memory {
    /// Resident now, in bytes; none of one that is dead.
    pub(crate) now: Option<u64>,
    /// The most that was resident at a time, in bytes; none of one that lives.
    pub(crate) peak: Option<u64>,
    /// The kernel has killed a process of its control group for want of memory when it ended.
    pub(crate) wanting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Remains {
    pid: Pid,
    death: Death,
    memory: Memory,
}

/// Workers of which is kept where they stood, until it can be written.
const UNWRITTEN: usize = 64;

/// How long the end of the server waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(1);

impl Obituaries {
    pub(crate) fn new() -> Self {
        Self { stacks: Vec::new(), last: None, oom_kills: oom_kills(), unwritten: Vec::new(), scribe: None }
    }

    /// A worker says where one of its threads stands.
    pub(crate) fn hear(&mut self, pid: Pid, stack: Stack) {
        self.stacks.push((pid, stack));
    }

    /// A child was reaped, which had so many bytes of memory resident at most.
    pub(crate) fn died(&mut self, pid: Pid, death: Death, peak: u64) {
        self.scribe = self.scribe.filter(|scribe| *scribe != pid);
        let mut wanting = false;
        if death == Death::Signal(Signal::KILL.as_raw()) {
            let before = std::mem::replace(&mut self.oom_kills, oom_kills());
            wanting = before.is_some_and(|before| self.oom_kills > Some(before));
        }
        self.last = Some(Remains { pid, death, memory: Memory { now: None, peak: Some(peak), wanting } });
    }

    /// What a worker that has ended has said of where it stood.
    pub(crate) fn take_stacks(&mut self, pid: Pid) -> Vec<Stack> {
        self.stacks.extract_if(.., |(of, _)| *of == pid).map(|(_, stack)| stack).collect()
    }

    /// Keeps what is to be written; false if there is too much of it already.
    pub(crate) fn keep(&mut self, stacks: Stacks) -> bool {
        let has_room = self.unwritten.len() < UNWRITTEN;
        self.unwritten.extend(Some(stacks).filter(|_| has_room));
        has_room
    }

    /// What a process is to write now; nothing while one does.
    pub(crate) fn take_unwritten(&mut self) -> Vec<Stacks> {
        if self.scribe.is_some() { Vec::new() } else { std::mem::take(&mut self.unwritten) }
    }

    /// A process writes.
    pub(crate) fn written_by(&mut self, pid: Pid) {
        self.scribe = Some(pid);
    }

    /// How much memory a worker has or, if it is the last one that was reaped, had.
    pub(crate) fn memory(&self, pid: Pid) -> Memory {
        match self.of(pid) {
            Some(remains) => remains.memory,
            None => Memory { now: resident(pid.as_raw_nonzero().get()), ..Memory::default() },
        }
    }

    /// Whether a worker that was serving nothing has ended as none does by itself.
    pub(crate) fn is_strange(&self, pid: Pid) -> bool {
        !matches!(self.of(pid), Some(Remains { death: Death::Status(0 | 3 | 4 | 6), .. }))
    }

    /// Waits a moment for what is still to be written.
    pub(crate) fn end(self) {
        let until = now() + PATIENCE;
        if let Some(pid) = self.scribe {
            if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timespec(until, now())));
            }
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }

    fn of(&self, pid: Pid) -> Option<&Remains> {
        self.last.as_ref().filter(|remains| remains.pid == pid)
    }
}

/// As in `, with 12.5 MiB of memory`; nothing where nothing is known.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if let Some(now) = self.now {
            write!(f, ", with {:.1} MiB of memory", mebibytes(now))?;
        }
        if let Some(peak) = self.peak {
            write!(f, ", with {:.1} MiB of memory at most", mebibytes(peak))?;
        }
        match self.wanting {
            true => f.write_str("; the kernel has killed a process of its control group for want of memory"),
            false => Ok(()),
        }
    }
}

/// Where the threads of a worker stood, and what it was serving then.
#[derive(Debug)]
pub(crate) struct Stacks {
    pub(crate) slot: u16,
    pub(crate) pid: Pid,
    pub(crate) stacks: Vec<Stack>,
    pub(crate) busy: Vec<Busy>,
}

impl Stacks {
    /// Tells people, a line for each thread. It may take a second, and much memory.
    pub(crate) fn write(self) {
        let Self { slot, pid, stacks, busy } = self;
        for Stack { on_loop, since, frames } in stacks {
            let request = busy.iter().find(|busy| Some(busy.since) == since);
            let request = request.and_then(|busy| busy.request.as_deref());
            let stack = readable(frames.into_iter().map(names).collect()).join(" < ");
            let place = if on_loop { "its loop" } else { "a thread" };
            error!(slot, %pid, request, stack, "worker stood on {place}");
        }
    }
}

/// Names in a line of the log.
const NAMES: usize = 48;

/// The handler of ABRT, which is called by what the kernel puts behind it on the stack, and that by what was interrupted.
const HANDLER: &str = "worker::sys::on_abort";

/// What a thread and a worker begin with.
const BEGIN: [&str; 2] = ["__rust_begin_short_backtrace", "::become_worker"];

/// Leaves out how the stack came to be known, and how its thread came to be.
fn readable(frames: Vec<Vec<String>>) -> Vec<String> {
    let at = |what: &str| frames.iter().position(|names| names.iter().any(|name| name.contains(what)));
    let begin = at(HANDLER).map_or(0, |handler| handler + 2);
    let end = BEGIN.into_iter().filter_map(at).min().unwrap_or(frames.len());
    frames.into_iter().take(end).skip(begin).flatten().take(NAMES).collect()
}

/// What is at an address: a function, behind those that were made a part of it there; the address where nothing is known.
fn names(address: u64) -> Vec<String> {
    let mut names = Vec::new();
    let code: *mut c_void = ptr::without_provenance_mut(address as usize);
    backtrace::resolve(code, |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol.filename().and_then(Path::file_name);
        names.push(match (file, symbol.lineno()) {
            (Some(file), Some(line)) => format!("{name:#} ({}:{line})", file.display()),
            _ => format!("{name:#}"),
        });
    });
    if names.is_empty() {
        names.push(format!("{address:#x}"));
    }
    names
}

/// How many processes of this one's control group the kernel has killed for want of memory (cgroups(7)); none where it does
/// not say.
fn oom_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    events(&groups).iter().find_map(|path| kills(&fs::read_to_string(path).ok()?))
}

/// Where that may be found: as the kernel names the group and, in a container that sees its own alone, at the top.
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

/// The number behind `oom_kill`.
fn kills(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
#[path = "crash_report/tests.rs"]
mod tests;
