//! D15: a worker that has served enough is replaced, by a successor that is ready before it leaves.

use super::world::{RECYCLED, ROOM};
use super::*;

pub(super) const SPENT: Report = Report::Recycle { reason: Reason::RecycleRequests };

/// Two workers that have been ready for a while; the first has just requested its replacement.
pub(super) fn recycling() -> World {
    let mut world = World::serving(2, SECOND);
    world.report(101, SPENT);
    world
}

/// The same, with a ready successor.
fn recycled() -> World {
    let mut world = recycling();
    world.pass(SECOND);
    world.report(103, Report::Ready);
    world
}

#[test]
fn d15_the_old_worker_is_told_to_drain_when_the_new_one_is_ready() {
    let mut world = World::serving(2, SECOND);
    let report = Event::Report { pid: pid(102), report: SPENT };
    let actions = world.supervisor.plan.handle(report, world.is.now);
    assert!(
        actions.contains(&Action::Spawn { slot: 1, seat: 2, generation: 1 }),
        "it has the slot of the old one"
    );

    let mut world = recycling();
    world.pass(10 * SECOND);
    assert_eq!(world.leaves_by(101), None, "it serves on");
    world.report(103, Report::Ready);
    assert_eq!(world.promised.recycled, BTreeSet::from([101]));
    assert_eq!(world.leaves_by(101), Some(world.is.now + GRACEFUL));
    assert_eq!(world.in_slot(0), Some(103));
    world.die(101, Death::Status(0));
    assert_eq!(
        (world.pids(), world.supervisor.plan.deadline()),
        (vec![102, 103], None),
        "nothing is left to do"
    );
    assert_eq!(world.promised.freed, [0]);
}

#[test]
fn d15_recycles_are_limited_at_a_time_and_in_order() {
    let mut world = World::serving(3, SECOND);
    for raw in [103, 101, 102, 101] {
        world.report(raw, SPENT);
        world.pass(MS);
    }
    assert_eq!(world.pids(), [101, 102, 103, 104]);
    world.report(104, Report::Ready);
    assert_eq!(world.pids().len(), 4, "the old worker is there until it is gone");
    world.die(103, Death::Status(0));
    assert_eq!((world.in_slot(2), world.is.living[&105]), (Some(104), 0));
    world.report(105, Report::Ready);
    world.die(101, Death::Status(0));
    assert_eq!(world.is.living[&106], 1);
    world.report(106, Report::Ready);
    world.die(102, Death::Status(0));
    assert_eq!(world.pids(), [104, 105, 106]);
}

#[test]
fn d15_more_at_a_time_if_more_may_be() {
    let mut plan = Plan::new(PlanConfig { recycle_concurrency: 2, ..config(3) });
    let now = Time::from_nanos(1);
    plan.handle(Event::Tick, now);
    for (seat, raw) in [(0, 101), (1, 102), (2, 103)] {
        plan.handle(Event::Spawned { seat, pid: pid(raw) }, now);
        plan.handle(Event::Report { pid: pid(raw), report: Report::Ready }, now);
    }
    let spawns = [101, 102, 103].map(|raw| {
        let actions = plan.handle(Event::Report { pid: pid(raw), report: SPENT }, now);
        actions.iter().filter(|action| matches!(action, Action::Spawn { .. })).count()
    });
    assert_eq!(spawns, [1, 1, 0]);
}

#[test]
fn d15_a_successor_that_fails_is_tried_again_while_the_old_serves() {
    let mut world = recycling();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let successor = *world.pids().last().unwrap();
        world.report(successor, boot_failed(4));
        world.die(successor, Death::Status(4));
        assert_eq!((world.pids(), world.leaves_by(101)), (vec![101, 102], None));
        waits.push(world.supervisor.plan.deadline().unwrap() - world.is.now);
        world.pass(*waits.last().unwrap());
    }
    assert_eq!(waits, [1, 2, 4, 8].map(|n| n * BACKOFF_MIN));
    world.report(*world.pids().last().unwrap(), Report::Ready);
    assert_eq!(world.promised.recycled, BTreeSet::from([101]));
}

#[test]
fn d15_a_successor_that_cannot_be_forked_is_tried_again() {
    let mut world = World::serving(2, SECOND);
    world.is.exhausted = true;
    world.report(101, SPENT);
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + BACKOFF_MIN));
    world.is.exhausted = false;
    world.pass(BACKOFF_MIN);
    assert_eq!(world.pids(), [101, 102, 103]);
}

#[test]
fn d15_a_dead_worker_leaves_its_slot_to_its_successor() {
    let mut world = recycling();
    world.die(101, Death::Signal(9));
    assert_eq!((world.in_slot(0), world.pids()), (Some(103), vec![102, 103]));
    world.report(103, Report::Ready);
    assert!(world.promised.recycled.is_empty(), "there is no worker to tell");
    world.report(102, SPENT);
    assert_eq!(world.pids(), [102, 103, 104], "that recycle is over");
}

#[test]
fn d15_an_empty_slot_does_not_wait_for_a_failed_successor() {
    let mut world = recycling();
    for _ in 0..6 {
        world.die(*world.pids().last().unwrap(), Death::Status(4));
        let wait = world.supervisor.plan.deadline().unwrap() - world.is.now;
        world.pass(wait);
    }
    world.die(*world.pids().last().unwrap(), Death::Status(4));
    assert!(world.supervisor.plan.deadline().unwrap() - world.is.now > SECOND);
    world.die(101, Death::Signal(9));
    assert!(world.in_slot(0).is_some(), "the old one had lived for long enough to be replaced at once");
}

