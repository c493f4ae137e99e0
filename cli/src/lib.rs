//! A pre-fork HTTP/1.1 server as a library: an application becomes a server with processes,
//! settings and signals.
//!
//! # A server
//!
//! A program whose `main` is [`run`] is a whole server. It has remuda's flags (`--help`),
//! variables, settings file and sub-commands, forks workers, and stops as the drain contract says.
//! `run` has to be called before the program starts a thread or a runtime: a process with more than
//! one thread cannot be forked safely.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use remuda::{AppError, BodyReader, Head, Responder, ResponseHead};
//!
//! fn main() -> ExitCode {
//!     remuda::run(hello)
//! }
//!
//! fn hello(head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
//!     let text = format!("You asked for {}.\n", head.path());
//!     out.send(ResponseHead::new(200).field("Content-Type", "text/plain"), text)?;
//!     Ok(())
//! }
//! ```
//!
//! # An async application
//!
//! An [`AsyncHandler`](app::AsyncHandler) works with the types of the [`http`] crate. A tower
//! service, such as an axum `Router`, goes into `run` as it is.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use axum::{Router, routing::get};
//!
//! fn main() -> ExitCode {
//!     remuda::run(Router::new().route("/", get(async || "Hello, World!\n")))
//! }
//! ```
//!
//! # An application that each worker builds
//!
//! [`Server::new`] takes a factory, which each worker calls after the fork, so that pools and
//! connections belong to one process. `Server` is also the place for everything that a program
//! decides itself:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! use remuda::policy::{Grace, PolicyId};
//! use remuda::{App, BodyReader, Head, Responder, ResponseHead, Server};
//!
//! fn main() -> ExitCode {
//!     Server::new(|boot| {
//!         let slot = boot.slot;
//!         let handler = move |_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
//!             Ok(out.send(ResponseHead::new(200), format!("worker {slot}\n"))?)
//!         };
//!         Ok(App::blocking(handler))
//!     })
//!     .drain(PolicyId::Recycle, Grace(Duration::from_secs(3)))
//!     .run()
//! }
//! ```
//!
//! # A backend of your own
//!
//! A backend decides how a worker waits and where handlers run; the setting `worker-class` selects
//! it. [`Server::backend`] registers one that implements [`Worker`](settings::Worker).
//! `examples/backend` in the repository is a complete one, with the tests that hold it to the
//! contract.
//!
//! # Where to read on
//!
//! | module | contents |
//! |---|---|
//! | [`app`] | handlers, requests and responses, streams, takeover of connections |
//! | [`policy`] | how a drain treats idle connections |
//! | [`hooks`] | code that runs at the moments of a server's life |
//! | [`settings`] | the table of settings, and their values for a program that sets them itself |
//! | [`demo`] | the built-in application |
//!
//! This crate parses no HTTP (`remuda-core` does) and handles no processes (`remuda-arbiter` does).
//! It reads settings, reports what is wrong with them, and starts the arbiter.
#![forbid(unsafe_code)]

use std::process::ExitCode;

pub use bytes::Bytes;
pub use http;

use self::app::IntoApp;
pub use self::app::{App, AppError, Body, BodyReader, Head, Responder, ResponseHead, sleep};
pub use self::server::Server;

pub mod app;
mod client;
pub mod demo;
pub mod hooks;
mod into_app;
mod log;
pub mod policy;
mod server;
pub mod settings;
#[cfg(feature = "tokio-context")]
mod take_over;

/// Serves `app` as the command line, the environment and the settings file say, until told to stop.
///
/// The program has the sub-commands of remuda, too: `PROGRAM status`, `PROGRAM stop` and so on talk
/// to a server that runs, through its `control-socket`.
///
/// The exit status is 0 after a stop as asked, 1 if the server could not continue (for example
/// because the program has more than one thread), 2 for settings that are not right, 3 if no worker
/// could start, 4 if the application could not be built, 5 if an address could not be bound, 6 if a
/// stop's deadline cut work off.
///
/// # Examples
///
/// ```no_run
/// use remuda::{AppError, BodyReader, Head, Responder, ResponseHead};
///
/// fn nothing(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
///     Ok(out.send(ResponseHead::new(204), "")?)
/// }
///
/// fn main() -> std::process::ExitCode {
///     remuda::run(nothing)
/// }
/// ```
pub fn run<M, A: IntoApp<M>>(app: A) -> ExitCode {
    let app = app.into_app();
    let app = if A::WANTS_TOKIO { app.with_tokio() } else { app };
    Server::new(move |_| Ok(app.clone())).run()
}

/// The programs that README and book show, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../book/src/applications.md")]
#[doc = include_str!("../../book/src/fork-safety.md")]
#[doc = include_str!("../../book/src/hooks.md")]
#[doc = include_str!("../../book/src/policies.md")]
struct Pages;
