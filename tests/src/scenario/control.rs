//! The control socket and the sub-commands that use it.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::Instant;

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use super::{get, seconds, took};
use crate::Harness;
use crate::client::PATIENCE;
use crate::process::{Process, Server, until};

const SOCKET: &str = "control.sock";

/// A server with a control socket.
pub(super) fn serve(harness: &Harness, args: &[&str]) -> Server {
    harness.serve(&[&["--control-socket", SOCKET], args].concat())
}

pub(super) fn socket(server: &Server) -> PathBuf {
    server.dir().join(SOCKET)
}

fn run(harness: &Harness, server: &Server, args: &[&str]) -> Output {
    harness.sub_command(&socket(server), args).output().expect("the sub-command runs")
}

/// Runs a sub-command that succeeds, and returns its output.
#[track_caller]
pub(super) fn done(harness: &Harness, server: &Server, args: &[&str]) -> String {
    let output = run(harness, server, args);
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}: {stdout}");
    stdout
}

/// Runs a sub-command that the server refuses with an error that contains `words`.
#[track_caller]
fn refused(harness: &Harness, server: &Server, args: &[&str], words: &str) {
    let output = run(harness, server, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains(words), "{args:?}: {output:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Runs a sub-command with a usage error. No server is asked.
#[track_caller]
fn wrong(harness: &Harness, server: &Server, args: &[&str], words: &str) {
    let output = run(harness, server, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains(words), "{args:?}: {output:?}");
    assert!(!server.log().contains("control client refused"), "{}", server.log());
}

/// The output of `status`: the server's part, and each worker's.
#[track_caller]
pub(super) fn status(harness: &Harness, server: &Server) -> (Value, Vec<Value>) {
    let text = done(harness, server, &["status", "--json"]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let [arbiter, workers @ .., last] = &lines[..] else { panic!("{text}") };
    assert!(lines.iter().all(|line| line["v"] == 1) && last["ok"] == true, "{text}");
    (arbiter["arbiter"].clone(), workers.iter().map(|line| line["worker"].clone()).collect())
}

/// The pids of the workers that are not leaving, by slot.
#[track_caller]
fn pids(harness: &Harness, server: &Server) -> Vec<u64> {
    let (_, mut workers) = status(harness, server);
    workers.retain(|worker| worker["leaving"] == false);
    workers.sort_by_key(|worker| worker["slot"].as_u64());
    workers.iter().map(|worker| worker["pid"].as_u64().expect("a worker has a pid")).collect()
}

pub(crate) fn status_reports_the_server_and_its_workers(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    for _ in 0..6 {
        server.connect().get("/");
    }
    let mut busy = server.connect();
    busy.send(get("/block?ms=5000"));
    let serving = until(PATIENCE, || {
        let (_, workers) = status(harness, &server);
        workers.into_iter().find(|worker| worker["busy_handlers"] == 1)
    });
    let serving = serving.expect("the status shows a busy worker");
    assert_eq!(serving["busy"][0]["request"], "GET /block", "{serving}");
    assert!(serving["busy"][0]["for"].as_f64().is_some_and(|age| age < 5.0), "{serving}");

    let (arbiter, workers) = status(harness, &server);
    assert_eq!(arbiter["pid"], server.arbiter().id());
    assert_eq!(
        (&arbiter["phase"], &arbiter["workers"], &arbiter["generation"]),
        (&"serving".into(), &2.into(), &1.into())
    );
    assert!(
        arbiter["listeners"][0].as_str().is_some_and(|at| at.starts_with("http://127.0.0.1:")),
        "{arbiter}"
    );
    let of = |name: &str| workers.iter().map(|worker| worker[name].as_u64().expect(name)).collect::<Vec<_>>();
    assert_eq!(of("requests").iter().sum::<u64>(), 7);
    assert!(of("rss").iter().all(|bytes| *bytes > 100_000), "{workers:?}");
    let mut told = of("pid");
    told.sort_unstable();
    let mut children: Vec<_> = server.workers(2).iter().map(Process::id).collect();
    children.sort_unstable();
    assert_eq!(told, children);
    for worker in &workers {
        assert_eq!((&worker["phase"], &worker["ready"]), (&"running".into(), &true.into()));
        assert!(worker["heartbeat_age"].as_f64().is_some_and(|age| age < 5.0), "{worker}");
    }

    let table = done(harness, &server, &["status"]);
    assert!(table.starts_with("serving: pid ") && table.contains("GET /block for "), "{table}");
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(done(harness, &server, &["top", "--once"]).starts_with("serving: "));
}

pub(crate) fn scale_changes_the_number_of_workers(harness: &Harness) {
    let server = serve(harness, &[]);
    for (args, workers) in [("+2", 3), ("-1", 2), ("4", 4), ("1", 1)] {
        assert_eq!(
            done(harness, &server, &["scale", args]).split(' ').next(),
            Some(workers.to_string().as_str())
        );
        assert_eq!(status(harness, &server).0["workers"], workers);
        server.workers(workers);
    }
    refused(harness, &server, &["scale", "-1"], "1 worker is the minimum");
    for workers in ["0", "+0", "1025", "many", "1.5", ""] {
        wrong(harness, &server, &["scale", workers], "from 1 to 1024");
    }
    server.worker();
}

pub(crate) fn recycle_replaces_all_workers_or_one_and_waits_for_it(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let before = pids(harness, &server);
    assert_eq!(done(harness, &server, &["recycle"]), "2 workers\n");
    let after = pids(harness, &server);
    assert!(after.len() == 2 && !after.iter().any(|pid| before.contains(pid)), "{before:?} {after:?}");
    assert_eq!(done(harness, &server, &["recycle", &after[1].to_string()]), "1 worker\n");
    let last = pids(harness, &server);
    assert!(last[0] == after[0] && last[1] != after[1], "{after:?} {last:?}");
    refused(harness, &server, &["recycle", &after[1].to_string()], "no worker has pid");

    // The old worker has this request to finish.
    let mut client = server.connect();
    client.send(get("/sleep?ms=4000"));
    assert!(!client.has_more(seconds(0.3)), "the response is not due yet");
    let start = Instant::now();
    done(harness, &server, &["recycle", "--no-wait"]);
    took("recycle --no-wait returned", start, 0.0..3.0);
    done(harness, &server, &["recycle"]);
    took("recycle returned", start, 3.0..20.0);
    assert_eq!(client.response().status, 200);
}

pub(crate) fn recycle_loses_no_request(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let mut recycle = harness.sub_command(&socket(&server), &["recycle"]).spawn().expect("it runs");
    let mut served = 0;
    while recycle.try_wait().expect("it is a child").is_none() {
        server.connect().get("/");
        served += 1;
    }
    assert!(recycle.wait().expect("it is a child").success() && served > 0);
    let log = server.log();
    assert!(log.contains("recycle: asked") && !log.contains("ERROR"), "{log}");
}

pub(crate) fn reload_waits_for_its_outcome(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let before = pids(harness, &server);
    done(harness, &server, &["reload"]);
    let after = pids(harness, &server);
    assert!(after.len() == 2 && !after.iter().any(|pid| before.contains(pid)), "{before:?} {after:?}");
    assert_eq!(status(harness, &server).0["generation"], 2);

    for (file, text, why) in [
        ("fail-boot", "", "the server goes on as before: the application failed to load"),
        ("crash-boot", "", "before it was ready"),
        ("remuda.toml", "workers = = 3\n", "remuda.toml line 1"),
    ] {
        let obstacle = server.dir().join(file);
        fs::write(&obstacle, text).expect("a file can be written");
        refused(harness, &server, &["reload"], why);
        fs::remove_file(&obstacle).expect("it was written");
    }
    assert_eq!(pids(harness, &server), after);
    assert_eq!(status(harness, &server).0["generation"], 2);
    fs::write(server.dir().join("fail-boot"), "").expect("a file can be written");
    done(harness, &server, &["reload", "--no-wait"]);
}

pub(crate) fn a_log_level_outlives_a_recycling(harness: &Harness) {
    let server = serve(harness, &[]);
    done(harness, &server, &["log-level", "debug"]);
    done(harness, &server, &["recycle"]);
    let [pid] = pids(harness, &server)[..] else { panic!("there is one worker") };
    done(harness, &server, &["recycle"]);
    let words = format!("[{pid}] DEBUG draining");
    assert!(server.logs(&words, PATIENCE), "the new worker does not log at the new level");
}

pub(crate) fn stop_waits_for_the_end(harness: &Harness) {
    let mut server = serve(harness, &[]);
    let mut client = server.connect();
    client.send(get("/sleep?ms=1000"));
    assert!(!client.has_more(seconds(0.3)), "the response is not due yet");
    let start = Instant::now();
    done(harness, &server, &["stop"]);
    took("the server had stopped", start, 0.4..10.0);
    client.last_response(200);
    assert_eq!(server.exit(seconds(1.0)), 0);
    assert!(!socket(&server).exists(), "the socket is removed");
    let output = run(harness, &server, &["status"]);
    assert!(output.status.code() == Some(3), "{output:?}");

    let mut server = serve(harness, &[]);
    let mut client = server.connect();
    client.send(get("/sleep?ms=60000"));
    assert!(!client.has_more(seconds(0.3)), "the response is not due yet");
    let start = Instant::now();
    done(harness, &server, &["stop", "--no-wait"]);
    took("stop --no-wait returned", start, 0.0..10.0);
    assert_eq!(done(harness, &server, &["stop", "--quick"]), "stopped; the deadline cut work off\n");
    took("stop --quick returned", start, 1.5..20.0);
    assert_eq!(server.exit(seconds(1.0)), 0);
}

pub(crate) fn stop_reports_that_work_was_cut(harness: &Harness) {
    for (args, is_json) in [(&["stop"][..], false), (&["stop", "--json"], true)] {
        let mut server = serve(harness, &["--graceful-timeout", "1"]);
        let mut client = server.connect();
        server.begin(&mut client, get("/sleep?ms=60000"));
        let output = run(harness, &server, args);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), server.exit(PATIENCE)), (Some(6), 6), "{output:?}");
        let expected = match is_json {
            true => "{\"cut\":true,\"ok\":true,\"status\":6,\"v\":1}\n",
            false => "stopped; the deadline cut work off\n",
        };
        assert_eq!(said, expected);
    }
    let server = serve(harness, &[]);
    assert_eq!(done(harness, &server, &["stop"]), "", "nothing was cut");
}

