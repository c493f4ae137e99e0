use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

fn hands(threads: usize) -> Hands {
    Hands::new(Box::leak((0..=threads).map(|_| Hand::default()).collect()))
}

fn busy(hands: &Hands) -> Vec<(bool, u64, Option<String>)> {
    hands.busy().map(|busy| (busy.on_loop, busy.since.as_nanos(), busy.request)).collect()
}

#[test]
fn a_hand_is_busy_while_its_guard_lives() {
    let hands = hands(1);
    assert_eq!(busy(&hands), []);
    let serving = hands.on_loop(b"GET /a", Time::from_nanos(7));
    assert_eq!(busy(&hands), [(true, 7, Some("GET /a".into()))]);
    drop(serving);
    assert_eq!(busy(&hands), []);
}

#[test]
#[cfg(feature = "worker")]
fn a_thread_knows_since_when_it_is_busy() {
    let hands = hands(1);
    assert_eq!(busy_since(), None);
    let serving = hands.on_thread(b"GET /a", Time::from_nanos(7));
    assert_eq!(busy_since(), Some(Time::from_nanos(7)));
    drop(serving);
    assert_eq!(busy_since(), None);
}

#[test]
fn each_thread_takes_a_hand_of_its_own_and_gives_it_back() {
    let hands = hands(2);
    let first = hands.on_thread(b"GET /1", Time::from_nanos(1));
    let _second = hands.on_thread(b"GET /2", Time::from_nanos(2));
    assert!(hands.on_thread(b"GET /3", Time::from_nanos(3)).is_none(), "more threads than hands");
    drop(first);
    let _fourth = hands.on_thread(b"GET /4", Time::from_nanos(4));
    assert_eq!(busy(&hands), [(false, 4, Some("GET /4".into())), (false, 2, Some("GET /2".into()))]);
}

#[test]
fn all_threads_are_busy_since_the_last_of_them_began() {
    let hands = hands(2);
    let _on_loop = hands.on_loop(b"GET /", Time::from_nanos(9));
    let _first = hands.on_thread(b"GET /1", Time::from_nanos(5));
    assert_eq!(hands.threads_busy_since(2), None, "one is free");
    let second = hands.on_thread(b"GET /2", Time::from_nanos(3));
    assert_eq!(hands.threads_busy_since(2), Some(Time::from_nanos(5)));
    assert_eq!(hands.threads_busy_since(3), None, "the third is not known");
    drop(second);
    assert_eq!(hands.threads_busy_since(2), None);
}

#[test]
fn a_request_is_cut_to_fit_and_made_fit_for_a_log() {
    let hands = hands(0);
    drop(hands.on_loop("GET /long/long".repeat(100).as_bytes(), Time::from_nanos(1)));
    let _serving = hands.on_loop(b"GET /x\n\x1b", Time::from_nanos(1));
    assert_eq!(busy(&hands)[0].2.as_deref(), Some(r"GET /x\n\u{1b}"), "nothing is left of the one before");
    let _serving = hands.on_loop(format!("POST /{}", "ü".repeat(100)).as_bytes(), Time::from_nanos(1));
    let request = busy(&hands).remove(0).2.unwrap();
    assert!(request.starts_with("POST /üü") && request.len() <= TEXT + 2, "{request}");
}

#[test]
fn without_hands_nothing_is_noted() {
    let hands = Hands::default();
    assert!(hands.on_loop(b"GET /", Time::ZERO).is_none() && hands.on_thread(b"GET /", Time::ZERO).is_none());
}

#[test]
fn a_writer_that_was_killed_in_the_middle_costs_the_request_alone() {
    let hands = hands(0);
    let _serving = hands.on_loop(b"GET /", Time::from_nanos(9));
    hands.0[0].version.fetch_add(1, Ordering::Relaxed);
    assert_eq!(busy(&hands), [(true, 9, None)]);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a reader needs a writer beside it")]
fn what_is_read_was_never_torn() {
    let hands = hands(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..100_000_u64 {
                let letter = char::from(b'a' + (n % 26) as u8);
                drop(hands.on_loop(
                    format!("GET {}", letter.to_string().repeat(80)).as_bytes(),
                    Time::from_nanos(1 + n % 26),
                ));
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            for Busy { since, request, .. } in hands.busy() {
                let Some(request) = request else { continue };
                let letter = char::from(b'a' + (since.as_nanos() - 1) as u8);
                assert_eq!(request, format!("GET {}", letter.to_string().repeat(80)));
            }
        }
    });
}
