//! D15: a worker that has lived for long enough, or has grown too large, is replaced as one that has served enough is.

use remuda_core::config::Jitter;

use super::super::expiry::WEIGH_EVERY;
use super::world::USUAL;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn old() -> Allowance {
    Allowance { lifetime: HOUR, lifetime_jitter: Jitter::Count(0), ..Allowance::default() }
}

fn large() -> Allowance {
    Allowance { rss: 2 * USUAL, rss_jitter: Jitter::Count(0), ..Allowance::default() }
}

fn of(workers: u16, allowance: Allowance) -> World {
    World::with(Shape { allowance, ..shape(workers) })
}

/// All are ready now, and none has been for longer.
fn serving(workers: u16, allowance: Allowance) -> World {
    of(workers, allowance).serve(Duration::ZERO)
}

/// Whoever lives for long enough is replaced, and whoever grows.
pub(super) fn limited() -> World {
    let Allowance { lifetime, lifetime_jitter, .. } = old();
    serving(2, Allowance { lifetime, lifetime_jitter, ..large() })
}

#[test]
fn d15_a_worker_that_has_lived_for_long_enough_is_replaced_once_another_one_is_ready() {
    let mut world = serving(1, old());
    assert_eq!(world.plan.deadline(), Some(world.now + HOUR));
    world.pass(HOUR - MS);
    assert_eq!(world.pids(), [101]);
    world.pass(MS);
    assert_eq!((world.pids(), world.living[&101].1), (vec![101, 102], None), "it serves on");
    let notice = Notice::Old { slot: 0, pid: pid(101), age: HOUR, limit: HOUR };
    assert!(world.log.contains(&notice));
    assert!(world.log.contains(&Notice::Recycling { slot: 0, reason: Reason::RecycleLifetime }));
    world.pass(SECOND);
    world.report(102, Report::Ready);
    assert_eq!(world.recycled, BTreeSet::from([101]));
    world.die(101, Death::Status(0));
    assert_eq!(world.plan.deadline(), Some(world.now + HOUR), "the next one has its own time");
}

#[test]
fn d15_a_long_boot_is_no_life() {
    let mut world = of(1, old());
    world.pass(2 * HOUR);
    world.report(101, Report::Ready);
    assert_eq!((world.pids(), world.plan.deadline()), (vec![101], Some(world.now + HOUR)));
}

#[test]
fn d15_no_more_are_replaced_at_a_time_than_may_be_however_many_are_old() {
    let mut world = serving(3, old());
    world.pass(HOUR);
    assert_eq!(world.pids().len(), 3 + RECYCLED);
    for (new, before) in [(104, 101), (105, 102), (106, 103)] {
        world.report(new, Report::Ready);
        world.die(before, Death::Status(0));
    }
    assert_eq!(world.pids(), [104, 105, 106]);
}

#[test]
fn d15_workers_of_one_age_are_not_old_at_once() {
    let spread = |allowance| {
        let world = serving(8, allowance);
        let bounds = world.plan.members.iter().map(|member| member.alive().unwrap().bounds);
        let mut seen: Vec<_> = bounds.map(|bounds| (bounds.lifetime, bounds.rss)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let lifetimes = spread(Allowance { lifetime_jitter: Jitter::default(), ..old() });
    assert!(lifetimes.len() == 8, "{lifetimes:?}");
    let within = |lifetime| (HOUR..=HOUR + HOUR / 10).contains(&lifetime);
    assert!(lifetimes.iter().all(|(lifetime, rss)| lifetime.is_some_and(within) && rss.is_none()));
    let sizes = spread(Allowance { rss_jitter: Jitter::Count(500), ..large() });
    assert!(sizes.len() > 4, "{sizes:?}");
    let within = |rss| (2 * USUAL..=2 * USUAL + 500).contains(&rss);
    assert!(sizes.iter().all(|(lifetime, rss)| rss.is_some_and(within) && lifetime.is_none()));
    assert_eq!(spread(Allowance::default()), [(None, None)]);
}

#[test]
fn d15_a_worker_that_has_grown_too_large_is_replaced_once_another_one_is_ready() {
    let mut world = serving(2, large());
    world.pass(10 * WEIGH_EVERY);
    assert_eq!(world.pids(), [101, 102]);
    world.large.insert(101, 2 * USUAL);
    world.pass(WEIGH_EVERY);
    assert_eq!((world.pids(), world.living[&101].1), (vec![101, 102, 103], None), "it serves on");
    let notice = Notice::Large { slot: 0, pid: pid(101), rss: 2 * USUAL, limit: 2 * USUAL };
    assert!(world.log.contains(&notice));
    assert!(world.log.contains(&Notice::Recycling { slot: 0, reason: Reason::RecycleMemory }));
    world.report(103, Report::Ready);
    assert_eq!(world.recycled, BTreeSet::from([101]));
}

#[test]
fn nobody_is_weighed_and_nothing_is_woken_for_it_while_there_is_no_limit() {
    let mut world = serving(2, old());
    world.pass(HOUR / 2);
    assert_eq!((world.weighed, world.plan.deadline()), (0, Some(world.now + HOUR / 2)));
    let mut world = serving(2, large());
    let before = world.weighed;
    world.pass(10 * WEIGH_EVERY);
    assert_eq!(world.weighed - before, 20, "each once in that time");
}

#[test]
fn a_worker_that_is_too_large_at_once_is_not_replaced_by_another_one_like_it() {
    let mut world = of(1, large());
    world.large.insert(101, 3 * USUAL);
    world.report(101, Report::Ready);
    world.pass(HOUR);
    assert_eq!((world.pids(), world.weighed), (vec![101], 1));
    let notice = Notice::BornLarge { slot: 0, pid: pid(101), rss: 3 * USUAL, limit: 2 * USUAL };
    assert_eq!(world.log.iter().filter(|said| **said == notice).count(), 1);
}

#[test]
fn who_leaves_is_too_old_and_too_large_for_nobody() {
    let mut world =
        serving(2, Allowance { lifetime: old().lifetime, lifetime_jitter: Jitter::Count(0), ..large() });
    world.signal(Signal::Ttou);
    world.large.insert(102, 9 * USUAL);
    world.pass(GRACEFUL);
    world.signal(Signal::Term);
    world.large.insert(101, 9 * USUAL);
    let weighed = world.weighed;
    world.pass(SECOND);
    assert_eq!((world.weighed, world.pids()), (weighed, vec![101, 102]));
}

#[test]
fn d16_a_reload_changes_the_limits_of_the_workers_that_it_brings() {
    let mut world = serving(1, Allowance::default());
    world.found = Some(Shape { allowance: old(), ..world.settings });
    world.signal(Signal::Hup);
    world.report(102, Report::Ready);
    world.die(101, Death::Status(0));
    world.pass(HOUR);
    assert_eq!(world.pids(), [102, 103]);
}
