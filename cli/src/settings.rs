//! Settings: one table, and everything generated from it.
//!
//! A [`Setting`] is defined once, in the file of its category. Flags, environment variables, file
//! keys, `--help`, `--print-config` and error messages are generated from it.
//!
//! Values pass two stages. First the layers are collected and merged by figment: the default, the
//! file, `$PORT` and `$WEB_CONCURRENCY`, `REMUDA_*`, `REMUDA_ARGS`, the flags. A higher layer
//! replaces the value of a lower one, also a list. Then the values that win are parsed into
//! [`Settings`]. All values that are not allowed are reported together, and the server is not
//! started.
//!
//! # Examples
//!
//! A program that sets its settings itself, and reads neither command line nor file:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use remuda::settings::{Bind, Settings};
//! use remuda::{Server, demo};
//!
//! fn main() -> ExitCode {
//!     let mut settings = Settings::default();
//!     settings.arbiter.workers = 4;
//!     settings.arbiter.binds = vec![Bind::Inet(([127, 0, 0, 1], 8080).into())];
//!     Server::new(demo::build).settings(settings).run()
//! }
//! ```
//!
//! The table, for a page or a check of one's own:
//!
//! ```
//! use remuda::settings::{find, table};
//!
//! let workers = find("workers").expect("there is a setting of this name");
//! assert_eq!(workers.variable(), "REMUDA_WORKERS");
//! assert!(table().all(|setting| !setting.help.is_empty()));
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use remuda_arbiter::{ArbiterConfig, Bind, Group, ProcessConfig, UpgradeDrain, User};
pub use remuda_core::config::{Jitter, Limits};
use remuda_core::shutdown::ShutdownPolicy;
pub use remuda_core::worker::{Exit, Format, LogFile, Logs, Worker, WorkerConfig};
use tracing::Level;
use tracing_subscriber::filter::Targets;

pub(crate) use self::command::{DOCTOR, command};
pub use self::elsewhere::{Elsewhere, Here, elsewhere};
pub use self::error::{Cause, Problem, Rejected};
pub(crate) use self::error::{nearly_a_command, unknown_on_the_line};
pub use self::kind::{Choice, Kind, Measure};
pub(crate) use self::layers::{Action, Inputs, Invocation, Origin, control_socket, keep, read};
pub(crate) use self::logging::LEVELS;
pub(crate) use self::names::{Found, Names};
pub(crate) use self::operators::CONTROL_SOCKET;
pub(crate) use self::print::printed;
pub(crate) use self::processes::workers;
pub use self::setting::{Category, Platform, Setting};
pub use self::table::{find, table};
pub use self::value::Refusal;

mod bind;
mod command;
mod elsewhere;
mod entry;
mod error;
mod file;
mod kind;
mod layers;
mod limits;
mod logging;
mod names;
mod operators;
mod policy;
mod print;
mod processes;
mod proxies;
mod setting;
mod shutdown;
mod sockets;
mod system;
mod table;
mod timeouts;
mod value;
mod variables;

/// All settings, in the form that the server uses.
///
/// [`Default`] gives the settings of a server without file, variables and flags.
///
/// ```
/// use remuda::settings::Settings;
///
/// let settings = Settings::default();
/// assert_eq!(settings.arbiter.workers, 1);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The backend. `None` only if the default backend is not built in and no other is chosen.
    pub backend: Option<Arc<dyn Worker>>,
    /// Further backends that may be chosen, besides the built-in ones. Default: none.
    pub backends: Vec<Arc<dyn Worker>>,
    /// The configuration of the arbiter and its workers.
    pub arbiter: ArbiterConfig,
    /// Policies of the program, by the names that settings use. Default: none.
    pub custom_policies: BTreeMap<String, Arc<dyn ShutdownPolicy>>,
    /// The least severe events that are logged. Default [`Level::INFO`].
    pub log_level: Level,
    /// Levels by module, used instead of `log_level`. Default `None`.
    pub log_filter: Option<Targets>,
    /// The format of log lines. Default [`LogFormat::Text`].
    pub log_format: LogFormat,
    /// The destination of the log. Default: standard error.
    pub error_log: LogTarget,
    /// The destination of the access log. Default: none.
    pub access_log: Option<LogTarget>,
    /// The format of the access log. Default [`Format::DEFAULT`].
    pub access_format: Arc<Format>,
    /// The lookup of host names. Default: the system's resolver, at once.
    pub(crate) names: Names,
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
            names: Names::default(),
        };
        for setting in table() {
            // Only the default backend can be refused, if it is not built in. It then stays `None`.
            let _ = setting.kind.apply(&[setting.default.to_owned()], &mut settings);
        }
        settings
    }
}

/// The destination of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a log is a file or a stream")]
pub enum LogTarget {
    /// Standard error; for the access log, standard output.
    Stream,
    /// The file at a path, or a FIFO.
    File(PathBuf),
}

/// The format of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogFormat {
    /// Text, for reading.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests;
