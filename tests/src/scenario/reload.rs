//! Reloads (D16): a new configuration takes over without a client noticing, or leaves everything as it is.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use super::backlog::{freeze, thaw};
use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Address, Client, End, PATIENCE, Response};
use crate::process::{Process, Server, until};

/// What the log says of a reload that was not to be.
const NOT_RELOADED: &str = "not reloaded, the server goes on as before";

pub(crate) fn d16_reloads_under_load_lose_no_request_and_refuse_no_connect(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let first = ids(&server.workers(2));
    under_load(&server, || {
        for generation in 2..=5 {
            reload(&server, generation);
            assert!(server.processes() <= 3, "one more at a time");
        }
    });
    assert!(first.is_disjoint(&ids(&server.workers(2))), "an old worker is left");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = server.log();
    assert!(!log.contains("ended with signal") && !log.contains("ended with status"), "{log}");
}

pub(crate) fn d16_old_workers_serve_on_until_new_ones_are_ready(harness: &Harness) {
    let server = harness.serve(&[]);
    let first = server.worker();
    let mut client = server.connect();
    client.get("/");
    let obstacle = server.dir().join("stall-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    server.arbiter().signal(Signal::HUP);
    assert!(until(PATIENCE, || (!obstacle.exists()).then_some(())).is_some(), "no new worker boots");
    for mut client in [client, server.connect()] {
        for _ in 0..3 {
            let info = client.get("/info");
            assert_eq!((info.number("pid"), info.announces_close()), (first.id(), false));
        }
    }
}

pub(crate) fn d16_new_settings_take_effect(harness: &Harness) {
    let mut server = harness.serve_file(&settings(harness, "keep-alive = 60\ndrain-reload = \"finish\"\n"));
    let mut old = server.connect();
    assert_eq!(old.get("/info").number("generation"), 1);
    assert!(!server.log().contains("DEBUG"), "nobody has asked for that");
    server.write_settings(&settings(harness, "keep-alive = 1\nlog-level = \"debug\"\n"));
    reload(&server, 2);
    let mut new = connection_to(&server, 2);
    let start = Instant::now();
    assert_eq!(new.end(PATIENCE), End::Fin);
    took("an idle connection ended", start, 0.9..2.5);
    old.send(get("/info"));
    assert_eq!(old.last_response(200).number("generation"), 1);
    assert!(server.logs("DEBUG", PATIENCE), "the log has its old level");

    server.write_settings(&settings(harness, "log-format = \"json\"\n"));
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("\"level\":\"INFO\"", PATIENCE), "the log has its old format");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d16_broken_settings_leave_everything_as_it_is(harness: &Harness) {
    let server = harness.serve_file(&settings(harness, "workers = 2\n"));
    let workers = ids(&server.workers(2));
    let mut client = server.connect();
    client.get("/");
    under_load(&server, || {
        for (text, why) in [
            ("workers = = 3\n", "remuda.toml line 3"),
            ("workers = 0\n", "workers is \"0\""),
            ("wrokers = 3\n", "wrokers"),
            ("threads = 1000\n", "threads is 1000"),
        ] {
            server.write_settings(&settings(harness, text));
            fail_to_reload(&server, why);
        }
        fs::remove_file(server.dir().join("remuda.toml")).expect("it was written");
        server.write_settings("bind = []\n");
        fail_to_reload(&server, "bind");
    });
    assert_eq!(ids(&server.workers(2)), workers);
    assert!(!client.get("/").announces_close());
    server.write_settings(&settings(harness, "workers = 1\n"));
    reload(&server, 2);
    server.worker();
}

pub(crate) fn d16_an_application_that_does_not_load_leaves_the_old_generation_serving(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let workers = ids(&server.workers(2));
    let obstacle = server.dir().join("fail-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    under_load(&server, || {
        for _ in 0..3 {
            fail_to_reload(&server, "there is a file fail-boot");
        }
    });
    assert_eq!(ids(&server.workers(2)), workers);
    assert_eq!(server.log().matches("worker could not start").count(), 3, "nothing is tried again");
    fs::remove_file(&obstacle).expect("it was written");
    reload(&server, 5);
    assert!(ids(&server.workers(2)).is_disjoint(&workers), "an old worker is left");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d16_a_worker_that_dies_as_it_builds_the_application_leaves_the_old_generation_serving(
    harness: &Harness,
) {
    let server = harness.serve(&["-w", "2"]);
    let workers = ids(&server.workers(2));
    let obstacle = server.dir().join("crash-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    under_load(&server, || {
        for times in 1..=3 {
            fail_to_reload(&server, "before it was ready");
            assert_eq!(server.log().matches("worker ended with").count(), times, "nothing is tried again");
        }
    });
    assert_eq!(ids(&server.workers(2)), workers);
    fs::remove_file(&obstacle).expect("it was written");
    reload(&server, 5);
    assert!(ids(&server.workers(2)).is_disjoint(&workers), "an old worker is left");
}

