//! `max-boot-failures`: a server of which no worker was ever ready gives up.

use super::*;

fn of(workers: u16, max_boot_failures: u32) -> World {
    World::with(Shape { max_boot_failures, ..shape(workers) })
}

/// What the server has ended with, once those that were told to end have.
fn outcome(mut world: World) -> (u8, String) {
    world.pids().into_iter().for_each(|raw| world.die(raw, Death::Status(0)));
    let outcome = world.outcome.expect("it has ended");
    (outcome.status(), outcome.to_string())
}

fn gave_up(world: &World) -> bool {
    world.log.iter().any(|notice| matches!(notice, Notice::GivingUp { .. }))
}

#[test]
fn d17_boots_that_fail_are_tried_again_with_back_off_until_there_were_as_many_as_may_be() {
    let mut world = of(1, 4);
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.die(world.in_slot(0).unwrap(), Death::Signal(11));
        assert!(!world.stopping);
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
            assert!(!world.stopping, "the first may say why, and is tried again all the same");
            world.report(raw, boot_failed(status));
            world.die(raw, Death::Status(status.into()));
            world.pass(BACKOFF_MIN);
        }
        assert!(gave_up(&world));
        assert_eq!(outcome(world).0, status);
    }
}

#[test]
fn the_failures_of_all_workers_count_and_the_others_are_told() {
    let mut world = of(3, 2);
    world.die(101, Death::Status(1));
    world.die(103, Death::Signal(9));
    assert!(world.stopping && world.living[&102].1 == Some(world.now + HURRY));
    assert_eq!(outcome(world).0, 3);
}

#[test]
fn a_boot_that_is_too_slow_and_one_that_cannot_be_begun_have_failed() {
    let boot_timeout = 10 * SECOND;
    let patience = Patience { boot_timeout, nap: SECOND, ..Patience::default() };
    let mut world = World::with(Shape { patience, max_boot_failures: 1, ..shape(1) });
    world.silence(101);
    world.pass(boot_timeout + SECOND);
    let (status, message) = outcome(world);
    assert!(status == 3 && message.contains("worker 101 was not ready in time"), "{status} {message}");

    let mut world = of(1, 2);
    world.exhausted = true;
    world.die(101, Death::Signal(9));
    world.pass(BACKOFF_MIN);
    let (status, message) = outcome(world);
    assert!(status == 3 && message.contains("no memory"), "{status} {message}");
}

#[test]
fn a_server_of_which_a_worker_was_ready_never_gives_up() {
    let mut world = of(2, 1);
    world.report(101, Report::Ready);
    for _ in 0..8 {
        world.report(world.in_slot(1).unwrap(), boot_failed(4));
        world.die(world.in_slot(1).unwrap(), Death::Status(4));
        world.pass(60 * SECOND);
    }
    assert!(!world.stopping && world.in_slot(1).is_some());
    world.report(world.in_slot(1).unwrap(), Report::Ready);
    assert!(world.announced);
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
    assert!(!world.stopping);
}

#[test]
fn who_is_told_to_leave_before_it_is_ready_has_not_failed() {
    for max_boot_failures in [0, 1] {
        let mut world = of(2, max_boot_failures);
        world.signal(Signal::Ttou);
        world.report(102, boot_failed(4));
        world.die(102, Death::Status(4));
        assert!(!world.stopping);
        world.report(101, Report::Ready);
        assert!(world.announced);
    }
}
