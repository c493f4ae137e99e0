//! The threads that blocking handlers run on: a fixed number, with a queue in front of them.
//!
//! A job goes to the thread pool only while a thread is free, so that waiting jobs can be counted
//! and taken back.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};

use rustix::io::Errno;
use threadpool::ThreadPool;

use super::lease::{Lease, Leases};
use crate::worker::config::WorkerConfig;
use crate::worker::shortage::probe_threads;

/// A pool of threads that run the same function on jobs and return them.
pub struct HandlerPool<J> {
    pool: ThreadPool,
    busy: usize,
    waiting: VecDeque<J>,
    leases: Leases<J>,
    /// From each thread that is free again: its job, unless that was taken away.
    done: Receiver<Option<J>>,
    work: Arc<JobFn<J>>,
    /// What each thread runs at the end of the worker.
    last: Option<Arc<dyn Fn() + Send + Sync>>,
}

type JobFn<J> = dyn Fn(&Lease<J>) + Send + Sync;

impl<J: Send + 'static> HandlerPool<J> {
    /// Starts as many threads as `config` says, at least one. They run `work` on each job and then
    /// `wake` the loop, which calls [`take_done`](Self::take_done).
    ///
    /// # Errors
    ///
    /// As pthread_create(3): `EAGAIN` at the limit of threads.
    pub fn new(
        config: &WorkerConfig,
        work: impl Fn(&Lease<J>) + Send + Sync + 'static,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (give, done): (Sender<Option<J>>, _) = channel();
        let work = move |lease: &Lease<J>| {
            // A panic has been logged before it arrives here. The job is returned nevertheless.
            let _ = catch_unwind(AssertUnwindSafe(|| work(lease)));
            // Without a receiver the worker is ending, and its jobs with it.
            if give.send(lease.take()).is_ok() {
                wake();
            }
        };
        let threads = config.threads.max(1);
        // The thread pool panics if it cannot start a thread, so the number of threads is tried
        // before.
        probe_threads(threads)?;
        let pool = threadpool::Builder::new().num_threads(threads).thread_name("handler".to_owned());
        let pool = catch_unwind(AssertUnwindSafe(|| pool.build())).map_err(|_| Errno::AGAIN)?;
        let leases = Leases::new(config.limits.request_timeout);
        Ok(Self { pool, busy: 0, waiting: VecDeque::new(), leases, done, work: Arc::new(work), last: None })
    }

    /// Runs `task` once on each thread, before there are jobs, and waits for all threads.
    ///
    /// # Errors
    ///
    /// The first error of a task.
    pub fn on_each(&self, task: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
        let threads = self.pool.max_count();
        // Each thread waits for the others after its task, so that none of them takes two.
        let (task, all) = (Arc::new(task), Arc::new(Barrier::new(threads)));
        let (give, done) = channel();
        for _ in 0..threads {
            let (task, all, give) = (task.clone(), all.clone(), give.clone());
            self.execute(move || {
                // The caller waits for this message.
                let _ = give.send(task());
                all.wait();
            });
        }
        done.iter().take(threads).collect()
    }

    /// Sets what each thread runs last, while the application [ends](crate::worker::Ending): it
    /// runs the tasks that handlers have left on the thread. It need not return.
    #[must_use]
    pub fn doing_last(self, last: impl Fn() + Send + Sync + 'static) -> Self {
        Self { last: Some(Arc::new(last)), ..self }
    }

    /// Starts what free threads run last.
    pub(in crate::worker) fn linger(&mut self) {
        if let Some(last) = self.last.take() {
            for _ in 0..self.pool.max_count() {
                let last = last.clone();
                self.execute(move || last());
            }
        }
    }

    /// Runs `job` as soon as a thread is free.
    pub fn submit(&mut self, job: J) {
        if self.is_full() {
            self.waiting.push_back(job);
        } else {
            self.start(job);
        }
    }

    /// A finished job, if there is one. Its thread continues with the job that has waited longest.
    pub fn take_done(&mut self) -> Option<J> {
        loop {
            let job = self.done.try_recv().ok()?;
            self.busy -= 1;
            if let Some(next) = self.waiting.pop_front() {
                self.start(next);
            }
            if job.is_some() {
                return job;
            }
        }
    }

    /// The leases of running jobs.
    pub fn leases(&self) -> &Leases<J> {
        &self.leases
    }

    /// Takes back a job that no thread has begun, if there is one.
    pub fn take_waiting(&mut self) -> Option<J> {
        self.waiting.pop_front()
    }

    /// Whether a new job has to wait for a thread.
    pub fn is_full(&self) -> bool {
        self.busy >= self.pool.max_count()
    }

    /// How many threads are busy.
    pub fn busy(&self) -> usize {
        self.busy
    }

    fn start(&mut self, job: J) {
        self.busy += 1;
        let (work, lease) = (self.work.clone(), self.leases.lease(job));
        self.execute(move || work(&lease));
    }

    fn execute(&self, task: impl FnOnce() + Send + 'static) {
        // A panic has been logged before it arrives here. It is caught, because the pool would
        // replace the thread, which may fail.
        self.pool.execute(|| drop(catch_unwind(AssertUnwindSafe(task))));
    }
}

impl<J> fmt::Debug for HandlerPool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerPool").field("busy", &self.busy).field("waiting", &self.waiting.len()).finish()
    }
}
