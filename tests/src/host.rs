//! Whether the machine ran what was ready to run.
//!
//! Many a scenario says by when something has to have happened. That is a statement about the server only where the
//! server was let run: on a machine that stood still, or had far more to do than it can, a missed limit says nothing, and
//! neither does a limit that was kept. So a scenario that failed meanwhile is shown again, and says so. One that fails on
//! a machine that ran well has failed.

use std::fmt;
use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a moment is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    lags: u64,
    pressure: Pressure,
}

/// What kept processes from running in a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hindrance {
    time: Duration,
    /// How often a thread that slept for [`NAP`] slept for [`LAG`] longer.
    lags: u64,
    pressure: Pressure,
}

/// For how long some process was ready and had to wait, since the machine was started (proc(5), `/proc/pressure`).
#[derive(Clone, Copy, Debug, Default)]
struct Pressure {
    processor: Duration,
    /// For storage or for memory.
    pages: Duration,
}

const NAP: Duration = Duration::from_millis(5);
const LAG: Duration = Duration::from_millis(100);

/// The share of a time in which processes may wait for a processor.
const SHARE: f64 = 0.9;

/// How long processes may wait for pages.
const PAGES: Duration = Duration::from_millis(500);

impl Moment {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), lags: lags().load(Ordering::Relaxed), pressure: Pressure::read() }
    }

    pub(crate) fn hindrance(self) -> Hindrance {
        let now = Self::now();
        let Pressure { processor, pages } = now.pressure;
        Hindrance {
            time: now.at - self.at,
            lags: now.lags - self.lags,
            pressure: Pressure {
                processor: processor.saturating_sub(self.pressure.processor),
                pages: pages.saturating_sub(self.pressure.pages),
            },
        }
    }
}

impl Hindrance {
    /// Whether it is enough to make a limit meaningless.
    pub(crate) fn is_grave(&self) -> bool {
        let Self { time, lags, pressure } = self;
        *lags > 0 || pressure.processor > time.mul_f64(SHARE) || pressure.pages > PAGES
    }
}

impl fmt::Display for Hindrance {
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
    /// Zero where the kernel does not count it.
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
        thread::Builder::new().name("machine".into()).spawn(watch).expect("a thread can be had");
    });
    &LAGS
}
