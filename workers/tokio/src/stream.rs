//! A socket registered with the tokio runtime, as a transport.

use std::cell::OnceCell;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::task::{Context, Poll};

use remuda_core::machine::{Interest, Transport, Wants};
use remuda_core::pump::Readiness;
use remuda_core::worker::{Socket, task_loop};
use tokio::io::Interest as Direction;
use tokio::net::UnixStream;

/// A connected socket on its task. The runtime remembers its readiness; a direction that is not
/// ready is not tried.
///
/// tokio's type for a unix stream holds TCP sockets as well: it only reports readiness. The system
/// calls are those of [`Socket`], which work for both.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: UnixStream,
    /// Directions whose next call bypasses the runtime's readiness, which may be out of date.
    look: Interest,
    /// A second registration of the same socket, made once the peer has ended its side. It is kept:
    /// a new registration would report the present state at once, and each wake-up of the task
    /// starts a new wait.
    twin: OnceCell<Option<Box<Self>>>,
}

impl Stream {
    /// Registers `socket` with the runtime.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixStream::from_std(StdUnixStream::from(socket))?;
        Ok(Self { socket, look: Interest::NONE, twin: OnceCell::new() })
    }

    /// Makes the call if the socket is ready. Clears the readiness after a call that moved less
    /// than `offered`, and after one that would block: nothing more can be moved until epoll
    /// reports the socket again.
    fn call(
        &self,
        direction: Direction,
        offered: usize,
        call: impl FnOnce(&mut Socket<BorrowedFd<'_>>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let result = self.socket.try_io(direction, || match call(&mut Socket::new(self.socket.as_fd())) {
            Ok(n) if n < offered => {
                moved = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        });
        moved.map_or(result, Ok)
    }

    /// `None` if the process has no descriptor left for it.
    fn twin(&self) -> Option<&Self> {
        let register = || self.as_fd().try_clone_to_owned().and_then(Self::new).ok().map(Box::new);
        self.twin.get_or_init(register).as_deref()
    }
}

impl task_loop::Stream for Stream {
    fn poll_ready(&self, interest: Interest, task: &mut Context<'_>) -> Poll<()> {
        // An error means that the runtime is ending; the next call reports it.
        let read = interest.read && self.socket.poll_read_ready(task).is_ready();
        let write = interest.write && self.socket.poll_write_ready(task).is_ready();
        if read || write { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reports both directions as ready after every wake-up: the runtime knows the true state, and
    /// `call` consults it.
    fn readiness(&self) -> Readiness {
        Readiness { readable: true, writable: true, ..Readiness::default() }
    }

    async fn closed(&self, read_closed: bool) -> Readiness {
        if !read_closed {
            // Clients send no urgent data, so PRIORITY reports only the end of this direction.
            let _ = self.socket.ready(Direction::ERROR | Direction::PRIORITY).await;
            return Readiness { read_closed: true, ..Readiness::default() };
        }
        let broken = Readiness { broken: true, ..Readiness::default() };
        // The end of the other direction is reported as writable, and the socket is writable
        // anyway. Only the second registration may clear that readiness, so that the next report is
        // news.
        let Some(twin) = self.twin() else {
            let _ = self.socket.ready(Direction::ERROR).await;
            return broken;
        };
        while let Ok(ready) = twin.socket.ready(Direction::ERROR | Direction::WRITABLE).await {
            if ready.is_error() || ready.is_write_closed() {
                break;
            }
            let _ = twin.call(Direction::WRITABLE, 1, |_| Ok(0));
        }
        broken
    }
}

impl Transport for Stream {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if mem::take(&mut self.look.read) {
            return Socket::new(self.as_fd()).try_read(buffer);
        }
        self.call(Direction::READABLE, buffer.len(), |socket| socket.try_read(buffer))
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if mem::take(&mut self.look.write) {
            return Socket::new(self.as_fd()).try_write(slices);
        }
        let offered = slices.iter().map(|slice| slice.len()).sum();
        self.call(Direction::WRITABLE, offered, |socket| socket.try_write(slices))
    }

    fn close_write(&mut self) -> io::Result<()> {
        Socket::new(self.socket.as_fd()).close_write()
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }

    fn look(&mut self) {
        self.look = Interest { read: true, write: true };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
