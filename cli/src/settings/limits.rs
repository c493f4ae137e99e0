//! How large a request may be.

use remuda_core::config::READ_BUFFER_MAX;

use super::kind::Kind;
use super::table::{Category, Setting};

pub(super) const SETTINGS: &[Setting] = &[
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
            Kind::Size { allowed: 0..=i64::MAX as u64, set: |s, n| s.arbiter.worker.limits.body = n },
        )
    },
];

/// What a line of a head may be limited to: not below what any client sends, not above what is buffered.
const LINE: std::ops::RangeInclusive<u64> = 64..=READ_BUFFER_MAX as u64;

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