pub(crate) fn log_level_reaches_the_workers(harness: &Harness) {
    let server = serve(harness, &[]);
    assert!(!server.log().contains("DEBUG"));
    done(harness, &server, &["log-level", "debug"]);
    assert!(server.logs("log level set to debug", PATIENCE));
    // A log line of the worker itself. A worker that is not ready yet writes none.
    let debugging = until(PATIENCE, || {
        server.connect().get("/");
        server.worker().signal(Signal::TERM);
        server.logs("DEBUG draining", seconds(0.1)).then_some(())
    });
    assert!(debugging.is_some(), "the worker does not log at the new level");
    wrong(harness, &server, &["log-level", "loud"], "error, warn, info, debug, trace");
}

pub(crate) fn drain_waits_for_the_workers_and_connects_wait_for_hup(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=3000"));
    done(harness, &server, &["drain", "--no-wait"]);
    refused(harness, &server, &["drain"], "all workers were drained until HUP or resume");
    client.last_response(200);
    drop(client);
    until(PATIENCE, || (server.processes() == 0).then_some(())).expect("the workers drain");

    let mut client = server.connect();
    client.send(get("/"));
    assert!(!client.has_more(seconds(0.3)), "no worker serves");
    server.arbiter().signal(Signal::HUP);
    assert_eq!(client.response().status, 200);
    server.workers(2);
    drop(client);

    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=3000"));
    assert_eq!(done(harness, &server, &["drain"]), "2 workers\n");
    assert_eq!(server.processes(), 0);
    client.last_response(200);
}

