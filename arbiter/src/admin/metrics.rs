//! The page of metrics in Prometheus's text format (version 0.0.4), or in OpenMetrics (version
//! 1.0.0) for clients that accept it. The names of samples are the same in both.
//!
//! Metrics with `_total` are sums over all workers of all generations, including ended ones, and
//! only grow. The others are current values.

use std::fmt::{Display, Write as _};

use remuda_core::app::{BUCKETS, HELD, Held, Tally};
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use remuda_core::worker::sys::now;
use remuda_core::worker::{Account, Loss, SeatSnapshot, ServerStage};

use super::View;
use super::processes::Usage;
use crate::status::stage;
use crate::sys::{self, resident};

/// The format of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notation {
    /// Prometheus's text format.
    Text,
    /// The standard that grew out of it, with other heads of families and an end mark.
    OpenMetrics,
}

impl Notation {
    const OPEN_METRICS: &[u8] = b"application/openmetrics-text";

    /// The format for a client with this `Accept` field.
    pub(super) fn accepted(accept: Option<&[u8]>) -> Self {
        let types = accept.unwrap_or_default().windows(Self::OPEN_METRICS.len());
        let mut types = types.map(|one| one.eq_ignore_ascii_case(Self::OPEN_METRICS));
        if types.any(|is_it| is_it) { Self::OpenMetrics } else { Self::Text }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes the page with current values.
pub(super) fn text(view: &View, notation: Notation) -> String {
    let account = view.ledger.read(&view.board);
    let workers = alive(&account.living).filter_map(|entry| i32::try_from(entry.pid).ok());
    let helper = std::process::id().cast_signed();
    let usage = view.processes.usage(workers.chain([helper]));
    let mut queues: Vec<(String, u32)> = Vec::new();
    for listener in &view.listeners {
        let (Some(queued), bound) = (sys::queued(listener), listener.bound.to_string()) else { continue };
        match queues.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, all)) => *all += queued, // each slot has one
            None => queues.push((bound, queued)),
        }
    }
    let seen = Seen { account: &account, queues: &queues, usage, program: &view.program };
    seen.page(notation, now())
}

/// The data of a page.
struct Seen<'a> {
    account: &'a Account,
    /// The number of waiting connections of each listener.
    queues: &'a [(String, u32)],
    usage: Option<Usage>,
    /// The program's version.
    program: &'a str,
}

impl Seen<'_> {
    fn page(&self, notation: Notation, now: Time) -> String {
        let Self { account, queues, usage, program } = *self;
        let mut page = Page { text: String::new(), notation };
        build(&mut page, program);
        all(&mut page, account, queues, now);
        if let Some(usage) = usage {
            processes(&mut page, &usage);
        }
        if notation == Notation::OpenMetrics {
            page.text += "# EOF\n";
        }
        page.text
    }
}

fn all(page: &mut Page, account: &Account, queues: &[(String, u32)], now: Time) {
    server(page, account, now);
    requests(page, &account.total());
    connections(page, account, queues);
    hand_offs(page, account);
    replacements(page, account);
    workers(page, &account.living, now);
}

/// Always 1; the labels have the information.
fn build(page: &mut Page, program: &str) {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("program", program)];
    page.family("build_info", "info", "Version of remuda, and of the program").with(&labels, 1);
}

/// Names and meanings are those of Prometheus client libraries, but for all processes of the
/// server.
fn processes(page: &mut Page, usage: &Usage) {
    let Usage { cpu, resident, space, started, descriptors } = *usage;
    let mut one = |name: &str, kind, help, value: f64| {
        page.named(format!("process_{name}"), kind, help).one(value);
    };
    one(
        "cpu_seconds_total",
        "counter",
        "Processor time of the arbiter and all its children, including ended ones",
        cpu,
    );
    one(
        "resident_memory_bytes",
        "gauge",
        "Resident memory of the processes; shared memory counts for each",
        resident as f64,
    );
    one("virtual_memory_bytes", "gauge", "Address space of the processes", space as f64);
    if let Some(started) = started {
        one(
            "start_time_seconds",
            "gauge",
            "When the arbiter was started, in seconds since the epoch",
            started,
        );
    }
    if let Some(descriptors) = descriptors {
        one(
            "open_fds",
            "gauge",
            "Open descriptors of the process that is nearest to its limit",
            descriptors.open as f64,
        );
        one("max_fds", "gauge", "Descriptor limit of that process", descriptors.limit as f64);
    }
}

