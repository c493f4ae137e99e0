use super::*;
use crate::shutdown::Reason;
use crate::worker::leave::ORDER_PATIENCE;

const START: Time = Time::from_nanos(1_000_000_000);
const GRACE: Duration = Duration::from_secs(30);

fn draining(reason: Reason) -> Watch {
    let watch = Watch::new().unwrap();
    watch.expect_backlog();
    watch.enter(Drain::new(reason, START, START + GRACE), PolicyId::Stop);
    watch
}

fn exit(watch: &Watch, open: usize, now: Time) -> Option<Exit> {
    watch.exit(open, &Counters::default(), now)
}

#[test]
fn d4_a_worker_told_to_stop_stays_until_the_backlog_has_ended_and_its_inbox_is_empty() {
    let watch = draining(Reason::Stop);
    let late = START + 10 * ORDER_PATIENCE;
    watch.backlog_comes();
    assert_eq!(exit(&watch, 0, late), None);
    watch.backlog_ends();
    assert_eq!(exit(&watch, 0, late), None, "the last of it may be in the inbox");
    watch.backlog_is_empty();
    assert_eq!(exit(&watch, 1, late), None);
    assert_eq!(exit(&watch, 0, late), Some(Exit::Clean));
}

#[test]
fn d4_a_signal_alone_is_given_the_time_for_an_order_to_come() {
    let watch = draining(Reason::Stop);
    assert_eq!(watch.deadline(START), Some(START + ORDER_PATIENCE));
    assert_eq!(exit(&watch, 0, START), None);
    assert_eq!(exit(&watch, 0, START + ORDER_PATIENCE), Some(Exit::Clean));
    assert_eq!(watch.deadline(START + ORDER_PATIENCE), Some(START + GRACE));
    watch.backlog_comes();
    assert_eq!(exit(&watch, 0, START + ORDER_PATIENCE), None, "it was a stop of the server after all");
}

#[test]
fn d9_what_is_no_stop_or_has_no_inbox_waits_for_no_backlog() {
    for reason in [Reason::RecycleRequests, Reason::ScaleDown] {
        let watch = draining(reason);
        assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
        assert_eq!(watch.deadline(START), Some(START + GRACE), "there is nothing to look at before");
    }
    let watch = Watch::new().unwrap();
    watch.enter(Drain::new(Reason::Stop, START, START + GRACE), PolicyId::Stop);
    watch.backlog_comes();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
}

#[test]
fn d4_a_stop_of_the_server_brings_its_backlog_to_a_worker_that_was_leaving() {
    let watch = draining(Reason::ScaleDown);
    watch.backlog_comes();
    assert_eq!(watch.enter(Drain::new(Reason::Stop, START, START + GRACE), PolicyId::Stop), None);
    assert_eq!(exit(&watch, 0, START), None);
    watch.backlog_is_empty();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
}

#[test]
fn d10_no_backlog_is_waited_for_longer_than_the_deadline() {
    let watch = draining(Reason::Stop);
    watch.backlog_comes();
    assert_eq!(exit(&watch, 0, START + GRACE), Some(Exit::Clean));
}

#[test]
fn a_lame_duck_shows_its_drain_and_has_not_begun_it() {
    let watch = Watch::new().unwrap();
    let lame = Drain::new(Reason::Stop, START, START + 2 * GRACE).lameduck();
    assert_eq!(watch.enter(lame, PolicyId::Stop), Some(lame));
    assert_eq!((watch.current(), DrainWatch::drain(&watch)), (None, Some(lame)));
    assert_eq!((exit(&watch, 0, START + 3 * GRACE), watch.deadline(START)), (None, None));
    assert!(!watch.wait(Duration::ZERO), "who waits for the drain waits on");

    let drain = Drain::new(Reason::Stop, START + GRACE, START + 2 * GRACE);
    assert_eq!(watch.enter(drain, PolicyId::Stop), Some(drain));
    assert_eq!(watch.current(), Some((drain, PolicyId::Stop)));
    assert!(watch.wait(Duration::ZERO));
    assert_eq!(exit(&watch, 0, START + GRACE), Some(Exit::Clean));
}

#[test]
fn d19_who_has_a_receiver_waits_for_nothing_and_who_loses_it_looks_once_more() {
    let watch = Watch::new().unwrap();
    watch.expect_backlog();
    let drain = Drain::new(Reason::Upgrade, START, START + GRACE);
    watch.enter(drain.with_receiver(), PolicyId::Reload);
    watch.backlog_ends();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean), "what comes is for others");
    assert!(watch.enter(drain, PolicyId::Reload).is_some());
    assert_eq!(exit(&watch, 0, START), None, "what it has sent itself may be there still");
    watch.backlog_is_empty();
    assert_eq!(exit(&watch, 0, START), Some(Exit::Clean));
}
