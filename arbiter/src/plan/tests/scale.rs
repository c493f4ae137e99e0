//! TTIN and TTOU: one worker more, one worker less.

use super::world::ROOM;
use super::*;

/// The order for a worker that leaves now.
fn leave(world: &World, raw: i32) -> Action {
    let drain = Drain::new(Reason::ScaleDown, world.is.now, world.is.now + GRACEFUL);
    let drain = if world.has_receiver() { drain.with_receiver() } else { drain };
    Action::Send { pid: pid(raw), order: Order::Drain { drain, policy: PolicyId::Reload } }
}

/// Three workers that have been ready for a while; the last was just told to leave.
fn shrinking() -> World {
    let mut world = World::serving(3, SECOND);
    world.signal(Signal::Ttou);
    world
}

#[test]
fn ttin_spawns_one_more_at_once() {
    for mut world in [World::serving(2, SECOND), World::new(2)] {
        let actions = world.signal(Signal::Ttin);
        assert_eq!(
            actions[..2],
            [Action::Log(Notice::Scaled { workers: 3 }), Action::Spawn { slot: 2, seat: 2, generation: 1 }]
        );
        assert_eq!(world.in_slot(2), Some(103));
    }
}

#[test]
fn a_server_that_grows_while_it_starts_is_ready_when_all_are() {
    let mut world = World::new(1);
    world.signal(Signal::Ttin);
    world.report(101, Report::Ready);
    assert!(!world.promised.announced);
    world.report(102, Report::Ready);
    assert!(world.promised.announced);
}

#[test]
fn a_server_that_shrinks_while_it_starts_becomes_ready() {
    let mut world = World::new(2);
    world.report(101, Report::Ready);
    world.signal(Signal::Ttou);
    assert!(world.promised.announced);
    world.report(102, Report::Ready);
    assert_eq!(world.promised.leaving, BTreeSet::from([102]));
}

#[test]
fn ttou_drains_the_last_worker_which_is_not_replaced() {
    let mut world = World::serving(3, SECOND);
    let order = leave(&world, 103);
    assert_eq!(world.signal(Signal::Ttou), [Action::Log(Notice::Scaled { workers: 2 }), order]);
    world.pass(SECOND);
    world.die(103, Death::Status(0));
    assert_eq!(world.pids(), [101, 102]);
    assert_eq!(world.supervisor.plan.deadline(), None, "nothing is left to do");
    assert_eq!(world.promised.freed, [2]);
}

#[test]
fn a_leaving_worker_is_not_replaced_whatever_it_dies_of() {
    for death in [Death::Signal(11), Death::Status(3), Death::Status(4), Death::Status(6)] {
        let mut world = shrinking();
        world.die(103, death);
        assert_eq!((world.pids(), world.supervisor.plan.deadline()), (vec![101, 102], None), "{death}");
        let lived = SECOND;
        let notice = Notice::Died { slot: 2, pid: pid(103), death, lived, again_in: None };
        assert!(world.promised.log.contains(&notice));
    }
}

#[test]
fn the_others_are_replaced_while_one_is_leaving() {
    let mut world = shrinking();
    world.die(101, Death::Signal(9));
    assert_eq!(world.in_slot(0), Some(104));
    assert_eq!(world.promised.leaving, BTreeSet::from([103]));
}

#[test]
fn d10_a_leaving_worker_is_killed_once_after_its_deadline() {
    let mut world = shrinking();
    world.pass(GRACEFUL + KILL_MARGIN - MS);
    assert!(world.promised.killed.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.killed, BTreeSet::from([103]));
    world.pass(100 * SECOND);
    assert_eq!(world.pids(), [101, 102]);
    assert!(world.promised.listening);
}

#[test]
fn one_worker_always_stays() {
    let mut world = shrinking();
    world.signal(Signal::Ttou);
    assert_eq!(world.signal(Signal::Ttou), [Action::Log(Notice::TooFew)]);
    assert_eq!(world.promised.leaving, BTreeSet::from([102, 103]));
    world.die(101, Death::Signal(9));
    assert_eq!(world.staying(), 1, "it is replaced like any other");
}

#[test]
fn there_is_no_more_room_than_the_scoreboard_has() {
    let mut world = World::serving(ROOM as u16 - 1, SECOND);
    world.signal(Signal::Ttin);
    let refused = [Action::Log(Notice::TooMany { room: ROOM })];
    assert_eq!(world.signal(Signal::Ttin), refused);
    world.signal(Signal::Ttou);
    assert_eq!(world.signal(Signal::Ttin), refused, "a leaving worker has its seat until it is gone");
    world.die(108, Death::Status(0));
    world.signal(Signal::Ttin);
    assert_eq!(world.staying(), ROOM);
}

