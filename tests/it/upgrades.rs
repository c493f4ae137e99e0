//! Upgrades in a row, under load: what each leaves behind would show. `UPGRADES=50` in the environment makes it fifty.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use remuda_conformance::Harness;
use remuda_conformance::client::PATIENCE;
use remuda_conformance::process::{Process, Server, until};
use rustix::process::Signal;

const CLIENTS: usize = 8;

/// What an arbiter holds: descriptors, children, kilobytes of its own, files in the server's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    descriptors: usize,
    children: usize,
    kilobytes: u64,
    files: Vec<String>,
}

fn held(server: &Server) -> Held {
    let arbiter = server.arbiter();
    let status = fs::read_to_string(format!("/proc/{}/status", arbiter.id())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let names = fs::read_dir(server.dir()).unwrap().map(|file| file.unwrap().file_name());
    let mut files: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    files.sort();
    Held {
        descriptors: arbiter.descriptors(),
        children: arbiter.count_children(),
        kilobytes: anonymous.trim().trim_end_matches(" kB").parse().unwrap(),
        files,
    }
}

#[test]
fn upgrades_leave_nothing_behind() {
    let upgrades = env::var("UPGRADES").map_or(4, |number| number.parse().expect("UPGRADES is a number"));
    for backend in ["sync", "threaded", "mio", "smol", "tokio"] {
        let harness = Harness::new(backend, "blocking", Path::new(env!("CARGO_BIN_EXE_fixture")));
        let mut server = harness.serve(&["-w", "2", "-b", "unix:other.sock", "--pid", "server.pid"]);
        let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        let address = server.address().clone();
        let start = Instant::now();
        // Of one that was started by an upgrade, as the last one is.
        server.upgrade();
        let before = held(&server);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| ask(&address, &over, &served));
            }
            let done = catch_unwind(AssertUnwindSafe(|| {
                for _ in 0..upgrades {
                    let (heir, at) = (server.begin_upgrade(), served.load(Ordering::Relaxed));
                    server.pass_to(heir);
                    let serves = || (served.load(Ordering::Relaxed) > at + CLIENTS).then_some(());
                    until(PATIENCE, serves).expect("requests are served");
                }
            }));
            over.store(true, Ordering::Relaxed);
            done.unwrap_or_else(|panic| resume_unwind(panic));
        });
        let workers: Vec<_> = server.workers(2).iter().map(Process::id).collect();
        let after = held(&server);
        report(&format!(
            "{backend}: {upgrades} upgrades in {:.1?}, {} requests, none lost, no connect refused\n  \
             before {before:?}\n  after  {after:?}",
            start.elapsed(),
            served.load(Ordering::Relaxed),
        ));
        assert_eq!(workers.len(), 2);
        let same = |held: &Held| (held.descriptors, held.children, held.files.clone());
        assert_eq!(same(&after), same(&before));
        assert!(after.kilobytes < before.kilobytes + 256, "the arbiter grows");
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
        assert_eq!(fs::read_dir(server.dir()).unwrap().count(), 0, "a file is left");
    }
}

/// One request after the other, on connections that are used until close is announced or for a while.
fn ask(address: &remuda_conformance::client::Address, over: &AtomicBool, served: &AtomicUsize) {
    let connect = || address.connect(PATIENCE).expect("no connect is refused");
    let mut client = connect();
    for n in 1.. {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let response = client.try_response().unwrap_or_else(|broken| panic!("a request is lost: {broken}"));
        assert_eq!(response.status, 200);
        served.fetch_add(1, Ordering::Relaxed);
        if over.load(Ordering::Relaxed) {
            return;
        }
        if response.announces_close() || n % 16 == 0 {
            client = connect();
        }
    }
}

#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn report(text: &str) {
    println!("{text}");
}
