//! Sleeping in an async application, on any backend.
//!
//! Each loop has the alarms of its thread: it asks for the [`deadline`] before it waits, and has [`ring`] wake whoever
//! is due after it.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

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
    Sleep { until: sys::now() + length, place: None }
}

/// The future of [`sleep`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep {
    until: Time,
    /// Where its waker is, on the thread that polled it.
    place: Option<usize>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if sys::now() >= self.until {
            return Poll::Ready(());
        }
        ALARMS.with_borrow_mut(|alarms| {
            assert!(alarms.attended, "remuda::sleep was awaited outside a worker's loop");
            match self.place.and_then(|place| alarms.wakers.get_mut(place)) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => self.place = Some(alarms.set(self.until, cx.waker())),
            }
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            // The thread may be ending, and its alarms with it.
            let _ = ALARMS.try_with(|alarms| alarms.borrow_mut().forget(place));
        }
    }
}

/// Tells that this thread's loop looks after its alarms. Called once, before the application is built.
pub fn attend() {
    ALARMS.with_borrow_mut(|alarms| alarms.attended = true);
}

/// When the next alarm of this thread is due.
pub fn deadline() -> Option<Time> {
    ALARMS.with_borrow(|alarms| alarms.due.peek().map(|Reverse((at, ..))| *at))
}

/// Wakes who is due on this thread.
pub fn ring(now: Time) {
    while let Some(waker) = ALARMS.with_borrow_mut(|alarms| alarms.next_due(now)) {
        waker.wake();
    }
}

/// Has `waker` woken when an alarm is set that is due before all others: for loops that sleep in another runtime.
pub fn on_sooner(waker: &Waker) {
    ALARMS.with_borrow_mut(|alarms| alarms.driver = Some(waker.clone()));
}

thread_local! {
    static ALARMS: RefCell<Alarms> = RefCell::new(Alarms::default());
}

#[derive(Default)]
struct Alarms {
    /// When, and whose. An alarm that was forgotten stays here until it is due; the number tells it from its place's
    /// next owner.
    due: BinaryHeap<Reverse<(Time, usize, u64)>>,
    wakers: Slab<Waker>,
    /// The number of each place's owner.
    owners: Vec<u64>,
    set: u64,
    attended: bool,
    driver: Option<Waker>,
}

impl Alarms {
    fn set(&mut self, until: Time, waker: &Waker) -> usize {
        let place = self.wakers.insert(waker.clone());
        self.set += 1;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, 0);
        }
        self.owners[place] = self.set;
        let sooner = self.due.peek().is_none_or(|Reverse((at, ..))| until < *at);
        self.due.push(Reverse((until, place, self.set)));
        if sooner && let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
        place
    }

    fn forget(&mut self, place: usize) {
        self.wakers.try_remove(place);
        if let Some(owner) = self.owners.get_mut(place) {
            *owner = 0;
        }
    }

    /// The waker of the next alarm that is due, which keeps its place until its future is dropped.
    fn next_due(&mut self, now: Time) -> Option<Waker> {
        while let Some(&Reverse((at, place, owner))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            if self.owners[place] == owner {
                return self.wakers.get(place).cloned();
            }
        }
        None
    }
}