#[test]
fn the_slot_of_a_leaving_worker_is_free_and_its_seat_is_not() {
    let mut world = shrinking();
    let actions = world.signal(Signal::Ttin);
    assert!(actions.contains(&Action::Spawn { slot: 2, seat: 3, generation: 1 }));
    world.signal(Signal::Ttou);
    assert_eq!(world.promised.leaving, BTreeSet::from([103, 104]), "the last slot goes first");
    world.die(103, Death::Status(0));
    assert!(world.signal(Signal::Ttin).contains(&Action::Spawn { slot: 2, seat: 2, generation: 1 }));
}

#[test]
fn a_slot_in_back_off_is_removed_first_and_starts_afresh() {
    let mut world = World::serving(2, Duration::ZERO);
    world.die(102, Death::Signal(9));
    assert_eq!(world.signal(Signal::Ttou), [Action::Log(Notice::Scaled { workers: 1 })]);
    assert_eq!(world.supervisor.plan.deadline(), None);
    world.signal(Signal::Ttin);
    world.die(103, Death::Signal(9));
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + BACKOFF_MIN));
}

#[test]
fn a_spawn_no_longer_needed_is_told_to_leave_or_forgotten() {
    let now = Time::from_nanos(1);
    let overtaken = || {
        let mut plan = Plan::new(config(2));
        plan.handle(Event::Tick, now);
        plan.handle(Event::Signal(Signal::Ttou), now);
        plan
    };
    let actions = overtaken().handle(Event::Spawned { seat: 1, pid: pid(7) }, now);
    let Some(Action::Send { order: Order::Drain { drain, .. }, .. }) = actions.last() else {
        panic!("{actions:?}")
    };
    assert_eq!(drain.reason, Reason::ScaleDown);
    let mut plan = overtaken();
    let actions = plan.handle(Event::SpawnFailed { seat: 1, error: "no".into() }, now);
    assert_eq!(actions, [Action::Log(Notice::NotStarted { slot: 1, error: "no".into(), again_in: None })]);
    assert_eq!(plan.deadline(), None);
}

#[test]
fn a_server_that_stops_neither_grows_nor_shrinks() {
    for signal in [Signal::Ttin, Signal::Ttou] {
        for stop in [Signal::Term, Signal::Int] {
            let mut world = World::serving(2, SECOND);
            world.signal(stop);
            let deadline = world.supervisor.plan.deadline();
            assert_eq!(world.signal(signal), [Action::Log(Notice::TooLate { signal })]);
            assert_eq!(world.supervisor.plan.deadline(), deadline);
        }
    }
}

#[test]
fn d4_a_stop_keeps_the_deadline_of_a_leaving_worker_and_waits() {
    let mut world = shrinking();
    let left = world.is.now + GRACEFUL;
    world.pass(10 * SECOND);
    world.signal(Signal::Term);
    let deadlines: Vec<_> = world.pids().into_iter().map(|raw| world.leaves_by(raw).unwrap()).collect();
    assert_eq!(deadlines, [world.is.now + GRACEFUL, world.is.now + GRACEFUL, left]);
    assert_eq!(world.promised.told_end, BTreeSet::from([101, 102, 103]));
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, None);
    world.die(103, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn d10_a_leaving_worker_is_killed_at_its_own_deadline_in_a_stop() {
    let mut world = shrinking();
    world.pass(10 * SECOND);
    world.signal(Signal::Term);
    world.pass(GRACEFUL - 10 * SECOND + KILL_MARGIN);
    assert_eq!(world.promised.killed, BTreeSet::from([103]));
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, true));
}

#[test]
fn d11_a_hurried_stop_hurries_leaving_workers() {
    let mut world = shrinking();
    world.signal(Signal::Int);
    assert_eq!(world.leaves_by(103), Some(world.is.now + HURRY));
    world.pass(HURRY + KILL_MARGIN);
    assert_eq!(world.promised.killed, BTreeSet::from([101, 102, 103]));
}

#[test]
fn d1_a_leaving_worker_may_not_be_silent_either() {
    let patience = Patience { timeout: 2 * SECOND, ..heartbeat::PATIENCE };
    let mut world = World::of(2, patience).serve(SECOND);
    world.signal(Signal::Ttou);
    world.pass(10 * SECOND);
    assert!(world.promised.aborted.is_empty(), "a drain longer than the timeout is not a hang");
    world.silence(102);
    world.pass(3 * SECOND);
    assert_eq!((world.pids(), world.promised.aborted.clone()), (vec![101], BTreeSet::from([102])));
}
