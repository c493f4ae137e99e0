//! What the server has counted, in Prometheus's text format (version 0.0.4).
//!
//! Numbers with `_total` are those of all workers there ever were, of all generations; they only grow. The others are of
//! this moment.

use std::fmt::{Display, Write as _};

use remuda_core::app::{BUCKETS, HELD, Held, Tally};
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use remuda_core::worker::sys::now;
use remuda_core::worker::{Account, Entry, Loss, Stage};

use super::View;
use crate::status::{resident, stage};
use crate::sys;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All of it, at this moment.
pub(super) fn text(view: &View) -> String {
    let account = view.ledger.read(&view.board);
    let mut queues: Vec<(String, u32)> = Vec::new();
    for listener in &view.listeners {
        let (Some(queued), bound) = (sys::queued(listener), listener.bound.to_string()) else { continue };
        match queues.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, all)) => *all += queued, // each slot has one
            None => queues.push((bound, queued)),
        }
    }
    render(&account, &queues, now())
}

fn render(account: &Account, queues: &[(String, u32)], now: Time) -> String {
    let mut page = Page::default();
    server(&mut page, account, now);
    requests(&mut page, &account.total());
    connections(&mut page, account, queues);
    hand_offs(&mut page, account);
    replacements(&mut page, account);
    workers(&mut page, &account.living, now);
    page.0
}

fn server(page: &mut Page, account: &Account, now: Time) {
    page.gauge("uptime_seconds", "Seconds since the arbiter was started").one(seconds(account.started, now));
    page.gauge("ready", "Whether new connections are welcome, as /readyz says")
        .one(u8::from(account.is_ready()));
    let mut stages = page.gauge("stage", "How far the server is: 1 for that stage, 0 for the others");
    for one in [Stage::Starting, Stage::Serving, Stage::Lameduck, Stage::Stopping] {
        stages.of("stage", stage(one), u8::from(account.stage == one));
    }
    page.gauge("workers_wanted", "Workers that are asked for").one(account.workers);
    page.gauge("workers", "Workers that there are, those that boot or drain included")
        .one(account.living.len());
}

fn requests(page: &mut Page, total: &Tally) {
    page.counter("requests_total", "Requests whose head was complete").one(total.requests);
    let mut responses =
        page.counter("responses_total", "Requests answered to the last byte, by class of status");
    for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(total.statuses) {
        responses.of("class", class, count);
    }
    let mut times = page.family(
        "request_duration_seconds",
        "histogram",
        "Seconds from the end of a request's head to the end of its response being queued",
    );
    let mut count = 0;
    for (bound, more) in BUCKETS.into_iter().zip(total.times) {
        count += more;
        times.line("_bucket", Some(("le", &bound.as_secs_f64().to_string())), count);
    }
    count += total.times[BUCKETS.len()];
    times.line("_bucket", Some(("le", "+Inf")), count);
    times.line("_sum", None, total.took as f64 / 1e9);
    times.line("_count", None, count);
    page.counter("requests_aborted_total", "Requests that got no complete answer").one(total.aborted);
    page.counter("requests_cut_total", "Those of them that a drain's deadline cut").one(total.cut);
    page.counter("requests_refused_total", "Requests that were refused, with a response that says why")
        .one(total.refused);
    page.counter("handler_panics_total", "Handlers that panicked").one(total.panics);
    page.counter(
        "request_timeouts_total",
        "Requests whose handler took longer than it may: told 503, or cut",
    )
    .one(total.timed_out);
}

fn connections(page: &mut Page, account: &Account, queues: &[(String, u32)]) {
    let of_living = |count: fn(&Entry) -> u64| account.living.iter().map(count).sum::<u64>();
    let (open, in_flight) = (of_living(|entry| entry.open), of_living(in_flight));
    page.counter("connections_total", "Connections accepted").one(account.total().accepted);
    let mut states =
        page.gauge("connections", "Connections that are open: with a request in flight, or without");
    states.of("state", "in_flight", in_flight.min(open));
    states.of("state", "waiting", open.saturating_sub(in_flight));
    page.gauge("requests_in_flight", "Requests that are being answered").one(in_flight);
    page.gauge("busy_handlers", "Handlers that run at this moment")
        .one(of_living(|entry| entry.busy.len() as u64));
    let mut backlog =
        page.gauge("backlog", "Connections that wait in a listener's queue; not known of unix sockets");
    for (listener, queued) in queues {
        backlog.of("listener", listener, queued);
    }
    let total = account.total();
    let mut drained = page.counter("drained_connections_total", "Connections that a drain has ended, by how");
    drained.of("outcome", "announced", total.announced);
    drained.of("outcome", "idle_closed", total.idle_closed);
    drained.of("outcome", "handed", total.handed);
    drained.of("outcome", "cut", total.cut);
}

