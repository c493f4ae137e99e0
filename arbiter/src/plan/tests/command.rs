//! Commands of operators, and the helper.

use super::recycle::SPENT;
use super::world::{RECYCLED, ROOM};
use super::*;

fn asked(world: &World, number: u64) -> Option<&Result<Done, Refused>> {
    world.promised.answers.get(&Ticket(number))
}

const RECYCLE: Command = Command::Recycle(None);
const STOP: Command = Command::Stop { quick: false };

#[test]
fn scaling_is_answered_at_once_and_keeps_its_limits() {
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
    // The three leaving workers keep their seats until they are gone.
    assert_eq!(ask(6, Scale::To(ROOM as u16 - 2)), (Err(Refused::TooMany { room: ROOM }), 1));
    assert_eq!(ask(7, Scale::To(ROOM as u16 - 3)), (Ok(Done::Scaled { workers: ROOM - 3 }), ROOM - 3));
    assert_eq!(ask(8, Scale::By(0)), (Ok(Done::Scaled { workers: ROOM - 3 }), ROOM - 3));
}

#[test]
fn recycling_is_answered_when_the_old_workers_are_gone() {
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
    assert_eq!(
        (world.pids(), world.supervisor.plan.deadline()),
        (vec![103, 104], None),
        "nothing is left to do"
    );
}

#[test]
fn only_the_worker_with_the_pid_is_recycled() {
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
fn a_command_without_wait_is_answered_at_once() {
    let mut world = World::serving(1, SECOND);
    world.report(101, SPENT); // asked for or not, it is one recycling
    let event = Event::Asked { ticket: Ticket(1), command: RECYCLE, wait: false };
    world.feed(event);
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Recycled { workers: 1 })));
    assert_eq!(world.pids().len(), 1 + RECYCLED);
}

#[test]
fn a_waiting_recycle_is_answered_when_the_server_stops() {
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
fn a_stop_command_acts_as_the_signal_and_is_answered_at_the_end() {
    for (quick, reason) in [(false, Reason::Stop), (true, Reason::QuickStop)] {
        let mut world = World::serving(1, SECOND);
        world.ask(1, Command::Stop { quick });
        assert_eq!((asked(&world, 1), world.promised.listening), (None, false));
        world.die(101, Death::Status(0));
        assert_eq!(asked(&world, 1), Some(&Ok(Done::Stopped { status: 0, cut: false })));
        assert_eq!(world.promised.outcome, stopped(reason, false));
    }
}

#[test]
fn a_stop_that_cut_work_reports_it_with_the_servers_status() {
    for (quick, status) in [(false, 6), (true, 0)] {
        let mut world = World::serving(2, SECOND);
        world.ask(1, Command::Stop { quick });
        world.die(101, Death::Status(6));
        world.die(102, Death::Status(0));
        assert_eq!(asked(&world, 1), Some(&Ok(Done::Stopped { status, cut: true })));
    }
}

#[test]
fn stages_are_those_of_the_server() {
    let mut world = World::lame(1, Patience::default(), SECOND);
    let mut seen = vec![world.supervisor.plan.stage()];
    world.report(101, Report::Ready);
    seen.push(world.supervisor.plan.stage());
    world.ask(1, STOP);
    seen.push(world.supervisor.plan.stage());
    world.pass(SECOND);
    seen.push(world.supervisor.plan.stage());
    use remuda_core::worker::ServerStage::{Lameduck, Resting, Serving, Starting, Stopping};
    assert_eq!(seen, [Starting, Serving, Lameduck, Stopping]);

    let mut world = World::serving(1, SECOND);
    let mut seen = Vec::new();
    for event in [Signal::Winch, Signal::Hup, Signal::Winch, Signal::Term] {
        world.signal(event);
        seen.push(world.supervisor.plan.stage());
    }
    assert_eq!(seen, [Resting, Serving, Resting, Stopping]);
}

/// A server with a helper.
fn helped() -> World {
    let mut world = World::new(1);
    world.supervisor.plan = Plan::new(config(1)).with_helper();
    let actions = world.supervisor.plan.handle(Event::Tick, world.is.now);
    assert_eq!(actions[0], Action::SpawnHelper, "before any worker");
    world.supervisor.plan.handle(Event::HelperSpawned(Ok(pid(90))), world.is.now);
    world
}

#[test]
fn a_helper_that_dies_is_replaced_with_back_off() {
    let mut world = helped();
    world.is.now = world.is.now + LONG_ENOUGH;
    let die = |raw: i32, world: &mut World| {
        world.supervisor.plan.handle(Event::Exited { pid: pid(raw), death: Death::Signal(9) }, world.is.now)
    };
    let actions = die(90, &mut world);
    assert!(actions.contains(&Action::SpawnHelper), "{actions:?}");
    assert_eq!(world.supervisor.plan.helper(), None);
    world.supervisor.plan.handle(Event::HelperSpawned(Ok(pid(91))), world.is.now);
    assert_eq!(world.supervisor.plan.helper(), Some(pid(91)));
    assert!(!die(91, &mut world).contains(&Action::SpawnHelper));
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + BACKOFF_MIN));
    world.is.now = world.is.now + BACKOFF_MIN;
    assert_eq!(world.supervisor.plan.handle(Event::Tick, world.is.now), [Action::SpawnHelper]);
    world.supervisor.plan.handle(Event::HelperSpawned(Err("no memory".into())), world.is.now);
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + 2 * BACKOFF_MIN));
}

