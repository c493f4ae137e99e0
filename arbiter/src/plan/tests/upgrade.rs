//! The binary upgrade: USR2, WINCH, and the stops that meet them.

use super::world::NewArbiter;
use super::*;

const BOOT: Duration = Duration::from_secs(60);

fn patient() -> Patience {
    Patience { boot_timeout: BOOT, nap: SECOND, ..Patience::default() }
}

/// Two workers, 101 and 102, and a new arbiter, 103, that boots.
pub(super) fn upgrading() -> World {
    let mut world = World::of(2, patient()).serve(LONG_ENOUGH);
    world.signal(Signal::Usr2);
    assert_eq!(world.is.new_arbiter, Some(NewArbiter { pid: 103, ready: false, told: Vec::new() }));
    world
}

/// The same with manual drain: both serve until a signal.
pub(super) fn held() -> World {
    let mut world = upgrading();
    world.supervisor.plan.config.holds = true;
    world.new_arbiter_ready();
    world
}

/// A server started by an old arbiter, which lives.
pub(super) fn with_old_arbiter() -> World {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.supervisor.plan.other = Other::Old;
    world
}

fn told(world: &World) -> &[Signal] {
    world.is.new_arbiter.as_ref().map_or(&[], |new| &new.told)
}

fn refusals(world: &World) -> Vec<&'static str> {
    let why = |notice: &Notice| match notice {
        Notice::UpgradeRefused { why } => Some(*why),
        _ => None,
    };
    world.promised.log.iter().filter_map(why).collect()
}

#[test]
fn workers_serve_until_the_new_arbiter_is_ready_then_drain() {
    let mut world = upgrading();
    world.pass(30 * SECOND);
    assert!(!world.promised.stopping);
    let deadline = world.is.now + GRACEFUL;
    world.new_arbiter_ready();
    assert_eq!(world.promised.handed_to, Some(103));
    assert!(world.pids().into_iter().all(|raw| world.leaves_by(raw) == Some(deadline)));
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Upgrade, false));
    assert_eq!(told(&world), [], "the new arbiter is not ended");
}

#[test]
fn work_cut_by_an_upgrade_is_no_failure_of_a_stop() {
    let mut world = upgrading();
    world.new_arbiter_ready();
    world.pass(GRACEFUL + KILL_MARGIN);
    let outcome = world.promised.outcome.clone().unwrap();
    assert_eq!(Some(&outcome), stopped(Reason::Upgrade, true).as_ref());
    assert_eq!(outcome.status(), 0);
}

#[test]
fn a_new_arbiter_that_dies_unready_changes_nothing() {
    let mut world = upgrading();
    world.new_arbiter_dies(Death::Status(2));
    let why = "the new arbiter 103 ended with status 2 before it was ready".to_owned();
    assert!(world.promised.log.contains(&Notice::UpgradeFailed { why }));
    assert_eq!((world.promised.reclaimed, world.promised.stopping), (1, false));
    assert_eq!(world.pids(), [101, 102]);
    world.signal(Signal::Usr2);
    assert_eq!(world.is.new_arbiter.as_ref().map(|new| new.pid), Some(104), "and it may be tried again");
}

#[test]
fn listeners_of_slots_are_relieved_by_the_serving_arbiter() {
    let accepted_for = |has_old| {
        let mut world = World::with(PlanConfig { own_listeners: true, ..config(2) });
        world.supervisor.plan.other = if has_old { Other::Old } else { Other::None };
        world.report(101, Report::Ready);
        let before = world.promised.accepted_for.clone();
        world.report(102, Report::Ready);
        world.die(102, Death::Signal(9));
        (before, world.promised.accepted_for.clone())
    };
    assert_eq!(accepted_for(false), (vec![1], vec![1]));
    assert_eq!(accepted_for(true), (vec![], vec![1]), "what it accepts would be lost if it fails");
}

