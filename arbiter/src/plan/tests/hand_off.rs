//! Whether leaving workers have a receiver for their connections (D19).

use super::recycle::SPENT;
use super::upgrade::{held, upgrading};
use super::*;

/// Whether the last drain order of each worker in `actions` has a receiver.
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
    world.promised.receivers.iter().map(|raw| (*raw, true)).collect()
}

#[test]
fn a_replaced_worker_may_hand_over_to_its_successor() {
    let mut recycled = World::serving(1, SECOND);
    recycled.report(101, SPENT);
    assert_eq!(ready(&mut recycled, 102), [(101, true)]);
    let mut reloaded = World::serving(1, SECOND);
    reloaded.signal(Signal::Hup);
    assert_eq!(ready(&mut reloaded, 102), [(101, true)]);
}

#[test]
fn a_surplus_worker_may_hand_over_while_another_accepts() {
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
fn the_loss_of_the_receiver_is_told_once() {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Ttou);
    assert!(world.promised.receivers.contains(&102));
    world.report(101, Report::Draining);
    assert!(world.promised.receivers.is_empty());
    assert_eq!(receivers(&world.feed(Event::Tick)), []);
    world.die(101, Death::Status(0));
    world.report(103, Report::Ready);
    assert!(world.promised.receivers.is_empty(), "nor is it promised another one");
}

#[test]
fn a_receiver_that_is_killed_is_none() {
    let mut world = World::serving(1, SECOND);
    world.report(101, SPENT);
    assert_eq!(ready(&mut world, 102), [(101, true)]);
    world.die(102, Death::Signal(9));
    assert!(world.promised.receivers.is_empty());
}

#[test]
fn no_worker_hands_over_at_a_stop() {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Ttou);
    assert_eq!(receivers(&world.signal(Signal::Term)), [(101, false), (102, false)]);
}

#[test]
fn old_workers_hand_over_while_the_new_arbiter_lives() {
    let mut world = upgrading();
    world.new_arbiter_ready();
    assert_eq!(world.promised.receivers.len(), 2);
    world.new_arbiter_dies(Death::Signal(9));
    assert!(world.promised.receivers.is_empty());
}

#[test]
fn a_new_arbiter_that_reads_other_records_receives_nothing() {
    let mut world = upgrading();
    world.is.new_arbiter.as_mut().unwrap().ready = true;
    let actions = world.feed(Event::NewArbiterReady { receives: false });
    assert_eq!(receivers(&actions), [(101, false), (102, false)]);
}

#[test]
fn drained_workers_hand_over_only_to_a_new_arbiter() {
    let mut alone = World::serving(2, SECOND);
    assert_eq!(receivers(&alone.signal(Signal::Winch)), [(102, false), (101, false)]);
    let mut beside = held();
    assert_eq!(receivers(&beside.signal(Signal::Winch)), [(102, true), (101, true)]);
    beside.new_arbiter_dies(Death::Signal(9));
    assert!(beside.promised.receivers.is_empty());
}
