//! Files of a running server that are missing, for `doctor`.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::config::{ArbiterConfig, Bind};

/// Lists the missing files of a running server with this configuration, one sentence each: unix
/// sockets of listeners, control socket and pidfile. The list is empty if no server runs, judged by
/// the lock on the pidfile and by the control socket. Connects to the control socket, and changes
/// nothing.
pub fn lost_files(config: &ArbiterConfig) -> Vec<String> {
    let ArbiterConfig { process, binds, control_socket, admin, .. } = config;
    let at = |path: &Path| process.directory.as_deref().unwrap_or_else(|| Path::new("")).join(path);
    let pidfile = process.pidfile.as_deref().map(at);
    let control = control_socket.as_deref().map(at);
    let runs = pidfile.as_deref().is_some_and(is_locked)
        || control.as_deref().is_some_and(|path| UnixStream::connect(path).is_ok());
    if !runs {
        return Vec::new();
    }
    let unix = |bind: &Bind| match bind {
        Bind::Unix(path) => Some(at(path)),
        _ => None,
    };
    let named = |what: &'static str| move |path: PathBuf| (what, path);
    let listeners = binds.iter().filter_map(unix).map(named("unix socket"));
    let all = listeners
        .chain(control.map(named("control socket")))
        .chain(admin.as_ref().and_then(unix).map(named("admin listener")))
        .chain(pidfile.map(named("pidfile")));
    let is_gone = |path: &Path| !path.as_os_str().to_string_lossy().starts_with('@') && is_missing(path);
    all.filter(|(_, path)| is_gone(path))
        .map(|(what, path)| format!("the {what} {} of the running server is gone", path.display()))
        .collect()
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether a server holds the lock on this pidfile.
fn is_locked(path: &Path) -> bool {
    let file = File::open(path).ok();
    file.is_some_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK))
}
