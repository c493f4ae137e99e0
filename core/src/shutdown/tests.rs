use std::time::Duration;

use super::*;

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

#[test]
fn d11_a_later_order_only_shortens_a_drain() {
    let mut drain = Drain::new(Reason::Stop, at(0), at(30_000));
    drain.merge(Drain::new(Reason::Stop, at(5), at(30_005)));
    assert_eq!(drain.deadline, at(30_000));
    drain.merge(Drain::new(Reason::QuickStop, at(100), at(2_100)));
    assert_eq!((drain.deadline, drain.reason, drain.since), (at(2_100), Reason::QuickStop, at(0)));
}

#[test]
fn d11_a_drain_lasts_since_its_first_order() {
    let mut drain = Drain::new(Reason::Stop, at(900), at(30_900));
    drain.merge(Drain::new(Reason::Stop, at(0), at(30_000)));
    assert_eq!(drain, Drain::new(Reason::Stop, at(0), at(30_000)));
}

#[test]
fn every_reason_survives_being_a_byte() {
    for byte in 0..=u8::MAX {
        if let Some(reason) = Reason::from_u8(byte) {
            assert_eq!(reason as u8, byte);
        }
    }
}

#[test]
fn a_lame_duck_drains_on_its_order_by_its_own_deadline() {
    let mut drain = Drain::new(Reason::Stop, at(0), at(40_000)).lameduck();
    drain.merge(Drain::new(Reason::Stop, at(5), at(30_000)).lameduck());
    assert_eq!((drain.phase, drain.since), (Phase::Lameduck, at(0)));
    drain.merge(Drain::new(Reason::QuickStop, at(100), at(50_000)));
    assert_eq!(drain, Drain::new(Reason::QuickStop, at(100), at(30_000)));
    drain.merge(Drain::new(Reason::Stop, at(200), at(30_000)).lameduck());
    assert_eq!(drain.phase, Phase::Draining, "a drain does not become a lame duck again");
}
