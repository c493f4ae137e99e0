//! How long drains took, as the log says.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// From the order that a worker gets to its end, the shortest first.
pub(crate) struct Drains(Vec<Duration>);

impl Drains {
    /// Those of all workers that have ended, which all did with 0.
    #[track_caller]
    pub(crate) fn of(log: &str) -> Self {
        let mut begun = HashMap::new();
        let mut times = Vec::new();
        for line in log.lines() {
            if let Some((head, _)) = line.split_once(" DEBUG draining ") {
                let (time, pid) = head.split_once(" [").expect("a line tells the time and the process");
                begun.insert(pid.trim_end_matches(']'), at(time));
            } else if let Some((head, said)) = line.split_once("worker ended with ") {
                assert!(said.starts_with("status 0 "), "{line}");
                let pid = said.split(' ').find_map(|word| word.strip_prefix("pid="));
                let start = pid.and_then(|pid| begun.remove(pid));
                let start = start.unwrap_or_else(|| panic!("it has not drained: {line}"));
                times.push(since(start, at(head.split(' ').next().unwrap_or_default())));
            }
        }
        assert!(!times.is_empty(), "no worker has ended");
        times.sort();
        Self(times)
    }
}

impl fmt::Display for Drains {
    /// How many, the shortest, the median and the longest in milliseconds, as cells of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(times) = self;
        write!(f, "{}", times.len())?;
        for time in [times[0], times[times.len() / 2], times[times.len() - 1]] {
            write!(f, " | {:.1}", time.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

/// The time of day that a line begins with, as in `2026-11-22T16:43:07.250316Z`.
#[track_caller]
fn at(stamp: &str) -> Duration {
    let time = stamp.split_once('T').and_then(|(_, time)| time.strip_suffix('Z'));
    let parts: Vec<f64> = time.into_iter().flat_map(|time| time.split(':')).flat_map(str::parse).collect();
    let [hours, minutes, seconds] = parts[..] else { panic!("{stamp} is no time") };
    Duration::from_secs_f64((hours * 60.0 + minutes) * 60.0 + seconds)
}

/// From one time of day to the next.
fn since(start: Duration, end: Duration) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    if end < start { end + DAY - start } else { end - start }
}
