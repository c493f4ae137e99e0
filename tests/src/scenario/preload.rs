//! An application that is built once, in the arbiter, for all workers.

use rustix::process::Signal;

use super::get;
use super::hooks::{journal, wait, with_journal};
use crate::Harness;
use crate::client::PATIENCE;
use crate::process::Server;

/// The processes in which the application was built, in order.
fn builders(server: &Server) -> Vec<u64> {
    let all = journal(server);
    assert!(
        all.iter().all(|entry| entry.what != "build" || entry.facts == "slot=0 preloaded=true"),
        "{all:#?}"
    );
    all.iter().filter(|entry| entry.what == "build").map(|entry| entry.pid).collect()
}

pub(crate) fn preload_builds_one_application_for_all_workers(harness: &Harness) {
    let mut server = with_journal(harness, "").serve(&["-w", "2", "--preload"]);
    assert_eq!(builders(&server), [server.arbiter().id()]);
    // Request counts and the drain are the worker's own: a preloaded application reads them from
    // the worker it runs in.
    let mut client = server.connect();
    let before = client.get("/info").number("requests");
    assert_eq!(client.get("/info").number("requests"), before + 1);
    drop(client);
    let mut client = server.connect();
    client.send(get("/events"));
    let mut events = client.head();
    client.chunk().unwrap_or_else(|broken| panic!("{broken}")).expect("a stream without end goes on");
    server.drain();
    client.body(&mut events);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn a_reload_keeps_the_preloaded_application_an_upgrade_does_not(harness: &Harness) {
    let mut server = with_journal(harness, "").serve(&["--preload"]);
    let old = server.arbiter().id();
    server.arbiter().signal(Signal::HUP);
    wait(&server, 1, "child_exit", "reason=Reload");
    assert!(
        server.logs("the reload keeps the preloaded application", PATIENCE),
        "the kept application is not logged"
    );
    server.connect().get("/");
    assert_eq!(builders(&server), [old]);
    server.upgrade();
    server.connect().get("/");
    assert_eq!(builders(&server), [old, server.arbiter().id()]);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}