#[test]
fn a_helper_without_all_listeners_is_replaced() {
    let mut world = helped();
    let actions = world.supervisor.plan.handle(Event::Listening, world.is.now);
    assert_eq!(actions, [Action::Retire { pid: pid(90) }, Action::SpawnHelper]);
    world.supervisor.plan.handle(Event::HelperSpawned(Ok(pid(91))), world.is.now);
    assert_eq!((world.supervisor.plan.helper(), world.supervisor.plan.helpers().count()), (Some(pid(91)), 2));
    assert_eq!(
        world.supervisor.plan.handle(Event::Exited { pid: pid(90), death: Death::Status(0) }, world.is.now),
        []
    );
    assert_eq!(world.supervisor.plan.helpers().collect::<Vec<_>>(), [pid(91)]);
}

#[test]
fn a_helper_is_no_worker_and_holds_no_stop_up() {
    let mut world = helped();
    assert_eq!((world.supervisor.plan.workers(), world.supervisor.plan.lives().count()), (1, 0));
    world.supervisor.plan.handle(Event::SpawnFailed { seat: 0, error: "no memory".into() }, world.is.now);
    world.supervisor.plan.handle(Event::Signal(Signal::Term), world.is.now);
    let actions = world.supervisor.plan.handle(Event::BacklogOver { lost: 0 }, world.is.now);
    assert!(actions.iter().any(|action| matches!(action, Action::Finish(_))), "{actions:?}");
}

#[test]
fn a_reload_is_answered_with_its_result() {
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

    world.is.found = None;
    world.ask(3, Command::Reload);
    assert_eq!(asked(&world, 3), Some(&Err(Refused::NotReloaded { why: "broken".into() })));
    let event = Event::Asked { ticket: Ticket(4), command: Command::Reload, wait: false };
    world.feed(event);
    assert_eq!(asked(&world, 4), Some(&Ok(Done::Begun)));
}

#[test]
fn a_waiting_reload_is_answered_when_the_server_stops() {
    let mut world = World::new(1);
    world.ask(1, Command::Reload);
    assert_eq!(asked(&world, 1), None, "the server is not ready yet");
    world.signal(Signal::Term);
    assert_eq!(asked(&world, 1), Some(&Err(Refused::Stopping)));
    world.ask(2, Command::Reload);
    assert_eq!(asked(&world, 2), Some(&Err(Refused::Stopping)));
}

#[test]
fn a_drain_is_answered_when_workers_are_gone_and_hup_undoes_it() {
    let mut world = World::serving(2, SECOND);
    world.ask(1, Command::Drain);
    assert!(world.promised.leaving == BTreeSet::from([101, 102]) && world.promised.listening);
    world.die(101, Death::Status(0));
    assert_eq!(asked(&world, 1), None);
    world.ask(2, Command::Drain);
    assert_eq!(asked(&world, 2), Some(&Err(Refused::Resting)));
    world.die(102, Death::Status(0));
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Drained { workers: 2 })));
    assert_eq!(
        (world.pids(), world.supervisor.plan.deadline()),
        (vec![], None),
        "no worker starts by itself"
    );
    world.signal(Signal::Hup);
    assert_eq!(world.pids(), [103, 104]);
}

