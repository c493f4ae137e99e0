//! The arbiter without system calls, for a model of a system.
//!
//! This module is for the simulation of the conformance suite, which plays whole servers, and not
//! part of the public interface. The performer is that of a real server; models of processes,
//! sockets and files replace system calls.

pub use crate::plan::notice::Notice;
pub use crate::plan::words::{
    Allowance, Command, Death, Done, Memory, Patience, PlanConfig, Refused, ReloadEnd, Scale, Signal, Ticket,
};
pub use crate::plan::{Action, Event, Plan};
pub use crate::supervisor::{Supervisor, System};