pub(crate) fn resume_starts_the_workers_that_a_drain_ended(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    refused(harness, &server, &["resume"], "no drained workers");
    assert_eq!(done(harness, &server, &["drain"]), "2 workers\n");
    let (arbiter, workers) = status(harness, &server);
    assert_eq!((&arbiter["phase"], &arbiter["workers"]), (&"resting".into(), &0.into()));
    assert!(workers.is_empty(), "{workers:?}");
    let table = done(harness, &server, &["status"]);
    assert!(table.starts_with("resting: pid ") && table.contains(", 0 workers of "), "{table}");

    let mut client = server.connect();
    client.send(get("/"));
    assert!(!client.has_more(seconds(0.3)), "there is no worker");
    assert_eq!(done(harness, &server, &["resume"]), "2 workers\n");
    let (arbiter, workers) = status(harness, &server);
    assert_eq!(arbiter["phase"], "serving");
    assert!(
        workers.len() == 2 && workers.iter().all(|worker| worker["ready"] == true),
        "resume returned before its workers were ready: {workers:?}"
    );
    assert_eq!(client.response().status, 200);
    refused(harness, &server, &["resume"], "no drained workers");
}

pub(crate) fn sub_commands_find_the_server_by_its_settings_file(harness: &Harness) {
    let backend = harness.backend();
    let server = harness.serve_file(&format!(
        "worker-class = '{backend}'\nbind = '127.0.0.1:0'\ncontrol-socket = 'control'\n"
    ));
    let elsewhere = tempfile::tempdir().expect("a directory can be made");
    let at = |dir: &std::path::Path, args: &[&str]| {
        let mut command = harness.sub_command(std::path::Path::new(""), args);
        command.env_remove("REMUDA_CONTROL_SOCKET").current_dir(dir).output().expect("it runs")
    };
    let serves = |output: Output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with("serving: "), "{output:?}");
        assert!(said.contains(", 1 worker of "), "{said}");
    };
    serves(at(server.dir(), &["status"]));
    serves(at(server.dir(), &["status", "-c", "remuda.toml"]));
    // Other settings of the file are not the sub-command's concern.
    let file = server.dir().join("remuda.toml");
    let text = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, format!("{text}workres = 3\nthreads = 'many'\n")).expect("it can be written");
    serves(at(server.dir(), &["-c", "remuda.toml", "status"]));
    // The file must be readable if the socket's path comes from it, and need not be otherwise.
    fs::write(&file, format!("{text}workers = = 3\n")).expect("it can be written");
    let output = at(server.dir(), &["status"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && stderr.contains("remuda.toml line 4 is not TOML"),
        "{output:?}"
    );
    serves(at(server.dir(), &["status", "--control-socket", "control"]));

    let output = at(elsewhere.path(), &["status"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("in the settings file"), "{output:?}");
    let output = at(elsewhere.path(), &["status", "-c", "no.toml"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && stderr.contains("cannot read the settings file"),
        "{output:?}"
    );
}

pub(crate) fn upgrade_is_answered_once_the_new_arbiter_is_ready(harness: &Harness) {
    let mut server = serve(harness, &["-w", "2"]);
    for _ in 0..2 {
        let said = done(harness, &server, &["upgrade"]);
        let pid = said.strip_prefix("pid ").and_then(|pid| pid.trim_end().parse().ok()).expect(&said);
        assert_ne!(pid, server.arbiter().id());
        server.pass_to(Process::of(pid).expect("it is there"));
        assert_eq!(status(harness, &server).0["pid"], pid);
        server.connect().get("/");
    }
}

pub(crate) fn upgrade_is_refused_or_fails_with_the_reason(harness: &Harness) {
    let server = harness.serve_replaceable(&["--control-socket", SOCKET, "--boot-timeout", "5"]);
    let pid = server.worker().id();
    server.replace_executable("#!/bin/sh\nexit 7\n");
    let died = "nothing has changed: the new arbiter";
    refused(harness, &server, &["upgrade"], died);
    refused(harness, &server, &["upgrade"], "ended with status 7 before it was ready");
    server.replace_executable("#!/bin/sh\nexec sleep 60\n");
    done(harness, &server, &["upgrade", "--no-wait"]);
    refused(harness, &server, &["upgrade"], "upgrade refused: an upgrade is under way");
    assert!(server.logs("was not ready in time", 2 * PATIENCE), "the late arbiter is not ended");
    refused(harness, &server, &["upgrade"], "was not ready in time");
    assert_eq!(server.connect().get("/info").number("pid"), pid);
}

/// The server's answer, one line, to `bytes` followed by the end of input.
#[track_caller]
fn answer(server: &Server, bytes: &[u8]) -> Value {
    let mut stream = connect(server);
    // The server may refuse the request before all of it is sent.
    match stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write)) {
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::NotConnected) => {
            panic!("{error}")
        }
        _ => {}
    }
    last_line(stream)
}

