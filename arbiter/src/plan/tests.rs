use std::collections::BTreeSet;

use proptest::prelude::*;
use remuda_core::order::{PolicyId, Report};

use self::world::{RECYCLED, RELOADED, ROOM, World, pid};
use super::words::{
    Allowance, Command, Death, Done, Patience, PlanConfig, RETIREMENT, Refused, ReloadEnd, Scale, Signal,
    Ticket,
};
use super::worker_entry::{BACKOFF_MIN, LONG_ENOUGH};

use super::*;

mod boot;
mod command;
mod expiry;
mod hand_off;
mod heartbeat;
mod keeper;
mod lameduck;
mod recycle;
mod reload;
mod scale;
mod table;
mod unattended;
mod upgrade;
mod world;

const GRACEFUL: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The configuration of a server with this number of workers.
fn config(workers: u16) -> PlanConfig {
    PlanConfig {
        workers,
        room: ROOM,
        recycle_concurrency: RECYCLED,
        reload_concurrency: RELOADED,
        graceful_timeout: GRACEFUL,
        lameduck: Duration::ZERO,
        patience: Patience::default(),
        allowance: Allowance::default(),
        max_boot_failures: 0,
        own_listeners: false,
        holds: false,
    }
}

/// Longer than any stop takes: a new arbiter that does not end by itself is killed after the last
/// worker.
const LONGEST: Duration = Duration::from_secs(60);

fn stopped(reason: Reason, cut: bool) -> Option<Outcome> {
    Some(Outcome::Stopped { reason, cut })
}

fn boot_failed(status: u8) -> Report {
    Report::BootFailed { status, message: "no database".into() }
}

#[test]
fn workers_are_spawned_in_every_slot_and_readiness_is_announced() {
    let mut world = World::new(3);
    assert_eq!(world.is.living.values().copied().collect::<Vec<_>>(), [0, 1, 2]);
    let pids = world.pids();
    world.report(pids[0], Report::Ready);
    world.report(pids[2], Report::Ready);
    world.report(pids[2], Report::Ready);
    assert!(!world.promised.announced);
    world.report(pids[1], Report::Ready);
    assert!(world.promised.announced);
}

#[test]
fn a_worker_that_dies_after_a_long_life_is_replaced_at_once() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.report(101, Report::Ready); // said twice, it is no younger
    world.die(101, Death::Signal(9));
    assert_eq!(world.in_slot(0), Some(103));
    assert_eq!(world.in_slot(1), Some(102));
    let again_in = Some(Duration::ZERO);
    let notice =
        Notice::Died { slot: 0, pid: pid(101), death: Death::Signal(9), lived: LONG_ENOUGH, again_in };
    assert!(world.promised.log.contains(&notice));
}

#[test]
fn d17_short_lives_double_the_wait_and_a_long_one_resets_it() {
    let mut world = World::serving(2, LONG_ENOUGH - MS);
    let mut waits = Vec::new();
    for _ in 0..11 {
        world.die(world.in_slot(0).unwrap(), Death::Signal(11));
        waits.push(world.gap().as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    assert_eq!(world.in_slot(1), Some(102), "the neighbour never noticed");

    world.report(world.in_slot(0).unwrap(), Report::Ready);
    world.pass(LONG_ENOUGH);
    world.die(world.in_slot(0).unwrap(), Death::Status(0));
    assert_eq!(world.gap(), Duration::ZERO);
    world.die(world.in_slot(0).unwrap(), Death::Status(0));
    assert_eq!(world.gap(), BACKOFF_MIN);
}

#[test]
fn a_boot_however_long_is_no_life() {
    let mut world = World::new(1);
    world.pass(60 * SECOND);
    world.die(101, Death::Signal(9));
    assert_eq!(world.gap(), BACKOFF_MIN);
}

#[test]
fn d17_one_slot_waiting_keeps_no_other_from_being_filled() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.die(101, Death::Signal(9));
    world.die(103, Death::Signal(9));
    assert_eq!(world.in_slot(0), None);
    world.die(102, Death::Signal(9));
    assert_eq!(world.in_slot(1), Some(104));
}

#[test]
fn a_failed_fork_is_tried_again_with_back_off() {
    let mut world = World::serving(1, LONG_ENOUGH);
    world.is.exhausted = true;
    world.die(101, Death::Signal(9));
    world.pass(BACKOFF_MIN);
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + 2 * BACKOFF_MIN));
    world.is.exhausted = false;
    assert_eq!(world.gap(), 2 * BACKOFF_MIN);
}

