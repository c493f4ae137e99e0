//! D16: a new configuration replaces the current one, or nothing changes.

use super::*;

/// Two workers that have been ready for a while, and a successor of the first that has to prove
/// generation 2.
pub(super) fn reloading() -> World {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Hup);
    world
}

/// The same, after the first old worker has left and the successor of the second boots.
pub(super) fn adopted() -> World {
    let mut world = reloading();
    world.report(103, Report::Ready);
    world.die(101, Death::Status(0));
    world
}

fn failed(why: &str) -> ReloadEnd {
    ReloadEnd::Failed(why.to_owned())
}

#[test]
fn d16_old_workers_serve_until_new_ones_are_ready() {
    let mut world = World::serving(2, SECOND);
    let actions = world.signal(Signal::Hup);
    assert_eq!(actions[0], Action::Load { generation: 2 });
    assert_eq!(actions.last(), Some(&Action::Log(Notice::Started { slot: 0, pid: pid(103) })));
    assert_eq!(world.made_of(), [(101, 1), (102, 1), (103, 2)]);
    world.pass(10 * SECOND);
    assert_eq!((world.pids(), world.promised.reloaded.len()), (vec![101, 102, 103], 0), "they serve on");

    world.report(103, Report::Ready);
    assert_eq!(world.promised.reloaded, BTreeSet::from([101]));
    world.pass(SECOND);
    assert_eq!(world.pids(), [101, 102, 103], "the next one waits until that has left");
    assert_eq!(world.promised.ended, []);
    world.die(101, Death::Status(0));
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (104, 2)]);
    world.report(104, Report::Ready);
    assert_eq!(world.promised.ended, [(2, ReloadEnd::Done)], "all were told");
    world.die(102, Death::Status(0));
    assert_eq!((world.made_of(), world.supervisor.plan.deadline()), (vec![(103, 2), (104, 2)], None));
}

#[test]
fn d16_more_at_a_time_if_more_may_be() {
    let mut plan = Plan::new(PlanConfig { reload_concurrency: 2, ..config(3) });
    let now = Time::from_nanos(1);
    plan.handle(Event::Tick, now);
    for (seat, raw) in [(0, 101), (1, 102), (2, 103)] {
        plan.handle(Event::Spawned { seat, pid: pid(raw) }, now);
        plan.handle(Event::Report { pid: pid(raw), report: Report::Ready }, now);
    }
    plan.handle(Event::Signal(Signal::Hup), now);
    let actions = plan.handle(Event::Loaded { config: config(3) }, now);
    let spawns = actions.iter().filter(|action| matches!(action, Action::Spawn { generation: 2, .. }));
    assert_eq!(spawns.count(), 2);
}

#[test]
fn d16_unused_listeners_end_after_the_last_old_worker_was_told() {
    let mut world = World::serving(1, SECOND);
    world.signal(Signal::Hup);
    let ready = Event::Report { pid: pid(102), report: Report::Ready };
    let actions = world.supervisor.plan.handle(ready, world.is.now);
    let order = Drain::new(Reason::Reload, world.is.now, world.is.now + GRACEFUL).with_receiver();
    let order = Order::Drain { drain: order, policy: PolicyId::Reload };
    assert_eq!(
        actions[1..],
        [
            Action::Adopt,
            Action::Send { pid: pid(101), order },
            Action::EndListeners,
            Action::Reloaded { generation: 2, end: ReloadEnd::Done },
        ]
    );
}

#[test]
fn d16_a_failed_load_changes_nothing_and_frees_its_number() {
    let mut world = World::serving(2, SECOND);
    let found = world.is.found.take();
    let deadline = world.supervisor.plan.deadline();
    world.signal(Signal::Hup);
    assert_eq!((world.promised.ended.clone(), world.pids()), (vec![(2, failed("broken"))], vec![101, 102]));
    assert_eq!(world.supervisor.plan.deadline(), deadline);
    world.is.found = found;
    world.signal(Signal::Hup);
    assert_eq!(world.made_of(), [(101, 1), (102, 1), (103, 2)]);
}

