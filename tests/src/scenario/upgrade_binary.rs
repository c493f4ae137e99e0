//! Upgrades of the executable: another arbiter takes over, or nothing changes.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{admin, control, get, seconds};
use crate::Harness;
use crate::client::{Address, PATIENCE};
use crate::process::{Process, Server, until};

const READY: &str = "is ready";
const FAILED: &str = "upgrade failed, nothing has changed";

/// Does `work` while clients send one request after the other. A connection is used until close is
/// announced, or for a while, so that connections are opened at any time. Every request is
/// answered.
fn under_load(server: &mut Server, work: impl FnOnce(&mut Server)) {
    const CLIENTS: usize = 8;
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = server.address().clone();
    let ask = || {
        let connect = || address.connect(PATIENCE).expect("no connect is refused");
        let mut client = connect();
        for n in 1.. {
            client.send(get("/info"));
            let response = client.try_response();
            let response = response.unwrap_or_else(|broken| panic!("request {n} is lost: {broken}"));
            assert_eq!(response.status, 200);
            served.fetch_add(1, Ordering::Relaxed);
            if over.load(Ordering::Relaxed) {
                return;
            }
            if response.announces_close() || n % 16 == 0 {
                client = connect();
            }
        }
    };
    thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(ask)));
        let enough = || {
            let before = served.load(Ordering::Relaxed);
            until(PATIENCE, || (served.load(Ordering::Relaxed) > before + 2 * CLIENTS).then_some(()))
                .expect("requests are served");
        };
        enough();
        let result = catch_unwind(AssertUnwindSafe(|| work(server)));
        if result.is_ok() {
            enough();
        }
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

