//! Workers, their threads, and when they are replaced.

use super::Settings;
use super::kind::{Choice, Kind, Measure};
use super::setting::{Category, Platform, Setting};
use super::value::{ANY_TIME, LONGEST, whole};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "worker-class",
        short: Some('k'),
        category: Category::Processes,
        kind: Kind::Backend { among: BACKENDS },
        default: "tokio",
        platform: None,
        reload: true,
        help: "Backend of the workers: how a worker waits for its connections",
        about: "All backends keep the same drain contract. They differ in cost and in the handlers \
                that suit them. tokio: async handlers and clients in any number, as long as no \
                handler blocks. mio: many connections and short handlers, with at most as many slow \
                handlers as threads. threaded: blocking handlers, as many at a time as threads. \
                sync: handlers that compute, one at a time, and never wait for another server.",
    },
    Setting {
        name: "workers",
        short: Some('w'),
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=MOST_WORKERS, set: |s, n| s.arbiter.workers = n as u16 },
        default: "1",
        platform: Some(Platform::new("WEB_CONCURRENCY", "")),
        reload: true,
        help: "Number of worker processes",
        about: "Start with one for each processor that the server may use.",
    },
    Setting {
        name: "threads",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=1024, set: |s, n| s.arbiter.worker.threads = n as usize },
        default: "4",
        platform: None,
        reload: true,
        help: "Handler threads of each worker",
        about: "This many blocking handlers run at once in one worker; further requests wait for a \
                free thread. The backend sync has 1 and allows no more; for several, choose \
                threaded.",
    },
    Setting {
        name: "preload",
        short: None,
        category: Category::Processes,
        kind: Kind::Switch { set: |s, on| s.arbiter.preload = on },
        default: "false",
        platform: None,
        reload: false,
        help: "Build the application once, before the fork, instead of in each worker",
        about: "Workers then share its memory until they write to it. It is built as the user that \
                starts the server, before the server listens, and must start no thread. A reload \
                keeps it; an upgrade builds it anew. An application built by an async function \
                cannot be preloaded.",
    },
    Setting {
        name: "timeout",
        short: Some('t'),
        category: Category::Processes,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.worker.timeout = t },
        default: "30",
        platform: None,
        reload: true,
        help: "Seconds that a worker may be silent before it is replaced; 0: no limit",
        about: "A worker is silent while a handler blocks the loop that serves all its connections; \
                on the backend threaded, while all threads of the worker are busy with the same \
                requests. The setting is no limit for requests otherwise: requests on handler \
                threads, and drains, may take longer. The backend sync has no thread but its loop, \
                so every request has to be answered within this time. The log says which requests a \
                worker was serving when it was ended.",
    },
    Setting {
        name: "rescue",
        short: None,
        category: Category::Processes,
        kind: Kind::Switch { set: |s, on| s.arbiter.worker.rescue = on },
        default: "true",
        platform: None,
        reload: true,
        help: "Keep the connections of a worker that dies, by a second small process beside each worker",
        about: "The process, called keeper, hands connections between requests to other workers, and \
                answers requests in flight with 500, or 503 after the deadline of a drain, unless a \
                response has begun. Without it a worker that dies ends all its connections.",
    },
    Setting {
        name: "boot-timeout",
        short: None,
        category: Category::Processes,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.boot_timeout = t },
        default: "60",
        platform: None,
        reload: true,
        help: "Seconds until a new worker must be ready before it is replaced; 0: no limit",
        about: "Set it above the longest time that the application takes to load.",
    },
    Setting {
        name: "max-boot-failures",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 0..=1_000_000, set: |s, n| s.arbiter.max_boot_failures = n as u32 },
        default: "0",
        platform: None,
        reload: true,
        help: "Failed boots after which a server that never was ready gives up; 0: the first with a reason",
        about: "While no worker was ever ready, a worker that dies, is too slow or reports that it \
                cannot start is started again after growing pauses. At this number of failures the \
                server ends with status 3, or 4 if the application could not be built. With 0 the \
                server ends at the first worker that reports why it cannot start, and workers that \
                die without a report are started again for ever.",
    },
    Setting {
        name: "max-requests",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 0..=MOST_REQUESTS, set: |s, n| s.arbiter.worker.max_requests = n },
        default: "0",
        platform: None,
        reload: true,
        help: "Requests after which a worker is replaced; 0: never",
        about: "Counted over all connections of the worker. The worker serves on until its \
                replacement is ready, and only then drains, as drain-recycle says. For applications \
                whose memory grows with time.",
    },
    Setting {
        name: "max-requests-jitter",
        short: None,
        category: Category::Processes,
        kind: Kind::Jitter {
            of: Measure::Count,
            most: MOST_REQUESTS,
            set: |s, jitter| s.arbiter.worker.max_requests_jitter = jitter,
        },
        default: "10%",
        platform: None,
        reload: true,
        help: "Largest random addition to max-requests; 0: none",
        about: "A number, or a percentage of max-requests. Each worker draws its own, so that \
                workers are not all replaced at once.",
    },
    Setting {
        name: "max-lifetime",
        short: None,
        category: Category::Processes,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.max_lifetime = t },
        default: "0",
        platform: None,
        reload: true,
        help: "Seconds after which a worker is replaced; 0: never",
        about: "Counted from the moment when the worker was ready. As with max-requests, the worker \
                serves on until its replacement is ready.",
    },
    Setting {
        name: "max-lifetime-jitter",
        short: None,
        category: Category::Processes,
        kind: Kind::Jitter {
            of: Measure::Nanoseconds,
            most: LONGEST.as_nanos() as u64,
            set: |s, jitter| s.arbiter.max_lifetime_jitter = jitter,
        },
        default: "10%",
        platform: None,
        reload: true,
        help: "Largest random addition to max-lifetime, in seconds; 0: none",
        about: "A time, or a percentage of max-lifetime. Workers that were started together are \
                then not replaced together.",
    },
    Setting {
        name: "max-rss",
        short: None,
        category: Category::Processes,
        kind: Kind::Size { allowed: 0..=MOST_MEMORY, set: |s, n| s.arbiter.max_rss = n },
        default: "0",
        platform: None,
        reload: true,
        help: "Bytes of resident memory at which a worker is replaced; 0: never",
        about: "Resident memory includes pages that are shared with other processes. The arbiter \
                reads it once a second, so a worker may exceed the limit for a moment; the kernel \
                does not enforce it. As with max-requests, the worker serves on until its \
                replacement is ready. A worker that is above the limit as soon as it is ready is \
                not replaced for that, and the log says so.",
    },
    Setting {
        name: "max-rss-jitter",
        short: None,
        category: Category::Processes,
        kind: Kind::Jitter {
            of: Measure::Bytes,
            most: MOST_MEMORY,
            set: |s, jitter| s.arbiter.max_rss_jitter = jitter,
        },
        default: "10%",
        platform: None,
        reload: true,
        help: "Largest random addition to max-rss, in bytes; 0: none",
        about: "A number of bytes, or a percentage of max-rss. Workers that grow alike are then not \
                replaced together.",
    },
    Setting {
        name: "recycle-concurrency",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=64, set: |s, n| s.arbiter.recycle_concurrency = n as u16 },
        default: "1",
        platform: None,
        reload: true,
        help: "Workers that are recycled at a time",
        about: "A recycle (max-requests, max-lifetime, max-rss, request-timeout, the command) starts the replacement \
                first, so at most this many workers run in addition; further replacements wait.",
    },
    Setting {
        name: "reload-concurrency",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=64, set: |s, n| s.arbiter.reload_concurrency = n as u16 },
        default: "1",
        platform: None,
        reload: true,
        help: "Workers that are replaced at a time in a reload",
        about: "As with recycle-concurrency, each replacement runs in addition until the old worker \
                has drained. A value equal to workers makes a reload as quick as possible, and \
                takes twice the memory meanwhile.",
    },
];

