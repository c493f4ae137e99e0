//! Background jobs of a reload: a child does the work, and the arbiter continues meanwhile.

use std::io::{self, PipeReader, Read as _};
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::sys::now;
use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionbio;
use rustix::process::{self, Pid, WaitOptions, kill_process};
use tracing::debug;

use super::spawn::Child;
use super::{Host, Leave};
use crate::background_job::{BackgroundJob, Finish};
use crate::plan::Event;
use crate::plan::words::PlanConfig;
use crate::supervisor::Supervisor;
use crate::sys::{self, Fork};

/// The time that a reload has to load everything: the longest wait of the system's resolver for
/// three silent servers, see resolv.conf(5).
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// A child that runs a background job.
pub(super) struct RunningJob {
    /// None once it was reaped.
    pid: Option<Pid>,
    /// The pipe with the answer, which ends with the child.
    pipe: PipeReader,
    received: Vec<u8>,
    /// The generation of the reload that needs the job.
    generation: u32,
    deadline: Time,
    what: String,
    finish: Finish,
}

impl RunningJob {
    pub(super) fn interest(&self) -> PollFd<'_> {
        PollFd::new(&self.pipe, PollFlags::IN)
    }

    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// Records the end of the child. Returns whether `pid` was it.
    pub(super) fn reaped(&mut self, pid: Pid) -> bool {
        self.pid.take_if(|own| *own == pid).is_some()
    }

    /// Reads the available bytes. True at the end of the answer; an error if it will not come.
    fn receive(&mut self, now: Time) -> Result<bool, String> {
        match self.pipe.read_to_end(&mut self.received) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(format!("{}: {error}", self.what)),
            Err(_) if now >= self.deadline => {
                let limit = LIMIT.as_secs();
                Err(format!("{} was not found within {limit} s, the limit of a reload", self.what))
            }
            Err(_) => Ok(false),
        }
    }
}

impl Host {
    /// Forks a child for a background job of the reload to this generation. The error is the reason
    /// why there is none.
    pub(super) fn start_job(
        &mut self,
        job: BackgroundJob,
        generation: u32,
        deadline: Time,
    ) -> ControlFlow<Leave, Option<Result<PlanConfig, String>>> {
        self.end_job();
        let BackgroundJob { what, work, finish } = job;
        let refused = |why: String| Continue(Some(Err(format!("{what}: {why}"))));
        let piped = io::pipe().and_then(|(pipe, answer)| {
            ioctl_fionbio(&pipe, true)?;
            Ok((pipe, answer))
        });
        let (pipe, answer) = match piped {
            Ok(pair) => pair,
            Err(error) => return refused(format!("cannot create a pipe: {error}")),
        };
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                debug!("{what} is looked up by a child process");
                let (pid, received) = (Some(child), Vec::new());
                self.job = Some(RunningJob { pid, pipe, received, generation, deadline, what, finish });
                Continue(None)
            }
            Ok(Fork::Child { parent }) => Break(Leave::Child(Child::BackgroundJob { parent, work, answer })),
            Err(error) => refused(error.to_string()),
        }
    }

    fn end_job(&mut self) {
        self.end_process();
        self.job = None;
    }

    /// Kills the child, which has nothing to finish.
    fn end_process(&self) {
        if let Some(pid) = self.job.as_ref().and_then(|job| job.pid) {
            let _ = kill_process(pid, process::Signal::KILL);
        }
    }

    /// Kills and reaps the child at the end of the server.
    pub(super) fn end_last_job(&mut self) {
        self.end_process();
        if let Some(pid) = self.job.take().and_then(|job| job.pid) {
            let _ = process::waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

impl Supervisor<Host> {
    /// Continues the reload once its job is done, and ends a job that no reload needs.
    pub(super) fn poll_job(&mut self) -> ControlFlow<Leave> {
        let system = &mut self.system;
        if !self.plan.is_loading() {
            system.end_job();
        }
        let received = match system.job.as_mut().map(|job| job.receive(now())) {
            None | Some(Ok(false)) => return Continue(()),
            Some(received) => received,
        };
        system.end_process();
        let Some(RunningJob { received: answer, generation, deadline, finish, .. }) = system.job.take()
        else {
            return Continue(());
        };
        let loaded = match received.and_then(|_| finish(&answer)) {
            Ok(()) => system.load_generation(generation, deadline)?,
            Err(why) => Some(Err(why)),
        };
        match loaded {
            Some(Ok(config)) => self.feed(Event::Loaded { config }),
            Some(Err(why)) => self.feed(Event::NotLoaded { why }),
            None => Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_answer_is_whole_at_the_end_of_the_pipe_and_waited_for_until_the_deadline() {
        let (pipe, mut answer) = io::pipe().unwrap();
        ioctl_fionbio(&pipe, true).unwrap();
        let [before, deadline] = [1, 2].map(Time::from_nanos);
        let (what, finish) = ("bind: the address of \"app\"".to_owned(), Box::new(|_: &[u8]| Ok(())));
        let mut job =
            RunningJob { pid: None, pipe, received: Vec::new(), generation: 2, deadline, what, finish };
        assert_eq!(job.receive(before), Ok(false));
        answer.write_all(b"10.0").unwrap();
        assert_eq!(job.receive(before), Ok(false));
        assert_eq!(
            job.receive(deadline).unwrap_err(),
            "bind: the address of \"app\" was not found within 30 s, the limit of a reload"
        );
        answer.write_all(b".0.1").unwrap();
        drop(answer);
        assert_eq!((job.receive(deadline), &*job.received), (Ok(true), &b"10.0.0.1"[..]));
    }
}
