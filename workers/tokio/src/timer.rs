//! A timer that is seldom set.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use remuda_core::time::Time;
use tokio::time::{Instant, Sleep, sleep};

/// Wakes a task at a deadline. A later deadline leaves it as it is set: the task finds out when it is woken too early.
/// So a connection in use does not touch the runtime's timers.
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    set_for: Time,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self { sleep: None, set_for: Time::ZERO }
    }

    /// Has `task` woken at `at`, or before.
    pub(crate) fn set(&mut self, at: Time, now: Time, task: &mut Context<'_>) {
        let has_rung = self.set_for <= now;
        if at >= self.set_for && !has_rung {
            return;
        }
        self.set_for = at;
        let left = at.since(now);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(Instant::now() + left);
                sleep
            }
            none => none.insert(Box::pin(sleep(left))),
        };
        if sleep.as_mut().poll(task).is_ready() {
            task.waker().wake_by_ref();
        }
    }
}
