//! The sudden end of a worker: its connections live on (D20).

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::time::Instant;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::process::{Signal, geteuid};

use super::heartbeat::assert_logged;
use super::process::{self, connection_to, replacement};
use super::{admin, control, get, get_with_body, seconds, took};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::process::{Process, Server, until};

/// Connections of `worker` that are between requests.
fn at_rest(server: &Server, worker: &Process) -> Vec<Client> {
    let idle = (0..10).map(|_| connection_to(server, worker)).collect();
    // A client has its response before the worker publishes that it was written, and on unix
    // sockets nothing else shows it. Once a later request is answered, that is done.
    drop(connection_to(server, worker));
    idle
}

/// Kills `worker` and waits until its end is known.
#[track_caller]
fn kill(worker: &Process) -> Instant {
    let start = Instant::now();
    worker.signal(Signal::KILL);
    assert!(worker.wait_gone(PATIENCE), "the worker is alive");
    start
}

pub(crate) fn d20_idle_connections_survive_their_worker(harness: &Harness) {
    for serve in [Harness::serve, Harness::serve_unix] {
        let server = serve(harness, &["-w", "2"]);
        let workers = server.workers(2);
        let mut idle = at_rest(&server, &workers[0]);
        kill(&workers[0]);
        for client in &mut idle {
            assert_ne!(client.get("/info").number("pid"), workers[0].id());
        }
        let worker = replacement(&server, &workers);
        assert!(server.logs("handed to other workers", PATIENCE), "{}", server.log());
        connection_to(&server, &worker);
    }
}

pub(crate) fn d20_a_request_in_flight_is_answered_however_its_worker_ends(harness: &Harness) {
    for signal in [Signal::KILL, Signal::SEGV, Signal::ABORT] {
        let server = harness.serve(&["-w", "2"]);
        let workers = server.workers(2);
        let mut client = connection_to(&server, &workers[0]);
        server.begin(&mut client, get("/sleep?ms=60000"));
        let start = Instant::now();
        // The first SEGV from outside is caught by Rust's runtime, which looks for a stack
        // overflow.
        let is_gone = || {
            workers[0].signal(signal);
            workers[0].wait_gone(seconds(0.1)).then_some(())
        };
        until(PATIENCE, is_gone).expect("the worker ends");
        client.last_response(500);
        took("it was answered", start, 0.0..3.0);
        replacement(&server, &workers);
    }
}

pub(crate) fn d20_a_client_whose_body_is_unread_sees_the_answer_and_no_reset(harness: &Harness) {
    const BODY: usize = 1 << 20;
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut client = connection_to(&server, &workers[0]);
    server.begin(&mut client, get_with_body("/sleep?ms=60000", BODY));
    client.send(vec![b'x'; BODY / 2]);
    kill(&workers[0]);
    client.send(vec![b'x'; BODY / 2]);
    client.last_response(500);
}

pub(crate) fn d20_a_response_that_has_begun_is_cut(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut client = connection_to(&server, &workers[0]);
    client.send(get("/stream?chunks=100&size=10&ms=100"));
    let mut response = client.head();
    assert_eq!(response.status, 200);
    kill(&workers[0]);
    let broken = client.try_body(&mut response).expect_err("its worker is gone");
    assert!(broken.is_cut_by_server(), "{broken}");
}

pub(crate) fn d20_a_connection_whose_response_is_sent_survives_though_its_handler_works_on(
    harness: &Harness,
) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    for path in ["/after?ms=60000", "/after/length?ms=60000", "/after/finish?ms=60000"] {
        let worker = server.workers(2).remove(0);
        let mut client = connection_to(&server, &worker);
        assert_eq!(client.get(path).text(), "in time\n");
        kill(&worker);
        assert_ne!(client.get("/info").number("pid"), worker.id());
    }
    replacement(&server, &workers);
}

