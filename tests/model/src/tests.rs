use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _, Property};

use super::{Protocol, Rule};

/// One more worker than a connection needs to be handed on twice.
const WORLD: Protocol =
    Protocol { workers: 3, connections: 1, room: 1, requests: 1, recycles: 2, deaths: 2, broken: None };

#[test]
fn no_connection_is_lost_read_by_two_or_left_waiting() {
    WORLD.checker().threads(2).spawn_bfs().join().assert_properties();
}

#[test]
fn connections_do_not_block_one_another() {
    let world = Protocol { connections: 2, deaths: 1, ..WORLD };
    world.checker().threads(2).spawn_bfs().join().assert_properties();
}

#[test]
fn each_rule_is_needed() {
    for rule in Rule::ALL {
        let world = Protocol { broken: Some(rule), ..WORLD };
        let checker = world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let broken = checker.discoveries().into_iter().any(|(name, _)| is_promise(name));
        assert!(broken, "without {rule:?} no property fails in {} states", checker.unique_state_count());
    }
}

/// Whether the property is a promise. The others show that the search covers something.
fn is_promise(name: &str) -> bool {
    let is_always = |property: &Property<Protocol>| property.expectation == Expectation::Always;
    WORLD.properties().iter().any(|property| property.name == name && is_always(property))
}
