//! Slots with their own listeners (`--reuse-port`), while they have no accepting worker.

use super::*;

const NONE: &[u16] = &[];

/// A server that has just forked its workers, each with its own listeners.
fn starting(workers: u16) -> World {
    let mut world = World::new(workers);
    world.supervisor.plan.unattended = Some(Vec::new());
    world
}

fn serving(workers: u16) -> World {
    starting(workers).serve(LONG_ENOUGH)
}

#[test]
fn nothing_is_relieved_if_slots_share_listeners() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.die(101, Death::Signal(9));
    world.signal(Signal::Ttou);
    assert_eq!((&*world.promised.accepted_for, &*world.promised.ended_slots), (NONE, NONE));
}

#[test]
fn a_booting_slot_is_relieved_once_another_worker_accepts() {
    let mut world = starting(3);
    assert_eq!(world.promised.accepted_for, NONE, "no worker could receive connections");
    world.report(102, Report::Ready);
    assert_eq!(world.promised.accepted_for, [0, 2]);
    world.report(101, Report::Ready);
    assert_eq!(world.promised.accepted_for, [2]);
    world.report(103, Report::Ready);
    assert_eq!(world.promised.accepted_for, NONE);
}

#[test]
fn a_dead_workers_slot_is_relieved_until_its_replacement_is_ready() {
    for age in [LONG_ENOUGH, MS] {
        let mut world = starting(2).serve(age);
        world.die(101, Death::Signal(9));
        assert_eq!(world.promised.accepted_for, [0], "at once");
        world.gap();
        assert_eq!(world.promised.accepted_for, [0], "booting");
        world.report(world.in_slot(0).unwrap(), Report::Ready);
        assert_eq!(world.promised.accepted_for, NONE);
    }
}

#[test]
fn connections_without_any_worker_stay_with_the_kernel() {
    let mut world = serving(2);
    world.die(101, Death::Signal(9));
    world.die(102, Death::Signal(9));
    assert_eq!(world.promised.accepted_for, NONE);
    world.report(world.in_slot(1).unwrap(), Report::Ready);
    assert_eq!(world.promised.accepted_for, [0]);
}

#[test]
fn a_worker_that_drains_by_itself_accepts_no_more() {
    let mut world = serving(2);
    world.report(102, Report::Draining);
    assert_eq!(world.promised.accepted_for, [1]);
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.accepted_for, [1]);
    world.report(world.in_slot(1).unwrap(), Report::Ready);
    assert_eq!(world.promised.accepted_for, NONE);
}

#[test]
fn d15_a_recycled_workers_slot_is_never_relieved() {
    let mut world = serving(2);
    world.report(102, Report::Recycle { reason: Reason::RecycleRequests });
    assert_eq!(world.promised.accepted_for, NONE, "it serves on");
    world.report(103, Report::Ready);
    assert_eq!((world.leaves_by(102).is_some(), &world.promised.accepted_for), (true, &NONE.to_vec()));
    world.die(102, Death::Status(0));
    assert_eq!((&*world.promised.accepted_for, &*world.promised.ended_slots), (NONE, NONE));
}

#[test]
fn a_successor_that_boots_does_not_accept_for_a_dead_holder() {
    let mut world = serving(2);
    world.report(102, Report::Recycle { reason: Reason::RecycleRequests });
    world.die(102, Death::Signal(9));
    assert_eq!(world.promised.accepted_for, [1]);
    world.report(103, Report::Ready);
    assert_eq!(world.promised.accepted_for, NONE);
}

#[test]
fn ttou_ends_the_slot_and_ttin_relieves_it_until_it_is_ready() {
    let mut world = serving(2);
    let actions = world.signal(Signal::Ttou);
    assert!(matches!(actions[1..], [Action::Send { .. }, Action::EndSlot { slot: 1 }]), "{actions:?}");
    assert_eq!(world.promised.accepted_for, NONE);
    world.signal(Signal::Ttin);
    assert_eq!(world.promised.accepted_for, [1]);
    world.report(103, Report::Ready);
    assert_eq!((&*world.promised.accepted_for, &*world.promised.ended_slots), (NONE, &[1][..]));
}

#[test]
fn ttou_ends_a_slot_that_is_without_a_worker_too() {
    let mut world = starting(2).serve(MS);
    world.die(102, Death::Signal(9));
    assert_eq!(world.promised.accepted_for, [1]);
    world.signal(Signal::Ttou);
    assert_eq!((&*world.promised.accepted_for, &*world.promised.ended_slots), (NONE, &[1][..]));
}

#[test]
fn connections_lost_outside_of_a_stop_are_only_logged() {
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
    assert_eq!(world.promised.accepted_for, NONE);
}

#[test]
fn d16_a_reloaded_workers_slot_is_never_relieved() {
    let mut world = serving(2);
    world.signal(Signal::Hup);
    world.report(103, Report::Ready);
    assert_eq!(world.promised.accepted_for, NONE, "one is new, and one old");
    world.report(104, Report::Ready);
    assert_eq!((&*world.promised.accepted_for, &*world.promised.ended_slots), (NONE, NONE));
}

#[test]
fn d16_a_reload_to_fewer_workers_ends_the_slots_of_those_that_leave() {
    let mut world = serving(3);
    world.is.found = Some(PlanConfig { workers: 1, ..world.is.settings });
    world.signal(Signal::Hup);
    assert_eq!(world.promised.ended_slots, NONE, "nothing is proved yet");
    world.report(104, Report::Ready);
    assert_eq!((&*world.promised.accepted_for, &*world.promised.ended_slots), (NONE, &[2, 1][..]));
}
