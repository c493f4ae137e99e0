//! What surrounds the server: its service manager, its container, its user, its files. These do not
//! depend on the backend, so each test uses one.
//!
//! Needs `systemd-socket-activate` and `systemd-notify` (Debian's systemd), and bash, setpriv,
//! unshare and nsenter. Where the tests do not run as root, they show that privileged settings are
//! refused. Where no namespace can be made, the tests of process 1 say so and show nothing.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::{Process, Server, until};
use rustix::cmsg_space;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Signal, geteuid};
use tempfile::tempdir;

/// A user that root can switch to. On Debian its user and group ids are equal.
const NOBODY: &str = "nobody";

fn harness() -> Harness {
    Harness::new("tokio", "blocking", Path::new(env!("CARGO_BIN_EXE_fixture")))
}

fn get(server: &Server, path: &str) -> String {
    let mut client = server.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
    let response = client.response();
    assert_eq!(response.status, 200, "{path}");
    String::from_utf8(response.body).unwrap()
}

fn stop(server: &mut Server) {
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

#[test]
fn a_pidfile_exists_while_the_server_runs() {
    let mut server = harness().serve(&["--pid", "app.pid"]);
    let path = server.dir().join("app.pid");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", server.arbiter().id()));
    stop(&mut server);
    assert!(!path.exists(), "the pidfile is left behind");
}

#[test]
fn a_pidfile_is_refused_until_its_first_server_is_gone() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("app.pid");
    let args = ["--pid", path.to_str().unwrap()];
    let first = harness().serve(&args);
    let mut second = harness().launch("127.0.0.1:0", &args);
    assert_eq!(second.exit(PATIENCE), 1);
    let sentence = format!("process {} runs and holds it", first.arbiter().id());
    assert!(second.log().contains(&sentence), "{}", second.log());
    get(&first, "/");

    // However long its workers still take.
    let mut busy = first.connect();
    busy.send("GET /sleep?ms=3000 HTTP/1.1\r\nHost: test\r\n\r\n");
    first.catch_up();
    first.arbiter().signal(Signal::KILL);
    assert!(first.arbiter().wait_gone(PATIENCE));
    assert!(path.exists(), "a killed arbiter leaves its pidfile");
    let mut third = harness().serve(&args);
    assert!(!first.wait_no_process(Duration::ZERO), "the worker is still draining");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", third.arbiter().id()));
    stop(&mut third);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a file is left behind");
}

#[test]
fn a_unix_socket_is_refused_until_its_first_server_is_gone() {
    let dir = tempdir().unwrap();
    let bind = format!("unix:{}", dir.path().join("app.sock").display());
    let first = harness().launch(&bind, &[]).ready();
    let mut second = harness().launch(&bind, &[]);
    assert_eq!(second.exit(PATIENCE), 5);
    assert!(second.log().contains("another program listens there"), "{}", second.log());
    get(&first, "/");

    first.arbiter().signal(Signal::KILL);
    assert!(first.wait_no_process(PATIENCE));
    let mut third = harness().launch(&bind, &[]).ready();
    get(&third, "/");
    stop(&mut third);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a file is left behind");
}

#[test]
fn a_unix_socket_has_its_mode_and_belongs_to_the_workers() {
    let user: &[&str] = if geteuid().is_root() { &["--user", NOBODY] } else { &[] };
    let mut server = harness().serve_unix(&[user, &["--umask", "027"]].concat());
    let Address::Unix(path) = server.address() else { panic!("it listens at {:?}", server.address()) };
    let file = fs::symlink_metadata(path).unwrap();
    assert_eq!(file.mode() & 0o777, 0o750);
    let worker = server.worker();
    assert_eq!(worker.status("Uid").split('\t').next().unwrap(), file.uid().to_string());
    assert_eq!(worker.status("Gid").split('\t').next().unwrap(), file.gid().to_string());
    assert_ne!(file.uid(), 0, "the socket belongs to root");
    get(&server, "/");
    stop(&mut server);
}

