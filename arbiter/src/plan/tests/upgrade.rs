//! The binary upgrade: USR2, WINCH, and the stops that meet them.

use super::world::Heir;
use super::*;

const BOOT: Duration = Duration::from_secs(60);

fn patient() -> Patience {
    Patience { boot_timeout: BOOT, nap: SECOND, ..Patience::default() }
}

/// Two workers, 101 and 102, and a new arbiter, 103, that boots.
pub(super) fn upgrading() -> World {
    let mut world = World::of(2, patient()).serve(LONG_ENOUGH);
    world.signal(Signal::Usr2);
    assert_eq!(world.heir, Some(Heir { pid: 103, ready: false, told: Vec::new() }));
    world
}

/// The same, both of which serve until people say more.
pub(super) fn held() -> World {
    let mut world = upgrading();
    world.plan.shape.holds = true;
    world.heir_ready();
    world
}

/// A server that another arbiter has started, which lives.
pub(super) fn with_elder() -> World {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.plan.other = Other::Elder;
    world
}

fn told(world: &World) -> &[Signal] {
    world.heir.as_ref().map_or(&[], |heir| &heir.told)
}

fn refusals(world: &World) -> Vec<&'static str> {
    let why = |notice: &Notice| match notice {
        Notice::UpgradeRefused { why } => Some(*why),
        _ => None,
    };
    world.log.iter().filter_map(why).collect()
}

#[test]
fn workers_serve_until_the_new_arbiter_is_ready_and_then_drain_for_it() {
    let mut world = upgrading();
    world.pass(30 * SECOND);
    assert!(!world.stopping);
    let deadline = world.now + GRACEFUL;
    world.heir_ready();
    assert_eq!(world.handed_to, Some(103));
    assert!(world.living.values().all(|(_, told)| *told == Some(deadline)));
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.outcome, stopped(Reason::Upgrade, false));
    assert_eq!(told(&world), [], "nobody ends the new one");
}

#[test]
fn what_the_drain_of_an_upgrade_cuts_is_no_failure_of_a_stop() {
    let mut world = upgrading();
    world.heir_ready();
    world.pass(GRACEFUL + KILL_MARGIN);
    let outcome = world.outcome.unwrap();
    assert_eq!(Some(&outcome), stopped(Reason::Upgrade, true).as_ref());
    assert_eq!(outcome.status(), 0);
}

#[test]
fn a_new_arbiter_that_dies_before_it_is_ready_changes_nothing() {
    let mut world = upgrading();
    world.heir_dies(Death::Status(2));
    let why = "the new arbiter 103 ended with status 2 before it was ready".to_owned();
    assert!(world.log.contains(&Notice::UpgradeFailed { why }));
    assert_eq!((world.reclaimed, world.stopping), (1, false));
    assert_eq!(world.pids(), [101, 102]);
    world.signal(Signal::Usr2);
    assert_eq!(world.heir.map(|heir| heir.pid), Some(104), "and it may be tried again");
}

#[test]
fn listeners_of_single_workers_are_relieved_by_an_arbiter_that_serves() {
    let relieved = |elder| {
        let mut world = World::with(Shape { own_listeners: true, ..shape(2) });
        world.plan.other = if elder { Other::Elder } else { Other::None };
        world.report(101, Report::Ready);
        let before = world.relieved.clone();
        world.report(102, Report::Ready);
        world.die(102, Death::Signal(9));
        (before, world.relieved)
    };
    assert_eq!(relieved(false), (vec![1], vec![1]));
    assert_eq!(relieved(true), (vec![], vec![1]), "what it accepts would be lost if it fails");
}

#[test]
fn the_helper_that_tells_of_the_server_is_that_of_one_arbiter() {
    let now = Time::ZERO + SECOND;
    let spawns = |todo: &[Action]| todo.contains(&Action::SpawnHelper);
    let mut new = Plan::new(Shape { holds: true, ..shape(1) }).with_helper().with_elder();
    assert!(!spawns(&new.handle(Event::Tick, now)), "the old one has one");
    assert!(spawns(&new.handle(Event::ElderGone, now)));

    let mut world = World::serving(1, LONG_ENOUGH);
    world.plan = world.plan.with_helper();
    world.feed(Event::Tick);
    let helper = world.plan.helper().unwrap();
    world.signal(Signal::Usr2);
    let todo = world.plan.handle(Event::HeirReady { receives: true }, world.now);
    let retired = todo.iter().position(|action| *action == Action::Retire { pid: helper });
    let told = todo.iter().position(|action| matches!(action, Action::Send { .. }));
    assert!(retired.is_some() && retired < told, "before any worker leaves");
    let todo = world.plan.handle(Event::Exited { pid: helper, death: Death::Status(0) }, world.now);
    assert!(!spawns(&todo) && world.plan.helper().is_none(), "the new one has one");
    assert!(!spawns(&world.plan.handle(Event::Tick, world.now + LONG_ENOUGH)));
}

