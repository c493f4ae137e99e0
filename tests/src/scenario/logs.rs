//! The logs: a line for each request, whatever its outcome, written without delaying anything; and
//! USR1.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::process::{Signal, geteuid};
use serde_json::Value;

use super::process::connection_to;
use super::{get, get_with_body, post, took};
use crate::Harness;
use crate::client::{Address, End, PATIENCE};
use crate::process::{Process, until};

/// The format most scenarios use: request line, status, bytes.
const SHORT: &[&str] = &["--access-logfile", "access.log", "--access-logformat", "%(r)s %(s)s %(B)s"];

pub(crate) fn each_request_is_a_line_of_the_access_log(harness: &Harness) {
    let server = harness.serve(SHORT);
    let mut client = server.connect();
    client.get("/?a=b");
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().status, 200);
    client.send(post("/echo", 70_000) + &"x".repeat(70_000));
    assert_eq!(client.response().body.len(), 70_000);
    client.get("/stream?chunks=3&size=10&ms=1");
    client.send(get("/status?code=204"));
    assert_eq!(client.response().status, 204);
    assert_eq!(
        lines(server.dir(), "access.log", 5),
        [
            "GET /?a=b HTTP/1.1 200 13",
            "HEAD / HTTP/1.1 200 0",
            "POST /echo HTTP/1.1 200 70000",
            "GET /stream?chunks=3&size=10&ms=1 HTTP/1.1 200 30",
            "GET /status?code=204 HTTP/1.1 204 0",
        ]
    );
}

pub(crate) fn the_access_log_is_off_by_default_and_combined_if_on(harness: &Harness) {
    let server = harness.serve(&["--log-level", "trace"]);
    server.connect().get("/?quiet");
    server.catch_up();
    assert!(!server.log().contains("quiet"), "{}", server.log());

    let server = harness.serve(&["--access-logfile", "-"]);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nReferer: http://r/\r\nUser-Agent: test\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert!(server.logs(r#""GET / HTTP/1.1" 200 13 "http://r/" "test""#, PATIENCE), "{}", server.log());
    assert!(server.log().contains("127.0.0.1 - - ["), "{}", server.log());
}