#[test]
fn workers_run_as_their_user_with_its_groups_and_no_others() {
    if !geteuid().is_root() {
        let mut server = harness().launch("127.0.0.1:0", &["--user", "root"]);
        assert_eq!(server.exit(PATIENCE), 2);
        assert!(server.log().contains("only root may name another user"), "{}", server.log());
        return;
    }
    let harness = harness().started_by(&["setpriv", "--groups", "4,20"]);
    let mut server = harness.serve(&["--user", NOBODY, "-w", "2"]);
    assert!(server.arbiter().status("Groups").starts_with("4 20"));
    for worker in server.workers(2) {
        assert_eq!(worker.status("Uid"), "65534\t65534\t65534\t65534");
        assert_eq!(worker.status("Gid"), "65534\t65534\t65534\t65534");
        assert_eq!(worker.status("Groups"), "65534");
        // CAP_SETUID and all others.
        assert_eq!(worker.status("CapEff"), "0000000000000000");
    }
    assert!(server.arbiter().status("Uid").starts_with("0\t0"), "the arbiter keeps its user");
    // The arbiter may still replace and end workers of the other user.
    server.workers(2)[0].signal(Signal::KILL);
    assert!(server.logs("replaced", PATIENCE), "the worker is not replaced");
    server.workers(2);
    stop(&mut server);

    let mut server = harness.serve(&["--user", "3999999999", "--group", "3999999998"]);
    let worker = server.worker();
    assert!(worker.status("Uid").starts_with("3999999999\t"));
    assert!(worker.status("Gid").starts_with("3999999998\t"));
    assert_eq!(worker.status("Groups"), "3999999998");
    stop(&mut server);
}

#[test]
#[allow(clippy::print_stderr, reason = "a test says what it skips")]
fn workers_of_another_user_are_ended_without_cap_kill_too() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root has workers of another user");
        return;
    }
    let harness = harness().started_by(&["setpriv", "--bounding-set", "-kill"]);
    let args = ["--user", NOBODY, "--timeout", "1", "--graceful-timeout", "1"];
    // D1: a worker that hangs is ended and replaced.
    let mut server = harness.serve(&args);
    let hung = server.worker();
    hung.signal(Signal::STOP);
    assert!(hung.wait_gone(PATIENCE), "the hung worker is not ended: {}", server.log());
    get(&server, "/");
    stop(&mut server);

    // D10: a stop waits for a stopped worker no longer than its deadline. D11: QUIT ends it at
    // once.
    for (signal, status, limit) in [(Signal::TERM, 6, 1 + 2), (Signal::QUIT, 0, 0)] {
        let mut server = harness.serve(&args);
        server.worker().signal(Signal::STOP);
        let start = Instant::now();
        server.arbiter().signal(signal);
        assert_eq!(server.exit(PATIENCE), status, "{}", server.log());
        assert!(start.elapsed() < Duration::from_millis(1000 * limit + 700), "{:?}", start.elapsed());
    }

    // D10: nor does it wait longer for a handler that blocks the loop.
    let mut server = harness.serve(&args);
    let mut busy = server.connect();
    busy.send("GET /block?ms=9000 HTTP/1.1\r\nHost: test\r\n\r\n");
    server.catch_up();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(Duration::from_secs(4)), 6, "{}", server.log());
}

#[test]
#[allow(clippy::print_stderr, reason = "a test says what it skips")]
fn a_missing_privilege_is_an_error_that_names_it() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root has privileges to drop");
        return;
    }
    let nobody = ["--user", NOBODY];
    for (without, bind, status, words) in [
        ("-setuid", "127.0.0.1:0", 3, "that needs CAP_SETUID and CAP_SETGID"),
        ("-setgid", "127.0.0.1:0", 3, "that needs CAP_SETUID and CAP_SETGID"),
        ("-chown", "unix:app.sock", 5, "needs CAP_CHOWN"),
    ] {
        let harness = harness().started_by(&["setpriv", "--bounding-set", without]);
        let mut server = harness.launch(bind, &nobody);
        assert_eq!(server.exit(PATIENCE), status, "{without}");
        assert!(server.log().contains(words), "{without}: {}", server.log());
    }
    // Privileges that cannot be gained are not needed.
    let mut server = harness().started_by(&["setpriv", "--no-new-privs"]).serve(&nobody);
    get(&server, "/");
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("all older workers were told to drain", PATIENCE), "{}", server.log());
    get(&server, "/");
    stop(&mut server);
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

#[test]
fn an_unknown_user_is_status_2() {
    let mut server = harness().launch("127.0.0.1:0", &["--user", "no one"]);
    assert_eq!(server.exit(PATIENCE), 2);
    assert!(
        server.log().contains("user is \"no one\" (flag --user), and no such user exists"),
        "{}",
        server.log()
    );
}

