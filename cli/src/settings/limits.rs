//! Limits of requests and connections.

use std::ops::RangeInclusive;

use remuda_core::config::READ_BUFFER_MAX;

use super::kind::Kind;
use super::setting::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        help: "Bytes of a request head",
        about: "Counts all lines with their line endings, and empty lines before the request line. \
                A longer head is answered with 431, whatever the limits of its lines are.",
        ..limit(
            "limit-request-head",
            "32768",
            Kind::Size { allowed: LINE, set: |s, n| s.arbiter.worker.limits.head = n as usize },
        )
    },
    Setting {
        help: "Bytes of a request line",
        about: "A longer line is answered with 414.",
        ..limit(
            "limit-request-line",
            "8190",
            Kind::Size { allowed: LINE, set: |s, n| s.arbiter.worker.limits.request_line = n as usize },
        )
    },
    Setting {
        help: "Header fields of a request",
        about: "A request with more fields is answered with 431.",
        ..limit(
            "limit-request-fields",
            "100",
            Kind::Count { allowed: 1..=32768, set: |s, n| s.arbiter.worker.limits.fields = n as usize },
        )
    },
    Setting {
        help: "Bytes of one header field of a request",
        about: "A request with a longer field is answered with 431.",
        ..limit(
            "limit-request-field-size",
            "8190",
            Kind::Size { allowed: LINE, set: |s, n| s.arbiter.worker.limits.field_size = n as usize },
        )
    },
    Setting {
        help: "Bytes of a request body; 0: no limit",
        about: "A longer body is answered with 413.",
        ..limit(
            "limit-request-body",
            "0",
            Kind::Size { allowed: ANY_SIZE, set: |s, n| s.arbiter.worker.limits.body = n },
        )
    },
    Setting {
        help: "Bytes by which the framing of a chunked request body may exceed its content",
        about: "Framing is chunk extensions, trailer section and padding; content is what has \
                arrived so far. More framing is answered with 400. With 0 a body has no trailer \
                section unless its content is longer than that.",
        ..limit(
            "limit-request-framing",
            "16384",
            Kind::Size { allowed: 0..=1 << 30, set: |s, n| s.arbiter.worker.limits.framing = n as u32 },
        )
    },
    Setting {
        help: "Bytes of an unread request body to read and discard so that the connection can be reused; 0: none",
        about: "Applies to what a handler leaves unread. Beyond this size the response announces \
                close, or the connection is closed after it.",
        ..limit(
            "limit-unread-body",
            "65536",
            Kind::Size { allowed: ANY_SIZE, set: |s, n| s.arbiter.worker.limits.unread_body = n },
        )
    },
    Setting {
        help: "Bytes that are still read from a closed connection; 0: no limit",
        about: "The bytes are discarded, for at most the time of linger. With a limit, a client \
                that sends more may lose the response to a reset, and so may a proxy that sends a \
                whole request before it reads the response, as Apache, Varnish and h2o do.",
        ..limit(
            "limit-linger",
            "0",
            Kind::Size { allowed: ANY_SIZE, set: |s, n| s.arbiter.worker.limits.linger_size = n },
        )
    },
    Setting {
        help: "Requests of one connection that are answered in a row before other connections are served",
        about: "For clients that send many requests at a time (pipelining). Only responses that are \
                ready at once count: while a handler takes its time, other connections are served \
                in any case.",
        ..limit(
            "pipeline-budget",
            "16",
            Kind::Count {
                allowed: 1..=65536,
                set: |s, n| s.arbiter.worker.limits.pipeline_budget = n as u32,
            },
        )
    },
    Setting {
        help: "Send interim responses of the application, such as 103 Early Hints",
        about: "Off, they are dropped, and the application is not told. Many clients take an \
                interim response for the final one, and some proxies fail on it; applications.md \
                lists them. 100 Continue is sent in any case to clients that expect it.",
        ..limit(
            "interim-responses",
            "false",
            Kind::Switch { set: |s, on| s.arbiter.worker.limits.interim_responses = on },
        )
    },
];

const ANY_SIZE: RangeInclusive<u64> = 0..=i64::MAX as u64;

/// Allowed limits of a head and of its lines: at least what any client sends, at most the read
/// buffer.
const LINE: RangeInclusive<u64> = 64..=READ_BUFFER_MAX as u64;

/// The common part of these settings, without texts.
const fn limit(name: &'static str, default: &'static str, kind: Kind) -> Setting {
    Setting {
        name,
        short: None,
        category: Category::Limits,
        kind,
        default,
        platform: None,
        reload: true,
        help: "",
        about: "",
    }
}
