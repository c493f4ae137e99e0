//! Workers that have served for long enough, or have grown too large (D15): who they are. What follows is
//! [`replace`](super::replace)'s.
//!
//! A worker's age counts from when it was ready, so that one which boots for long still serves. Its memory is looked at every
//! [`WEIGH_EVERY`], and only if there is a limit. One that is too large as soon as it is ready would be followed by
//! another one like it, so it is not replaced for that; people are told instead.

use std::time::Duration;

use remuda_core::config::Jitter;
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use rustix::process::Pid;

use super::member::{Life, Member};
use super::{Action, Phase, Plan};
use crate::notice::Notice;

/// How old and how large workers may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Allowance {
    /// Since they were ready. Zero: for ever.
    pub(crate) lifetime: Duration,
    /// How much more, as a part or in nanoseconds.
    pub(crate) lifetime_jitter: Jitter,
    /// Bytes of resident memory. 0: any.
    pub(crate) rss: u64,
    /// How much more, as a part or in bytes.
    pub(crate) rss_jitter: Jitter,
}

/// How old and how large one worker may become; none: without limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    pub(super) lifetime: Option<Duration>,
    pub(super) rss: Option<u64>,
}

/// How long a worker's memory is not looked at.
pub(super) const WEIGH_EVERY: Duration = Duration::from_secs(1);

impl Allowance {
    /// What the worker of that pid gets that was born then: no other has both.
    pub(super) fn drawn(self, pid: Pid, born: Time) -> Bounds {
        let seed = born.as_nanos() ^ (u64::from(pid.as_raw_nonzero().get().unsigned_abs()) << 32);
        let least = Time::ZERO + self.lifetime;
        let lifetime = Duration::from_nanos(self.lifetime_jitter.scattered(least.as_nanos(), seed));
        Bounds {
            lifetime: (!self.lifetime.is_zero()).then_some(lifetime),
            rss: (self.rss > 0).then(|| self.rss_jitter.scattered(self.rss, !seed)),
        }
    }
}

impl Plan {
    /// Finds those that are too old, and has the memory of those looked at that it is time for.
    pub(super) fn expire(&mut self, now: Time, todo: &mut Vec<Action>) {
        if !self.lets_expire() {
            return;
        }
        for member in &mut self.members {
            let (slot, is_old) = (member.slot, member.expires_at().is_some_and(|at| at <= now));
            let is_due = member.weighed_at().is_some_and(|at| at <= now);
            let Some(life) = member.life() else { continue };
            if is_old && let (Some(ready), Some(limit)) = (life.ready, life.bounds.lifetime) {
                life.spent = Some((now, Reason::RecycleLifetime));
                todo.push(Action::Log(Notice::Old { slot, pid: life.pid, age: now - ready, limit }));
            } else if is_due {
                life.weigh_at = Some(now + WEIGH_EVERY);
                todo.push(Action::Weigh { pid: life.pid });
            }
        }
    }

    /// How large a worker is.
    pub(super) fn weighed(&mut self, pid: Pid, rss: u64, now: Time, todo: &mut Vec<Action>) {
        let Some(index) = self.find(pid) else { return };
        let slot = self.members[index].slot;
        let Some(life) = self.members[index].life() else { return };
        let Some(limit) = life.bounds.rss else { return };
        let is_first = life.weight.replace(rss).is_none();
        if rss < limit || life.spent.is_some() {
            return;
        }
        if is_first {
            life.weigh_at = None;
            todo.push(Action::Log(Notice::BornLarge { slot, pid, rss, limit }));
        } else {
            life.spent = Some((now, Reason::RecycleMemory));
            todo.push(Action::Log(Notice::Large { slot, pid, rss, limit }));
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn expiry(&self) -> Option<Time> {
        let of_each = self.members.iter().flat_map(|member| [member.expires_at(), member.weighed_at()]);
        of_each.flatten().min().filter(|_| self.lets_expire())
    }

    /// In a stop nobody is replaced any more.
    fn lets_expire(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Serving)
    }
}

impl Member {
    fn expires_at(&self) -> Option<Time> {
        self.unspent().and_then(|life| Some(life.ready? + life.bounds.lifetime?))
    }

    fn weighed_at(&self) -> Option<Time> {
        self.unspent().and_then(|life| life.weigh_at)
    }

    /// Its life, if nothing has been found yet for which it should be replaced.
    fn unspent(&self) -> Option<&Life> {
        self.alive().filter(|life| self.is_holder() && life.spent.is_none())
    }
}