fn hand_offs(page: &mut Page, account: &Account) {
    let total = account.total();
    let mut moved =
        page.counter("handoff_connections_total", "Connections that have left workers for others, and come");
    moved.of("direction", "out", total.handed);
    moved.of("direction", "in", total.adopted);
    page.gauge("handoff_queue", "Connections that are on their way").one(account.in_queue());
    page.counter("handoff_queue_seconds_total", "Seconds that all who came were on their way")
        .one(total.queued as f64 / 1e9);
    let mut held = page
        .counter("handoff_held_total", "Hand-offs that did not come about at once, or not at all, by why");
    for (why, count) in HELD.into_iter().zip(total.held) {
        let name = match why {
            Held::Full => "full",
            Held::Exhausted => "exhausted",
            Held::Late => "late",
            Held::Failed => "failed",
        };
        held.of("reason", name, count);
    }
    page.counter("handoff_lost_total", "Connections that came and could not be gone on with")
        .one(total.unusable);
    page.counter(
        "handoff_delayed_total",
        "How often a connection was found on its way for more than a second",
    )
    .one(account.delayed);
    let open: u64 = account.living.iter().map(|entry| entry.open).sum();
    page.gauge(
        "connections_unaccounted",
        "Connections taken on, without those that ended, have left for other workers, or are open",
    )
    .one(i128::from(total.in_hand()) - i128::from(open));
}

fn replacements(page: &mut Page, account: &Account) {
    let mut restarts = page.counter("worker_restarts_total", "Workers replaced, by the reason");
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
    let mut drains =
        page.counter("worker_drains_total", "Workers whose drain is over: nothing was left, or some was cut");
    drains.of("outcome", "clean", account.drained);
    drains.of("outcome", "cut", account.cut);
}

fn workers(page: &mut Page, living: &[Entry], now: Time) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Entry) -> Option<f64>| {
        let mut family = page.gauge(name, help);
        for entry in living {
            if let Some(value) = value(entry) {
                family.of("pid", entry.pid, value);
            }
        }
    };
    each("worker_age_seconds", "Seconds that a worker has lived", &|entry| Some(seconds(entry.born, now)));
    each("worker_heartbeat_age_seconds", "Seconds since a worker's loop last was alive", &|entry| {
        (entry.beat > Time::ZERO).then(|| seconds(entry.beat, now))
    });
    each("worker_connections", "Connections of a worker", &|entry| Some(entry.open as f64));
    each("worker_busy_handlers", "Handlers of a worker that run", &|entry| Some(entry.busy.len() as f64));
    each("worker_requests", "Requests that a worker has had", &|entry| Some(entry.counts.requests as f64));
    each("worker_resident_bytes", "Memory that a worker has resident", &|entry| {
        resident(entry.pid as i32).map(|bytes| bytes as f64)
    });
}

fn in_flight(entry: &Entry) -> u64 {
    let Tally { requests, finished, aborted, rejected, .. } = entry.counts;
    requests.saturating_sub(finished + aborted + rejected)
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

/// What has been written so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        let name = format!("remuda_{name}");
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}"); // a string takes everything
        Family { page: self, name }
    }
}

/// Lines of one name.
struct Family<'a> {
    page: &'a mut Page,
    name: String,
}

impl Family<'_> {
    fn one(&mut self, value: impl Display) {
        self.line("", None, value);
    }

    fn of(&mut self, label: &str, is: impl Display, value: impl Display) {
        self.line("", Some((label, &is.to_string())), value);
    }

    fn line(&mut self, suffix: &str, label: Option<(&str, &str)>, value: impl Display) {
        let Self { page: Page(text), name } = self;
        let _ = match label {
            Some((label, is)) => {
                let is = is.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
                writeln!(text, "{name}{suffix}{{{label}=\"{is}\"}} {value}")
            }
            None => writeln!(text, "{name}{suffix} {value}"),
        };
    }
}

#[cfg(test)]
mod tests;
