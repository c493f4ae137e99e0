//! What operators ask for, and the helper.

use super::recycle::SPENT;
use super::world::{RECYCLED, ROOM};
use super::*;

fn asked(world: &World, number: u64) -> Option<&Result<Done, Refused>> {
    world.answers.get(&Ticket(number))
}

const RECYCLE: Command = Command::Recycle(None);
const STOP: Command = Command::Stop { quick: false };

#[test]
fn scaling_is_answered_at_once_and_keeps_within_its_bounds() {
    let mut world = World::serving(2, SECOND);
    let mut ask = |number, scale| {
        world.ask(number, Command::Scale(scale));
        (asked(&world, number).cloned().unwrap(), world.staying())
    };
    assert_eq!(ask(1, Scale::By(2)), (Ok(Done::Scaled { workers: 4 }), 4));
    assert_eq!(ask(2, Scale::By(-1)), (Ok(Done::Scaled { workers: 3 }), 3));
    assert_eq!(ask(3, Scale::To(1)), (Ok(Done::Scaled { workers: 1 }), 1));
    assert_eq!(ask(4, Scale::By(-1)), (Err(Refused::TooFew), 1));
    assert_eq!(ask(5, Scale::By(-300)), (Err(Refused::TooFew), 1));
    // The three that are leaving have their places until they are gone.
    assert_eq!(ask(6, Scale::To(ROOM as u16 - 2)), (Err(Refused::TooMany { room: ROOM }), 1));
    assert_eq!(ask(7, Scale::To(ROOM as u16 - 3)), (Ok(Done::Scaled { workers: ROOM - 3 }), ROOM - 3));
    assert_eq!(ask(8, Scale::By(0)), (Ok(Done::Scaled { workers: ROOM - 3 }), ROOM - 3));
}

#[test]
fn recycling_is_answered_when_those_that_were_there_are_gone() {
    let mut world = World::serving(2, SECOND);
    world.ask(1, RECYCLE);
    assert_eq!(world.pids(), [101, 102, 103], "no more at a time than may be");
    for (new, old) in [(103, 101), (104, 102)] {
        assert_eq!(asked(&world, 1), None);
        world.report(new, Report::Ready);
        world.pass(SECOND);
        world.die(old, Death::Status(0));
    }
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Recycled { workers: 2 })));
    assert_eq!((world.pids(), world.plan.deadline()), (vec![103, 104], None), "nothing is left to do");
}

#[test]
fn one_worker_is_recycled_by_its_pid_and_nobody_else() {
    let mut world = World::serving(2, SECOND);
    world.ask(1, Command::Recycle(Some(pid(102))));
    world.report(103, Report::Ready);
    world.die(102, Death::Status(0));
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Recycled { workers: 1 })));
    assert_eq!(world.in_slot(1), Some(103));
    world.ask(2, Command::Recycle(Some(pid(102))));
    assert_eq!(asked(&world, 2), Some(&Err(Refused::NoWorker { pid: pid(102) })));
}

#[test]
fn who_asks_and_does_not_wait_is_answered_at_once() {
    let mut world = World::serving(1, SECOND);
    world.report(101, SPENT); // asked for or not, it is one recycling
    let event = Event::Asked { ticket: Ticket(1), command: RECYCLE, wait: false };
    world.feed(event);
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Recycled { workers: 1 })));
    assert_eq!(world.pids().len(), 1 + RECYCLED);
}

#[test]
fn who_waits_for_a_recycling_is_told_when_the_server_stops() {
    let mut world = World::serving(1, SECOND);
    world.ask(1, RECYCLE);
    world.signal(Signal::Term);
    assert_eq!(asked(&world, 1), Some(&Err(Refused::Stopping)));
    for (number, command) in [(2, RECYCLE), (3, Command::Scale(Scale::By(1)))] {
        world.ask(number, command);
        assert_eq!(asked(&world, number), Some(&Err(Refused::Stopping)));
    }
}

#[test]
fn nothing_is_recycled_before_the_server_is_ready() {
    let mut world = World::new(1);
    world.ask(1, RECYCLE);
    assert_eq!(asked(&world, 1), Some(&Err(Refused::NotReady)));
}

#[test]
fn a_stop_that_is_asked_for_is_one_by_signal_and_is_answered_at_its_end() {
    for (quick, reason) in [(false, Reason::Stop), (true, Reason::QuickStop)] {
        let mut world = World::serving(1, SECOND);
        world.ask(1, Command::Stop { quick });
        assert_eq!((asked(&world, 1), world.listening), (None, false));
        world.die(101, Death::Status(0));
        assert_eq!(asked(&world, 1), Some(&Ok(Done::Stopped)));
        assert_eq!(world.outcome, stopped(reason, false));
    }
}

