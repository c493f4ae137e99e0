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
fn every_reason_survives_being_a_byte() {
    for byte in 0..=u8::MAX {
        if let Some(reason) = Reason::from_u8(byte) {
            assert_eq!(reason as u8, byte);
        }
    }
}

#[test]
fn finish_keeps_idle_connections_and_announces_the_next_answer() {
    let drain = Drain::new(Reason::Stop, at(0), at(30_000));
    let connection = ConnView::new(ConnState::Idle, at(0));
    assert_eq!(Finish.idle(&drain, &connection, at(1)), Idle::Keep { until: Time::MAX });
    assert_eq!(Finish.announce(&drain, &connection, at(1)), Announce::Close);
}
