//! Hand-off (D19) where it takes more than one server of one kind: two versions of it, or deaths, or a system that refuses.

use std::path::{Path, absolute};

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, PATIENCE, Response};
use remuda_conformance::process::{Server, until};
use rustix::process::Signal;

const INFO: &str = "GET /info HTTP/1.1\r\nHost: test\r\n\r\n";

fn harness(backend: &str) -> Harness {
    Harness::new(backend, "blocking", Path::new(env!("CARGO_BIN_EXE_fixture")))
}

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
        let fixture = absolute(harness.fixture()).unwrap();
        let variable =
            if self == Self::New { "export FIXTURE_RECORDS=trial" } else { "unset FIXTURE_RECORDS" };
        // It is called by the same name, or the next upgrade would run something else.
        let script = format!("#!/bin/bash\n{variable}\nexec -a \"$0\" '{}' \"$@\"\n", fixture.display());
        server.replace_executable(&script);
    }
}

#[test]
fn d19_connections_move_between_versions_of_their_record_as_long_as_they_are_understood() {
    for backend in ["sync", "tokio"] {
        let harness = harness(backend);
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

/// Asks and is answered.
#[track_caller]
fn ask(client: &mut Client) -> Response {
    client.send(INFO);
    let response = client.response();
    assert_eq!(response.status, 200, "{response:?}");
    response
}

/// A connection on which part of a request's head has arrived.
fn half_a_request(server: &Server) -> Client {
    let mut client = server.connect();
    client.send("GET /info HTTP/1.1\r\nHo");
    server.catch_up();
    client
}