fn server(page: &mut Page, account: &Account, now: Time) {
    page.gauge("uptime_seconds", "Seconds since the arbiter was started").one(seconds(account.started, now));
    page.gauge("ready", "1 if the server is ready for new connections, as /readyz reports")
        .one(u8::from(account.is_ready()));
    let mut stages = page.gauge("stage", "Stage of the server: 1 for the current stage, 0 for the others");
    for one in [
        ServerStage::Starting,
        ServerStage::Serving,
        ServerStage::Resting,
        ServerStage::Lameduck,
        ServerStage::Stopping,
    ] {
        stages.of("stage", stage(one), u8::from(account.stage == one));
    }
    page.gauge("workers_wanted", "Workers that the settings or a scale ask for").one(account.workers);
    page.gauge("workers", "Workers alive, including those that boot or drain")
        .one(alive(&account.living).count());
}

fn requests(page: &mut Page, total: &Tally) {
    page.counter("requests_total", "Requests with a complete and valid head").one(total.requests);
    let mut responses =
        page.counter("responses_total", "Requests answered to the last byte, by class of status");
    for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx", "other"].into_iter().zip(total.statuses) {
        responses.of("class", class, count);
    }
    let mut times = page.family(
        "request_duration_seconds",
        "histogram",
        "Seconds from the end of a request's head until the last byte of its response is sent",
    );
    let mut count = 0;
    for (bound, more) in BUCKETS.into_iter().zip(total.times) {
        count += more;
        // With a point in any case, as OpenMetrics writes numbers in this place.
        times.line("_bucket", &[("le", &format!("{:?}", bound.as_secs_f64()))], count);
    }
    count += total.times[BUCKETS.len()];
    times.line("_bucket", &[("le", "+Inf")], count);
    times.line("_sum", &[], total.took as f64 / 1e9);
    times.line("_count", &[], count);
    page.counter(
        "requests_aborted_total",
        "Requests without a complete response, or answered with 503 at a drain's deadline",
    )
    .one(total.aborted);
    let mut rescues = page.counter(
        "rescued_total",
        "Connections of workers that died, by what their keepers did: moved to another worker, answered or cut a request in flight, or not found",
    );
    rescues.of("outcome", "moved", total.rescued);
    rescues.of("outcome", "answered", total.rescue_answered);
    rescues.of("outcome", "cut", total.rescue_cut);
    rescues.of("outcome", "lost", total.rescue_lost);
    page.counter("requests_cut_total", "Aborted requests that a drain's deadline cut or answered with 503")
        .one(total.cut);
    page.counter("requests_refused_total", "Requests refused with an error response").one(total.refused);
    page.counter("handler_panics_total", "Handlers that panicked").one(total.panics);
    page.counter(
        "request_timeouts_total",
        "Requests whose handler exceeded request-timeout: answered with 503, or cut",
    )
    .one(total.timed_out);
}

fn connections(page: &mut Page, account: &Account, queues: &[(String, u32)]) {
    let of_living = |count: fn(&SeatSnapshot) -> u64| account.living.iter().map(count).sum::<u64>();
    let (open, in_flight) = (of_living(|entry| entry.open), of_living(in_flight));
    page.counter("connections_accepted_total", "Connections accepted").one(account.total().accepted);
    let mut states = page.gauge("connections", "Open connections, with or without a request in flight");
    states.of("state", "in_flight", in_flight.min(open));
    states.of("state", "waiting", open.saturating_sub(in_flight));
    page.gauge("requests_in_flight", "Requests in flight").one(in_flight);
    page.gauge("busy_handlers", "Handlers called and not yet ended").one(of_living(|entry| entry.handlers));
    let mut backlog =
        page.gauge("backlog", "Connections that wait in a listener's queue; unknown for unix sockets");
    for (listener, queued) in queues {
        backlog.of("listener", listener, queued);
    }
    let total = account.total();
    let mut drained = page.counter("drained_connections_total", "Connections ended by a drain, by outcome");
    drained.of("outcome", "announced", total.announced);
    drained.of("outcome", "idle_closed", total.idle_closed);
    drained.of("outcome", "handed", total.handed);
    drained.of("outcome", "cut", total.cut);
}

fn hand_offs(page: &mut Page, account: &Account) {
    let total = account.total();
    let mut moved =
        page.counter("handoff_connections_total", "Connections handed off by workers, and received");
    moved.of("direction", "out", total.handed);
    moved.of("direction", "in", total.adopted);
    page.gauge("handoff_queue", "Connections in the hand-off queue").one(account.in_queue());
    page.counter(
        "handoff_queue_seconds_total",
        "Seconds that received connections spent in the hand-off queue, in all",
    )
    .one(total.queued as f64 / 1e9);
    let mut held = page.counter("handoff_held_total", "Hand-offs delayed or not made, by reason");
    for (why, count) in HELD.into_iter().zip(total.held) {
        let name = match why {
            Held::Full => "full",
            Held::Exhausted => "exhausted",
            Held::Late => "late",
            Held::Failed => "failed",
        };
        held.of("reason", name, count);
    }
    page.counter("handoff_lost_total", "Received connections that could not be continued")
        .one(total.unusable);
    page.counter(
        "handoff_delayed_total",
        "Times that a connection was in the hand-off queue for more than a second",
    )
    .one(account.delayed);
    // May differ from zero for a moment, in either direction: a worker writes how many are open
    // once a turn, and the other counts at once.
    let open: u64 = account.living.iter().map(|entry| entry.open).sum();
    page.gauge(
        "connections_unaccounted",
        "Connections accepted or received that have neither ended nor been handed off, and are not open",
    )
    .one(i128::from(total.in_hand()) - i128::from(open));
}

