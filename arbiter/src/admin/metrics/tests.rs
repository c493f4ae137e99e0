use remuda_core::shutdown::Phase;
use remuda_core::worker::{Ledger, Scoreboard};

use super::*;

/// An account of a server with two workers, one of which is gone.
fn account() -> Account {
    let (board, ledger) = (Scoreboard::map(2, 1, 2).unwrap(), Ledger::map().unwrap());
    ledger.enter(Stage::Serving, 2);
    for number in 0..2 {
        ledger.take(number);
        let seat = board.seat(number).unwrap();
        seat.sit(1);
        seat.enter(Phase::Running, None);
        (0..3).for_each(|_| seat.counters().requests.increment());
    }
    ledger.lost(Loss::Died);
    ledger.bury(&board, 1, false);
    ledger.read(&board)
}

/// Name with labels, and value, of each sample; panics where a line is not as the format has it.
fn samples(text: &str) -> Vec<(String, f64)> {
    assert!(text.ends_with('\n'));
    let (mut declared, mut samples) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let [kind, name, rest] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            match kind {
                "HELP" => assert!(!declared.contains(&name.to_owned()), "{name} is there twice"),
                "TYPE" => assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}"),
                _ => panic!("{line}"),
            }
            declared.push(name.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.bytes().all(is_name), "{line}");
        let family = declared.last().unwrap();
        assert!(
            name.strip_prefix(family.as_str())
                .is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix)),
            "{line}"
        );
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            assert!(labels.starts_with('{') && labels.ends_with("\"}") && labels.contains("=\""), "{line}");
        }
        samples.push((series.to_owned(), value.parse().unwrap()));
    }
    samples
}

fn value(samples: &[(String, f64)], series: &str) -> f64 {
    let found: Vec<_> = samples.iter().filter(|(name, _)| name == series).collect();
    assert_eq!(found.len(), 1, "{series}: {found:?}");
    found[0].1
}

#[test]
fn the_living_and_the_gone_are_counted_together() {
    let samples = samples(&render(&account(), &[], now()));
    let value = |series| value(&samples, series);
    assert_eq!((value("remuda_requests_total"), value("remuda_requests_aborted_total")), (6.0, 3.0));
    assert_eq!(
        (value("remuda_workers_wanted"), value("remuda_workers"), value("remuda_ready")),
        (2.0, 1.0, 1.0)
    );
    assert_eq!(value("remuda_requests_in_flight"), 3.0);
    assert_eq!(value("remuda_worker_restarts_total{reason=\"died\"}"), 1.0);
    assert_eq!(value("remuda_stage{stage=\"serving\"}"), 1.0);
    assert_eq!(value("remuda_stage{stage=\"lameduck\"}"), 0.0);
}

#[test]
fn d19_what_is_open_and_what_is_on_its_way_is_all_there_is() {
    let mut account = account();
    (account.gone.accepted, account.gone.handed, account.gone.ended) = (9, 6, 3);
    let counts = &mut account.living[0].counts;
    (counts.accepted, counts.adopted, counts.ended, counts.queued) = (1, 4, 2, 250_000_000);
    account.living[0].open = 3;
    let value = |account: &Account, series| value(&samples(&render(account, &[], now())), series);
    for (series, expected) in [
        ("remuda_connections_total", 10.0),
        ("remuda_handoff_connections_total{direction=\"out\"}", 6.0),
        ("remuda_handoff_connections_total{direction=\"in\"}", 4.0),
        ("remuda_handoff_queue", 2.0),
        ("remuda_handoff_queue_seconds_total", 0.25),
        ("remuda_handoff_held_total{reason=\"late\"}", 0.0),
        ("remuda_connections_unaccounted", 0.0),
    ] {
        assert_eq!(value(&account, series), expected, "{series}");
    }
    account.living[0].counts.unusable = 1;
    assert_eq!(value(&account, "remuda_handoff_queue"), 1.0);
    assert_eq!(value(&account, "remuda_connections_unaccounted"), 0.0, "lost, and known to be");
    account.living[0].open = 2;
    assert_eq!(value(&account, "remuda_connections_unaccounted"), 1.0);

    // An upgrade has brought some.
    let counts = &mut account.living[0].counts;
    (counts.adopted, account.living[0].open, account.strangers) = (14, 13, -10);
    assert_eq!(value(&account, "remuda_handoff_queue"), 1.0);
    assert_eq!(value(&account, "remuda_connections_unaccounted"), 0.0);
}

#[test]
fn a_histogram_counts_up_to_its_count() {
    let mut account = account();
    account.gone.times = std::array::from_fn(|bucket| bucket as u64);
    account.gone.took = 1_500_000_000;
    let samples = samples(&render(&account, &[], now()));
    let buckets: Vec<_> =
        samples.iter().filter(|(name, _)| name.contains("_bucket{")).map(|(_, count)| *count).collect();
    assert_eq!(buckets.len(), BUCKETS.len() + 1);
    assert!(buckets.is_sorted());
    let value = |series| value(&samples, series);
    assert_eq!(value("remuda_request_duration_seconds_bucket{le=\"0.0025\"}"), 1.0);
    assert_eq!(value("remuda_request_duration_seconds_bucket{le=\"+Inf\"}"), 91.0);
    assert_eq!(value("remuda_request_duration_seconds_count"), 91.0);
    assert_eq!(value("remuda_request_duration_seconds_sum"), 1.5);
}

#[test]
fn a_label_may_be_anything() {
    let queues = [("unix:a\"b\\c\nd".to_owned(), 7)];
    let samples = samples(&render(&account(), &queues, now()));
    assert_eq!(value(&samples, r#"remuda_backlog{listener="unix:a\"b\\c\nd"}"#), 7.0);
}
