//! What can be set: one table, and what is made of it.
//!
//! A [`Setting`] is written down once, in the file of its category; flags, environment variables, file keys,
//! `--help`, `--print-config` and the error messages are generated from it. Values go through two stages: what
//! was written where (layers, merged by figment: the default, the file, `$PORT` and `$WEB_CONCURRENCY`,
//! `REMUDA_*`, `REMUDA_ARGS`, the flags; a higher layer replaces a lower one's value, also a list), and what
//! that means: [`Settings`]. Only the value that wins is read; one that is not allowed is reported together
//! with all others, and nothing is started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use remuda_arbiter::ArbiterConfig;
use remuda_core::shutdown::ShutdownPolicy;
use remuda_core::worker::{Format, Worker};
use tracing::Level;
use tracing_subscriber::filter::Targets;

pub(crate) use self::command::command;
pub use self::error::{Cause, Problem, Rejected};
pub use self::kind::{Choice, Kind, Measure, Refusal};
pub(crate) use self::layers::{Action, Inputs, Invocation, Origin, keep, read};
pub(crate) use self::operators::CONTROL_SOCKET;
pub(crate) use self::print::printed;
pub use self::table::{Category, Platform, Setting, find, table};

mod bind;
mod command;
mod error;
mod file;
mod kind;
mod layers;
mod limits;
mod logging;
mod operators;
mod policy;
mod print;
mod processes;
mod proxies;
mod shutdown;
mod sockets;
mod system;
mod table;
mod timeouts;

/// Everything that can be set, as a server uses it.
///
/// [`Default`] is what a server without file, variables and flags gets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The backend. `None` only where the default one is not built in and no other was chosen.
    pub backend: Option<Arc<dyn Worker>>,
    /// Backends that may be chosen besides those that are built in. Default: none.
    pub backends: Vec<Arc<dyn Worker>>,
    /// What the arbiter and its workers are told.
    pub arbiter: ArbiterConfig,
    /// Policies of the program's own, by the names that the settings may call them by. Default: none.
    pub custom_policies: BTreeMap<String, Arc<dyn ShutdownPolicy>>,
    /// The least severe events that are logged. Default [`Level::INFO`].
    pub log_level: Level,
    /// Levels by part of the program, which count instead of `log_level`. Default `None`.
    pub log_filter: Option<Targets>,
    /// How they are written. Default [`LogFormat::Text`].
    pub log_format: LogFormat,
    /// Where they are written. Default: standard error.
    pub error_log: LogTarget,
    /// Where each request is noted. Default: nowhere.
    pub access_log: Option<LogTarget>,
    /// How. Default [`Format::DEFAULT`].
    pub access_format: Arc<Format>,
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            backend: None,
            backends: Vec::new(),
            arbiter: ArbiterConfig::default(),
            custom_policies: BTreeMap::new(),
            log_level: Level::INFO,
            log_filter: None,
            log_format: LogFormat::Text,
            error_log: LogTarget::Stream,
            access_log: None,
            access_format: Arc::new(Format::default()),
        };
        for setting in table() {
            // The one default that may be refused is a backend that is not built in, and it stays `None`.
            let _ = setting.kind.apply(&[setting.default.to_owned()], &mut settings);
        }
        settings
    }
}

/// Where a log is written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a log is a file or a stream")]
pub enum LogTarget {
    /// Standard error; for the access log, standard output.
    Stream,
    /// The file at a path, or a FIFO.
    File(PathBuf),
}

/// How a log line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

#[cfg(test)]
mod tests;
