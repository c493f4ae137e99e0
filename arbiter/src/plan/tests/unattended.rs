//! Slots with listeners of their own (`--reuse-port`), while they have nobody who accepts.

use super::*;

const NONE: &[u16] = &[];

/// A server that has just forked its workers, each with listeners of its own.
fn starting(workers: u16) -> World {
    let mut world = World::new(workers);
    world.plan.orphans = Some(Vec::new());
    world
}

fn serving(workers: u16) -> World {
    starting(workers).serve(LONG_ENOUGH)
}

#[test]
fn nothing_is_relieved_where_slots_share_their_listeners() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.die(101, Death::Signal(9));
    world.signal(Signal::Ttou);
    assert_eq!((world.relieved, world.ended_slots), (NONE.into(), NONE.into()));
}

#[test]
fn a_slot_that_boots_is_relieved_once_somebody_else_accepts() {
    let mut world = starting(3);
    assert_eq!(world.relieved, NONE, "nobody could be given anything");
    world.report(102, Report::Ready);
    assert_eq!(world.relieved, [0, 2]);
    world.report(101, Report::Ready);
    assert_eq!(world.relieved, [2]);
    world.report(103, Report::Ready);
    assert_eq!(world.relieved, NONE);
}

#[test]
fn a_dead_workers_slot_is_relieved_until_its_replacement_is_ready() {
    for age in [LONG_ENOUGH, MS] {
        let mut world = starting(2).serve(age);
        world.die(101, Death::Signal(9));
        assert_eq!(world.relieved, [0], "at once");
        world.gap();
        assert_eq!(world.relieved, [0], "booting");
        world.report(world.in_slot(0).unwrap(), Report::Ready);
        assert_eq!(world.relieved, NONE);
    }
}

#[test]
fn what_nobody_could_take_stays_with_the_kernel() {
    let mut world = serving(2);
    world.die(101, Death::Signal(9));
    world.die(102, Death::Signal(9));
    assert_eq!(world.relieved, NONE);
    world.report(world.in_slot(1).unwrap(), Report::Ready);
    assert_eq!(world.relieved, [0]);
}

#[test]
fn a_worker_that_was_told_by_others_to_drain_accepts_no_more() {
    let mut world = serving(2);
    world.report(102, Report::Draining);
    assert_eq!(world.relieved, [1]);
    world.die(102, Death::Status(0));
    assert_eq!(world.relieved, [1]);
    world.report(world.in_slot(1).unwrap(), Report::Ready);
    assert_eq!(world.relieved, NONE);
}

#[test]
fn d15_a_recycled_workers_slot_is_never_relieved() {
    let mut world = serving(2);
    world.report(102, Report::Recycle { reason: Reason::RecycleRequests });
    assert_eq!(world.relieved, NONE, "it serves on");
    world.report(103, Report::Ready);
    assert_eq!((world.living[&102].1.is_some(), &world.relieved), (true, &NONE.into()));
    world.die(102, Death::Status(0));
    assert_eq!((world.relieved, world.ended_slots), (NONE.into(), NONE.into()));
}

#[test]
fn a_successor_that_boots_does_not_accept_for_a_dead_holder() {
    let mut world = serving(2);
    world.report(102, Report::Recycle { reason: Reason::RecycleRequests });
    world.die(102, Death::Signal(9));
    assert_eq!(world.relieved, [1]);
    world.report(103, Report::Ready);
    assert_eq!(world.relieved, NONE);
}

#[test]
fn ttou_ends_the_slot_after_its_worker_was_told_and_ttin_relieves_it_until_it_is_ready() {
    let mut world = serving(2);
    let actions = world.signal(Signal::Ttou);
    assert!(matches!(actions[1..], [Action::Send { .. }, Action::EndSlot { slot: 1 }]), "{actions:?}");
    assert_eq!(world.relieved, NONE);
    world.signal(Signal::Ttin);
    assert_eq!(world.relieved, [1]);
    world.report(103, Report::Ready);
    assert_eq!((world.relieved, world.ended_slots), (NONE.into(), vec![1]));
}

#[test]
fn ttou_ends_a_slot_that_is_without_a_worker_too() {
    let mut world = starting(2).serve(MS);
    world.die(102, Death::Signal(9));
    assert_eq!(world.relieved, [1]);
    world.signal(Signal::Ttou);
    assert_eq!((world.relieved, world.ended_slots), (NONE.into(), vec![1]));
}

#[test]
fn what_is_lost_outside_of_a_stop_is_told_and_changes_nothing_else() {
    let mut world = serving(2);
    let lost = Notice::BacklogLost { lost: 2 };
    assert_eq!(world.feed(Event::BacklogOver { lost: 2 }), [Action::Log(lost)]);
    assert_eq!(world.feed(Event::BacklogOver { lost: 0 }), []);
}

#[test]
fn a_stop_relieves_nothing_more() {
    let mut world = serving(2);
    world.signal(Signal::Term);
    world.die(101, Death::Status(0));
    assert_eq!(world.relieved, NONE);
}

#[test]
fn d16_a_reloaded_workers_slot_is_never_relieved() {
    let mut world = serving(2);
    world.signal(Signal::Hup);
    world.report(103, Report::Ready);
    assert_eq!(world.relieved, NONE, "one is new, and one old");
    world.report(104, Report::Ready);
    assert_eq!((world.relieved, world.ended_slots), (NONE.into(), NONE.into()));
}

#[test]
fn d16_a_reload_to_fewer_workers_ends_the_slots_of_those_that_leave() {
    let mut world = serving(3);
    world.found = Some(Shape { workers: 1, ..world.settings });
    world.signal(Signal::Hup);
    assert_eq!(world.ended_slots, NONE, "nothing is proved yet");
    world.report(104, Report::Ready);
    assert_eq!((world.relieved, world.ended_slots), (NONE.into(), vec![2, 1]));
}
