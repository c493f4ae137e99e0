//! The time between TERM and the stop, in which the server serves as usual.

use super::*;

pub(super) const LAMEDUCK: Duration = Duration::from_secs(10);

/// Two workers that have been ready for a while, when TERM has come.
pub(super) fn lame() -> World {
    let mut world = World::lame(2, Patience::default(), LAMEDUCK).serve(SECOND);
    world.signal(Signal::Term);
    world
}

fn order(world: &World) -> Order {
    let drain = Drain::new(Reason::Stop, world.now, world.now + LAMEDUCK + GRACEFUL).lameduck();
    Order::Drain { drain, policy: PolicyId::Stop }
}

#[test]
fn term_tells_every_worker_and_stops_when_the_time_is_over() {
    let mut world = World::lame(2, Patience::default(), LAMEDUCK).serve(SECOND);
    let order = order(&world);
    let told = [101, 102].map(|raw| Action::Send { pid: pid(raw), order: order.clone() });
    let [first, second] = told;
    assert_eq!(world.signal(Signal::Term), [Action::Log(Notice::Lameduck { left: LAMEDUCK }), first, second]);
    world.pass(LAMEDUCK - MS);
    assert!(world.listening);
    world.pass(MS);
    assert!(!world.listening);
    let deadlines: Vec<_> = world.living.values().map(|(_, told)| told.unwrap()).collect();
    assert_eq!(deadlines, [world.now + GRACEFUL; 2], "it is no part of the graceful timeout");
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.outcome, stopped(Reason::Stop, false));
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
        assert!(!world.listening, "{signal}");
        assert_eq!(world.living[&101].1, Some(world.now + grace), "{signal}");
        world.die(101, Death::Status(0));
        world.die(102, Death::Status(0));
        assert_eq!(world.outcome, stopped(reason, signal == Signal::Quit), "{signal}");
    }
}

#[test]
fn an_arbiter_that_wakes_late_does_not_move_the_deadline() {
    for late in [MS, LAMEDUCK] {
        let mut world = lame();
        let deadline = world.now + LAMEDUCK + GRACEFUL;
        world.freeze(LAMEDUCK + late);
        assert_eq!(world.living[&101].1, Some(deadline), "{late:?} late");
    }
}

#[test]
fn only_term_begins_it_and_only_where_the_server_was_ready() {
    for (mut world, signal) in [
        (World::lame(1, Patience::default(), LAMEDUCK), Signal::Term),
        (World::lame(1, Patience::default(), LAMEDUCK).serve(SECOND), Signal::Int),
        (World::lame(1, Patience::default(), LAMEDUCK).serve(SECOND), Signal::Quit),
    ] {
        world.signal(signal);
        assert!(!world.listening && world.lame.is_empty(), "{signal}");
    }
}

#[test]
fn a_worker_that_dies_is_replaced_by_one_that_is_told() {
    let mut world = lame();
    world.die(101, Death::Signal(9));
    assert_eq!(world.in_slot(0), Some(103), "what it served has to be served by somebody");
    assert_eq!(world.lame, BTreeSet::from([101, 102, 103]));
    world.pass(LAMEDUCK);
    world.die(103, Death::Signal(9));
    assert_eq!(world.pids(), [102], "nobody is replaced in a stop");
}

#[test]
fn who_is_leaving_already_is_told_of_the_stop_alone() {
    let mut world = World::lame(2, Patience::default(), LAMEDUCK).serve(SECOND);
    world.signal(Signal::Ttou);
    let deadline = world.living[&102].1;
    world.signal(Signal::Term);
    assert_eq!((world.living[&102].1, &world.lame), (deadline, &BTreeSet::from([101])));
    world.pass(LAMEDUCK);
    assert_eq!(world.living[&102].1, deadline);
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