#[test]
fn stages_are_those_of_the_server() {
    let mut world = World::lame(1, Patience::default(), SECOND);
    let mut seen = vec![world.plan.stage()];
    world.report(101, Report::Ready);
    seen.push(world.plan.stage());
    world.ask(1, STOP);
    seen.push(world.plan.stage());
    world.pass(SECOND);
    seen.push(world.plan.stage());
    use remuda_core::worker::Stage::{Lameduck, Serving, Starting, Stopping};
    assert_eq!(seen, [Starting, Serving, Lameduck, Stopping]);
}

/// A server with a helper.
fn helped() -> World {
    let mut world = World::new(1);
    world.plan = Plan::new(shape(1)).with_helper();
    let actions = world.plan.handle(Event::Tick, world.now);
    assert_eq!(actions[0], Action::SpawnHelper, "before any worker");
    world.plan.handle(Event::HelperSpawned(Ok(pid(90))), world.now);
    world
}

#[test]
fn a_helper_that_dies_comes_again_and_waits_if_it_lived_shortly() {
    let mut world = helped();
    world.now = world.now + LONG_ENOUGH;
    let die = |raw: i32, world: &mut World| {
        world.plan.handle(Event::Exited { pid: pid(raw), death: Death::Signal(9) }, world.now)
    };
    let actions = die(90, &mut world);
    assert!(actions.contains(&Action::SpawnHelper), "{actions:?}");
    assert_eq!(world.plan.helper(), None);
    world.plan.handle(Event::HelperSpawned(Ok(pid(91))), world.now);
    assert_eq!(world.plan.helper(), Some(pid(91)));
    assert!(!die(91, &mut world).contains(&Action::SpawnHelper));
    assert_eq!(world.plan.deadline(), Some(world.now + BACKOFF_MIN));
    world.now = world.now + BACKOFF_MIN;
    assert_eq!(world.plan.handle(Event::Tick, world.now), [Action::SpawnHelper]);
    world.plan.handle(Event::HelperSpawned(Err("no memory".into())), world.now);
    assert_eq!(world.plan.deadline(), Some(world.now + 2 * BACKOFF_MIN));
}

#[test]
fn a_helper_that_does_not_know_all_listeners_is_followed_by_one_that_does() {
    let mut world = helped();
    let actions = world.plan.handle(Event::Listening, world.now);
    assert_eq!(actions, [Action::Retire { pid: pid(90) }, Action::SpawnHelper]);
    world.plan.handle(Event::HelperSpawned(Ok(pid(91))), world.now);
    assert_eq!((world.plan.helper(), world.plan.helpers().count()), (Some(pid(91)), 2));
    assert_eq!(world.plan.handle(Event::Exited { pid: pid(90), death: Death::Status(0) }, world.now), []);
    assert_eq!(world.plan.helpers().collect::<Vec<_>>(), [pid(91)]);
}

#[test]
fn a_helper_is_no_worker_and_holds_no_stop_up() {
    let mut world = helped();
    assert_eq!((world.plan.workers(), world.plan.lives().count()), (1, 0));
    world.plan.handle(Event::SpawnFailed { seat: 0, error: "no memory".into() }, world.now);
    world.plan.handle(Event::Signal(Signal::Term), world.now);
    let actions = world.plan.handle(Event::BacklogOver { lost: 0 }, world.now);
    assert!(actions.iter().any(|action| matches!(action, Action::Finish(_))), "{actions:?}");
}

#[test]
fn a_reload_is_answered_with_what_came_of_it() {
    let mut world = World::serving(1, SECOND);
    world.ask(1, Command::Reload);
    assert_eq!(asked(&world, 1), None);
    world.ask(2, Command::Reload); // waits for the first to prove itself
    world.report(102, Report::Ready);
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Reloaded { generation: 2 })));
    assert_eq!(asked(&world, 2), None);
    world.die(101, Death::Status(0));
    world.report(103, boot_failed(4));
    let why = "no database".to_owned();
    assert_eq!(asked(&world, 2), Some(&Err(Refused::NotReloaded { why })));

    world.found = None;
    world.ask(3, Command::Reload);
    assert_eq!(asked(&world, 3), Some(&Err(Refused::NotReloaded { why: "broken".into() })));
    let event = Event::Asked { ticket: Ticket(4), command: Command::Reload, wait: false };
    world.feed(event);
    assert_eq!(asked(&world, 4), Some(&Ok(Done::Begun)));
}

