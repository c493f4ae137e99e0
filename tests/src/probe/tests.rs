//! Which observations count as differences.

use super::*;
use crate::client::End;

/// A report in which both backends show the same in every row.
fn report() -> Report {
    let seen = Seen {
        answers: vec![200],
        cut: false,
        announced: true,
        answered: Some(1.0),
        end: End::Fin,
        ended: 2.0,
        status: Some(0),
        gone: Some(2.0),
    };
    let cells = (0..ROWS.len())
        .flat_map(|row| [0, 1].into_iter().flat_map(move |app| [(row, app, 0), (row, app, 1)]));
    let seen: BTreeMap<Cell, Seen> = cells.map(|cell| (cell, seen.clone())).collect();
    Report { backends: vec!["sync".into(), "other".into()], together: seen.clone(), seen }
}

/// The number of differences after `change` was made to one cell.
fn differences(cell: Cell, change: fn(&mut Seen)) -> usize {
    let mut report = report();
    change(report.seen.get_mut(&cell).expect("it is there"));
    report.differences().len()
}

#[test]
fn times_may_differ_by_250_ms() {
    assert_eq!(differences((2, 1, 1), |seen| seen.ended = 2.2), 0);
    assert_eq!(differences((2, 1, 1), |seen| seen.ended = 2.3), 1);
    assert_eq!(differences((2, 1, 1), |seen| seen.gone = Some(2.3)), 1);
}

#[test]
fn what_is_seen_may_not_differ() {
    assert_eq!(differences((2, 0, 1), |seen| seen.announced = false), 1);
    assert_eq!(differences((2, 1, 0), |seen| seen.end = End::Reset), 1);
    assert_eq!(differences((2, 1, 0), |seen| seen.cut = true), 1);
    assert_eq!(differences((2, 1, 0), |seen| seen.status = Some(6)), 1);
}

#[test]
fn other_rows_on_the_server_may_make_no_difference() {
    let mut report = report();
    report.together.get_mut(&(3, 0, 0)).expect("it is there").answers.clear();
    assert_eq!(report.differences().len(), 1, "{:?}", report.differences());
}

#[test]
fn kinds_of_application_may_make_no_difference() {
    assert_eq!(differences((4, 1, 1), |seen| seen.answers = vec![501]), 1);
}

#[test]
fn a_printed_table_is_compared() {
    let report = report();
    let table = report.to_string();
    assert_eq!(report.differences_from(&table), [""; 0]);
    assert_eq!(report.differences_from(&table.replacen("2.0 |", "3.0 |", 1)).len(), 1);
    assert_eq!(report.differences_from(&table.replacen("yes", "no", 1)).len(), 1);
    assert_eq!(report.differences_from("").len(), ROWS.len() * APPLICATIONS.len());
}

#[test]
fn a_backend_with_one_handler_is_skipped_by_name() {
    assert!(report().skipped().expect("sync is").contains("sync,"));
}
