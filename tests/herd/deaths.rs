//! Sudden ends of workers under a herd: what each costs (D20).
//!
//! The environment sets, for a run by hand, how many workers die on each backend (`KILLS=1000`), how
//! (`DEATHS=SIGKILL,panic`), on which backends (`BACKENDS=mio,tokio`), and further options of the
//! servers (`OPTIONS=--no-rescue`).

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::iter;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, Client, PATIENCE, Response};
use remuda_conformance::probe::backends;
use remuda_conformance::process::{Process, Server, until};
use rustix::process::Signal;
use serde_json::Value;

use super::herd::{Fate, Herd};
use super::{CONTROL, alone, recycle, report};

/// Each lives for longer than [`LIFE`] before its turn comes.
const WORKERS: &str = "8";

/// How long a worker has lived at least when it dies: it has booted, and was ready for long enough
/// to be replaced at once (D17).
const LIFE: Duration = Duration::from_millis(1500);

/// The time from one death to the next, unless the death itself takes longer.
const EVERY: Duration = Duration::from_millis(200);

/// Backends whose workers accept on a thread of their own.
const ACCEPT_APART: &[&str] = &["tokio", "smol", "async-std"];

/// Connections that are between requests all the time, and connections without a request.
const IDLE: usize = 100;
const FRESH: usize = 20;

/// No connection ends by its age, and one policy panics when it is asked.
const ARGS: &[&str] = &[
    "-w",
    WORKERS,
    "--keep-alive",
    "3600",
    "--header-timeout",
    "3600",
    "--drain-recycle",
    "panics",
    "--control-socket",
    CONTROL,
    "--admin-bind",
    "unix:admin.sock",
];

/// A kind of sudden end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    Signal(Signal),
    /// A panic outside of a handler.
    Panic,
    /// An allocation that fails.
    Exhaustion,
    /// A loop that is blocked, and ended by the arbiter.
    Hang,
}

/// Kinds with their names in `DEATHS`.
const DEATHS: &[(&str, Death)] = &[
    ("SIGKILL", Death::Signal(Signal::KILL)),
    ("SIGSEGV", Death::Signal(Signal::SEGV)),
    ("SIGABRT", Death::Signal(Signal::ABORT)),
    ("panic", Death::Panic),
    ("exhaustion", Death::Exhaustion),
    ("hang", Death::Hang),
];

/// The kinds that end a worker at once.
pub(crate) const SUDDEN: &[&str] = &["SIGKILL", "SIGSEGV", "SIGABRT", "panic", "exhaustion"];

