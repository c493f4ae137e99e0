use remuda_core::shutdown::Phase;
use remuda_core::worker::{Ledger, Scoreboard};

use super::*;
use crate::admin::processes::Descriptors;

/// An account of a server with a living and an ended worker.
fn account() -> Account {
    let (board, ledger) = (Scoreboard::map(2, 1, 2).unwrap(), Ledger::map().unwrap());
    ledger.enter(ServerStage::Serving, 2);
    for number in 0..2 {
        ledger.take(number);
        let seat = board.seat(number).unwrap();
        seat.occupy(1);
        seat.enter(Phase::Running, None);
        (0..3).for_each(|_| seat.counters().requests.increment());
    }
    ledger.lost(Loss::Died);
    ledger.retire(&board, 1, false);
    ledger.read(&board)
}

/// The page of `account`, with resources of processes.
fn page(account: &Account, queues: &[(String, u32)], notation: Notation) -> String {
    let descriptors = Some(Descriptors { open: 9, limit: 1024 });
    let usage = Usage { cpu: 1.5, resident: 1 << 20, space: 1 << 30, started: Some(1.8e9), descriptors };
    Seen { account, queues, usage: Some(usage), program: "7 \"x\"" }.page(notation, now())
}

fn render(account: &Account) -> String {
    page(account, &[], Notation::Text)
}

/// Name with labels, and value, of each sample. Panics at a malformed line.
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
fn living_and_ended_workers_are_counted_together() {
    let samples = samples(&render(&account()));
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
fn d19_open_and_queued_connections_are_all_accounted_for() {
    let mut account = account();
    (account.gone.accepted, account.gone.handed, account.gone.ended) = (9, 6, 3);
    let counts = &mut account.living[0].counts;
    (counts.accepted, counts.adopted, counts.ended, counts.queued) = (1, 4, 2, 250_000_000);
    account.living[0].open = 3;
    let value = |account: &Account, series| value(&samples(&render(account)), series);
    for (series, expected) in [
        ("remuda_connections_accepted_total", 10.0),
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

    // Some connections came by an upgrade.
    let counts = &mut account.living[0].counts;
    (counts.adopted, account.living[0].open, account.foreign_handoffs) = (14, 13, -10);
    assert_eq!(value(&account, "remuda_handoff_queue"), 1.0);
    assert_eq!(value(&account, "remuda_connections_unaccounted"), 0.0);
}

#[test]
fn a_histogram_counts_up_to_its_count() {
    let mut account = account();
    account.gone.times = std::array::from_fn(|bucket| bucket as u64);
    account.gone.took = 1_500_000_000;
    let samples = samples(&render(&account));
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
fn a_label_may_contain_any_character() {
    let queues = [("unix:a\"b\\c\nd".to_owned(), 7)];
    let samples = samples(&page(&account(), &queues, Notation::Text));
    assert_eq!(value(&samples, r#"remuda_backlog{listener="unix:a\"b\\c\nd"}"#), 7.0);
}

/// The families of a page, by name and kind.
fn families(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[test]
fn names_of_families_are_unique() {
    let text = page(&account(), &[("a".into(), 1)], Notation::OpenMetrics);
    let mut names = Vec::new();
    for (name, kind) in families(&text) {
        // Names that a family reserves besides its own (OpenMetrics 1.0, "Suffixes").
        let suffixes: &[&str] = match kind {
            "gauge" => &[],
            "counter" => &["_total", "_created"],
            "histogram" => &["_bucket", "_sum", "_count", "_created"],
            "info" => &["_info"],
            other => panic!("{name} is a {other}"),
        };
        assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name} says its kind twice");
        names.push(name.to_owned());
        names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty() && names.len() > 50, "{twice:?}");
}

#[test]
fn both_formats_have_the_same_samples_under_their_own_heads() {
    let (account, queues) = (account(), [("unix:a\"b".to_owned(), 7)]);
    let [text, open] = [Notation::Text, Notation::OpenMetrics].map(|one| page(&account, &queues, one));
    let samples = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(samples(&text), samples(&open));
    assert!(text.contains("# TYPE remuda_requests_total counter\nremuda_requests_total 6\n"));
    assert!(open.contains("# TYPE remuda_requests counter\nremuda_requests_total 6\n"));
    let build = format!("{{version=\"{}\",program=\"7 \\\"x\\\"\"}} 1\n", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&format!("# TYPE remuda_build_info gauge\nremuda_build_info{build}")), "{text}");
    assert!(open.contains(&format!("# TYPE remuda_build info\nremuda_build_info{build}")), "{open}");
    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1 && !text.contains("EOF"));
    for series in ["process_cpu_seconds_total 1.5", "process_open_fds 9", "process_max_fds 1024"] {
        assert!(text.contains(&format!("\n{series}\n")), "{series}: {text}");
    }
    assert!(text.contains("_bucket{le=\"1.0\"}"), "{text}");
}

#[test]
fn a_client_that_names_open_metrics_gets_it() {
    let prometheus =
        b"application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Notation::accepted(Some(prometheus)), Notation::OpenMetrics);
    for other in [None, Some(&b"*/*"[..]), Some(b"text/plain"), Some(b"")] {
        assert_eq!(Notation::accepted(other), Notation::Text);
    }
}
