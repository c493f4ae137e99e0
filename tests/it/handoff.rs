//! Hand-off (D19) of thousands of connections, also when a process is killed in the middle; between
//! two arbiters; and when descriptors are short. With `--nocapture` the tests print how many
//! connections were where.

use std::collections::HashSet;
use std::env;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, Client, PATIENCE, Response};
use remuda_conformance::host;
use remuda_conformance::process::{Process, Server, allow_descriptors, until};
use rustix::process::Signal;

mod shortage;
mod versions;

/// The process that is killed in the middle of a hand-off.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Victim {
    Receiver,
    Sender,
    Arbiter,
}

#[test]
fn d19_a_killed_receiver_loses_no_connection() {
    backends().iter().for_each(|backend| killed_in_the_middle(backend, Victim::Receiver));
}

#[test]
fn d19_a_killed_sender_loses_no_connection() {
    backends().iter().for_each(|backend| killed_in_the_middle(backend, Victim::Sender));
}

#[test]
fn d19_a_killed_arbiter_loses_no_connection() {
    backends().iter().for_each(|backend| killed_in_the_middle(backend, Victim::Arbiter));
}

/// One worker hands 2,000 connections over to another. `victim` is killed when some have arrived,
/// some are in the queue and some have not left. All three stand still then: the receiver may open
/// no more descriptors, and the queue is full.
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
    assert!(
        server.logs("cannot receive handed-off connections", PATIENCE),
        "{backend}: the receiver takes all"
    );
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
    let dead = match victim {
        Victim::Receiver => &receiver,
        Victim::Sender => &sender,
        Victim::Arbiter => server.arbiter(),
    };
    dead.signal(Signal::KILL);
    assert!(dead.wait_gone(PATIENCE), "the process outlives SIGKILL");
    for worker in [&sender, &receiver] {
        worker.signal(Signal::CONT);
    }
    let answers: Vec<_> = clients.iter_mut().filter_map(answered).collect();
    report(&format!(
        "{backend}: {victim:?} killed while {left} of {CONNECTIONS} connections had not left, {queued} were in the queue and \
         {arrived} had arrived: {} lost",
        CONNECTIONS - answers.len()
    ));
    assert_eq!(answers.len(), CONNECTIONS, "{backend}, {victim:?}");
    let by = |process: &Process| answers.iter().filter(|info| info.number("pid") == process.id()).count();
    assert_eq!(by(dead), 0);
    if victim == Victim::Sender {
        assert_eq!(by(&receiver), CONNECTIONS, "those of the sender arrive as well");
    }
    assert!(answers.iter().all(|info| info.status == 200 && info.number("connection_requests") == 2));
    if victim != Victim::Arbiter {
        // After the arbiter's death there are no metrics to ask.
        let unaccounted = || metric::<i64>(&server, "connections_unaccounted");
        assert!(
            until(PATIENCE, || (unaccounted() == 0).then_some(())).is_some(),
            "{backend}: {}",
            unaccounted()
        );
    }
}

/// All idle connections of a worker that is replaced are answered afterwards. `IDLE=10000` in the
/// environment sets their number.
#[test]
fn d19_many_idle_connections_move_quickly_and_in_little_memory() {
    // A queue that stays full for a second leaves connections where they are.
    host::hold("many idle connections", many_idle_connections_move);
}

fn many_idle_connections_move() {
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
        assert!(old.wait_gone(PATIENCE), "{backend}: the leaving worker keeps its connections");
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

/// A listener for metrics.
const METRICS: &[&str] = &["--admin-bind", "unix:admin.sock"];

const QUEUE: &str = "handoff_queue";

const OUT: &str = "handoff_connections_total{direction=\"out\"}";

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

/// The workers, once there are `n` of them, without the admin helper.
fn workers(server: &Server, n: usize) -> Vec<Process> {
    let mut children = server.workers(n + 1);
    let is_worker = |process: &Process| process.title().starts_with("remuda: worker");
    let named =
        until(PATIENCE, || (children.iter().filter(|child| is_worker(child)).count() == n).then_some(()));
    named.expect("they have their titles");
    children.retain(is_worker);
    children
}

/// A backend of each of the two kinds of loop. With `EVERY_BACKEND` in the environment, all
/// backends.
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

/// `n` connections with one answered request each.
fn connect(server: &Server, n: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(INFO));
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
    clients
}

/// The response to another request. None: the connection is lost.
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

/// The sockets that `process` has open, by their inodes.
fn sockets(process: &Process) -> HashSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    descriptors.filter_map(|entry| inode(fs::read_link(entry.unwrap().path()).ok()?)).collect()
}

/// Waits until `process` opens and closes no more descriptors.
fn wait_idle(process: &Process) {
    let (mut before, mut times) = (0, 0);
    let is_idle = || {
        let now = process.descriptors();
        let same = now == before && process.status("State").starts_with('S');
        times = if same { times + 1 } else { 0 };
        before = now;
        (times == 4).then_some(())
    };
    until(PATIENCE, is_idle).expect("the process becomes idle");
}

/// Sends a request and returns the response.
#[track_caller]
fn ask(client: &mut Client) -> Response {
    client.send(INFO);
    let response = client.response();
    assert_eq!(response.status, 200, "{response:?}");
    response
}

#[allow(clippy::print_stdout, reason = "figures for a run by hand")]
fn report(text: &str) {
    println!("{text}");
}