#[test]
fn the_server_runs_in_its_configured_directory() {
    let dir = tempdir().unwrap();
    let args =
        ["--chdir", dir.path().to_str().unwrap(), "--pid", "app.pid", "-e", "COLOUR=blue", "-e", "SIZE=7"];
    let mut server = harness().serve(&args);
    assert!(dir.path().join("app.pid").exists());
    let worker = server.worker();
    let place = fs::read_link(format!("/proc/{}/cwd", worker.id())).unwrap();
    assert_eq!(place, dir.path().canonicalize().unwrap());
    let environment = get(&server, "/environment");
    assert!(environment.contains("COLOUR=blue\n") && environment.contains("SIZE=7\n"), "{environment}");
    stop(&mut server);
}

#[test]
fn process_titles_name_the_role() {
    let mut server = harness().serve(&["-w", "2", "--name", "shop"]);
    assert_eq!(server.arbiter().title(), "remuda: arbiter [shop]");
    let mut titles: Vec<_> =
        server.workers(2).iter().map(|worker| titled(worker, "remuda: worker")).collect();
    titles.sort();
    assert_eq!(titles, ["remuda: worker 0 [shop]", "remuda: worker 1 [shop]"]);
    // The environment, whose memory the title overwrites, is intact for the program itself.
    assert!(get(&server, "/environment").contains("FIXTURE_APPLICATION=blocking\n"));
    stop(&mut server);

    let name = "a name that is much longer than the whole command line of this server was ".repeat(20);
    let mut server = harness().serve(&["--name", &name[..200]]);
    assert_eq!(server.arbiter().title(), format!("remuda: arbiter [{}]", &name[..200]));
    assert!(get(&server, "/environment").contains("FIXTURE_APPLICATION=blocking\n"));
    stop(&mut server);
}

/// The title of a process, once it begins with `begins`.
fn titled(process: &Process, begins: &str) -> String {
    until(PATIENCE, || Some(process.title()).filter(|title| title.starts_with(begins)))
        .expect("it has a title")
}

#[test]
fn inherited_listeners_are_used_and_never_ended() {
    let [web, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let fds = [&web, &admin].map(|listener| listener.as_raw_fd());
    let script = format!("exec 3<&{} 4<&{}; LISTEN_PID=$$ exec \"$@\"", fds[0], fds[1]);
    let harness = harness()
        .with_variable("LISTEN_FDS", "2")
        .with_variable("LISTEN_FDNAMES", "web:admin")
        .started_by(&["bash", "-c", &script, "bash"]);

    let mut server = harness.serve_activated(&[web.as_fd(), admin.as_fd()], &[]);
    for listener in [&web, &admin] {
        let address = listener.local_addr().unwrap();
        assert!(server.log().contains(&format!("http://{address}")), "{}", server.log());
    }
    let environment = get(&server, "/environment");
    assert!(!environment.contains("LISTEN_"), "{environment}");
    stop(&mut server);
    let _not_refused = Address::Inet(web.local_addr().unwrap()).connect(PATIENCE).unwrap();

    let mut server = harness.serve_activated(&[web.as_fd(), admin.as_fd()], &[]);
    for _ in 0..2 {
        server.upgrade();
        get(&server, "/");
    }
    stop(&mut server);
    let _not_refused = Address::Inet(web.local_addr().unwrap()).connect(PATIENCE).unwrap();

    let mut server = harness.serve_activated(&[web.as_fd(), admin.as_fd()], &["-b", "fd://admin"]);
    server.upgrade();
    assert_eq!(server.address(), &Address::Inet(admin.local_addr().unwrap()));
    assert!(
        server.log().contains("1 of the listeners from the service manager are not used"),
        "{}",
        server.log()
    );
    stop(&mut server);

    let mut server = harness.launch("fd://shop", &[]);
    assert_eq!(server.exit(PATIENCE), 5);
    assert!(server.log().contains("cannot listen on fd://shop"), "{}", server.log());
}

#[test]
fn systemd_starts_the_server_by_socket_activation() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let manager = Manager::bind(&dir.path().join("notify"));
    let socket =
        ["-l", path.to_str().unwrap(), "--fdname=web", "-E", "FIXTURE_APPLICATION", "-E", "NOTIFY_SOCKET"];
    let harness = harness().with_variable("NOTIFY_SOCKET", &manager.path);
    let harness = harness.started_by(&[&["systemd-socket-activate"], &socket[..]].concat());
    // systemd starts the server when the first client connects, and that client waits for it.
    let server = harness.launch("fd://web", &[]);
    let address = Address::Unix(path.clone());
    let mut client = until(PATIENCE, || address.connect(PATIENCE).ok()).expect("systemd listens");
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let mut server = server.ready();
    assert_eq!(client.response().status, 200);
    // The process of `systemd-socket-activate` has become the server.
    let id = server.arbiter().id();
    assert_eq!(manager.hear(), (id, format!("READY=1\nMAINPID={id}\nSTATUS=1 worker ready")));
    stop(&mut server);
    assert!(path.exists(), "the file is systemd's");
}