#[test]
fn d16_the_first_failed_boot_ends_the_reload() {
    type Fail = fn(&mut World);
    let ways: [(Fail, &str); 4] = [
        (|world| world.report(103, boot_failed(4)), "no database"),
        (|world| world.die(103, Death::Status(4)), "worker 103 ended with status 4 before it was ready"),
        (
            |world| world.die(103, Death::Signal(9)),
            "worker 103 ended with signal 9 (SIGKILL) before it was ready",
        ),
        (
            |world| {
                world.silence(103);
                world.pass(heartbeat::PATIENCE.boot_timeout + SECOND);
            },
            "worker 103 was not ready in time, and ended with signal 6 (SIGABRT)",
        ),
    ];
    for (fail, why) in ways {
        let mut world = World::of(2, heartbeat::PATIENCE).serve(SECOND);
        world.signal(Signal::Hup);
        fail(&mut world);
        assert_eq!(world.promised.ended, [(2, failed(why))]);
        if world.is.living.contains_key(&103) {
            world.die(103, Death::Status(4));
        }
        world.pass(100 * SECOND);
        assert_eq!(world.made_of(), [(101, 1), (102, 1)], "and nothing is tried again: {why}");
        assert_eq!(
            world.promised.reloaded.difference(&BTreeSet::from([103])).count(),
            0,
            "no other worker was told"
        );
        world.signal(Signal::Hup);
        assert_eq!(world.made_of(), [(101, 1), (102, 1), (104, 3)]);
    }
}

#[test]
fn d16_a_fork_that_fails_ends_the_reload() {
    let mut world = World::serving(2, SECOND);
    world.is.exhausted = true;
    world.signal(Signal::Hup);
    assert_eq!(
        (world.promised.ended.clone(), world.supervisor.plan.deadline()),
        (vec![(2, failed("no memory"))], None)
    );
}

#[test]
fn d16_after_a_failed_boot_the_other_new_workers_leave() {
    let mut plan = Plan::new(PlanConfig { reload_concurrency: 2, ..config(2) });
    let now = Time::from_nanos(1);
    plan.handle(Event::Tick, now);
    for (seat, raw) in [(0, 101), (1, 102)] {
        plan.handle(Event::Spawned { seat, pid: pid(raw) }, now);
        plan.handle(Event::Report { pid: pid(raw), report: Report::Ready }, now);
    }
    plan.handle(Event::Signal(Signal::Hup), now);
    plan.handle(Event::Loaded { config: config(2) }, now);
    plan.handle(Event::Spawned { seat: 2, pid: pid(103) }, now);
    plan.handle(Event::Spawned { seat: 3, pid: pid(104) }, now);
    let actions = plan.handle(Event::Exited { pid: pid(103), death: Death::Signal(9) }, now);
    let told: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { pid, .. } => Some(pid.as_raw_nonzero().get()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [104]);
    assert!(actions.contains(&Action::Abandon));
    let actions = plan.handle(Event::Report { pid: pid(104), report: Report::Ready }, now);
    assert!(matches!(actions[..], [Action::Log(_)]), "it takes nothing over: {actions:?}");
}

#[test]
fn d16_an_adopted_generation_is_tried_again_with_back_off() {
    let mut world = adopted();
    let mut waits = Vec::new();
    for _ in 0..3 {
        let successor = *world.pids().last().unwrap();
        world.report(successor, boot_failed(4));
        world.die(successor, Death::Status(4));
        assert_eq!(world.made_of(), [(102, 1), (103, 2)]);
        waits.push(world.supervisor.plan.deadline().unwrap() - world.is.now);
        world.pass(*waits.last().unwrap());
    }
    assert_eq!(waits, [1, 2, 4].map(|n| n * BACKOFF_MIN));
    assert_eq!(world.promised.ended, []);
    world.report(*world.pids().last().unwrap(), Report::Ready);
    assert_eq!(world.promised.ended, [(2, ReloadEnd::Done)]);
}