/// A server with a helper whose upgrade is ready, and all workers of which have ended.
fn handed_over(held: bool) -> (World, Pid) {
    let mut world = World::serving(1, LONG_ENOUGH);
    world.plan = world.plan.with_helper();
    world.plan.shape.holds = held;
    world.feed(Event::Tick);
    let helper = world.plan.helper().unwrap();
    world.signal(Signal::Usr2);
    world.heir_ready();
    if held {
        world.signal(Signal::Term);
    }
    world.die(101, Death::Status(0));
    (world, helper)
}

#[test]
fn who_asks_the_helper_is_answered_before_the_old_arbiter_ends() {
    for held in [false, true] {
        let (mut world, helper) = handed_over(held);
        assert_eq!((world.outcome.as_ref(), world.retired.clone()), (None, vec![helper]));
        world.feed(Event::Exited { pid: helper, death: Death::Status(0) });
        assert!(world.outcome.is_some());

        let (mut world, helper) = handed_over(held);
        world.pass(RETIREMENT);
        assert!(world.killed.contains(&helper.as_raw_nonzero().get()), "it has had its time");
        world.feed(Event::Exited { pid: helper, death: Death::Signal(9) });
        assert!(world.outcome.is_some());

        let (mut world, helper) = handed_over(held);
        world.signal(Signal::Quit);
        assert!(world.killed.contains(&helper.as_raw_nonzero().get()), "QUIT waits for nobody");
    }
}

#[test]
fn a_fork_that_fails_changes_nothing() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.exhausted = true;
    world.signal(Signal::Usr2);
    assert!(world.log.contains(&Notice::UpgradeFailed { why: "no memory".into() }));
    world.exhausted = false;
    world.signal(Signal::Usr2);
    assert!(world.heir.is_some());
}

#[test]
fn a_new_arbiter_that_is_late_is_told_to_end_and_then_killed() {
    let mut world = upgrading();
    world.pass(BOOT - MS);
    assert_eq!(told(&world), []);
    world.pass(MS);
    assert_eq!(told(&world), [Signal::Int]);
    world.heir_ready();
    assert!(!world.stopping, "it is too late for that");
    world.pass(HURRY + 2 * KILL_MARGIN);
    assert_eq!((world.heir.clone(), world.reclaimed), (None, 1));
    assert_eq!(world.pids(), [101, 102]);
}

#[test]
fn a_new_arbiter_that_was_killed_is_left_alone() {
    let mut world = upgrading();
    world.pass(BOOT);
    let at = world.now + HURRY + 2 * KILL_MARGIN;
    assert!(world.plan.handle(Event::Tick, at).contains(&Action::Kill { pid: pid(103) }));
    let mut after = world.plan.handle(Event::Signal(Signal::Term), at);
    after.extend(world.plan.handle(Event::Tick, at + GRACEFUL + KILL_MARGIN));
    after.extend(world.plan.handle(Event::Tick, at + LONGEST));
    let again = [Action::Signal { pid: pid(103), signal: Signal::Term }, Action::Kill { pid: pid(103) }];
    assert!(!again.iter().any(|action| after.contains(action)), "{after:?}");
}

#[test]
fn without_a_boot_timeout_a_new_arbiter_may_take_for_ever() {
    let mut world = World::serving(1, LONG_ENOUGH);
    world.signal(Signal::Usr2);
    world.pass(100 * BOOT);
    assert_eq!(told(&world), []);
}

#[test]
fn one_upgrade_at_a_time_and_none_at_the_start_or_in_a_stop() {
    let mut world = World::new(1);
    world.signal(Signal::Usr2);
    assert_eq!(refusals(&world), ["the server is not ready yet"]);
    for mut world in [upgrading(), held(), with_elder()] {
        world.signal(Signal::Usr2);
        assert_eq!(refusals(&world), ["an upgrade is under way"]);
    }
    let mut world = World::serving(1, SECOND);
    world.signal(Signal::Term);
    world.signal(Signal::Usr2);
    assert_eq!(refusals(&world), ["the server stops"]);
}

#[test]
fn a_stop_before_the_new_arbiter_is_ready_ends_both_and_saves_the_backlog_last() {
    for signal in [Signal::Term, Signal::Int, Signal::Quit] {
        let mut world = upgrading();
        world.signal(signal);
        assert_eq!(told(&world), [signal]);
        world.bury();
        assert!(world.listening, "the backlog is nobody's while both live");
        world.heir_dies(Death::Status(0));
        assert!(!world.listening);
        world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
        assert!(world.outcome.is_some(), "{signal}");
    }
}

