//! What is written to the logs, and where.

use std::sync::Arc;

use remuda_core::worker::Format;
use tracing::Level;

use super::kind::{Choice, Kind};
use super::table::{Category, Setting};
use super::{LogFormat, LogTarget};

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
        about: "text is for people, and coloured on a terminal; json is one object a line. Both say which process has \
                written the line.",
    },
    Setting {
        name: "error-logfile",
        short: None,
        category: Category::Logging,
        kind: Kind::Log {
            may_be_off: false,
            set: |s, target| s.error_log = target.unwrap_or(LogTarget::Stream),
        },
        default: "-",
        platform: None,
        reload: false,
        help: "Where to write the log; -: standard error",
        about: "The arbiter and all workers append to it. USR1 makes them go on in the file that is at the path then. It \
                is everything but the access log, not only what went wrong.",
    },
    Setting {
        name: "access-logfile",
        short: None,
        category: Category::Logging,
        kind: Kind::Log { may_be_off: true, set: |s, target| s.access_log = target },
        default: "off",
        platform: None,
        reload: false,
        help: "Where to note each request; -: standard output, off: nowhere",
        about: "All workers append to it, each from a thread of its own that no request waits for: lines that a slow disk \
                or a full pipe has no room for are dropped, and the log says how many. With off there is no such thread; sync \
                then has none but its loop's. \
                USR1 makes them go on in the file that is at the path then.",
    },
    Setting {
        name: "access-logformat",
        short: None,
        category: Category::Logging,
        kind: Kind::AccessFormat { set: |s, format| s.access_format = Arc::new(format) },
        default: Format::DEFAULT,
        platform: None,
        reload: false,
        help: "How to note a request",
        about: "A text in which gunicorn's atoms are replaced, or json for one object a line. Whatever comes from a client \
                is escaped.",
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