#[test]
fn a_worker_that_dies_before_adoption_is_replaced_in_the_old_one() {
    let mut world = reloading();
    world.die(101, Death::Signal(9));
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (104, 1)]);
    world.report(104, Report::Ready);
    world.die(103, Death::Status(4));
    assert_eq!(world.made_of(), [(102, 1), (104, 1)], "the old generation is complete");

    let mut world = reloading();
    world.die(101, Death::Signal(9));
    world.report(103, Report::Ready);
    assert_eq!(world.promised.reloaded, BTreeSet::from([104]), "it has the slot");
}

#[test]
fn a_worker_that_dies_after_adoption_is_replaced_in_the_new_one() {
    let mut world = adopted();
    world.die(103, Death::Signal(9));
    world.pass(BACKOFF_MIN);
    world.die(102, Death::Signal(9));
    assert_eq!(world.made_of(), [(104, 2), (105, 2)], "the successor of the second has its slot");
    assert_eq!(world.promised.ended, [(2, ReloadEnd::Done)]);
}

#[test]
fn a_reload_can_be_the_remedy_of_a_crash_loop() {
    let mut world = World::serving(1, Duration::ZERO);
    for _ in 0..8 {
        world.die(world.in_slot(0).unwrap(), Death::Signal(11));
        world.gap();
    }
    world.die(world.in_slot(0).unwrap(), Death::Signal(11));
    world.signal(Signal::Hup);
    let successor = *world.pids().first().expect("it does not wait for the back-off");
    world.report(successor, Report::Ready);
    assert_eq!(
        (world.made_of(), world.promised.ended.clone()),
        (vec![(successor, 2)], vec![(2, ReloadEnd::Done)])
    );
    assert_eq!(world.supervisor.plan.deadline(), None);
}

#[test]
fn reloads_during_a_proof_come_after_it_and_once() {
    let mut world = reloading();
    for _ in 0..3 {
        assert_eq!(world.signal(Signal::Hup), [Action::Log(Notice::ReloadWaits)]);
    }
    world.report(103, Report::Ready);
    world.die(101, Death::Status(0));
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (104, 3)], "the oldest goes first");
    world.report(104, Report::Ready);
    assert_eq!(world.promised.ended, [(2, ReloadEnd::Overtaken)]);
    world.die(102, Death::Status(0));
    world.report(105, Report::Ready);
    assert_eq!(world.promised.ended[1..], [(3, ReloadEnd::Done)]);
    assert_eq!(world.made_of(), [(104, 3), (105, 3)]);

    let mut world = reloading();
    world.signal(Signal::Hup);
    world.die(103, Death::Status(4));
    assert_eq!(world.made_of(), [(101, 1), (102, 1), (104, 3)], "nothing is lost");
}

#[test]
fn a_reload_does_not_wait_for_one_that_fails_later() {
    let mut world = adopted();
    for _ in 0..6 {
        world.die(*world.pids().last().unwrap(), Death::Status(4));
        let wait = world.supervisor.plan.deadline().unwrap() - world.is.now;
        world.pass(wait);
    }
    world.die(*world.pids().last().unwrap(), Death::Status(4));
    world.signal(Signal::Hup);
    let newest = *world.pids().last().unwrap();
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (newest, 3)]);
    world.die(newest, Death::Status(4));
    assert_eq!(world.promised.ended.last().unwrap().0, 3);
    assert_eq!(world.made_of().last().unwrap().1, 2, "the one before goes on");
    world.report(*world.pids().last().unwrap(), Report::Ready);
    assert_eq!(world.promised.ended.last(), Some(&(2, ReloadEnd::Done)));
}

