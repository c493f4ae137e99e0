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
    Sleep { until: sys::now() + length, number: None }
}

/// The future of [`sleep`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep {
    until: Time,
    /// Which alarm it has, on the thread that polled it.
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if sys::now() >= self.until {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let (until, number) = (self.until, self.number);
        let (number, replaced, driver) = ALARMS.with_borrow_mut(|alarms| {
            assert!(alarms.attended, "remuda::sleep was awaited outside a worker's loop");
            alarms.set(until, number, waker)
        });
        self.number = Some(number);
        drop(replaced);
        if let Some(driver) = driver {
            driver.wake();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            // The thread may be ending, and its alarms with it.
            let forgotten = ALARMS.try_with(|alarms| alarms.borrow_mut().set.remove(&(self.until, number)));
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

/// Has `waker` woken when an alarm is set that is due before all others: for loops that sleep in another runtime.
pub fn on_sooner(waker: &Waker) {
    let former = ALARMS.with_borrow_mut(|alarms| alarms.driver.replace(waker.clone()));
    drop(former);
}

thread_local! {
    static ALARMS: RefCell<Alarms> = RefCell::new(Alarms::default());
}

/// The alarms of a thread. No waker is woken or dropped while they are borrowed: what that sets off may come back here.
#[derive(Default)]
struct Alarms {
    /// By when they are due, then by when they were set.
    set: BTreeMap<(Time, u64), Waker>,
    /// The last number given.
    last: u64,
    attended: bool,
    driver: Option<Waker>,
}

impl Alarms {
    /// Sets the alarm with `number`, or a new one: its number, the waker it had, and whom to tell that it is the next.
    fn set(&mut self, until: Time, number: Option<u64>, waker: Waker) -> (u64, Option<Waker>, Option<Waker>) {
        let number = number.unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        let key = (until, number);
        let sooner = self.set.first_key_value().is_none_or(|(first, _)| key < *first);
        (number, self.set.insert(key, waker), self.driver.clone().filter(|_| sooner))
    }

    fn next_due(&mut self, now: Time) -> Option<Waker> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests;
