//! Resources of the server's processes, from proc(5): Prometheus's `process_*` metrics. In other
//! programs they are about one process; here they are about all processes of the server.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::param::{clock_ticks_per_second, page_size};

/// Resources of all processes together.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Usage {
    /// Seconds of processor time, including ended processes.
    pub(super) cpu: f64,
    /// Bytes of resident memory. Shared memory counts for each process.
    pub(super) resident: u64,
    /// Bytes of address space.
    pub(super) space: u64,
    /// Time of the arbiter's start, in seconds since the epoch.
    pub(super) started: Option<f64>,
    /// The descriptors of the process that is nearest to its limit, among those that may be
    /// examined.
    pub(super) descriptors: Option<Descriptors>,
}

/// The descriptors of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptors {
    pub(super) open: u64,
    pub(super) limit: u64,
}

/// The arbiter, and the processor time that was reported last.
#[derive(Debug)]
pub(super) struct Processes {
    arbiter: i32,
    told: AtomicU64,
}

impl Processes {
    pub(super) fn new(arbiter: i32) -> Self {
        Self { arbiter, told: AtomicU64::new(0) }
    }

    /// Reads the resources. `children` are the living children of the arbiter. None if the
    /// arbiter's cannot be read.
    pub(super) fn usage(&self, children: impl Iterator<Item = i32>) -> Option<Usage> {
        // The arbiter is read first: a child that is reaped meanwhile is then missing, which is
        // corrected below, rather than counted twice.
        let arbiter = Stat::of(self.arbiter)?;
        let mut usage = Usage { started: arbiter.started(), ..Usage::default() };
        let (mut ticks, mut descriptors) = (0, Vec::new());
        let children: Vec<_> = children.collect();
        let stats = children.iter().filter_map(|pid| Stat::of(*pid));
        for stat in [arbiter].into_iter().chain(stats) {
            ticks += stat.ticks;
            usage.space += stat.space;
            usage.resident += stat.resident;
        }
        descriptors.extend([self.arbiter].iter().chain(&children).filter_map(|pid| Descriptors::of(*pid)));
        usage.descriptors = descriptors.into_iter().max_by(|a, b| a.share().total_cmp(&b.share()));
        // A counter that falls would be read as a restart.
        ticks = ticks.max(self.told.fetch_max(ticks, Ordering::Relaxed));
        usage.cpu = ticks as f64 / clock_ticks_per_second() as f64;
        Some(usage)
    }
}

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    /// Processor time of the process and of its reaped children.
    ticks: u64,
    /// Ticks since the start of the machine.
    start: u64,
    space: u64,
    resident: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn read(line: &str) -> Option<Self> {
        // The name is in parentheses and may contain any character. The field after it is the
        // third.
        let (_, behind) = line.rsplit_once(')')?;
        let fields: Vec<_> = behind.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: [14, 15, 16, 17].into_iter().try_fold(0, |sum, number| Some(sum + field(number)?))?,
            start: field(22)?,
            space: field(23)?,
            resident: field(24)? * page_size() as u64,
        })
    }

    fn started(self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(boot + self.start as f64 / clock_ticks_per_second() as f64)
    }
}

impl Descriptors {
    /// None for a process of another user.
    fn of(pid: i32) -> Option<Self> {
        // The size of the directory is their number (since Linux 6.2). Listing them takes long if
        // there are many.
        let path = format!("/proc/{pid}/fd");
        let open = match fs::metadata(&path).ok()?.len() {
            0 => fs::read_dir(&path).ok()?.count() as u64,
            open => open,
        };
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let limit = line.split_whitespace().next()?.parse().unwrap_or(u64::MAX); // or "unlimited"
        Some(Self { open, limit })
    }

    fn share(self) -> f64 {
        self.open as f64 / self.limit as f64
    }
}

#[cfg(test)]
mod tests;
