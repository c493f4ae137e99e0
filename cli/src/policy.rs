//! Shutdown policies: how a drain treats connections that are open between requests.
//!
//! A [`ShutdownPolicy`] is two pure functions. The settings `drain`, `drain-reload` and
//! `drain-recycle` choose one by name; [`Server::policy`](crate::Server::policy) adds a name,
//! [`Server::drain`](crate::Server::drain) overrides the settings. A policy cannot exceed the
//! drain's deadline, and it does not decide about requests in flight: those are finished.
//!
//! # Examples
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use remuda::policy::{Announce, ConnView, Drain, Idle, ShutdownPolicy, Time};
//! use remuda::{Server, demo};
//!
//! /// Keeps connections that have served ten requests or more, and closes all others.
//! #[derive(Debug)]
//! struct KeepRegulars;
//!
//! impl ShutdownPolicy for KeepRegulars {
//!     fn idle(&self, _: &Drain, connection: &ConnView, _: Time) -> Idle {
//!         if connection.served >= 10 { Idle::Keep { until: Time::MAX } } else { Idle::Close }
//!     }
//!
//!     fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
//!         Announce::Close
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     // --drain regulars
//!     Server::new(demo::build).policy("regulars", KeepRegulars).run()
//! }
//! ```

pub use remuda_core::order::PolicyId;
pub use remuda_core::shutdown::{
    Announce, CloseIdle, ConnState, ConnView, Drain, Finish, Grace, Idle, Phase, Reason, ShutdownPolicy,
    Spread,
};
pub use remuda_core::time::Time;
pub use remuda_core::worker::Policies;
