//! The part of remuda that decides and does nothing: an HTTP/1.1 connection machine, the drain contract and the
//! seam to applications, without I/O.
//!
//! Bytes and time go in; bytes, interest, a deadline and one reason for the end come out:
//!
//! ```text
//!   socket ──read──▶ handle_read ─┐                            ┌─▶ Head, BodyReader ─▶ your handler
//!                                 ├─▶ Connection ── Session ───┤
//!   socket ◀─write── transmit ◀───┘        ▲                   └─◀ Responder ◀──────── its answer
//!                                          │
//!                    now, drain, policy ───┘
//! ```
//!
//! Without the `worker` feature nothing here knows a descriptor, a socket, a thread or a clock. With it,
//! [`worker`] adds the Unix pieces that all backends share. What this crate does not do: fork, parse settings,
//! choose a backend, or log anywhere by itself.
//!
//! # A walk through one exchange
//!
//! ```
//! use std::sync::Arc;
//! use std::task::Waker;
//! use std::time::Duration;
//!
//! use remuda_core::app::{App, AppError, BodyReader, Counters, DrainSignal, DrainWatch, Responder, Service, Short};
//! use remuda_core::config::Limits;
//! use remuda_core::conn::Connection;
//! use remuda_core::handoff::{Origin, Peer};
//! use remuda_core::http1::{Head, HttpDate, ResponseHead};
//! use remuda_core::machine::{Cx, IoSlices, Machine, Step, Wire};
//! use remuda_core::session::Session;
//! use remuda_core::shutdown::{Drain, Finish};
//! use remuda_core::time::Time;
//!
//! fn hello(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
//!     Ok(out.send(ResponseHead::new(200), "Hello, World!")?)
//! }
//!
//! struct Never;
//! impl DrainWatch for Never {
//!     fn drain(&self) -> Option<Drain> { None }
//!     fn wait(&self, _: Duration) -> bool { false }
//!     fn register(&self, _: &Waker, _: Option<usize>) -> usize { 0 }
//!     fn deregister(&self, _: usize) {}
//!     fn now(&self) -> Time { Time::ZERO }
//! }
//!
//! let app = App::blocking(Short(hello));
//! let service = Service::new(app, DrainSignal::new(Arc::new(Never)), Arc::new(Counters::default()));
//! let connection = Connection::new(Origin::new(0, Peer::Unix, 0), Time::ZERO);
//! let mut session = Session::new(connection, Arc::new(service));
//!
//! // What a backend does: bytes in, a step, bytes out.
//! let request = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n";
//! session.read_buf()[..request.len()].copy_from_slice(request);
//! session.handle_read(request.len(), Time::ZERO);
//!
//! let (date, limits) = (HttpDate::from_unix(0), Limits::default());
//! let cx = Cx::new(Time::ZERO, &date, Waker::noop(), &limits, &Finish);
//! assert!(matches!(session.step(&cx), Step::Wait { .. }));
//!
//! let mut out = IoSlices::new();
//! session.transmit(&mut out);
//! assert!(out.as_slices()[0].starts_with(b"HTTP/1.1 200 OK\r\n"));
//! ```

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "remuda runs on Linux only for now: its workers are built on epoll, signalfd and pidfd semantics"
);

pub mod app;
pub mod client;
pub mod config;
pub mod conn;
mod draw;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod handoff;
pub mod http1;
pub mod machine;
pub mod order;
pub mod proxy;
pub mod pump;
pub mod session;
pub mod shutdown;
#[cfg(test)]
mod testing;
pub mod time;
pub mod trust;
#[cfg(feature = "worker")]
pub mod worker;
