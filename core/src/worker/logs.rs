//! The logs of a server and of a worker: written without waiting for a reader.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub use self::access::{AccessLog, Format, FormatError};
pub use self::file::LogFile;
pub use self::sink::Sink;
use super::sys;
use crate::time::Time;

mod access;
mod file;
pub mod level;
mod sink;

/// How long a process waits at its end until its logs are written.
const FLUSH: Duration = Duration::from_millis(100);

/// The logs of a server, in its arbiter.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Logs {
    /// The program's own log, if it has to be tended and reopened. Default: none.
    pub error: Option<Arc<LogFile>>,
    /// The access log, with its format. Default: none.
    pub access: Option<(Arc<LogFile>, Arc<Format>)>,
}

impl Logs {
    /// Continues in new files, here and in every worker that is forked from now on. Existing
    /// workers receive the descriptors of [`to_continue_in`](Self::to_continue_in).
    pub fn reopen(&self) {
        self.files().for_each(|file| file.reopen());
    }

    /// The current sink of each log that has a path, in the order that arbiter and workers agree
    /// on.
    pub fn to_continue_in(&self) -> Vec<Arc<Sink>> {
        self.files().filter(|file| file.has_path()).map(|file| file.sink()).collect()
    }

    /// In the arbiter, writes waiting lines if their retry is due.
    pub fn tend(&self, now: Time) {
        self.error.iter().for_each(|file| file.tend(now));
    }

    /// When [`tend`](Self::tend) has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.error.as_ref().and_then(|file| file.deadline())
    }

    /// In a process other than a worker, writes waiting lines and the number of lost lines, for at
    /// most 100 ms. Called last before the process ends.
    pub fn flush(&self) {
        let until = sys::now() + FLUSH;
        if let Some(file) = &self.error {
            file.flush(FLUSH);
            file.report_lost(sys::now());
            file.flush(until - sys::now());
        }
    }

    /// The logs of a worker, in the worker's process. An access log starts a thread.
    ///
    /// # Errors
    ///
    /// As pthread_create(3).
    pub fn start(&self) -> io::Result<WorkerLogs> {
        let start =
            |(file, format): &(Arc<LogFile>, Arc<Format>)| AccessLog::start(file.clone(), format.clone());
        let access = self.access.as_ref().map(start).transpose()?.map(Arc::new);
        Ok(WorkerLogs { files: self.files().cloned().collect(), error: self.error.clone(), access })
    }

    fn files(&self) -> impl Iterator<Item = &Arc<LogFile>> {
        self.error.iter().chain(self.access.as_ref().map(|(file, _)| file))
    }
}

/// The logs of a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerLogs {
    /// All files, in the order of [`Logs::to_continue_in`].
    files: Vec<Arc<LogFile>>,
    error: Option<Arc<LogFile>>,
    access: Option<Arc<AccessLog>>,
}

impl WorkerLogs {
    /// Waits until all lines are written, for at most 100 ms. Called last before a worker ends.
    pub fn flush(&self) {
        let until = sys::now() + FLUSH;
        self.access.iter().for_each(|log| log.flush(FLUSH));
        // The error log has the number of lines that the access log lost, so it comes last.
        self.error.iter().for_each(|file| file.flush(until - sys::now()));
    }

    /// The access log, if there is one.
    pub(in crate::worker) fn access(&self) -> Option<&Arc<AccessLog>> {
        self.access.as_ref()
    }

    /// Writes waiting lines if their retry is due.
    pub(in crate::worker) fn tend(&self, now: Time) {
        self.error.iter().for_each(|file| file.tend(now));
    }

    /// When [`tend`](Self::tend) has something to do.
    pub(in crate::worker) fn deadline(&self) -> Option<Time> {
        self.error.as_ref().and_then(|file| file.deadline())
    }

    /// Continues in the descriptors that the arbiter has opened.
    ///
    /// # Errors
    ///
    /// Some are missing: all old files are kept.
    pub(in crate::worker) fn continue_in(&self, opened: Vec<OwnedFd>) -> Result<(), String> {
        let files: Vec<_> = self.files.iter().filter(|file| file.has_path()).collect();
        if files.len() != opened.len() {
            return Err(format!("{} of {} descriptors received", opened.len(), files.len()));
        }
        files.into_iter().zip(opened).for_each(|(file, fd)| file.continue_in(fd));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
