//! D15: a worker that is too old or too large is replaced like one that has served enough requests.

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
    World::with(PlanConfig { allowance, ..config(workers) })
}

/// All workers are ready from now on.
fn serving(workers: u16, allowance: Allowance) -> World {
    of(workers, allowance).serve(Duration::ZERO)
}

/// Limits of age and memory.
pub(super) fn limited() -> World {
    let Allowance { lifetime, lifetime_jitter, .. } = old();
    serving(2, Allowance { lifetime, lifetime_jitter, ..large() })
}

#[test]
fn d15_an_old_worker_is_replaced_once_its_successor_is_ready() {
    let mut world = serving(1, old());
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + HOUR));
    world.pass(HOUR - MS);
    assert_eq!(world.pids(), [101]);
    world.pass(MS);
    assert_eq!((world.pids(), world.leaves_by(101)), (vec![101, 102], None), "it serves on");
    let notice = Notice::Old { slot: 0, pid: pid(101), age: HOUR, limit: HOUR };
    assert!(world.promised.log.contains(&notice));
    assert!(world.promised.log.contains(&Notice::Recycling { slot: 0, reason: Reason::RecycleLifetime }));
    world.pass(SECOND);
    world.report(102, Report::Ready);
    assert_eq!(world.promised.recycled, BTreeSet::from([101]));
    world.die(101, Death::Status(0));
    assert_eq!(world.supervisor.plan.deadline(), Some(world.is.now + HOUR), "the next one has its own time");
}

#[test]
fn d15_a_long_boot_is_no_life() {
    let mut world = of(1, old());
    world.pass(2 * HOUR);
    world.report(101, Report::Ready);
    assert_eq!((world.pids(), world.supervisor.plan.deadline()), (vec![101], Some(world.is.now + HOUR)));
}

#[test]
fn d15_replacements_are_limited_however_many_workers_are_old() {
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
        let bounds = world.supervisor.plan.entries.iter().map(|entry| entry.process().unwrap().bounds);
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
fn d15_a_large_worker_is_replaced_once_its_successor_is_ready() {
    let mut world = serving(2, large());
    world.pass(10 * WEIGH_EVERY);
    assert_eq!(world.pids(), [101, 102]);
    world.is.large.insert(101, 2 * USUAL);
    world.pass(WEIGH_EVERY);
    assert_eq!((world.pids(), world.leaves_by(101)), (vec![101, 102, 103], None), "it serves on");
    let notice = Notice::Large { slot: 0, pid: pid(101), rss: 2 * USUAL, limit: 2 * USUAL };
    assert!(world.promised.log.contains(&notice));
    assert!(world.promised.log.contains(&Notice::Recycling { slot: 0, reason: Reason::RecycleMemory }));
    world.report(103, Report::Ready);
    assert_eq!(world.promised.recycled, BTreeSet::from([101]));
}

#[test]
fn no_memory_is_read_and_no_wakeup_set_without_a_limit() {
    let mut world = serving(2, old());
    world.pass(HOUR / 2);
    assert_eq!(
        (world.promised.weighed, world.supervisor.plan.deadline()),
        (0, Some(world.is.now + HOUR / 2))
    );
    let mut world = serving(2, large());
    let before = world.promised.weighed;
    world.pass(10 * WEIGH_EVERY);
    assert_eq!(world.promised.weighed - before, 20, "each once in that time");
}

#[test]
fn a_worker_too_large_at_its_start_is_not_replaced() {
    let mut world = of(1, large());
    world.is.large.insert(101, 3 * USUAL);
    world.report(101, Report::Ready);
    world.pass(HOUR);
    assert_eq!((world.pids(), world.promised.weighed), (vec![101], 1));
    let notice = Notice::BornLarge { slot: 0, pid: pid(101), rss: 3 * USUAL, limit: 2 * USUAL };
    assert_eq!(world.promised.log.iter().filter(|said| **said == notice).count(), 1);
}

#[test]
fn a_leaving_worker_has_no_limits_of_age_and_memory() {
    let mut world =
        serving(2, Allowance { lifetime: old().lifetime, lifetime_jitter: Jitter::Count(0), ..large() });
    world.signal(Signal::Ttou);
    world.is.large.insert(102, 9 * USUAL);
    world.pass(GRACEFUL);
    world.signal(Signal::Term);
    world.is.large.insert(101, 9 * USUAL);
    let weighed = world.promised.weighed;
    world.pass(SECOND);
    assert_eq!((world.promised.weighed, world.pids()), (weighed, vec![101, 102]));
}

#[test]
fn d16_a_reload_changes_the_limits_of_its_workers() {
    let mut world = serving(1, Allowance::default());
    world.is.found = Some(PlanConfig { allowance: old(), ..world.is.settings });
    world.signal(Signal::Hup);
    world.report(102, Report::Ready);
    world.die(101, Death::Status(0));
    world.pass(HOUR);
    assert_eq!(world.pids(), [102, 103]);
}
