//! A generation of workers: configuration, backend, application and listeners.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use remuda_core::app::{AppError, AppFactory};
use remuda_core::worker::Worker;

use crate::background_job::Unloaded;
use crate::config::ArbiterConfig;
use crate::listener::ListenerSet;
use crate::outcome::Outcome;
use crate::sys;

/// Configuration, backend and application of a generation: the part that a reload replaces.
#[derive(Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// The configuration.
    pub config: ArbiterConfig,
    /// The backend.
    pub worker: Arc<dyn Worker>,
    /// Builds the application in each worker.
    pub app: AppFactory,
    applied: Option<Arc<dyn Fn()>>,
}

impl Loaded {
    /// Creates workers of the backend `worker` that build their application with `app`.
    pub fn new(config: ArbiterConfig, worker: Arc<dyn Worker>, app: AppFactory) -> Self {
        Self { config, worker, app, applied: None }
    }

    /// Sets a function that applies this configuration to the process. It runs first in each worker
    /// of this generation, and in the arbiter when a reload has succeeded. A start is expected to
    /// have applied it already.
    #[must_use]
    pub fn applying(self, apply: impl Fn() + 'static) -> Self {
        Self { applied: Some(Arc::new(apply)), ..self }
    }

    /// Builds the application in this process, for all workers, if
    /// [`preload`](ArbiterConfig::preload) is set.
    pub(crate) fn preload(&mut self) -> Result<(), Outcome> {
        if self.config.preload {
            let built = catch_unwind(AssertUnwindSafe(|| self.app.preload(self.worker.name())));
            let built = built.unwrap_or_else(|panic| Err(AppError::panicked_before_fork(&*panic)));
            self.app =
                built.map_err(|error| Outcome::BootFailed { status: 4, message: error.to_string() })?;
            sys::only_thread()
                .map_err(|error| error.because_of("the application that `preload` builds here"))?;
        }
        Ok(())
    }

    /// Keeps the preloaded application of `before`, if there is one: the arbiter builds no
    /// application while it supervises workers.
    pub(crate) fn keep_preloaded(&mut self, before: &Self) {
        self.config.preload = before.config.preload;
        if self.config.preload {
            self.app = before.app.clone();
            tracing::info!("the reload keeps the preloaded application; an upgrade builds it anew");
        }
    }

    pub(crate) fn apply(&self) {
        if let Some(apply) = &self.applied {
            apply();
        }
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// Loads the configuration that replaces the argument.
pub(crate) type Load = dyn Fn(&Loaded) -> Result<Loaded, Unloaded>;

/// A loaded configuration, with the listeners of its workers.
pub(crate) struct Generation {
    pub(crate) number: u32,
    pub(crate) loaded: Loaded,
    pub(crate) chosen: ListenerSet,
}
