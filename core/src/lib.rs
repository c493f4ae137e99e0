//! The part of remuda that decides and performs no I/O: an HTTP/1.1 connection machine, the drain
//! contract and the interface to applications.
//!
//! Bytes and time go in; bytes, interest, a deadline and one reason for the end come out:
//!
//! ```text
//!   socket ──read──▶ handle_read ─┐                          ┌─▶ Head, BodyReader ─▶ your handler
//!                                 ├─▶ Connection ── Session ─┤
//!   socket ◀─write── transmit ◀───┘        ▲                 └─◀ Responder ◀──────── its answer
//!                                          │
//!                    now, drain, policy ───┘
//! ```
//!
//! Without the `worker` feature this crate uses no descriptor, socket, thread or clock. With it,
//! the module `worker` adds the Unix parts that all backends share. The crate does not fork, parse
//! settings, choose a backend, or write logs.
//!
//! # An application
//!
//! A handler sees the head of a request, its body and a responder. The same function serves on
//! every backend.
//!
//! ```
//! use remuda_core::app::{App, AppError, BodyReader, Responder};
//! use remuda_core::http1::{Head, ResponseHead};
//!
//! fn hello(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
//!     Ok(out.send(ResponseHead::new(200), format!("You asked for {}.\n", head.path()))?)
//! }
//!
//! let app = App::blocking(hello);
//! ```
//!
//! # One exchange, step by step
//!
//! 1. A [`Session`](session::Session) joins a [`Connection`](conn::Connection) and an application.
//! 2. Bytes of the client go into [`read_buf`](machine::Wire::read_buf);
//!    [`handle_read`](machine::Wire::handle_read) says how many.
//! 3. [`step`](machine::Machine::step) parses them, calls the handler and encodes its response. It
//!    returns what to wait for.
//! 4. [`transmit`](machine::Wire::transmit) lists the bytes to send.
//!
//! ```
//! use std::sync::Arc;
//! use std::task::Waker;
//! use std::time::Duration;
//!
//! use remuda_core::app::{App, AppError, BodyReader, Counters, DrainSignal, DrainWatch};
//! use remuda_core::app::{Responder, Service, Short};
//! use remuda_core::config::Limits;
//! use remuda_core::conn::Connection;
//! use remuda_core::peer::{Origin, Peer};
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
//! let drain = DrainSignal::new(Arc::new(Never));
//! let service = Service::new(app, drain, Arc::new(Counters::default()));
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
//!
//! A backend replaces steps 2 and 4 by [`pump::drive`], which moves bytes through a
//! [`Transport`](machine::Transport), and waits as [`Step`](machine::Step) says.
//!
//! # Where to read on
//!
//! | module | contents |
//! |---|---|
//! | [`app`] | handlers and what they use: requests, bodies, responses, the drain |
//! | [`http1`] | heads, framing, chunks and encoding, as functions of bytes |
//! | [`exchange`] | a request and its response as an application sees them, in any protocol |
//! | [`conn`], [`session`] | one connection; the same with its application |
//! | [`machine`], [`pump`] | the traits between protocol, transport and backend; the drive loop |
//! | [`shutdown`], [`handoff`] | the drain, its policies; connections that move to another worker |
//! | [`order`] | messages between arbiter and worker |
//! | [`config`], [`trust`], [`proxy`], [`client`], [`peer`] | limits; which proxies are believed, and what they say about clients |
#![cfg_attr(
    feature = "worker",
    doc = "| [`worker`] | the trait for backends, and the Unix parts that all backends share |"
)]
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
pub mod exchange;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod handoff;
pub mod http1;
pub mod machine;
pub mod order;
pub mod peer;
pub mod proxy;
pub mod pump;
pub mod rescue;
pub mod session;
pub mod shutdown;
#[cfg(test)]
mod testing;
pub mod time;
pub mod trust;
#[cfg(feature = "worker")]
pub mod worker;