const MOST_WORKERS: u64 = 1024;

/// Checks a number of workers of the command `scale`: `+1`, `-1`, `4`. Returns the text unchanged.
///
/// # Errors
///
/// The text is not such a number, or out of range. The error is the sentence to print.
pub(crate) fn workers(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    match whole(digits) {
        Some(1..=MOST_WORKERS) => Ok(text.to_owned()),
        _ => Err(format!("allowed: from 1 to {MOST_WORKERS}, with a + or - in front for more or fewer")),
    }
}

/// The limit of `max-requests`, large enough for any use.
const MOST_REQUESTS: u64 = 1_000_000_000;

/// The limit of sizes of memory, a pebibyte: more than any machine has.
const MOST_MEMORY: u64 = 1 << 50;

/// A choice of a backend by one of its names, available if its feature is built in.
macro_rules! backend {
    ($name:literal, $feature:literal, $backend:path) => {{
        #[cfg(feature = $feature)]
        const CHOOSE: Option<fn(&mut Settings)> = Some(|s| s.backend = Some(std::sync::Arc::new($backend)));
        #[cfg(not(feature = $feature))]
        const CHOOSE: Option<fn(&mut Settings)> = None;
        Choice::of_feature($name, $feature, CHOOSE)
    }};
}

const BACKENDS: &[Choice] = &[
    backend!("sync", "sync", remuda_sync::Sync),
    backend!("threaded", "threaded", remuda_threaded::Threaded),
    backend!("gthread", "threaded", remuda_threaded::Threaded),
    backend!("mio", "mio", remuda_mio::Mio),
    backend!("tokio", "tokio", remuda_tokio::Tokio),
    backend!("smol", "smol", remuda_smol::Smol),
    backend!("async-std", "async-std", remuda_async_std::AsyncStd),
];