pub(crate) fn d20_nothing_follows_a_response_that_was_sent_in_part(harness: &Harness) {
    // More than the kernel's buffers of both ends have room for.
    const LARGE: usize = 64 << 20;
    for before in [0, 1, 7, 15] {
        let server = harness.serve(&["-w", "2"]);
        let workers = server.workers(2);
        let mut client = connection_to(&server, &workers[0]);
        let small = get("/").repeat(before);
        client.send(format!("{small}{}{}", get(&format!("/bytes?n={}", LARGE)), get("/sleep?ms=60000")));
        (0..before).for_each(|_| assert_eq!(client.response().status, 200));
        let mut response = client.head();
        assert_eq!(response.status, 200);
        kill(&workers[0]);
        let broken = client.try_body(&mut response).expect_err("part of it was never sent");
        assert!(broken.is_cut_by_server(), "{broken}");
    }
}

pub(crate) fn d20_the_last_of_pipelined_requests_is_answered(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut client = connection_to(&server, &workers[0]);
    let small = get("/").repeat(15);
    client.send(small);
    server.begin(&mut client, get("/sleep?ms=60000"));
    (0..15).for_each(|_| assert_eq!(client.response().status, 200));
    kill(&workers[0]);
    client.last_response(500);
}

pub(crate) fn d20_half_a_head_is_half_closed(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut client = connection_to(&server, &workers[0]);
    client.send("GET / HTTP/1.1\r\nHo");
    // A later connection that is answered shows that the half was read.
    connection_to(&server, &workers[0]);
    kill(&workers[0]);
    let (bytes, end) = client.rest(PATIENCE);
    assert!(bytes.is_empty() && end == End::Fin, "{end:?}: {}", String::from_utf8_lossy(&bytes));
}

pub(crate) fn d20_connections_wait_for_the_replacement_of_the_only_worker(harness: &Harness) {
    let server = harness.serve(&["--keep-alive", "60"]);
    let worker = server.worker();
    let mut idle = at_rest(&server, &worker);
    let stall = server.dir().join("stall-boot");
    fs::write(&stall, "").expect("a file can be written");
    kill(&worker);
    until(PATIENCE, || (!stall.exists()).then_some(())).expect("a replacement boots");
    idle[0].send(get("/info"));
    // The replacement that stalls is killed: the next one serves.
    server.worker().signal(Signal::KILL);
    assert_ne!(idle[0].response().number("pid"), worker.id());
    for client in &mut idle {
        assert_ne!(client.get("/info").number("pid"), worker.id());
    }
}

pub(crate) fn d20_a_connection_without_a_byte_survives_its_worker(harness: &Harness) {
    for serve in [Harness::serve, Harness::serve_unix] {
        let server = serve(harness, &[]);
        let worker = server.worker();
        let mut fresh: Vec<_> = (0..10).map(|_| server.connect()).collect();
        server.catch_up();
        kill(&worker);
        for client in &mut fresh {
            assert_ne!(client.get("/info").number("pid"), worker.id());
        }
    }
}

pub(crate) fn d20_a_stop_ends_what_a_keeper_holds(harness: &Harness) {
    let mut server = harness.serve(&["--keep-alive", "60"]);
    let worker = server.worker();
    let mut idle = at_rest(&server, &worker);
    let stall = server.dir().join("stall-boot");
    fs::write(&stall, "").expect("a file can be written");
    kill(&worker);
    until(PATIENCE, || (!stall.exists()).then_some(())).expect("a replacement boots");
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    for client in &mut idle {
        assert_ne!(client.end(PATIENCE), End::StillOpen);
    }
    drop(idle);
    server.exit(PATIENCE);
    took("the server ended", start, 0.0..4.0);
}

pub(crate) fn d20_no_rescue_leaves_connections_to_their_worker(harness: &Harness) {
    let server = harness.serve(&["-w", "2", "--no-rescue"]);
    let workers = server.workers(2);
    assert!(server.keepers().is_empty());
    let mut idle = at_rest(&server, &workers[0]);
    kill(&workers[0]);
    for client in &mut idle {
        assert!(matches!(client.end(PATIENCE), End::Fin | End::Reset));
    }
}

pub(crate) fn d10_without_a_keeper_the_worker_itself_answers_at_its_deadline(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "1", "--no-rescue"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/block?ms=60000"));
    let start = server.drain();
    let response = client.response();
    assert_eq!((response.status, response.announces_close()), (503, true));
    took("it was answered", start, 0.9..2.5);
    assert_eq!(server.exit(PATIENCE), 6);
}

