//! The same event again and again, under load, so that anything it leaves behind accumulates.
//! `UPGRADES=50`, `RELOADS=200` and `KILLS=1000` in the environment set how often.
//!
//! The worker to kill is drawn from those that have lived for [`LIFE`]: a worker that was ready for
//! less than a second is not replaced at once (D17), and most of the run would be back-off.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::{Process, Server, until};
use rustix::process::Signal;

const CLIENTS: usize = 8;

/// How long a worker has lived at least when it is killed: it boots, and is ready for long enough.
const LIFE: Duration = Duration::from_millis(1500);

#[test]
fn upgrades_leave_nothing_behind() {
    again_and_again("upgrades", times("UPGRADES", 4), 2, |server, load| {
        let (new, at) = (server.begin_upgrade(), load.served());
        server.pass_to(new);
        until(PATIENCE, || (load.served() > at + CLIENTS).then_some(())).expect("requests are served");
    });
}

#[test]
fn reloads_leave_nothing_behind() {
    const TAKEN_OVER: &str = "older workers were told to drain";
    again_and_again("reloads", times("RELOADS", 10), 2, |server, _| {
        let before = server.log().matches(TAKEN_OVER).count();
        server.arbiter().signal(Signal::HUP);
        until(PATIENCE, || (server.log().matches(TAKEN_OVER).count() > before).then_some(()))
            .expect("the new generation takes over");
    });
}

#[test]
fn killed_workers_cost_only_requests_in_flight() {
    const WORKERS: usize = 16;
    let mut seen = HashMap::new();
    again_and_again("kills", times("KILLS", WORKERS), WORKERS, |server, load| {
        let mut is_due = |worker: &Process| {
            let since = seen.entry(worker.id()).or_insert_with(Instant::now);
            since.elapsed() > LIFE && !load.was_killed(worker.id())
        };
        let victim = until(PATIENCE, || {
            let mut workers = server.workers(WORKERS);
            workers.retain(&mut is_due);
            fastrand::choice(workers)
        });
        load.kill(&victim.expect("a killed worker is replaced"));
    });
}

/// How often an event happens, as the environment says.
fn times(variable: &str, default: usize) -> usize {
    env::var(variable).map_or(default, |number| number.parse().expect("it is a number"))
}

/// A server of each backend, to which `once` happens `times` times under load after a first time:
/// what its arbiter holds is the same before and after.
fn again_and_again(what: &str, times: usize, workers: usize, mut once: impl FnMut(&mut Server, &Load)) {
    for backend in ["sync", "threaded", "mio", "smol", "tokio"] {
        let harness = Harness::new(backend, "blocking", Path::new(env!("CARGO_BIN_EXE_fixture")));
        let args = ["-w", &workers.to_string(), "-b", "unix:other.sock", "--pid", "server.pid"];
        let mut server = harness.serve(&args);
        let load = Load::new(server.address());
        let (start, before) = thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| load.ask());
            }
            let done = catch_unwind(AssertUnwindSafe(|| {
                once(&mut server, &load);
                let before = (Instant::now(), held(&server, workers));
                (0..times).for_each(|_| once(&mut server, &load));
                before
            }));
            load.over.store(true, Ordering::Relaxed);
            done.unwrap_or_else(|panic| resume_unwind(panic))
        });
        let took = start.elapsed();
        let after = held(&server, workers);
        report(&format!(
            "{backend}: {times} {what} in {took:.1?}, {load}\n  before {before:?}\n  after  {after:?}"
        ));
        let same = |held: &Held| (held.descriptors, held.files.clone());
        assert_eq!(same(&after), same(&before));
        assert!(after.kilobytes < before.kilobytes + 256, "the arbiter grows");
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
        assert_eq!(fs::read_dir(server.dir()).unwrap().count(), 0, "a file is left");
    }
}

/// What an arbiter holds besides its workers: descriptors, its own memory in KiB, files in the
/// server's directory.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    kilobytes: u64,
    files: Vec<String>,
}

/// Measured once its only children are `workers` live workers, and it is idle.
fn held(server: &Server, workers: usize) -> Held {
    let arbiter = server.arbiter();
    let is_settled = || {
        server.workers(workers);
        !arbiter.has_ended_children() && arbiter.status("State").starts_with('S')
    };
    until(PATIENCE, || is_settled().then_some(())).expect("there are workers, and no zombie");
    let names = fs::read_dir(server.dir()).unwrap().map(|file| file.unwrap().file_name());
    let mut files: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    files.sort();
    Held { descriptors: arbiter.descriptors(), kilobytes: arbiter.memory() / 1024, files }
}

/// Clients that send one request after the other. A connection is used until close is announced, or
/// for a while.
struct Load {
    address: Address,
    over: AtomicBool,
    served: AtomicUsize,
    /// Requests that a keeper has answered.
    told: AtomicUsize,
    lost: AtomicUsize,
    /// The pids of killed workers, and when each was gone.
    killed: Mutex<HashMap<u64, Option<Instant>>>,
}

impl Load {
    fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            over: AtomicBool::new(false),
            served: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            killed: Mutex::default(),
        }
    }

    /// How many requests have been answered.
    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    fn kill(&self, worker: &Process) {
        self.killed().insert(worker.id(), None);
        worker.signal(Signal::KILL);
        assert!(worker.wait_gone(PATIENCE), "a worker outlives SIGKILL");
        self.killed().insert(worker.id(), Some(Instant::now()));
    }

    fn was_killed(&self, pid: u64) -> bool {
        self.killed().contains_key(&pid)
    }

    fn killed(&self) -> MutexGuard<'_, HashMap<u64, Option<Instant>>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) {
        while !self.over.load(Ordering::Relaxed) {
            self.ask_on_one_connection();
        }
    }

    /// A request in flight is answered with 500, or lost if its response had begun, if the worker
    /// of its connection was killed. That may be another one than that of the last response,
    /// because connections move. A killed worker that may have had the connection is enough.
    fn ask_on_one_connection(&self) {
        const REQUESTS: usize = 16;
        let start = Instant::now();
        let mut client = self.address.connect(PATIENCE).expect("no connect is refused");
        for _ in 0..REQUESTS {
            let sent = client.try_send("GET /info HTTP/1.1\r\nHost: test\r\n\r\n");
            let response = match sent.map_err(|error| error.to_string()) {
                Ok(()) => client.try_response().map_err(|broken| broken.to_string()),
                Err(error) => Err(error),
            };
            let response = match response {
                Ok(response) if response.status == 200 => response,
                other => {
                    let excused = self.killed().values().any(|gone| gone.is_none_or(|at| at > start));
                    assert!(excused, "a request is lost: {other:?}");
                    let count = if other.is_ok() { &self.told } else { &self.lost };
                    count.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            };
            self.served.fetch_add(1, Ordering::Relaxed);
            if self.over.load(Ordering::Relaxed) || response.announces_close() {
                return;
            }
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [told, lost] = [&self.told, &self.lost].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{} requests served, {told} answered with 500, {lost} lost", self.served())
    }
}

#[allow(clippy::print_stdout, reason = "figures for a run by hand")]
fn report(text: &str) {
    println!("{text}");
}