pub(crate) fn an_access_log_in_json_has_an_object_a_line(harness: &Harness) {
    let server = harness.serve(&["--access-logfile", "access.log", "--access-logformat", "json"]);
    let mut client = server.connect();
    client.send("GET /?x=1 HTTP/1.1\r\nHost: test\r\nUser-Agent: \"\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let [line] = &lines(server.dir(), "access.log", 1)[..] else { panic!("one line") };
    for part in [
        "{\"time\":\"20",
        &format!("\"pid\":{},\"remote\":\"127.0.0.1\"", server.worker().id()),
        r#""method":"GET","target":"/?x=1","protocol":"HTTP/1.1","status":200,"bytes":13,"duration_us":"#,
        r#""user_agent":"\"""#,
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(line.ends_with('}'));
}

pub(crate) fn environment_variables_can_be_in_the_access_log(harness: &Harness) {
    let args =
        ["-e", "COLOUR=red", "--access-logfile", "access.log", "--access-logformat", "%({COLOUR}e)s %(U)s"];
    let server = harness.serve(&args);
    server.connect().get("/");
    assert_eq!(lines(server.dir(), "access.log", 1), ["red /"]);
}

pub(crate) fn a_request_cannot_forge_a_line_of_the_access_log(harness: &Harness) {
    let server =
        harness.serve(&["--access-logfile", "access.log", "--access-logformat", r#""%(r)s" "%(a)s""#]);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nUser-Agent: a\" \"\\b\u{9b}31m\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let mut client = server.connect();
    client.send("\x1b[31m\r\"GET / HTTP/1.1\" \"-\"\r\n\r\n");
    client.last_response(400);
    let expected = [
        r#""GET / HTTP/1.1" "a\x22 \x22\x5Cb\xC2\x9B31m""#,
        r#""\x1B[31m\x0D\x22GET / HTTP/1.1\x22 \x22-\x22" "-""#,
    ];
    assert_eq!(lines(server.dir(), "access.log", 2), expected);
}

pub(crate) fn refused_requests_are_in_the_access_log(harness: &Harness) {
    let limits = ["--limit-request-line", "100", "--limit-request-body", "10", "--header-timeout", "1"];
    let server = harness.serve(&[SHORT, &limits].concat());
    let refused = |bytes: String, status: u16| {
        let mut client = server.connect();
        client.send(bytes);
        client.last_response(status).body.len()
    };
    let long = "x".repeat(100);
    let expected = [
        format!("nonsense 400 {}", refused("nonsense\r\n\r\n".into(), 400)),
        format!("GET / HTTP/2.0 505 {}", refused("GET / HTTP/2.0\r\n\r\n".into(), 505)),
        format!("GET /{long} HTTP/1.1 414 {}", refused(get(&format!("/{long}")), 414)),
        format!("GET / HTTP/1.1 413 {}", refused(get_with_body("/", 11), 413)),
        format!("GET /late 408 {}", refused("GET /late".into(), 408)),
    ];
    assert_eq!(lines(server.dir(), "access.log", 5), expected);
}

pub(crate) fn a_response_cut_at_the_deadline_is_in_the_access_log(harness: &Harness) {
    let mut server = harness.serve(&[SHORT, &["--graceful-timeout", "1"]].concat());
    let mut client = server.connect();
    client.send(get("/stream?chunks=100&size=10&ms=100"));
    let mut response = client.head();
    server.drain();
    client.try_body(&mut response).expect_err("ten seconds do not fit into one");
    assert_eq!(server.exit(PATIENCE), 6);
    // A worker writes its remaining log lines before it ends.
    let log = read(server.dir(), "access.log");
    let sent = log.strip_prefix("GET /stream?chunks=100&size=10&ms=100 HTTP/1.1 200 ");
    let sent: usize = sent.and_then(|sent| sent.trim_end().parse().ok()).unwrap_or_else(|| panic!("{log}"));
    assert!((10..1000).contains(&sent), "{log}");
}

pub(crate) fn a_request_of_a_vanished_client_is_in_the_access_log(harness: &Harness) {
    let server = harness.serve(SHORT);
    let mut client = server.connect();
    client.send(post("/collect", 100));
    server.catch_up();
    drop(client);
    // Lines of two connections may be in any order.
    let mut log = lines(server.dir(), "access.log", 2);
    log.sort();
    assert_eq!(log[0], "GET / HTTP/1.1 200 13");
    // Whether there was a response by then depends on the application.
    assert!(log[1].starts_with("POST /collect HTTP/1.1 "), "{log:?}");
}

pub(crate) fn an_unread_access_log_delays_no_request(harness: &Harness) {
    /// More than pipe and queue hold.
    const REQUESTS: usize = 500;
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("fifo");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a FIFO can be made");
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).expect("it is there");
    let format = format!("{} %(U)s", "x".repeat(3990));
    let path = path.display().to_string();
    let mut server = harness.serve(&["--access-logfile", &path, "--access-logformat", &format]);
    let mut client = server.connect();
    let start = Instant::now();
    for _ in 0..REQUESTS {
        client.get("/");
    }
    took("all were answered", start, 0.0..8.0);
    assert!(server.logs("lines dropped", PATIENCE), "{}", server.log());

    // Nor does the end of the server wait long for a reader.
    drop(client);
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..1.0);
    let mut written = String::new();
    if let Err(error) = reader.read_to_string(&mut written) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let expected = format!("{} /", "x".repeat(3990));
    assert!(written.lines().count() > 1 && written.lines().all(|line| line == expected));
}

pub(crate) fn usr1_reopens_log_files_without_losing_a_line(harness: &Harness) {
    const ROTATIONS: usize = 3;
    let args = ["-w", "3", "--access-logfile", "access.log", "--access-logformat", "%(p)s %(q)s"];
    let mut server = harness.serve(&args);
    let workers = server.workers(3);
    let is_over = AtomicBool::new(false);
    let asked: usize = thread::scope(|scope| {
        let load = |client: usize| {
            let (server, is_over) = (&server, &is_over);
            move || {
                let numbers = (0..).take_while(|_| !is_over.load(Ordering::Relaxed));
                numbers.map(|n| server.connect().get(&format!("/?{client}-{n}"))).count()
            }
        };
        let clients = [0, 1].map(|client| scope.spawn(load(client)));
        for n in 0..ROTATIONS {
            rotate(server.dir(), "access.log", n);
            server.arbiter().signal(Signal::USR1);
            for worker in &workers {
                assert!(
                    wait_for(server.dir(), "access.log", &format!("<{}>", worker.id())),
                    "a worker did not reopen its log"
                );
            }
        }
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("it is always answered")).sum()
    });
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let files = (0..ROTATIONS).map(|n| format!("access.log.{n}")).chain(["access.log".to_owned()]);
    let all: String = files.map(|name| read(server.dir(), &name)).collect();
    let mut numbers: Vec<_> = all.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((all.lines().count(), numbers.len()), (asked, asked), "each request is logged once");
}

pub(crate) fn usr1_to_a_worker_reopens_its_own_logs(harness: &Harness) {
    let args = ["-w", "2", "--access-logfile", "access.log", "--access-logformat", "%(p)s"];
    let server = harness.serve(&args);
    let workers = server.workers(2);
    let mut clients = [0, 1].map(|n| connection_to(&server, &workers[n]));
    rotate(server.dir(), "access.log", 0);
    workers[0].signal(Signal::USR1);
    assert!(until(PATIENCE, || server.dir().join("access.log").exists().then_some(())).is_some());
    for client in &mut clients {
        client.get("/");
    }
    let pid = |worker: &Process| format!("<{}>", worker.id());
    let new = lines(server.dir(), "access.log", 1);
    assert!(new.iter().all(|line| *line == pid(&workers[0])), "{new:?}");
    let old =
        || Some(read(server.dir(), "access.log.0")).filter(|log| log.ends_with(&(pid(&workers[1]) + "\n")));
    assert!(until(PATIENCE, old).is_some(), "{}", read(server.dir(), "access.log.0"));
}

pub(crate) fn the_error_log_is_a_file_that_usr1_reopens(harness: &Harness) {
    let args = ["--error-logfile", "error.log", "--log-level", "debug"];
    let mut server = harness.launch("unix:server.sock", &args);
    assert!(wait_for(server.dir(), "error.log", "ready: unix:"));
    assert_eq!(server.log(), "", "standard error is empty");
    let worker = server.worker();
    rotate(server.dir(), "error.log", 0);
    server.arbiter().signal(Signal::USR1);
    assert!(until(PATIENCE, || server.dir().join("error.log").exists().then_some(())).is_some());
    let mut client = Address::Unix(server.dir().join("server.sock")).connect(PATIENCE).expect("it listens");
    client.get("/");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(client.end(PATIENCE), End::Fin);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = read(server.dir(), "error.log");
    let arbiter = server.arbiter().id();
    for (pid, words) in [(arbiter, "stopping"), (worker.id(), "draining"), (arbiter, "1 of 1 requests")] {
        let by = format!("[{pid}]");
        assert!(log.lines().any(|line| line.contains(&by) && line.contains(words)), "{by} {words}: {log}");
    }
    assert!(!read(server.dir(), "error.log.0").contains("stopping"));
}

pub(crate) fn usr1_rotates_files_that_the_workers_user_may_not_open(harness: &Harness) {
    let user: &[&str] = if geteuid().is_root() { &["--user", "nobody"] } else { &[] };
    let logs =
        ["--error-logfile", "error.log", "--access-logfile", "access.log", "--access-logformat", "%(p)s"];
    let args = [user, &logs, &["--umask", "027", "--log-level", "debug", "-w", "2"]].concat();
    let server = harness.launch("127.0.0.1:0", &args);
    let address = || {
        let log = read(server.dir(), "error.log");
        log.split_once("ready: http://")?.1.split_once(',')?.0.parse().map(Address::Inet).ok()
    };
    let address: Address = until(PATIENCE, address).expect("it becomes ready");
    let mut server = server.reach(address);
    let workers = server.workers(2);
    let mode = |name: &str| fs::metadata(server.dir().join(name)).map(|file| file.mode() & 0o777).ok();
    let is_written_by = |worker: &Process| {
        let pid = format!("<{}>", worker.id());
        let written = || {
            server.connect().get("/");
            read(server.dir(), "access.log").contains(&pid).then_some(())
        };
        assert!(
            until(PATIENCE, written).is_some(),
            "{pid} does not write to the new file: {}",
            read(server.dir(), "error.log")
        );
    };
    workers.iter().for_each(is_written_by);
    assert_eq!((mode("error.log"), mode("access.log")), (Some(0o640), Some(0o640)), "as the umask leaves it");

    for (n, signalled) in [server.arbiter(), &workers[1]].into_iter().enumerate() {
        rotate(server.dir(), "error.log", n);
        rotate(server.dir(), "access.log", n);
        signalled.signal(Signal::USR1);
        let there = || (mode("error.log").is_some() && mode("access.log").is_some()).then_some(());
        assert!(until(PATIENCE, there).is_some(), "the files are not reopened");
        is_written_by(&workers[1]);
        assert_eq!((mode("error.log"), mode("access.log")), (Some(0o640), Some(0o640)));
        if n == 0 {
            is_written_by(&workers[0]);
        }
    }
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = read(server.dir(), "error.log");
    let drains = format!("[{}] DEBUG draining", workers[1].id());
    assert!(log.contains(&drains) && !log.contains("cannot"), "{log}");
    assert!(!read(server.dir(), "error.log.0").contains("cannot"));
}

pub(crate) fn usr1_is_made_up_for_by_a_worker_without_free_descriptors(harness: &Harness) {
    let server = harness.serve(&["--access-logfile", "access.log", "--access-logformat", "%(p)s"]);
    let worker = server.worker();
    let mut client = server.connect();
    client.get("/");
    worker.limit_descriptors_for_now(Some(3));
    rotate(server.dir(), "access.log", 0);
    server.arbiter().signal(Signal::USR1);
    let kept = "cannot reopen the logs, the old files are kept: 0 of 1 descriptors received";
    assert!(server.logs(kept, PATIENCE), "{}", server.log());
    client.get("/");
    assert_eq!(lines(server.dir(), "access.log.0", 2).len(), 2, "the old file is kept");
    worker.limit_descriptors_for_now(None);
    assert!(server.logs("the logs are reopened now", PATIENCE), "{}", server.log());
    client.get("/");
    assert_eq!(lines(server.dir(), "access.log", 1).len(), 1);
    assert_eq!(server.log().matches("cannot reopen").count(), 1, "{}", server.log());
}

pub(crate) fn a_log_that_cannot_be_reopened_stays_open(harness: &Harness) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let place = dir.path().join("logs");
    fs::create_dir(&place).expect("another one can");
    let path = place.join("access.log").display().to_string();
    let server = harness.serve(&["--access-logfile", &path, "--access-logformat", "%(U)s"]);
    server.connect().get("/");
    fs::rename(place, dir.path().join("moved")).expect("it can be moved");
    server.arbiter().signal(Signal::USR1);
    assert!(server.logs("cannot reopen the log", PATIENCE), "{}", server.log());
    server.connect().get("/bytes?n=1");
    assert_eq!(lines(dir.path(), "moved/access.log", 2), ["/", "/bytes"]);
    // Only the arbiter opens files.
    assert_eq!(server.log().matches("cannot reopen the log").count(), 1, "{}", server.log());
}

