//! Hand-off where descriptors are short, by workers without privileges.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use remuda_conformance::client::{PATIENCE, Response};
use remuda_conformance::process::until;
use rustix::process::{Signal, geteuid};

use super::{METRICS, OUT, answered, ask, backends, connect, harness, metric, report, workers};

/// A hand-off by workers without privileges, of whose user no more descriptors may be on their way than each may open (unix(7),
/// `ETOOMANYREFS`).
#[test]
fn d19_who_has_too_many_connections_on_their_way_tries_again() {
    const CONNECTIONS: usize = 400;
    for backend in backends() {
        let harness = harness(backend).started_by(&["bash", "-c", "ulimit -S -n 256; exec \"$@\"", "bash"]);
        let args = ["-w", "2", "--keep-alive", "60", "--reload-concurrency", "2"];
        let server = harness.serve(&[&args, METRICS, unprivileged()].concat());
        let senders = workers(&server, 2);
        let mut clients = connect(&server, CONNECTIONS);
        // The next workers take a few.
        server.arbiter().limit_descriptors_for_now(Some(64));
        server.arbiter().signal(Signal::HUP);
        let held = |why| metric::<usize>(&server, &format!("handoff_held_total{{reason=\"{why}\"}}"));
        let refused = until(PATIENCE, || (held("exhausted") > 0).then_some(()));
        assert!(refused.is_some(), "{backend}: it never happens");
        let at_first = metric(&server, OUT);
        assert!((1..CONNECTIONS).contains(&at_first), "{backend}: {at_first} have left");
        // One more takes the others.
        server.arbiter().limit_descriptors_for_now(None);
        server.arbiter().signal(Signal::TTIN);
        // On a machine that is very busy some may have waited for too long, and stay.
        let have_left = || senders.iter().all(|sender| sender.wait_gone(Duration::ZERO));
        let settled = until(PATIENCE, || (have_left() || held("late") > 0).then_some(()));
        assert!(settled.is_some(), "{backend}: it is not tried again");
        let answers: Vec<_> = clients.iter_mut().filter_map(answered).collect();
        assert_eq!(answers.len(), CONNECTIONS, "{backend}");
        let stayed = |info: &&Response| senders.iter().any(|sender| sender.id() == info.number("pid"));
        let moved = CONNECTIONS - answers.iter().filter(stayed).count();
        report(&format!(
            "{backend}: {moved} of {CONNECTIONS} connections moved, {at_first} before the kernel refused more, which it did {} times",
            held("exhausted")
        ));
        assert!(moved > at_first && held("failed") == 0, "{backend}");
    }
}

/// Clients that ask, and others that wait, while workers without privileges that may open 256 descriptors are replaced; and
/// then there is one less, and no room for all.
#[test]
fn d19_few_descriptors_lose_no_connection() {
    const ASK: usize = 64;
    const WAIT: usize = 236;
    const ROUNDS: usize = 3;
    const THOUGHT: Duration = Duration::from_millis(10);
    for backend in backends() {
        let harness = harness(backend).started_by(&["bash", "-c", "ulimit -n 256; exec \"$@\"", "bash"]);
        let args = ["-w", "2", "--keep-alive", "60", "--control-socket", "control.sock"];
        let server = harness.serve(&[&args, METRICS, unprivileged()].concat());
        let mut waiting: Vec<_> = (0..WAIT).map(|_| server.connect()).collect();
        waiting.iter_mut().for_each(|client| drop(ask(client)));
        let asked = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..ASK {
                scope.spawn(|| {
                    let mut client = server.connect();
                    for n in 1.. {
                        thread::sleep(THOUGHT);
                        let info = ask(&mut client);
                        assert!(
                            !info.announces_close() && info.number("connection_requests") == n,
                            "{info:?}"
                        );
                        asked.fetch_add(1, Ordering::Relaxed);
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            let result = catch_unwind(AssertUnwindSafe(|| {
                for _ in 0..ROUNDS {
                    let recycle =
                        harness.sub_command(&server.dir().join("control.sock"), &["recycle"]).output();
                    assert!(recycle.unwrap().status.success(), "{backend}");
                    waiting.iter_mut().for_each(|client| drop(ask(client)));
                }
                server.arbiter().signal(Signal::TTOU);
                assert!(server.logs("waits in the hand-off queue", PATIENCE), "{backend}: nobody is told");
                waiting.truncate(WAIT / 2);
                assert!(
                    server.logs("no connection waits in the hand-off queue any more", PATIENCE),
                    "{backend}"
                );
                waiting.iter_mut().for_each(|client| drop(ask(client)));
            }));
            over.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| resume_unwind(panic));
        });
        let value = |series: &str| metric::<usize>(&server, series);
        let held = ["full", "exhausted", "late", "failed"]
            .map(|why| value(&format!("handoff_held_total{{reason=\"{why}\"}}")));
        report(&format!(
            "{backend}: {} requests of {ASK} clients, {WAIT} connections more: {} times one has left and {} times one has come; \
             held (full, exhausted, late, failed) {held:?}; 0 lost",
            asked.into_inner(),
            value(OUT),
            value("handoff_connections_total{direction=\"in\"}"),
        ));
        assert!(value(OUT) >= ROUNDS * (ASK + WAIT), "{backend}");
        assert_eq!((held[3], value("handoff_lost_total")), (0, 0), "{backend}");
    }
}

/// What makes workers run as somebody with no privileges.
fn unprivileged() -> &'static [&'static str] {
    if geteuid().is_root() { &["--user", "nobody"] } else { &[] }
}
