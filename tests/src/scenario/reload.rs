//! Reloads (D16): a new configuration takes over without a client noticing, or everything stays as
//! it is.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use super::backlog::{freeze, thaw};
use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Address, Client, End, PATIENCE, Response};
use crate::process::{Process, Server, until};

/// Starts a server in a directory that can be removed.
pub(super) const IN_A_DIRECTORY: [&str; 4] = ["sh", "-c", "mkdir start && cd start && exec \"$@\"", "sh"];

/// The same, with two settings files in the directory.
const BESIDE_SETTINGS: [&str; 4] = ["sh", "-c", SETTINGS_AND_SERVER, "sh"];
const SETTINGS_AND_SERVER: &str =
    "mkdir start && cd start && echo 'backlog = 64' | tee remuda.toml > server.toml && exec \"$@\"";

/// The log's words for a reload that failed.
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
    assert!(!server.log().contains("DEBUG"), "the level is not debug yet");
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

pub(crate) fn d16_a_failed_load_leaves_the_old_generation_serving(harness: &Harness) {
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

pub(crate) fn d16_a_crash_in_the_load_leaves_the_old_generation_serving(harness: &Harness) {
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

pub(crate) fn d16_a_late_load_leaves_the_old_generation_serving(harness: &Harness) {
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
        under_load(&server, || fail_to_reload(&server, "needs an upgrade"));
        assert_eq!(server.worker().id(), worker.id());
        server.write_settings(&text(old));
        reload(&server, 2);
    }
}

pub(crate) fn d16_an_added_address_is_served(harness: &Harness) {
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
    assert!(!server.dir().join("added.sock").exists(), "the bound socket is left behind");
    fs::remove_file(&obstacle).expect("it was written");
    under_load(&server, || reload(&server, 3));
    connect(&added).get("/");
    connection_to(&server, 3); // the listener that stays keeps its port
    drop(client);
}

pub(crate) fn d16_a_removed_address_ends_and_its_backlog_is_served(harness: &Harness) {
    const WAITING: usize = 50;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free");
    let binds = |more: &str| {
        format!("worker-class = \"{}\"\nbind = [\"unix:stays.sock\"{more}]\n", harness.backend())
    };
    let mut server = harness.serve_file(&binds(&format!(", \"unix:goes.sock\", \"{free}\"")));
    let gone = [Address::Unix(server.dir().join("goes.sock")), Address::Inet(free)];
    // No worker accepts these before the old worker runs again, which is too late.
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
    assert!(
        waiting.iter_mut().all(|client| !client.get("/").announces_close()),
        "the connections are kept alive"
    );
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
        fail_to_reload(&server, "needs an upgrade");
        server.write_settings(&binds("\"fd://99\""));
        fail_to_reload(&server, "needs a new start");
    });
    assert!(!server.dir().join("new.sock").exists(), "the bound socket is left behind");
    assert_eq!(server.worker().id(), worker.id());
}

pub(crate) fn d16_an_inherited_listener_stays(harness: &Harness) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut server = harness.serve_inherited(&listener, &["-w", "2"]);
    under_load(&server, || (2..=4).for_each(|generation| reload(&server, generation)));
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    connect(server.address()); // the listener is open
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

pub(crate) fn d16_of_reloads_in_a_row_the_newest_counts(harness: &Harness) {
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
            // An address that comes and goes with each reload.
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
    // Draining workers are gone by then. A zombie would be counted among the workers.
    server.workers(2);
    assert_eq!(server.arbiter().descriptors(), descriptors);
    let grown = server.arbiter().memory().saturating_sub(memory);
    assert!(grown < 256 * 1024, "the arbiter has grown by {grown} bytes in 16 reloads");
}

pub(crate) fn a_reload_keeps_the_worker_count_unless_its_setting_changes(harness: &Harness) {
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
    assert!(server.log().contains("not reloaded: the server stops"), "the end of the reload is not logged");
    busy.last_response(200);
    drop(busy);
    // The booting worker has nothing to finish.
    assert_eq!(server.exit(PATIENCE), 0);
}

/// A new connection that a worker of `generation` has accepted. A worker of an older one may accept
/// for a moment after its drain order.
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

/// Requests a reload, and waits until all older workers were told to drain.
#[track_caller]
pub(super) fn reload(server: &Server, generation: u32) {
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs(&reloaded(generation), PATIENCE), "generation {generation} never takes over");
}

/// The log's words for that.
pub(super) fn reloaded(generation: u32) -> String {
    format!("older workers were told to drain generation={generation}\n")
}

/// Requests a reload, and waits until the log says that it failed, and why.
#[track_caller]
fn fail_to_reload(server: &Server, why: &str) {
    let before = server.log().matches(NOT_RELOADED).count();
    server.arbiter().signal(Signal::HUP);
    let said = until(PATIENCE, || {
        let log = server.log();
        let line = log.lines().filter(|line| line.contains(NOT_RELOADED)).nth(before)?;
        Some(line.to_owned())
    });
    let said = said.expect("the failed reload is not logged");
    assert!(said.contains(why), "{why:?} is not the reason: {said}");
}

/// Settings for the backend of `harness` on a port that the kernel chooses.
pub(super) fn settings(harness: &Harness, rest: &str) -> String {
    format!("worker-class = \"{}\"\nbind = \"127.0.0.1:0\"\n{rest}", harness.backend())
}