fn replacements(page: &mut Page, account: &Account) {
    let mut restarts = page.counter("worker_restarts_total", "Workers replaced, by reason");
    for (reason, count) in &account.replaced {
        restarts.of("reason", reason_name(*reason), count);
    }
    for (loss, count) in &account.lost {
        let name = match loss {
            Loss::Died => "died",
            Loss::Hung => "hung",
            Loss::Late => "not_ready_in_time",
            Loss::NotStarted => "not_started",
        };
        restarts.of("reason", name, count);
    }
    let mut drains = page.counter("worker_drains_total", "Workers whose drain has ended, by outcome");
    drains.of("outcome", "clean", account.drained);
    drains.of("outcome", "cut", account.cut);
}

fn workers(page: &mut Page, living: &[SeatSnapshot], now: Time) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&SeatSnapshot) -> Option<f64>| {
        let mut family = page.gauge(name, help);
        for entry in alive(living) {
            if let Some(value) = value(entry) {
                family.of("pid", entry.pid, value);
            }
        }
    };
    each("worker_age_seconds", "Age of a worker in seconds", &|entry| Some(seconds(entry.born, now)));
    each("worker_heartbeat_age_seconds", "Seconds since the last heartbeat of a worker's loop", &|entry| {
        (entry.beat > Time::ZERO).then(|| seconds(entry.beat, now))
    });
    each("worker_connections", "Open connections of a worker", &|entry| Some(entry.open as f64));
    each("worker_busy_handlers", "Handlers of a worker called and not yet ended", &|entry| {
        Some(entry.handlers as f64)
    });
    each("worker_requests", "Requests received by a worker", &|entry| Some(entry.counts.requests as f64));
    each("worker_resident_bytes", "Resident memory of a worker", &|entry| {
        resident(entry.pid as i32).map(|bytes| bytes as f64)
    });
}

/// Without those that are gone and whose keepers go on.
fn alive(living: &[SeatSnapshot]) -> impl Iterator<Item = &SeatSnapshot> {
    living.iter().filter(|entry| !entry.is_gone)
}

fn in_flight(entry: &SeatSnapshot) -> u64 {
    entry.counts.in_flight()
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Reload => "reload",
        Reason::Upgrade => "upgrade",
        Reason::RecycleRequests => "max_requests",
        Reason::RecycleLifetime => "max_lifetime",
        Reason::RecycleMemory => "max_rss",
        Reason::RecycleTimeout => "request_timeout",
        _ => "asked",
    }
}

fn seconds(since: Time, now: Time) -> f64 {
    (now - since).as_secs_f64()
}

/// A page that is being written.
struct Page {
    text: String,
    notation: Notation,
}

impl Page {
    fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        self.named(format!("remuda_{name}"), kind, help)
    }

    /// Begins a family with samples called `name`; a histogram adds suffixes.
    fn named(&mut self, name: String, kind: &str, help: &str) -> Family<'_> {
        // In OpenMetrics the name of a family lacks the suffix of its kind. The text format has no
        // kind for infos.
        let (family, kind) = match (self.notation, kind) {
            (Notation::OpenMetrics, "counter") => (name.strip_suffix("_total"), kind),
            (Notation::OpenMetrics, "info") => (name.strip_suffix("_info"), kind),
            (Notation::Text, "info") => (None, "gauge"),
            _ => (None, kind),
        };
        let family = family.unwrap_or(&name);
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {family} {help}.\n# TYPE {family} {kind}");
        Family { page: self, name }
    }
}

/// The samples of one family.
struct Family<'a> {
    page: &'a mut Page,
    name: String,
}

impl Family<'_> {
    fn one(&mut self, value: impl Display) {
        self.with(&[], value);
    }

    fn of(&mut self, label: &str, is: impl Display, value: impl Display) {
        self.with(&[(label, &is.to_string())], value);
    }

    fn with(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let escaped = |is: &str| is.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let labels: Vec<_> =
            labels.iter().map(|(label, is)| format!("{label}=\"{}\"", escaped(is))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let Self { page, name } = self;
        let _ = writeln!(page.text, "{name}{suffix}{labels} {value}");
    }
}

#[cfg(test)]
mod tests;