pub(crate) fn a_log_that_cannot_be_written_is_status_2(harness: &Harness) {
    for (flag, value, named) in [
        ("--access-logfile", "no/such/place", "no/such/place"),
        ("--error-logfile", "no/such/place", "no/such/place"),
        ("--access-logformat", "%(h)s %(z)s", "%(z)s is not an atom; allowed: json, or"),
    ] {
        let mut server = harness.launch("127.0.0.1:0", &[flag, value]);
        assert_eq!(server.exit(PATIENCE), 2, "{flag} {value}");
        let log = server.log();
        assert!(log.contains(flag.trim_start_matches('-')) && log.contains(named), "{flag}: {log}");
    }
}

pub(crate) fn a_json_log_line_names_its_process(harness: &Harness) {
    let server = harness.serve(&["--log-format", "json"]);
    let by = format!("{{\"pid\":{},\"timestamp\":", server.arbiter().id());
    assert!(server.log().starts_with(&by), "{}", server.log());
}

pub(crate) fn a_log_line_has_each_fact_once(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let backend = harness.backend();
    let log = server.log();
    let ready = log.lines().find_map(|line| line.split_once("  INFO ready: ")).expect(&log);
    let (addresses, rest) = ready.1.split_once(", ").expect(&log);
    assert!(ready.0.ends_with(&format!("[{}]", server.arbiter().id())), "{log}");
    assert_eq!(rest, format!("2 {backend} workers; stop with TERM or Ctrl-C"));
    assert!(addresses.starts_with("http://127.0.0.1:"), "{log}");
}

