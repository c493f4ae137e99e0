//! Signals to workers.

use std::io;

use nix::unistd::Uid;
use remuda_core::order::Order;
use remuda_core::shutdown::Phase;
use remuda_core::worker::sys::{QUICK_STOP, now};
use rustix::process::{self, Pid, kill_process};

use crate::sys;

/// Sends an order to drain by signal as well: a stuck loop reads no orders, but its signal handlers
/// arm the timer (D10). For a stop it also sends the signal that an operator would send, which
/// counts once with the order (D11): the time that this signal gives counts from its arrival, and
/// the deadline may be sooner.
pub(super) fn send_signal(pid: Pid, user: Option<Uid>, order: &Order) {
    let Order::Drain { drain, .. } = order else { return };
    if drain.phase < Phase::Draining {
        return;
    }
    if !drain.reason.is_stop() {
        // The order has the deadline too, and a worker that reads it needs no signal.
        return sys::signal_as(user, || sys::tell_deadline(pid, drain.deadline), |_| ());
    }
    let hurried = drain.deadline <= now() + QUICK_STOP;
    let signal = if hurried { process::Signal::INT } else { process::Signal::TERM };
    let both = || {
        kill_process(pid, signal)?;
        let _ = sys::tell_deadline(pid, drain.deadline); // the signal alone leads to an end
        Ok(())
    };
    sys::signal_as(user, both, |error| report(pid, &error));
}

/// Sends a signal to a worker of `user`, or of this user if none. The worker was not reaped yet, so
/// the pid is still its own; a signal to a dead worker does nothing.
pub(super) fn send(pid: Pid, user: Option<Uid>, signal: process::Signal) {
    sys::signal_as(user, || Ok(kill_process(pid, signal)?), |error| report(pid, &error));
}

fn report(pid: Pid, error: &io::Error) {
    tracing::error!(
        pid = pid.as_raw_nonzero().get(),
        "cannot signal worker: {error}; that needs CAP_KILL, or CAP_SETUID"
    );
}

pub(super) const CHILD: i32 = process::Signal::CHILD.as_raw();
