//! Processes: how load is spread over them, what the death of a worker costs, workers added and
//! removed, and that no process is left (D18).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};

use super::{allow_descriptors, get, seconds, took};
use crate::Harness;
use crate::client::{Address, Client, End, PATIENCE};
use crate::process::{Process, Server, until};

pub(crate) fn connections_are_spread_evenly(harness: &Harness) {
    const CONNECTIONS: usize = 1000;
    const WORKERS: usize = 4;
    allow_descriptors(4096);
    let server = harness.serve(&["-w", "4", "--keep-alive", "30"]);
    let mut open = Vec::new();
    let mut share: HashMap<u64, usize> = HashMap::new();
    for _ in 0..CONNECTIONS {
        let mut client = server.connect();
        *share.entry(client.get("/info").number("pid")).or_default() += 1;
        open.push(client);
    }
    let mean = CONNECTIONS as f64 / WORKERS as f64;
    let largest = share.values().max().map_or(0.0, |largest| *largest as f64);
    assert!(share.len() == WORKERS && largest / mean <= 1.10, "connections by worker: {share:?}");
}

pub(crate) fn a_killed_worker_costs_nobody_a_connection(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let [mut lost, mut kept] = [0, 1].map(|n| connection_to(&server, &workers[n]));
    workers[0].signal(Signal::KILL);
    assert!(workers[0].wait_gone(PATIENCE));
    assert_ne!(lost.get("/info").number("pid"), workers[0].id());
    assert_eq!(kept.get("/info").number("pid"), workers[1].id());
    // The other worker serves all new connections meanwhile.
    server.connect().get("/");
    let replaced = replacement(&server, &workers);
    connection_to(&server, &replaced);
    assert_eq!(kept.get("/info").number("pid"), workers[1].id());
}

pub(crate) fn a_worker_that_gets_term_drains_and_is_replaced(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut idle = connection_to(&server, &workers[0]);
    let mut busy = connection_to(&server, &workers[0]);
    server.begin(&mut busy, get("/sleep?ms=600"));
    workers[0].signal(Signal::TERM);
    for _ in 0..20 {
        server.connect().get("/");
    }
    busy.last_response(200);
    idle.send(get("/"));
    idle.last_response(200);
    drop((idle, busy));
    assert!(workers[0].wait_gone(PATIENCE), "the worker does not end");
    let replaced = replacement(&server, &workers);
    connection_to(&server, &replaced);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn ttin_adds_a_worker_and_ttou_drains_one(harness: &Harness) {
    let mut server = harness.serve(&["--drain-reload", "finish"]);
    let first = server.worker();
    server.arbiter().signal(Signal::TTIN);
    let added = newcomer(server.workers(2), slice::from_ref(&first)).expect("one of the two workers is new");
    let mut idle = connection_to(&server, &added);
    let mut kept = connection_to(&server, &first);

    let start = Instant::now();
    server.arbiter().signal(Signal::TTOU);
    assert!(server.logs("scaled to 1 worker", PATIENCE), "the new count is not logged");
    // Whichever worker the kernel chooses before the drain has begun, no client is refused, reset
    // or left waiting.
    while start.elapsed() < seconds(0.5) {
        server.connect().get("/");
    }
    assert!(!idle.has_more(Duration::ZERO), "an idle connection is kept");
    idle.send(get("/info"));
    assert_eq!(idle.last_response(200).number("pid"), added.id());
    drop(idle);
    let start = Instant::now();
    assert!(added.wait_gone(PATIENCE), "the worker does not end");
    // The worker has no backlog to wait for.
    took("it ended", start, 0.0..0.4);

    assert_eq!(kept.get("/info").number("pid"), first.id());
    assert_eq!(server.worker().id(), first.id(), "the added worker has left");
    drop(kept);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = server.log();
    assert!(log.contains("scaled to 2 workers"), "the new count was not logged: {log}");
}

pub(crate) fn ttou_never_goes_below_one(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    server.arbiter().signal(Signal::TTOU);
    assert!(server.logs("scaled to 1 worker", PATIENCE));
    server.arbiter().signal(Signal::TTOU);
    assert!(server.logs("1 worker is the minimum", PATIENCE), "a signal without effect is explained");
    let left = server.worker();
    assert!(workers.iter().any(|worker| worker.id() == left.id()), "the one that stays was there before");
    assert_eq!(server.connect().get("/info").number("pid"), left.id());
}

pub(crate) fn d17_a_crash_loop_is_slowed_down_and_delays_no_client(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut kept = connection_to(&server, &workers[1]);
    let crash = server.dir().join("crash-boot");
    fs::write(&crash, "").expect("a file can be written");
    workers[0].signal(Signal::KILL);
    assert!(workers[0].wait_gone(PATIENCE));
    let start = Instant::now();
    while start.elapsed() < seconds(2.0) {
        let asked = Instant::now();
        server.connect().get("/");
        assert_eq!(kept.get("/info").number("pid"), workers[1].id());
        took("both were answered", asked, 0.0..1.0);
    }
    let crashes = server.log().matches("worker ended with").count();
    // Pauses of 0.1, 0.2, 0.4, 0.8 and 1.6 s. The first death is the one by KILL.
    assert!((4..=7).contains(&crashes), "{crashes} workers ended in 2 s");
    fs::remove_file(&crash).expect("it is there");
    connection_to(&server, &replacement(&server, &workers));
    drop(kept);
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..1.0);
}

