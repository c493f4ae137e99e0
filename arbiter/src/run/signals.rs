//! The numbers of signals, and what the plan calls them.

use remuda_core::order::Order;
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;
use remuda_core::worker::sys::{QUICK_STOP, now};
use rustix::event::Timespec;
use rustix::process::{self, Pid, kill_process};

use crate::plan::Signal;
use crate::sys;

pub(crate) fn signal(number: i32) -> Option<Signal> {
    use process::Signal as Number;
    Some(match Number::from_named_raw(number)? {
        Number::TERM => Signal::Term,
        Number::INT => Signal::Int,
        Number::QUIT => Signal::Quit,
        Number::HUP => Signal::Hup,
        Number::USR1 => Signal::Usr1,
        Number::USR2 => Signal::Usr2,
        Number::TTIN => Signal::Ttin,
        Number::TTOU => Signal::Ttou,
        Number::WINCH => Signal::Winch,
        _ => return None,
    })
}

impl Signal {
    pub(super) fn number(self) -> process::Signal {
        use process::Signal as Number;
        match self {
            Self::Term => Number::TERM,
            Self::Int => Number::INT,
            Self::Quit => Number::QUIT,
            Self::Hup => Number::HUP,
            Self::Usr1 => Number::USR1,
            Self::Usr2 => Number::USR2,
            Self::Ttin => Number::TTIN,
            Self::Ttou => Number::TTOU,
            Self::Winch => Number::WINCH,
        }
    }
}

pub(crate) fn timespec(at: Time, now: Time) -> Timespec {
    let left = at - now;
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}

/// Says by signals what `order` says, if it is one to drain: a loop that is stuck reads no orders, but the handlers arm its
/// timer (D10). A stop comes with the one that people would send, too, and counts once with it (D11); how long that one leaves
/// is counted from its arrival, and the deadline may be sooner.
pub(super) fn send_signal(pid: Pid, order: &Order) {
    let Order::Drain { drain, .. } = order else { return };
    if drain.phase < Phase::Draining {
        return;
    }
    if drain.reason.is_stop() {
        let hurried = drain.deadline <= now() + QUICK_STOP;
        let signal = if hurried { process::Signal::INT } else { process::Signal::TERM };
        let _ = kill_process(pid, signal);
    }
    sys::tell_deadline(pid, drain.deadline);
}

pub(super) const CHILD: i32 = process::Signal::CHILD.as_raw();
