use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _, Property};

use super::{Crash, Rule};

const WORLD: Crash = Crash { connections: 1, requests: 2, room: 1, deaths: 2, broken: None };

#[test]
fn d20_nothing_is_lost_torn_or_left_waiting_when_processes_die_at_any_step() {
    WORLD.checker().threads(2).spawn_bfs().join().assert_properties();
}

#[test]
fn d20_connections_do_not_block_one_another() {
    let world = Crash { connections: 2, deaths: 1, ..WORLD };
    world.checker().threads(2).spawn_bfs().join().assert_properties();
}

#[test]
fn d20_each_rule_is_needed() {
    for rule in Rule::ALL {
        let world = Crash { broken: Some(rule), ..WORLD };
        let checker = world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let broken = checker.discoveries().into_iter().any(|(name, _)| is_promise(name));
        assert!(broken, "without {rule:?} no property fails in {} states", checker.unique_state_count());
    }
}

/// Whether the property is a promise. The others show that the search covers something.
fn is_promise(name: &str) -> bool {
    let is_always = |property: &Property<Crash>| property.expectation == Expectation::Always;
    WORLD.properties().iter().any(|property| property.name == name && is_always(property))
}
