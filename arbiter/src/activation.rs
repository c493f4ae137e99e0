//! Socket activation: listeners that a service manager opened and passed on (sd_listen_fds(3)).
//!
//! They are descriptors 3 and up, `LISTEN_FDS` of them, for the process `LISTEN_PID`; `LISTEN_FDNAMES` names them, with
//! colons between. They stay the manager's: used as those of `fd://N` are, and never shut down or unlinked (D3).

use std::env;
use std::iter;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::getpid;
use tracing::warn;

use crate::listener::BindError;
use crate::{Bind, sys};

/// What is passed on, and to whom.
pub(crate) const VARIABLES: [&str; 3] = [PID, COUNT, NAMES];

const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";

/// The first descriptor that is passed on (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// Whether a service manager has passed listeners on to this process.
pub fn is_socket_activated() -> bool {
    !Passed::of_process().0.is_empty()
}

/// The names of the descriptors that were passed on, in their order; a name may be there several times.
#[derive(Debug, Default)]
pub(crate) struct Passed(Vec<String>);

impl Passed {
    /// What was passed on to this process.
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

    /// Keeps them from the programs that workers may start, those also that nobody uses.
    pub(crate) fn close_on_exec(&self) {
        for fd in self.descriptors() {
            // One that is not open is refused where it is used.
            let _ = sys::inherited(fd).map(|fd| fcntl_setfd(fd, FdFlags::CLOEXEC));
        }
    }

    /// `binds` with the descriptors in place of what stands for them.
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
                "{unused} of the listeners that were passed on are not used; bind to systemd uses all"
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