#[test]
fn only_one_arbiter_has_a_helper() {
    let now = Time::ZERO + SECOND;
    let spawns = |todo: &[Action]| todo.contains(&Action::SpawnHelper);
    let mut new = Plan::new(PlanConfig { holds: true, ..config(1) }).with_helper().with_old_arbiter();
    assert!(!spawns(&new.handle(Event::Tick, now)), "the old one has one");
    assert!(spawns(&new.handle(Event::OldArbiterGone, now)));

    let mut world = World::serving(1, LONG_ENOUGH);
    world.supervisor.plan = world.supervisor.plan.with_helper();
    world.feed(Event::Tick);
    let helper = world.supervisor.plan.helper().unwrap();
    world.signal(Signal::Usr2);
    let todo = world.supervisor.plan.handle(Event::NewArbiterReady { receives: true }, world.is.now);
    let retired = todo.iter().position(|action| *action == Action::Retire { pid: helper });
    let told = todo.iter().position(|action| matches!(action, Action::Send { .. }));
    assert!(retired.is_some() && retired < told, "before any worker leaves");
    let todo =
        world.supervisor.plan.handle(Event::Exited { pid: helper, death: Death::Status(0) }, world.is.now);
    assert!(!spawns(&todo) && world.supervisor.plan.helper().is_none(), "the new one has one");
    assert!(!spawns(&world.supervisor.plan.handle(Event::Tick, world.is.now + LONG_ENOUGH)));
}

/// A server with a helper, after its upgrade is ready and all its workers have ended.
fn handed_over(held: bool) -> (World, Pid) {
    let mut world = World::serving(1, LONG_ENOUGH);
    world.supervisor.plan = world.supervisor.plan.with_helper();
    world.supervisor.plan.config.holds = held;
    world.feed(Event::Tick);
    let helper = world.supervisor.plan.helper().unwrap();
    world.signal(Signal::Usr2);
    world.new_arbiter_ready();
    if held {
        world.signal(Signal::Term);
    }
    world.die(101, Death::Status(0));
    (world, helper)
}

#[test]
fn clients_of_the_helper_are_answered_before_the_old_arbiter_ends() {
    for held in [false, true] {
        let (mut world, helper) = handed_over(held);
        assert_eq!((world.promised.outcome.as_ref(), world.promised.retired.clone()), (None, vec![helper]));
        world.feed(Event::Exited { pid: helper, death: Death::Status(0) });
        assert!(world.promised.outcome.is_some());

        let (mut world, helper) = handed_over(held);
        world.pass(RETIREMENT);
        assert!(world.promised.killed.contains(&helper.as_raw_nonzero().get()), "it has had its time");
        world.feed(Event::Exited { pid: helper, death: Death::Signal(9) });
        assert!(world.promised.outcome.is_some());

        let (mut world, helper) = handed_over(held);
        world.signal(Signal::Quit);
        assert!(world.promised.killed.contains(&helper.as_raw_nonzero().get()), "QUIT waits for no process");
    }
}

#[test]
fn a_fork_that_fails_changes_nothing() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.is.exhausted = true;
    world.signal(Signal::Usr2);
    assert!(world.promised.log.contains(&Notice::UpgradeFailed { why: "no memory".into() }));
    world.is.exhausted = false;
    world.signal(Signal::Usr2);
    assert!(world.is.new_arbiter.is_some());
}

#[test]
fn a_new_arbiter_that_is_late_is_told_to_end_and_then_killed() {
    let mut world = upgrading();
    world.pass(BOOT - MS);
    assert_eq!(told(&world), []);
    world.pass(MS);
    assert_eq!(told(&world), [Signal::Int]);
    world.new_arbiter_ready();
    assert!(!world.promised.stopping, "it is too late for that");
    world.pass(HURRY + 2 * KILL_MARGIN);
    assert_eq!((world.is.new_arbiter.clone(), world.promised.reclaimed), (None, 1));
    assert_eq!(world.pids(), [101, 102]);
}

#[test]
fn a_new_arbiter_that_was_killed_is_left_alone() {
    let mut world = upgrading();
    world.pass(BOOT);
    let at = world.is.now + HURRY + 2 * KILL_MARGIN;
    assert!(world.supervisor.plan.handle(Event::Tick, at).contains(&Action::Kill { pid: pid(103) }));
    let mut after = world.supervisor.plan.handle(Event::Signal(Signal::Term), at);
    after.extend(world.supervisor.plan.handle(Event::Tick, at + GRACEFUL + KILL_MARGIN));
    after.extend(world.supervisor.plan.handle(Event::Tick, at + LONGEST));
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
    for mut world in [upgrading(), held(), with_old_arbiter()] {
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
        world.end_the_killed();
        assert!(world.promised.listening, "the backlog is shared while both live");
        world.new_arbiter_dies(Death::Status(0));
        assert!(!world.promised.listening);
        world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
        assert!(world.promised.outcome.is_some(), "{signal}");
    }
}