#[test]
fn d10_a_recycled_worker_is_killed_once_and_not_replaced() {
    let mut world = recycled();
    world.pass(GRACEFUL + KILL_MARGIN - MS);
    assert!(world.promised.killed.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.killed, BTreeSet::from([101]));
    assert_eq!(world.pids(), [102, 103]);
}

#[test]
fn a_recycled_worker_that_crashes_is_not_replaced_and_its_successor_is() {
    let mut world = recycled();
    world.die(101, Death::Signal(11));
    assert_eq!(world.pids(), [102, 103]);
    world.pass(LONG_ENOUGH);
    world.die(103, Death::Signal(11));
    assert_eq!(world.in_slot(0), Some(104));
}

#[test]
fn a_stop_tells_old_and_new_and_waits_for_both() {
    for mut world in [recycling(), recycled()] {
        let left = world.leaves_by(101);
        world.pass(SECOND);
        world.signal(Signal::Term);
        let deadline = world.is.now + GRACEFUL;
        let told: Vec<_> = world.pids().into_iter().map(|raw| world.leaves_by(raw).unwrap()).collect();
        assert_eq!(told, [left.unwrap_or(deadline), deadline, deadline]);
        for raw in [101, 102, 103] {
            assert_eq!(world.promised.outcome, None);
            world.die(raw, Death::Status(0));
        }
        assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
    }
}

#[test]
fn a_stop_tries_no_successor_again() {
    let mut world = recycling();
    world.die(103, Death::Status(4));
    world.signal(Signal::Term);
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn a_successor_ready_in_a_stop_takes_nothing_over() {
    let mut world = recycling();
    world.signal(Signal::Term);
    world.report(103, Report::Ready);
    assert!(world.promised.recycled.is_empty());
}

#[test]
fn ttou_dismisses_old_and_new() {
    let mut world = World::serving(2, SECOND);
    world.report(102, SPENT);
    world.signal(Signal::Ttou);
    assert_eq!(world.promised.leaving, BTreeSet::from([102, 103]));
    world.report(103, Report::Ready);
    world.die(103, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!((world.pids(), world.supervisor.plan.deadline()), (vec![101], None));

    let mut world = World::serving(2, SECOND);
    world.report(102, SPENT);
    world.die(103, Death::Status(4));
    world.signal(Signal::Ttou);
    assert_eq!(
        (&world.promised.leaving, world.supervisor.plan.deadline()),
        (&BTreeSet::from([102]), Some(world.is.now + GRACEFUL + KILL_MARGIN))
    );
}

#[test]
fn ttou_of_another_worker_leaves_a_recycle_alone() {
    let mut world = recycling();
    world.signal(Signal::Ttou);
    assert_eq!(world.promised.leaving, BTreeSet::from([102]));
    world.report(103, Report::Ready);
    assert_eq!(world.promised.recycled, BTreeSet::from([101]));
}

#[test]
fn a_full_scoreboard_has_room_for_recycling() {
    let mut world = World::serving(ROOM as u16, SECOND);
    world.report(101, SPENT);
    assert_eq!(world.pids().len(), ROOM + RECYCLED);
    assert_eq!(world.signal(Signal::Ttin), [Action::Log(Notice::TooMany { room: ROOM })]);
}

#[test]
fn d1_a_hang_is_found_in_the_old_worker_and_in_the_new_one() {
    let of = |silent: i32, ready: bool| {
        let mut world = World::of(2, heartbeat::PATIENCE).serve(SECOND);
        world.report(101, SPENT);
        if ready {
            world.report(103, Report::Ready);
        }
        world.silence(silent);
        world.pass(heartbeat::PATIENCE.timeout + SECOND);
        (world.promised.aborted.clone(), world.in_slot(0))
    };
    assert_eq!(of(101, false), (BTreeSet::from([101]), Some(103)), "the successor has the slot");
    assert_eq!(of(101, true).1, Some(103));
    assert_eq!(of(103, true), (BTreeSet::from([103]), Some(104)));

    let mut world = World::of(2, heartbeat::PATIENCE).serve(SECOND);
    world.report(101, SPENT);
    world.silence(103);
    world.pass(heartbeat::PATIENCE.boot_timeout + SECOND);
    assert_eq!(
        (&world.promised.aborted, world.in_slot(0)),
        (&BTreeSet::from([103]), Some(101)),
        "it serves on"
    );
    assert_eq!(world.pids(), [101, 102, 104], "and another one is tried");
}

#[test]
fn a_worker_that_leaves_for_another_reason_is_not_recycled() {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Ttou);
    world.report(102, SPENT);
    assert_eq!(world.pids(), [101, 102]);
}

#[test]
fn a_recycle_at_the_start_waits_until_the_server_serves() {
    let mut world = World::new(2);
    world.report(101, Report::Ready);
    world.report(101, SPENT);
    assert_eq!(world.pids(), [101, 102]);
    world.report(102, Report::Ready);
    assert_eq!(world.is.living[&103], 0);
}