fn stop(mut server: Server) {
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

/// Waits until `arbiter` has `n` children.
#[track_caller]
fn has_children(arbiter: &Process, n: usize) {
    let has = until(PATIENCE, || (arbiter.count_children() == n).then_some(()));
    assert!(has.is_some(), "{} children, expected {n}", arbiter.count_children());
}

pub(crate) fn upgrades_under_load_lose_no_request_and_refuse_no_connect(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let first = server.arbiter().id();
    under_load(&mut server, |server| {
        for _ in 0..2 {
            let before = server.arbiter().id();
            let new = server.begin_upgrade();
            assert_ne!(new.id(), before);
            server.pass_to(new);
        }
    });
    assert_ne!(server.arbiter().id(), first);
    let workers: Vec<_> = server.workers(2).iter().map(Process::id).collect();
    assert!(workers.contains(&server.connect().get("/info").number("pid")), "an old worker serves");
    let log = server.log();
    assert!(!log.contains("ended with signal") && !log.contains("ended with status"), "{log}");
    stop(server);
}

pub(crate) fn an_executable_that_fails_changes_nothing(harness: &Harness) {
    let mut server = harness.serve_replaceable(&[]);
    let pid = server.worker().id();
    let mut client = server.connect();
    client.get("/");
    for (script, why) in [("#!/bin/sh\nexit 7\n", "status 7"), ("#!/there/is/none\n", "status 1")] {
        server.replace_executable(script);
        server.arbiter().signal(Signal::USR2);
        assert!(
            server.logs(&format!("ended with {why} before it was ready"), PATIENCE),
            "the failure is not logged"
        );
    }
    assert!(server.logs(FAILED, PATIENCE));
    for mut client in [client, server.connect()] {
        let info = client.get("/info");
        assert_eq!((info.number("pid"), info.announces_close()), (pid, false));
    }
    // A failed attempt does not stand in the way of a later one.
    let path = std::path::absolute(harness.fixture()).expect("there is a directory");
    server.replace_executable(&format!("#!/bin/sh\nexec '{}' \"$@\"\n", path.display()));
    server.upgrade();
    assert_ne!(server.connect().get("/info").number("pid"), pid);
    stop(server);
}

pub(crate) fn an_upgrade_says_why_its_executable_cannot_run(harness: &Harness) {
    let server = harness.serve_replaceable(&[]);
    let pid = server.worker().id();
    let program = server.dir().join("server");
    let refused = |why: &str| {
        server.arbiter().signal(Signal::USR2);
        let words = format!("cannot run {program:?}: {why}");
        assert!(server.logs(&words, PATIENCE), "{words}");
        let alone = until(PATIENCE, || (server.arbiter().count_children() == 1).then_some(()));
        assert!(alone.is_some(), "the failed program is not reaped");
    };
    server.replace_executable("#!/there/is/none -x\n");
    refused("its interpreter \"/there/is/none\" is missing");
    fs::set_permissions(&program, Permissions::from_mode(0o644)).expect("the file is ours");
    refused("it is not executable");
    fs::remove_file(&program).expect("it is there");
    refused("it is gone");
    symlink("no-release", &program).expect("the path is free");
    refused("it is a link to \"no-release\", which is gone");
    assert_eq!(server.connect().get("/info").number("pid"), pid);
    stop(server);
}

pub(crate) fn an_upgrade_outlives_the_directory_of_the_start(harness: &Harness) {
    let harness = harness.clone().started_by(&super::reload::IN_A_DIRECTORY);
    for args in [&[][..], &["--chdir", "/"]] {
        let mut server = harness.serve(args);
        let pid = server.worker().id();
        fs::remove_dir(server.dir().join("start")).expect("it is there, and empty");
        // Also an upgrade of a server that was started after the directory was gone.
        for _ in 0..2 {
            server.upgrade();
        }
        assert!(server.logs("start\" is gone; relative paths cannot be resolved", PATIENCE));
        assert_ne!(server.connect().get("/info").number("pid"), pid);
        stop(server);
    }
}

pub(crate) fn an_upgrade_that_is_late_is_ended_and_a_second_one_is_refused(harness: &Harness) {
    let server = harness.serve_replaceable(&["--boot-timeout", "2"]);
    let pid = server.worker().id();
    server.replace_executable("#!/bin/sh\nexec sleep 60\n");
    let start = Instant::now();
    let new = server.begin_upgrade();
    server.arbiter().signal(Signal::USR2);
    assert!(
        server.logs("upgrade refused: an upgrade is under way", PATIENCE),
        "the second upgrade is not refused"
    );
    let info = server.connect().get("/info");
    assert_eq!(info.number("pid"), pid);
    assert!(new.wait_gone(PATIENCE), "the late arbiter is not ended");
    assert!(start.elapsed() > seconds(1.9), "it had {:?} of 2 s", start.elapsed());
    assert!(server.logs("was not ready after", PATIENCE) && server.logs(FAILED, PATIENCE));
    assert_eq!(server.connect().get("/info").number("pid"), pid);
    stop(server);
}

pub(crate) fn a_stop_during_an_upgrade_ends_both(harness: &Harness) {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut server = harness.serve(&["-w", "2", "--graceful-timeout", "1"]);
        let stall = server.dir().join("stall-boot");
        fs::write(&stall, "").expect("a file can be written");
        let mut busy = server.connect();
        server.begin(&mut busy, get("/sleep?ms=300"));
        let new = server.begin_upgrade();
        assert!(until(PATIENCE, || (!stall.exists()).then_some(())).is_some(), "no new worker boots");
        server.arbiter().signal(signal);
        if signal != Signal::QUIT {
            assert_eq!(busy.response().status, 200, "{signal:?}");
        }
        drop(busy);
        assert!(new.wait_gone(PATIENCE), "{signal:?}: the new arbiter lives on");
        assert_eq!(server.exit(PATIENCE), 0, "{signal:?}");
    }
}

