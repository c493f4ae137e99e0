use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU32;
use std::task::{Context, Wake};

use super::*;

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(future: Pin<&mut impl Future<Output = ()>>, waker: &Arc<Woken>) -> bool {
    future.poll(&mut Context::from_waker(&Waker::from(waker.clone()))).is_ready()
}

#[test]
fn every_future_that_waits_is_woken_once() {
    let end = ClientEnd::default();
    let wakers = [(); 3].map(|()| Arc::new(Woken::default()));
    let other = end.clone();
    let (mut a, mut b, mut c) = (pin!(end.ended()), pin!(other.ended()), pin!(end.ended()));
    assert!(!poll(a.as_mut(), &wakers[0]) && !poll(b.as_mut(), &wakers[1]) && !poll(c.as_mut(), &wakers[2]));
    end.set();
    end.set();
    assert!(wakers.iter().all(|waker| waker.0.load(Ordering::SeqCst) == 1));
    assert!(other.is_set() && poll(a, &wakers[0]) && poll(b, &wakers[1]) && poll(c, &wakers[2]));
    assert!(poll(pin!(end.ended()), &wakers[0]), "an end is final");
}

#[test]
fn a_future_that_is_dropped_leaves_its_place_to_the_next() {
    let end = ClientEnd::default();
    let woken = Arc::new(Woken::default());
    for _ in 0..3 {
        assert!(!poll(pin!(end.ended()), &woken));
    }
    assert_eq!(end.0.waiting().len(), 1);
    assert_eq!(Arc::strong_count(&woken), 1, "no waker is kept");
    end.set();
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
}

#[test]
fn a_future_that_moves_is_woken_where_it_is() {
    let end = ClientEnd::default();
    let [before, after] = [(); 2].map(|()| Arc::new(Woken::default()));
    let mut ended = pin!(end.ended());
    assert!(!poll(ended.as_mut(), &before) && !poll(ended.as_mut(), &after));
    end.set();
    assert_eq!([&before, &after].map(|waker| waker.0.load(Ordering::SeqCst)), [0, 1]);
}
