//! Calls the program's hooks.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use remuda_core::app::{AppFactory, panic_message};
use remuda_core::order::Order;
use remuda_core::shutdown::{Phase, Reason};
use remuda_core::worker::Exit;
use remuda_core::worker::sys::now;
use rustix::process::{Pid, getpid};
use thiserror::Error;
use tracing::{error, warn};

use crate::config::ArbiterConfig;
use crate::hooks::{ChildExit, Hooks, ServerInfo, WorkerExit, WorkerInfo, WorkerPlace};

use crate::outcome::Outcome;
use crate::plan::notice::Notice;
use crate::plan::words::Death;

/// The time above which a hook of the arbiter is logged.
const SHORT: Duration = Duration::from_secs(1);

/// The arbiter's side: the hooks, and data for them that is kept only here.
pub(super) struct HookCaller {
    hooks: Arc<dyn Hooks>,
    server: ServerInfo,
    /// Workers forked and not reaped yet, with the reason why they were told to end.
    workers: Vec<(WorkerInfo, Option<Reason>)>,
}

impl HookCaller {
    /// Creates the caller and calls `on_starting`, before anything else exists.
    pub(super) fn starting(hooks: Arc<dyn Hooks>, config: &ArbiterConfig, has_old_arbiter: bool) -> Self {
        let (pid, workers) = (number(getpid()), usize::from(config.workers.max(1)));
        let server = ServerInfo { pid, generation: 1, workers, has_old_arbiter };
        let hooks = Self { hooks, server, workers: Vec::new() };
        hooks.call("on_starting", |hooks, server| hooks.on_starting(server));
        hooks
    }

    pub(super) fn ready(&self) {
        self.call("when_ready", |hooks, server| hooks.when_ready(server));
    }

    pub(super) fn forking(&self, slot: u16, generation: u32) {
        self.call("pre_fork", |hooks, _| hooks.pre_fork(&WorkerPlace { slot, generation }));
    }

    pub(super) fn forked(&mut self, pid: Pid, slot: u16, generation: u32) {
        self.workers.push((WorkerInfo { pid: number(pid), slot, generation }, None));
    }

    pub(super) fn upgrading(&self) {
        self.call("pre_exec", |hooks, server| hooks.pre_exec(server));
    }

    pub(super) fn alone(&mut self) {
        self.server.has_old_arbiter = false;
    }

    /// Records why a worker is told to end. An order for the lame duck phase is not such an order.
    pub(super) fn ordered(&mut self, pid: Pid, order: &Order) {
        let told = self.workers.iter_mut().find(|(worker, _)| worker.pid == number(pid));
        if let (Some((_, reason)), Order::Drain { drain, .. }) = (told, order)
            && drain.phase >= Phase::Draining
        {
            *reason = Some(drain.reason);
        }
    }

    /// Calls the hook for a notice, if there is one.
    pub(super) fn hear(&mut self, notice: &Notice) {
        match *notice {
            Notice::Died { pid, death, lived, again_in, .. } => {
                let is_it = |(worker, _): &(WorkerInfo, _)| worker.pid == number(pid);
                let Some(index) = self.workers.iter().position(is_it) else { return };
                let (worker, reason) = self.workers.swap_remove(index);
                let (status, signal) = match death {
                    Death::Status(status) => (Some(status), None),
                    Death::Signal(signal) => (None, Some(signal)),
                };
                let exit = ChildExit { status, signal, lived, reason, is_replaced: again_in.is_some() };
                self.call("child_exit", |hooks, _| hooks.child_exit(&worker, &exit));
            }
            Notice::Scaled { workers } => self.resized(workers),
            Notice::Resting => self.resized(0),
            Notice::Reloading { generation } => {
                let server = ServerInfo { generation, ..self.server.clone() };
                self.call("on_reload", |hooks, _| hooks.on_reload(&server));
            }
            _ => {}
        }
    }

    /// Records the current generation.
    pub(super) fn adopted(&mut self, generation: u32) {
        self.server.generation = generation;
    }

    pub(super) fn ended(&self, outcome: &Outcome) {
        self.call("on_exit", |hooks, server| hooks.on_exit(server, outcome));
    }

    /// Converts to the hooks of a worker. Called in the worker.
    pub(super) fn in_worker(self, slot: u16, generation: u32) -> WorkerHooks {
        WorkerHooks {
            hooks: self.hooks,
            worker: Arc::new(WorkerInfo { pid: number(getpid()), slot, generation }),
        }
    }

    fn resized(&mut self, workers: usize) {
        let before = mem::replace(&mut self.server.workers, workers);
        if before != workers {
            self.call("nworkers_changed", |hooks, server| hooks.nworkers_changed(server, before));
        }
    }

    fn call(&self, name: &'static str, hook: impl FnOnce(&dyn Hooks, &ServerInfo)) {
        let since = now();
        if let Err(panicked) = caught(name, || hook(&*self.hooks, &self.server)) {
            error!("{panicked}; the server goes on");
        }
        let took = now() - since;
        if took >= SHORT {
            warn!("the hook {name} took {took:.1?}, during which the arbiter handled no signal");
        }
    }
}

/// The worker's side.
pub(super) struct WorkerHooks {
    hooks: Arc<dyn Hooks>,
    worker: Arc<WorkerInfo>,
}

impl WorkerHooks {
    /// # Errors
    ///
    /// The hook panicked, and the worker cannot start.
    pub(super) fn forked(&self) -> Result<(), Panicked> {
        caught("post_fork", || self.hooks.post_fork(&self.worker))
    }

    /// Wraps the factory so that it calls `post_worker_init` once the application is built. The
    /// caller of the factory catches a panic of the hook.
    pub(super) fn around(&self, app: AppFactory) -> AppFactory {
        let (hooks, worker, wants_tokio) = (self.hooks.clone(), self.worker.clone(), app.wants_tokio());
        let factory = AppFactory::from_async(move |boot| {
            let (building, hooks, worker) = (app.build(&boot), hooks.clone(), worker.clone());
            async move {
                let app = building.await?;
                hooks.post_worker_init(&worker);
                Ok(app)
            }
        });
        if wants_tokio { factory.with_tokio() } else { factory }
    }

    pub(super) fn exiting(&self, exit: Exit, reason: Option<Reason>) {
        let exit = WorkerExit { exit, reason };
        if let Err(panicked) = caught("worker_exit", || self.hooks.worker_exit(&self.worker, &exit)) {
            error!("{panicked}; the worker ends all the same");
        }
    }
}

/// The error of a hook that panicked.
#[derive(Debug, Error)]
#[error("the hook {name} panicked: {message}")]
pub(super) struct Panicked {
    name: &'static str,
    message: String,
}

fn caught(name: &'static str, hook: impl FnOnce()) -> Result<(), Panicked> {
    catch_unwind(AssertUnwindSafe(hook))
        .map_err(|panic| Panicked { name, message: panic_message(&*panic).to_owned() })
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}
