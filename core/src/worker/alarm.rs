//! Timers of async applications, on any backend.
//!
//! Each loop drives the alarms of its thread: it waits no longer than until [`deadline`], and calls
//! [`ring`] after the wait.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::sys;
use crate::time::Time;

/// Waits for `length`. Works on every backend.
///
/// # Panics
///
/// If it is polled on a thread that is not a worker's loop, such as one that the application has
/// started.
///
/// # Cancel safety
///
/// Dropping the future cancels the alarm.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use remuda_core::app::{Body, Incoming};
/// use remuda_core::worker::alarm::sleep;
///
/// async fn slowly(_: Request<Incoming>) -> Response<Body> {
///     sleep(Duration::from_secs(1)).await;
///     Response::new(Body::from("done\n"))
/// }
/// ```
pub fn sleep(length: Duration) -> Sleep {
    Sleep { until: sys::now() + length, alarm: Alarm::default() }
}

/// The future of [`sleep`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep {
    until: Time,
    alarm: Alarm,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if sys::now() >= self.until {
            return Poll::Ready(());
        }
        let until = self.until;
        self.alarm.set(until, cx.waker());
        Poll::Pending
    }
}

/// An alarm of the thread that sets it. It can be set again; dropping it cancels it.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<AlarmKey>);

/// The order of alarms: by time, then by the number given when the alarm was first set.
type AlarmKey = (Time, u64);

impl Alarm {
    /// Wakes `task` at `at`, not earlier.
    pub(super) fn set(&mut self, at: Time, task: &Waker) {
        let (key, replaced, driver) = ALARMS.with_borrow_mut(|alarms| alarms.set(at, self.0, task.clone()));
        self.0 = Some(key);
        drop(replaced);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Wakes `task` at `at` or earlier: if the alarm is set for an earlier time, it stays as it is,
    /// and the task checks the time when it is woken. So a connection in use does not touch its
    /// alarm.
    ///
    /// Only for tasks that always use the same waker: an alarm that stays as it is keeps its waker.
    pub(super) fn set_by(&mut self, at: Time, now: Time, task: &Waker) {
        if !self.0.is_some_and(|(set_for, _)| now < set_for && set_for <= at) {
            self.set(at, task);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            // At the end of the thread its alarms may be gone already.
            let forgotten = ALARMS.try_with(|alarms| alarms.borrow_mut().set.remove(&key));
            drop(forgotten);
        }
    }
}

/// Declares that a loop drives the alarms of this thread. Called once, before the application is
/// built.
pub fn attend() {
    ALARMS.with_borrow_mut(|alarms| alarms.attended = true);
}

/// When the next alarm of this thread is due.
pub fn deadline() -> Option<Time> {
    ALARMS.with_borrow(|alarms| alarms.set.first_key_value().map(|((at, _), _)| *at))
}

/// Wakes the tasks of this thread whose alarms are due.
pub fn ring(now: Time) {
    while let Some(waker) = ALARMS.with_borrow_mut(|alarms| alarms.next_due(now)) {
        waker.wake();
    }
}

/// Wakes `driver` whenever an alarm is set for a time before `at`, until when the calling loop
/// waits.
pub(super) fn on_sooner(at: Time, driver: &Waker) {
    let former = ALARMS.with_borrow_mut(|alarms| {
        alarms.awaited = at;
        let known = alarms.driver.as_ref().is_some_and(|known| known.will_wake(driver));
        (!known).then(|| alarms.driver.replace(driver.clone()))
    });
    drop(former);
}

/// Blocks this thread on `future`, and drives the alarms of the thread meanwhile.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        match deadline() {
            Some(at) => thread::park_timeout(at - sys::now()),
            None => thread::park(),
        }
        ring(sys::now());
    }
}

thread_local! {
    static ALARMS: RefCell<Alarms> = RefCell::new(Alarms::default());
}

/// The alarms of a thread. No waker is woken or dropped while they are borrowed, because that may
/// call functions of this module.
#[derive(Default)]
struct Alarms {
    set: BTreeMap<AlarmKey, Waker>,
    /// The last number assigned.
    last: u64,
    attended: bool,
    driver: Option<Waker>,
    /// Until when the loop waits.
    awaited: Time,
}

impl Alarms {
    /// Sets an alarm that had the key `former`, or none. Returns its new key, its former waker, and
    /// the loop's waker if the loop has to wait for less time.
    fn set(
        &mut self,
        at: Time,
        former: Option<AlarmKey>,
        waker: Waker,
    ) -> (AlarmKey, Option<Waker>, Option<Waker>) {
        assert!(self.attended, "remuda::sleep was awaited outside a worker's loop");
        let replaced = former.and_then(|key| self.set.remove(&key));
        let number = former.map_or_else(|| self.next_number(), |(_, number)| number);
        self.set.insert((at, number), waker);
        ((at, number), replaced, self.driver.as_ref().filter(|_| at < self.awaited).cloned())
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn next_due(&mut self, now: Time) -> Option<Waker> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests;