#[test]
fn a_boot_that_fails_on_the_first_start_ends_the_server_with_its_status() {
    for status in [3, 4] {
        let mut world = World::new(3);
        world.report(101, Report::Ready);
        world.report(102, boot_failed(status));
        assert_eq!(world.leaves_by(101), Some(world.is.now + HURRY), "the others are told");
        world.die(102, Death::Status(status.into()));
        world.die(101, Death::Status(0));
        assert_eq!(world.promised.outcome, None);
        world.die(103, Death::Status(0));
        assert_eq!(
            world.promised.outcome,
            Some(Outcome::BootFailed { status, message: "no database".into() })
        );
    }
}

#[test]
fn a_boot_that_fails_without_a_report_ends_the_server() {
    for status in [3, 4] {
        let mut world = World::new(1);
        world.die(101, Death::Status(status));
        let outcome = world.promised.outcome.clone().unwrap();
        assert_eq!(i32::from(outcome.status()), status);
        let sentence = outcome.to_string();
        assert!(sentence.ends_with(&format!("worker 101 ended with status {status} before it was ready")));
    }
}

#[test]
fn a_boot_that_fails_once_the_server_was_ready_is_tried_again() {
    let mut world = World::serving(2, LONG_ENOUGH);
    world.die(101, Death::Signal(9));
    world.report(103, boot_failed(4));
    world.die(103, Death::Status(4));
    assert_eq!(world.gap(), BACKOFF_MIN);
    assert!(world.promised.listening);
}

#[test]
fn a_booting_worker_that_is_killed_is_replaced_even_on_the_first_start() {
    for death in [Death::Signal(9), Death::Status(1), Death::Status(0)] {
        let mut world = World::new(2);
        world.die(101, death);
        assert_eq!(world.gap(), BACKOFF_MIN);
        assert!(world.promised.listening);
    }
}

#[test]
fn a_ready_worker_that_fails_on_the_first_start_is_no_failed_boot() {
    let mut world = World::new(2);
    world.report(101, Report::Ready);
    world.die(101, Death::Status(3));
    assert_eq!(world.gap(), BACKOFF_MIN);
}

#[test]
fn d4_term_tells_workers_saves_the_backlog_and_tells_its_end() {
    let mut world = World::serving(2, SECOND);
    let drain = Drain::new(Reason::Stop, world.is.now, world.is.now + GRACEFUL);
    let order = Order::Drain { drain, policy: PolicyId::Stop };
    let actions = world.signal(Signal::Term);
    assert_eq!(
        actions,
        [
            Action::Log(Notice::Stopping { reason: Reason::Stop, left: GRACEFUL }),
            Action::Send { pid: pid(101), order: order.clone() },
            Action::Send { pid: pid(102), order },
            Action::SaveBacklog,
            Action::Send { pid: pid(101), order: Order::BacklogEnd },
            Action::Send { pid: pid(102), order: Order::BacklogEnd },
        ]
    );
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn d10_a_worker_beyond_its_deadline_is_killed_once_and_is_cut() {
    let mut world = World::serving(2, SECOND);
    world.signal(Signal::Term);
    world.die(101, Death::Status(0));
    world.pass(GRACEFUL + KILL_MARGIN - MS);
    assert!(world.promised.killed.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.killed, BTreeSet::from([102]));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, true));
    assert_eq!(world.promised.outcome.clone().unwrap().status(), 6);
}

