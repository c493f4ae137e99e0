//! A plain socket as a transport.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};

use crate::machine::{Interest, Transport, Wants};

/// A connected, non-blocking TCP or unix stream socket: owned, or borrowed from a runtime that
/// watches it.
#[derive(Debug)]
pub struct Socket<F = OwnedFd>(F);

impl<F: AsFd> Socket<F> {
    /// Wraps a connected, non-blocking socket.
    pub fn new(fd: F) -> Self {
        Self(fd)
    }

    /// Returns the descriptor.
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl<F: AsFd> Transport for Socket<F> {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [slice] => Ok(rustix::net::send(&self.0, slice, SendFlags::NOSIGNAL)?),
            _ => {
                let mut nothing = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(&self.0, slices, &mut nothing, SendFlags::NOSIGNAL)?)
            }
        }
    }

    fn close_write(&mut self) -> io::Result<()> {
        match rustix::net::shutdown(&self.0, Shutdown::Write) {
            Err(Errno::NOTCONN) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }
}

impl<F: AsFd> AsFd for Socket<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<F: AsRawFd> AsRawFd for Socket<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
