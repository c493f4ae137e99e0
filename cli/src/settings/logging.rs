//! What is written to the log, which is standard error.

use tracing::Level;

use super::LogFormat;
use super::kind::{Choice, Kind};
use super::table::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "log-level",
        short: None,
        category: Category::Logging,
        kind: Kind::Choice { among: LEVELS },
        default: "info",
        platform: None,
        reload: true,
        help: "The least severe events to log",
        about: "REMUDA_LOG, if set, counts instead: it names levels by part, such as info,remuda_core=debug.",
    },
    Setting {
        name: "log-format",
        short: None,
        category: Category::Logging,
        kind: Kind::Choice { among: FORMATS },
        default: "text",
        platform: None,
        reload: true,
        help: "How to write log lines",
        about: "text is for people, and coloured on a terminal; json is one object a line.",
    },
];

const LEVELS: &[Choice] = &[
    Choice::new("error", |s| s.log_level = Level::ERROR),
    Choice::new("warn", |s| s.log_level = Level::WARN),
    Choice::new("info", |s| s.log_level = Level::INFO),
    Choice::new("debug", |s| s.log_level = Level::DEBUG),
    Choice::new("trace", |s| s.log_level = Level::TRACE),
];

const FORMATS: &[Choice] = &[
    Choice::new("text", |s| s.log_format = LogFormat::Text),
    Choice::new("json", |s| s.log_format = LogFormat::Json),
];