fn ids(workers: &[Process]) -> BTreeSet<u64> {
    workers.iter().map(Process::id).collect()
}

/// Does `work` while clients send one request after the other. A connection is used until the
/// server announces close, or for a while, so that connections are opened at any time. Every
/// request is answered, and no connect is refused.
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

pub(crate) fn d16_hup_restores_removed_files(harness: &Harness) {
    const FILES: [&str; 4] = ["server.sock", "control.sock", "admin.sock", "server.pid"];
    let args = ["--control-socket", FILES[1], "--admin-bind", "unix:admin.sock", "--pid", FILES[3]];
    let mut server = harness.serve_unix(&args);
    let dir = server.dir().to_owned();
    let at = |file: &str| dir.join(file);
    let run = |args: &[&str]| {
        let run = harness.sub_command(&at(FILES[1]), args).current_dir(&dir).output().unwrap();
        String::from_utf8_lossy(&run.stdout).into_owned()
    };
    let doctor = [&["-b", "unix:server.sock"], &args[..], &["doctor"]].concat();
    until(PATIENCE, || at("admin.sock").exists().then_some(())).expect("there is a helper");
    assert!(!run(&["status"]).contains("gone") && !run(&doctor).contains("gone"));
    let mut idle = server.connect();
    idle.get("/");

    // All but the control socket, on which the server is asked.
    [0, 2, 3].into_iter().for_each(|n| fs::remove_file(at(FILES[n])).expect("it is there"));
    let status = run(&["status"]);
    for words in [
        "! unix:server.sock: its file is gone",
        "! admin listener unix:admin.sock: its",
        "! pidfile server.pid: its",
    ] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let found = run(&doctor);
    for file in ["unix socket server.sock", "admin listener admin.sock", "pidfile server.pid"] {
        assert!(found.contains(&format!("the {file} of the running server is gone")), "{found}");
    }

    fs::remove_file(at(FILES[1])).expect("it is there");
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("all older workers were told to drain", PATIENCE));
    server.connect().get("/");
    idle.get("/");
    let mut admin = Address::Unix(at("admin.sock")).connect(PATIENCE).expect("the admin helper listens");
    admin.get("/healthz");
    let pid = fs::read_to_string(at("server.pid")).expect("it is there");
    assert_eq!(pid.trim(), server.arbiter().id().to_string());
    let status = run(&["status"]);
    assert!(status.contains("generation 2") && !status.contains("gone"), "{status}");
    drop((idle, admin));
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(FILES.iter().all(|file| !at(file).exists()), "files are left");
}

pub(crate) fn d16_hup_refuses_a_file_taken_by_another_program(harness: &Harness) {
    let args = ["--control-socket", "control.sock", "--pid", "server.pid"];
    let mut server = harness.serve_unix(&args);
    let mut idle = server.connect();
    idle.get("/");
    let mut refused = |file: &str, words: &str, make: &dyn Fn(&Path)| {
        let path = server.dir().join(file);
        let (kept, tries) = (server.dir().join("kept"), server.log().matches("not reloaded").count());
        fs::rename(&path, &kept).expect("it is there");
        make(&path);
        server.arbiter().signal(Signal::HUP);
        let again = || (server.log().matches("not reloaded").count() > tries).then_some(());
        until(PATIENCE, again).expect("the reload is refused");
        let log = server.log();
        let last = log.lines().rfind(|line| line.contains("not reloaded")).expect("it was");
        assert!(last.contains(file) && last.contains(words), "{last}");
        assert!(path.exists(), "{file} was removed");
        idle.get("/");
        fs::rename(&kept, &path).expect("both are in one directory");
    };
    let others = RefCell::new(Vec::new());
    let listen = |path: &Path| others.borrow_mut().push(UnixListener::bind(path).expect("the path is free"));
    let write = |path: &Path| fs::write(path, "something else").expect("a file can be written");
    refused("server.sock", "another program listens there", &listen);
    refused("server.sock", "is not a socket", &write);
    refused("control.sock", "another program listens there", &listen);
    refused("server.pid", "holds no pid", &write);
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("all older workers were told to drain", PATIENCE), "the reload succeeds now");
    drop(idle);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn a_reload_names_a_missing_start_directory(harness: &Harness) {
    let harness = harness.clone().started_by(&BESIDE_SETTINGS);
    let start = |server: &Server| server.dir().join("start");
    for (args, reloads) in [
        (&["-c", "server.toml"][..], false),
        (&["--chdir", "/", "-c", "server.toml"], false),
        (&["--chdir", "/"], false), // with the default settings file
        (&["--chdir", "/", "-c", "/dev/null"], true),
    ] {
        let mut server = harness.serve(args);
        let pid = server.worker().id();
        fs::remove_dir_all(start(&server)).expect("it is there");
        server.arbiter().signal(Signal::HUP);
        if reloads {
            assert!(server.logs("all older workers were told to drain", PATIENCE), "{args:?}");
        } else {
            assert!(server.logs(NOT_RELOADED, PATIENCE), "{args:?}");
            let log = server.log();
            let line = log.lines().find(|line| line.contains(NOT_RELOADED)).expect("the failure is logged");
            let words = ["the start directory ", "/start\", the base of relative paths", "is gone"];
            assert!(words.iter().all(|words| line.contains(words)), "{args:?}: {line}");
            assert_eq!(server.connect().get("/info").number("pid"), pid, "{args:?}");
        }
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}