#[test]
fn a_cut_worker_shows_in_the_status_of_a_term_stop_only() {
    for (signals, status) in [
        (&[Signal::Term][..], 6),
        (&[Signal::Term, Signal::Term], 6),
        (&[Signal::Term, Signal::Int], 0),
        (&[Signal::Int], 0),
        (&[Signal::Int, Signal::Term], 0),
    ] {
        let mut world = World::serving(1, SECOND);
        signals.iter().for_each(|signal| drop(world.signal(*signal)));
        world.die(101, Death::Status(6));
        assert_eq!(world.promised.outcome.clone().unwrap().status(), status, "{signals:?}");
    }
}

#[test]
fn d4_an_unreceived_backlog_is_dropped_at_the_deadline_and_counted() {
    let mut world = World::serving(2, SECOND);
    world.is.stuck = true;
    let actions = world.signal(Signal::Term);
    assert_eq!(actions.last(), Some(&Action::SaveBacklog), "no worker is told of an end that has not come");
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + GRACEFUL));
    world.pass(GRACEFUL);
    assert!(world.promised.log.contains(&Notice::BacklogLost { lost: 3 }));
    assert_eq!(world.promised.told_end, BTreeSet::from([101, 102]));
    world.die(101, Death::Status(0));
    world.die(102, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn d4_a_backlog_without_workers_is_dropped_before_the_end() {
    let mut world = World::serving(1, Duration::ZERO);
    world.is.stuck = true;
    world.die(101, Death::Signal(9));
    let actions = world.signal(Signal::Term);
    let lost = Action::Log(Notice::BacklogLost { lost: 3 });
    let finish = Action::Finish(stopped(Reason::Stop, false).unwrap());
    assert_eq!(actions[1..], [Action::SaveBacklog, Action::DropBacklog, lost, finish]);
}

#[test]
fn d4_connections_left_in_the_queue_are_counted_at_the_end() {
    let mut world = World::serving(1, SECOND);
    world.signal(Signal::Term);
    assert_eq!(world.promised.told_end, BTreeSet::from([101]));
    world.is.stuck = true;
    world.die(101, Death::Signal(9));
    assert!(world.promised.log.contains(&Notice::BacklogLost { lost: 3 }));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn d11_quit_saves_no_backlog() {
    let mut world = World::serving(1, SECOND);
    world.is.stuck = true;
    let actions = world.signal(Signal::Quit);
    assert!(actions.contains(&Action::DropBacklog) && actions.contains(&Action::Kill { pid: pid(101) }));
}

#[test]
fn d11_int_and_a_second_term_limit_the_wait_for_handshakes() {
    let hurries = |actions: &[Action]| actions.contains(&Action::HurryBacklog);
    for second in [Signal::Int, Signal::Term] {
        for stuck in [true, false] {
            let mut world = World::serving(1, SECOND);
            world.is.stuck = stuck;
            assert!(!hurries(&world.signal(Signal::Term)));
            assert_eq!(hurries(&world.signal(second)), stuck, "{second:?}: unless it has ended");
            // However little is left of the time given by the first signal.
            assert_eq!(hurries(&world.signal(second)), stuck);
        }
    }
    let mut world = World::serving(1, SECOND);
    world.is.stuck = true;
    let actions = world.signal(Signal::Int);
    assert_eq!(actions[actions.len() - 2..], [Action::SaveBacklog, Action::HurryBacklog]);
}

#[test]
fn d11_int_is_a_stop_of_two_seconds() {
    let mut world = World::serving(1, SECOND);
    world.signal(Signal::Int);
    assert_eq!(world.leaves_by(101), Some(world.is.now + HURRY));
    world.pass(HURRY + KILL_MARGIN);
    assert_eq!(world.promised.outcome, stopped(Reason::QuickStop, true));
}

#[test]
fn d11_a_second_signal_hurries_a_stop_and_a_third_changes_nothing() {
    for second in [Signal::Int, Signal::Term] {
        let mut world = World::serving(1, SECOND);
        world.signal(Signal::Term);
        world.pass(SECOND);
        world.signal(second);
        let deadline = world.is.now + HURRY;
        assert_eq!(world.leaves_by(101), Some(deadline));
        world.pass(SECOND);
        assert_eq!(world.signal(Signal::Int), []);
        assert_eq!(world.signal(Signal::Term), []);
        assert_eq!(world.supervisor.plan.deadline(), Some(deadline + KILL_MARGIN));
    }
}

#[test]
fn d11_hurry_never_prolongs_a_stop() {
    let mut world = World::serving(1, SECOND);
    world.signal(Signal::Term);
    world.pass(GRACEFUL - SECOND);
    assert_eq!(world.signal(Signal::Int), []);
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + SECOND + KILL_MARGIN));
}