#[test]
fn what_a_reload_has_passed_on_is_not_the_backlog_of_a_stop_that_waits_for_the_new_arbiter() {
    let mut world = upgrading();
    world.signal(Signal::Term);
    world.feed(Event::BacklogOver { lost: 0 });
    assert_eq!(world.told_end, BTreeSet::new(), "theirs has not ended");
    world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
    assert_eq!(world.outcome, None, "the new one lives");
    world.heir_dies(Death::Status(0));
    assert!(!world.listening && world.outcome.is_some());
}

#[test]
fn a_second_signal_hurries_both() {
    let mut world = upgrading();
    world.signal(Signal::Term);
    world.signal(Signal::Int);
    assert_eq!(told(&world), [Signal::Term, Signal::Int]);
    world.pass(HURRY + 2 * KILL_MARGIN);
    assert_eq!((world.heir.clone(), world.outcome), (None, stopped(Reason::QuickStop, true)));
}

#[test]
fn a_new_arbiter_that_does_not_end_is_killed_and_the_stop_ends() {
    let mut world = upgrading();
    world.signal(Signal::Term);
    world.pass(GRACEFUL + KILL_MARGIN);
    assert!(world.living.is_empty() && world.outcome.is_none());
    world.pass(KILL_MARGIN);
    assert_eq!(world.outcome, stopped(Reason::Stop, true));
}

#[test]
fn stopping_the_old_arbiter_once_the_new_one_serves_ends_that_one_alone() {
    for (mut world, reason) in [(held(), Reason::Stop), (upgrading(), Reason::Upgrade)] {
        world.heir_ready();
        world.signal(Signal::Term);
        assert_eq!(world.handed_to, Some(103));
        world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
        assert_eq!(world.outcome, stopped(reason, false));
        assert_eq!(told(&world), []);
    }
}

#[test]
fn who_holds_serves_on_beside_the_new_arbiter_and_alone_when_that_ends() {
    let mut world = held();
    world.pass(BOOT + GRACEFUL);
    assert_eq!((world.pids(), world.handed_to), (vec![101, 102], None));
    world.die(101, Death::Signal(9));
    assert_eq!(world.in_slot(0), Some(104), "its workers are replaced");
    world.heir_dies(Death::Status(0));
    assert!(world.log.contains(&Notice::HeirGone { pid: pid(103), death: Death::Status(0) }));
    assert_eq!((world.reclaimed, world.stopping), (1, false));
}

#[test]
fn winch_drains_all_workers_and_hup_has_as_many_come_back() {
    let mut world = World::serving(3, LONG_ENOUGH);
    world.signal(Signal::Winch);
    world.signal(Signal::Winch);
    assert!(world.listening);
    assert_eq!(world.staying(), 0);
    world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
    world.pass(BOOT);
    assert_eq!(world.pids(), Vec::<i32>::new());
    world.signal(Signal::Ttin);
    world.signal(Signal::Ttou);
    assert_eq!(world.pids(), Vec::<i32>::new(), "it rests");
    world.signal(Signal::Hup);
    assert_eq!(world.pids(), [104, 105, 106]);
}

#[test]
fn who_comes_back_waits_for_room() {
    let mut world = World::serving(ROOM as u16, LONG_ENOUGH);
    world.signal(Signal::Winch);
    world.signal(Signal::Hup);
    assert_eq!(world.staying(), 0, "those that drain are there still");
    world.die(101, Death::Status(0));
    assert_eq!(world.staying(), 1);
    world.pass(GRACEFUL + KILL_MARGIN);
    assert_eq!(world.staying(), ROOM);
}

#[test]
fn backing_out_brings_the_workers_back_before_or_after_the_new_arbiter_ends() {
    for hup in [true, false] {
        let mut world = held();
        world.signal(Signal::Winch);
        let draining = world.living.values().all(|(_, told)| *told == Some(world.now + GRACEFUL));
        assert!(draining, "they drain for the new one");
        world.die(101, Death::Status(0));
        world.die(102, Death::Status(0));
        if hup {
            world.signal(Signal::Hup);
        }
        world.heir_dies(Death::Status(0));
        assert_eq!(world.pids(), [104, 105]);
        world.pass(BOOT);
        assert!(!world.stopping);
    }
}

#[test]
fn the_new_arbiter_is_alone_once_the_old_one_is_gone() {
    let mut world = with_elder();
    world.feed(Event::ElderGone);
    world.feed(Event::ElderGone);
    assert_eq!(world.reclaimed, 1);
    world.signal(Signal::Usr2);
    assert!(world.heir.is_some());
}
