//! The application's own end in a worker (D14): tasks that handlers have left behind may finish,
//! then the application's hooks flush and close its resources, inside the runtime in which it
//! served. The loop continues its heartbeat meanwhile.
//!
//! It begins when the last connection is gone, or at the drain's deadline, which also bounds it. A
//! loop calls [`poll`](Ending::poll) in each turn. Nothing here blocks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::completion;
use crate::app::{Holds, LocalFuture, OnDrained, Service, panic_message};
use crate::shutdown::Drain;
use crate::time::Time;
use crate::worker::exit::Exit;

/// The state of the application's own end.
pub struct Ending {
    hooks: Vec<OnDrained>,
    holds: Arc<Holds>,
    stage: EndingPhase,
    /// The exit of the worker, set once no connection was left.
    exit: Option<Exit>,
    /// Whether the deadline has cut something off.
    was_cut: bool,
}

enum EndingPhase {
    /// The application still serves.
    Before,
    /// Tasks that handlers have left behind still run.
    Tasks,
    /// The hooks run, since the given time.
    Hooks(LocalFuture<()>, Time),
    Over,
}

impl Ending {
    /// The end of the application in `service`, whose background tasks register in `holds`.
    pub fn new(service: &Service, holds: Arc<Holds>) -> Self {
        let hooks = service.app.hooks().to_vec();
        Self { hooks, holds, stage: EndingPhase::Before, exit: None, was_cut: false }
    }

    /// Whether the last connection is gone. From then on the worker takes over no connections,
    /// because the application is shutting down.
    pub fn has_no_connections(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether the end has begun and is not over.
    pub fn is_under_way(&self) -> bool {
        matches!(self.stage, EndingPhase::Tasks | EndingPhase::Hooks(..))
    }

    /// Whether there is nothing to wait for: no hook, and no task that holds the worker.
    pub fn is_empty(&self) -> bool {
        matches!(self.stage, EndingPhase::Before) && self.hooks.is_empty() && self.holds.count() == 0
    }

    /// Advances the end as far as possible at `now`, in `drain`, and returns the exit of the worker
    /// once the end is over. `exit` is the worker's exit as far as its connections are concerned;
    /// none while it has any. `task` is woken when there is more to do, except at the
    /// [deadline](Self::deadline).
    pub fn poll(
        &mut self,
        drain: &Drain,
        exit: Option<Exit>,
        now: Time,
        task: &mut Context<'_>,
    ) -> Option<Exit> {
        self.exit = self.exit.or(exit);
        loop {
            match &mut self.stage {
                EndingPhase::Before if self.exit.is_none() && !drain.is_over(now) => return None,
                // A drain that ends everything at once cuts off the hooks and tasks that there are.
                EndingPhase::Before if !completion::has_end(drain) => {
                    self.was_cut = !self.is_empty();
                    self.stage = EndingPhase::Over;
                }
                EndingPhase::Before => self.stage = EndingPhase::Tasks,
                EndingPhase::Tasks => {
                    if self.holds.poll_none(task.waker()).is_pending() {
                        if !drain.is_over(now) {
                            return None;
                        }
                        let left = self.holds.count();
                        tracing::warn!(
                            left,
                            "tasks that hold the worker are cut off at the drain's deadline"
                        );
                        self.was_cut = true;
                    }
                    self.stage = EndingPhase::Hooks(run(std::mem::take(&mut self.hooks), *drain), now);
                }
                // Requests may have used up the drain's time: the hooks still have theirs
                // (`END_LEAST`).
                EndingPhase::Hooks(hooks, began) => {
                    if hooks.as_mut().poll(task).is_pending() {
                        if now < completion::end_until(drain, *began) {
                            return None;
                        }
                        let took = now - *began;
                        tracing::warn!(
                            "the application's end is cut off at the drain's deadline after {took:.1?}"
                        );
                        self.was_cut = true;
                    }
                    self.stage = EndingPhase::Over;
                }
                EndingPhase::Over if self.was_cut => return self.exit.map(|_| Exit::CutOff),
                EndingPhase::Over => return self.exit,
            }
        }
    }

    /// When to call [`poll`](Self::poll) again if nothing happens before.
    pub fn deadline(&self, drain: &Drain) -> Option<Time> {
        match &self.stage {
            EndingPhase::Tasks => Some(drain.deadline),
            EndingPhase::Hooks(_, began) => Some(completion::end_until(drain, *began)),
            EndingPhase::Before | EndingPhase::Over => None,
        }
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holds, exit, was_cut, .. } = self;
        f.debug_struct("Ending").field("holds", holds).field("exit", exit).field("was_cut", was_cut).finish()
    }
}

/// Runs the hooks one after the other. A hook that panics does not stop the others.
fn run(hooks: Vec<OnDrained>, drain: Drain) -> LocalFuture<()> {
    Box::pin(async move {
        for hook in hooks {
            match catch_unwind(AssertUnwindSafe(|| hook.call(drain))) {
                Ok(end) => Caught(end).await,
                Err(panic) => tell(&*panic),
            }
        }
    })
}

/// A future that is ready if it panics.
struct Caught(LocalFuture<()>);

impl Future for Caught {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(task)));
        polled.unwrap_or_else(|panic| {
            tell(&*panic);
            Poll::Ready(())
        })
    }
}

fn tell(panic: &(dyn std::any::Any + Send)) {
    let message = panic_message(panic);
    tracing::error!("the application's end panicked: {message}{}", crate::app::panic_cure(message));
}

#[cfg(test)]
mod tests;
