use proptest::prelude::*;

use super::super::{ConnState, Reason};
use super::*;

fn at(ms: u64) -> Time {
    Time::ZERO + ms_of(ms)
}

fn ms_of(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn drain() -> Drain {
    Drain::new(Reason::Stop, at(1000), at(61_000))
}

/// A connection that has been idle since `idle` and has answered `served` requests.
fn connection(idle: u64, draw: u32, served: u32) -> ConnView {
    ConnView { draw, served, ..ConnView::new(ConnState::Idle, at(idle)) }
}

#[test]
fn finish_keeps_idle_connections_and_announces_the_next_answer() {
    assert_eq!(Finish.idle(&drain(), &connection(0, 0, 1), at(1001)), Idle::Keep { until: Time::MAX });
    assert_eq!(Finish.announce(&drain(), &connection(0, 0, 1), at(1001)), Announce::Close);
}

#[test]
fn close_idle_closes_at_once_and_announces() {
    assert_eq!(CloseIdle.idle(&drain(), &connection(1000, 0, 1), at(1000)), Idle::Close);
    assert_eq!(CloseIdle.announce(&drain(), &connection(1000, 0, 1), at(1000)), Announce::Close);
}

#[test]
fn d8_grace_counts_from_the_last_response_and_not_from_the_drain() {
    let grace = Grace(ms_of(500));
    for (idle, until) in [(1000, 1500), (700, 1200)] {
        let connection = connection(idle, 0, 1);
        assert_eq!(grace.idle(&drain(), &connection, at(1000)), Idle::Keep { until: at(until) });
        assert_eq!(grace.idle(&drain(), &connection, at(until)), Idle::Close);
    }
    assert_eq!(grace.idle(&drain(), &connection(100, 0, 1), at(1000)), Idle::Close);
    assert_eq!(grace.announce(&drain(), &connection(1000, 0, 1), at(1001)), Announce::Close);
}

#[test]
fn spread_closes_each_connection_at_its_own_moment() {
    let spread = Spread(ms_of(8000));
    for (draw, moment) in [(0, 1000), (1 << 30, 3000), (1 << 31, 5000), (3 << 30, 7000)] {
        let connection = connection(900, draw, 1);
        if moment > 1000 {
            assert_eq!(spread.idle(&drain(), &connection, at(1000)), Idle::Keep { until: at(moment) });
        }
        assert_eq!(spread.idle(&drain(), &connection, at(moment)), Idle::Close);
    }
}

#[test]
fn spread_announces_more_and_more_often() {
    const REQUESTS: u32 = 4000;
    let spread = Spread(ms_of(8000));
    let share = |now| {
        let of = |served| spread.announce(&drain(), &connection(0, u32::MAX, served), now);
        let closes = (0..REQUESTS).filter(|served| of(*served) == Announce::Close).count();
        closes as f64 / f64::from(REQUESTS)
    };
    for (now, expected) in [(1000, 0.0), (3000, 0.25), (5000, 0.5), (7000, 0.75), (9000, 1.0)] {
        let found = share(at(now));
        assert!((found - expected).abs() < 0.05, "{found} of the responses at {now} ms, not {expected}");
    }
}

proptest! {
    #[test]
    fn a_kept_connection_is_closed_in_the_end(
        window in 0..20_000u64, idle in 0..30_000u64, draw in any::<u32>(), now in 1000..60_000u64,
    ) {
        let connection = connection(idle, draw, 1);
        for policy in [&Grace(ms_of(window)) as &dyn ShutdownPolicy, &Spread(ms_of(window))] {
            match policy.idle(&drain(), &connection, at(now)) {
                Idle::Keep { until } => {
                    prop_assert!(until > at(now));
                    prop_assert_eq!(policy.idle(&drain(), &connection, until), Idle::Close);
                }
                answer => prop_assert_eq!(answer, Idle::Close),
            }
        }
    }

    #[test]
    fn spread_closes_none_before_its_window_and_all_after_it(
        window in 1..20_000u64, draw in any::<u32>(), served in any::<u32>(), more in 0..10_000u64,
    ) {
        let (spread, connection) = (Spread(ms_of(window)), connection(0, draw, served));
        prop_assert_eq!(spread.announce(&drain(), &connection, at(1000)), Announce::KeepAlive);
        let after = at(1000 + window + more);
        prop_assert_eq!(spread.announce(&drain(), &connection, after), Announce::Close);
        prop_assert_eq!(spread.idle(&drain(), &connection, after), Idle::Close);
    }

    #[test]
    fn spread_announces_close_if_it_would_close_at_once(
        draw in any::<u32>(), served in any::<u32>(), now in 1001..12_000u64,
    ) {
        let (spread, connection) = (Spread(ms_of(8000)), connection(0, draw, served));
        if spread.idle(&drain(), &connection, at(now - 1)) == Idle::Close {
            prop_assert_eq!(spread.announce(&drain(), &connection, at(now)), Announce::Close);
        }
    }

    #[test]
    fn spread_never_revokes_an_announcement(
        draw in any::<u32>(), served in any::<u32>(), now in 1000..9000u64, later in 0..9000u64,
    ) {
        let (spread, connection) = (Spread(ms_of(8000)), connection(0, draw, served));
        if spread.announce(&drain(), &connection, at(now)) == Announce::Close {
            prop_assert_eq!(spread.announce(&drain(), &connection, at(now + later)), Announce::Close);
        }
    }
}

#[test]
fn d19_handoff_moves_connections_or_asks_its_fallback() {
    let handoff = Handoff(Arc::new(Grace(ms_of(500))));
    let movable = ConnView { movable: true, ..connection(1000, 0, 1) };
    let (with, without) = (drain().with_receiver(), drain());
    let moved = (Idle::Handoff, Announce::KeepAlive);
    let kept = (Idle::Keep { until: at(1500) }, Announce::Close);
    for (drain, connection, expected) in [
        (with, movable, moved),
        (without, movable, kept),
        (with, connection(1000, 0, 1), kept),
        (without, connection(1000, 0, 1), kept),
    ] {
        let answers =
            (handoff.idle(&drain, &connection, at(1000)), handoff.announce(&drain, &connection, at(1000)));
        assert_eq!(answers, expected, "{drain:?} {connection:?}");
    }
}
