//! Hand-off (D19) where it takes more than one server of one kind: two versions of it, or deaths, or a system that refuses. Some
//! print what they count, for `--nocapture`.

use std::collections::HashSet;
use std::env;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf, absolute};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, Client, PATIENCE, Response};
use remuda_conformance::process::{Process, Server, allow_descriptors, until};
use rustix::process::{Signal, geteuid};

/// A backend of each of the two loops that backends have; all with `EVERY_BACKEND` in the environment.
fn backends() -> &'static [&'static str] {
    match env::var_os("EVERY_BACKEND") {
        Some(_) => &["sync", "threaded", "mio", "smol", "tokio"],
        None => &["sync", "tokio"],
    }
}

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

/// Who dies in the middle of a hand-off.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Victim {
    Receiver,
    Sender,
    Arbiter,
}

#[test]
fn d19_a_receiver_that_is_killed_takes_its_own_connections_along_and_no_others() {
    backends().iter().for_each(|backend| killed_in_the_middle(backend, Victim::Receiver));
}

#[test]
fn d19_a_sender_that_is_killed_takes_its_own_connections_along_and_no_others() {
    backends().iter().for_each(|backend| killed_in_the_middle(backend, Victim::Sender));
}

#[test]
fn d19_an_arbiter_that_is_killed_takes_no_connection_along() {
    backends().iter().for_each(|backend| killed_in_the_middle(backend, Victim::Arbiter));
}

/// One worker hands 2,000 connections over to another, and somebody is killed when some have arrived, some are in the queue
/// and some have not left. All three are seen to stand still then: the receiver may open no more descriptors, and the queue is full.
fn killed_in_the_middle(backend: &str, victim: Victim) {
    const CONNECTIONS: usize = 2000;
    const RECEIVED: u64 = 300;
    allow_descriptors(4 * CONNECTIONS as u64);
    let args = ["--keep-alive", "60", "--worker-connections", "0"];
    let server = harness(backend).serve(&[&args, METRICS].concat());
    let sender = workers(&server, 1).remove(0);
    let mut clients = connect(&server, CONNECTIONS);

    server.arbiter().limit_descriptors_for_now(Some(RECEIVED));
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("cannot take connections over", PATIENCE), "{backend}: the receiver takes all");
    let receiver = workers(&server, 2).into_iter().find(|worker| worker.id() != sender.id()).unwrap();
    wait_idle(&sender);
    for worker in [&sender, &receiver] {
        worker.signal(Signal::STOP);
        assert!(worker.wait_frozen(PATIENCE), "SIGSTOP stops a process");
    }
    let all = accepted(server.address());
    let [left, arrived] = [&sender, &receiver].map(|worker| sockets(worker).intersection(&all).count());
    let queued = all.len() - left - arrived;
    assert_eq!(all.len(), CONNECTIONS, "{backend}");
    assert!(
        left > 0 && arrived > 0 && queued > 0,
        "{backend}: {left} left, {queued} queued, {arrived} arrived"
    );

    for process in [server.arbiter(), &receiver] {
        process.limit_descriptors_for_now(None);
    }
    let (dead, lost) = match victim {
        Victim::Receiver => (&receiver, arrived),
        Victim::Sender => (&sender, left),
        Victim::Arbiter => (server.arbiter(), 0),
    };
    dead.signal(Signal::KILL);
    assert!(dead.wait_gone(PATIENCE), "it outlives SIGKILL");
    for worker in [&sender, &receiver] {
        worker.signal(Signal::CONT);
    }
    let answers: Vec<_> = clients.iter_mut().filter_map(answered).collect();
    report(&format!(
        "{backend}: {victim:?} killed while {left} of {CONNECTIONS} connections had not left, {queued} were in the queue and \
         {arrived} had arrived: {} lost",
        CONNECTIONS - answers.len()
    ));
    assert_eq!(CONNECTIONS - answers.len(), lost, "{backend}, {victim:?}");
    let by = |process: &Process| answers.iter().filter(|info| info.number("pid") == process.id()).count();
    assert_eq!(by(dead), 0);
    if victim == Victim::Sender {
        assert_eq!(by(&receiver), queued + arrived, "what it had sent has arrived");
    }
    assert!(answers.iter().all(|info| info.status == 200 && info.number("connection_requests") == 2));
    if victim != Victim::Arbiter {
        // Of the arbiter's death nobody is left to tell.
        let unaccounted = || metric::<i64>(&server, "connections_unaccounted");
        assert!(
            until(PATIENCE, || (unaccounted() == 0).then_some(())).is_some(),
            "{backend}: {}",
            unaccounted()
        );
    }
}

