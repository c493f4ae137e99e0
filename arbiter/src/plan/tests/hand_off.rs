//! Whether those that leave may hand connections over to somebody (D19).

use super::recycle::SPENT;
use super::upgrade::{held, upgrading};
use super::*;

/// What the last drain order of each worker in `actions` says of a receiver.
fn receivers(actions: &[Action]) -> Vec<(i32, bool)> {
    let drain = |action: &Action| match action {
        Action::Send { pid, order: Order::Drain { drain, .. } } => {
            Some((pid.as_raw_nonzero().get(), drain.receiver))
        }
        _ => None,
    };
    actions.iter().filter_map(drain).collect()
}

fn ready(world: &mut World, raw: i32) -> Vec<(i32, bool)> {
    world.report(raw, Report::Ready);
    world.promised.iter().map(|raw| (*raw, true)).collect()
}

#[test]
fn who_is_replaced_may_hand_over_to_its_successor() {
    let mut recycled = World::serving(1, SECOND);
    recycled.report(101, SPENT);
    assert_eq!(ready(&mut recycled, 102), [(101, true)]);
    let mut reloaded = World::serving(1, SECOND);
    reloaded.signal(Signal::Hup);
    assert_eq!(ready(&mut reloaded, 102), [(101, true)]);
}

#[test]
fn who_is_one_too_many_may_hand_over_while_another_accepts() {
    let mut world = World::serving(2, SECOND);
    assert_eq!(receivers(&world.signal(Signal::Ttou)), [(102, true)]);
    let mut world = World::serving(2, SECOND);
    world.die(101, Death::Signal(9));
    assert_eq!(receivers(&world.signal(Signal::Ttou)), [(102, false)], "the other one boots");
    let mut world = World::serving(2, SECOND);
    world.report(101, Report::Draining);
    assert_eq!(receivers(&world.signal(Signal::Ttou)), [(102, false)], "the other one drains by itself");
}

#[test]
fn who_has_lost_its_receiver_hears_of_it_once() {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Ttou);
    assert!(world.promised.contains(&102));
    world.report(101, Report::Draining);
    assert!(world.promised.is_empty());
    assert_eq!(receivers(&world.feed(Event::Tick)), []);
    world.die(101, Death::Status(0));
    world.report(103, Report::Ready);
    assert!(world.promised.is_empty(), "nor is it promised another one");
}

#[test]
fn a_receiver_that_is_killed_is_none() {
    let mut world = World::serving(1, SECOND);
    world.report(101, SPENT);
    assert_eq!(ready(&mut world, 102), [(101, true)]);
    world.die(102, Death::Signal(9));
    assert!(world.promised.is_empty());
}

#[test]
fn at_a_stop_nobody_hands_over() {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Ttou);
    assert_eq!(receivers(&world.signal(Signal::Term)), [(101, false), (102, false)]);
}

#[test]
fn workers_of_an_old_arbiter_hand_over_to_those_of_the_new_one_while_that_lives() {
    let mut world = upgrading();
    world.heir_ready();
    assert_eq!(world.promised.len(), 2);
    world.heir_dies(Death::Signal(9));
    assert!(world.promised.is_empty());
}

#[test]
fn a_new_arbiter_that_reads_other_records_takes_nothing_over() {
    let mut world = upgrading();
    world.heir.as_mut().unwrap().ready = true;
    let actions = world.feed(Event::HeirReady { receives: false });
    assert_eq!(receivers(&actions), [(101, false), (102, false)]);
}

#[test]
fn whoever_rests_hands_over_to_a_new_arbiter_or_to_nobody() {
    let mut alone = World::serving(2, SECOND);
    assert_eq!(receivers(&alone.signal(Signal::Winch)), [(102, false), (101, false)]);
    let mut beside = held();
    assert_eq!(receivers(&beside.signal(Signal::Winch)), [(102, true), (101, true)]);
    beside.heir_dies(Death::Signal(9));
    assert!(beside.promised.is_empty());
}
