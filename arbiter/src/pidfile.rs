//! The pidfile, by which operators and tools find the arbiter.
//!
//! The process that wrote the file holds a lock on it (flock(2)) while it lives. Only the lock
//! distinguishes a running server from a dead one: pids are reused, locks end with their process.
//! The file is never visible half written: it is written under another name and then moved
//! (rename(2)). Two arbiters that start at the same time exclude each other, because replacing a
//! stale file requires its lock.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use thiserror::Error;
use tracing::info;

use crate::file::Lost;

/// The pidfile of this process. Dropping it removes the file; in a child it only closes the child's
/// copy.
#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    /// Locked.
    file: File,
    owner: Pid,
}

/// Why the pidfile could not be written.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PidfileError {
    /// The server that wrote the file is running.
    #[error(
        "cannot write the pidfile {path:?}: process {pid} runs and holds it; stop it, or choose another path"
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// The pid in the file.
        pid: String,
    },
    /// The file is not a pidfile, and must not be replaced.
    #[error(
        "cannot write the pidfile {path:?}: the file exists and holds no pid; remove it, or choose another path"
    )]
    NotAPidfile {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot write the pidfile {path:?}: {}", io::Error::from_raw_os_error(*errno))]
    System {
        /// The file.
        path: PathBuf,
        /// Its errno(3).
        errno: i32,
    },
}

/// The largest number of digits of a pid (proc_sys_kernel(5), `pid_max`).
const DIGITS: usize = 10;

/// Bytes to read of a file, enough to see whether it contains a pid and nothing else.
const LONGEST: u64 = 32;

impl Pidfile {
    /// Writes the pid of this process to `path`. The file of a dead server is replaced.
    pub(crate) fn claim(path: &Path) -> Result<Self, PidfileError> {
        let refused = |error: io::Error| system(path, &error);
        let mut new = Self::write(beside(path)).map_err(refused)?;
        loop {
            // Keeps the lock of the stale file until the new one has replaced it.
            let stale = stale(path)?;
            let how = if stale.is_some() { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            match new.rename(path, how) {
                Ok(()) => return Ok(new),
                Err(Errno::EXIST) => {} // another server was quicker
                Err(errno) => return Err(refused(errno.into())),
            }
        }
    }

    /// Moves the file, with its lock. `how` decides about an existing file.
    pub(crate) fn rename(&mut self, to: &Path, how: RenameFlags) -> Result<(), Errno> {
        renameat_with(CWD, &self.path, CWD, to, how)?;
        self.path = to.to_owned();
        Ok(())
    }

    /// Whether the file was removed or replaced.
    pub(crate) fn lost(&self) -> Option<Lost> {
        let file = self.file.metadata().ok()?;
        Lost::look(&self.path, (file.dev(), file.ino()))
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file again if it was lost, and returns whether it was. The pidfile of another
    /// server is not replaced.
    pub(crate) fn renew(&mut self) -> Result<bool, PidfileError> {
        let Some(lost) = self.lost() else { return Ok(false) };
        *self = Self::claim(&self.path)?;
        info!("pidfile {}: {lost}; written again", self.path.display());
        Ok(true)
    }

    fn write(path: PathBuf) -> io::Result<Self> {
        // A file left by a process with this pid that died between writing and moving.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        let mut new = Self { path, file, owner: getpid() };
        flock(&new.file, FlockOperation::NonBlockingLockExclusive)?;
        writeln!(new.file, "{}", new.owner)?;
        Ok(new)
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if getpid() == self.owner && is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens and locks a stale file at `path`. None if no file exists.
fn stale(path: &Path) -> Result<Option<File>, PidfileError> {
    let refused = |error: io::Error| system(path, &error);
    // A pipe would make the open wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    loop {
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        let is_file = file.metadata().map_err(refused)?.is_file();
        let mut text = String::new();
        let is_text = is_file && (&file).take(LONGEST).read_to_string(&mut text).is_ok();
        let pid = text.trim_end();
        if !is_text || pid.len() > DIGITS || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PidfileError::NotAPidfile { path: path.to_owned() });
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            Ok(()) => {} // its server ended meanwhile and removed it, or was replaced
            Err(Errno::WOULDBLOCK) => {
                return Err(PidfileError::Held { path: path.to_owned(), pid: pid.to_owned() });
            }
            Err(errno) => return Err(refused(errno.into())),
        }
    }
}

/// Whether `file` is the file at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The temporary name of a file that is to be moved to `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", getpid()));
    path.with_file_name(name)
}

fn system(path: &Path, error: &io::Error) -> PidfileError {
    PidfileError::System { path: path.to_owned(), errno: error.raw_os_error().unwrap_or_default() }
}

#[cfg(test)]
mod tests;
