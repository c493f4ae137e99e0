//! Logs: levels, formats and destinations.

use std::sync::Arc;

use remuda_core::worker::Format;
use tracing::Level;

use super::kind::{Choice, Kind};
use super::setting::{Category, Setting};
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
        help: "Least severe events to log",
        about: "REMUDA_LOG, if set, is used instead: it gives levels by module, such as \
                info,remuda_core=debug.",
    },
    Setting {
        name: "log-format",
        short: None,
        category: Category::Logging,
        kind: Kind::Choice { among: FORMATS },
        default: "text",
        platform: None,
        reload: true,
        help: "Format of log lines",
        about: "text is for reading, and coloured on a terminal; json is one object a line. Both \
                contain the id of the process that has written the line.",
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
        about: "The arbiter and all workers append to it. USR1 makes them reopen the path. It is \
                everything but the access log, not only errors. No process waits for a reader: \
                lines for which a full pipe, a stopped terminal or a stalled socket has no room are \
                kept, and beyond 64 KiB dropped and counted. A write to a regular file may wait for \
                its disk.",
    },
    Setting {
        name: "access-logfile",
        short: None,
        category: Category::Logging,
        kind: Kind::Log { may_be_off: true, set: |s, target| s.access_log = target },
        default: "off",
        platform: None,
        reload: false,
        help: "Where to log each request; -: standard output, off: nowhere",
        about: "All workers append to it, each from a thread of its own that no request waits for: \
                lines for which a slow disk or a full pipe has no room are dropped, and the log \
                says how many. With off there is no such thread; a sync worker then has only its \
                loop's. USR1 makes them reopen the path.",
    },
    Setting {
        name: "access-logformat",
        short: None,
        category: Category::Logging,
        kind: Kind::AccessFormat { set: |s, format| s.access_format = Arc::new(format) },
        default: Format::DEFAULT,
        platform: None,
        reload: false,
        help: "Format of the access log",
        about: "A text in which gunicorn's atoms are replaced, or json for one object a line. \
                Values from clients are escaped.",
    },
];

pub(crate) const LEVELS: &[Choice] = &[
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
