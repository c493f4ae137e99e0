//! A socket that the runtime watches, as a transport.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::task::{Context, Poll};

use remuda_core::machine::{Interest, Transport, Wants};
use remuda_core::pump::Readiness;
use remuda_core::worker::{Socket, task_loop};
use tokio::io::Interest as Direction;
use tokio::net::UnixStream;

/// A connected socket on its task. The runtime remembers its readiness; what is not ready is not tried.
///
/// The runtime's type for a stream between processes stands for TCP as well: it is asked when to call, and the calls
/// are those of [`Socket`], which serve both.
#[derive(Debug)]
pub(crate) struct Stream(UnixStream);

impl Stream {
    /// Lets the runtime watch `socket`.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(StdUnixStream::from(socket)).map(Self)
    }

    /// Calls if the socket is ready, and lets the runtime forget that after a call that moved less than `offered`, as
    /// after one that would block: there is nothing more until epoll reports it again.
    fn call(
        &self,
        direction: Direction,
        offered: usize,
        call: impl FnOnce(&mut Socket<BorrowedFd<'_>>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let result = self.0.try_io(direction, || match call(&mut Socket::new(self.0.as_fd())) {
            Ok(n) if n < offered => {
                moved = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        });
        moved.map_or(result, Ok)
    }
}

impl task_loop::Stream for Stream {
    fn poll_ready(&self, interest: Interest, task: &mut Context<'_>) -> Poll<()> {
        // An error is the runtime's end, and found by the next call.
        let read = interest.read && self.0.poll_read_ready(task).is_ready();
        let write = interest.write && self.0.poll_write_ready(task).is_ready();
        if read || write { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The runtime knows what is ready; every wake-up is a reason to ask it.
    fn readiness(&self) -> Readiness {
        Readiness { readable: true, writable: true, ..Readiness::default() }
    }

    async fn gone(&self) {
        // Nobody sends urgent data: of this direction, the runtime reports the end alone.
        let _ = self.0.ready(Direction::ERROR | Direction::PRIORITY).await;
        // The end of the other direction comes with room to write, which there is in any case. A registration that nobody
        // else uses can forget about that, so that what is told next is new.
        let Ok(twin) = self.as_fd().try_clone_to_owned().and_then(Self::new) else {
            let _ = self.0.ready(Direction::ERROR).await;
            return;
        };
        while let Ok(ready) = twin.0.ready(Direction::ERROR | Direction::WRITABLE).await {
            if ready.is_error() || ready.is_write_closed() {
                return;
            }
            let _ = twin.call(Direction::WRITABLE, 1, |_| Ok(0));
        }
    }
}

impl Transport for Stream {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(Direction::READABLE, buffer.len(), |socket| socket.try_read(buffer))
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        self.call(Direction::WRITABLE, offered, |socket| socket.try_write(slices))
    }

    fn close_write(&mut self) -> io::Result<()> {
        Socket::new(self.0.as_fd()).close_write()
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