#[test]
fn a_reloads_backlog_does_not_end_a_stop_that_waits_for_the_new_arbiter() {
    let mut world = upgrading();
    world.signal(Signal::Term);
    world.feed(Event::BacklogOver { lost: 0 });
    assert_eq!(world.promised.told_end, BTreeSet::new(), "theirs has not ended");
    world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
    assert_eq!(world.promised.outcome, None, "the new one lives");
    world.new_arbiter_dies(Death::Status(0));
    assert!(!world.promised.listening && world.promised.outcome.is_some());
}

#[test]
fn a_second_signal_hurries_both() {
    let mut world = upgrading();
    world.signal(Signal::Term);
    world.signal(Signal::Int);
    assert_eq!(told(&world), [Signal::Term, Signal::Int]);
    world.pass(HURRY + 2 * KILL_MARGIN);
    assert_eq!(
        (world.is.new_arbiter.clone(), world.promised.outcome.clone()),
        (None, stopped(Reason::QuickStop, true))
    );
}

#[test]
fn a_new_arbiter_that_does_not_end_is_killed_and_the_stop_ends() {
    let mut world = upgrading();
    world.signal(Signal::Term);
    world.pass(GRACEFUL + KILL_MARGIN);
    assert!(world.is.living.is_empty() && world.promised.outcome.is_none());
    world.pass(KILL_MARGIN);
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, true));
}

#[test]
fn a_stop_of_the_old_arbiter_spares_a_new_one_that_serves() {
    for (mut world, reason) in [(held(), Reason::Stop), (upgrading(), Reason::Upgrade)] {
        world.new_arbiter_ready();
        world.signal(Signal::Term);
        assert_eq!(world.promised.handed_to, Some(103));
        world.pids().into_iter().for_each(|pid| world.die(pid, Death::Status(0)));
        assert_eq!(world.promised.outcome, stopped(reason, false));
        assert_eq!(told(&world), []);
    }
}

#[test]
fn a_held_arbiter_serves_beside_the_new_one_and_after_it() {
    let mut world = held();
    world.pass(BOOT + GRACEFUL);
    assert_eq!((world.pids(), world.promised.handed_to), (vec![101, 102], None));
    world.die(101, Death::Signal(9));
    assert_eq!(world.in_slot(0), Some(104), "its workers are replaced");
    world.new_arbiter_dies(Death::Status(0));
    assert!(world.promised.log.contains(&Notice::NewArbiterGone { pid: pid(103), death: Death::Status(0) }));
    assert_eq!((world.promised.reclaimed, world.promised.stopping), (1, false));
}

#[test]
fn winch_drains_all_workers_and_hup_starts_as_many() {
    let mut world = World::serving(3, LONG_ENOUGH);
    world.signal(Signal::Winch);
    world.signal(Signal::Winch);
    assert!(world.promised.listening);
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
fn a_worker_started_again_waits_for_room() {
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
fn backing_out_starts_the_workers_again() {
    for hup in [true, false] {
        let mut world = held();
        world.signal(Signal::Winch);
        let draining =
            world.pids().into_iter().all(|raw| world.leaves_by(raw) == Some(world.is.now + GRACEFUL));
        assert!(draining, "they drain for the new one");
        world.die(101, Death::Status(0));
        world.die(102, Death::Status(0));
        if hup {
            world.signal(Signal::Hup);
        }
        world.new_arbiter_dies(Death::Status(0));
        assert_eq!(world.pids(), [104, 105]);
        world.pass(BOOT);
        assert!(!world.promised.stopping);
    }
}

#[test]
fn the_new_arbiter_is_alone_once_the_old_one_is_gone() {
    let mut world = with_old_arbiter();
    world.feed(Event::OldArbiterGone);
    world.feed(Event::OldArbiterGone);
    assert_eq!(world.promised.reclaimed, 1);
    world.signal(Signal::Usr2);
    assert!(world.is.new_arbiter.is_some());
}