#[test]
fn a_service_manager_is_notified_of_start_watchdog_and_stop() {
    let dir = tempdir().unwrap();
    let manager = Manager::bind(&dir.path().join("notify"));
    let harness = harness().with_variable("WATCHDOG_USEC", "400000");
    let mut server = harness.with_variable("NOTIFY_SOCKET", &manager.path).serve(&["-w", "2"]);
    let id = server.arbiter().id();
    // The service manager accepts messages of the main process only (systemd.service(5),
    // NotifyAccess=).
    let heard = || {
        let (pid, message) = manager.hear();
        assert_eq!(pid, id, "{message}");
        message
    };
    let told = || std::iter::repeat_with(heard).find(|message| message != "WATCHDOG=1").unwrap();
    assert_eq!(told(), format!("READY=1\nMAINPID={id}\nSTATUS=2 workers ready"));
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(heard(), "WATCHDOG=1");
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(600), "5 messages in {took:?}");
    let environment = get(&server, "/environment");
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG_"), "{environment}");

    server.arbiter().signal(Signal::HUP);
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1\nSTATUS=reloaded");

    // A stuck arbiter sends no watchdog message.
    server.arbiter().signal(Signal::STOP);
    assert!(server.arbiter().wait_frozen(PATIENCE));
    let silence = Duration::from_millis(600);
    assert!((0..10).any(|_| manager.hear_within(silence).is_none()), "a frozen arbiter is not well");
    server.arbiter().signal(Signal::CONT);
    assert_eq!(heard(), "WATCHDOG=1");

    server.arbiter().signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1\nSTATUS=stopping (stop)");
    assert_eq!(server.exit(PATIENCE), 0);
}

#[test]
fn a_service_manager_is_notified_of_a_new_arbiter() {
    let dir = tempdir().unwrap();
    let manager = Manager::bind(&dir.path().join("notify"));
    let harness = harness().with_variable("WATCHDOG_USEC", "400000");
    let mut server = harness.with_variable("NOTIFY_SOCKET", &manager.path).serve(&["--pid", "server.pid"]);
    // The service manager ignores messages of other processes.
    let heard = |main: u64, words: &str| {
        let said =
            || manager.hear_within(PATIENCE).filter(|(pid, said)| *pid == main && said.contains(words));
        assert!(until(PATIENCE, said).is_some(), "the manager never receives {words:?} of {main}");
    };
    let old = server.arbiter().id();
    heard(old, &format!("MAINPID={old}"));
    let new = server.begin_upgrade();
    let id = new.id();
    heard(old, &format!("MAINPID={id}\nSTATUS=handed over"));
    server.pass_to(new);
    // The new arbiter also notifies the manager itself, and sends the watchdog messages from now
    // on.
    heard(id, &format!("READY=1\nMAINPID={id}"));
    heard(id, "WATCHDOG=1");
    let pidfile = server.dir().join("server.pid");
    assert_eq!(fs::read_to_string(&pidfile).unwrap(), format!("{id}\n"));
    assert!(!server.dir().join("server.pid.2").exists());
    server.arbiter().signal(Signal::TERM);
    heard(id, "STOPPING=1");
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!pidfile.exists());
}

/// The receiving end of sd_notify(3): a datagram socket that reports the sender of each message.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    /// Listens at `path`, where `systemd-notify` sends too.
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        set_socket_passcred(&socket, true).unwrap();
        let manager = Self { socket, path: path.to_str().unwrap().to_owned() };
        let mut notify = Command::new("systemd-notify");
        notify.args(["--no-block", "--status=heard"]).env("NOTIFY_SOCKET", &manager.path);
        assert!(notify.status().unwrap().success());
        assert_eq!(manager.hear().1, "STATUS=heard");
        manager
    }

    /// The next message, and its sender.
    #[track_caller]
    fn hear(&self) -> (u64, String) {
        self.hear_within(PATIENCE).expect("a message comes")
    }

    fn hear_within(&self, limit: Duration) -> Option<(u64, String)> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 256];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::empty()).ok()?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
            _ => None,
        });
        let sender = sender.expect("the kernel names the sender");
        Some((sender as u64, String::from_utf8_lossy(&buffer[..received.bytes]).into_owned()))
    }
}

