//! Hand-off between two arbiters, which may be of two versions.

use std::path::absolute;
use std::time::Duration;

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, PATIENCE, Response};
use remuda_conformance::process::{Server, until};
use rustix::process::Signal;

use super::{INFO, METRICS, QUEUE, answered, ask, backends, connect, harness, metric, workers};

/// What a version of the fixture does with records of connections that move.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    Old,
    /// It reads those of the old one, and would rather write others.
    New,
}

impl Version {
    /// Makes it the executable of `server` from the next upgrade on.
    fn install(self, server: &Server, harness: &Harness) {
        let (fixture, records) = (absolute(harness.fixture()).unwrap(), self.records());
        // It is called by the same name, or the next upgrade would run something else.
        server.replace_executable(&format!(
            "#!/bin/bash\nexport {RECORDS}={records}\nexec -a \"$0\" '{}' \"$@\"\n",
            fixture.display()
        ));
    }

    /// What it reads, and what it writes last.
    fn records(self) -> &'static str {
        if self == Self::New { "1,65535" } else { "1" }
    }
}

const RECORDS: &str = "FIXTURE_RECORDS";

#[test]
fn d19_connections_move_between_versions_of_their_record_as_long_as_they_are_understood() {
    for backend in backends() {
        let harness = harness(backend).with_variable(RECORDS, Version::Old.records());
        let mut server = harness.serve_replaceable(&["--keep-alive", "60", "--log-level", "debug"]);
        let mut idle = server.connect();
        let mut before = ask(&mut idle);
        let mut expect_elsewhere = |idle: &mut Client, half: &mut Client| {
            half.send("st: test\r\n\r\n");
            let (half, now) = (half.response(), ask(idle));
            for response in [&half, &now] {
                assert_eq!(response.status, 200, "{response:?}");
                assert!(!response.announces_close(), "{response:?}");
                assert_ne!(response.number("pid"), before.number("pid"), "it has not moved");
            }
            let requests = |response: &Response| response.number("connection_requests");
            assert_eq!((requests(&now), requests(&half)), (requests(&before) + 1, 1));
            before = now;
        };
        // To a newer one, and back; and to one that would write what only its like reads, twice, which then does.
        for version in [Version::New, Version::Old, Version::New, Version::New] {
            let mut half = half_a_request(&server);
            version.install(&server, &harness);
            server.upgrade();
            expect_elsewhere(&mut idle, &mut half);
        }
        let mut half = half_a_request(&server);
        let worker = server.worker();
        server.arbiter().signal(Signal::HUP);
        assert!(worker.wait_gone(PATIENCE), "connections keep the worker that leaves");
        expect_elsewhere(&mut idle, &mut half);
        drop(half);
        assert!(!server.log().contains("ERROR") && !server.log().contains("no connection moves"));

        // What nobody would read is not sent: connections stay, and nothing is lost.
        let worker = server.worker();
        Version::Old.install(&server, &harness);
        let mut half = half_a_request(&server);
        let heir = server.begin_upgrade();
        let sentence = "no connection moves to the new workers: they read records of versions 1, and the old ones write 65535";
        assert!(server.logs(sentence, PATIENCE), "{}", server.log());
        let drains = || server.log().matches("DEBUG draining reason=upgrade").count();
        assert!(until(PATIENCE, || (drains() == 5).then_some(())).is_some(), "{}", server.log());
        half.send("st: test\r\n\r\n");
        for response in [half.response(), ask(&mut idle)] {
            assert_eq!((response.status, response.number("pid")), (200, worker.id()), "{response:?}");
            assert!(response.announces_close(), "{response:?}");
        }
        drop((half, idle));
        server.pass_to(heir);
        assert_ne!(ask(&mut server.connect()).number("pid"), worker.id());
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }
}

