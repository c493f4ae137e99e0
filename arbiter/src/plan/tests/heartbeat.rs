//! D1: a worker that is silent for too long is ended and replaced, and no other worker.

use super::*;

pub(super) const PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(30), boot_timeout: Duration::from_secs(60), nap: SECOND };

/// Two workers that have been ready for a while.
fn serving() -> World {
    World::of(2, PATIENCE).serve(10 * SECOND)
}

#[test]
fn d1_a_worker_that_beats_is_never_aborted() {
    let mut world = serving();
    world.pass(1000 * SECOND);
    assert_eq!(world.pids(), [101, 102]);
    assert!(world.promised.described.is_empty());
}

#[test]
fn d1_a_hang_is_found_within_a_second_and_the_worker_replaced() {
    let mut world = serving();
    world.silence(101);
    world.pass(PATIENCE.timeout - MS);
    assert!(world.promised.aborted.is_empty());
    world.pass(SECOND);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
    assert!(world.promised.killed.is_empty(), "it died of the abort");
    assert_eq!(world.in_slot(1), Some(102));
    assert_eq!(world.in_slot(0), Some(103), "replaced at once, as after any long process");
    assert_eq!(
        (&world.promised.described[..], &world.promised.freed[..]),
        (&[0][..], &[0][..]),
        "described once, then its seat is freed"
    );
    let silent = PATIENCE.timeout;
    assert!(world.promised.log.contains(&Notice::Silent { slot: 0, pid: pid(101), silent }));
}

#[test]
fn d1_a_worker_that_survives_the_abort_is_killed_a_second_later() {
    let mut world = serving();
    world.is.stubborn = true;
    world.silence(101);
    world.pass(PATIENCE.timeout);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
    world.pass(ABORT_GRACE - MS);
    assert!(world.promised.killed.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.killed, BTreeSet::from([101]));
    assert_eq!(world.in_slot(0), Some(103));
}

#[test]
fn d1_a_silence_is_counted_from_the_last_beat() {
    let mut world = serving();
    world.pass(PATIENCE.timeout - SECOND);
    world.silence(101);
    world.pass(PATIENCE.timeout - MS);
    assert!(world.promised.aborted.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
}

#[test]
fn d1_other_events_never_judge_by_an_old_beat() {
    let mut world = serving();
    // The arbiter wakes up for a child just when a check of its workers is due.
    let at = world.supervisor.plan.entries.iter().filter_map(WorkerEntry::silent_at).min().unwrap();
    while world.supervisor.plan.deadline().is_some_and(|next| next < at) {
        world.is.now = world.supervisor.plan.deadline().unwrap();
        world.supervisor.plan.handle(Event::Tick, world.is.now);
    }
    world.is.now = at;
    world.feed(Event::Exited { pid: pid(99), death: Death::Status(0) });
    assert!(world.promised.aborted.is_empty());
}

#[test]
fn d1_a_drain_longer_than_the_timeout_is_not_a_hang() {
    let patience = Patience { timeout: 2 * SECOND, ..PATIENCE };
    let mut world = World::of(2, patience).serve(SECOND);
    world.signal(Signal::Term);
    world.pass(GRACEFUL);
    assert!(world.promised.aborted.is_empty());
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn d1_a_hang_in_a_drain_is_found_and_the_stop_was_cut() {
    let patience = Patience { timeout: 2 * SECOND, ..PATIENCE };
    let mut world = World::of(2, patience).serve(SECOND);
    world.signal(Signal::Term);
    world.silence(101);
    world.pass(3 * SECOND);
    assert_eq!(world.pids(), [102], "ended, and not replaced");
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, true));
}

#[test]
fn d1_a_freeze_of_any_length_is_forgiven() {
    for seconds in [3, 29, 30, 31, 10_000] {
        for served in [1, 10, 29] {
            let mut world = World::of(2, PATIENCE).serve(served * SECOND);
            world.freeze(seconds * SECOND);
            world.pass(100 * SECOND);
            assert_eq!(world.pids(), [101, 102], "{seconds} s after {served} s");
        }
    }
}

