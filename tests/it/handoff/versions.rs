//! Hand-off between two arbiters, which may be of two versions.

use std::path::absolute;
use std::time::Duration;

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, PATIENCE, Response};
use remuda_conformance::process::{Server, until};
use rustix::process::Signal;

use super::{INFO, METRICS, QUEUE, answered, ask, backends, connect, harness, metric, workers};

/// How a version of the fixture treats records of connections that move.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    Old,
    /// Reads the old records too, and prefers to write new ones.
    New,
}

impl Version {
    /// Makes this version the executable of `server` from the next upgrade on.
    fn install(self, server: &Server, harness: &Harness) {
        let (fixture, records) = (absolute(harness.fixture()).unwrap(), self.records());
        // The program keeps its name in argv, or the next upgrade would run another file.
        server.replace_executable(&format!(
            "#!/bin/bash\nexport {RECORDS}={records}\nexec -a \"$0\" '{}' \"$@\"\n",
            fixture.display()
        ));
    }

    /// The record versions that it reads. It writes the last one.
    fn records(self) -> &'static str {
        if self == Self::New { "1,65535" } else { "1" }
    }
}

const RECORDS: &str = "FIXTURE_RECORDS";

#[test]
fn d19_connections_move_between_compatible_record_versions() {
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
                assert_ne!(response.number("pid"), before.number("pid"), "the connection has not moved");
            }
            let requests = |response: &Response| response.number("connection_requests");
            assert_eq!((requests(&now), requests(&half)), (requests(&before) + 1, 1));
            before = now;
        };
        // To a newer version and back. Then to one that prefers records only it can read, twice:
        // after the second upgrade it writes them.
        for version in [Version::New, Version::Old, Version::New, Version::New] {
            let mut half = half_a_request(&server);
            version.install(&server, &harness);
            server.upgrade();
            expect_elsewhere(&mut idle, &mut half);
        }
        let mut half = half_a_request(&server);
        let worker = server.worker();
        server.arbiter().signal(Signal::HUP);
        assert!(worker.wait_gone(PATIENCE), "the leaving worker keeps its connections");
        expect_elsewhere(&mut idle, &mut half);
        drop(half);
        assert!(!server.log().contains("ERROR") && !server.log().contains("connections cannot move"));

        // Records that the new workers could not read are not sent: connections stay, and nothing
        // is lost.
        let worker = server.worker();
        Version::Old.install(&server, &harness);
        let mut half = half_a_request(&server);
        let new = server.begin_upgrade();
        let sentence = "connections cannot move to the new workers, which read records of versions 1; the old workers write 65535";
        assert!(server.logs(sentence, PATIENCE), "{}", server.log());
        let drains = || server.log().matches("DEBUG draining reason=upgrade").count();
        assert!(until(PATIENCE, || (drains() == 5).then_some(())).is_some(), "{}", server.log());
        half.send("st: test\r\n\r\n");
        for response in [half.response(), ask(&mut idle)] {
            assert_eq!((response.status, response.number("pid")), (200, worker.id()), "{response:?}");
            assert!(response.announces_close(), "{response:?}");
        }
        drop((half, idle));
        server.pass_to(new);
        assert_ne!(ask(&mut server.connect()).number("pid"), worker.id());
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }
}

/// A connection waits in the queue, because every worker is full, when another version takes over.
/// The new version serves it if it understands the record. Otherwise the last worker of the old
/// version does.
#[test]
fn d19_queued_connections_are_served_by_another_version() {
    let ways = [(Version::Old, Version::New), (Version::New, Version::Old)];
    for (backend, (from, to)) in backends().iter().flat_map(|backend| ways.map(|way| (backend, way))) {
        let harness = harness(backend).with_variable(RECORDS, from.records());
        let mut server = harness.serve_replaceable(&["-w", "2", "--worker-connections", "1"]);
        let [mut stays, mut moves] = [(); 2].map(|()| server.connect());
        let pids = [&mut stays, &mut moves].map(|client| ask(client).number("pid"));
        let before = server.workers(2);
        server.arbiter().signal(Signal::TTOU);
        let last = server.worker();
        // The arbiter chooses which of the two leaves.
        if pids[1] == last.id() {
            std::mem::swap(&mut stays, &mut moves);
        }
        moves.send(INFO);
        assert!(!moves.has_more(Duration::from_millis(200)), "{backend}: a full worker takes it");
        to.install(&server, &harness);
        let new = server.begin_upgrade();
        let served = moves.response();
        assert_eq!((served.status, served.number("connection_requests")), (200, 2), "{served:?}");
        let by_old = before.iter().any(|worker| worker.id() == served.number("pid"));
        assert_eq!(by_old, to == Version::Old, "{backend}: {served:?}");
        assert_eq!(served.announces_close(), by_old, "{served:?}");
        assert_eq!(ask(&mut stays).announces_close(), by_old);
        drop((stays, moves));
        server.pass_to(new);
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }
}

#[test]
fn d19_a_new_arbiter_accounts_for_connections_of_the_old_one() {
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
                let series = [
                    "connections{state=\"waiting\"}",
                    "connections_accepted_total",
                    "connections_unaccounted",
                    QUEUE,
                ];
                series.map(|series| metric::<i64>(&server, series))
            };
            let right = until(PATIENCE, || (figures() == [CONNECTIONS, 1, 0, 0]).then_some(()));
            assert!(right.is_some(), "{backend}, after {n}: {:?}", figures());
        }
        let settled = format!("[{}] DEBUG hand-off queue accounting is exact again", server.arbiter().id());
        assert!(server.logs(&settled, PATIENCE), "{backend}");
        let [stays, leaves] = &workers(&server, 2)[..] else { unreachable!("there are two") };
        let moving =
            clients.iter_mut().filter_map(answered).filter(|info| info.number("pid") == leaves.id()).count();
        stays.signal(Signal::STOP);
        assert!(stays.wait_frozen(PATIENCE), "SIGSTOP stops a process");
        server.arbiter().signal(Signal::TTOU);
        assert!(leaves.wait_gone(PATIENCE), "{backend}: the leaving worker keeps its connections");
        for (signal, queued) in [(Signal::STOP, moving), (Signal::CONT, 0)] {
            stays.signal(signal);
            let right = until(PATIENCE, || (metric::<usize>(&server, QUEUE) == queued).then_some(()));
            assert!(
                right.is_some(),
                "{backend}: {} and not {queued} are in the queue",
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
