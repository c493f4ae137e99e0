use super::*;

const LIMIT: Duration = Duration::from_secs(2);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

#[test]
fn a_job_is_taken_away_once_it_is_due_and_no_sooner() {
    let desk = Desk::new();
    desk.put("job");
    assert_eq!(desk.take_overdue(at(9)), None, "nobody has said when");
    desk.set_due(Some(at(5)));
    assert_eq!(desk.take_overdue(at(4)), None);
    assert_eq!(desk.take_overdue(at(5)), Some("job"));
    assert_eq!(desk.work(|_| ()), None, "whoever works at it finds it gone");
    assert_eq!((desk.take_overdue(at(6)), desk.take()), (None, None));
}

#[test]
fn a_limit_can_be_lifted_and_does_not_pass_to_the_next_job() {
    let desk = Desk::new();
    desk.put("first");
    desk.set_due(Some(at(5)));
    desk.set_due(None);
    assert_eq!(desk.take_overdue(at(9)), None);
    desk.set_due(Some(at(5)));
    assert_eq!(desk.take(), Some("first"));
    desk.put("second");
    assert_eq!(desk.take_overdue(at(9)), None);
    assert_eq!(desk.take(), Some("second"));
}

#[test]
fn whoever_has_hold_of_a_job_is_not_waited_for() {
    let desk = Desk::new();
    desk.put("job");
    desk.set_due(Some(at(5)));
    desk.work(|_| {
        assert_eq!(desk.take_overdue(at(5)), None);
        assert_eq!(desk.next_look(at(5), LIMIT), at(5) + AGAIN);
    })
    .expect("it is there");
    assert_eq!(desk.take_overdue(at(5)), Some("job"));
}

#[test]
fn the_next_look_comes_before_anything_can_be_overdue() {
    let desk = Desk::new();
    assert_eq!(desk.next_look(at(1), LIMIT), at(3), "what begins now has its time until then");
    desk.put("job");
    desk.set_due(Some(at(2)));
    assert_eq!(desk.next_look(at(1), LIMIT), at(2));
    assert_eq!(desk.take_overdue(at(2)), Some("job"));
    assert_eq!(desk.next_look(at(2), LIMIT), at(4), "there is nothing to look for any more");
}

#[test]
fn a_desk_is_used_again_when_its_thread_has_left_it() {
    let mut desks = Desks::new(LIMIT);
    let first = desks.lay("first");
    let second = desks.lay("second");
    assert!(!Arc::ptr_eq(&first, &second));
    first.set_due(Some(at(5)));
    second.set_due(Some(at(4)));
    assert_eq!(desks.next_look(at(3)), Some(at(4)));
    assert_eq!(desks.take_overdue(at(4)), Some("second"));
    assert_eq!(desks.take_overdue(at(4)), None);
    drop(second);
    let third = desks.lay("third");
    assert_eq!(third.take(), Some("third"));
    assert_eq!(desks.all.len(), 2);
}

#[test]
fn without_a_limit_nobody_looks() {
    let mut desks = Desks::new(Duration::ZERO);
    let desk = desks.lay("job");
    desk.set_due(Some(at(1)));
    assert_eq!((desks.take_overdue(at(2)), desks.next_look(at(2))), (None, None));
}
