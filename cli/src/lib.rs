//! remuda as a library: an HTTP server around an application, with processes, settings and signals of its own.
//!
//! A program whose `main` is [`run`] is a server: it has all of remuda's flags, variables and files, forks
//! workers, and stops as the drain contract says. It has to be called from a plain `main`, before any thread
//! or runtime is started: a process with more than one thread cannot be forked safely.
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
//! An application that needs to be built in each worker, with its own pools and connections, is a factory:
//! see [`Server`]. What this crate does not do: it knows nothing of HTTP (that is `remuda-core`) and nothing
//! of processes (`remuda-arbiter`); it reads settings, says what is wrong with them, and hands over.
#![forbid(unsafe_code)]

use std::process::ExitCode;

pub use bytes::Bytes;
pub use http;
pub use remuda_arbiter::{
    ArbiterConfig, Bind, ChildExit, Group, Hooks, Outcome, ProcessConfig, ServerInfo, UpgradeDrain, User,
    WorkerExit, WorkerInfo, WorkerPlace,
};
pub use remuda_core::app::{
    App, AppError, AppFactory, AsyncHandler, Body, BodyReader, BodyWriter, Boot, ConnectionInfo, Counters,
    DrainSignal, Handler, Incoming, RequestInfo, Responder, Short, Upgraded,
};
pub use remuda_core::client::{Client, Scheme};
pub use remuda_core::config::{Jitter, Limits};
pub use remuda_core::conn::RespondError;
pub use remuda_core::http1::{Fields, Head, ResponseHead, Version};
pub use remuda_core::order::PolicyId;
pub use remuda_core::shutdown::{
    Announce, CloseIdle, ConnState, ConnView, Drain, Finish, Grace, Idle, Phase, Reason, ShutdownPolicy,
    Spread,
};
pub use remuda_core::time::Time;
pub use remuda_core::worker::alarm::{Sleep, sleep};
pub use remuda_core::worker::{Exit, Format, LogFile, Logs, Policies, Worker, WorkerConfig};

pub use self::into_app::{Async, Blocking, IntoApp, Itself, Tower};
pub use self::server::Server;
#[doc(inline)]
pub use self::settings::Settings;
#[cfg(feature = "tokio-context")]
pub use self::take_over::{Duplex, TakeOver, take_over};

mod client;
pub mod demo;
mod into_app;
mod log;
mod server;
pub mod settings;
#[cfg(feature = "tokio-context")]
mod take_over;

/// Serves `app` as the command line, the environment and the settings file say, until told to stop.
///
/// The program has the sub-commands of remuda, too: `PROGRAM status`, `PROGRAM stop` and so on talk to a server that runs,
/// through its `control-socket`.
///
/// The exit status is 0 after a stop as asked, 1 for an internal error (also: the program has more than one
/// thread), 2 for settings that are not right, 3 if no worker could start, 4 if the application could not be
/// built, 5 if an address could not be bound, 6 if a stop's deadline cut work off.
pub fn run<M, A: IntoApp<M>>(app: A) -> ExitCode {
    let app = app.into_app();
    let factory = AppFactory::new(move |_| Ok(app.clone()));
    Server::from_factory(if A::WANTS_TOKIO { factory.with_tokio() } else { factory }).run()
}

/// The programs that README and book show, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../book/src/applications.md")]
#[doc = include_str!("../../book/src/fork-safety.md")]
#[doc = include_str!("../../book/src/hooks.md")]
#[doc = include_str!("../../book/src/policies.md")]
struct Pages;