pub(crate) fn a_server_that_is_never_ready_gives_up_after_its_limit(harness: &Harness) {
    for (obstacle, why, status) in
        [("crash-boot", "ended with signal 6", 3), ("fail-boot", "there is a file fail-boot", 4)]
    {
        let mut server = harness.launch_obstructed(obstacle, &["--max-boot-failures", "3"]);
        assert_eq!(server.exit(PATIENCE), status, "{obstacle}");
        let log = server.log();
        assert_eq!(log.matches("worker ended with").count(), 3, "{log}");
        assert!(
            log.contains("giving up: no worker was ever ready, and max-boot-failures is 3")
                && log.contains(why),
            "{log}"
        );
    }
    // The obstacle may go away before the limit is reached.
    let server = harness.launch_obstructed("fail-boot", &["--max-boot-failures", "10"]);
    assert!(server.logs("worker could not start", PATIENCE));
    fs::remove_file(server.dir().join("fail-boot")).expect("it is there");
    server.ready().connect().get("/");
}

pub(crate) fn a_stop_waits_for_no_worker_that_was_never_ready(harness: &Harness) {
    for (signal, backlog) in [(Signal::TERM, 0), (Signal::TERM, 3), (Signal::INT, 0)] {
        let mut server = harness.launch_stalled(&["-b", "unix:early.sock"]);
        let early = Address::Unix(server.dir().join("early.sock"));
        let clients: Vec<_> = (0..backlog).map(|_| early.connect(PATIENCE).expect("it listens")).collect();
        let start = Instant::now();
        server.arbiter().signal(signal);
        assert_eq!(server.exit(PATIENCE), 0, "{signal:?}, {backlog} connections in the backlog");
        took("the server ended", start, 0.0..1.5);
        // A backlog that no worker could accept is logged. It does not count as work that was cut.
        let told = server.log().contains(&format!("backlog_lost={backlog}"));
        assert_eq!(told, backlog > 0, "{backlog}: {}", server.log());
        assert!(clients.into_iter().all(|mut client| client.end(PATIENCE) != End::StillOpen));
    }
}

pub(crate) fn a_stop_waits_for_no_successor_that_was_never_ready(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=800"));
    let stall = server.dir().join("stall-boot");
    fs::write(&stall, "").expect("a file can be written");
    server.arbiter().signal(Signal::HUP);
    until(PATIENCE, || (!stall.exists()).then_some(())).expect("a successor boots");
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    busy.last_response(200);
    drop(busy);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..2.5);
}

pub(crate) fn term_to_a_booting_worker_does_not_stop_the_server(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let stall = server.dir().join("stall-boot");
    fs::write(&stall, "").expect("a file can be written");
    workers[0].signal(Signal::KILL);
    assert!(workers[0].wait_gone(PATIENCE));
    until(PATIENCE, || (!stall.exists()).then_some(())).expect("a replacement boots");
    replacement(&server, &workers).signal(Signal::TERM);
    assert!(!server.logs("stopping", seconds(0.5)), "the server stops");
    assert_eq!(server.connect().get("/info").number("pid"), workers[1].id());
}

