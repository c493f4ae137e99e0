//! The list of scenarios and the table of deviations.

use std::collections::HashSet;
use std::path::Path;

use super::*;

const KEPT: Scenario = Scenario { name: "kept", run: |_| {} };
const BROKEN: Scenario = Scenario { name: "broken", run: |_| panic!("as expected") };

fn hold(scenario: Scenario, deviations: &[Deviation]) {
    scenario.hold(&Harness::new("any", "none", Path::new("none")), deviations);
}

#[test]
fn scenario_names_are_unique() {
    let names: HashSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), SCENARIOS.len());
}

#[test]
fn a_deviation_is_expected_to_fail() {
    hold(KEPT, &[("broken", "it cannot")]);
    hold(BROKEN, &[("broken", "it cannot")]);
}

#[test]
#[should_panic(expected = "as expected")]
fn a_scenario_that_fails_without_a_deviation_fails() {
    hold(BROKEN, &[("kept", "it cannot")]);
}

#[test]
#[should_panic(expected = "kept passes now")]
fn a_deviation_that_passes_fails() {
    hold(KEPT, &[("kept", "it could not")]);
}

#[test]
#[should_panic(expected = "there is no scenario kept to deviate from")]
fn a_deviation_from_nothing_fails() {
    run(SCENARIOS[0].name, &Harness::new("any", "none", Path::new("none")), &[("kept", "")]);
}
