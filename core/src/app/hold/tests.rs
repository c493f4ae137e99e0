use std::sync::atomic::AtomicU32;
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn only_the_last_hold_wakes_the_waiting_task() {
    let (holds, woken) = (Holds::new(), Arc::new(Woken::default()));
    let waker = Waker::from(woken.clone());
    assert!(holds.poll_none(&waker).is_ready());
    let [first, second] = [(); 2].map(|()| holds.clone().take());
    assert!(holds.poll_none(&waker).is_pending());
    drop(first);
    assert_eq!((holds.count(), woken.0.load(Ordering::SeqCst)), (1, 0));
    assert!(holds.poll_none(&waker).is_pending());
    drop(second);
    assert_eq!((holds.count(), woken.0.load(Ordering::SeqCst)), (0, 1));
    assert!(holds.poll_none(&waker).is_ready());
    drop(Hold::nothing());
    assert_eq!(holds.count(), 0);
}
