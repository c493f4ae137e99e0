//! An application that is built once, in the arbiter, before any fork.
//!
//! The drain signal and the counters that it is built with are placeholders. Each forked worker
//! fills them in once, in its own copy of the memory.

use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::{AppError, AppFactory, Boot, Build, Counters, DrainSignal, DrainWatch, Holds};
use crate::shutdown::Drain;
use crate::time::Time;

impl AppFactory {
    /// Builds the application now, for every worker of `backend` that is forked from this process.
    /// Returns a factory of that application.
    ///
    /// # Errors
    ///
    /// The error of the factory, or the factory [awaits](Self::awaits), and there is no runtime
    /// before the fork.
    pub fn preload(&self, backend: &'static str) -> Result<Self, AppError> {
        let Build::AtOnce(build) = &self.build else { return Err(AppError::msg(AWAITS)) };
        let worker = Arc::new(Worker::default());
        let counters = Arc::new(Counters::later());
        let boot = Boot::new(0, 1, backend, DrainSignal::new(worker.clone()), counters.clone());
        let app = build(&Boot { preloaded: true, ..boot })?;
        let factory = Self::new(move |boot| {
            worker.0.get_or_init(|| boot.drain.clone());
            counters.become_those_of(boot.counters.clone());
            Ok(app.clone())
        });
        Ok(Self { wants_tokio: self.wants_tokio, ..factory })
    }
}

const AWAITS: &str =
    "it is built by an async function, which needs a runtime, and there is none before the fork";

/// The drain of the worker that this process has become, if it has become one.
#[derive(Default)]
struct Worker(OnceLock<DrainSignal>);

impl Worker {
    fn watch(&self) -> Option<&dyn DrainWatch> {
        self.0.get().map(|drain| &*drain.watch)
    }
}

/// Without a worker there is no drain, and no task waits for one.
impl DrainWatch for Worker {
    fn drain(&self) -> Option<Drain> {
        self.watch()?.drain()
    }

    fn wait(&self, timeout: Duration) -> bool {
        self.watch().is_some_and(|watch| watch.wait(timeout))
    }

    fn register(&self, waker: &Waker, place: Option<usize>) -> usize {
        let place = place.filter(|place| *place != NOWHERE);
        self.watch().map_or(NOWHERE, |watch| watch.register(waker, place))
    }

    fn deregister(&self, place: usize) {
        if let Some(watch) = self.watch().filter(|_| place != NOWHERE) {
            watch.deregister(place);
        }
    }

    fn holds(&self) -> Option<Arc<Holds>> {
        self.watch()?.holds()
    }

    /// Without a worker nothing has a timeout.
    fn now(&self) -> Time {
        self.watch().map_or(Time::ZERO, DrainWatch::now)
    }
}

/// The place of a waker that was not registered.
const NOWHERE: usize = usize::MAX;

#[cfg(test)]
mod tests;
