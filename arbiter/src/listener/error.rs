//! Errors of binding listeners.

use std::io;

use remuda_core::worker::Bound;
use rustix::io::Errno;
use thiserror::Error;

use crate::config::Bind;

/// Why a listener cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// No address is configured.
    #[error("no address to listen on; name at least one")]
    Nowhere,
    /// An address is given twice.
    #[error("cannot listen on {bind} twice; name it once")]
    Twice {
        /// The address.
        bind: Bind,
    },
    /// The address overlaps another address of this server.
    #[error("cannot listen on {bind}: this server listens on {other} already, and the two overlap")]
    Overlap {
        /// The address.
        bind: Bind,
        /// The address that was bound before.
        other: Bound,
    },
    /// An address of a reload overlaps one that is still bound.
    #[error(
        "cannot listen on {bind} while this server listens on {other}, and the two overlap; that needs an upgrade"
    )]
    NeedsUpgrade {
        /// The address.
        bind: Bind,
        /// The address that is held.
        other: Bound,
    },
    /// A descriptor that was not inherited at the start cannot be added by a reload.
    #[error("cannot listen on {bind}, which the server was not started with; that needs a new start")]
    NeedsStart {
        /// The address.
        bind: Bind,
    },
    /// Another program listens on the address.
    #[error("cannot listen on {bind}: address already in use; another program listens there")]
    InUse {
        /// The address.
        bind: Bind,
    },
    /// Another server binds a socket in the same directory at this moment, and a reload does not
    /// wait for it (D21).
    #[error("cannot listen on {bind} now: another process holds the lock of its directory; try again")]
    DirectoryLocked {
        /// The address.
        bind: Bind,
    },
    /// The path is a file that is not a socket, and is not removed.
    #[error("cannot listen on {bind}: the file exists and is not a socket; remove it or choose another path")]
    NotASocket {
        /// The address.
        bind: Bind,
    },
    /// The path is empty. The kernel would choose a name that no client knows (unix(7), autobind).
    #[error("cannot listen on a unix socket without a path; write unix:PATH")]
    NoPath,
    /// The path does not fit into a socket address (unix(7)).
    #[error("cannot listen on {bind}: the path is {len} bytes, limit {PATH_MAX}")]
    PathTooLong {
        /// The address.
        bind: Bind,
        /// Its length in bytes.
        len: usize,
    },
    /// The service manager passed on no such listener.
    #[error(
        "cannot listen on {bind}: the service manager passed on no such listener; it passed on {}",
        list(passed)
    )]
    NotPassed {
        /// The address.
        bind: Bind,
        /// The names of the listeners that it passed on.
        passed: Vec<String>,
    },
    /// The descriptor is not a listening stream socket.
    #[error("cannot listen on {bind}: {problem}; pass a bound and listening TCP or unix socket")]
    BadDescriptor {
        /// The address.
        bind: Bind,
        /// The reason.
        problem: &'static str,
    },
    /// A system call failed for another reason.
    #[error("cannot listen on {bind}: {}{}", io::Error::from_raw_os_error(*errno), hint(bind, *errno))]
    System {
        /// The address.
        bind: Bind,
        /// Its errno(3).
        errno: i32,
    },
}

/// The longest path of a unix socket, in bytes, without the final zero.
pub(super) const PATH_MAX: usize = 107;

pub(super) fn system(bind: &Bind, errno: Errno) -> BindError {
    BindError::System { bind: bind.clone(), errno: errno.raw_os_error() }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none to this process".to_owned() } else { names.join(", ") }
}

/// Advice for frequent errors.
fn hint(bind: &Bind, errno: i32) -> &'static str {
    match (bind, Errno::from_raw_os_error(errno)) {
        (Bind::Inet(_), Errno::ACCESS) => "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
        (Bind::Inet(_), Errno::ADDRNOTAVAIL) => "; no interface of this machine has this address",
        (Bind::Unix(_), Errno::NOENT) => "; create the directory first",
        (Bind::Unix(_), Errno::PERM) => "; giving it to another user or group needs CAP_CHOWN",
        (Bind::Unix(_), Errno::ACCESS) => "; this user has no permission for the directory or the file",
        _ => "",
    }
}