pub(crate) fn d20_every_request_and_connection_is_counted_once(harness: &Harness) {
    let server = admin::serve(harness, &["-w", "2"]);
    let (_, workers) = admin::processes(harness, &server, 2);
    let mut idle = at_rest(&server, &workers[0]);
    let mut busy = connection_to(&server, &workers[0]);
    server.begin(&mut busy, get("/sleep?ms=60000"));
    kill(&workers[0]);
    busy.last_response(500);
    for client in &mut idle {
        client.get("/");
    }
    let counts = |text: &str| {
        ["moved", "answered", "cut", "lost"]
            .map(|outcome| admin::metric(text, &format!("remuda_rescued_total{{outcome=\"{outcome}\"}}")))
    };
    let page = || admin::ask(&server, "/metrics").text();
    // A client has its response before that is counted.
    let settled = until(PATIENCE, || {
        let text = page();
        let [rescued, others @ ..] = counts(&text);
        let [aborted, in_flight, unaccounted] =
            ["remuda_requests_aborted_total", "remuda_requests_in_flight", "remuda_connections_unaccounted"]
                .map(|name| admin::metric(&text, name));
        let is_told = rescued >= 10.0 && others == [1.0, 0.0, 0.0];
        (is_told && [aborted, in_flight, unaccounted] == [1.0, 0.0, 0.0]).then_some(())
    });
    assert!(settled.is_some(), "{}", page());
}

pub(crate) fn d20_a_panic_outside_a_handler_costs_no_connection(harness: &Harness) {
    let harness = harness.clone().with_variable("FIXTURE_POLICY", "panics");
    let server = harness.serve(&["-w", "2", "--drain-reload", "panics"]);
    let workers = server.workers(2);
    let mut idle: Vec<_> = workers.iter().flat_map(|worker| at_rest(&server, worker)).collect();
    server.arbiter().signal(Signal::HUP);
    for worker in &workers {
        assert!(worker.wait_gone(PATIENCE), "a worker has survived the panic");
    }
    let old: Vec<_> = workers.iter().map(Process::id).collect();
    for client in &mut idle {
        let pid = client.get("/info").number("pid");
        assert!(!old.contains(&pid), "worker {pid} was gone");
    }
    assert_logged(&server, &["ERROR", "the policy was told to panic"]);
}

pub(crate) fn d20_locks_pipes_and_ports_are_free_before_a_client_is_told(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let pipe = server.dir().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO can be made");
    // A reader that does not wait for the first writer.
    let end = rustix::fs::open(&pipe, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
    let mut end = fs::File::from(end.expect("the FIFO can be opened"));
    let _idle = at_rest(&server, &workers[0]);
    let mut client = connection_to(&server, &workers[0]);
    let port = client.get("/seize").text();
    let file = fs::File::options().write(true).open(server.dir().join("seized")).expect("it was made");
    // Whether each of them is held.
    let mut held = || {
        [
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
            TcpListener::bind(&port).is_err(),
            !matches!(end.read(&mut [0]), Ok(0)),
        ]
    };
    assert_eq!(held(), [true; 4], "locks, port and pipe");
    server.begin(&mut client, get("/sleep?ms=60000"));
    kill(&workers[0]);
    client.last_response(500);
    assert_eq!(held(), [false; 4], "locks, port and pipe");
}

/// Settings under which workers and keepers have another user than the arbiter, if the suite may
/// have that.
fn other_user() -> &'static [&'static str] {
    if geteuid().is_root() { &["--user", "nobody"] } else { &[] }
}