#[test]
fn a_successor_of_an_obsolete_generation_is_not_tried_again() {
    let mut world = adopted();
    world.signal(Signal::Hup);
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (104, 2)], "it may boot");
    world.die(104, Death::Status(4));
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (105, 3)]);
    assert_eq!(world.promised.ended, []);
}

#[test]
fn a_reload_at_the_start_waits_until_the_server_serves() {
    let mut world = World::new(1);
    assert_eq!(world.signal(Signal::Hup), [Action::Log(Notice::ReloadWaits)]);
    world.report(101, Report::Ready);
    assert!(world.promised.announced);
    assert_eq!(world.made_of(), [(101, 1), (102, 2)]);
}

#[test]
fn a_server_that_is_to_stop_does_not_reload() {
    for mut world in [lameduck::lame(), {
        let mut world = World::serving(2, SECOND);
        world.signal(Signal::Term);
        world
    }] {
        let end = ReloadEnd::TooLate;
        assert_eq!(world.signal(Signal::Hup), [Action::Reloaded { generation: 2, end }]);
    }
}

#[test]
fn a_stop_ends_a_reload_and_everybody_is_told() {
    for signal in [Signal::Term, Signal::Int, Signal::Quit] {
        for (reach, ends) in [(reloading as fn() -> World, 1), (adopted, 1)] {
            let mut world = reach();
            world.signal(Signal::Hup);
            let living = world.pids();
            world.signal(signal);
            assert!(world.promised.ended.len() >= ends && world.is_answered(), "{:?}", world.promised.ended);
            assert!(world.promised.ended.iter().all(|(_, end)| *end == ReloadEnd::TooLate));
            assert!(
                living
                    .iter()
                    .all(|raw| world.leaves_by(*raw).is_some() || world.promised.killed.contains(raw))
            );
            world.pass(GRACEFUL + KILL_MARGIN);
            assert!(world.promised.outcome.is_some());
        }
    }
}

#[test]
fn a_lame_duck_gives_up_a_reload_and_replaces_no_worker() {
    let lame = || World::lame(2, Patience::default(), lameduck::LAMEDUCK).serve(SECOND);
    let mut world = lame();
    world.signal(Signal::Hup);
    world.signal(Signal::Term);
    assert_eq!(world.promised.ended, [(2, ReloadEnd::TooLate)]);
    assert_eq!(world.made_of(), [(101, 1), (102, 1)]);
    world.die(103, Death::Status(0));
    world.pass(SECOND);
    assert_eq!(world.pids(), [101, 102]);

    let mut world = lame();
    world.signal(Signal::Hup);
    world.report(103, Report::Ready);
    world.signal(Signal::Term);
    world.die(101, Death::Status(0));
    assert_eq!(world.made_of(), [(102, 1), (103, 2)]);
}

#[test]
fn ttin_and_ttou_during_a_reload() {
    let mut world = reloading();
    world.signal(Signal::Ttin);
    assert_eq!(world.made_of(), [(101, 1), (102, 1), (103, 2), (104, 1)], "of what counts");
    world.report(104, Report::Ready);
    world.report(103, Report::Ready);
    world.die(101, Death::Status(0));
    world.report(105, Report::Ready);
    world.die(102, Death::Status(0));
    world.report(106, Report::Ready);
    assert_eq!(world.made_of(), [(103, 2), (105, 2), (106, 2)]);

    // The leaving worker is the one being replaced.
    let mut world = World::serving(1, SECOND);
    world.signal(Signal::Ttin);
    world.report(102, Report::Ready);
    world.signal(Signal::Hup);
    world.die(101, Death::Signal(9));
    world.signal(Signal::Ttou);
    world.report(103, Report::Ready);
    assert_eq!((world.staying(), world.promised.ended.last()), (1, Some(&(2, ReloadEnd::Done))));
}

