//! Unix sockets and their files.
//!
//! The umask gives the file's mode, and the file is given to the workers' user before a client can
//! connect. The file of a dead server is replaced; a file on which a process listens is not.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use rustix::fs::{AtFlags, CWD, FlockOperation, chownat, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, bind, connect, listen};

use super::error::{BindError, PATH_MAX, system};
use super::{Owner, stream};
use crate::config::Bind;
use crate::file::{Identity, identity};

/// Binds and listens at `path`. `waits`: this is a start, which may wait for another one in the same
/// directory; a reload may not (D21).
pub(super) fn unix(
    at: &Bind,
    path: &Path,
    backlog: i32,
    owner: Owner,
    waits: bool,
) -> Result<OwnedFd, BindError> {
    let refused = |errno| system(at, errno);
    match path.as_os_str().len() {
        0 => return Err(BindError::NoPath),
        len if len > PATH_MAX => return Err(BindError::PathTooLong { bind: at.clone(), len }),
        _ => {}
    }
    let socket = stream(AddressFamily::UNIX).map_err(refused)?;
    if let Some(name) = abstract_name(path) {
        let addr = SocketAddrUnix::new_abstract_name(name).map_err(refused)?;
        return match bind(&socket, &addr).and_then(|()| listen(&socket, backlog)) {
            Ok(()) => Ok(socket),
            Err(Errno::ADDRINUSE) => Err(BindError::InUse { bind: at.clone() }),
            Err(errno) => Err(refused(errno)),
        };
    }
    let addr = SocketAddrUnix::new(path).map_err(refused)?;
    let _alone = alone_in(path, waits).map_err(|Held| BindError::DirectoryLocked { bind: at.clone() })?;
    match bind(&socket, &addr) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(at, path, &addr)?;
            bind(&socket, &addr).map_err(refused)?;
        }
        result => result.map_err(refused)?,
    }
    // The owner is set before listen(2): until then no client can connect.
    give(path, owner).and_then(|()| listen(&socket, backlog)).map_err(|errno| {
        let _ = fs::remove_file(path);
        system(at, errno)
    })?;
    Ok(socket)
}

/// The name of an abstract socket, if `path` has the form `@NAME` of [`unix_name`]. An abstract
/// socket is no file: it has neither mode nor owner, and a dead server leaves nothing behind.
pub(super) fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_bytes().strip_prefix(b"@")
}

/// Another process holds the lock of a directory.
struct Held;

/// Locks the directory of a socket (flock(2)). Without the lock, two servers that start at the same
/// time could each take the other's file for a stale one, between bind and listen. If another
/// process holds the lock, a start waits for a second and then goes on without it; otherwise this
/// is an error. None if the directory cannot be locked at all.
fn alone_in(path: &Path, waits: bool) -> Result<Option<File>, Held> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(directory) = File::open(parent.unwrap_or_else(|| Path::new("."))) else { return Ok(None) };
    for _ in 0..100 {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if waits => thread::sleep(Duration::from_millis(10)),
            Err(Errno::WOULDBLOCK) => return Err(Held),
            result => return Ok(result.ok().map(|()| directory)),
        }
    }
    Ok(None)
}

fn give(path: &Path, (uid, gid): Owner) -> Result<(), Errno> {
    let [uid, gid] = [uid.map(Uid::as_raw), gid.map(Gid::as_raw)];
    if (uid, gid) == (None, None) {
        return Ok(());
    }
    let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
    chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes the socket file of a dead server. A connect tells whether the server is dead.
fn remove_stale(at: &Bind, path: &Path, addr: &SocketAddrUnix) -> Result<(), BindError> {
    let refused = |errno| system(at, errno);
    if fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
        return Err(BindError::NotASocket { bind: at.clone() });
    }
    let probe = stream(AddressFamily::UNIX).map_err(refused)?;
    match connect(&probe, addr) {
        // AGAIN: a process listens, and its backlog is full.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse { bind: at.clone() }),
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| refused(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
        }
        Err(Errno::NOENT) => Ok(()), // removed meanwhile
        Err(errno) => Err(refused(errno)),
    }
}

/// The path of a socket. An abstract name is written `@name`, as tools do.
pub(super) fn unix_name(addr: &SocketAddrUnix) -> PathBuf {
    use std::ffi::OsStr;
    match (addr.path_bytes(), addr.abstract_name()) {
        (Some(path), _) => OsStr::from_bytes(path).into(),
        (None, name) => format!("@{}", String::from_utf8_lossy(name.unwrap_or_default())).into(),
    }
}

pub(super) fn unlink(path: &Path, file: Option<Identity>) {
    if file.is_some() && file == identity(path) {
        let _ = fs::remove_file(path);
    }
}
