//! Stops, drains and upgrades.

use std::sync::Arc;

use remuda_arbiter::UpgradeDrain;
use remuda_core::shutdown::ShutdownPolicy;

use super::Settings;
use super::kind::{Choice, Kind};
use super::setting::{Category, Setting};
use super::value::ANY_TIME;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "graceful-timeout",
        short: None,
        category: Category::Shutdown,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.worker.graceful_timeout = t },
        default: "30",
        platform: None,
        reload: true,
        help: "Seconds that a stop may take before remaining connections are cut",
        about: "A stop is over as soon as no connection is left, however long it might take. 0 cuts \
                all connections at once.",
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
        about: "Gives load balancers time to notice the stop and to send connections elsewhere. \
                Requests are served as usual meanwhile; only what the server reports of itself \
                changes. The time is no part of graceful-timeout; another TERM, or INT, ends it.",
    },
    Setting {
        help: "Policy for idle connections at a stop",
        about: "finish: an idle connection is kept until its client sends a request, its keep-alive \
                time runs out or the stop is over; the response to that request announces the \
                close. close-idle: each is closed at once. grace:1s: each is closed once it has \
                been idle for that long. spread:10s: each is closed at a moment of its own within \
                that time. handoff: each moves to another worker that serves on, and its client \
                notices nothing; this is possible when a worker is replaced, and not at a stop. \
                Connections that cannot move follow finish, or the policy after a comma: \
                handoff,grace:1s. A program may have policies of its own, by their names.",
        ..policy("drain", "finish", |s, policy| s.arbiter.policies.stop = policy)
    },
    Setting {
        help: "Policy for idle connections of a worker that leaves in a reload or when workers are scaled down",
        about: "As for drain.",
        ..policy("drain-reload", "handoff", |s, policy| s.arbiter.policies.reload = policy)
    },
    Setting {
        help: "Policy for idle connections of a worker that is recycled",
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
        about: "automatic: it drains its workers, as drain-reload says, and ends. manual: it serves \
                on beside the new arbiter until a signal: WINCH drains its workers, HUP brings them \
                back, TERM or QUIT ends it. TERM or QUIT to the new arbiter takes the upgrade back.",
    },
];

const UPGRADE_DRAINS: &[Choice] = &[
    Choice::new("automatic", |s| s.arbiter.upgrade_drain = UpgradeDrain::Automatic),
    Choice::new("manual", |s| s.arbiter.upgrade_drain = UpgradeDrain::Manual),
];

/// The common part of the settings of policies, without texts.
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