#[test]
fn d11_quit_kills_at_once_in_every_phase() {
    for before in [None, Some(Signal::Term), Some(Signal::Int)] {
        let mut world = World::serving(2, SECOND);
        before.into_iter().for_each(|signal| drop(world.signal(signal)));
        world.signal(Signal::Quit);
        assert_eq!(world.promised.killed.len(), 2);
        world.end_the_killed();
        assert_eq!(world.promised.outcome.as_ref().map(Outcome::status), Some(0));
    }
}

#[test]
fn a_booting_worker_is_told_of_a_stop() {
    let mut world = World::new(1);
    world.signal(Signal::Term);
    assert_eq!(world.leaves_by(101), Some(world.is.now + GRACEFUL));
    world.report(101, Report::Ready);
    assert!(!world.promised.announced, "a server that stops is not ready");
    world.die(101, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn a_boot_that_fails_in_a_stop_does_not_change_its_outcome() {
    let mut world = World::new(1);
    world.signal(Signal::Term);
    world.report(101, boot_failed(4));
    assert!(
        !world.promised.log.iter().any(|notice| matches!(notice, Notice::BootFailed { .. })),
        "no client waits for it"
    );
    world.die(101, Death::Status(4));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn a_stop_does_not_wait_for_slots_that_are_empty() {
    let mut world = World::serving(1, Duration::ZERO);
    world.die(101, Death::Signal(9));
    world.signal(Signal::Term);
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false));
}

#[test]
fn a_spawn_that_a_stop_overtakes_is_told_or_forgotten() {
    let now = Time::from_nanos(1);
    let overtaken = || {
        let mut plan = Plan::new(config(1));
        assert_eq!(plan.handle(Event::Tick, now), [Action::Spawn { slot: 0, seat: 0, generation: 1 }]);
        plan.handle(Event::Signal(Signal::Term), now);
        plan
    };
    let told = |mut plan: Plan| {
        let actions = plan.handle(Event::Spawned { seat: 0, pid: pid(7) }, now);
        actions.iter().filter(|action| matches!(action, Action::Send { .. })).count()
    };
    assert_eq!(told(overtaken()), 1);
    let mut passed = overtaken();
    assert_eq!(passed.handle(Event::BacklogOver { lost: 0 }, now), []);
    assert_eq!(told(passed), 2);
    let mut plan = overtaken();
    let actions = plan.handle(Event::SpawnFailed { seat: 0, error: "no".into() }, now);
    assert!(matches!(actions[..], [Action::Log(_), Action::DropBacklog]));
    assert!(matches!(plan.handle(Event::BacklogOver { lost: 0 }, now)[..], [Action::Finish(_)]));
}

#[test]
fn an_unrequested_child_is_killed() {
    let mut plan = Plan::new(config(1));
    let actions = plan.handle(Event::Spawned { seat: 9, pid: pid(7) }, Time::ZERO);
    assert_eq!(actions[0], Action::Kill { pid: pid(7) });
}

#[test]
fn unknown_children_are_reaped_and_nothing_else_happens() {
    let mut world = World::serving(1, SECOND);
    let actions = world.feed(Event::Exited { pid: pid(99), death: Death::Status(0) });
    assert_eq!(actions, [Action::Log(Notice::UnknownChild { pid: pid(99), death: Death::Status(0) })]);
}

/// A way to a state.
type Reach = fn() -> World;

const PHASES: [(&str, Reach); 24] = [
    ("starting", || World::new(2)),
    ("half ready", || {
        let mut world = World::new(2);
        world.report(101, Report::Ready);
        world
    }),
    ("serving", || World::serving(2, SECOND)),
    ("backing off", || {
        let mut world = World::serving(2, Duration::ZERO);
        world.die(101, Death::Signal(9));
        world
    }),
    ("growing", || {
        let mut world = World::serving(2, SECOND);
        world.signal(Signal::Ttin);
        world
    }),
    ("shrinking", || {
        let mut world = World::serving(3, SECOND);
        world.signal(Signal::Ttou);
        world
    }),
    ("recycling", recycle::recycling),
    ("failing to recycle", || {
        let mut world = recycle::recycling();
        world.die(103, Death::Status(4));
        world
    }),
    ("recycled", || {
        let mut world = recycle::recycling();
        world.report(103, Report::Ready);
        world
    }),
    ("waiting for a reload", || {
        let mut world = World::new(2);
        world.signal(Signal::Hup);
        world
    }),
    ("reloading", reload::reloading),
    ("reloading twice", || {
        let mut world = reload::reloading();
        world.signal(Signal::Hup);
        world
    }),
    ("adopted", reload::adopted),
    ("failing after it was adopted", || {
        let mut world = reload::adopted();
        world.die(104, Death::Status(4));
        world
    }),
    ("lame duck", lameduck::lame),
    ("upgrading", upgrade::upgrading),
    ("held", upgrade::held),
    ("handed over", || {
        let mut world = upgrade::upgrading();
        world.new_arbiter_ready();
        world
    }),
    ("stopping with a new arbiter", || {
        let mut world = upgrade::upgrading();
        world.signal(Signal::Term);
        world
    }),
    ("resting", || {
        let mut world = World::serving(2, SECOND);
        world.signal(Signal::Winch);
        world
    }),
    ("taking over", upgrade::with_old_arbiter),
    ("stopping", || {
        let mut world = World::serving(2, SECOND);
        world.signal(Signal::Term);
        world
    }),
    ("giving up", || {
        let mut world = World::new(2);
        world.report(101, boot_failed(4));
        world
    }),
    ("finished", || {
        let mut world = World::serving(2, SECOND);
        world.signal(Signal::Quit);
        world.end_the_killed();
        world
    }),
];

const SIGNALS: [Signal; 9] = [
    Signal::Term,
    Signal::Int,
    Signal::Quit,
    Signal::Hup,
    Signal::Usr1,
    Signal::Usr2,
    Signal::Ttin,
    Signal::Ttou,
    Signal::Winch,
];

const HUP: usize = 3;

#[test]
fn every_event_in_every_phase_keeps_the_promises() {
    let deaths = [Death::Status(0), Death::Status(3), Death::Status(4), Death::Status(6), Death::Signal(9)];
    let reports = [Report::Ready, boot_failed(3), boot_failed(4), recycle::SPENT];
    let signals = SIGNALS.map(Event::Signal);
    let known = [102, 103, 99].into_iter().flat_map(|raw| {
        let said = reports.clone().map(|report| Event::Report { pid: pid(raw), report });
        said.into_iter().chain(deaths.map(|death| Event::Exited { pid: pid(raw), death }))
    });
    let spawns =
        [Event::Spawned { seat: 0, pid: pid(99) }, Event::SpawnFailed { seat: 0, error: "no".into() }];
    let loads = [Event::Loaded { config: config(3) }, Event::NotLoaded { why: "no".into() }];
    let upgrades = [
        Event::Launched { pid: pid(99) },
        Event::NotLaunched { error: "no".into() },
        Event::NewArbiterReady { receives: true },
        Event::OldArbiterGone,
        Event::Exited { pid: pid(103), death: Death::Status(1) },
        Event::Tick,
    ];
    let events: Vec<_> =
        signals.into_iter().chain(known).chain(spawns).chain(loads).chain(upgrades).collect();
    for (phase, reach) in PHASES {
        for event in &events {
            let mut world = reach();
            // Otherwise the world objects to any further action.
            let finished = world.promised.outcome.take();
            match event {
                Event::Signal(signal) => drop(world.signal(*signal)),
                Event::Exited { pid, death } if world.is.living.contains_key(&pid.as_raw_nonzero().get()) => {
                    world.die(pid.as_raw_nonzero().get(), *death);
                }
                Event::Exited { pid: dead, death }
                    if world.is.new_arbiter.as_ref().is_some_and(|new| pid(new.pid) == *dead) =>
                {
                    world.new_arbiter_dies(*death);
                }
                Event::NewArbiterReady { .. } => world.new_arbiter_ready(),
                Event::Report { pid, report } => world.report(pid.as_raw_nonzero().get(), report.clone()),
                other => drop(world.feed(other.clone())),
            }
            if finished.is_some() {
                assert_eq!(world.promised.outcome, None, "{event:?} in {phase}: finished twice");
                continue;
            }
            world.signal(Signal::Term);
            world.pass(LONGEST);
            assert!(world.promised.outcome.is_some(), "{event:?} in {phase}: never finishes");
        }
    }
}

#[test]
fn usr1_reopens_the_logs_here_and_then_in_every_worker() {
    for (phase, reach) in PHASES {
        let mut world = reach();
        world.promised.outcome = None;
        let (deadline, pids) = (world.supervisor.plan.deadline(), world.pids());
        let orders = pids.iter().map(|raw| Action::Send { pid: pid(*raw), order: Order::ReopenLogs });
        let expected: Vec<_> = [Action::ReopenLogs].into_iter().chain(orders).collect();
        assert_eq!(world.signal(Signal::Usr1), expected, "{phase}");
        assert_eq!(world.supervisor.plan.deadline(), deadline);
    }
}

#[test]
fn usr1_to_a_worker_has_its_logs_alone_reopened() {
    let mut world = World::serving(3, LONG_ENOUGH);
    let worker = pid(world.pids()[1]);
    let actions =
        world.supervisor.plan.handle(Event::Report { pid: worker, report: Report::ReopenLogs }, world.is.now);
    assert_eq!(actions, [Action::ReopenLogs, Action::Send { pid: worker, order: Order::ReopenLogs }]);
}

#[test]
fn usr1_replaces_the_helper_which_takes_no_orders() {
    let mut world = World::serving(1, LONG_ENOUGH);
    world.supervisor.plan = world.supervisor.plan.with_helper();
    world.feed(Event::Tick);
    let helper = world.supervisor.plan.helper().unwrap();
    let actions = world.signal(Signal::Usr1);
    assert_eq!(actions[..2], [Action::ReopenLogs, Action::Retire { pid: helper }]);
    assert!(actions.contains(&Action::SpawnHelper), "{actions:?}");
}

/// One step of a random run; indices choose among living workers.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    Signal(usize),
    Ready(usize),
    Spent(usize),
    BootFailed(usize, u8),
    Die(usize, Death),
    UnknownChild(i32),
    LateReport(i32),
    Forks(bool),
    Silence(usize),
    Freeze(u64),
    /// The result of the next load: this number of workers, or a failure if 0.
    Settings(u16),
    NewArbiterReady,
    NewArbiterDies(Death),
    OldArbiterGone,
    Ask(Command),
}