/// A hand-off by workers without privileges, of whose user no more descriptors may be on their way than each may open (unix(7),
/// `ETOOMANYREFS`).
#[test]
fn d19_who_has_too_many_connections_on_their_way_tries_again() {
    const CONNECTIONS: usize = 400;
    for backend in backends() {
        let harness = harness(backend).started_by(&["bash", "-c", "ulimit -S -n 256; exec \"$@\"", "bash"]);
        let args = ["-w", "2", "--keep-alive", "60", "--reload-concurrency", "2"];
        let server = harness.serve(&[&args, METRICS, unprivileged()].concat());
        let senders = workers(&server, 2);
        let mut clients = connect(&server, CONNECTIONS);
        // The next workers take a few.
        server.arbiter().limit_descriptors_for_now(Some(64));
        server.arbiter().signal(Signal::HUP);
        let held = |why| metric::<usize>(&server, &format!("handoff_held_total{{reason=\"{why}\"}}"));
        let refused = until(PATIENCE, || (held("exhausted") > 0).then_some(()));
        assert!(refused.is_some(), "{backend}: it never happens");
        let at_first = metric(&server, OUT);
        assert!((1..CONNECTIONS).contains(&at_first), "{backend}: {at_first} have left");
        // One more takes the others.
        server.arbiter().limit_descriptors_for_now(None);
        server.arbiter().signal(Signal::TTIN);
        // On a machine that is very busy some may have waited for too long, and stay.
        let have_left = || senders.iter().all(|sender| sender.wait_gone(Duration::ZERO));
        let settled = until(PATIENCE, || (have_left() || held("late") > 0).then_some(()));
        assert!(settled.is_some(), "{backend}: it is not tried again");
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

/// Clients that ask, and others that wait, while workers without privileges that may open 256 descriptors are replaced; and
/// then there is one less, and no room for all.
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
                assert!(server.logs("waits in the hand-off queue", PATIENCE), "{backend}: nobody is told");
                waiting.truncate(WAIT / 2);
                assert!(
                    server.logs("no connection waits in the hand-off queue any more", PATIENCE),
                    "{backend}"
                );
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

/// All idle connections of a worker that is replaced, `IDLE=10000` in the environment, are answered on afterwards.
#[test]
fn d19_many_idle_connections_move_quickly_and_in_little_memory() {
    let connections = env::var("IDLE").map_or(1000, |number| number.parse().expect("it is a number"));
    allow_descriptors(2 * connections as u64);
    for backend in backends() {
        let server = harness(backend).serve(&["--keep-alive", "600", "--worker-connections", "0"]);
        let (arbiter, old) = (server.arbiter(), server.worker());
        ask(&mut server.connect());
        let kilobytes = |process: &Process| process.memory() / 1024;
        let (arbiter_before, empty) = (kilobytes(arbiter), kilobytes(&old));
        let mut clients = connect(&server, connections);
        let full = kilobytes(&old);
        let start = Instant::now();
        arbiter.signal(Signal::HUP);
        assert!(server.logs("all older workers were told to drain", PATIENCE), "{backend}");
        let drain = Instant::now();
        assert!(old.wait_gone(PATIENCE), "{backend}: connections keep the worker that leaves");
        let (drained, took) = (drain.elapsed(), start.elapsed());
        let new = server.worker();
        let come = kilobytes(&new);
        for client in &mut clients {
            let info = ask(client);
            assert_eq!((info.number("pid"), info.number("connection_requests")), (new.id(), 2), "{info:?}");
        }
        report(&format!(
            "{backend}: {connections} idle connections moved in {drained:.1?} ({took:.1?} from HUP on); KiB: old worker {empty}, \
             with them {full}; new worker with them {come}, when all have asked {}; arbiter {arbiter_before}, then {}",
            kilobytes(&new),
            kilobytes(arbiter)
        ));
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

/// Where a server tells its figures.
const METRICS: &[&str] = &["--admin-bind", "unix:admin.sock"];

const QUEUE: &str = "handoff_queue";

const OUT: &str = "handoff_connections_total{direction=\"out\"}";

/// What makes workers run as somebody with no privileges.
fn unprivileged() -> &'static [&'static str] {
    if geteuid().is_root() { &["--user", "nobody"] } else { &[] }
}

/// The value of a series, which is a whole number.
#[track_caller]
fn metric<T: FromStr<Err: fmt::Debug>>(server: &Server, series: &str) -> T {
    let mut client = Address::Unix(server.dir().join("admin.sock")).connect(PATIENCE).unwrap();
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    let text = client.response().text();
    let series = format!("remuda_{series} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

/// The workers, once there are `n` of them, beside the helper that tells figures.
fn workers(server: &Server, n: usize) -> Vec<Process> {
    let mut children = server.workers(n + 1);
    let is_worker = |process: &Process| process.title().starts_with("remuda: worker");
    let named =
        until(PATIENCE, || (children.iter().filter(|child| is_worker(child)).count() == n).then_some(()));
    named.expect("they have their titles");
    children.retain(is_worker);
    children
}

/// So many connections, with an answer on each.
fn connect(server: &Server, n: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(INFO));
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
    clients
}

/// What comes of another request; none if the connection is lost.
fn answered(client: &mut Client) -> Option<Response> {
    client.try_send(INFO).ok()?;
    client.try_response().ok()
}

/// The accepting ends of connections at `address`, by their inodes (proc(5), /proc/net/tcp).
fn accepted(address: &Address) -> HashSet<u64> {
    const ESTABLISHED: &str = "01";
    let Address::Inet(SocketAddr::V4(address)) = address else { panic!("it listens at {address:?}") };
    let here = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == here && row[3] == ESTABLISHED).map(|row| row[9].parse().unwrap()).collect()
}

/// The sockets that `process` has, by their inodes.
fn sockets(process: &Process) -> HashSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    descriptors.filter_map(|entry| inode(fs::read_link(entry.unwrap().path()).ok()?)).collect()
}

/// Waits until `process` has nothing more to do, and opens and closes nothing.
fn wait_idle(process: &Process) {
    let (mut before, mut times) = (0, 0);
    let is_idle = || {
        let now = process.descriptors();
        let same = now == before && process.status("State").starts_with('S');
        times = if same { times + 1 } else { 0 };
        before = now;
        (times == 4).then_some(())
    };
    until(PATIENCE, is_idle).expect("it comes to rest");
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

#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn report(text: &str) {
    println!("{text}");
}