#[test]
fn a_reload_changes_the_number_of_workers_only_with_its_setting() {
    let reload = |found: u16| {
        let mut world = World::serving(2, SECOND);
        world.signal(Signal::Ttin);
        world.report(103, Report::Ready);
        world.is.found = Some(config(found));
        world.signal(Signal::Hup);
        for _ in 0..20 {
            world.pids().into_iter().for_each(|raw| world.report(raw, Report::Ready));
            let told: Vec<_> =
                world.pids().into_iter().filter(|raw| world.leaves_by(*raw).is_some()).collect();
            let told: Vec<_> = told;
            told.into_iter().for_each(|raw| world.die(raw, Death::Status(0)));
        }
        assert_eq!(world.promised.ended, [(2, ReloadEnd::Done)]);
        assert!(world.made_of().iter().all(|(_, generation)| *generation == 2));
        world.staying()
    };
    assert_eq!(reload(2), 3, "one was added by TTIN");
    assert_eq!(reload(5), 5);
    assert_eq!(reload(1), 1);
}

#[test]
fn old_workers_keep_their_timeouts_and_new_ones_have_their_own() {
    let mut world = World::of(2, heartbeat::PATIENCE).serve(SECOND);
    let patience = Patience { timeout: SECOND, nap: SECOND / 4, ..heartbeat::PATIENCE };
    world.is.found = Some(PlanConfig { patience, ..world.is.settings });
    world.signal(Signal::Hup);
    world.report(103, Report::Ready);
    let since = world.is.now;
    [102, 103].into_iter().for_each(|raw| world.silence(raw));
    let mut aborted = Vec::new();
    while aborted.len() < 2 {
        world.pass(SECOND / 4);
        let all: Vec<_> = world.promised.aborted.iter().copied().collect();
        let newly = all.into_iter().filter(|raw| !aborted.iter().any(|(other, _)| other == raw));
        aborted.extend(newly.collect::<Vec<_>>().into_iter().map(|raw| (raw, world.is.now - since)));
    }
    assert_eq!(aborted, [(103, SECOND), (102, heartbeat::PATIENCE.timeout)]);
}

#[test]
fn d10_deadlines_are_those_of_the_new_settings() {
    let mut plan = Plan::new(config(1));
    let now = Time::from_nanos(1);
    plan.handle(Event::Tick, now);
    plan.handle(Event::Spawned { seat: 0, pid: pid(101) }, now);
    plan.handle(Event::Report { pid: pid(101), report: Report::Ready }, now);
    plan.handle(Event::Signal(Signal::Hup), now);
    plan.handle(Event::Loaded { config: PlanConfig { graceful_timeout: SECOND, ..config(1) } }, now);
    plan.handle(Event::Spawned { seat: 1, pid: pid(102) }, now);
    let actions = plan.handle(Event::Report { pid: pid(102), report: Report::Ready }, now);
    let drain = Drain::new(Reason::Reload, now, now + SECOND).with_receiver();
    let order = Order::Drain { drain, policy: PolicyId::Reload };
    assert!(actions.contains(&Action::Send { pid: pid(101), order }));
}

#[test]
fn d15_a_worker_spent_during_a_reload_is_replaced_once() {
    let mut world = reloading();
    world.report(102, recycle::SPENT);
    assert_eq!(world.pids(), [101, 102, 103], "it waits for its turn");
    world.report(103, Report::Ready);
    world.die(101, Death::Status(0));
    world.report(104, Report::Ready);
    assert_eq!((world.promised.reloaded.contains(&102), world.promised.recycled.len()), (true, 0));

    // A worker with an earlier successor is replaced by that, and reloaded later.
    let mut world = recycle::recycling();
    world.signal(Signal::Hup);
    assert_eq!(world.made_of(), [(101, 1), (102, 1), (103, 1), (104, 2)]);
    world.report(104, Report::Ready);
    assert_eq!(world.promised.reloaded, BTreeSet::from([102]));
    world.report(103, Report::Ready);
    assert_eq!(world.promised.recycled, BTreeSet::from([101]));
    world.die(102, Death::Status(0));
    world.report(105, Report::Ready);
    assert_eq!(
        (world.made_of(), world.promised.ended.clone()),
        (vec![(104, 2), (105, 2)], vec![(2, ReloadEnd::Done)])
    );
}

