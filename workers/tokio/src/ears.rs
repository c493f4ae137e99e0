//! The descriptors of control and inbox, as the runtime waits for them.

use std::future::{pending, poll_fn};
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::task::Poll;

use remuda_core::worker::{Control, Inbox};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// Waits for orders and signals, and reads neither.
pub(crate) struct Ears {
    orders: UnixStream,
    signals: pipe::Receiver,
}

impl Ears {
    /// # Errors
    ///
    /// As dup(2) and epoll_ctl(2).
    pub(crate) fn new(control: &Control) -> io::Result<Self> {
        let [orders, signals] = control.sources();
        Ok(Self {
            orders: UnixStream::from_std(StdUnixStream::from(orders.try_clone_to_owned()?))?,
            signals: pipe::Receiver::from_owned_fd(signals.try_clone_to_owned()?)?,
        })
    }

    /// Waits until there may be something to take in. The arbiter's end is heard for ever once it has come, so that
    /// it is listened to only while there is one.
    pub(crate) async fn hear(&self, arbiter: bool) {
        poll_fn(|task| {
            let order = arbiter && self.orders.poll_read_ready(task).is_ready();
            let signal = self.signals.poll_read_ready(task).is_ready();
            if order || signal { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        // All that is there now is taken in next; only what comes after that is to be heard again.
        let _ = self.orders.try_io(Interest::READABLE, nothing_left);
        let _ = self.signals.try_io(nothing_left);
    }
}

/// Waits for connections that other processes hand over, and takes none.
pub(crate) struct Door(Option<UnixStream>);

impl Door {
    /// # Errors
    ///
    /// As dup(2) and epoll_ctl(2).
    pub(crate) fn new(inbox: &Inbox) -> io::Result<Self> {
        let queue = inbox.source().map(|queue| queue.try_clone_to_owned()).transpose()?;
        queue.map(|queue| UnixStream::from_std(StdUnixStream::from(queue))).transpose().map(Self)
    }

    /// Waits until somebody may be there. An end is heard for ever once it has come, so that it is told once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn knock(&mut self) {
        let Some(queue) = &self.0 else { return pending().await };
        let ended = queue.ready(Interest::READABLE).await.map_or(true, |ready| ready.is_read_closed());
        let _ = queue.try_io(Interest::READABLE, nothing_left);
        if ended {
            self.0 = None;
        }
    }
}

fn nothing_left() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}