fn connect(server: &Server) -> UnixStream {
    let stream = UnixStream::connect(socket(server)).expect("the control socket is there");
    stream.set_read_timeout(Some(2 * PATIENCE)).expect("a timeout can be set");
    stream
}

/// The only line that the server sends before it closes the connection.
#[track_caller]
fn last_line(mut stream: UnixStream) -> Value {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => received.extend_from_slice(&buffer[..n]),
            // Unread bytes of a request that is too long reset the connection after the answer.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    let text = String::from_utf8(received).expect("it is text");
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    serde_json::from_str(&text).expect(&text)
}

pub(crate) fn bad_input_is_refused_and_logged_and_changes_nothing(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let before = pids(harness, &server);
    let long = [&b"{\"v\":1,\"command\":\"status\",\"level\":\""[..], &[b'x'; 70_000], b"\"}\n"].concat();
    let bad: [(&[u8], &str); 8] = [
        (b"stop\n", "not a request"),
        (b"\xff\xfe\0\n", "not a request"),
        (b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", "not a request"),
        (b"{\"v\":1,\"command\":\"stop\"", "no end of line"),
        (b"{\"v\":1,\"command\":\"stop\",\"now\":true}\n", "unknown field"),
        (b"{\"v\":2,\"command\":\"stop\"}\n", "version 2"),
        (b"{\"v\":1,\"command\":\"exec\"}\n", "unknown command"),
        (&long, "longer than 65536 bytes"),
    ];
    for (bytes, words) in bad {
        let line = answer(&server, bytes);
        assert!(
            line["ok"] == false && line["error"].as_str().is_some_and(|why| why.contains(words)),
            "{line}"
        );
        assert!(server.logs(words, PATIENCE), "{words} is not logged");
    }
    assert_eq!(server.log().matches("control client refused").count(), bad.len());
    assert_eq!(pids(harness, &server), before);
    server.connect().get("/");
    // Several requests at once are answered in order.
    let line = answer(&server, b"{\"v\":1,\"command\":\"scale\",\"workers\":\"2\"}\n");
    assert_eq!((&line["ok"], &line["workers"]), (&true.into(), &2.into()));
    let mut stream = connect(&server);
    let two =
        b"{\"v\":1,\"command\":\"scale\",\"workers\":\"2\"}\n{\"v\":1,\"command\":\"recycle\",\"pid\":1}\n";
    stream.write_all(two).expect("it is read");
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it is text");
    let said: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let [scaled, refused] = &said[..] else { panic!("{text}") };
    assert_eq!((&scaled["ok"], &scaled["workers"], &refused["ok"]), (&true.into(), &2.into(), &false.into()));
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("no worker has pid 1,")), "{text}");
}

