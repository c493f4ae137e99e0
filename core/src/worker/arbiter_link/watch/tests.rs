use super::*;
use crate::shutdown::Reason;
use crate::worker::drain::completion::ORDER_PATIENCE;

const START: Time = Time::from_nanos(1_000_000_000);
const GRACE: Duration = Duration::from_secs(30);

fn draining(reason: Reason) -> Watch {
    let watch = Watch::new().unwrap();
    watch.state.expect_backlog();
    watch.state.enter(Drain::new(reason, START, START + GRACE), PolicyId::Stop);
    watch
}

fn exit(watch: &Watch, open: usize, now: Time) -> Option<Exit> {
    watch.exit(open, &Counters::default(), now)
}

#[test]
fn d4_a_stop_waits_for_the_end_of_the_backlog_and_an_empty_inbox() {
    let watch = draining(Reason::Stop);
    let late = START + 10 * ORDER_PATIENCE;
    watch.state.backlog_comes();
    assert_eq!(exit(&watch, 0, late), None);
    watch.state.backlog_ends();
    assert_eq!(exit(&watch, 0, late), None, "the last connection may be in the inbox");
    watch.state.backlog_is_empty();
    assert_eq!(exit(&watch, 1, late), None);
    assert_eq!(exit(&watch, 0, late), Some(Exit::Clean));
}

#[test]
fn d4_after_a_signal_alone_a_worker_waits_for_an_order() {
    let watch = draining(Reason::Stop);
    assert_eq!(watch.deadline(START), Some(START + ORDER_PATIENCE));
    assert_eq!(exit(&watch, 0, START), None);
    assert_eq!(exit(&watch, 0, START + ORDER_PATIENCE), Some(Exit::Clean));
    assert_eq!(watch.deadline(START + ORDER_PATIENCE), Some(START + GRACE));
    watch.state.backlog_comes();
    assert_eq!(exit(&watch, 0, START + ORDER_PATIENCE), None, "the signal was part of a stop of the server");
}

#[test]
fn d9_only_a_stop_with_an_inbox_waits_for_the_backlog() {
    for reason in [Reason::RecycleRequests, Reason::ScaleDown] {
        let watch = draining(reason);
        assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
        assert_eq!(watch.deadline(START), Some(START + GRACE), "nothing changes before");
    }
    let watch = Watch::new().unwrap();
    watch.state.enter(Drain::new(Reason::Stop, START, START + GRACE), PolicyId::Stop);
    watch.state.backlog_comes();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
}

#[test]
fn d4_a_stop_brings_its_backlog_to_a_worker_that_already_drains() {
    let watch = draining(Reason::ScaleDown);
    watch.state.backlog_comes();
    assert_eq!(watch.state.enter(Drain::new(Reason::Stop, START, START + GRACE), PolicyId::Stop), None);
    assert_eq!(exit(&watch, 0, START), None);
    watch.state.backlog_is_empty();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
}

#[test]
fn d10_no_backlog_is_waited_for_longer_than_the_deadline() {
    let watch = draining(Reason::Stop);
    watch.state.backlog_comes();
    assert_eq!(exit(&watch, 0, START + GRACE), Some(Exit::Clean));
}

#[test]
fn a_lame_duck_shows_its_drain_and_has_not_begun_it() {
    let watch = Watch::new().unwrap();
    let lame = Drain::new(Reason::Stop, START, START + 2 * GRACE).lameduck();
    assert_eq!(watch.state.enter(lame, PolicyId::Stop), Some(lame));
    assert_eq!((watch.current(), DrainWatch::drain(&watch)), (None, Some(lame)));
    assert_eq!((exit(&watch, 0, START + 3 * GRACE), watch.deadline(START)), (None, None));
    assert!(!watch.wait(Duration::ZERO), "waiting for the drain continues");

    let drain = Drain::new(Reason::Stop, START + GRACE, START + 2 * GRACE);
    assert_eq!(watch.state.enter(drain, PolicyId::Stop), Some(drain));
    assert_eq!(watch.current(), Some((drain, PolicyId::Stop)));
    assert!(watch.wait(Duration::ZERO));
    assert_eq!(exit(&watch, 0, START + GRACE), Some(Exit::Clean));
}

#[test]
fn d19_a_lame_duck_that_is_recycled_drains_by_the_policy_of_that() {
    let watch = Watch::new().unwrap();
    let lame = Drain::new(Reason::Stop, START, START + 2 * GRACE).lameduck();
    watch.state.enter(lame, PolicyId::Stop);
    let recycled = Drain::new(Reason::RecycleRequests, START, START + GRACE).with_receiver();
    watch.state.enter(recycled, PolicyId::Recycle);
    assert_eq!(watch.current(), Some((recycled, PolicyId::Recycle)));
    watch.state.enter(Drain::new(Reason::Stop, START, START + GRACE), PolicyId::Stop);
    assert_eq!(watch.current().map(|(_, policy)| policy), Some(PolicyId::Recycle), "that of the first");
}

#[test]
fn d19_a_worker_that_loses_its_receiver_looks_once_more() {
    let watch = Watch::new().unwrap();
    watch.state.expect_backlog();
    let drain = Drain::new(Reason::Upgrade, START, START + GRACE);
    watch.state.enter(drain.with_receiver(), PolicyId::Reload);
    watch.state.backlog_ends();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean), "other workers take what comes");
    assert!(watch.state.enter(drain, PolicyId::Reload).is_some());
    assert_eq!(exit(&watch, 0, START), None, "a connection it has sent may still be in the queue");
    watch.state.backlog_is_empty();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
}
