//! Alarms of a thread; each test has its own thread, and so its own alarms.

use std::sync::Mutex;

use super::*;

/// Records which waker was woken.
struct Note(u32, Arc<Mutex<Vec<u32>>>);

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.1.lock().expect("not poisoned").push(self.0);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn noted(name: u32, notes: &Arc<Mutex<Vec<u32>>>) -> Waker {
    Waker::from(Arc::new(Note(name, notes.clone())))
}

fn taken(notes: &Mutex<Vec<u32>>) -> Vec<u32> {
    std::mem::take(&mut *notes.lock().expect("not poisoned"))
}

fn poll(sleep: &mut Sleep, waker: &Waker) -> Poll<()> {
    Pin::new(sleep).poll(&mut Context::from_waker(waker))
}

#[test]
fn due_alarms_ring_in_order_and_once() {
    attend();
    let notes = Arc::default();
    let mut sleeps = [3, 1, 2].map(|n| (n, sleep(HOUR * n)));
    for (n, sleep) in &mut sleeps {
        assert!(poll(sleep, &noted(*n, &notes)).is_pending());
    }
    assert_eq!(deadline(), Some(sleeps[1].1.until));
    ring(sys::now());
    assert_eq!(taken(&notes), []);
    ring(sleeps[2].1.until);
    assert_eq!((taken(&notes), deadline()), (vec![1, 2], Some(sleeps[0].1.until)));
    ring(sleeps[0].1.until);
    assert_eq!((taken(&notes), deadline()), (vec![3], None));
}

#[test]
fn alarms_of_the_same_time_ring_in_turn() {
    attend();
    let (notes, until) = (Arc::default(), sys::now() + HOUR);
    let mut sleeps = [1, 2, 3].map(|n| (n, Sleep { until, alarm: Alarm::default() }));
    for (n, sleep) in &mut sleeps {
        assert!(poll(sleep, &noted(*n, &notes)).is_pending());
    }
    ring(until);
    assert_eq!(taken(&notes), [1, 2, 3]);
}

#[test]
fn a_dropped_alarm_is_cancelled_and_takes_no_room() {
    attend();
    let notes = Arc::default();
    let mut kept = sleep(HOUR * 2);
    assert!(poll(&mut kept, &noted(0, &notes)).is_pending());
    for n in 1..10_000 {
        let mut gone = sleep(HOUR);
        assert!(poll(&mut gone, &noted(n, &notes)).is_pending());
    }
    assert_eq!(ALARMS.with_borrow(|alarms| alarms.set.len()), 1);
    assert_eq!((Arc::strong_count(&notes), deadline()), (2, Some(kept.until)));
    ring(kept.until);
    assert_eq!(taken(&notes), [0]);
}

#[test]
fn an_alarm_wakes_the_last_waker_it_was_set_with() {
    attend();
    let notes = Arc::default();
    let mut one = sleep(HOUR);
    for n in 0..5 {
        assert!(poll(&mut one, &noted(n, &notes)).is_pending());
    }
    assert_eq!(Arc::strong_count(&notes), 2, "the former wakers are dropped");
    ring(one.until);
    assert_eq!(taken(&notes), [4]);
}

#[test]
fn a_sleep_whose_time_has_passed_does_not_wait() {
    assert!(poll(&mut sleep(Duration::ZERO), Waker::noop()).is_ready());
}

#[test]
#[should_panic(expected = "outside a worker's loop")]
fn sleeping_outside_a_loop_says_so() {
    let _ = poll(&mut sleep(HOUR), Waker::noop());
}

#[test]
fn a_waiting_loop_is_woken_only_for_earlier_alarms() {
    attend();
    let notes = Arc::default();
    on_sooner(sys::now() + HOUR * 2, &noted(7, &notes));
    let told = [3, 1, 4].map(|n| {
        assert!(poll(&mut sleep(HOUR * n), Waker::noop()).is_pending());
        taken(&notes).len()
    });
    assert_eq!(told, [0, 1, 0]);
}

#[test]
fn an_alarm_set_for_later_stays_until_it_has_rung() {
    attend();
    let notes = Arc::default();
    let (mut alarm, waker, now) = (Alarm::default(), noted(1, &notes), sys::now());
    alarm.set_by(now + HOUR, now, &waker);
    alarm.set_by(now + HOUR * 2, now, &waker);
    assert_eq!(deadline(), Some(now + HOUR));
    alarm.set_by(now + HOUR / 2, now, &waker);
    assert_eq!(deadline(), Some(now + HOUR / 2));
    ring(now + HOUR / 2);
    assert_eq!((taken(&notes), deadline()), (vec![1], None));
    alarm.set_by(now + HOUR * 2, now + HOUR / 2, &waker);
    assert_eq!(deadline(), Some(now + HOUR * 2));
    drop(alarm);
    assert_eq!(deadline(), None);
}

#[test]
fn a_waker_may_set_and_cancel_alarms_when_it_is_dropped() {
    /// Like a task that owns a sleep and lives as long as its wakers.
    struct Task {
        _held: Sleep,
    }
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    attend();
    let mut held = sleep(HOUR);
    assert!(poll(&mut held, Waker::noop()).is_pending());
    let waker = Waker::from(Arc::new(Task { _held: held }));
    let mut outer = sleep(HOUR);
    assert!(poll(&mut outer, &waker).is_pending());
    drop(waker);
    drop(outer);
    assert_eq!(deadline(), None);
}

#[test]
fn the_application_can_sleep_while_it_is_built() {
    attend();
    let before = sys::now();
    block_on(Box::pin(sleep(Duration::from_millis(20))));
    assert!(sys::now() >= before + Duration::from_millis(20));
    let mut sleeping = pin!(sleep(HOUR));
    assert!(sleeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}
