//! Listeners inherited as descriptors: bound by another program, and never shut down or unlinked
//! (D3).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use remuda_core::worker::Bound;
use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::{SocketAddrUnix, SocketType, getsockname, sockopt};

use super::error::BindError;
use super::unix::unix_name;
use crate::config::Bind;
use crate::sys;

/// Takes over an inherited listener. The kernel reports its address.
pub(super) fn inherited(at: &Bind, fd: i32) -> Result<(OwnedFd, Bound), BindError> {
    let mut bound = None;
    let result = sys::adopt(fd, |socket| {
        bound = Some(examine(socket)?);
        Ok::<_, Problem>(())
    });
    let socket = result.map_err(|Problem(problem)| BindError::BadDescriptor { bind: at.clone(), problem })?;
    Ok((socket, bound.expect("examined before it was adopted")))
}

pub(super) fn examine(socket: BorrowedFd<'_>) -> Result<Bound, Problem> {
    match sockopt::socket_type(socket) {
        Ok(SocketType::STREAM) => {}
        Ok(_) => return Err(Problem("it is a socket, but not a stream")),
        Err(_) => return Err(Problem("it is not a socket")),
    }
    if !sockopt::socket_acceptconn(socket).is_ok_and(|listens| listens) {
        return Err(Problem("it is a socket, but does not listen"));
    }
    let strange = |_| Problem("it is neither a TCP nor a unix socket");
    let name = getsockname(socket).map_err(strange)?;
    let bound = match SocketAddr::try_from(name.clone()) {
        Ok(addr) => Bound::Inet(addr),
        Err(_) => Bound::Unix(unix_name(&SocketAddrUnix::try_from(name).map_err(strange)?)),
    };
    let unusable = |_| Problem("it cannot be made non-blocking");
    ioctl_fionbio(socket, true).map_err(unusable)?;
    fcntl_setfd(socket, FdFlags::CLOEXEC).map_err(unusable)?;
    Ok(bound)
}

/// Why an inherited descriptor cannot be used.
pub(super) struct Problem(&'static str);

impl From<io::Error> for Problem {
    fn from(_: io::Error) -> Self {
        Self("it is not open")
    }
}