#[test]
fn process_1_of_a_container_reaps_orphans_and_obeys_signals() {
    let unshare: &[&str] = match geteuid().is_root() {
        true => &["unshare", "--pid", "--fork", "--mount-proc"],
        false => &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"],
    };
    let trial = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output().expect("unshare is there");
    if !trial.status.success() {
        let why = String::from_utf8_lossy(&trial.stderr);
        #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
        {
            eprintln!("skipped: this system does not permit it: {}", why.trim_end());
        }
        return;
    }
    let args = ["--log-level", "debug", "--control-socket", "control.sock"];
    let mut server = harness().started_by(unshare).serve(&args);
    // For a peer outside its namespace the kernel reports no pid to the server, but its user.
    let mut outside = harness().sub_command(&server.dir().join("control.sock"), &["status"]);
    let output = outside.output().unwrap();
    assert!(output.status.success(), "{output:?}: {}", server.log());
    assert!(server.log().contains(" [1]  INFO ready: "), "{}", server.log());
    // The processes inside, seen through unshare(1)'s namespaces.
    let arbiter = server.workers(1).remove(0);
    let inside = |script: &str| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &arbiter.id().to_string(), "--pid", "--mount"]);
        if !geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        assert!(command.args(["sh", "-c", script]).status().unwrap().success(), "{script}");
    };
    inside("sleep 0.1 &");
    assert!(server.logs("reaped a child that is not a worker", PATIENCE), "an orphan is not reaped");
    assert_eq!(fs::read_dir(server.dir()).unwrap().count(), 1, "the server wrote a file");
    get(&server, "/");
    inside("kill -USR2 1");
    assert!(server.logs("with which its container would end", PATIENCE), "an upgrade is begun");
    get(&server, "/");
    inside("kill -TERM 1");
    assert_eq!(server.exit(PATIENCE), 0);
}

#[test]
fn a_silent_resolver_in_a_reload_delays_nothing() {
    // A name server's port, 53: resolv.conf cannot name another.
    let silent = UdpSocket::bind(("127.53.0.53", 53)).map_err(|error| error.to_string());
    let trial = silent.and_then(|silent| {
        let mut trial = Command::new("unshare");
        trial.args(["--mount", "mount", "--bind", "/etc/hosts", "/etc/resolv.conf"]);
        let output = trial.output().expect("unshare is there");
        let why = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(silent) } else { Err(why.trim_end().to_owned()) }
    });
    let silent = match trial {
        Ok(silent) => silent,
        #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
        Err(why) => {
            eprintln!("skipped: this system does not permit it: {why}");
            return;
        }
    };
    let place = tempdir().unwrap();
    fs::write(place.path().join("resolv.conf"), "nameserver 127.53.0.53\noptions timeout:30 attempts:1\n")
        .unwrap();
    fs::write(place.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let file = |name: &str| place.path().join(name).display().to_string();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && mount --bind {} /etc/nsswitch.conf && exec \"$@\"",
        file("resolv.conf"),
        file("nsswitch.conf"),
    );
    let words = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let settings = |binds: &str| format!("worker-class = \"tokio\"\nbind = [\"127.0.0.1:0\"{binds}]\n");
    let mut server = harness().started_by(&words).serve_file(&settings(""));

    server.write_settings(&settings(", \"localhost:0\""));
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("reloaded: all older workers", PATIENCE), "a name of /etc/hosts is not found");

    let lost = server.worker();
    server.write_settings(&settings(", \"name.invalid.test:0\""));
    server.arbiter().signal(Signal::HUP);
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.recv(&mut [0; 512]).expect("the resolver asks");
    lost.signal(Signal::KILL);
    assert!(lost.wait_gone(PATIENCE), "a worker is not reaped");
    get(&server, "/"); // from its replacement
    server.arbiter().signal(Signal::HUP);
    assert!(
        server.logs("reload waits for the start, reload or upgrade under way", PATIENCE),
        "the arbiter does not react"
    );
    let start = Instant::now();
    stop(&mut server);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "the stop took {took:?}");
    assert!(server.wait_no_process(PATIENCE), "a process is left");
}
