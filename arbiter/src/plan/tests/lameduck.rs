//! The lame duck phase: the time between TERM and the stop, in which the server serves as usual.

use super::*;

pub(super) const LAMEDUCK: Duration = Duration::from_secs(10);

/// Two workers that have been ready for a while, after TERM.
pub(super) fn lame() -> World {
    let mut world = World::lame(2, Patience::default(), LAMEDUCK).serve(SECOND);
    world.signal(Signal::Term);
    world
}

fn order(world: &World) -> Order {
    let drain = Drain::new(Reason::Stop, world.is.now, world.is.now + LAMEDUCK + GRACEFUL).lameduck();
    Order::Drain { drain, policy: PolicyId::Stop }
}

#[test]
fn term_tells_every_worker_and_stops_after_the_lame_duck_phase() {
    let mut world = World::lame(2, Patience::default(), LAMEDUCK).serve(SECOND);
    let order = order(&world);
    let told = [101, 102].map(|raw| Action::Send { pid: pid(raw), order: order.clone() });
    let [first, second] = told;
    assert_eq!(world.signal(Signal::Term), [Action::Log(Notice::Lameduck { left: LAMEDUCK }), first, second]);
    world.pass(LAMEDUCK - MS);
    assert!(world.promised.listening);
    world.pass(MS);
    assert!(!world.promised.listening);
    let deadlines: Vec<_> = world.pids().into_iter().map(|raw| world.leaves_by(raw).unwrap()).collect();
    assert_eq!(deadlines, [world.is.now + GRACEFUL; 2], "it is no part of the graceful timeout");
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn another_signal_ends_it() {
    for (signal, grace, reason) in [
        (Signal::Term, GRACEFUL, Reason::Stop),
        (Signal::Int, HURRY, Reason::QuickStop),
        (Signal::Quit, Duration::ZERO, Reason::QuickStop),
    ] {
        let mut world = lame();
        world.pass(SECOND);
        world.signal(signal);
        assert!(!world.promised.listening, "{signal}");
        assert_eq!(world.leaves_by(101), Some(world.is.now + grace), "{signal}");
        world.die(101, Death::Status(0));
        world.die(102, Death::Status(0));
        assert_eq!(world.promised.outcome, stopped(reason, signal == Signal::Quit), "{signal}");
    }
}

#[test]
fn an_arbiter_that_wakes_late_does_not_move_the_deadline() {
    for late in [MS, LAMEDUCK] {
        let mut world = lame();
        let deadline = world.is.now + LAMEDUCK + GRACEFUL;
        world.freeze(LAMEDUCK + late);
        assert_eq!(world.leaves_by(101), Some(deadline), "{late:?} late");
    }
}

#[test]
fn only_term_to_a_ready_server_begins_a_lame_duck_phase() {
    for (mut world, signal) in [
        (World::lame(1, Patience::default(), LAMEDUCK), Signal::Term),
        (World::lame(1, Patience::default(), LAMEDUCK).serve(SECOND), Signal::Int),
        (World::lame(1, Patience::default(), LAMEDUCK).serve(SECOND), Signal::Quit),
    ] {
        world.signal(signal);
        assert!(!world.promised.listening && world.promised.lame.is_empty(), "{signal}");
    }
}

#[test]
fn a_worker_that_dies_is_replaced_by_one_that_is_told() {
    let mut world = lame();
    world.die(101, Death::Signal(9));
    assert_eq!(world.in_slot(0), Some(103), "its connections need another worker");
    assert_eq!(world.promised.lame, BTreeSet::from([101, 102, 103]));
    world.pass(LAMEDUCK);
    world.die(103, Death::Signal(9));
    assert_eq!(world.pids(), [102], "no worker is replaced in a stop");
}

#[test]
fn a_leaving_worker_is_told_of_the_stop_only() {
    let mut world = World::lame(2, Patience::default(), LAMEDUCK).serve(SECOND);
    world.signal(Signal::Ttou);
    let deadline = world.leaves_by(102);
    world.signal(Signal::Term);
    assert_eq!((world.leaves_by(102), &world.promised.lame), (deadline, &BTreeSet::from([101])));
    world.pass(LAMEDUCK);
    assert_eq!(world.leaves_by(102), deadline);
}

#[test]
fn it_neither_grows_nor_shrinks_nor_recycles() {
    let mut world = lame();
    for signal in [Signal::Ttin, Signal::Ttou] {
        assert_eq!(world.signal(signal), [Action::Log(Notice::TooLate { signal })]);
    }
    world.report(101, recycle::SPENT);
    assert_eq!(world.pids(), [101, 102]);
}