pub(crate) fn numbers_in_the_json_log_are_numbers(harness: &Harness) {
    let mut server = harness.serve(&["--log-format", "json"]);
    let worker = server.worker();
    worker.signal(Signal::KILL);
    assert!(server.logs("worker ended with signal 9", PATIENCE));
    server.worker();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = server.log();
    let fields = |words: &str| -> Value {
        let line = log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {log}"));
        serde_json::from_str::<Value>(line).expect(line)["fields"].clone()
    };
    let ready = fields("ready: ");
    assert_eq!((&ready["workers"], &ready["backend"]), (&1.into(), &harness.backend().into()), "{ready}");
    assert!(ready["addresses"].as_str().is_some_and(|at| at.starts_with("http://")), "{ready}");
    let died = fields("worker ended with signal 9");
    assert_eq!((died["pid"].as_u64(), died["slot"].as_u64()), (Some(worker.id()), Some(0)), "{died}");
    assert!(died["lived_seconds"].as_f64().is_some_and(|lived| (0.0..60.0).contains(&lived)), "{died}");
    assert_eq!(fields("stopping, at most")["left_seconds"].as_f64(), Some(30.0));
}

/// Renames a log, as log rotation does.
fn rotate(dir: &Path, name: &str, n: usize) {
    fs::rename(dir.join(name), dir.join(format!("{name}.{n}"))).expect("the log is there");
}

/// The lines of a log, once there are `n`.
#[track_caller]
pub(super) fn lines(dir: &Path, name: &str, n: usize) -> Vec<String> {
    let found = until(PATIENCE, || Some(read(dir, name)).filter(|log| log.lines().count() >= n));
    let log = found.unwrap_or_else(|| panic!("not {n} lines: {:?}", read(dir, name)));
    log.lines().map(str::to_owned).collect()
}

/// Waits until a log contains `words`.
fn wait_for(dir: &Path, name: &str, words: &str) -> bool {
    until(PATIENCE, || read(dir, name).contains(words).then_some(())).is_some()
}

/// The contents of a log so far.
fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}
