//! Time limits of connections.

use std::time::Duration;

use super::Settings;
use super::kind::Kind;
use super::setting::{Category, Setting};
use super::value::ANY_TIME;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        help: "Seconds that a connection may be idle between requests; 0: close after each response",
        about: "Behind a load balancer, set it above the balancer's own keep-alive time.",
        ..timeout("keep-alive", "5", |s, t| s.arbiter.worker.limits.keep_alive = t)
    },
    Setting {
        help: "Seconds for the whole head of a request; 0: no limit",
        about: "Counted from the first byte of the head, on a new connection from its start, and \
                not restarted by progress. A request that takes longer is answered with 408.",
        ..timeout("header-timeout", "10", |s, t| s.arbiter.worker.limits.header_timeout = t)
    },
    Setting {
        help: "Seconds that a request body may make no progress; 0: no limit",
        about: "Counted only while the application waits for the body.",
        ..timeout("body-timeout", "30", |s, t| s.arbiter.worker.limits.body_timeout = t)
    },
    Setting {
        help: "Bytes a second at which a request body has to arrive; 0: any progress will do",
        about: "An average, counted while the application waits for the body: n bytes may take \
                body-timeout plus n divided by this rate, in seconds. A body that takes longer is \
                answered with 408, as after body-timeout. Off if body-timeout is 0.",
        ..rate("min-body-rate", |s, n| s.arbiter.worker.limits.body_rate = n)
    },
    Setting {
        help: "Seconds that a response may make no progress; 0: no limit",
        about: "Counted only while bytes of the response wait for the client.",
        ..timeout("write-timeout", "30", |s, t| s.arbiter.worker.limits.write_timeout = t)
    },
    Setting {
        help: "Bytes a second at which a client has to take a response; 0: any progress will do",
        about: "An average, counted while bytes of the response wait for the client: n bytes may \
                take write-timeout plus n divided by this rate, in seconds. A response that takes \
                longer is cut, as after write-timeout. Off if write-timeout is 0, and for \
                connections that changed the protocol.",
        ..rate("min-write-rate", |s, n| s.arbiter.worker.limits.write_rate = n)
    },
    Setting {
        help: "Seconds that a handler may take; 0: no limit",
        about: "Counted from the call of the handler to the end of its response. After that the \
                client is answered with 503, or a response that has begun is cut. An async handler \
                is dropped. A blocking handler cannot be: its remaining output is discarded, and \
                its worker is replaced. A handler that is declared short has no limit, nor has a \
                connection that changed the protocol. On sync it has to be less than timeout.",
        ..timeout("request-timeout", "0", |s, t| s.arbiter.worker.limits.request_timeout = t)
    },
    Setting {
        name: "cancel-on-half-close",
        short: None,
        category: Category::Timeouts,
        kind: Kind::Switch { set: |s, yes| s.arbiter.worker.limits.cancel_on_half_close = yes },
        default: "false",
        platform: None,
        reload: true,
        help: "Cancel a request whose client ends its side of the connection",
        about: "A client that has closed its TCP socket looks like a client that has sent all it \
                will send and waits for the response. By default the handler is told, and the \
                response is sent. With this setting such a client counts as gone: an async handler \
                is dropped, a response that has begun is cut, and a blocking handler that asks is \
                told so. Clients that end their side early, such as nc -N and some health checks, \
                then get a response only if it is ready at once.",
    },
    Setting {
        help: "Seconds that a closed connection is still read from; 0: none",
        about: "Bytes that arrive are discarded. Without this, a client that is still sending may \
                lose the response to a reset (RFC 9112 §9.6).",
        ..timeout("linger", "2", |s, t| s.arbiter.worker.limits.linger = t)
    },
];

/// The common part of the settings that are times, without texts.
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

/// The common part of the settings that are rates, in bytes a second. The default is that of
/// Kestrel.
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
