//! Socket activation: listeners from a service manager (sd_listen_fds(3)).
//!
//! They are `LISTEN_FDS` descriptors from 3 upwards, for the process `LISTEN_PID`. `LISTEN_FDNAMES`
//! has their names, separated by colons. They belong to the manager: the server uses them like
//! those of `fd://N`, and never shuts them down or unlinks them (D3).

use std::env;
use std::iter;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::getpid;
use tracing::warn;

use crate::config::Bind;
use crate::listener::BindError;
use crate::sys;

/// The variables of socket activation.
pub(crate) const VARIABLES: [&str; 3] = [PID, COUNT, NAMES];

const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";

/// The first descriptor (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// Whether a service manager passed listeners to this process.
pub fn is_socket_activated() -> bool {
    !Passed::of_process().0.is_empty()
}

/// The names of the descriptors, in their order. A name may occur several times.
#[derive(Debug, Default)]
pub(crate) struct Passed(Vec<String>);

impl Passed {
    /// Reads the variables of this process.
    pub(crate) fn of_process() -> Self {
        Self::read(|name| env::var(name).ok(), &getpid().to_string())
    }

    fn read(variable: impl Fn(&str) -> Option<String>, pid: &str) -> Self {
        if variable(PID).as_deref() != Some(pid) {
            return Self::default();
        }
        let count = variable(COUNT).and_then(|count| count.parse::<u16>().ok()).unwrap_or_default();
        let names = variable(NAMES);
        let names = names.iter().flat_map(|names| names.split(':')).chain(iter::repeat("unknown"));
        Self(names.take(count.into()).map(str::to_owned).collect())
    }

    /// Sets close-on-exec on all descriptors, also unused ones, so that programs started by workers
    /// do not inherit them.
    pub(crate) fn close_on_exec(&self) {
        for fd in self.descriptors() {
            // A descriptor that is not open is refused where it is used.
            let _ = sys::inherited(fd).map(|fd| fcntl_setfd(fd, FdFlags::CLOEXEC));
        }
    }

    /// Replaces `systemd` and `fd://NAME` in `binds` by descriptors.
    pub(crate) fn resolve(&self, binds: &[Bind]) -> Result<Vec<Bind>, BindError> {
        let mut resolved = Vec::new();
        for bind in binds {
            let before = resolved.len();
            match bind {
                Bind::Activated => resolved.extend(self.descriptors().map(Bind::Fd)),
                Bind::Named(name) => {
                    let named = self.descriptors().zip(&self.0).filter(|(_, other)| *other == name);
                    resolved.extend(named.map(|(fd, _)| Bind::Fd(fd)));
                }
                other => resolved.push(other.clone()),
            }
            if resolved.len() == before {
                return Err(BindError::NotPassed { bind: bind.clone(), passed: self.0.clone() });
            }
        }
        let unused = self.descriptors().filter(|fd| !resolved.contains(&Bind::Fd(*fd))).count();
        if unused > 0 {
            warn!(
                unused,
                "{unused} of the listeners from the service manager are not used; bind systemd uses all"
            );
        }
        Ok(resolved)
    }

    fn descriptors(&self) -> impl Iterator<Item = i32> + use<> {
        (FIRST..).take(self.0.len())
    }
}

#[cfg(test)]
mod tests;
