//! `max-boot-failures`: a server without any ready worker gives up.

use super::*;

fn of(workers: u16, max_boot_failures: u32) -> World {
    World::with(PlanConfig { max_boot_failures, ..config(workers) })
}

/// The outcome of the server, once the workers told to end have ended.
fn outcome(mut world: World) -> (u8, String) {
    world.pids().into_iter().for_each(|raw| world.die(raw, Death::Status(0)));
    let outcome = world.promised.outcome.clone().expect("it has ended");
    (outcome.status(), outcome.to_string())
}

fn gave_up(world: &World) -> bool {
    world.promised.log.iter().any(|notice| matches!(notice, Notice::GivingUp { .. }))
}

#[test]
fn d17_failed_boots_are_tried_again_with_back_off_up_to_the_limit() {
    let mut world = of(1, 4);
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.die(world.in_slot(0).unwrap(), Death::Signal(11));
        assert!(!world.promised.stopping);
        waits.push(world.gap());
    }
    assert_eq!(waits, [1, 2, 4].map(|n| n * BACKOFF_MIN));
    world.die(104, Death::Signal(11));
    assert!(gave_up(&world));
    let (status, message) = outcome(world);
    assert_eq!(status, 3);
    assert!(message.contains("worker 104 ended with signal 11 (SIGSEGV) before it was ready"), "{message}");
}

#[test]
fn an_application_that_never_loads_shows_in_the_status() {
    for status in [3, 4] {
        let mut world = of(1, 2);
        for raw in [101, 102] {
            assert!(!world.promised.stopping, "the first may say why, and is tried again all the same");
            world.report(raw, boot_failed(status));
            world.die(raw, Death::Status(status.into()));
            world.pass(BACKOFF_MIN);
        }
        assert!(gave_up(&world));
        assert_eq!(outcome(world).0, status);
    }
}

#[test]
fn failures_of_all_workers_count_and_the_others_are_told() {
    let mut world = of(3, 2);
    world.die(101, Death::Status(1));
    world.die(103, Death::Signal(9));
    assert!(world.promised.stopping && world.leaves_by(102) == Some(world.is.now + HURRY));
    assert_eq!(outcome(world).0, 3);
}

#[test]
fn slow_boots_and_failed_forks_count_as_failures() {
    let boot_timeout = 10 * SECOND;
    let patience = Patience { boot_timeout, nap: SECOND, ..Patience::default() };
    let mut world = World::with(PlanConfig { patience, max_boot_failures: 1, ..config(1) });
    world.silence(101);
    world.pass(boot_timeout + SECOND);
    let (status, message) = outcome(world);
    assert!(status == 3 && message.contains("worker 101 was not ready in time"), "{status} {message}");

    let mut world = of(1, 2);
    world.is.exhausted = true;
    world.die(101, Death::Signal(9));
    world.pass(BACKOFF_MIN);
    let (status, message) = outcome(world);
    assert!(status == 3 && message.contains("no memory"), "{status} {message}");
}

#[test]
fn a_server_with_a_worker_that_was_ready_never_gives_up() {
    let mut world = of(2, 1);
    world.report(101, Report::Ready);
    for _ in 0..8 {
        world.report(world.in_slot(1).unwrap(), boot_failed(4));
        world.die(world.in_slot(1).unwrap(), Death::Status(4));
        world.pass(60 * SECOND);
    }
    assert!(!world.promised.stopping && world.in_slot(1).is_some());
    world.report(world.in_slot(1).unwrap(), Report::Ready);
    assert!(world.promised.announced);
    world.die(101, Death::Signal(9));
    assert!(!gave_up(&world));
}

#[test]
fn without_a_limit_workers_that_just_die_are_tried_for_ever() {
    let mut world = of(1, 0);
    for _ in 0..100 {
        world.die(world.in_slot(0).unwrap(), Death::Signal(9));
        world.gap();
    }
    assert!(!world.promised.stopping);
}

#[test]
fn a_worker_told_to_leave_before_it_is_ready_has_not_failed() {
    for max_boot_failures in [0, 1] {
        let mut world = of(2, max_boot_failures);
        world.signal(Signal::Ttou);
        world.report(102, boot_failed(4));
        world.die(102, Death::Status(4));
        assert!(!world.promised.stopping);
        world.report(101, Report::Ready);
        assert!(world.promised.announced);
    }
}

#[test]
fn a_stop_waits_briefly_for_a_worker_that_was_never_ready() {
    let mut world = of(2, 0);
    world.report(101, Report::Ready);
    world.signal(Signal::Term);
    world.pass(KILL_MARGIN - MS);
    assert!(world.promised.killed.is_empty(), "it ends by itself");
    world.pass(MS);
    assert_eq!(world.promised.killed, BTreeSet::from([102]), "or is killed, and the other one has its time");
    world.die(101, Death::Status(0));
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, false), "it had nothing to finish");
}

#[test]
fn a_worker_ready_as_the_stop_begins_has_the_time_of_others() {
    let mut world = of(1, 0);
    world.signal(Signal::Term);
    world.report(101, Report::Ready);
    world.pass(GRACEFUL + KILL_MARGIN - MS);
    assert!(world.promised.killed.is_empty());
    world.pass(MS);
    assert_eq!(world.promised.outcome, stopped(Reason::Stop, true));
}