pub(crate) fn a_program_that_a_handler_starts_ignores_and_blocks_no_signal(harness: &Harness) {
    /// SIGPIPE, which Rust's runtime ignores in every program before `main`.
    const PIPE: u64 = 1 << (Signal::PIPE.as_raw() - 1);
    /// The standard signals, 1 to 31. Real-time signals belong to programs and to the C library,
    /// which ignores some in the programs it starts.
    const STANDARD: u64 = (1 << 31) - 1;
    let mask = |status: &str, field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
        u64::from_str_radix(line.unwrap_or_else(|| panic!("{field} is not in {status}")), 16).expect("a mask")
            & STANDARD
    };
    let server = harness.serve(&[]);
    let here = fs::read_to_string("/proc/self/status").expect("proc(5) is mounted");
    let worker = format!("/proc/{}/status", server.worker().id());
    let worker = fs::read_to_string(worker).expect("the worker lives");
    let child = server.connect().get("/child").text();
    for status in [&worker, &child] {
        // The parent of the test suite may have ignored some signals itself.
        let ignored = mask(status, "SigIgn") & !(mask(&here, "SigIgn") & !PIPE);
        assert_eq!((ignored, mask(status, "SigBlk")), (0, 0), "{status}");
    }
    // The worker ignores these signals.
    let worker = server.worker();
    for signal in [Signal::HUP, Signal::USR2, Signal::TTIN, Signal::TTOU, Signal::WINCH, Signal::PIPE] {
        worker.signal(signal);
        assert_eq!(server.connect().get("/info").number("pid"), worker.id(), "{signal:?}");
    }
    assert!(!server.log().contains("worker ended with"), "{}", server.log());
}

pub(crate) fn a_thread_shortage_is_status_3_and_names_the_limit(harness: &Harness) {
    if harness.backend() == "sync" {
        return no_thread_is_needed(harness);
    }
    if !geteuid().is_root() {
        return unshown("only root has users whose processes are counted apart");
    }
    let mut server = scarce(harness).launch("127.0.0.1:0", &scarce_user());
    assert_eq!(server.exit(PATIENCE), 3, "{}", server.log());
    let log = server.log();
    assert!(log.contains("may have 1 (ulimit -u, RLIMIT_NPROC)"), "the limit is not named: {log}");
    assert!(!log.contains("this is a bug"), "{log}");
}

/// Sync needs no thread beside the one that every process has.
fn no_thread_is_needed(harness: &Harness) {
    if !geteuid().is_root() {
        return unshown("only root has users whose processes are counted apart");
    }
    let server =
        scarce(harness).launch("127.0.0.1:0", &[&scarce_user()[..], &["--request-timeout", "0"]].concat());
    server.ready().connect().get("/");
}

/// A harness whose servers may have one process or thread for each user (`ulimit -u 1`). Privileged
/// users are not bound by that limit.
pub(super) fn scarce(harness: &Harness) -> Harness {
    harness.clone().started_by(&["bash", "-c", "ulimit -u 1; exec \"$@\"", "bash"])
}

/// A user that has no other process: its id derives from this process's id and is above those that
/// systems assign.
pub(super) fn scarce_user() -> [&'static str; 4] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = 1_000_000 + std::process::id() * 64 + COUNT.fetch_add(1, Ordering::Relaxed);
    let id: &'static str = id.to_string().leak();
    ["--user", id, "--group", id]
}

#[allow(clippy::print_stderr, reason = "a scenario says why it shows nothing")]
fn unshown(why: &str) {
    eprintln!("not shown: {why}");
    UNSHOWN.set(true);
}

thread_local! {
    /// Whether the scenario of this thread could not be shown.
    static UNSHOWN: Cell<bool> = const { Cell::new(false) };
}

/// Whether the scenario that has just ended could not be shown on this machine.
pub(crate) fn was_unshown() -> bool {
    UNSHOWN.take()
}

pub(crate) fn d18_idle_workers_end_with_their_arbiter(harness: &Harness) {
    let server = harness.serve(&["-w", "3"]);
    let workers = server.workers(3);
    let start = Instant::now();
    server.arbiter().signal(Signal::KILL);
    for worker in &workers {
        assert!(worker.wait_gone(PATIENCE), "worker {} outlives its arbiter", worker.id());
    }
    took("the workers ended", start, 0.0..1.5);
    assert!(server.wait_no_process(seconds(0.5)), "a process is left");
}

pub(crate) fn d18_response_in_flight_outlives_the_arbiter(harness: &Harness) {
    let server = harness.serve(&[]);
    let _worker = server.worker();
    let mut busy = server.connect();
    let mut idle = server.connect();
    idle.get("/");
    server.begin(&mut busy, get("/sleep?ms=1500"));
    server.arbiter().signal(Signal::KILL);
    assert!(server.arbiter().wait_gone(PATIENCE));
    busy.last_response(200);
    idle.send(get("/"));
    idle.last_response(200);
    drop((busy, idle));
    let start = Instant::now();
    assert!(server.wait_no_process(PATIENCE), "a process is left");
    took("the last process ended", start, 0.0..1.5);
}

