use super::*;

const LIMIT: Duration = Duration::from_secs(2);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

#[test]
fn a_job_is_taken_away_once_its_lease_expires_and_not_before() {
    let lease = Lease::new();
    lease.put("job");
    assert_eq!(lease.take_overdue(at(9)), None, "it has no due time yet");
    lease.set_due(Some(at(5)));
    assert_eq!(lease.take_overdue(at(4)), None);
    assert_eq!(lease.take_overdue(at(5)), Some("job"));
    assert_eq!(lease.work(|_| ()), None, "the handler's thread finds it gone");
    assert_eq!((lease.take_overdue(at(6)), lease.take()), (None, None));
}

#[test]
fn a_limit_can_be_lifted_and_does_not_apply_to_the_next_job() {
    let lease = Lease::new();
    lease.put("first");
    lease.set_due(Some(at(5)));
    lease.set_due(None);
    assert_eq!(lease.take_overdue(at(9)), None);
    lease.set_due(Some(at(5)));
    assert_eq!(lease.take(), Some("first"));
    lease.put("second");
    assert_eq!(lease.take_overdue(at(9)), None);
    assert_eq!(lease.take(), Some("second"));
}

#[test]
fn a_locked_lease_is_not_waited_for() {
    let lease = Lease::new();
    lease.put("job");
    lease.set_due(Some(at(5)));
    lease
        .work(|_| {
            assert_eq!(lease.take_overdue(at(5)), None);
            assert_eq!(lease.next_look(at(5), LIMIT), at(5) + AGAIN);
        })
        .expect("it is there");
    assert_eq!(lease.take_overdue(at(5)), Some("job"));
}

#[test]
fn the_next_look_comes_before_a_lease_can_expire() {
    let lease = Lease::new();
    assert_eq!(lease.next_look(at(1), LIMIT), at(3), "a handler that begins now has time until then");
    lease.put("job");
    lease.set_due(Some(at(2)));
    assert_eq!(lease.next_look(at(1), LIMIT), at(2));
    assert_eq!(lease.take_overdue(at(2)), Some("job"));
    assert_eq!(lease.next_look(at(2), LIMIT), at(4), "the lease is empty");
}

#[test]
fn a_lease_is_reused_when_its_thread_has_released_it() {
    let mut leases = Leases::new(LIMIT);
    let first = leases.lease("first");
    let second = leases.lease("second");
    assert!(!Arc::ptr_eq(&first, &second));
    first.set_due(Some(at(5)));
    second.set_due(Some(at(4)));
    assert_eq!(leases.next_look(at(3)), Some(at(4)));
    assert_eq!(leases.take_overdue(at(4)), Some("second"));
    assert_eq!(leases.take_overdue(at(4)), None);
    drop(second);
    let third = leases.lease("third");
    assert_eq!(third.take(), Some("third"));
    assert_eq!(leases.all.len(), 2);
}

#[test]
fn without_a_limit_no_lease_is_looked_at() {
    let mut leases = Leases::new(Duration::ZERO);
    let lease = leases.lease("job");
    lease.set_due(Some(at(1)));
    assert_eq!((leases.take_overdue(at(2)), leases.next_look(at(2))), (None, None));
}