pub(crate) fn d20_a_keeper_that_is_killed_costs_only_what_it_kept(harness: &Harness) {
    let server = harness.serve(&[other_user(), &["--keep-alive", "60"]].concat());
    let first = server.worker();
    let mut idle = at_rest(&server, &first);
    // While its worker lives: the worker serves on, and its connections end with it.
    let keeper = keeper(&server);
    keeper.signal(Signal::KILL);
    assert!(server.logs("the keeper of a worker ended with", PATIENCE), "{}", server.log());
    for client in &mut idle {
        assert_eq!(client.get("/info").number("pid"), first.id());
    }
    kill(&first);
    for client in &mut idle {
        assert!(matches!(client.end(PATIENCE), End::Fin | End::Reset));
    }
    // After its worker: what it holds, a connection that it has answered, ends.
    let second = replacement(&server, &[first]);
    let mut client = connection_to(&server, &second);
    let keeper = self::keeper(&server);
    server.begin(&mut client, get("/sleep?ms=60000"));
    kill(&second);
    assert_eq!(client.response().status, 500);
    keeper.signal(Signal::KILL);
    assert!(keeper.wait_gone(PATIENCE), "it outlives SIGKILL");
    assert!(matches!(client.end(PATIENCE), End::Fin | End::Reset));
    // The arbiter goes on, and the next worker has a keeper.
    let third = Process::of(server.connect().get("/info").number("pid")).expect("it lives");
    let mut idle = at_rest(&server, &third);
    kill(&third);
    for client in &mut idle {
        assert_ne!(client.get("/info").number("pid"), third.id());
    }
}

/// The only keeper, once it is there.
#[track_caller]
fn keeper(server: &Server) -> Process {
    let one = until(PATIENCE, || server.keepers().pop().filter(|_| server.keepers().len() == 1));
    one.expect("the worker has a keeper")
}

pub(crate) fn d20_a_keeper_that_is_late_is_ended_by_a_stop(harness: &Harness) {
    // It may have another user than the arbiter, and its worker may live or be dead.
    for is_dead in [false, true] {
        let mut server = harness.serve(&[other_user(), &["--graceful-timeout", "1"]].concat());
        let worker = server.worker();
        let _idle = at_rest(&server, &worker);
        let keeper = keeper(&server);
        keeper.signal(Signal::STOP);
        assert!(keeper.wait_frozen(PATIENCE), "it goes on");
        if is_dead {
            kill(&worker);
            replacement(&server, &[worker]);
        }
        let start = Instant::now();
        server.arbiter().signal(Signal::TERM);
        server.exit(PATIENCE);
        took("the server ended", start, 0.0..5.0);
    }
}

pub(crate) fn d20_a_worker_without_a_keeper_serves_and_status_says_so(harness: &Harness) {
    let told = |harness: &Harness, args: &[&str]| {
        let server = control::serve(harness, args);
        server.connect().get("/");
        let table = control::done(harness, &server, &["status"]);
        let (_, workers) = control::status(harness, &server);
        let note = format!("! worker {} has no keeper", workers[0]["pid"]);
        (server, workers[0]["keeper_pid"].is_null(), table.contains(&note))
    };
    let (server, has_none, is_noted) = told(harness, &[]);
    assert_eq!((has_none, is_noted), (false, false));
    drop(server);
    let (server, has_none, is_noted) = told(harness, &["--no-rescue"]);
    assert_eq!((has_none, is_noted), (true, false), "it is not to have one");
    drop(server);
    if harness.backend() != "sync" || !geteuid().is_root() {
        // Other backends need threads, and only root has users whose processes are counted apart.
        return;
    }
    let args = [&process::scarce_user()[..], &["--request-timeout", "0"]].concat();
    let (server, has_none, is_noted) = told(&process::scarce(harness), &args);
    assert_eq!((has_none, is_noted), (true, true));
    assert_logged(&server, &["WARN", "worker serves without a keeper", "RLIMIT_NPROC"]);
}

pub(crate) fn d20_a_keeper_has_the_rights_of_its_worker_and_little_memory(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let keepers = until(PATIENCE, || Some(server.keepers()).filter(|keepers| keepers.len() == 2));
    for keeper in keepers.expect("each worker has a keeper") {
        for field in ["Uid", "Gid", "Groups", "CapEff", "NoNewPrivs"] {
            assert_eq!(keeper.status(field), workers[0].status(field), "{field}");
        }
        assert_eq!(keeper.status("Threads"), "1");
    }
}
