//! The settings and policies of a worker.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Jitter, Limits};
use crate::order::PolicyId;
use crate::shutdown::{Finish, Handoff, ShutdownPolicy};

/// The settings that workers read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// Limits of a connection.
    pub limits: Limits,
    /// Threads for blocking handlers. Default 4; at least 1.
    pub threads: usize,
    /// Open connections at which a worker stops accepting. Default 1000; 0: no limit.
    pub connections: usize,
    /// How long a drain may take if no order names a deadline. Default 30 s.
    pub graceful_timeout: Duration,
    /// How long the loop may be silent before the arbiter ends the worker (D1). Default 30 s; zero:
    /// no limit.
    pub timeout: Duration,
    /// Requests after which a worker is replaced (D15). Default 0: never.
    pub max_requests: u64,
    /// The upper bound of a random addition to `max_requests`, so that workers are not replaced all
    /// at once. Default 10 %.
    pub max_requests_jitter: Jitter,
    /// Whether each worker has a keeper, which goes on with its connections if it ends suddenly
    /// (D20). Default true.
    pub rescue: bool,
}

impl WorkerConfig {
    /// Whether a worker with `open` connections leaves further ones to other workers.
    pub fn is_full(&self, open: usize) -> bool {
        self.connections > 0 && open >= self.connections
    }

    /// After how many requests this worker is replaced; `draw` is a random number. 0: never.
    pub(super) fn quota(&self, draw: u32) -> u64 {
        match self.max_requests {
            0 => 0,
            least => least.saturating_add(self.max_requests_jitter.some(least, draw)),
        }
    }

    /// The longest time between two heartbeats, also of an idle loop: one second, or a quarter of a
    /// shorter `timeout`.
    pub fn beat_interval(&self) -> Duration {
        const EVERY: Duration = Duration::from_secs(1);
        if self.timeout.is_zero() { EVERY } else { EVERY.min(self.timeout / 4) }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            threads: 4,
            connections: 1000,
            graceful_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            max_requests: 0,
            max_requests_jitter: Jitter::default(),
            rescue: true,
        }
    }
}

/// The shutdown policies of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policies {
    /// `--drain`.
    pub stop: Arc<dyn ShutdownPolicy>,
    /// `--drain-reload`.
    pub reload: Arc<dyn ShutdownPolicy>,
    /// `--drain-recycle`.
    pub recycle: Arc<dyn ShutdownPolicy>,
}

impl Policies {
    /// Sets the policy for `id`.
    pub fn set(&mut self, id: PolicyId, policy: Arc<dyn ShutdownPolicy>) {
        match id {
            PolicyId::Stop => self.stop = policy,
            PolicyId::Reload => self.reload = policy,
            PolicyId::Recycle => self.recycle = policy,
        }
    }

    /// The policy that an order names.
    pub fn get(&self, id: PolicyId) -> &Arc<dyn ShutdownPolicy> {
        match id {
            PolicyId::Stop => &self.stop,
            PolicyId::Reload => &self.reload,
            PolicyId::Recycle => &self.recycle,
        }
    }
}

impl Default for Policies {
    /// [`Finish`] for a stop, and [`Handoff`] where other workers stay.
    fn default() -> Self {
        let handoff = Arc::new(Handoff::default());
        Self { stop: Arc::new(Finish), reload: handoff.clone(), recycle: handoff }
    }
}

#[cfg(test)]
mod tests;