/// A server of each backend, with these further options, of which `times` workers die in turn under
/// a herd. `is_async_first`: whether the first backend has an async application. The kinds alternate.
pub(crate) fn workers_die(kinds: &[&str], times: usize, further: &[&str], is_async_first: bool) {
    let _alone = alone();
    let listed = |variable| env::var(variable).ok().map(|list| list.split(',').map(str::to_owned).collect());
    let times = env::var("KILLS").map_or(times, |number| number.parse().expect("KILLS is a number"));
    let kinds: Vec<String> =
        listed("DEATHS").unwrap_or_else(|| kinds.iter().map(|&kind| kind.into()).collect());
    let deaths: Vec<Death> = kinds.iter().map(|kind| named(kind)).collect();
    let wanted: Vec<String> = listed("BACKENDS").unwrap_or_else(backends);
    let options: Vec<String> = listed("OPTIONS").unwrap_or_default();
    let args: Vec<&str> =
        ARGS.iter().chain(further).copied().chain(options.iter().map(String::as_str)).collect();
    report(
        "| death | backend | application | times | seconds | requests | told | cut | half a head | not passed on | lost | idle ended | moved | longest ms |",
    );
    for (n, backend) in backends().into_iter().enumerate().filter(|(_, backend)| wanted.contains(backend)) {
        let application = if (n % 2 == 0) == is_async_first { "async" } else { "blocking" };
        let harness = Harness::new(&backend, application, Path::new(env!("CARGO_BIN_EXE_fixture")))
            .with_variable("FIXTURE_POLICY", "panics")
            // A worker that panics does not look its functions up first, which takes seconds.
            .with_variable("RUST_BACKTRACE", "0");
        let mut server = harness.serve(&args);
        let mut idle = Idle::open(server.address());
        let herd = Herd::among_deaths(server.address(), ACCEPT_APART.contains(&&*backend));
        let start = Instant::now();
        let died = herd.run(|herd| {
            let mut died = 0;
            while herd.is_well() && died < times {
                let start = Instant::now();
                deaths[died % deaths.len()].befall(&server, herd);
                died += 1;
                thread::sleep(EVERY.saturating_sub(start.elapsed()));
            }
            died
        });
        let took = start.elapsed();
        let (failures, ended) = (herd.failures(), idle.ended());
        let rescued = settled(&server, &herd);
        let toll = herd.toll().expect("workers may die");
        let seen = (toll.told, toll.cut);
        report(&format!(
            "| {} | {backend} | {application} | {died} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0} |",
            kinds.join(", "),
            took.as_secs_f64(),
            herd.answered(),
            seen.0,
            seen.1,
            toll.halved,
            toll.unaccepted,
            failures.len(),
            ended.len(),
            rescued.moved,
            toll.longest.as_secs_f64() * 1000.0,
        ));
        assert!(failures.is_empty(), "{backend}, {application}: {failures:#?}");
        assert!(ended.is_empty(), "{backend}, {application}, between requests: {ended:#?}");
        assert_eq!((rescued.answered, rescued.cut), seen, "{backend}, {application}: answered, cut");
        assert_eq!(rescued.lost, 0, "{backend}, {application}");
        drop(toll);
        drop(idle);
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}

fn named(kind: &str) -> Death {
    let found = DEATHS.iter().find(|(name, _)| *name == kind);
    found.unwrap_or_else(|| panic!("{kind} is no kind of death; allowed: {DEATHS:?}")).1
}

impl Death {
    /// Ends a worker this way, and waits until it is gone.
    ///
    /// What the last one has cost is settled before, and every connection has had a response: where
    /// a thread of its own accepts, connections that it has not passed on yet are lost with their
    /// worker.
    fn befall(self, server: &Server, herd: &Herd) {
        settled(server, herd);
        let is_settled = || (herd.is_settled() || !herd.is_well()).then_some(());
        until(PATIENCE, is_settled).expect("new connections are served");
        let (request, life) = match self {
            Self::Exhaustion => ("/exhaust", LIFE),
            // It lives on for as long as it hangs.
            Self::Hang => ("/hang?ms=60000", Duration::ZERO),
            Self::Signal(_) | Self::Panic => {
                return self.strike(server, herd);
            }
        };
        let (mut client, worker) =
            until(PATIENCE, || aged_connection(server, herd, life)).expect("a worker is old enough");
        herd.expect_death(worker.id());
        client.send(get(request));
        match Fate::of(&mut client) {
            Ok(Fate::Told) => herd.toll().expect("workers may die").told += 1,
            Ok(Fate::Answered(response)) => panic!("{request} is answered: {response:?}"),
            Ok(Fate::Cut | Fate::Ended) => panic!("{request} is cut"),
            Err(why) => panic!("{request}: {why}"),
        }
        assert!(worker.wait_gone(PATIENCE), "the worker is alive");
    }

    /// Ends the oldest worker.
    fn strike(self, server: &Server, herd: &Herd) {
        let oldest = || {
            let (pid, _) = aged(server, herd, LIFE).into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
            Process::of(pid)
        };
        let worker = until(PATIENCE, oldest).expect("a worker is old enough");
        herd.expect_death(worker.id());
        let Self::Signal(signal) = self else {
            recycle(server, &worker);
            assert!(worker.wait_gone(PATIENCE), "the worker has survived the panic");
            return;
        };
        // The first SEGV from outside is caught by Rust's runtime, which looks for a stack
        // overflow.
        let is_gone = || {
            worker.signal(signal);
            worker.wait_gone(Duration::from_millis(100)).then_some(())
        };
        until(PATIENCE, is_gone).expect("the worker ends");
    }
}

/// The living workers that have lived for `life`, with their ages in seconds.
fn aged(server: &Server, herd: &Herd, life: Duration) -> Vec<(u64, f64)> {
    let mut socket = UnixStream::connect(server.dir().join(CONTROL)).expect("the control socket listens");
    writeln!(socket, r#"{{"v":1,"command":"status"}}"#).expect("the server takes the request");
    let mut lines = BufReader::new(socket).lines();
    let lines = iter::from_fn(|| lines.next()?.ok());
    let lines = lines.map(|line| serde_json::from_str::<Value>(&line).expect("each line is JSON"));
    let workers = lines.take_while(|line| line.get("ok").is_none());
    let aged = workers.filter_map(|line| {
        let worker = line.get("worker")?;
        let (pid, age) = (worker["pid"].as_u64()?, worker["age"].as_f64()?);
        // The arbiter may not have noticed the last death yet.
        let is_alive = worker["ready"] == true && worker["leaving"] == false && !herd.expects_death(pid);
        (is_alive && age > life.as_secs_f64()).then_some((pid, age))
    });
    aged.collect()
}

/// A new connection, if the worker that it is with has lived for `life`.
fn aged_connection(server: &Server, herd: &Herd, life: Duration) -> Option<(Client, Process)> {
    let mut client = server.connect();
    let pid = ask(&mut client, "/info").number("pid");
    aged(server, herd, life).iter().find(|(worker, _)| *worker == pid)?;
    Some((client, Process::of(pid)?))
}

/// Connections at rest, with the number of requests that each has had.
struct Idle(Vec<(Client, u64)>);

impl Idle {
    fn open(address: &Address) -> Self {
        let open = |n: usize| {
            let mut client = address.connect(PATIENCE).expect("the server accepts connections");
            let requests = if n < FRESH { 0 } else { 1 + n as u64 % 3 };
            (0..requests).for_each(|_| assert_eq!(ask(&mut client, "/").status, 200));
            (client, requests)
        };
        Self((0..FRESH + IDLE).map(open).collect())
    }

    /// Descriptions of those that have ended, or are not served as if nothing had happened.
    fn ended(&mut self) -> Vec<String> {
        let check = |(client, requests): &mut (Client, u64)| {
            let has_ended = client.has_more(Duration::ZERO);
            // What cannot be sent is not answered.
            let _ = client.try_send(get("/info"));
            let found = match client.try_response() {
                Ok(response) => {
                    let is_next =
                        response.status == 200 && response.number("connection_requests") == *requests + 1;
                    if is_next && !has_ended && !response.announces_close() {
                        return None;
                    }
                    format!("{response:?}")
                }
                Err(broken) => broken.to_string(),
            };
            Some(format!("{} after {requests} requests: {found}", client.local_address()))
        };
        self.0.iter_mut().filter_map(check).collect()
    }
}

/// The counts of `remuda_rescued_total`.
#[derive(Clone, Copy, Debug)]
struct Rescued {
    moved: usize,
    answered: usize,
    cut: usize,
    lost: usize,
}

/// What keepers have done, once they have counted as many requests, answered and cut, as clients
/// have seen: a client has its response before that is counted. Otherwise the counts in the end.
fn settled(server: &Server, herd: &Herd) -> Rescued {
    let is_settled = |found: &Rescued| {
        let toll = herd.toll().expect("workers may die");
        (found.answered, found.cut) == (toll.told, toll.cut) || !herd.is_well()
    };
    until(PATIENCE, || Some(rescued(server)).filter(is_settled)).unwrap_or_else(|| rescued(server))
}

fn rescued(server: &Server) -> Rescued {
    let address = Address::Unix(server.dir().join("admin.sock"));
    // A unix socket whose queue is full refuses a non-blocking connect.
    let client = until(PATIENCE, || address.connect(PATIENCE).ok());
    let page = ask(&mut client.expect("the admin listener is there"), "/metrics").text();
    let [moved, answered, cut, lost] = ["moved", "answered", "cut", "lost"].map(|outcome| {
        let series = format!("remuda_rescued_total{{outcome=\"{outcome}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series}in {page}"))
    });
    Rescued { moved, answered, cut, lost }
}

#[track_caller]
fn ask(client: &mut Client, path: &str) -> Response {
    client.send(get(path));
    client.response()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}
