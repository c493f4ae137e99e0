//! How large a request may be, and what else a connection may take.

use std::ops::RangeInclusive;

use remuda_core::config::READ_BUFFER_MAX;

use super::kind::Kind;
use super::table::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        help: "Bytes of the whole head of a request",
        about: "Its lines with their endings, and empty lines before it. A longer one is answered with 431, whatever its \
                lines may have.",
        ..limit(
            "limit-request-head",
            "32768",
            Kind::Size { allowed: LINE, set: |s, n| s.arbiter.worker.limits.head = n as usize },
        )
    },
    Setting {
        help: "Bytes of a request line",
        about: "A longer one is answered with 414.",
        ..limit(
            "limit-request-line",
            "8190",
            Kind::Size { allowed: LINE, set: |s, n| s.arbiter.worker.limits.request_line = n as usize },
        )
    },
    Setting {
        help: "Fields of a request",
        about: "A request with more is answered with 431.",
        ..limit(
            "limit-request-fields",
            "100",
            Kind::Count { allowed: 1..=32768, set: |s, n| s.arbiter.worker.limits.fields = n as usize },
        )
    },
    Setting {
        help: "Bytes of one field of a request",
        about: "A request with a longer one is answered with 431.",
        ..limit(
            "limit-request-field-size",
            "8190",
            Kind::Size { allowed: LINE, set: |s, n| s.arbiter.worker.limits.field_size = n as usize },
        )
    },
    Setting {
        help: "Bytes of a request body; 0: no limit",
        about: "A longer one is answered with 413.",
        ..limit(
            "limit-request-body",
            "0",
            Kind::Size { allowed: ANY_SIZE, set: |s, n| s.arbiter.worker.limits.body = n },
        )
    },
    Setting {
        help: "Bytes that a chunked request body may be longer than what it carries",
        about: "Chunk extensions, trailer section and padding, beyond as many bytes as the body has had by then. A longer one \
                is answered with 400. With 0 a body has no trailer section unless it is longer than that.",
        ..limit(
            "limit-request-framing",
            "16384",
            Kind::Size { allowed: 0..=1 << 30, set: |s, n| s.arbiter.worker.limits.framing = n as u32 },
        )
    },
    Setting {
        help: "Bytes of a request body that nobody reads which are read away; 0: none",
        about: "Reading them away keeps the connection usable. Past this the response announces close, or the connection is \
                closed behind it.",
        ..limit(
            "limit-unread-body",
            "65536",
            Kind::Size { allowed: ANY_SIZE, set: |s, n| s.arbiter.worker.limits.unread_body = n },
        )
    },
    Setting {
        help: "Bytes that are still read from a closed connection; 0: no limit",
        about: "What arrives is thrown away, for at most the time that linger is. A client that sends more than this may lose \
                the response to a reset.",
        ..limit(
            "limit-linger",
            "4194304",
            Kind::Size { allowed: ANY_SIZE, set: |s, n| s.arbiter.worker.limits.linger_size = n },
        )
    },
    Setting {
        help: "Requests of one connection that are answered before others have their turn",
        about: "Of a client that sends many at a time. It counts where answers are there at once: a handler that takes its time \
                lets others have theirs in any case.",
        ..limit(
            "pipeline-budget",
            "16",
            Kind::Count {
                allowed: 1..=65536,
                set: |s, n| s.arbiter.worker.limits.pipeline_budget = n as u32,
            },
        )
    },
];

const ANY_SIZE: RangeInclusive<u64> = 0..=i64::MAX as u64;

/// What a head and a line of it may be limited to: not below what any client sends, not above what is buffered.
const LINE: RangeInclusive<u64> = 64..=READ_BUFFER_MAX as u64;

/// What the settings here have in common; the texts are theirs to give.
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
