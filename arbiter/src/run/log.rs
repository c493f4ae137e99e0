//! Writes notices to the log.

use std::time::Duration;

use remuda_core::app::Busy;
use remuda_core::time::Time;
use rustix::process::Pid;
use tracing::{debug, error, info, warn};

use crate::plan::notice::Notice;
use crate::plan::words::{Death, Memory, ReloadEnd, counted};

impl Notice {
    /// Writes the notice to the log.
    ///
    /// Fields about numbers are numbers: ids, bytes, and seconds in fields with that name. Fields
    /// whose value the message has too are for JSON; the text format omits them by name.
    pub(crate) fn log(&self) {
        match self {
            Self::Started { slot, pid } => debug!(slot, pid = id(pid), "worker started"),
            Self::NotStarted { slot, error, again_in: Some(delay) } => {
                error!(
                    slot,
                    error,
                    again_in_seconds = delay.as_secs_f64(),
                    "worker not started, next try in {delay:?}"
                );
            }
            Self::NotStarted { slot, error, again_in: None } => warn!(slot, error, "worker not started"),
            Self::Ready { slot, pid, took } => {
                debug!(slot, pid = id(pid), took_seconds = took.as_secs_f64(), "worker ready");
            }
            Self::BootFailed { slot, pid, message } => {
                error!(slot, pid = id(pid), "worker could not start: {message}");
            }
            Self::GivingUp { boots } => {
                error!(boots, "giving up: no worker was ever ready, and max-boot-failures is {boots}");
            }
            Self::Died { slot, pid, death, lived, again_in } => {
                let (pid, lived_seconds) = (id(pid), lived.as_secs_f64());
                match again_in {
                    Some(Duration::ZERO) => {
                        warn!(slot, pid, lived_seconds, "worker ended with {death}, replaced at once");
                    }
                    Some(delay) => error!(
                        slot,
                        pid,
                        lived_seconds,
                        again_in_seconds = delay.as_secs_f64(),
                        "worker ended with {death}, replaced in {delay:?}"
                    ),
                    None if *death == Death::Status(0) => {
                        debug!(slot, pid, lived_seconds, "worker ended with {death}");
                    }
                    None => warn!(slot, pid, lived_seconds, "worker ended with {death}"),
                }
            }
            Self::HelperNotStarted { error, again_in } => {
                let again_in_seconds = again_in.as_secs_f64();
                error!(error, again_in_seconds, "admin helper not started, next try in {again_in:?}");
            }
            Self::HelperDied { pid, death, again_in } => {
                let again_in_seconds = again_in.as_secs_f64();
                warn!(
                    pid = id(pid),
                    again_in_seconds, "admin helper ended with {death}, replaced in {again_in:?}"
                );
            }
            Self::UnknownChild { pid, death } => {
                debug!(pid = id(pid), "reaped a child that is not a worker: {death}");
            }
            Self::Spent { slot, pid, reason } => {
                debug!(slot, pid = id(pid), %reason, "worker requests its replacement");
            }
            Self::Old { slot, pid, age, limit } => {
                info!(
                    slot,
                    pid = id(pid),
                    age_seconds = age.as_secs_f64(),
                    limit_seconds = limit.as_secs_f64(),
                    "worker age is {age:.1?}, limit {limit:.1?}: to be replaced"
                );
            }
            Self::Large { slot, pid, rss, limit } => {
                info!(
                    slot,
                    pid = id(pid),
                    rss,
                    limit,
                    "worker memory is {rss} bytes, limit {limit}: to be replaced"
                );
            }
            Self::BornLarge { slot, pid, rss, limit } => {
                warn!(
                    slot,
                    pid = id(pid),
                    rss,
                    limit,
                    "worker memory is {rss} bytes as soon as it is ready, limit {limit}: not replaced, because its successor would be as large; raise max-rss"
                );
            }
            Self::Recycling { slot, reason } => info!(slot, %reason, "worker is replaced"),
            Self::Reloading { generation } => {
                info!(generation, "reloading: settings and application are loaded")
            }
            Self::ReloadWaits => info!("reload waits for the start, reload or upgrade under way"),
            Self::Reloaded { generation, end: ReloadEnd::Done } => {
                info!(generation, "reloaded: all older workers were told to drain");
            }
            Self::Reloaded { generation, end: ReloadEnd::Overtaken } => {
                info!(generation, "reload continues with a newer configuration");
            }
            Self::Reloaded { generation, end: ReloadEnd::TooLate } => {
                warn!(generation, "not reloaded: the server stops");
            }
            Self::Reloaded { generation, end: ReloadEnd::Failed(why) } => {
                error!(generation, "not reloaded, the server goes on as before: {why}");
            }
            Self::Lameduck { left } => {
                info!(left_seconds = left.as_secs_f64(), "stopping in {left:?}, serving until then");
            }
            Self::Stopping { reason, left: Duration::ZERO } => info!(%reason, "stopping at once"),
            Self::Stopping { reason, left } => {
                info!(%reason, left_seconds = left.as_secs_f64(), "stopping, at most {left:?}");
            }
            Self::Hurried { left } => {
                info!(left_seconds = left.as_secs_f64(), "stopping faster, at most {left:?}");
            }
            Self::BacklogLost { lost } => warn!(backlog_lost = lost, "backlog connections lost"),
            Self::Silent { slot, pid, silent } => {
                error!(
                    slot,
                    pid = id(pid),
                    silent_seconds = silent.as_secs_f64(),
                    "worker hangs: silent for {silent:.1?}, aborting it"
                );
            }
            Self::BootTimedOut { slot, pid, took } => {
                let silent_seconds = took.as_secs_f64();
                error!(
                    slot,
                    pid = id(pid),
                    silent_seconds,
                    "worker was not ready after {took:.1?}, aborting it"
                );
            }
            Self::Serving { slot, pid, busy, more, at, memory: memory @ Memory { now, peak, wanting } } => {
                let requests = all_served(busy, *more, *at);
                macro_rules! log {
                    ($level:ident) => {
                        $level!(
                            slot,
                            pid = id(pid),
                            memory = now,
                            memory_peak = peak,
                            oom_kill = wanting.then_some(true),
                            "worker was serving {requests}{memory}"
                        )
                    };
                }
                if busy.is_empty() { log!(warn) } else { log!(error) }
            }
            Self::Killing { pid } => warn!(pid = id(pid), "worker has not ended by its deadline, killing it"),
            Self::Scaled { workers } => info!(workers, "scaled to {}", counted(*workers, "worker")),
            Self::TooFew => warn!("signal TTOU is ignored: 1 worker is the minimum"),
            Self::TooMany { room } => {
                let there = if *room == 1 { "is" } else { "are" };
                let all = counted(*room, "worker");
                warn!(room, "signal TTIN is ignored: there {there} {all}, and no room for more");
            }
            Self::TooLate { signal } => warn!("signal {signal} is ignored: the server is stopping"),
            Self::UpgradeRefused { why } => warn!("upgrade refused: {why}"),
            Self::Upgrading { pid } => info!(pid = id(pid), "upgrade: new arbiter started"),
            Self::NewArbiterReady { pid, took, held } => {
                let (pid, took_seconds) = (id(pid), took.as_secs_f64());
                match held {
                    false => info!(pid, took_seconds, "upgrade: the new arbiter is ready and takes over"),
                    true => info!(
                        pid,
                        took_seconds,
                        "upgrade: the new arbiter is ready, this one serves on until a signal ends it"
                    ),
                }
            }
            Self::NewArbiterLate { pid, took } => {
                let silent_seconds = took.as_secs_f64();
                error!(
                    pid = id(pid),
                    silent_seconds, "upgrade: the new arbiter was not ready after {took:.1?}, ending it"
                );
            }
            Self::UpgradeFailed { why } => error!("upgrade failed, nothing has changed: {why}"),
            Self::NewArbiterGone { pid, death } => {
                warn!(pid = id(pid), "upgrade: the new arbiter ended with {death}");
            }
            Self::OldArbiterGone => info!("upgrade: the old arbiter has ended, this one serves alone"),
            Self::Resting => {
                info!("all workers drain, and none serves until HUP or resume starts them again")
            }
            Self::Ignored { signal } => {
                warn!(
                    "signal {signal} is ignored: an upgrade or a reload is under way, or all workers were drained"
                );
            }
        }
    }
}

/// A process id as a number, for a field.
fn id(pid: &Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// The largest number of requests in one line.
const NAMED: usize = 16;

/// Lists the requests of a worker, in a line of bounded length.
fn all_served(busy: &[Busy], more: u64, at: Time) -> String {
    if busy.is_empty() {
        return "nothing".to_owned();
    }
    let named: Vec<_> = busy.iter().take(NAMED).map(|busy| serving(busy, at)).collect();
    let more = more + busy.len().saturating_sub(NAMED) as u64;
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    named.join(", ") + &more
}

/// Formats a request: `GET /report for 31.2s on its loop`, `GET /events for 2.4s, cut`.
fn serving(busy: &Busy, at: Time) -> String {
    let request = busy.request.as_deref().unwrap_or("a request");
    let (age, place) = (at - busy.since, if busy.on_loop { "its loop" } else { "a thread" });
    match busy.running {
        Some(since) if since == busy.since => format!("{request} for {age:.1?} on {place}"),
        Some(since) => format!("{request} for {age:.1?}, {:.1?} of it on {place}", at - since),
        None => format!("{request} for {age:.1?}, {}", busy.doing.word()),
    }
}

#[cfg(test)]
mod tests;
