//! How the server ends.

use std::sync::Arc;

use remuda_arbiter::UpgradeDrain;
use remuda_core::shutdown::ShutdownPolicy;

use super::Settings;
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
        name: "lameduck",
        short: None,
        category: Category::Shutdown,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.lameduck = t },
        default: "0",
        platform: None,
        reload: true,
        help: "Seconds that the server serves on after TERM before it stops; 0: none",
        about: "For whoever sends connections to notice that the server is to stop, and to send them elsewhere. \
                Everything is as usual meanwhile, but for what the server says of itself. It is no part of the \
                graceful timeout; another TERM, or INT, ends it.",
    },
    Setting {
        help: "What a stop does to idle connections",
        about: "finish: each is kept until its client speaks, its keep-alive time runs out or the stop is over; \
                the response to what the client says announces the close. close-idle: each is closed at once. \
                grace:1s: each is closed once it has been idle for so long. spread:10s: each is closed at a moment \
                of its own within that time. handoff: where another worker goes on, each moves there and its client \
                notices nothing; that is so when a worker is replaced, and not at a stop. What cannot move, finish \
                decides about, or the policy that is named behind a comma: handoff,grace:1s. A program may have \
                policies of its own, by their names.",
        ..policy("drain", "finish", |s, policy| s.arbiter.policies.stop = policy)
    },
    Setting {
        help: "What a worker that leaves does to idle connections, in a reload or when there are to be fewer",
        about: "As for drain.",
        ..policy("drain-reload", "handoff", |s, policy| s.arbiter.policies.reload = policy)
    },
    Setting {
        help: "What a worker that is recycled does to idle connections",
        about: "As for drain.",
        ..policy("drain-recycle", "handoff", |s, policy| s.arbiter.policies.recycle = policy)
    },
    Setting {
        name: "upgrade-drain",
        short: None,
        category: Category::Shutdown,
        kind: Kind::Choice { among: UPGRADE_DRAINS },
        default: "automatic",
        platform: None,
        reload: true,
        help: "Whether the old arbiter of an upgrade drains once the new one is ready",
        about: "automatic: it drains its workers, as drain-reload says, and ends. manual: it serves on beside the new \
                one until it is told: WINCH drains its workers, HUP has them come back, TERM or QUIT ends it; and TERM \
                or QUIT to the new one takes the upgrade back.",
    },
];

const UPGRADE_DRAINS: &[Choice] = &[
    Choice::new("automatic", |s| s.arbiter.upgrade_drain = UpgradeDrain::Automatic),
    Choice::new("manual", |s| s.arbiter.upgrade_drain = UpgradeDrain::Manual),
];

/// What the policies have in common; the texts are theirs to give.
const fn policy(
    name: &'static str,
    default: &'static str,
    set: fn(&mut Settings, Arc<dyn ShutdownPolicy>),
) -> Setting {
    Setting {
        name,
        short: None,
        category: Category::Shutdown,
        kind: Kind::Policy { set },
        default,
        platform: None,
        reload: true,
        help: "",
        about: "",
    }
}