pub(crate) fn half_a_line_is_waited_for_and_then_refused(harness: &Harness) {
    let server = serve(harness, &[]);
    let start = Instant::now();
    let mut stream = connect(&server);
    stream.write_all(b"{\"v\":1,").expect("it is read");
    // Other clients do not wait for it.
    status(harness, &server);
    assert!(!server.log().contains("no end of line"), "status was answered only after the refusal");
    assert_eq!(last_line(stream)["error"], "the request has no end of line");
    took("it was refused", start, 9.5..30.0);
    assert!(server.logs("the request has no end of line", PATIENCE));
}

pub(crate) fn the_control_socket_makes_room_for_the_next_client(harness: &Harness) {
    let mut server = serve(harness, &["--graceful-timeout", "2"]);
    let mut others: Vec<_> = (0..16).map(|_| connect(&server)).collect();
    let drip = |others: &mut Vec<UnixStream>| {
        // A write to a connection that was dropped to make room is no failure.
        others.iter_mut().for_each(|client| drop(client.write_all(b" ")));
    };
    drip(&mut others);
    let start = Instant::now();
    status(harness, &server);
    took("the next was served", start, 0.0..1.0);
    let made_way = last_line(others.remove(0));
    assert!(
        made_way["error"].as_str().is_some_and(|why| why.contains("another one has connected")),
        "{made_way}"
    );
    assert!(server.logs("another one has connected", PATIENCE));
    drip(&mut others);
    // A client that waits for an answer is not dropped as long as there are others to drop.
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1000"));
    let mut waiting = connect(&server);
    waiting.write_all(b"{\"v\":1,\"command\":\"recycle\"}\n").expect("it is read");
    waiting.shutdown(std::net::Shutdown::Write).expect("it is connected");
    for _ in 0..16 {
        others.push(connect(&server));
    }
    status(harness, &server);
    assert_eq!(last_line(waiting)["ok"], true);
    drip(&mut others);
    let start = Instant::now();
    done(harness, &server, &["stop"]);
    took("stop returned", start, 0.0..3.0);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn another_user_is_refused(harness: &Harness) {
    let server = serve(harness, &[]);
    let path = socket(&server);
    let file = fs::metadata(&path).expect("the control socket is there");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    if !geteuid().is_root() {
        return; // only root can act as another user
    }
    // The kernel refuses other users by the mode. The server also refuses them if the mode was
    // changed.
    let program = server.dir().join("fixture");
    let original = harness.sub_command(&path, &[]).get_program().to_owned();
    fs::copy(original, &program).expect("the program can be copied");
    for (path, mode) in [(server.dir(), 0o755), (&program, 0o755), (&path, 0o666)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
    }
    const NOBODY: u32 = 65534;
    let mut stop = std::process::Command::new(&program);
    stop.args(["stop", "--control-socket"]).arg(&path).env_clear().uid(NOBODY).gid(NOBODY);
    // A process that was forked while the copy was being written holds it open for a moment
    // (ETXTBSY).
    let output = until(PATIENCE, || stop.output().ok()).expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("neither root nor"), "{output:?}");
    assert!(server.logs("user 65534", PATIENCE));
    server.connect().get("/");
    assert_eq!(status(harness, &server).0["phase"], "serving");
}

