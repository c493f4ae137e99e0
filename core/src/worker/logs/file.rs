//! Files that logs are written to: shared by processes, and opened anew when somebody has moved them away.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::access_log::{AccessLog, Format};

/// A file that is only ever appended to (open(2), `O_APPEND`): each write is one line or several, so that all processes
/// of a server can share it.
#[derive(Debug)]
pub struct LogFile {
    /// None for what came with the process and stays.
    path: Option<PathBuf>,
    current: Mutex<Arc<OwnedFd>>,
}

impl LogFile {
    /// The file at `path`, which is made if it is not there, with mode 0644 less the umask. A FIFO may be one too, with
    /// or without a reader; what it has no room for is lost.
    ///
    /// # Errors
    ///
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = absolute(path)?;
        let current = Mutex::new(Arc::new(open(&path)?));
        Ok(Self { path: Some(path), current })
    }

    /// A stream that is open already, such as standard output. Nothing is opened anew there.
    pub fn stream(fd: OwnedFd) -> Self {
        Self { path: None, current: Mutex::new(Arc::new(fd)) }
    }

    /// Goes on in the file that is at its path now. If there cannot be one, the old file is kept, and the log says so.
    pub fn reopen(&self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(fd) => *self.lock() = Arc::new(fd),
            Err(error) => tracing::error!("cannot reopen the log {path:?}, the old file is kept: {error}"),
        }
    }

    /// What is written to now.
    pub(super) fn current(&self) -> Arc<OwnedFd> {
        self.lock().clone()
    }

    /// Never held while somebody writes, which may take long.
    fn lock(&self) -> MutexGuard<'_, Arc<OwnedFd>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&*self.current(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Not to wait concerns FIFOs alone (fifo(7)): neither for a reader here nor, later, for room.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let how = OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    match openat(CWD, path, how | OFlags::WRONLY, mode) {
        // A FIFO without a reader: what is written waits in it for one.
        Err(Errno::NXIO) => Ok(openat(CWD, path, how | OFlags::RDWR, mode)?),
        result => Ok(result?),
    }
}

/// The logs of a server, as its arbiter holds them.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Logs {
    /// Where the program's own log is written, if that is to be reopened. Default: nowhere that is.
    pub error: Option<Arc<LogFile>>,
    /// Where each request is noted, and how. Default: nowhere.
    pub access: Option<(Arc<LogFile>, Arc<Format>)>,
}

impl Logs {
    /// Goes on in new files, here and in every worker that is born from now on.
    pub fn reopen(&self) {
        let access = self.access.as_ref().map(|(file, _)| file);
        self.error.iter().chain(access).for_each(|file| file.reopen());
    }

    /// Those of a worker, in its own process. With an access log that starts a thread.
    ///
    /// # Errors
    ///
    /// As pthread_create(3).
    pub fn start(&self) -> io::Result<WorkerLogs> {
        let start =
            |(file, format): &(Arc<LogFile>, Arc<Format>)| AccessLog::start(file.clone(), format.clone());
        let access = self.access.as_ref().map(start).transpose()?.map(Arc::new);
        Ok(WorkerLogs { error: self.error.clone(), access })
    }
}

/// The logs of a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerLogs {
    error: Option<Arc<LogFile>>,
    access: Option<Arc<AccessLog>>,
}

impl WorkerLogs {
    /// Waits until everything is written, for at most a second. The last thing that a worker does.
    pub fn flush(&self) {
        self.access.iter().for_each(|log| log.flush(Duration::from_secs(1)));
    }

    /// The access log, if there is one.
    pub(super) fn access(&self) -> Option<&Arc<AccessLog>> {
        self.access.as_ref()
    }

    /// Goes on in new files.
    pub(super) fn reopen(&self) {
        self.error.iter().for_each(|file| file.reopen());
        self.access.iter().for_each(|log| log.reopen());
    }
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
