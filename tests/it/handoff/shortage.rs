//! Hand-off when descriptors are short, by workers without privileges.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use remuda_conformance::client::{PATIENCE, Response};
use remuda_conformance::process::until;
use rustix::process::{Signal, geteuid};

use super::{METRICS, OUT, answered, ask, backends, connect, harness, metric, report, workers};

/// A hand-off by workers without privileges. A user may have no more descriptors in flight than
/// each process may open (unix(7), `ETOOMANYREFS`).
#[test]
fn d19_a_sender_with_too_many_descriptors_in_flight_retries() {
    const CONNECTIONS: usize = 400;
    for backend in backends() {
        let harness = harness(backend).started_by(&["bash", "-c", "ulimit -S -n 256; exec \"$@\"", "bash"]);
        let args = ["-w", "2", "--keep-alive", "60", "--reload-concurrency", "2"];
        let server = harness.serve(&[&args, METRICS, unprivileged()].concat());
        let senders = workers(&server, 2);
        let mut clients = connect(&server, CONNECTIONS);
        // The next workers receive a few.
        server.arbiter().limit_descriptors_for_now(Some(64));
        server.arbiter().signal(Signal::HUP);
        let held = |why| metric::<usize>(&server, &format!("handoff_held_total{{reason=\"{why}\"}}"));
        let refused = until(PATIENCE, || (held("exhausted") > 0).then_some(()));
        assert!(refused.is_some(), "{backend}: the kernel refuses nothing");
        let at_first = metric(&server, OUT);
        assert!((1..CONNECTIONS).contains(&at_first), "{backend}: {at_first} have left");
        // Another worker receives the others.
        server.arbiter().limit_descriptors_for_now(None);
        server.arbiter().signal(Signal::TTIN);
        // On a very busy machine some connections may have waited too long and stay.
        let have_left = || senders.iter().all(|sender| sender.wait_gone(Duration::ZERO));
        let settled = until(PATIENCE, || (have_left() || held("late") > 0).then_some(()));
        assert!(settled.is_some(), "{backend}: the hand-off is not tried again");
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

/// Busy clients and idle ones, while workers without privileges that may open 256 descriptors are
/// replaced. Then one worker is removed, and there is no room for all.
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
                assert!(
                    server.logs("a connection has waited in the hand-off queue", PATIENCE),
                    "{backend}: the queue is not logged"
                );
                waiting.truncate(WAIT / 2);
                assert!(server.logs("the hand-off queue is empty again", PATIENCE), "{backend}");
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

/// Connections move to workers in which two threads open files up to the limit, close them and
/// begin again: a descriptor that was free when the receiver looked is taken when the kernel needs
/// it. The connection then stays in the queue.
#[test]
fn d19_threads_taking_the_last_descriptor_lose_no_connection() {
    const CONNECTIONS: usize = 150;
    const ROUNDS: usize = 8;
    for backend in backends() {
        let harness = harness(backend).started_by(&["bash", "-c", "ulimit -n 256; exec \"$@\"", "bash"]);
        let harness = harness.with_variable("FIXTURE_HOARD", "500");
        let server = harness.serve(&[&["--keep-alive", "60"], METRICS].concat());
        let mut clients = connect(&server, CONNECTIONS);
        for round in 0..ROUNDS {
            let old = workers(&server, 1).remove(0);
            server.arbiter().signal(Signal::HUP);
            assert!(old.wait_gone(PATIENCE), "{backend}, round {round}: the worker keeps its connections");
            let answered = clients.iter_mut().filter_map(answered).count();
            assert_eq!(answered, CONNECTIONS, "{backend}, round {round}");
        }
        let value = |series: &str| metric::<usize>(&server, series);
        assert_eq!((value("handoff_lost_total"), value(OUT)), (0, ROUNDS * CONNECTIONS), "{backend}");
        let scarce = server.log().matches("cannot receive handed-off connections").count();
        report(&format!(
            "{backend}: {} connections moved, and {scarce} times no descriptor was free",
            value(OUT)
        ));
        assert!(scarce > 0, "{backend}: descriptors were never short");
    }
}

/// A setting that makes workers run without privileges.
fn unprivileged() -> &'static [&'static str] {
    if geteuid().is_root() { &["--user", "nobody"] } else { &[] }
}