#[test]
fn d1_after_a_freeze_a_hang_is_found_within_a_fresh_timeout() {
    let mut world = serving();
    world.silence(101);
    world.pass(20 * SECOND);
    world.freeze(20 * SECOND);
    world.pass(PATIENCE.timeout - MS);
    assert!(world.promised.aborted.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
}

#[test]
fn d1_the_arbiters_delay_is_credited_to_the_millisecond() {
    for silent in [SECOND, 15 * SECOND] {
        let mut world = serving();
        world.silence(101);
        world.pass(silent);
        // One of these two naps is a planned sleep.
        world.freeze(2 * PATIENCE.nap);
        world.pass(PATIENCE.timeout - silent - PATIENCE.nap - MS);
        assert!(world.promised.aborted.is_empty(), "{silent:?}");
        world.pass(MS);
        assert_eq!(world.promised.aborted, BTreeSet::from([101]), "{silent:?}");
    }
}

#[test]
fn d1_a_delay_before_a_beat_is_not_credited_after_it() {
    let mut world = serving();
    world.pass(SECOND);
    world.freeze(2 * SECOND);
    world.pass(5 * SECOND);
    world.silence(101);
    world.pass(PATIENCE.timeout - MS);
    assert!(world.promised.aborted.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
}

#[test]
fn d1_many_short_freezes_are_no_hang_and_are_forgotten() {
    let mut world = serving();
    for hangs in [false, true] {
        for _ in 0..20 {
            world.pass(100 * MS);
            world.freeze(2 * PATIENCE.nap);
        }
        assert!(world.promised.aborted.is_empty());
        assert!(world.supervisor.plan.overslept.len() <= 30, "{}", world.supervisor.plan.overslept.len());
        if !hangs {
            world.silence(101);
        }
    }
}

#[test]
fn a_boot_is_bounded_and_the_next_one_waits() {
    let mut world = World::of(2, PATIENCE);
    world.report(102, Report::Ready);
    world.is.silent.insert(101, Time::ZERO);
    world.pass(PATIENCE.boot_timeout - MS);
    assert!(world.promised.aborted.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
    let took = PATIENCE.boot_timeout;
    assert!(world.promised.log.contains(&Notice::BootTimedOut { slot: 0, pid: pid(101), took }));
    assert_eq!(world.gap(), BACKOFF_MIN);
}

#[test]
fn without_limits_no_worker_is_checked_and_the_arbiter_sleeps() {
    let mut world = World::serving(2, SECOND);
    world.pids().into_iter().for_each(|pid| world.silence(pid));
    assert_eq!(world.supervisor.plan.deadline(), None);
    world.pass(100_000 * SECOND);
    assert_eq!(world.pids(), [101, 102]);
}

#[test]
fn a_failed_worker_is_described_before_its_seat_is_reused() {
    for (death, described) in [(Death::Signal(11), true), (Death::Status(1), true), (Death::Status(0), false)]
    {
        let mut world = serving();
        world.is.living.remove(&101);
        let actions = world.feed(Event::Exited { pid: pid(101), death });
        let at = |wanted: Action| actions.iter().position(|action| *action == wanted);
        assert_eq!(at(Action::Describe { slot: 0, seat: 0 }).is_some(), described);
        let freed = at(Action::FreeSeat { seat: 0, clean: !described });
        assert!(
            at(Action::Describe { slot: 0, seat: 0 }) < freed
                && freed < at(Action::Spawn { slot: 0, seat: 0, generation: 1 })
        );
    }
}

#[test]
fn a_beat_of_an_empty_seat_is_ignored() {
    let mut world = serving();
    assert_eq!(world.feed(Event::Beat { seat: 9, at: Time::ZERO }), []);
    world.is.living.remove(&102);
    world.is.exhausted = true;
    world.feed(Event::Exited { pid: pid(102), death: Death::Signal(9) });
    assert_eq!(world.feed(Event::Beat { seat: 1, at: Time::ZERO }), []);
}

#[test]
fn an_aborted_worker_is_not_judged_again() {
    let mut world = serving();
    world.is.stubborn = true;
    world.silence(101);
    world.pass(PATIENCE.timeout);
    assert_eq!(world.promised.aborted, BTreeSet::from([101]));
    assert_eq!(world.feed(Event::Beat { seat: 0, at: Time::ZERO }), []);
}