pub(crate) fn d16_an_application_that_does_not_load_in_time_leaves_the_old_generation_serving(
    harness: &Harness,
) {
    let server = harness.serve(&["--boot-timeout", "1"]);
    let worker = server.worker();
    fs::write(server.dir().join("stall-boot"), "").expect("a file can be written");
    under_load(&server, || fail_to_reload(&server, "was not ready in time"));
    assert_eq!(server.worker().id(), worker.id());
    reload(&server, 3);
}

pub(crate) fn d16_a_changed_reuse_port_is_refused(harness: &Harness) {
    for (old, new) in [(false, true), (true, false)] {
        let text = |reuse: bool| settings(harness, &format!("reuse-port = {reuse}"));
        let server = harness.serve_file(&text(old));
        let worker = server.worker();
        server.write_settings(&text(new));
        under_load(&server, || fail_to_reload(&server, "needs upgrade"));
        assert_eq!(server.worker().id(), worker.id());
        server.write_settings(&text(old));
        reload(&server, 2);
    }
}

pub(crate) fn d16_an_address_that_is_added_is_served(harness: &Harness) {
    let server = harness.serve_file(&settings(harness, ""));
    let mut client = server.connect();
    client.get("/");
    let added = Address::Unix(server.dir().join("added.sock"));
    let both =
        format!("worker-class = \"{}\"\nbind = [\"unix:added.sock\", \"127.0.0.1:0\"]\n", harness.backend());
    server.write_settings(&both);
    let obstacle = server.dir().join("fail-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    fail_to_reload(&server, "there is a file fail-boot");
    assert!(!server.dir().join("added.sock").exists(), "what was bound is left behind");
    fs::remove_file(&obstacle).expect("it was written");
    under_load(&server, || reload(&server, 3));
    connect(&added).get("/");
    connection_to(&server, 3); // the one that stays has its port
    drop(client);
}

pub(crate) fn d16_an_address_that_is_removed_ends_and_its_backlog_is_served(harness: &Harness) {
    const WAITING: usize = 50;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free");
    let binds = |more: &str| {
        format!("worker-class = \"{}\"\nbind = [\"unix:stays.sock\"{more}]\n", harness.backend())
    };
    let mut server = harness.serve_file(&binds(&format!(", \"unix:goes.sock\", \"{free}\"")));
    let gone = [Address::Unix(server.dir().join("goes.sock")), Address::Inet(free)];
    // Nobody takes these before the old worker can go on, which is too late.
    let frozen = freeze(&server, 1);
    let mut waiting: Vec<_> = gone.iter().flat_map(|at| (0..WAITING).map(|_| connect(at))).collect();
    waiting.iter_mut().for_each(|client| client.send(get("/info")));
    server.write_settings(&binds(""));
    reload(&server, 2);
    for (n, client) in waiting.iter_mut().enumerate() {
        let response = client.try_response().unwrap_or_else(|lost| panic!("connection {n} is lost: {lost}"));
        assert_eq!((response.status, response.number("generation")), (200, 2));
    }
    for address in &gone {
        assert!(address.refused(PATIENCE).is_some(), "connects to {address:?} are never refused");
    }
    assert!(!server.dir().join("goes.sock").exists());
    assert!(waiting.iter_mut().all(|client| !client.get("/").announces_close()), "they are kept alive");
    server.connect().get("/");
    thaw(&frozen);
    assert!(frozen[0].wait_gone(PATIENCE), "the old worker does not end");
    drop(waiting);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d16_an_address_that_cannot_be_bound_changes_nothing(harness: &Harness) {
    let server = harness.serve_file(&settings(harness, ""));
    let worker = server.worker();
    let Address::Inet(held) = *server.address() else { panic!("it listens at {:?}", server.address()) };
    let other = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = other.local_addr().expect("it is bound");
    let binds = |binds: &str| format!("worker-class = \"{}\"\nbind = [{binds}]\n", harness.backend());
    under_load(&server, || {
        server.write_settings(&binds(&format!("\"unix:new.sock\", \"{taken}\"")));
        fail_to_reload(&server, "address already in use");
        server.write_settings(&binds(&format!("\"0.0.0.0:{}\"", held.port())));
        fail_to_reload(&server, "needs upgrade");
        server.write_settings(&binds("\"fd://99\""));
        fail_to_reload(&server, "needs a new start");
    });
    assert!(!server.dir().join("new.sock").exists(), "what was bound is left behind");
    assert_eq!(server.worker().id(), worker.id());
}

pub(crate) fn d16_an_inherited_listener_stays(harness: &Harness) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut server = harness.serve_inherited(&listener, &["-w", "2"]);
    under_load(&server, || (2..=4).for_each(|generation| reload(&server, generation)));
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    connect(server.address()); // nobody has ended it
}

pub(crate) fn d16_the_backend_can_be_changed(harness: &Harness) {
    let other = if harness.backend() == "mio" { "tokio" } else { "mio" };
    let server = harness.serve_file(&settings(harness, "workers = 2\n"));
    let backend = |response: &Response| {
        [harness.backend(), other].into_iter().find(|name| response.text().contains(&format!("{name:?}")))
    };
    assert_eq!(backend(&server.connect().get("/info")), Some(harness.backend()));
    server.write_settings(&format!("worker-class = \"{other}\"\nworkers = 2\nbind = \"127.0.0.1:0\"\n"));
    under_load(&server, || reload(&server, 2));
    assert_eq!(backend(&connection_to(&server, 2).get("/info")), Some(other));
}

pub(crate) fn d16_reloads_in_a_row_come_down_to_the_newest(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    server.workers(2);
    let descriptors = server.arbiter().descriptors();
    let newest = || {
        let log = server.log();
        let all = log.split("reloading: settings and application are loaded generation=").skip(1);
        all.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).max().unwrap_or(1)
    };
    under_load(&server, || {
        for _ in 0..30 {
            server.arbiter().signal(Signal::HUP);
            thread::sleep(seconds(0.01));
        }
        let done = until(PATIENCE, || server.log().contains(&reloaded(newest())).then_some(()));
        assert!(done.is_some(), "generation {} never takes over", newest());
    });
    server.workers(2);
    connection_to(&server, newest());
    assert_eq!(server.arbiter().descriptors(), descriptors);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d16_reloads_leave_nothing_behind(harness: &Harness) {
    let server = harness.serve_file(&settings(harness, "workers = 2\n"));
    server.workers(2);
    let descriptors = server.arbiter().descriptors();
    let mut memory = 0;
    under_load(&server, || {
        for generation in 2..=21 {
            // An address that comes and goes each time.
            let more = if generation % 2 == 0 { ", \"unix:other.sock\"" } else { "" };
            let binds = format!("bind = [\"127.0.0.1:0\"{more}]");
            server
                .write_settings(&format!("worker-class = \"{}\"\nworkers = 2\n{binds}\n", harness.backend()));
            reload(&server, generation);
            if generation == 5 {
                memory = server.arbiter().memory();
            }
        }
    });
    // Those that drain are gone then; a zombie would be among them.
    server.workers(2);
    assert_eq!(server.arbiter().descriptors(), descriptors);
    let grown = server.arbiter().memory().saturating_sub(memory);
    assert!(grown < 256 * 1024, "the arbiter has grown by {grown} bytes in 16 reloads");
}

pub(crate) fn the_number_of_workers_follows_the_settings_and_otherwise_survives_a_reload(harness: &Harness) {
    let server = harness.serve_file(&settings(harness, "workers = 2\n"));
    server.workers(2);
    server.arbiter().signal(Signal::TTIN);
    server.workers(3);
    reload(&server, 2);
    server.workers(3);
    for (generation, workers) in [(3, 4), (4, 1)] {
        server.write_settings(&settings(harness, &format!("workers = {workers}\n")));
        reload(&server, generation);
        server.workers(workers);
    }
}

pub(crate) fn a_stop_ends_a_reload(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2", "--graceful-timeout", "2"]);
    let mut busy = server.connect();
    busy.send(get("/sleep?ms=500"));
    server.catch_up();
    let obstacle = server.dir().join("stall-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    server.arbiter().signal(Signal::HUP);
    assert!(until(PATIENCE, || (!obstacle.exists()).then_some(())).is_some(), "no new worker boots");
    server.drain();
    assert!(
        server.log().contains("not reloaded: the server stops"),
        "nobody is told that there is no reload"
    );
    busy.last_response(200);
    drop(busy);
    // Who boots is told like the others, and has as long as they; this one never hears of it.
    assert_eq!(server.exit(PATIENCE), 6);
}

/// A new connection that a worker of this generation has accepted: an old one may do so for a moment after it was told to
/// drain.
#[track_caller]
fn connection_to(server: &Server, generation: u32) -> Client {
    until(PATIENCE, || {
        let mut client = server.connect();
        (client.get("/info").number("generation") == u64::from(generation)).then_some(client)
    })
    .expect("the new generation accepts connections")
}

#[track_caller]
fn connect(address: &Address) -> Client {
    address.connect(PATIENCE).expect("the server accepts connections")
}

/// Asks for a reload and waits until all workers of this generation are told to take over.
#[track_caller]
pub(super) fn reload(server: &Server, generation: u32) {
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs(&reloaded(generation), PATIENCE), "generation {generation} never takes over");
}

/// What the log says then.
pub(super) fn reloaded(generation: u32) -> String {
    format!("older workers were told to drain generation={generation}\n")
}

/// Asks for a reload and waits until the server has said that there is none, and why.
#[track_caller]
fn fail_to_reload(server: &Server, why: &str) {
    let before = server.log().matches(NOT_RELOADED).count();
    server.arbiter().signal(Signal::HUP);
    let said = until(PATIENCE, || {
        let log = server.log();
        let line = log.lines().filter(|line| line.contains(NOT_RELOADED)).nth(before)?;
        Some(line.to_owned())
    });
    let said = said.expect("nobody is told that there is no reload");
    assert!(said.contains(why), "{why:?} is not the reason: {said}");
}

/// Settings for the backend of `harness` on a port that the kernel chooses.
pub(super) fn settings(harness: &Harness, rest: &str) -> String {
    format!("worker-class = \"{}\"\nbind = \"127.0.0.1:0\"\n{rest}", harness.backend())
}

fn ids(workers: &[Process]) -> BTreeSet<u64> {
    workers.iter().map(Process::id).collect()
}

/// Does `work` while clients ask the server for one thing after the other, on connections that they use until the server
/// announces their close or, so that some are opened at any time, for a while. Whatever is asked is answered, and no connect
/// is refused.
#[track_caller]
pub(super) fn under_load(server: &Server, work: impl FnOnce()) {
    const CLIENTS: usize = 8;
    /// Requests before and after.
    const LOAD: usize = 10 * CLIENTS;
    let (over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = || {
        let mut client = server.connect();
        for n in 1.. {
            client.send(get("/info"));
            let response = client.try_response().unwrap_or_else(|lost| panic!("request {n} is lost: {lost}"));
            assert_eq!(response.status, 200);
            answers.fetch_add(1, Ordering::Relaxed);
            if over.load(Ordering::Relaxed) {
                return;
            }
            if response.announces_close() || n % 64 == 0 {
                client = server.connect();
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(ask);
        }
        let asked = |n: usize| until(PATIENCE, || (answers.load(Ordering::Relaxed) >= n).then_some(()));
        let done = catch_unwind(AssertUnwindSafe(|| {
            assert!(asked(LOAD).is_some(), "the server is slow");
            work();
            assert!(asked(answers.load(Ordering::Relaxed) + LOAD).is_some(), "the server has become slow");
        }));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic));
    });
}