pub(crate) fn a_control_socket_belongs_to_one_server(harness: &Harness) {
    let mut first = serve(harness, &[]);
    let path = socket(&first);
    let same = path.to_str().expect("it is text");
    let mut second = harness.launch("127.0.0.1:0", &["--control-socket", same]);
    assert_eq!(second.exit(PATIENCE), 5);
    assert!(second.log().contains("another program listens there"), "{}", second.log());
    assert_eq!(status(harness, &first).0["pid"], first.arbiter().id());

    // A server that was killed leaves its socket file. The next server replaces the file. A file
    // that another program put in its place is not removed.
    first.arbiter().signal(Signal::KILL);
    assert!(first.wait_no_process(PATIENCE));
    assert!(path.exists());
    let mut third = harness.serve(&["--control-socket", same]);
    let output = harness.sub_command(&path, &["status", "--json"]).output().expect("it runs");
    let line = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    assert!(line.contains(&format!("\"pid\":{}", third.arbiter().id())), "{output:?}");
    fs::remove_file(&path).expect("it is there");
    fs::write(&path, "another program's").expect("a file can be written");
    third.arbiter().signal(Signal::TERM);
    assert_eq!(third.exit(PATIENCE), 0);
    assert!(path.exists(), "the file of another program was removed");
    assert!(!first.exit_status(PATIENCE).success());
}

pub(crate) fn control_clients_wait_idly_in_a_descriptor_shortage(harness: &Harness) {
    const SHORTAGE: &str = "cannot accept on the control socket";
    let server = serve(harness, &[]);
    let arbiter = server.arbiter();
    arbiter.limit_descriptors_for_now(Some(arbiter.descriptors() as u64));
    // The first clients may take descriptors that become free in between.
    let connect = || UnixStream::connect(socket(&server)).expect("it listens");
    let clients: Vec<_> = (0..8).map(|_| connect()).collect();
    // The arbiter has tried to accept by then.
    assert_eq!(server.connect().get("/").status, 200);
    let before = arbiter.processor_time();
    std::thread::sleep(seconds(1.0));
    let used = arbiter.processor_time() - before;
    assert!(used < seconds(0.2), "{used:?} of a second");
    assert_eq!(server.log().matches(SHORTAGE).count(), 1, "{}", server.log());
    arbiter.limit_descriptors_for_now(None);
    drop(clients);
    assert_eq!(status(harness, &server).1.len(), 1);
}
