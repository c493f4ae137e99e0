//! Whether the host let runnable processes run.
//!
//! Many scenarios assert a time limit. That says something about the server only if the server
//! could run: on a host that stood still, or was overloaded, a missed limit says nothing, and
//! neither does a kept one. So a scenario that failed on such a host is run again, and says so.
//! On a host that ran well, its failure counts.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The start of a time span to judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    at: Instant,
    lags: u64,
    pressure: Pressure,
}

/// What kept processes from running in a time span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    time: Duration,
    /// How often a thread that slept for [`NAP`] woke more than [`LAG`] late.
    lags: u64,
    pressure: Pressure,
}

/// How long any process was runnable and had to wait, since the host was started (proc(5),
/// `/proc/pressure`).
#[derive(Clone, Copy, Debug, Default)]
struct Pressure {
    processor: Duration,
    /// Waits for storage or memory.
    pages: Duration,
}

const NAP: Duration = Duration::from_millis(5);
const LAG: Duration = Duration::from_millis(100);

/// The share of a time span in which processes may wait for a processor.
const SHARE: f64 = 0.9;

/// How long processes may wait for pages.
const PAGES: Duration = Duration::from_millis(500);

/// How often a test is run at most, if the host stalls.
const TRIES: u32 = 3;

/// Runs a test. A failure counts only if the host ran all runnable processes in time.
#[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
pub fn hold(name: &str, run: impl Fn()) {
    for tries_left in (0..TRIES).rev() {
        let start = Snapshot::now();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&run)) else { return };
        let stall = start.stall();
        eprintln!("{name}: {stall}");
        if tries_left == 0 || !stall.is_grave() {
            resume_unwind(panic);
        }
        // Not with `eprintln!`, whose output the test harness hides if the next run passes.
        let _ = writeln!(io::stderr(), "{name}: run again, because {stall}");
    }
}

impl Snapshot {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), lags: lags().load(Ordering::Relaxed), pressure: Pressure::read() }
    }

    pub(crate) fn stall(self) -> Stall {
        let now = Self::now();
        let Pressure { processor, pages } = now.pressure;
        Stall {
            time: now.at - self.at,
            lags: now.lags - self.lags,
            pressure: Pressure {
                processor: processor.saturating_sub(self.pressure.processor),
                pages: pages.saturating_sub(self.pressure.pages),
            },
        }
    }
}

impl Stall {
    /// Whether a missed limit says nothing.
    pub(crate) fn is_grave(&self) -> bool {
        let Self { time, lags, pressure } = self;
        *lags > 0 || pressure.processor > time.mul_f64(SHARE) || pressure.pages > PAGES
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, lags, pressure: Pressure { processor, pages } } = self;
        write!(
            f,
            "of {time:.1?} processes waited {processor:.1?} for a processor and {pages:.1?} for storage or memory; \
             {lags} times nothing ran for {LAG:?}"
        )
    }
}

impl Pressure {
    /// Zero if the kernel does not count it.
    fn read() -> Self {
        let total = |of: &str| {
            let text = fs::read_to_string(format!("/proc/pressure/{of}")).unwrap_or_default();
            let total = text.lines().next().and_then(|some| some.rsplit_once("total=")?.1.parse().ok());
            Duration::from_micros(total.unwrap_or_default())
        };
        Self { processor: total("cpu"), pages: total("io") + total("memory") }
    }
}

/// Counts how often nothing ran, from the first call on.
fn lags() -> &'static AtomicU64 {
    static LAGS: AtomicU64 = AtomicU64::new(0);
    static WATCH: OnceLock<()> = OnceLock::new();
    WATCH.get_or_init(|| {
        let watch = || loop {
            let start = Instant::now();
            thread::sleep(NAP);
            if start.elapsed() > NAP + LAG {
                LAGS.fetch_add(1, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("host".into()).spawn(watch).expect("a thread can be had");
    });
    &LAGS
}