pub(crate) fn the_old_arbiter_finishes_what_is_in_flight(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1500"));
    let mut idle = server.connect();
    let new = server.begin_upgrade();
    assert!(server.logs(READY, PATIENCE), "the new arbiter is never ready");
    // As long as the old arbiter lives, no other upgrade may begin.
    new.signal(Signal::USR2);
    assert!(server.logs("upgrade refused", PATIENCE), "the upgrade is not refused");
    idle.get("/");
    let mut half = server.connect();
    half.send("GET /info HTTP/1.1\r\nHo");
    let slept = busy.response();
    assert!(slept.status == 200 && !slept.announces_close(), "{slept:?}");
    server.pass_to(new);
    // Open connections stay open and are served by the new arbiter's workers (D19).
    let worker = server.worker().id();
    half.send("st: test\r\n\r\n");
    let half = half.response();
    for info in [half, busy.get("/info"), idle.get("/info")] {
        assert_eq!((info.number("pid"), info.announces_close()), (worker, false));
    }
    drop((busy, idle));
    stop(server);
}

pub(crate) fn a_unix_socket_survives_and_the_last_one_removes_it(harness: &Harness) {
    let mut server = harness.serve_unix(&[]);
    let Address::Unix(path) = server.address().clone() else { panic!("it listens elsewhere") };
    let inode = || fs::symlink_metadata(&path).map(|file| file.ino()).ok();
    let before = inode();
    server.upgrade();
    assert_eq!(inode(), before);
    server.connect().get("/");

    // The new arbiter ends first. The old one, which still serves a request, is the last and
    // removes the socket.
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1500"));
    let new = server.begin_upgrade();
    assert!(until(PATIENCE, || (server.log().matches("takes over").count() == 2).then_some(())).is_some());
    new.signal(Signal::TERM);
    assert!(new.wait_gone(PATIENCE));
    assert!(
        until(PATIENCE, || inode().is_none().then_some(())).is_some(),
        "the last arbiter left the socket file"
    );
    busy.last_response(200);
    drop(busy);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn an_inherited_listener_survives_upgrades_and_a_stop(harness: &Harness) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut server = harness.serve_inherited(&listener, &[]);
    for _ in 0..2 {
        server.upgrade();
        server.connect().get("/");
    }
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let _client = server.connect();
    assert_eq!(super::listener::accepted(&listener), 1, "connections in the queue");
}

pub(crate) fn an_upgrade_can_be_taken_back(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2", "--upgrade-drain", "manual"]);
    under_load(&mut server, |server| {
        let new = server.begin_upgrade();
        assert!(server.logs(READY, PATIENCE), "the new arbiter is never ready");
        has_children(&new, 2);
        // The old workers drain, and the new ones serve alone.
        server.arbiter().signal(Signal::WINCH);
        has_children(server.arbiter(), 1);
        // The upgrade is taken back: the old workers come back, and the new arbiter ends.
        server.arbiter().signal(Signal::HUP);
        has_children(server.arbiter(), 3);
        new.signal(Signal::TERM);
        assert!(new.wait_gone(PATIENCE), "the new arbiter does not end");
        has_children(server.arbiter(), 2);
    });
    stop(server);
}

pub(crate) fn a_held_upgrade_can_be_completed(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2", "--upgrade-drain", "manual", "--pid", "server.pid"]);
    let pidfile = |name: &str| fs::read_to_string(server.dir().join(name)).ok();
    let line = |pid: u64| Some(format!("{pid}\n"));
    let old = server.arbiter().id();
    let new = server.begin_upgrade();
    assert!(server.logs(READY, PATIENCE), "the new arbiter is never ready");
    assert_eq!((pidfile("server.pid"), pidfile("server.pid.2")), (line(old), line(new.id())));
    server.arbiter().signal(Signal::WINCH);
    has_children(server.arbiter(), 1);
    let workers = || server.connect().get("/info").number("pid");
    let pid = workers();
    assert_ne!(pid, old);
    server.arbiter().signal(Signal::QUIT);
    assert!(server.logs("this one serves alone", PATIENCE), "the new arbiter does not notice");
    let taken = until(PATIENCE, || (pidfile("server.pid") == line(new.id())).then_some(()));
    assert!(taken.is_some() && pidfile("server.pid.2").is_none(), "the pidfile is not taken over");
    server.pass_to(new);
    server.connect().get("/");
    stop(server);
}