#[test]
fn a_resume_is_answered_when_all_workers_are_ready() {
    let mut world = World::serving(2, SECOND);
    world.ask(1, Command::Drain);
    world.die(101, Death::Status(0));
    world.ask(2, Command::Resume);
    assert_eq!(world.pids(), [102, 103, 104], "they do not wait for those that still drain");
    world.report(103, Report::Ready);
    assert_eq!(asked(&world, 2), None, "one is still to come");
    world.ask(3, Command::Resume);
    world.feed(Event::Asked { ticket: Ticket(4), command: Command::Resume, wait: false });
    assert_eq!(asked(&world, 4), Some(&Err(Refused::Awake)), "they were called already");
    world.report(104, Report::Ready);
    assert_eq!(asked(&world, 2), Some(&Ok(Done::Resumed { workers: 2 })));
    world.die(102, Death::Status(0));
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Drained { workers: 2 })), "the drain is over all the same");
}

#[test]
fn a_resume_waits_for_workers_that_have_no_room_yet() {
    let mut world = World::serving(ROOM as u16, LONG_ENOUGH);
    world.ask(1, Command::Drain);
    world.ask(2, Command::Resume);
    world.ask(3, Command::Resume);
    assert_eq!((asked(&world, 2), asked(&world, 3)), (None, None), "those that drain have the places");
    world.pass(GRACEFUL + KILL_MARGIN);
    let new: Vec<_> = world.pids().into_iter().filter(|pid| *pid > 100 + ROOM as i32).collect();
    assert_eq!(new.len(), ROOM);
    new.into_iter().for_each(|pid| world.report(pid, Report::Ready));
    for number in [2, 3] {
        assert_eq!(asked(&world, number), Some(&Ok(Done::Resumed { workers: ROOM })));
    }
}

#[test]
fn a_resume_is_refused_without_drain_and_ended_by_drain_or_stop() {
    let mut world = World::new(1);
    world.ask(1, Command::Resume);
    world.report(101, Report::Ready);
    world.ask(2, Command::Resume);
    for number in [1, 2] {
        assert_eq!(asked(&world, number), Some(&Err(Refused::Awake)));
    }
    world.signal(Signal::Winch);
    world.ask(3, Command::Resume);
    world.signal(Signal::Winch);
    assert_eq!(asked(&world, 3), Some(&Err(Refused::RestingAgain)));
    world.ask(4, Command::Resume);
    world.signal(Signal::Term);
    assert_eq!(asked(&world, 4), Some(&Err(Refused::Stopping)));
    world.ask(5, Command::Resume);
    assert_eq!(asked(&world, 5), Some(&Err(Refused::Stopping)));
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
fn a_waiting_drain_or_upgrade_is_answered_when_the_server_stops() {
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
    assert_eq!((asked(&world, 1), world.promised.stopping), (None, false));
    world.ask(2, Command::Upgrade);
    assert_eq!(asked(&world, 2), Some(&Err(Refused::NoUpgrade { why: "an upgrade is under way" })));
    world.new_arbiter_ready();
    assert_eq!(asked(&world, 1), Some(&Ok(Done::Upgraded { pid: pid(102) })));
    assert!(world.promised.stopping, "this one ends");

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
        assert!(!world.promised.stopping);
        refused.to_string()
    };
    let died = refused(World::serving(1, LONG_ENOUGH), |world| world.new_arbiter_dies(Death::Status(4)));
    assert!(
        died.ends_with("nothing has changed: the new arbiter 102 ended with status 4 before it was ready")
    );
    let mut world = World::serving(1, LONG_ENOUGH);
    world.is.exhausted = true;
    assert!(refused(world, |_| ()).ends_with("nothing has changed: no memory"));
    let boot_timeout = 10 * SECOND;
    let world =
        World::of(1, Patience { boot_timeout, nap: SECOND, ..Patience::default() }).serve(LONG_ENOUGH);
    let late = refused(world, |world| {
        world.pass(10 * SECOND);
        world.new_arbiter_dies(Death::Status(0));
    });
    assert!(late.ends_with("the new arbiter 102 was not ready in time, and ended with status 0"), "{late}");
}

#[test]
fn usr1_in_a_stop_gives_the_helper_no_time_beyond_it() {
    let mut world = helped();
    world.supervisor.plan.handle(Event::Signal(Signal::Int), world.is.now);
    let actions = world.supervisor.plan.handle(Event::Signal(Signal::Usr1), world.is.now);
    assert!(actions.contains(&Action::Retire { pid: pid(90) }), "{actions:?}");
    let actions = world.supervisor.plan.handle(Event::Tick, world.is.now + HURRY);
    assert!(actions.contains(&Action::Kill { pid: pid(90) }), "{actions:?}");
}