#[test]
fn who_waits_for_a_reload_is_told_when_the_server_stops() {
    let mut world = World::new(1);
    world.ask(1, Command::Reload);
    assert_eq!(asked(&world, 1), None, "the server is not ready yet");
    world.signal(Signal::Term);
    assert_eq!(asked(&world, 1), Some(&Err(Refused::Stopping)));
    world.ask(2, Command::Reload);
    assert_eq!(asked(&world, 2), Some(&Err(Refused::Stopping)));
}

#[test]
fn a_drain_is_answered_when_the_workers_are_gone_and_hup_has_them_come_back() {
    let mut world = World::serving(2, SECOND);
    world.ask(1, Command::Drain);
    assert!(world.leaving == BTreeSet::from([101, 102]) && world.listening);
    world.die(101, Death::Status(0));
    assert_eq!(asked(&world, 1), None);
    world.ask(2, Command::Drain);
    assert_eq!(asked(&world, 2), Some(&Err(Refused::Resting)));
    world.die(102, Death::Status(0));
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Drained { workers: 2 })));
    assert_eq!((world.pids(), world.plan.deadline()), (vec![], None), "nobody comes by himself");
    world.signal(Signal::Hup);
    assert_eq!(world.pids(), [103, 104]);
}

#[test]
fn a_drain_is_refused_while_it_would_get_in_the_way() {
    let mut world = World::new(1);
    world.ask(1, Command::Drain);
    world.report(101, Report::Ready);
    world.signal(Signal::Hup);
    world.ask(2, Command::Drain);
    world.signal(Signal::Term);
    world.ask(3, Command::Drain);
    let expected = [(1, Refused::NotReady), (2, Refused::Reloading), (3, Refused::Stopping)];
    for (number, refused) in expected {
        assert_eq!(asked(&world, number), Some(&Err(refused)));
    }
}

#[test]
fn who_waits_for_a_drain_or_an_upgrade_is_told_when_the_server_stops() {
    for command in [Command::Drain, Command::Upgrade] {
        let mut world = World::serving(1, SECOND);
        world.ask(1, command);
        world.signal(Signal::Term);
        assert_eq!(asked(&world, 1), Some(&Err(Refused::Stopping)), "{command:?}");
        world.ask(2, command);
        let answer = asked(&world, 2).unwrap().clone();
        assert!(answer.unwrap_err().to_string().ends_with("the server stops"));
    }
}

#[test]
fn an_upgrade_is_answered_once_the_new_arbiter_serves() {
    let mut world = World::serving(1, LONG_ENOUGH);
    world.ask(1, Command::Upgrade);
    assert_eq!((asked(&world, 1), world.stopping), (None, false));
    world.ask(2, Command::Upgrade);
    assert_eq!(asked(&world, 2), Some(&Err(Refused::NoUpgrade { why: "an upgrade is under way" })));
    world.heir_ready();
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Upgraded { pid: pid(102) })));
    assert!(world.stopping, "this one ends");

    let mut world = World::new(1);
    world.ask(1, Command::Upgrade);
    assert_eq!(asked(&world, 1), Some(&Err(Refused::NoUpgrade { why: "the server is not ready yet" })));
    world.report(101, Report::Ready);
    world.feed(Event::Asked { ticket: Ticket(2), command: Command::Upgrade, wait: false });
    assert_eq!(asked(&world, 2), Some(&Ok(Done::Begun)));
}

#[test]
fn an_upgrade_that_fails_is_answered_with_the_reason() {
    let refused = |mut world: World, change: fn(&mut World)| {
        world.ask(1, Command::Upgrade);
        change(&mut world);
        let Some(Err(refused)) = asked(&world, 1) else { panic!("{:?}", asked(&world, 1)) };
        assert!(!world.stopping);
        refused.to_string()
    };
    let died = refused(World::serving(1, LONG_ENOUGH), |world| world.heir_dies(Death::Status(4)));
    assert!(
        died.ends_with("nothing has changed: the new arbiter 102 ended with status 4 before it was ready")
    );
    let mut world = World::serving(1, LONG_ENOUGH);
    world.exhausted = true;
    assert!(refused(world, |_| ()).ends_with("nothing has changed: no memory"));
    let boot_timeout = 10 * SECOND;
    let world =
        World::of(1, Patience { boot_timeout, nap: SECOND, ..Patience::default() }).serve(LONG_ENOUGH);
    let late = refused(world, |world| {
        world.pass(10 * SECOND);
        world.heir_dies(Death::Status(0));
    });
    assert!(late.ends_with("the new arbiter 102 was not ready in time, and ended with status 0"), "{late}");
}