pub(crate) fn operators_find_the_new_arbiter_where_the_old_one_was(harness: &Harness) {
    let mut server = admin::serve(harness, &["-w", "2"]);
    for _ in 0..2 {
        let new = server.begin_upgrade();
        let id = new.id();
        server.pass_to(new);
        assert_eq!(control::status(harness, &server).0["pid"], id);
        assert_eq!(admin::ask(&server, "/readyz").status, 200);
    }
    let files = [server.dir().join("admin.sock"), control::socket(&server)];
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(files.iter().all(|file| !file.exists()), "a file is left");
}

/// Does `work` while clients ask for every page of the admin listener, on connections of one
/// request each and on kept ones. Each answer is that of a ready server.
fn while_asked(server: &mut Server, work: impl FnOnce(&mut Server)) {
    let over = AtomicBool::new(false);
    let address = Address::Unix(server.dir().join("admin.sock"));
    let ask = &|path: &str, lasts: bool| {
        let connect = || address.connect(PATIENCE).expect("no connect is refused");
        let mut client = connect();
        while !over.load(Ordering::Relaxed) {
            client.send(get(path));
            let response = client.try_response().unwrap_or_else(|broken| panic!("{path} is lost: {broken}"));
            assert_eq!(response.status, 200, "{path}: {}", response.text());
            if !lasts || response.announces_close() {
                client = connect();
            }
            thread::sleep(Duration::from_millis(1));
        }
    };
    thread::scope(|scope| {
        for path in ["/healthz", "/readyz", "/metrics"] {
            [false, true].into_iter().for_each(|lasts| drop(scope.spawn(move || ask(path, lasts))));
        }
        let result = catch_unwind(AssertUnwindSafe(|| work(server)));
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

pub(crate) fn health_and_metrics_are_answered_at_any_moment_of_an_upgrade(harness: &Harness) {
    let mut server = admin::serve(harness, &["-w", "2"]);
    while_asked(&mut server, |server| (0..3).for_each(|_| server.upgrade()));

    let mut server = admin::serve(harness, &["--upgrade-drain", "manual"]);
    while_asked(&mut server, |server| {
        let new = server.begin_upgrade();
        assert!(server.logs(READY, PATIENCE), "the new arbiter is never ready");
        server.arbiter().signal(Signal::WINCH);
        has_children(server.arbiter(), 2);
        server.arbiter().signal(Signal::TERM);
        server.pass_to(new);
    });
}

pub(crate) fn operators_find_the_old_arbiter_until_a_held_upgrade_is_over(harness: &Harness) {
    let mut server = admin::serve(harness, &["-w", "2", "--upgrade-drain", "manual"]);
    let old = server.arbiter().id();
    let found = || control::status(harness, &server).0["pid"].as_u64();
    let new = server.begin_upgrade();
    assert!(server.logs(READY, PATIENCE), "the new arbiter is never ready");
    has_children(&new, 2);
    assert_eq!(found(), Some(old));
    // The upgrade is taken back.
    new.signal(Signal::TERM);
    assert!(new.wait_gone(PATIENCE), "the new arbiter does not end");
    assert_eq!((found(), admin::ask(&server, "/readyz").status), (Some(old), 200));
    // A second upgrade is completed.
    let new = server.begin_upgrade();
    let id = new.id();
    assert!(until(PATIENCE, || (server.log().matches(READY).count() == 2).then_some(())).is_some());
    server.arbiter().signal(Signal::TERM);
    server.pass_to(new);
    assert_eq!((control::status(harness, &server).0["pid"].as_u64()), Some(id));
    assert_eq!(admin::ask(&server, "/readyz").status, 200);
    stop(server);
}

pub(crate) fn upgrades_with_reuse_port_lose_no_request_or_connect(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2", "--reuse-port"]);
    let before = listening(server.address());
    assert_eq!(before.len(), 2, "one for each worker");
    under_load(&mut server, |server| (0..2).for_each(|_| server.upgrade()));
    assert_eq!(listening(server.address()), before, "the listeners are passed on");
    let log = server.log();
    assert!(!log.contains("ended with signal") && !log.contains("ended with status"), "{log}");
    assert!(!log.contains("backlog_lost"), "{log}");
    stop(server);
}

/// The inodes of the TCP sockets that listen at `address` (proc_pid_net(5), `tcp`).
#[track_caller]
fn listening(address: &Address) -> BTreeSet<String> {
    let Address::Inet(address) = address else { panic!("it listens elsewhere") };
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("there is a table");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_port = rows.filter(|row| row[1].ends_with(&port) && row[3] == "0A");
    of_port.map(|row| row[9].to_owned()).collect()
}

pub(crate) fn an_upgrade_turns_reuse_port_on_and_off(harness: &Harness) {
    let mut server = harness.serve_replaceable(&["-w", "2"]);
    let path = std::path::absolute(harness.fixture()).expect("there is a directory");
    under_load(&mut server, |server| {
        for flag in ["--reuse-port", ""] {
            server.replace_executable(&format!("#!/bin/sh\nexec '{}' \"$@\" {flag}\n", path.display()));
            server.upgrade();
        }
    });
    stop(server);
}

pub(crate) fn an_upgrade_can_bind_an_address_overlapping_an_old_one(harness: &Harness) {
    let mut server = harness.serve_replaceable(&[]);
    let Address::Inet(address) = *server.address() else { panic!("it listens elsewhere") };
    let path = std::path::absolute(harness.fixture()).expect("there is a directory");
    let all = format!("0.0.0.0:{}", address.port());
    under_load(&mut server, |server| {
        server.replace_executable(&format!(
            "#!/bin/sh\nexec '{}' -k {} -b {all}\n",
            path.display(),
            harness.backend()
        ));
        server.upgrade();
    });
    let elsewhere = Address::Inet(([127, 0, 0, 2], address.port()).into());
    elsewhere.connect(PATIENCE).expect("it listens on all addresses").get("/");
    stop(server);
}

pub(crate) fn winch_lets_the_server_rest_until_hup(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let first: Vec<_> = server.workers(2).iter().map(Process::id).collect();
    server.arbiter().signal(Signal::WINCH);
    has_children(server.arbiter(), 0);
    // The server still listens: a client that connects now is served later.
    let mut client = server.connect();
    client.send(get("/info"));
    assert!(!client.has_more(seconds(0.2)), "no worker serves");
    server.arbiter().signal(Signal::HUP);
    let info = client.response();
    assert_eq!(info.status, 200);
    assert!(!first.contains(&info.number("pid")));
    assert_eq!(server.workers(2).len(), 2);
    drop(client);
    stop(server);
}

pub(crate) fn an_upgrade_restores_removed_files(harness: &Harness) {
    let args = ["--control-socket", "control.sock", "--admin-bind", "unix:admin.sock", "--pid", "server.pid"];
    let mut server = harness.serve_unix(&args);
    for file in ["server.sock", "control.sock", "admin.sock", "server.pid"] {
        let path = server.dir().join(file);
        until(PATIENCE, || fs::remove_file(&path).ok()).expect("it is there");
    }
    server.upgrade();
    server.connect().get("/");
    for (file, request) in [("control.sock", None), ("admin.sock", Some("/healthz"))] {
        let mut client = Address::Unix(server.dir().join(file)).connect(PATIENCE).expect("it listens");
        request.into_iter().for_each(|path| drop(client.get(path)));
    }
    let pid = || fs::read_to_string(server.dir().join("server.pid")).ok();
    let is_named = || pid().filter(|pid| pid.trim() == server.arbiter().id().to_string());
    assert!(until(PATIENCE, is_named).is_some(), "{:?}", pid());
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.dir().join("server.sock").exists());
}
