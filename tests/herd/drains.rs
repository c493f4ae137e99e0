//! How long drains took, from the log.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

/// The times from a worker's drain order to its end, shortest first.
pub(crate) struct Drains(Vec<Duration>);

impl Drains {
    /// The drains of all workers that have ended. Each must have ended with status 0. A worker that
    /// was told to leave before it was ready had nothing to drain.
    #[track_caller]
    pub(crate) fn of(log: &str) -> Self {
        let (mut ready, mut begun) = (HashSet::new(), HashMap::new());
        let pid_in =
            |said: &str| said.split(' ').find_map(|word| word.strip_prefix("pid=")).map(str::to_owned);
        let mut times = Vec::new();
        for line in log.lines() {
            if let Some((head, _)) = line.split_once(" DEBUG draining ") {
                let (time, pid) = head.split_once(" [").expect("a line has the time and the process");
                begun.insert(pid.trim_end_matches(']').to_owned(), at(time));
            } else if let Some((_, said)) = line.split_once(" DEBUG worker ready ") {
                ready.extend(pid_in(said));
            } else if let Some((head, said)) = line.split_once("worker ended with ") {
                assert!(said.starts_with("status 0 "), "{line}");
                let pid = pid_in(said).expect("an end has the process");
                let Some(start) = begun.remove(&pid) else {
                    assert!(!ready.contains(&pid), "the worker has not drained: {line}");
                    continue;
                };
                times.push(since(start, at(head.split(' ').next().unwrap_or_default())));
            }
        }
        assert!(!times.is_empty(), "no worker has ended");
        times.sort();
        Self(times)
    }
}

impl fmt::Display for Drains {
    /// The count, then the shortest, median and longest in milliseconds, as cells of a table.
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

/// The time from `start` to `end`, across midnight if need be.
fn since(start: Duration, end: Duration) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    if end < start { end + DAY - start } else { end - start }
}
