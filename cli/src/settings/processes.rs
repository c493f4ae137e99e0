//! Workers and their threads.

use super::Settings;
use super::kind::{Choice, Kind, Measure};
use super::table::{Category, Platform, Setting};
use super::timeouts::{ANY_TIME, LONGEST};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "worker-class",
        short: Some('k'),
        category: Category::Processes,
        kind: Kind::Backend { among: BACKENDS },
        default: "tokio",
        platform: None,
        reload: true,
        help: "The backend: how a worker waits for its connections",
        about: "All backends keep the same drain contract; they differ in what they cost and in which handlers \
                they suit. tokio: async handlers and clients in any number, none that block. mio: many \
                connections and short handlers, no more slow ones than threads. threaded: blocking handlers, as \
                many at a time as threads. sync: handlers that compute, one at a time, none that wait for others.",
    },
    Setting {
        name: "workers",
        short: Some('w'),
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=1024, set: |s, n| s.arbiter.workers = n as u16 },
        default: "1",
        platform: Some(Platform::new("WEB_CONCURRENCY", "")),
        reload: true,
        help: "Worker processes",
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
        about: "So many blocking handlers run at once in one worker; further requests wait for a free thread. The \
                backend sync has 1 and allows no more; threaded is the one to choose for several.",
    },
    Setting {
        name: "preload",
        short: None,
        category: Category::Processes,
        kind: Kind::Switch { set: |s, on| s.arbiter.preload = on },
        default: "false",
        platform: None,
        reload: false,
        help: "Builds the application once, before the fork, instead of in each worker",
        about: "Workers then share its memory until they write there. It is built as the user who starts the server, before \
                the server listens, and must start no thread. A reload keeps it; an upgrade builds it anew. An application \
                that is built by an async function cannot be preloaded.",
    },
    Setting {
        name: "timeout",
        short: Some('t'),
        category: Category::Processes,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.worker.timeout = t },
        default: "30",
        platform: None,
        reload: true,
        help: "Seconds that a worker may be silent before it is replaced; 0: for ever",
        about: "A worker is silent while a handler blocks the loop that serves all its connections; one of the \
                backend threaded, while all of its threads are busy with the same requests. Otherwise it is no limit \
                for requests: those on handler threads, and drains, may take longer. The backend sync has no thread \
                but its loop, so that every request has to be answered within this time. The log says what a worker \
                was serving when it was ended.",
    },
    Setting {
        name: "boot-timeout",
        short: None,
        category: Category::Processes,
        kind: Kind::Time { allowed: ANY_TIME, set: |s, t| s.arbiter.boot_timeout = t },
        default: "60",
        platform: None,
        reload: true,
        help: "Seconds until a worker must be ready before it is replaced; 0: no limit",
        about: "Longer than the application ever takes to load.",
    },
    Setting {
        name: "max-boot-failures",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 0..=1_000_000, set: |s, n| s.arbiter.max_boot_failures = n as u32 },
        default: "0",
        platform: None,
        reload: true,
        help: "Failed boots after which a server that never was ready gives up; 0: the first that says why",
        about: "While no worker was ever ready, each that dies, is too slow or says that it cannot start is tried again \
                after growing pauses, and so many in all are enough: the server ends with status 3, or 4 where the \
                application could not be built. With 0 it ends at the first worker that says why it cannot start, and \
                those that die without a word are tried again for ever.",
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
        about: "Counted over all its connections. It serves on until its replacement is ready, and only then \
                drains, as drain-recycle says. For applications that grow with time.",
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
        help: "How many more requests than max-requests that is at most, by chance; 0: none",
        about: "A number, or a part of max-requests. Each worker draws its own, so that they are not all replaced \
                at once.",
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
        about: "Counted from when it was ready. As for max-requests, it serves on until its replacement is ready.",
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
        help: "How many more seconds than max-lifetime that is at most, by chance; 0: none",
        about: "A time, or a part of max-lifetime. Workers that were started together are not replaced together.",
    },
    Setting {
        name: "max-rss",
        short: None,
        category: Category::Processes,
        kind: Kind::Size { allowed: 0..=MOST_MEMORY, set: |s, n| s.arbiter.max_rss = n },
        default: "0",
        platform: None,
        reload: true,
        help: "Bytes of memory at which a worker is replaced; 0: never",
        about: "What it has resident, which includes what it shares with others. The arbiter looks once a second, so \
                that it may be more for a moment; it is no limit that the kernel holds. As for max-requests, the worker \
                serves on until its replacement is ready. One that is as large as soon as it is ready is not replaced \
                for that, and the log says so.",
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
        help: "How many more bytes than max-rss that is at most, by chance; 0: none",
        about: "A number of bytes, or a part of max-rss. Workers that grow alike are not replaced together.",
    },
    Setting {
        name: "recycle-concurrency",
        short: None,
        category: Category::Processes,
        kind: Kind::Count { allowed: 1..=64, set: |s, n| s.arbiter.recycle_concurrency = n as u16 },
        default: "1",
        platform: None,
        reload: true,
        help: "Workers that are replaced at a time because they have served enough",
        about: "So many more than asked for there are at most; the others wait.",
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
        about: "As for recycle-concurrency: each is one more until the old worker has drained. As many as there are \
                workers makes a reload as quick as possible, and takes twice the memory meanwhile.",
    },
];

/// As many as anybody might mean.
const MOST_REQUESTS: u64 = 1_000_000_000;

/// More than any machine has: a pebibyte.
const MOST_MEMORY: u64 = 1 << 50;

/// A backend, by one of its names, that is built in with a feature.
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