fn happening() -> impl Strategy<Value = Happening> {
    let death = prop_oneof![(0..8).prop_map(Death::Status), (1..16).prop_map(Death::Signal)];
    prop_oneof![
        6 => (0..40_000u64).prop_map(Happening::Pass),
        1 => (0..SIGNALS.len()).prop_map(Happening::Signal),
        6 => any::<usize>().prop_map(Happening::Ready),
        4 => any::<usize>().prop_map(Happening::Spent),
        1 => (any::<usize>(), 0..6u8).prop_map(|(which, status)| Happening::BootFailed(which, status)),
        3 => Just(Happening::NewArbiterReady),
        2 => death.clone().prop_map(Happening::NewArbiterDies),
        1 => Just(Happening::OldArbiterGone),
        5 => (any::<usize>(), death).prop_map(|(which, death)| Happening::Die(which, death)),
        1 => (1..100).prop_map(Happening::UnknownChild),
        1 => (1..200).prop_map(Happening::LateReport),
        1 => any::<bool>().prop_map(Happening::Forks),
        2 => any::<usize>().prop_map(Happening::Silence),
        1 => (0..40_000u64).prop_map(Happening::Freeze),
        1 => (0..6u16).prop_map(Happening::Settings),
        3 => Just(Happening::Signal(HUP)),
        3 => command().prop_map(Happening::Ask),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (-3..4i16).prop_map(|more| Command::Scale(Scale::By(more))),
        4 => (1..12u16).prop_map(|workers| Command::Scale(Scale::To(workers))),
        4 => Just(Command::Recycle(None)),
        4 => (101..120i32).prop_map(|raw| Command::Recycle(Some(pid(raw)))),
        3 => Just(Command::Reload),
        1 => any::<bool>().prop_map(|quick| Command::Stop { quick }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold_and_a_stop_finishes(
        workers in 1..6u16,
        lameduck in 0..2u32,
        (holds, has_old) in any::<(bool, bool)>(),
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let mut world = World::lame(workers, heartbeat::PATIENCE, lameduck * lameduck::LAMEDUCK);
        world.supervisor.plan.config.holds = holds;
        if has_old {
            world.supervisor.plan.other = Other::Old;
        }
        let mut asked = 0;
        for happening in happenings {
            if world.promised.outcome.is_some() {
                break;
            }
            let pids = world.pids();
            let choose = |which: usize| pids.get(which % pids.len().max(1)).copied();
            match happening {
                Happening::Pass(millis) => world.pass(Duration::from_millis(millis)),
                Happening::Signal(which) => drop(world.signal(SIGNALS[which])),
                Happening::Ready(which) => choose(which).into_iter().for_each(|pid| world.report(pid, Report::Ready)),
                Happening::Spent(which) => choose(which).into_iter().for_each(|pid| world.report(pid, recycle::SPENT)),
                Happening::BootFailed(which, status) => {
                    choose(which).into_iter().for_each(|pid| world.report(pid, boot_failed(status)));
                }
                Happening::Die(which, death) => choose(which).into_iter().for_each(|pid| world.die(pid, death)),
                Happening::UnknownChild(raw) => {
                    world.feed(Event::Exited { pid: pid(raw), death: Death::Status(0) });
                }
                Happening::LateReport(raw) if !world.is.living.contains_key(&raw) => world.report(raw, boot_failed(3)),
                Happening::LateReport(_) => {}
                Happening::Forks(work) => world.is.exhausted = !work,
                Happening::Silence(which) => choose(which).into_iter().for_each(|pid| world.silence(pid)),
                Happening::Settings(workers) => {
                    world.is.found = (workers > 0).then_some(PlanConfig { workers, ..world.is.settings });
                }
                Happening::Freeze(millis) => world.freeze(Duration::from_millis(millis)),
                Happening::NewArbiterReady => world.new_arbiter_ready(),
                Happening::NewArbiterDies(death) if world.is.new_arbiter.is_some() => world.new_arbiter_dies(death),
                Happening::NewArbiterDies(_) => {}
                Happening::OldArbiterGone => drop(world.feed(Event::OldArbiterGone)),
                Happening::Ask(command) => {
                    asked += 1;
                    world.ask(asked, command);
                }
            }
            if !world.promised.stopping && !world.is.exhausted {
                let due = world.supervisor.plan.deadline().is_some();
                prop_assert!(world.staying() >= world.promised.target || due, "an empty slot waits for something");
            }
            prop_assert!(world.promised.target >= 1 || world.supervisor.plan.is_resting());
        }
        if world.promised.outcome.is_none() {
            world.signal(Signal::Term);
            world.pass(LONGEST);
        }
        prop_assert!(world.promised.outcome.is_some());
        prop_assert_eq!(world.supervisor.plan.deadline(), None);
        prop_assert!(world.is_answered(), "a reload that was asked for ends");
        prop_assert_eq!(world.promised.answers.len() as u64, asked, "every command is answered");
    }
}