/// A connection waits in the queue, because every worker is full, when another version takes over. It is the new one's where
/// that understands it, and otherwise the last worker's of the old one.
#[test]
fn d19_who_waits_in_the_queue_when_another_version_takes_over_is_served() {
    let ways = [(Version::Old, Version::New), (Version::New, Version::Old)];
    for (backend, (from, to)) in backends().iter().flat_map(|backend| ways.map(|way| (backend, way))) {
        let harness = harness(backend).with_variable(RECORDS, from.records());
        let mut server = harness.serve_replaceable(&["-w", "2", "--worker-connections", "1"]);
        let [mut stays, mut moves] = [(); 2].map(|()| server.connect());
        let pids = [&mut stays, &mut moves].map(|client| ask(client).number("pid"));
        let before = server.workers(2);
        server.arbiter().signal(Signal::TTOU);
        let last = server.worker();
        // It is not ours to choose which of them leaves.
        if pids[1] == last.id() {
            std::mem::swap(&mut stays, &mut moves);
        }
        moves.send(INFO);
        assert!(!moves.has_more(Duration::from_millis(200)), "{backend}: a full worker takes it");
        to.install(&server, &harness);
        let heir = server.begin_upgrade();
        let served = moves.response();
        assert_eq!((served.status, served.number("connection_requests")), (200, 2), "{served:?}");
        let by_old = before.iter().any(|worker| worker.id() == served.number("pid"));
        assert_eq!(by_old, to == Version::Old, "{backend}: {served:?}");
        assert_eq!(served.announces_close(), by_old, "{served:?}");
        assert_eq!(ask(&mut stays).announces_close(), by_old);
        drop((stays, moves));
        server.pass_to(heir);
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }
}

#[test]
fn d19_connections_of_the_old_arbiter_are_accounted_for_by_the_new_one() {
    const CONNECTIONS: i64 = 20;
    for backend in backends() {
        let args = ["-w", "2", "--keep-alive", "60", "--log-level", "debug"];
        let mut server = harness(backend).serve(&[&args, METRICS].concat());
        let mut clients = connect(&server, CONNECTIONS as usize);
        for n in 1..=2 {
            server.upgrade();
            clients.iter_mut().for_each(|client| drop(ask(client)));
            drop(clients.pop());
            clients.push(server.connect());
            clients.iter_mut().for_each(|client| drop(ask(client)));
            let figures = || {
                let series =
                    ["connections{state=\"waiting\"}", "connections_total", "connections_unaccounted", QUEUE];
                series.map(|series| metric::<i64>(&server, series))
            };
            let right = until(PATIENCE, || (figures() == [CONNECTIONS, 1, 0, 0]).then_some(()));
            assert!(right.is_some(), "{backend}, after {n}: {:?}", figures());
        }
        let settled =
            format!("[{}] DEBUG the account of the hand-off queue is in order", server.arbiter().id());
        assert!(server.logs(&settled, PATIENCE), "{backend}");
        let [stays, leaves] = &workers(&server, 2)[..] else { unreachable!("there are two") };
        let moving =
            clients.iter_mut().filter_map(answered).filter(|info| info.number("pid") == leaves.id()).count();
        stays.signal(Signal::STOP);
        assert!(stays.wait_frozen(PATIENCE), "SIGSTOP stops a process");
        server.arbiter().signal(Signal::TTOU);
        assert!(leaves.wait_gone(PATIENCE), "{backend}: connections keep the worker that leaves");
        for (signal, queued) in [(Signal::STOP, moving), (Signal::CONT, 0)] {
            stays.signal(signal);
            let right = until(PATIENCE, || (metric::<usize>(&server, QUEUE) == queued).then_some(()));
            assert!(
                right.is_some(),
                "{backend}: {} and not {queued} are on their way",
                metric::<usize>(&server, QUEUE)
            );
        }
    }
}

/// A connection on which part of a request's head has arrived.
fn half_a_request(server: &Server) -> Client {
    let mut client = server.connect();
    client.send("GET /info HTTP/1.1\r\nHo");
    server.catch_up();
    client
}
