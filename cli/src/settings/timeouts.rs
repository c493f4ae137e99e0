//! How long a connection may take.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Settings;
use super::kind::Kind;
use super::table::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        help: "Seconds that a connection may be idle between requests; 0: close after each response",
        about: "Behind a load balancer, more than the balancer's own keep-alive time.",
        ..timeout("keep-alive", "5", |s, t| s.arbiter.worker.limits.keep_alive = t)
    },
    Setting {
        help: "Seconds for the whole head of a request; 0: no limit",
        about: "Counted from its first byte, on a new connection from the start, and not restarted by progress. \
                A request that takes longer is answered with 408.",
        ..timeout("header-timeout", "10", |s, t| s.arbiter.worker.limits.header_timeout = t)
    },
    Setting {
        help: "Seconds that a request body may make no progress; 0: no limit",
        about: "Counted only while the application waits for it.",
        ..timeout("body-timeout", "30", |s, t| s.arbiter.worker.limits.body_timeout = t)
    },
    Setting {
        help: "Bytes a second that a request body has to make; 0: any progress will do",
        about: "On average, while it is waited for: a body of n bytes has body-timeout and n divided by this, in seconds. One \
                that takes longer is answered with 408, as if it had stopped. Off if body-timeout is.",
        ..rate("min-body-rate", |s, n| s.arbiter.worker.limits.body_rate = n)
    },
    Setting {
        help: "Seconds that a response may make no progress; 0: no limit",
        about: "Counted only while bytes of it wait for the client.",
        ..timeout("write-timeout", "30", |s, t| s.arbiter.worker.limits.write_timeout = t)
    },
    Setting {
        help: "Bytes a second that a client has to take of a response; 0: any progress will do",
        about: "On average, while bytes of it wait for the client: n bytes have write-timeout and n divided by this, in \
                seconds. A response that takes longer is cut, as if the client had stopped. Off if write-timeout is, and for \
                connections that changed the protocol.",
        ..rate("min-write-rate", |s, n| s.arbiter.worker.limits.write_rate = n)
    },
    Setting {
        help: "Seconds that a handler may take; 0: no limit",
        about: "Counted from its call to the end of its response. After that its client is told 503, or the response \
                that has begun is cut. An async handler is dropped. A blocking one cannot be: what it still does is \
                thrown away, and its worker is replaced. A handler that says it is short has no limit, nor has a \
                connection that changed the protocol. On sync it has to be less than timeout.",
        ..timeout("request-timeout", "0", |s, t| s.arbiter.worker.limits.request_timeout = t)
    },
    Setting {
        help: "Seconds that a closed connection is still read from; 0: none",
        about: "What arrives is thrown away. Without this, a client that is still sending may lose the response \
                to a reset (RFC 9112 §9.6).",
        ..timeout("linger", "2", |s, t| s.arbiter.worker.limits.linger = t)
    },
];

/// The longest time that can be set, a year: what is meant to be without a limit says so with 0.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What any time may be.
pub(super) const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=LONGEST;

/// What the settings here have in common; the texts are theirs to give.
const fn timeout(name: &'static str, default: &'static str, set: fn(&mut Settings, Duration)) -> Setting {
    Setting {
        name,
        short: None,
        category: Category::Timeouts,
        kind: Kind::Time { allowed: ANY_TIME, set },
        default,
        platform: None,
        reload: true,
        help: "",
        about: "",
    }
}

/// What transfers have to make, in bytes a second: by default what Kestrel demands of them.
const fn rate(name: &'static str, set: fn(&mut Settings, u64)) -> Setting {
    Setting {
        name,
        short: None,
        category: Category::Timeouts,
        kind: Kind::Size { allowed: 0..=1 << 30, set },
        default: "240",
        platform: None,
        reload: true,
        help: "",
        about: "",
    }
}
