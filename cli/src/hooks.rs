//! Hooks: the program's own code at the moments of a server's life, in the arbiter and in its
//! workers.
//!
//! [`Server::hooks`](crate::Server::hooks) registers them. Each method of [`Hooks`] does nothing by
//! default.
//!
//! # Examples
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use remuda::hooks::{Hooks, ServerInfo, WorkerExit, WorkerInfo};
//! use remuda::{Server, demo};
//!
//! struct Journal;
//!
//! impl Hooks for Journal {
//!     // In the arbiter.
//!     fn when_ready(&self, server: &ServerInfo) {
//!         println!("{} workers are ready", server.workers);
//!     }
//!
//!     // In the worker.
//!     fn worker_exit(&self, worker: &WorkerInfo, _: &WorkerExit) {
//!         println!("worker {} ends", worker.pid);
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Server::new(demo::build).hooks(Journal).run()
//! }
//! ```

pub use remuda_arbiter::{ChildExit, Hooks, Outcome, ServerInfo, WorkerExit, WorkerInfo, WorkerPlace};
