use super::*;

/// Schedules in a run of the tests; `simulate` plays many more.
const SCHEDULES: u64 = 100;

#[test]
fn every_schedule_keeps_the_contract() {
    let mut all = Summary::default();
    for seed in 0..SCHEDULES {
        match run(seed) {
            Ok(summary) => {
                all.steps += summary.steps;
                all.answered += summary.answered;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(all.answered as u64 > SCHEDULES, "a world in which nobody is answered shows nothing: {all:?}");
}

#[test]
fn a_seed_brings_the_same_to_pass_again() {
    for seed in 0..10 {
        let (first, result) = trace(seed);
        assert_eq!((first, result), trace(seed));
    }
}
