//! Directory, user and title of the server's processes.
//!
//! The arbiter keeps the user that started it, so that it can bind again, write its pidfile and
//! signal its workers. A worker changes its user after the fork, before any code of the application
//! runs, and cannot change back (credentials(7)).

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{self, Gid, Uid, getegid, geteuid, initgroups, setgroups, setresgid, setresuid};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::sys;

/// Directory, user and title of the processes. Default: those with which the arbiter was started.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ProcessConfig {
    /// File with the arbiter's pid, while it runs. Default: none.
    pub pidfile: Option<PathBuf>,
    /// Directory of all processes, in which relative paths start, also those of the pidfile and of
    /// unix sockets.
    pub directory: Option<PathBuf>,
    /// Permissions that new files, and unix sockets, do not have (umask(2)).
    pub umask: Option<u32>,
    /// Environment variables. Names are not empty and contain no `=`.
    pub variables: Vec<(String, String)>,
    /// User of workers, with all its groups (initgroups(3)). Unix sockets are given to this user.
    pub user: Option<User>,
    /// Group of workers. Default: the first group of `user`.
    pub group: Option<Group>,
    /// Text in brackets behind the role of a process in ps(1). Default: none.
    pub name: Option<String>,
}

impl ProcessConfig {
    /// Sets directory, umask and variables of all processes. Called in the arbiter, before any file
    /// is opened.
    ///
    /// # Errors
    ///
    /// The directory cannot be entered; a sentence with the reason.
    pub(crate) fn enter(&self) -> Result<(), String> {
        if let Some(directory) = &self.directory {
            std::env::set_current_dir(directory)
                .map_err(|error| format!("cannot change to the directory {directory:?}: {error}"))?;
        }
        self.set_umask();
        sys::set_variables(&self.variables);
        Ok(())
    }

    /// Sets the [`umask`](Self::umask) of this process, if it is configured. The arbiter does so
    /// when it starts; a program that creates files before that, such as logs, calls it earlier.
    pub fn set_umask(&self) {
        if let Some(mask) = self.umask {
            umask(Mode::from_raw_mode(mask));
        }
    }

    /// Changes to the user and group of workers, for good. Called in a worker.
    pub(crate) fn assume(&self) -> io::Result<()> {
        let (uid, gid) = self.owner();
        if (uid.unwrap_or_else(geteuid), gid.unwrap_or_else(getegid)) == (geteuid(), getegid()) {
            return Ok(()); // nothing to change, and perhaps no privilege to set groups
        }
        if let Some(gid) = gid {
            match self.user.as_ref().map(|user| &user.name) {
                Some(Some(name)) => initgroups(name, gid)?,
                Some(None) => setgroups(&[gid])?,
                None => {}
            }
            setresgid(gid, gid, gid)?;
        }
        if let Some(uid) = uid {
            setresuid(uid, uid, uid)?;
        }
        Ok(())
    }

    /// User and group of workers, if set.
    pub(crate) fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        let gid = self.group.as_ref().map(|group| group.0);
        (self.user.as_ref().map(|user| user.uid), gid.or_else(|| self.user.as_ref()?.gid))
    }

    /// The title of a process in ps(1): `remuda: worker 0 [NAME]`.
    pub(crate) fn title(&self, role: &str) -> String {
        let name = self.name.as_ref().map(|name| format!(" [{name}]")).unwrap_or_default();
        format!("remuda: {role}{name}")
    }
}

/// A user of the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    uid: Uid,
    /// None, like the group, if the number is not in the user database.
    name: Option<CString>,
    gid: Option<Gid>,
}

impl User {
    /// Finds the user with this name (getpwnam(3)) or number. A number need not be in the database.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn find(text: &str) -> io::Result<Option<Self>> {
        let known = |user: unistd::User| Self {
            uid: user.uid,
            name: CString::new(user.name).ok(),
            gid: Some(user.gid),
        };
        if let Some(user) = unistd::User::from_name(text)? {
            return Ok(Some(known(user)));
        }
        let Some(uid) = number(text).map(Uid::from_raw) else { return Ok(None) };
        let unknown = || Self { uid, name: None, gid: None };
        Ok(Some(unistd::User::from_uid(uid)?.map_or_else(unknown, known)))
    }

    /// Whether this process may run as this user: it does already, or it is root.
    pub fn is_allowed(&self) -> bool {
        geteuid().is_root() || geteuid() == self.uid
    }

    /// Whether a group has to be configured, because the user is not in the database.
    pub fn lacks_group(&self) -> bool {
        self.gid.is_none()
    }
}

/// A group of the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group(Gid);

impl Group {
    /// Finds the group with this name (getgrnam(3)) or number. A number need not be in the
    /// database.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn find(text: &str) -> io::Result<Option<Self>> {
        let named = unistd::Group::from_name(text)?.map(|group| group.gid);
        Ok(named.or_else(|| number(text).map(Gid::from_raw)).map(Self))
    }

    /// Whether this process may run with this group: it does already, or it is root.
    pub fn is_allowed(&self) -> bool {
        geteuid().is_root() || getegid() == self.0
    }
}

/// Parses an id: digits only. The highest number means none (setresuid(2)) and is refused.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests;