#[test]
fn a_load_that_a_stop_overtakes_is_forgotten() {
    let mut plan = Plan::new(config(1));
    let now = Time::from_nanos(1);
    plan.handle(Event::Tick, now);
    plan.handle(Event::Spawned { seat: 0, pid: pid(101) }, now);
    plan.handle(Event::Report { pid: pid(101), report: Report::Ready }, now);
    assert_eq!(plan.handle(Event::Signal(Signal::Hup), now), [Action::Load { generation: 2 }]);
    let actions = plan.handle(Event::Signal(Signal::Term), now);
    let end = ReloadEnd::TooLate;
    assert!(actions.contains(&Action::Reloaded { generation: 2, end }));
    assert_eq!(plan.handle(Event::Loaded { config: config(1) }, now), [Action::Abandon]);
    assert_eq!(plan.handle(Event::NotLoaded { why: "broken".into() }, now), []);
}

#[test]
fn a_full_scoreboard_has_room_for_a_reload() {
    let mut world = World::serving(ROOM as u16, SECOND);
    world.report(101, recycle::SPENT);
    world.signal(Signal::Hup);
    assert_eq!(world.pids().len(), ROOM + RECYCLED + RELOADED);
}

#[test]
fn an_old_worker_killed_at_its_deadline_does_not_end_the_reload() {
    let mut world = reloading();
    world.report(103, Report::Ready);
    world.pass(GRACEFUL + KILL_MARGIN);
    assert_eq!(world.promised.killed, BTreeSet::from([101]));
    assert_eq!(world.made_of(), [(102, 1), (103, 2), (104, 2)]);
}

/// A ready worker, and a load that takes a while.
fn loading() -> (Plan, Time) {
    let (mut plan, now) = (Plan::new(config(1)), Time::from_nanos(1));
    plan.handle(Event::Tick, now);
    plan.handle(Event::Spawned { seat: 0, pid: pid(101) }, now);
    plan.handle(Event::Report { pid: pid(101), report: Report::Ready }, now);
    assert_eq!(plan.handle(Event::Signal(Signal::Hup), now), [Action::Load { generation: 2 }]);
    (plan, now)
}

#[test]
fn d16_requests_during_a_load_are_served_by_it() {
    let (mut plan, now) = loading();
    let waits = [Action::Log(Notice::ReloadWaits)];
    assert_eq!(plan.handle(Event::Signal(Signal::Hup), now), waits);
    let ticket = Ticket(7);
    let asked = Event::Asked { ticket, command: Command::Reload, wait: true };
    assert_eq!(plan.handle(asked, now), waits);
    let why = "no".to_owned();
    let actions = plan.handle(Event::NotLoaded { why: why.clone() }, now);
    let answer = Err(Refused::NotReloaded { why });
    assert_eq!(
        actions,
        [Action::Reloaded { generation: 2, end: failed("no") }, Action::Answer { ticket, answer }]
    );
    assert!(!plan.is_loading());
}

#[test]
fn d16_a_stop_does_not_wait_for_a_load() {
    let (mut plan, now) = loading();
    assert!(plan.is_loading());
    let actions = plan.handle(Event::Signal(Signal::Term), now);
    assert!(actions.contains(&Action::Reloaded { generation: 2, end: ReloadEnd::TooLate }), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Send { .. })), "{actions:?}");
    assert!(!plan.is_loading());
    assert_eq!(plan.handle(Event::Loaded { config: config(1) }, now), [Action::Abandon]);
}
