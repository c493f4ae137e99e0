//! The answer to `status`: one line for the server, and one for each worker.

use remuda_core::app::Busy;
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;
use remuda_core::worker::{Scoreboard, ServerStage};
use serde_json::{Value, json};

use crate::control::{VERSION, done};
use crate::listener::Listeners;
use crate::plan::{Alive, Plan};
use crate::sys::resident;

/// The largest number of exchanges shown for one worker, which bounds the answer. `busy_handlers`
/// and `in_flight` count all.
const BUSY_MAX: usize = 8;

/// Facts about the server that the plan does not have.
#[derive(Clone, Debug)]
pub(crate) struct Server<'a> {
    pub(crate) version: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) generation: u32,
    pub(crate) started: Time,
    pub(crate) listeners: &'a Listeners,
    /// Missing files by which the server is found, one sentence each.
    pub(crate) lost: Vec<String>,
    /// Whether workers are to have keepers (D20).
    pub(crate) rescue: bool,
}

/// Returns all lines of the answer. Times are in seconds, sizes in bytes.
pub(crate) fn lines(server: Server<'_>, plan: &Plan, board: &Scoreboard, now: Time) -> Vec<Value> {
    let mut lines = vec![arbiter(server, plan, now)];
    lines.extend(plan.lives().map(|alive| worker(alive, board, now)));
    lines.push(done());
    lines
}

fn arbiter(server: Server<'_>, plan: &Plan, now: Time) -> Value {
    let Server { version, backend, generation, started, listeners, lost, rescue } = server;
    let listeners: Vec<_> = listeners.iter().map(|listener| listener.bound.to_string()).collect();
    json!({ "v": VERSION, "arbiter": {
        "pid": std::process::id(),
        "version": version,
        "uptime": seconds(started, now),
        "generation": generation,
        "phase": stage(plan.stage()),
        "backend": backend,
        "listeners": listeners,
        "lost": lost,
        "rescue": rescue,
        "workers": plan.workers(),
        "admin_pid": plan.helper().map(|pid| pid.as_raw_nonzero()),
    }})
}

fn worker(alive: Alive, board: &Scoreboard, now: Time) -> Value {
    let Alive { slot, seat, pid, born, ready, is_leaving } = alive;
    let entry = board.seat(seat).and_then(|seat| seat.read());
    let phase = entry.as_ref().map_or(Phase::Booting, |entry| entry.phase);
    let counts = entry.as_ref().map(|entry| entry.counts).unwrap_or_default();
    let busy = entry.as_ref().map_or(&[][..], |entry| &entry.busy);
    json!({ "v": VERSION, "worker": {
        "pid": pid.as_raw_nonzero(),
        "slot": slot,
        "keeper_pid": entry.as_ref().and_then(|entry| entry.keeper),
        "generation": entry.as_ref().map(|entry| entry.generation),
        "phase": phase_name(phase),
        "reason": entry.as_ref().and_then(|entry| entry.reason).map(|reason| reason.to_string()),
        "ready": ready.is_some(),
        "leaving": is_leaving,
        "age": seconds(born, now),
        "requests": counts.requests,
        "connections": entry.as_ref().map_or(0, |entry| entry.open),
        "handed_out": counts.handed,
        "handed_in": counts.adopted,
        "heartbeat_age": entry.as_ref().filter(|entry| entry.beat > Time::ZERO).map(|entry| seconds(entry.beat, now)),
        "rss": resident(pid.as_raw_nonzero().get()),
        "busy_handlers": entry.as_ref().map_or(0, |entry| entry.handlers),
        "in_flight": counts.in_flight(),
        "busy": busy.iter().take(BUSY_MAX).map(|busy| handler(busy, now)).collect::<Vec<_>>(),
    }})
}

fn handler(busy: &Busy, now: Time) -> Value {
    json!({
        "request": busy.request,
        "for": seconds(busy.since, now),
        "doing": busy.doing.word(),
        "on_loop": busy.on_loop,
        "running_for": busy.running.map(|since| seconds(since, now)),
    })
}

/// Seconds between two times, to the millisecond.
fn seconds(since: Time, now: Time) -> f64 {
    (now - since).as_millis() as f64 / 1000.0
}

/// The name of a stage of the server.
pub(crate) fn stage(stage: ServerStage) -> &'static str {
    match stage {
        ServerStage::Starting => "starting",
        ServerStage::Serving => "serving",
        ServerStage::Resting => "resting",
        ServerStage::Lameduck => "lameduck",
        ServerStage::Stopping => "stopping",
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Booting => "booting",
        Phase::Running => "running",
        Phase::Lameduck => "lameduck",
        Phase::Draining => "draining",
        Phase::Closing => "closing",
        Phase::Exited => "exited",
    }
}
