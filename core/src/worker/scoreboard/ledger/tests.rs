use super::*;

#[test]
fn what_a_buried_worker_has_counted_is_kept_and_its_seat_is_empty() {
    let (board, ledger) = (Scoreboard::map(2, 1, 1).unwrap(), Ledger::map().unwrap());
    for (number, requests) in [(0, 3), (1, 4)] {
        let seat = board.seat(number).unwrap();
        ledger.take(number);
        seat.sit(1);
        seat.enter(Phase::Running, None);
        (0..requests).for_each(|_| seat.counters().requests.increment());
    }
    assert_eq!((ledger.read(&board).total().requests, ledger.read(&board).living.len()), (7, 2));

    board.seat(1).unwrap().enter(Phase::Draining, Some(Reason::RecycleAsked));
    ledger.bury(&board, 1, false);
    let account = ledger.read(&board);
    assert_eq!((account.total().requests, account.gone.requests, account.gone.cut), (7, 4, 4));
    assert_eq!((account.living.len(), account.drained, account.cut), (1, 0, 1));
    ledger.bury(&board, 1, true);
    assert_eq!(ledger.read(&board), account, "there is nobody left to bury");
}

#[test]
fn a_server_is_ready_while_it_serves_and_has_a_worker() {
    let (board, ledger) = (Scoreboard::map(1, 1, 1).unwrap(), Ledger::map().unwrap());
    let is_ready = || ledger.read(&board).is_ready();
    let seat = board.seat(0).unwrap();
    ledger.take(0);
    seat.sit(1);
    seat.enter(Phase::Running, None);
    assert!(!is_ready());
    ledger.enter(Stage::Serving, 1);
    assert!(is_ready());
    seat.clear();
    assert!(!is_ready());
    seat.sit(1);
    seat.enter(Phase::Running, None);
    for stage in [Stage::Lameduck, Stage::Stopping, Stage::Starting] {
        ledger.enter(stage, 1);
        assert!(!is_ready(), "{stage:?}");
    }
}

#[test]
fn replacements_and_losses_are_counted_apart() {
    let (board, ledger) = (Scoreboard::map(1, 1, 1).unwrap(), Ledger::map().unwrap());
    ledger.replaced(Reason::RecycleRequests);
    ledger.replaced(Reason::RecycleRequests);
    ledger.lost(Loss::Hung);
    let account = ledger.read(&board);
    let some = |all: &[(Reason, u64)]| all.iter().copied().filter(|(_, n)| *n > 0).collect::<Vec<_>>();
    assert_eq!(some(&account.replaced), [(Reason::RecycleRequests, 2)]);
    assert_eq!(account.lost.iter().map(|(_, n)| n).sum::<u64>(), 1);
    assert!(account.lost.contains(&(Loss::Hung, 1)));
}

#[test]
fn d19_what_an_upgrade_has_moved_is_not_taken_for_what_waits() {
    let (board, ledger) = (Scoreboard::map(1, 1, 1).unwrap(), Ledger::map().unwrap());
    let seat = board.seat(0).unwrap();
    ledger.take(0);
    seat.sit(1);
    let (account, counters) = (|| ledger.read(&board), seat.counters());
    (0..5).for_each(|_| counters.adopted.increment());
    (0..2).for_each(|_| counters.handed.increment());
    assert_eq!((account().in_queue(), account().total().in_hand()), (0, 3), "some are from elsewhere");
    ledger.settle(&board);
    assert_eq!((account().in_queue(), account().strangers), (0, -3));
    counters.handed.increment();
    assert_eq!((account().in_queue(), account().total().in_hand()), (1, 2));
}
