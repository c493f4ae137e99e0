//! Sleeping in an async application, on any backend.
//!
//! Each loop has the alarms of its thread: it asks for the [`deadline`] before it waits, and has [`ring`] wake whoever
//! is due after it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::sys;
use crate::time::Time;

/// Waits for `length`, on whichever backend the application runs.
///
/// # Panics
///
/// When it is polled on a thread that is no worker's loop, such as one that the application started itself.
///
/// # Cancel safety
///
/// Dropping it forgets the alarm.
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

/// An alarm of the thread that sets it, which can be set again. Dropping it forgets it.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Key>);

/// By when an alarm is due, then by when it was first set.
type Key = (Time, u64);

impl Alarm {
    /// Has `task` woken at `at` and not before.
    pub(super) fn set(&mut self, at: Time, task: &Waker) {
        let (key, replaced, driver) = ALARMS.with_borrow_mut(|alarms| alarms.set(at, self.0, task.clone()));
        self.0 = Some(key);
        drop(replaced);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Has `task` woken at `at` or before: a later time leaves the alarm as it is set, and the task finds out when it is
    /// woken too early. So a connection in use does not touch its alarm.
    ///
    /// It is for tasks that are always woken alike: an alarm that is left as it is keeps its waker.
    pub(super) fn set_by(&mut self, at: Time, now: Time, task: &Waker) {
        if !self.0.is_some_and(|(set_for, _)| now < set_for && set_for <= at) {
            self.set(at, task);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            // The thread may be ending, and its alarms with it.
            let forgotten = ALARMS.try_with(|alarms| alarms.borrow_mut().set.remove(&key));
            drop(forgotten);
        }
    }
}

/// Tells that this thread's loop looks after its alarms. Called once, before the application is built.
pub fn attend() {
    ALARMS.with_borrow_mut(|alarms| alarms.attended = true);
}

/// When the next alarm of this thread is due.
pub fn deadline() -> Option<Time> {
    ALARMS.with_borrow(|alarms| alarms.set.first_key_value().map(|((at, _), _)| *at))
}

/// Wakes who is due on this thread.
pub fn ring(now: Time) {
    while let Some(waker) = ALARMS.with_borrow_mut(|alarms| alarms.next_due(now)) {
        waker.wake();
    }
}

/// Has `driver` woken whenever an alarm is set that is due before `at`: for loops that wait until then.
pub(super) fn on_sooner(at: Time, driver: &Waker) {
    let former = ALARMS.with_borrow_mut(|alarms| {
        alarms.awaited = at;
        let known = alarms.driver.as_ref().is_some_and(|known| known.will_wake(driver));
        (!known).then(|| alarms.driver.replace(driver.clone()))
    });
    drop(former);
}

thread_local! {
    static ALARMS: RefCell<Alarms> = RefCell::new(Alarms::default());
}

/// The alarms of a thread. No waker is woken or dropped while they are borrowed: what that sets off may come back here.
#[derive(Default)]
struct Alarms {
    set: BTreeMap<Key, Waker>,
    /// The last number given.
    last: u64,
    attended: bool,
    driver: Option<Waker>,
    /// Until when the driver waits.
    awaited: Time,
}

impl Alarms {
    /// Sets an alarm that was set as `former`, or never: its key, the waker it had, and whom to tell that it is sooner.
    fn set(&mut self, at: Time, former: Option<Key>, waker: Waker) -> (Key, Option<Waker>, Option<Waker>) {
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
