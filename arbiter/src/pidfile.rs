//! The pidfile: where people and their tools find the arbiter.
//!
//! Whoever wrote it holds a lock on it (flock(2)) for as long as it lives, and only that tells a server that runs from one
//! that died: a pid is used again, a lock goes with its holder. The file is never seen half written, because it is
//! written beside its place and then moved there (rename(2)), and two arbiters that start at once do not get past each
//! other, because whoever replaces a file that was left behind holds its lock meanwhile.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use thiserror::Error;

/// A pidfile of this process. Dropping it there removes it; in a child it only closes the child's copy.
#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    /// Its lock is held.
    file: File,
    owner: Pid,
}

/// Why there is no pidfile.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PidfileError {
    /// The server that wrote the file lives.
    #[error(
        "cannot write the pidfile {path:?}: process {pid} runs and holds it; stop it, or choose another path"
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// The process, as it stands there.
        pid: String,
    },
    /// The file is something else, and not ours to replace.
    #[error(
        "cannot write the pidfile {path:?}: the file exists and holds no pid; remove it, or choose another path"
    )]
    NotAPidfile {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot write the pidfile {path:?}: {}", io::Error::from_raw_os_error(*errno))]
    System {
        /// The file.
        path: PathBuf,
        /// Its reason (errno(3)).
        errno: i32,
    },
}

/// No pid has more (proc_sys_kernel(5), `pid_max`).
const DIGITS: usize = 10;

/// As much of a file as shows whether there is a pid in it and nothing else.
const LONGEST: u64 = 32;

impl Pidfile {
    /// Writes the pid of this process to `path`; a file that a dead server left there is replaced.
    pub(crate) fn claim(path: &Path) -> Result<Self, PidfileError> {
        let refused = |error: io::Error| system(path, &error);
        let mut new = Self::write(beside(path)).map_err(refused)?;
        loop {
            // Held until the new file has taken its place.
            let stale = stale(path)?;
            let how = if stale.is_some() { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            match new.rename(path, how) {
                Ok(()) => return Ok(new),
                Err(Errno::EXIST) => {} // another server was quicker
                Err(errno) => return Err(refused(errno.into())),
            }
        }
    }

    /// Moves it, with its lock; `how` says what becomes of a file that is there.
    pub(crate) fn rename(&mut self, to: &Path, how: RenameFlags) -> Result<(), Errno> {
        renameat_with(CWD, &self.path, CWD, to, how)?;
        self.path = to.to_owned();
        Ok(())
    }

    fn write(path: PathBuf) -> io::Result<Self> {
        let _ = fs::remove_file(&path); // of a process that had this pid, and died between writing and moving
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

/// The file at `path`, locked, if it was left behind; none if there is none.
fn stale(path: &Path) -> Result<Option<File>, PidfileError> {
    let refused = |error: io::Error| system(path, &error);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32; // a pipe would make the open wait
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

/// Whether `file` is what the path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Where this process writes a file that is to be moved to `path`.
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