pub(crate) fn d18_arbiter_killed_in_a_drain_cuts_nothing(harness: &Harness) {
    let server = harness.serve(&[]);
    let _worker = server.worker();
    let mut idle = server.connect();
    idle.get("/");
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1500"));
    server.drain();
    server.arbiter().signal(Signal::KILL);
    assert!(server.arbiter().wait_gone(PATIENCE));
    busy.last_response(200);
    idle.send(get("/"));
    idle.last_response(200);
    drop((busy, idle));
    let start = Instant::now();
    assert!(server.wait_no_process(PATIENCE), "a process is left");
    took("the last process ended", start, 0.0..1.5);
}

pub(crate) fn d18_stuck_handlers_end_at_the_deadline_without_their_arbiter(harness: &Harness) {
    for stuck in ["/block?ms=60000", "/hang?ms=60000"] {
        let server = harness.serve(&["--graceful-timeout", "1"]);
        let mut client = server.connect();
        server.begin(&mut client, get(stuck));
        let start = Instant::now();
        server.arbiter().signal(Signal::KILL);
        assert!(server.wait_no_process(PATIENCE), "a process is left");
        took("the last process ended", start, 0.9..3.0);
    }
}

pub(crate) fn d18_a_stuck_worker_of_another_user_ends_with_its_arbiter(harness: &Harness) {
    // A loop that hangs does not see the end of its order socket. The signal of PR_SET_PDEATHSIG
    // arms its timer. The kernel forgets PR_SET_PDEATHSIG when the user changes.
    let user: &[&str] = if geteuid().is_root() { &["--user", "nobody"] } else { &[] };
    let server = harness.serve(&[user, &["--graceful-timeout", "1", "--timeout", "0"]].concat());
    let worker = server.worker();
    let mut stuck = server.connect();
    server.begin(&mut stuck, get("/hang?ms=20000"));
    let start = Instant::now();
    server.arbiter().signal(Signal::KILL);
    assert!(worker.wait_gone(PATIENCE), "the worker outlives its arbiter");
    took("the worker ended", start, 1.0..4.0);
}

pub(crate) fn a_port_in_use_is_status_5(harness: &Harness) {
    let first = harness.serve(&[]);
    let Address::Inet(address) = first.address() else { panic!("it listens at {:?}", first.address()) };
    let mut second = harness.launch(&address.to_string(), &[]);
    assert_eq!(second.exit(PATIENCE), 5);
    let log = second.log();
    assert!(log.contains(&address.to_string()), "the address is not named: {log}");
    first.connect().get("/");
}

pub(crate) fn a_bad_setting_is_status_2(harness: &Harness) {
    for (flag, value) in [("--workers", "many"), ("--graceful-timeout", "-1"), ("--no-such-flag", "1")] {
        let mut server = harness.launch("127.0.0.1:0", &[flag, value]);
        assert_eq!(server.exit(PATIENCE), 2, "{flag} {value}");
        let log = server.log();
        assert!(log.contains(flag.trim_start_matches('-')), "{flag} is not named: {log}");
    }
}

pub(crate) fn a_bad_settings_file_is_status_2(harness: &Harness) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a file can be written");
        path.display().to_string()
    };
    for (path, named) in [
        (file("key.toml", "wrokers = 2\n"), "wrokers"),
        (file("value.toml", "workers = \"many\"\n"), "many"),
        (file("syntax.toml", "workers = = 2\n"), "syntax.toml"),
        (dir.path().join("missing.toml").display().to_string(), "missing.toml"),
    ] {
        let mut server = harness.launch("127.0.0.1:0", &["-c", &path]);
        assert_eq!(server.exit(PATIENCE), 2, "{path}");
        let log = server.log();
        assert!(log.contains(named) && log.contains(&path), "{named:?} in {path} is not named: {log}");
    }
}

/// A new connection that `worker` has accepted.
#[track_caller]
pub(super) fn connection_to(server: &Server, worker: &Process) -> Client {
    let mut others = BTreeMap::<u64, u32>::new();
    let found = until(PATIENCE, || {
        let mut client = server.connect();
        let pid = client.get("/info").number("pid");
        *others.entry(pid).or_default() += 1;
        (pid == worker.id()).then_some(client)
    });
    found.unwrap_or_else(|| {
        panic!("process {} ({:?}) accepts no connection; others do: {others:?}", worker.id(), worker.title())
    })
}

/// The worker that replaces the first of `before`, once there are as many workers as before.
#[track_caller]
pub(super) fn replacement(server: &Server, before: &[Process]) -> Process {
    until(PATIENCE, || newcomer(server.workers(before.len()), before))
        .expect("a worker that ended is replaced")
}

/// The process of `now` that is not among `before`.
pub(super) fn newcomer(now: Vec<Process>, before: &[Process]) -> Option<Process> {
    now.into_iter().find(|process| before.iter().all(|old| old.id() != process.id()))
}
