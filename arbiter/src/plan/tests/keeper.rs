//! D20: the seat of a worker that is gone belongs to its keeper, and a stop waits for keepers.

use super::*;

fn serving() -> World {
    World::of(2, heartbeat::PATIENCE).serve(10 * SECOND)
}

/// The worker dies, and its keeper goes on.
fn die_kept(world: &mut World, raw: i32, keeper: i32) -> u16 {
    let seat = world.is.seats[&raw];
    world.feed(Event::Kept { pid: pid(raw), keeper: pid(keeper) });
    world.die(raw, Death::Signal(9));
    seat
}

#[test]
fn d20_a_seat_is_freed_once_the_keeper_of_its_worker_is_gone() {
    let mut world = serving();
    let seat = die_kept(&mut world, 101, 901);
    world.pass(SECOND);
    assert_eq!(world.in_slot(0), Some(103), "the worker is replaced meanwhile");
    assert_ne!(world.is.seats[&103], seat, "the keeper counts in the seat of its worker");
    assert!(world.promised.freed.is_empty());
    world.feed(Event::KeeperGone { seat });
    assert_eq!(world.promised.freed, [seat]);
    let again = die_kept(&mut world, 103, 902);
    world.pass(SECOND);
    assert_eq!((world.is.seats[&104], again != seat), (seat, true), "a seat is used again");
    world.feed(Event::KeeperGone { seat: 77 });
    assert_eq!(world.promised.freed, [seat], "no keeper has that seat");
}

#[test]
fn d20_a_worker_without_a_keeper_leaves_its_seat_at_once() {
    let mut world = serving();
    let seat = world.is.seats[&101];
    world.die(101, Death::Signal(9));
    assert_eq!(world.promised.freed, [seat]);
}

#[test]
fn d20_a_stop_ends_after_the_keepers_and_kills_those_that_are_late() {
    let mut world = serving();
    let seat = die_kept(&mut world, 101, 901);
    world.feed(Event::Signal(Signal::Term));
    for raw in world.pids() {
        world.die(raw, Death::Status(0));
    }
    world.pass(SECOND);
    assert_eq!(world.promised.outcome, None, "a keeper is left");
    assert!(world.promised.killed.is_empty());
    world.pass(60 * SECOND);
    assert_eq!(world.promised.killed, BTreeSet::from([901]));
    world.feed(Event::KeeperGone { seat });
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}
