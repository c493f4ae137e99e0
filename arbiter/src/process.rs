//! What the server's processes are to the system that they run on: where they are, as whom, and what they are called.
//!
//! The arbiter stays who it was started as, so that it can bind again, write its pidfile and end its workers. A
//! worker changes after the fork, before anything of the application runs; from then on it has no way back
//! (credentials(7)).

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{self, Gid, Uid, getegid, geteuid, initgroups, setgroups, setresgid, setresuid};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::{Outcome, sys};

/// What the processes are to their system. Default: what the arbiter was started as.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ProcessConfig {
    /// Where the arbiter writes its pid while it runs. Default: nowhere.
    pub pidfile: Option<PathBuf>,
    /// Where all processes are, and where relative paths start, those of the pidfile and of unix sockets too.
    pub directory: Option<PathBuf>,
    /// Permissions that new files, and unix sockets, do not have (umask(2)).
    pub umask: Option<u32>,
    /// Environment variables. Names are not empty, and have no `=`.
    pub variables: Vec<(String, String)>,
    /// Who workers run as, with all groups of that user (initgroups(3)). Unix sockets are given to it.
    pub user: Option<User>,
    /// The group that workers run as. Default: the first one of `user`.
    pub group: Option<Group>,
    /// What ps(1) shows behind the role of a process, in brackets. Default: nothing.
    pub name: Option<String>,
}

impl ProcessConfig {
    /// In the arbiter, before anything is opened: goes where all processes are to be.
    pub(crate) fn enter(&self) -> Result<(), Outcome> {
        if let Some(directory) = &self.directory {
            std::env::set_current_dir(directory).map_err(|error| {
                Outcome::internal(&format!("change to the directory {directory:?}"), &error)
            })?;
        }
        if let Some(mask) = self.umask {
            umask(Mode::from_raw_mode(mask));
        }
        sys::set_variables(&self.variables);
        Ok(())
    }

    /// In a worker: becomes its user and group, for good.
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

    /// Who workers are to be, where that is set.
    pub(crate) fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        let gid = self.group.as_ref().map(|group| group.0);
        (self.user.as_ref().map(|user| user.uid), gid.or_else(|| self.user.as_ref()?.gid))
    }

    /// What ps(1) is to show of a process: `remuda: worker 0 [NAME]`.
    pub(crate) fn title(&self, role: &str) -> String {
        let name = self.name.as_ref().map(|name| format!(" [{name}]")).unwrap_or_default();
        format!("remuda: {role}{name}")
    }
}

/// A user of the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    uid: Uid,
    /// None, like the group, for one that no database has.
    name: Option<CString>,
    gid: Option<Gid>,
}

impl User {
    /// The user with this name (getpwnam(3)) or number. A number may be one that no database has.
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

    /// Whether this process may become this user: it is, or it is root.
    pub fn is_allowed(&self) -> bool {
        geteuid().is_root() || geteuid() == self.uid
    }

    /// Whether a group has to be named for it, because no database does.
    pub fn lacks_group(&self) -> bool {
        self.gid.is_none()
    }
}

/// A group of the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group(Gid);

impl Group {
    /// The group with this name (getgrnam(3)) or number. A number may be one that no database has.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn find(text: &str) -> io::Result<Option<Self>> {
        let named = unistd::Group::from_name(text)?.map(|group| group.gid);
        Ok(named.or_else(|| number(text).map(Gid::from_raw)).map(Self))
    }

    /// Whether this process may become a member of this group alone: it is, or it is root.
    pub fn is_allowed(&self) -> bool {
        geteuid().is_root() || getegid() == self.0
    }
}

/// An id: digits and nothing else. The highest number stands for none (setresuid(2)).
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests;
