//! The threads that blocking handlers run on: a fixed number, and a queue in front of them that is ours.
//!
//! A job is handed over only while a thread is free, so what waits can still be counted and taken back.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};

use threadpool::ThreadPool;

use super::WorkerConfig;
use super::desk::{Desk, Desks};

/// A crew of threads that do one kind of work on jobs and give them back.
pub struct Crew<J> {
    pool: ThreadPool,
    busy: usize,
    waiting: VecDeque<J>,
    desks: Desks<J>,
    /// From each thread that is free again, the job unless that was taken away from it.
    done: Receiver<Option<J>>,
    work: Arc<Work<J>>,
}

type Work<J> = dyn Fn(&Desk<J>) + Send + Sync;

impl<J: Send + 'static> Crew<J> {
    /// As many threads as `config` says, at least one, that do `work` on each job and then `wake` the loop to
    /// [`take_done`](Self::take_done).
    pub fn new(
        config: &WorkerConfig,
        work: impl Fn(&Desk<J>) + Send + Sync + 'static,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (give, done): (Sender<Option<J>>, _) = channel();
        let work = move |desk: &Desk<J>| {
            // A panic has been reported by the time it arrives here; the job comes back all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| work(desk)));
            // Without a receiver the worker is ending, and the job with it.
            if give.send(desk.take()).is_ok() {
                wake();
            }
        };
        let threads = config.threads.max(1);
        let pool = threadpool::Builder::new().num_threads(threads).thread_name("handler".to_owned()).build();
        let desks = Desks::new(config.limits.request_timeout);
        Self { pool, busy: 0, waiting: VecDeque::new(), desks, done, work: Arc::new(work) }
    }

    /// Has each thread do `task` once, before there are jobs, and waits for all of them.
    ///
    /// # Errors
    ///
    /// The first of theirs.
    pub fn on_each(&self, task: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
        let threads = self.pool.max_count();
        // A thread that waits for the others takes no second one.
        let (task, all) = (Arc::new(task), Arc::new(Barrier::new(threads)));
        let (give, done) = channel();
        for _ in 0..threads {
            let (task, all, give) = (task.clone(), all.clone(), give.clone());
            self.pool.execute(move || {
                // Who asked waits for it.
                let _ = give.send(task());
                all.wait();
            });
        }
        done.iter().take(threads).collect()
    }

    /// Does the work on `job` as soon as a thread is free.
    pub fn submit(&mut self, job: J) {
        if self.busy < self.pool.max_count() {
            self.start(job);
        } else {
            self.waiting.push_back(job);
        }
    }

    /// A job that is done, if there is one. Its thread goes on with the job that has waited longest.
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

    /// Where jobs lie that are worked at, and can be taken away.
    pub fn desks(&self) -> &Desks<J> {
        &self.desks
    }

    /// Takes back a job that no thread has begun, if there is one.
    pub fn take_waiting(&mut self) -> Option<J> {
        self.waiting.pop_front()
    }

    /// How many jobs threads are busy with.
    pub fn busy(&self) -> usize {
        self.busy
    }

    fn start(&mut self, job: J) {
        self.busy += 1;
        let (work, desk) = (self.work.clone(), self.desks.lay(job));
        self.pool.execute(move || work(&desk));
    }
}

impl<J> fmt::Debug for Crew<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("busy", &self.busy).field("waiting", &self.waiting.len()).finish()
    }
}
