use super::*;

/// The number of schedules in a run of the tests; `simulate` plays many more.
const SCHEDULES: u64 = 100;

#[test]
fn every_schedule_keeps_the_contract() {
    let mut all = Totals::default();
    for seed in 0..SCHEDULES {
        match run(seed) {
            Ok(summary) => all.add(&summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(all.sum.answered as u64 > SCHEDULES, "a world without answers shows nothing: {all}");
    let [reloads, upgrades, recycles, handoffs, _, rescues] = all.seeds;
    assert!([reloads, upgrades, recycles, handoffs, rescues].iter().all(|seeds| *seeds > 0), "{all}");
}

#[test]
fn a_seed_brings_the_same_to_pass_again() {
    for seed in 0..10 {
        let (first, result) = trace(seed);
        assert_eq!((first, result), trace(seed));
    }
}

/// Actions whose absence breaks a rule only within up to 1,000 schedules. That of the others does
/// within few.
const LATE: [&str; 2] = ["AcceptFor", "Signal"];

#[test]
fn an_action_that_is_left_undone_breaks_a_rule() {
    for action in ACTIONS.into_iter().filter(|action| !LATE.contains(action)) {
        let is_found = (0..3 * SCHEDULES).any(|seed| run_without(action, seed).is_err());
        assert!(is_found, "no rule is broken without {action}");
    }
}
