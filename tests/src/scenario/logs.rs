//! The logs: a line for each request, whatever became of it; nobody waits for them; and USR1.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::process::Signal;

use super::process::connection_to;
use super::{get, get_with_body, post, took};
use crate::Harness;
use crate::client::{Address, End, PATIENCE};
use crate::process::{Process, until};

/// What most of these look at: request line, status, bytes.
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

pub(crate) fn the_access_log_is_off_by_default_and_combined_where_nothing_else_is_said(harness: &Harness) {
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

pub(crate) fn an_access_log_in_json_is_an_object_a_line(harness: &Harness) {
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

pub(crate) fn nobody_forges_a_line_of_the_access_log(harness: &Harness) {
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

pub(crate) fn what_the_deadline_cuts_is_in_the_access_log(harness: &Harness) {
    let mut server = harness.serve(&[SHORT, &["--graceful-timeout", "1"]].concat());
    let mut client = server.connect();
    client.send(get("/stream?chunks=100&size=10&ms=100"));
    let mut response = client.head();
    server.drain();
    client.try_body(&mut response).expect_err("ten seconds do not fit into one");
    assert_eq!(server.exit(PATIENCE), 6);
    // A worker does not end before it has written what it has to say.
    let log = read(server.dir(), "access.log");
    let sent = log.strip_prefix("GET /stream?chunks=100&size=10&ms=100 HTTP/1.1 200 ");
    let sent: usize = sent.and_then(|sent| sent.trim_end().parse().ok()).unwrap_or_else(|| panic!("{log}"));
    assert!((10..1000).contains(&sent), "{log}");
}

pub(crate) fn a_request_whose_client_has_gone_is_in_the_access_log(harness: &Harness) {
    let server = harness.serve(SHORT);
    let mut client = server.connect();
    client.send(post("/echo", 100));
    server.catch_up();
    drop(client);
    let log = lines(server.dir(), "access.log", 2);
    assert_eq!(log[0], "GET / HTTP/1.1 200 13");
    // Whether the head of the echo was sent by then is the application's business.
    assert!(log[1].starts_with("POST /echo HTTP/1.1 "), "{log:?}");
}

pub(crate) fn an_access_log_that_nobody_reads_holds_nobody_up(harness: &Harness) {
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
    assert!(server.logs("lines were dropped", PATIENCE), "{}", server.log());

    // Not even the end of the server waits long for a reader.
    drop(client);
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.5..3.0);
    let mut written = String::new();
    if let Err(error) = reader.read_to_string(&mut written) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let expected = format!("{} /", "x".repeat(3990));
    assert!(written.lines().count() > 1 && written.lines().all(|line| line == expected));
}

pub(crate) fn usr1_goes_on_in_new_files_without_losing_a_line(harness: &Harness) {
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
                    "a worker missed it"
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
    assert_eq!((all.lines().count(), numbers.len()), (asked, asked), "each request is there once");
}

pub(crate) fn usr1_to_a_worker_is_for_its_own_logs(harness: &Harness) {
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
    assert_eq!(server.log(), "", "nothing is left for standard error");
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

pub(crate) fn a_log_that_cannot_be_reopened_is_kept(harness: &Harness) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let place = dir.path().join("logs");
    fs::create_dir(&place).expect("another one can");
    let path = place.join("access.log").display().to_string();
    let server = harness.serve(&["--access-logfile", &path, "--access-logformat", "%(U)s"]);
    server.connect().get("/");
    fs::rename(place, dir.path().join("moved")).expect("it can be moved");
    server.arbiter().signal(Signal::USR1);
    // By the arbiter and by the worker.
    let twice = || (server.log().matches("cannot reopen the log").count() == 2).then_some(());
    assert!(until(PATIENCE, twice).is_some(), "{}", server.log());
    server.connect().get("/bytes?n=1");
    assert_eq!(lines(dir.path(), "moved/access.log", 2), ["/", "/bytes"]);
}

pub(crate) fn a_log_that_cannot_be_written_is_status_2(harness: &Harness) {
    for (flag, value, named) in [
        ("--access-logfile", "no/such/place", "no/such/place"),
        ("--error-logfile", "no/such/place", "no/such/place"),
        ("--access-logformat", "%(h)s %(z)s", "%(z)s is no atom; allowed: json, or"),
    ] {
        let mut server = harness.launch("127.0.0.1:0", &[flag, value]);
        assert_eq!(server.exit(PATIENCE), 2, "{flag} {value}");
        let log = server.log();
        assert!(log.contains(flag.trim_start_matches('-')) && log.contains(named), "{flag}: {log}");
    }
}

pub(crate) fn the_log_in_json_says_who_has_written_a_line(harness: &Harness) {
    let server = harness.serve(&["--log-format", "json"]);
    let by = format!("{{\"pid\":{},\"timestamp\":", server.arbiter().id());
    assert!(server.log().starts_with(&by), "{}", server.log());
}

/// Moves a log away, as a rotation does.
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

/// Waits until a log has `words` in it.
fn wait_for(dir: &Path, name: &str, words: &str) -> bool {
    until(PATIENCE, || read(dir, name).contains(words).then_some(())).is_some()
}

/// What is in a log so far.
fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}
