use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

fn activities(threads: usize) -> Activities {
    Activities::new(Box::leak((0..=threads).map(|_| Activity::default()).collect()))
}

fn busy(activities: &Activities) -> Vec<(bool, u64, Option<String>)> {
    activities.busy().map(|busy| (busy.on_loop, busy.since.as_nanos(), busy.request)).collect()
}

#[test]
fn a_hand_is_busy_while_its_guard_lives() {
    let activities = activities(1);
    assert_eq!(busy(&activities), []);
    let serving = activities.on_loop(b"GET /a", Time::from_nanos(7));
    assert_eq!(busy(&activities), [(true, 7, Some("GET /a".into()))]);
    drop(serving);
    assert_eq!(busy(&activities), []);
}

#[test]
#[cfg(feature = "worker")]
fn a_thread_knows_since_when_it_is_busy() {
    let activities = activities(1);
    assert_eq!(busy_since(), None);
    let serving = activities.on_thread(b"GET /a", Time::from_nanos(7));
    assert_eq!(busy_since(), Some(Time::from_nanos(7)));
    drop(serving);
    assert_eq!(busy_since(), None);
}

#[test]
fn each_thread_has_an_activity_record_of_its_own() {
    let activities = activities(2);
    let first = activities.on_thread(b"GET /1", Time::from_nanos(1));
    let _second = activities.on_thread(b"GET /2", Time::from_nanos(2));
    assert!(activities.on_thread(b"GET /3", Time::from_nanos(3)).is_none(), "more threads than activities");
    drop(first);
    let _fourth = activities.on_thread(b"GET /4", Time::from_nanos(4));
    assert_eq!(busy(&activities), [(false, 4, Some("GET /4".into())), (false, 2, Some("GET /2".into()))]);
}

#[test]
fn all_threads_are_busy_since_the_last_of_them_began() {
    let activities = activities(2);
    let _on_loop = activities.on_loop(b"GET /", Time::from_nanos(9));
    let _first = activities.on_thread(b"GET /1", Time::from_nanos(5));
    assert_eq!(activities.threads_busy_since(2), None, "a thread is free");
    let second = activities.on_thread(b"GET /2", Time::from_nanos(3));
    assert_eq!(activities.threads_busy_since(2), Some(Time::from_nanos(5)));
    assert_eq!(activities.threads_busy_since(3), None, "the third has no activity");
    drop(second);
    assert_eq!(activities.threads_busy_since(2), None);
}

#[test]
fn a_request_is_cut_to_fit_and_made_fit_for_a_log() {
    let activities = activities(0);
    drop(activities.on_loop("GET /long/long".repeat(100).as_bytes(), Time::from_nanos(1)));
    let _serving = activities.on_loop(b"GET /x\n\x1b", Time::from_nanos(1));
    assert_eq!(
        busy(&activities)[0].2.as_deref(),
        Some(r"GET /x\n\u{1b}"),
        "nothing is left of the one before"
    );
    let _serving = activities.on_loop(format!("POST /{}", "ü".repeat(100)).as_bytes(), Time::from_nanos(1));
    let request = busy(&activities).remove(0).2.unwrap();
    assert!(request.starts_with("POST /üü") && request.len() <= TEXT + 2, "{request}");
}

#[test]
fn without_activities_nothing_is_recorded() {
    let activities = Activities::default();
    assert!(
        activities.on_loop(b"GET /", Time::ZERO).is_none()
            && activities.on_thread(b"GET /", Time::ZERO).is_none()
    );
}

#[test]
fn a_writer_that_was_killed_in_the_middle_costs_the_request_alone() {
    let activities = activities(0);
    let _serving = activities.on_loop(b"GET /", Time::from_nanos(9));
    activities.0[0].version.fetch_add(1, Ordering::Relaxed);
    assert_eq!(busy(&activities), [(true, 9, None)]);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a reader needs a writer beside it")]
fn no_activity_is_read_half_written() {
    let activities = activities(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..100_000_u64 {
                let letter = char::from(b'a' + (n % 26) as u8);
                drop(activities.on_loop(
                    format!("GET {}", letter.to_string().repeat(80)).as_bytes(),
                    Time::from_nanos(1 + n % 26),
                ));
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            for Busy { since, request, .. } in activities.busy() {
                let Some(request) = request else { continue };
                let letter = char::from(b'a' + (since.as_nanos() - 1) as u8);
                assert_eq!(request, format!("GET {}", letter.to_string().repeat(80)));
            }
        }
    });
}
