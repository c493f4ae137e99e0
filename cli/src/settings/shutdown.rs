//! How the server ends.

use std::sync::Arc;

use remuda_core::shutdown::Finish;

use super::kind::{Choice, Kind};
use super::table::{Category, Setting};
use super::timeouts::ANY_TIME;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "graceful-timeout",
        short: None,
        category: Category::Shutdown,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.worker.graceful_timeout = t },
        default: "30",
        platform: None,
        reload: true,
        help: "Seconds that a stop may take before what is left is cut off",
        about: "A stop is over as soon as no connection is left, however long it might take. 0 cuts everything \
                off at once.",
    },
    Setting {
        name: "drain",
        short: None,
        category: Category::Shutdown,
        kind: Kind::Choice { among: POLICIES, absent: &["close-idle", "grace", "spread", "handoff"] },
        default: "finish",
        platform: None,
        reload: true,
        help: "What a stop does to idle connections",
        about: "finish: each is kept until its client speaks, its keep-alive time runs out or the stop is over; \
                the response to what the client says announces the close.",
    },
];

const POLICIES: &[Choice] = &[Choice::new("finish", |s| s.arbiter.policies.stop = Arc::new(Finish))];
