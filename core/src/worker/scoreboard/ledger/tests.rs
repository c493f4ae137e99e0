use super::*;

#[test]
fn counters_of_a_dead_worker_are_kept_and_its_seat_is_cleared() {
    let (board, ledger) = (Scoreboard::map(2, 1, 1).unwrap(), Ledger::map().unwrap());
    for (number, requests) in [(0, 3), (1, 4)] {
        let seat = board.seat(number).unwrap();
        ledger.take(number);
        seat.occupy(1);
        seat.enter(Phase::Running, None);
        (0..requests).for_each(|_| seat.counters().requests.increment());
    }
    assert_eq!((ledger.read(&board).total().requests, ledger.read(&board).living.len()), (7, 2));

    board.seat(1).unwrap().enter(Phase::Draining, Some(Reason::RecycleAsked));
    ledger.retire(&board, 1, false);
    let account = ledger.read(&board);
    assert_eq!((account.total().requests, account.gone.requests, account.gone.cut), (7, 4, 4));
    assert_eq!((account.living.len(), account.drained, account.cut), (1, 0, 1));
    ledger.retire(&board, 1, true);
    assert_eq!(ledger.read(&board), account, "the seat is empty already");
}

#[test]
fn a_server_is_ready_while_it_serves_and_has_a_worker() {
    let (board, ledger) = (Scoreboard::map(1, 1, 1).unwrap(), Ledger::map().unwrap());
    let is_ready = || ledger.read(&board).is_ready();
    let seat = board.seat(0).unwrap();
    ledger.take(0);
    seat.occupy(1);
    seat.enter(Phase::Running, None);
    assert!(!is_ready());
    ledger.enter(ServerStage::Serving, 1);
    assert!(is_ready());
    seat.clear();
    assert!(!is_ready());
    seat.occupy(1);
    seat.enter(Phase::Running, None);
    for stage in [ServerStage::Lameduck, ServerStage::Stopping, ServerStage::Starting] {
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
fn d19_connections_moved_by_an_upgrade_do_not_count_as_queued() {
    let (board, ledger) = (Scoreboard::map(1, 1, 1).unwrap(), Ledger::map().unwrap());
    let seat = board.seat(0).unwrap();
    ledger.take(0);
    seat.occupy(1);
    let (account, counters) = (|| ledger.read(&board), seat.counters());
    (0..5).for_each(|_| counters.adopted.increment());
    (0..2).for_each(|_| counters.handed.increment());
    assert_eq!((account().in_queue(), account().total().in_hand()), (0, 3), "some came from another server");
    ledger.balance_queue(&board);
    assert_eq!((account().in_queue(), account().foreign_handoffs), (0, -3));
    counters.handed.increment();
    assert_eq!((account().in_queue(), account().total().in_hand()), (1, 2));
}
