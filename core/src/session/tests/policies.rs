//! The policies on a connection: how it ends while idle, and how the next request on it is
//! answered.

use super::*;
use crate::config::Limits;
use crate::conn::Connection;
use crate::machine::CloseReason;
use crate::peer::{Origin, Peer};
use crate::shutdown::{CloseIdle, ConnState, Finish, Grace, ShutdownPolicy, Spread};
use crate::testing::ms;

/// Sets a bench's policy.
type With = Box<dyn Fn(Bench) -> Bench>;

/// The policies, and when each ends a connection that has been idle since 0 in a drain that begins
/// at 1000.
fn policies() -> [(With, u64, CloseReason); 5] {
    fn with(policy: impl ShutdownPolicy + Copy) -> With {
        Box::new(move |bench| bench.policy(policy))
    }
    [
        (with(Finish), 5000, CloseReason::IdleTimeout),
        (with(CloseIdle), 1000, CloseReason::DrainIdle),
        (with(Grace(ms(3000))), 3000, CloseReason::DrainIdle),
        (with(Grace(ms(500))), 1000, CloseReason::DrainIdle),
        (with(Spread(ms(4000))), 3000, CloseReason::DrainIdle),
    ]
}

/// A bench whose connection has its moment in the middle of any window.
fn bench() -> Bench {
    let tester = Tester { short: true, ..Tester::default() };
    let origin = Origin::new(0, Peer::Unix, 1 << 31);
    Bench { log: tester.log.clone(), ..Bench::resuming(tester, |now| Connection::new(origin, now)) }
}

#[test]
fn an_idle_connection_is_closed_at_its_policys_time() {
    for (with, at, reason) in policies() {
        let mut bench = with(bench()).bytes(0, get("/")).drain(1000, 60_000);
        assert_eq!((bench.run().reason, bench.now()), (Some(reason), at), "{:?}", bench.world.policy);
    }
}

#[test]
fn d8_a_fresh_connection_counts_as_idle_since_accept() {
    for (with, at, reason) in policies() {
        let mut bench = with(bench()).drain(1000, 60_000);
        assert_eq!((bench.run().reason, bench.now()), (Some(reason), at), "{:?}", bench.world.policy);
    }
}

#[test]
fn d5_half_a_head_is_finished_after_the_policys_time() {
    let (begun, rest) = (&get("/")[..9], &get("/")[9..]);
    for (with, ..) in policies() {
        let mut bench = with(bench()).bytes(0, begun).drain(1000, 60_000).bytes(9000, rest);
        bench.until(8999);
        assert_eq!(bench.connection().state(), ConnState::Head, "{:?}", bench.world.policy);
        let transcript = bench.run();
        assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"), "{}", transcript.out);
        assert_eq!(transcript.reason, Some(CloseReason::Drained));
    }
}

#[test]
fn d6_a_request_on_a_kept_connection_is_served_with_close() {
    for (with, at, _) in policies().into_iter().filter(|(_, at, _)| *at > 1000) {
        // At its last moment, so that a policy that keeps some open has no reason to.
        let mut bench = with(bench()).bytes(0, get("/")).drain(1000, 60_000);
        bench = bench.bytes(at - 1, "G").bytes(at + 1, &get("/")[1..]);
        let transcript = bench.run();
        assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (2, 1));
        assert_eq!(transcript.reason, Some(CloseReason::Drained), "{:?}", bench.world.policy);
    }
}

#[test]
fn d6_of_pipelined_requests_all_are_served_and_the_last_announces() {
    for (with, ..) in policies() {
        // When the window of a policy that has one is over.
        let three = get("/").repeat(3);
        let mut bench = with(bench()).bytes(0, &three[..9]).drain(1000, 60_000).bytes(6000, &three[9..]);
        let transcript = bench.run();
        assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (3, 1));
        assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"), "{}", transcript.out);
    }
}

#[test]
fn spread_closes_a_connection_at_its_moment() {
    let mut bench = bench().policy(Spread(ms(4000))).drain(1000, 60_000).bytes(1000, get("/"));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (1, 0));
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::DrainIdle), 3000));
}

#[test]
fn d10_the_deadline_ends_connections_that_a_policy_would_keep() {
    fn ends(policy: impl ShutdownPolicy) -> (Option<CloseReason>, u64) {
        let patient = |limits: &mut Limits| limits.keep_alive = ms(90_000);
        let mut bench = bench().limits(patient).policy(policy).bytes(0, get("/")).drain(1000, 8000);
        (bench.run().reason, bench.now())
    }
    let expected = (Some(CloseReason::DeadlineIdle), 8000);
    assert_eq!(ends(Finish), expected);
    assert_eq!(ends(Grace(ms(60_000))), expected);
    assert_eq!(ends(Spread(ms(60_000))), expected);
}

#[test]
fn d12_a_policy_keeps_no_silent_connection_longer() {
    fn ends(header_timeout: u64, policy: impl ShutdownPolicy) -> (Option<CloseReason>, u64) {
        let limits = |limits: &mut Limits| limits.header_timeout = ms(header_timeout);
        let mut bench = bench().limits(limits).policy(policy).drain(1000, 60_000);
        (bench.run().reason, bench.now())
    }
    for (header_timeout, at) in [(2000, 2000), (10_000, 5000)] {
        let expected = (Some(CloseReason::IdleTimeout), at);
        assert_eq!(ends(header_timeout, Grace(ms(30_000))), expected);
        assert_eq!(ends(header_timeout, Spread(ms(30_000))), expected);
    }
}
