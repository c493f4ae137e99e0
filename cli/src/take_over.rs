//! A connection that an async application has taken over, as a stream with tokio's traits.
//!
//! Written bytes become the body of the response with status 101. That body polls the future that
//! serves the stream, so there is no other task. When the connection ends, or the drain's deadline
//! passes, the body is dropped, and the future with it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use remuda_core::app::Incoming;
use remuda_core::config::HIGH_WATER;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Takes a connection over. `bytes` comes from [`Incoming::upgrade`](crate::app::Incoming::upgrade)
/// or [`RequestInfo::upgrade`](crate::app::RequestInfo::upgrade). The result is the body of the
/// response with status 101; the connection ends with the future of `serve`.
///
/// The future learns of the drain by [`DrainSignal::drained`](crate::app::DrainSignal::drained) and
/// should end then (D13). It is polled together with the connection: it is not a task of a runtime,
/// and makes progress only while its client reads.
pub fn take_over<F>(bytes: Incoming, serve: impl FnOnce(Duplex) -> F) -> TakeOver<F>
where
    F: Future<Output = ()>,
{
    let outbox = Arc::new(Outbox::default());
    let stream = Duplex { incoming: bytes, unread: Bytes::new(), outbox: outbox.clone() };
    TakeOver { serve: Some(Box::pin(serve(stream))), outbox }
}

/// The raw bytes of a connection, in both directions.
pub struct Duplex {
    incoming: Incoming,
    unread: Bytes,
    outbox: Arc<Outbox>,
}

/// The body that [`take_over`] returns.
pub struct TakeOver<F> {
    serve: Option<Pin<Box<F>>>,
    outbox: Arc<Outbox>,
}

/// Bytes written and not yet sent, at most [`HIGH_WATER`], the limit of a connection's output.
#[derive(Default)]
struct Outbox(Mutex<State>);

#[derive(Default)]
struct State {
    bytes: BytesMut,
    /// The writer's waker, while it waits for room or for a flush.
    writer: Option<Waker>,
    /// The body's waker; `None` while the body is being polled, because it then checks by itself.
    body: Option<Waker>,
    /// Set when the body was dropped: nothing more is sent.
    closed: bool,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()>> Body for TakeOver<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let woken = self.outbox.state().body.take();
        drop(woken);
        if self.serve.as_mut().is_some_and(|serve| serve.as_mut().poll(cx).is_ready()) {
            self.serve = None;
        }
        let mut state = self.outbox.state();
        if state.bytes.is_empty() {
            state.body = Some(cx.waker().clone());
            return if self.serve.is_some() { Poll::Pending } else { Poll::Ready(None) };
        }
        let (bytes, writer) = (state.bytes.split().freeze(), state.writer.take());
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl<F> Drop for TakeOver<F> {
    fn drop(&mut self) {
        let mut state = self.outbox.state();
        state.closed = true;
        let wakers = [state.writer.take(), state.body.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => self.unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.outbox.state();
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = bytes.len().min(HIGH_WATER.saturating_sub(state.bytes.len()));
        if n == 0 && !bytes.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.bytes.extend_from_slice(&bytes[..n]);
        let body = state.body.take();
        drop(state);
        body.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(n))
    }

    /// Completes when the connection has taken all bytes; the kernel may not have.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.outbox.state();
        if state.bytes.is_empty() || state.closed {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Only flushes: the connection ends with the future that serves it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl fmt::Debug for Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Duplex").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for TakeOver<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakeOver").field("is_over", &self.serve.is_none()).finish_non_exhaustive()
    }
}
