//! Servers as processes: started in a private directory, signalled, measured, and never left
//! behind.
//!
//! The processes of a server are recognised by their working directory, whatever their parent is by
//! now. All of them hold the pipe of the log, so its end is the end of the last of them. A process
//! is held by a descriptor (pidfd_open(2)), so that a signal never reaches a later process with the
//! same id.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getpid, getrlimit, pidfd_open,
    pidfd_send_signal, prlimit, set_child_subreaper, setrlimit, waitid,
};
use tempfile::TempDir;

use crate::client::{Address, Client, PATIENCE};

/// Starts servers for a scenario.
#[derive(Clone, Debug)]
pub struct Harness {
    backend: String,
    application: String,
    fixture: PathBuf,
    variables: Vec<(String, String)>,
    starter: Vec<String>,
    stderr: Option<Arc<OwnedFd>>,
}

impl Harness {
    /// A harness for `backend`, as `-k` names it. `fixture` is the server's program, which serves
    /// the built-in application of the kind `application`: `blocking` or `async`. The variable
    /// `REMUDA_FIXTURE` names another program instead, to test a build from elsewhere.
    pub fn new(backend: &str, application: &str, fixture: &Path) -> Self {
        let fixture = std::env::var_os("REMUDA_FIXTURE").map_or_else(|| fixture.to_owned(), PathBuf::from);
        let (backend, application) = (backend.to_owned(), application.to_owned());
        Self { backend, application, fixture, variables: Vec::new(), starter: Vec::new(), stderr: None }
    }

    /// The same with servers whose standard error is `stderr`. The harness does not see what such
    /// servers log, so they are [launched](Self::launch), and known to be ready when they are
    /// [reached](Server::reach).
    #[must_use]
    pub fn with_stderr(mut self, stderr: OwnedFd) -> Self {
        self.stderr = Some(Arc::new(stderr));
        self
    }

    /// The same with a variable in the environment of its servers.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with servers that are started by `command`, which gets their command line as
    /// further arguments.
    #[must_use]
    pub fn started_by(mut self, command: &[&str]) -> Self {
        self.starter = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The program of its servers.
    pub fn fixture(&self) -> &Path {
        &self.fixture
    }

    /// The backend, as `-k` names it.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Whether the application has async handlers.
    pub fn is_async(&self) -> bool {
        self.application == "async"
    }

    /// A server on a port of its own, once it is ready. `args` are added to its command line.
    #[track_caller]
    pub fn serve(&self, args: &[&str]) -> Server {
        self.launch("127.0.0.1:0", args).ready()
    }

    /// A server on a unix socket of its own, once it is ready.
    #[track_caller]
    pub fn serve_unix(&self, args: &[&str]) -> Server {
        self.launch("unix:server.sock", args).ready()
    }

    /// A server on `listener`, which it inherits, once it is ready.
    #[track_caller]
    pub fn serve_inherited(&self, listener: &impl AsFd, args: &[&str]) -> Server {
        let fd = listener.as_fd();
        self.spawn(private_dir(), &["-b", &format!("fd://{}", fd.as_raw_fd())], args, &[fd]).ready()
    }

    /// A server that inherits `listeners`, itself or through the program that starts it, and has no
    /// other setting of where to listen, once it is ready.
    #[track_caller]
    pub fn serve_activated(&self, listeners: &[BorrowedFd<'_>], args: &[&str]) -> Server {
        self.spawn(private_dir(), &[], args, listeners).ready()
    }

    /// A server with `bind` as its address, which may never become ready.
    #[track_caller]
    pub fn launch(&self, bind: &str, args: &[&str]) -> Server {
        self.spawn(private_dir(), &["-b", bind], args, &[])
    }

    /// A server whose executable is a link in its own directory, `server`, once it is ready.
    #[track_caller]
    pub fn serve_replaceable(&self, args: &[&str]) -> Server {
        let dir = private_dir();
        let path = dir.path().join(EXECUTABLE);
        symlink(std::path::absolute(&self.fixture).expect("there is a directory"), &path)
            .expect("the directory is new");
        let harness = Self { fixture: path, ..self.clone() };
        harness.spawn(dir, &["-b", "127.0.0.1:0"], args, &[]).ready()
    }

    /// A server whose first worker boots and never becomes ready.
    #[track_caller]
    pub fn launch_stalled(&self, args: &[&str]) -> Server {
        let server = self.launch_obstructed("stall-boot", args);
        let stall = server.dir().join("stall-boot");
        until(PATIENCE, || (!stall.exists()).then_some(())).expect("a worker boots");
        server
    }

    /// A server with a file of this name in its directory.
    #[track_caller]
    pub fn launch_obstructed(&self, name: &str, args: &[&str]) -> Server {
        let dir = private_dir();
        fs::write(dir.path().join(name), "").expect("a file can be written");
        self.spawn(dir, &["-b", "127.0.0.1:0"], args, &[])
    }

    /// A server configured only by its settings file, once it is ready. `settings` has to name the
    /// [`backend`](Self::backend).
    #[track_caller]
    pub fn serve_file(&self, settings: &str) -> Server {
        let dir = private_dir();
        fs::write(dir.path().join(SETTINGS), settings).expect("a file can be written");
        self.start(dir, &[], &[]).ready()
    }

    /// A sub-command for the server with the control socket `socket`.
    pub fn sub_command(&self, socket: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fixture);
        remove_settings(&mut command);
        command.args(args).env("REMUDA_CONTROL_SOCKET", socket).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn spawn(&self, dir: TempDir, bind: &[&str], args: &[&str], inherit: &[BorrowedFd<'_>]) -> Server {
        self.start(dir, &[&["-k", &self.backend], bind, args].concat(), inherit)
    }

    #[track_caller]
    fn start(&self, dir: TempDir, args: &[&str], inherit: &[BorrowedFd<'_>]) -> Server {
        // A worker whose arbiter dies becomes a child of this process, which reaps it.
        set_child_subreaper(Some(getpid())).expect("prctl(2) takes a subreaper");
        let (reader, writer) = io::pipe().expect("a pipe can be made");
        let mut words = self.starter.iter().map(OsStr::new).chain([self.fixture.as_os_str()]);
        let mut command = Command::new(words.next().expect("at least the fixture"));
        command.args(words).args(args).current_dir(&dir);
        remove_settings(&mut command);
        command.env("FIXTURE_APPLICATION", &self.application);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        let duplicate = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().expect("it can be duplicated");
        let stderr = self.stderr.as_ref().map_or_else(|| writer.as_fd(), |stderr| stderr.as_fd());
        command.stderr(duplicate(stderr)).stdout(writer);

        let arbiter = {
            // One at a time, so that an inherited listener reaches only the server it is meant for.
            static SPAWN: Mutex<()> = Mutex::new(());
            let _alone = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
            let on_exec = |flags| {
                inherit.iter().for_each(|fd| fcntl_setfd(fd, flags).expect("the listener is open"));
            };
            on_exec(FdFlags::empty());
            let child = command.spawn();
            on_exec(FdFlags::CLOEXEC);
            child.unwrap_or_else(|error| panic!("could not start {command:?}: {error}"))
        };
        let process =
            Process::open(Pid::from_child(&arbiter)).expect("a child that was not waited for exists");
        Server { arbiter, process, is_upgraded: false, log: Log::read(reader), dir, address: None }
    }
}

/// The settings file that remuda reads by default.
const SETTINGS: &str = "remuda.toml";

/// The name of an executable that may be replaced.
const EXECUTABLE: &str = "server";

/// A server: an arbiter, its workers, and their log. Dropping it kills all of them.
#[derive(Debug)]
pub struct Server {
    /// The arbiter that was started first.
    arbiter: Child,
    /// The present arbiter.
    process: Process,
    /// Whether the present arbiter is not the first.
    is_upgraded: bool,
    log: Log,
    dir: TempDir,
    address: Option<Address>,
}

impl Server {
    /// Waits for the log line with its address.
    #[track_caller]
    pub fn ready(mut self) -> Self {
        self.address = self.log.wait(PATIENCE, |text| address_in(text, self.dir.path()));
        assert!(self.address.is_some(), "the server did not become ready");
        self
    }

    /// Waits until it answers at `address`, where it was configured to listen.
    #[track_caller]
    pub fn reach(mut self, address: Address) -> Self {
        let answers = || {
            let mut client = address.connect(Duration::from_millis(100)).ok()?;
            client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            client.try_response().ok().filter(|response| response.status == 200)
        };
        assert!(until(PATIENCE, answers).is_some(), "the server did not become ready");
        self.address = Some(address);
        self
    }

    /// Where it listens.
    #[track_caller]
    pub fn address(&self) -> &Address {
        self.address.as_ref().expect("the server was ready")
    }

    /// Its private directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces the contents of its settings file.
    pub fn write_settings(&self, settings: &str) {
        fs::write(self.dir().join(SETTINGS), settings).expect("a file can be written");
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.state().text.clone()
    }

    /// Waits at most `limit` until its log has `words`. `false` if it has not.
    pub fn logs(&self, words: &str, limit: Duration) -> bool {
        self.log.wait(limit, |text| text.contains(words).then_some(())).is_some()
    }

    /// A new connection.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.address().connect(PATIENCE).expect("the server accepts connections")
    }

    /// Sends `request` on `client` and waits until its handler has begun. A worker has to be free
    /// for it.
    #[track_caller]
    pub fn begin(&self, client: &mut Client, request: impl AsRef<str>) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let word = format!("<begun {}>", COUNT.fetch_add(1, Ordering::Relaxed));
        client.send(request.as_ref().replacen("\r\n", &format!("\r\nTell: {word}\r\n"), 1));
        assert!(self.logs(&word, PATIENCE), "the handler never began: {}", request.as_ref());
    }

    /// Waits until a worker has accepted all connections opened so far and, if it is the only one,
    /// has read what they have sent. Both happen in order, so a later request that is answered
    /// shows it. If the backend runs one handler at a time and that one is busy, use
    /// [`begin`](Self::begin) instead.
    #[track_caller]
    pub fn catch_up(&self) {
        let mut client = self.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }

    /// The arbiter.
    pub fn arbiter(&self) -> &Process {
        &self.process
    }

    /// Replaces its executable by `script`.
    pub fn replace_executable(&self, script: &str) {
        let (path, new) = (self.dir().join(EXECUTABLE), self.dir().join("new"));
        fs::write(&new, script).expect("a file can be written");
        fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("the file is ours");
        fs::rename(new, path).expect("both are in one directory");
    }

    /// Starts an upgrade, and returns the new arbiter as soon as it is started.
    #[track_caller]
    pub fn begin_upgrade(&self) -> Process {
        const STARTED: &str = "upgrade: new arbiter started pid=";
        let before = self.log().matches(STARTED).count();
        self.process.signal(Signal::USR2);
        let new = self.log.wait(PATIENCE, |text| {
            let (_, rest) =
                text.match_indices(STARTED).nth(before).map(|(at, said)| text.split_at(at + said.len()))?;
            parse_pid(rest.split_once(char::is_whitespace)?.0)
        });
        Process::open(new.expect("a new arbiter is started")).expect("it has not been reaped")
    }

    /// Makes `new` the present arbiter, once the old one has ended with status 0.
    #[track_caller]
    pub fn pass_to(&mut self, new: Process) {
        assert!(self.process.wait_gone(PATIENCE), "the old arbiter does not end");
        assert_eq!(self.reap().code(), Some(0), "the old arbiter");
        (self.process, self.is_upgraded) = (new, true);
        let alone = format!("[{}]  INFO upgrade: the old arbiter has ended", self.process.id());
        assert!(self.logs(&alone, PATIENCE), "the new arbiter does not notice");
    }

    /// Upgrades the server, and waits until the old arbiter has ended.
    #[track_caller]
    pub fn upgrade(&mut self) {
        let new = self.begin_upgrade();
        self.pass_to(new);
    }

    /// The status of an arbiter that has ended.
    #[track_caller]
    fn reap(&mut self) -> ExitStatus {
        if !self.is_upgraded {
            return self.arbiter.wait().expect("the arbiter is a child of this process");
        }
        // Its parent has ended, so this process, the subreaper, is its parent now.
        let status = waitid(WaitId::PidFd(self.process.fd.as_fd()), WaitIdOptions::EXITED);
        let status = status.expect("it was not reaped").expect("it has ended");
        let raw = match status.exit_status() {
            Some(code) => code << 8,
            None => status.terminating_signal().unwrap_or_default(),
        };
        ExitStatus::from_raw(raw)
    }

    /// The workers, once there are `n` of them.
    #[track_caller]
    pub fn workers(&self, n: usize) -> Vec<Process> {
        let is_alive = |worker: &Process| !matches!(worker.state(), None | Some('Z' | 'X'));
        let found = until(PATIENCE, || {
            Some(self.all_workers()).filter(|workers| workers.len() == n && workers.iter().all(is_alive))
        });
        found.expect("there are as many workers as were asked for")
    }

    /// The present workers and helpers, those that were not reaped included: without the keepers of
    /// workers, without the process that writes stack traces of lost ones, and without those that
    /// were just forked and have the arbiter's title.
    fn all_workers(&self) -> Vec<Process> {
        let (mut workers, arbiter) = (self.process.children(), self.process.title());
        workers.retain(|worker| {
            let title = worker.title();
            worker.is_keeper() == Some(false) && worker.role() != "symbolizer" && title != arbiter
        });
        workers
    }

    /// The present keepers of workers.
    pub fn keepers(&self) -> Vec<Process> {
        let mut keepers = self.process.children();
        keepers.retain(|child| child.is_keeper() == Some(true));
        keepers
    }

    /// How many workers there are at present.
    pub fn processes(&self) -> usize {
        self.all_workers().len()
    }

    /// The only worker.
    #[track_caller]
    pub fn worker(&self) -> Process {
        self.workers(1).remove(0)
    }

    /// Sends TERM to the arbiter and waits until workers have had time to begin their drain: until
    /// connects are refused (D3) and 50 ms (D2) have passed. Returns when TERM was sent.
    #[track_caller]
    pub fn drain(&self) -> Instant {
        let start = Instant::now();
        self.process.signal(Signal::TERM);
        assert!(self.address().refused(PATIENCE).is_some(), "connects are never refused");
        thread::sleep(Duration::from_millis(50));
        start
    }

    /// Waits at most `limit` for the arbiter's exit and returns its status. Asserts that no worker
    /// is left by then.
    #[track_caller]
    pub fn exit_status(&mut self, limit: Duration) -> ExitStatus {
        assert!(self.process.wait_gone(limit), "the arbiter had not ended after {limit:?}");
        // A worker that ended at the same moment may hold the pipe a little longer.
        assert!(self.wait_no_process(Duration::from_secs(1)), "a worker outlives the arbiter");
        self.reap()
    }

    /// As [`exit_status`](Self::exit_status), for an arbiter that no signal ends.
    #[track_caller]
    pub fn exit(&mut self, limit: Duration) -> i32 {
        let status = self.exit_status(limit);
        status.code().expect("no signal ends the arbiter")
    }

    /// Waits at most `limit` until neither the arbiter nor any worker is left. `false` if one is.
    pub fn wait_no_process(&self, limit: Duration) -> bool {
        self.log.wait_end(limit)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let workers = self.process.children();
        // The arbiter first, so that it replaces no worker.
        self.process.signal(Signal::KILL);
        let _ = self.arbiter.wait();
        end(workers);
        let gone = until(PATIENCE, || end(processes_in(self.dir.path())).then_some(()));
        if thread::panicking() {
            let left = if gone.is_some() { "" } else { ", one process of which could not be ended" };
            #[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
            {
                eprintln!("---- log of server {}{left}\n{}----", self.process.id(), self.log());
            }
        }
    }
}

/// One process of a server, whatever its parent.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// The process with this id. None: there is no such process.
    pub fn of(id: u64) -> Option<Self> {
        Self::open(Pid::from_raw(id.try_into().ok()?)?)
    }

    fn open(pid: Pid) -> Option<Self> {
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        u64::from(self.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Its children.
    fn children(&self) -> Vec<Self> {
        let path = format!("/proc/{0}/task/{0}/children", self.id());
        let children = fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| Self::open(parse_pid(pid)?)).collect()
    }

    /// Sends `signal`, if the process still exists.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    /// Waits at most `limit` for its end. `false` if it has not ended.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("limits are short");
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&left)) {
                Ok(0) => return false,
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("could not wait for a process: {error}"),
            }
        }
        true
    }

    /// Lowers its limit of open descriptors to `n` for good.
    pub fn limit_descriptors(&self, n: u64) {
        let limit = Rlimit { current: Some(n), maximum: Some(n) };
        prlimit(Some(self.pid), Resource::Nofile, limit).expect("a limit can be lowered");
    }

    /// Sets its soft limit of open descriptors to `n`, or back to the maximum. Children forked
    /// meanwhile inherit it.
    pub fn limit_descriptors_for_now(&self, n: Option<u64>) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: n.or(maximum), maximum };
        prlimit(Some(self.pid), Resource::Nofile, limit).expect("a limit can be raised to its maximum");
    }

    /// How many descriptors it has open.
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).expect("the process is there").count()
    }

    /// Its resident anonymous memory, in bytes.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        self.bytes("RssAnon")
    }

    /// Waits at most `limit` until SIGSTOP has stopped it. `false` if it has not.
    pub fn wait_frozen(&self, limit: Duration) -> bool {
        until(limit, || self.status("State").starts_with('T').then_some(())).is_some()
    }

    /// The value of `field` in /proc/pid/status (proc(5)). Empty once the process is gone.
    pub fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    /// Its command line, as ps(1) shows it.
    pub fn title(&self) -> String {
        let title = fs::read_to_string(format!("/proc/{}/cmdline", self.id())).unwrap_or_default();
        title.trim_end_matches('\0').to_owned()
    }

    /// Whether it has children that have ended and were not reaped.
    pub fn has_ended_children(&self) -> bool {
        self.children().iter().any(|child| child.state() == Some('Z'))
    }

    /// Its state (proc(5)), `Z` once it has ended. None: it was reaped.
    fn state(&self) -> Option<char> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("State:"))?.trim_start().chars().next()
    }

    /// Its role in the server, from its title: `worker` of `remuda: worker 0`.
    fn role(&self) -> String {
        let title = self.title();
        title.strip_prefix("remuda: ").and_then(|role| role.split(' ').next()).unwrap_or_default().to_owned()
    }

    /// Whether it is the keeper of a worker. One that has ended and was not reaped has no title,
    /// but its name (proc(5), comm). None: it was reaped.
    fn is_keeper(&self) -> Option<bool> {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.id())).ok()?;
        Some(name.trim_end() == "keeper" || self.role() == "keeper")
    }

    /// How long it has used a processor, in all of its threads and in those that have ended
    /// (proc_pid_stat(5), `utime` and `stime`), in the resolution of the kernel's ticks.
    #[track_caller]
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("the process is there");
        // The second field is a name in parentheses, which may have spaces.
        let fields = stat.rsplit_once(')').expect("a process has a name").1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// How many children it has, without the keepers of workers.
    pub fn count_children(&self) -> usize {
        self.children().iter().filter(|child| child.is_keeper() == Some(false)).count()
    }

    /// Its peak resident memory, in bytes.
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        self.bytes("VmHWM")
    }

    /// Its share of memory, in bytes: memory that n processes share counts one n-th for each
    /// (proc(5), smaps_rollup, `Pss`).
    #[track_caller]
    pub fn share(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id())).expect("it is there");
        let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.strip_suffix("kB"));
        kilobytes.and_then(|number| number.trim().parse::<u64>().ok()).expect("proc(5) gives kB") * 1024
    }

    #[track_caller]
    fn bytes(&self, field: &str) -> u64 {
        let kilobytes = self.status(field);
        let kilobytes: u64 = kilobytes.trim_end_matches(" kB").parse().expect("proc(5) gives kB");
        kilobytes * 1024
    }
}

impl Drop for Process {
    /// Reaps the process if it has ended and is a child of this process by now. Otherwise its
    /// parent does.
    fn drop(&mut self) {
        let _ = waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// The log of a server, read by a thread as it arrives.
#[derive(Clone, Debug, Default)]
struct Log(Arc<(Mutex<LogState>, Condvar)>);

#[derive(Debug, Default)]
struct LogState {
    text: String,
    /// No process holds the other end any more.
    ended: bool,
}

impl Log {
    fn read(mut pipe: PipeReader) -> Self {
        let log = Self::default();
        let writer = log.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let n = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = writer.state();
                state.text.push_str(&String::from_utf8_lossy(&buffer[..n]));
                state.ended = n == 0;
                writer.0.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        log
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `find` returns a value. None after `limit`, or at the end of the log.
    fn wait<T>(&self, limit: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let going_on = |state: &mut LogState| !state.ended && find(&state.text).is_none();
        let (state, _) = self
            .0
            .1
            .wait_timeout_while(self.state(), limit, going_on)
            .expect("no thread panics with the lock");
        find(&state.text)
    }

    fn wait_end(&self, limit: Duration) -> bool {
        let going_on = |state: &mut LogState| !state.ended;
        let (state, _) = self
            .0
            .1
            .wait_timeout_while(self.state(), limit, going_on)
            .expect("no thread panics with the lock");
        state.ended
    }
}

fn private_dir() -> TempDir {
    tempfile::Builder::new().prefix("remuda-").tempdir().expect("a directory can be made")
}

/// Lets this process open at least `n` descriptors, as far as its hard limit allows.
pub fn allow_descriptors(n: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.map_or(n, |maximum| maximum.min(n));
    if limit.current.is_some_and(|current| current < enough) {
        let raised = Rlimit { current: Some(enough), ..limit };
        setrlimit(Resource::Nofile, raised).expect("a limit can be raised to its maximum");
    }
}

/// Calls `find` again and again, for conditions that give no event. None after `limit`.
pub fn until<T>(limit: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        match find() {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            found => return found,
        }
    }
}

/// The first address in the complete lines of a log: `http://127.0.0.1:8000`, `unix:PATH`.
fn address_in(log: &str, dir: &Path) -> Option<Address> {
    let complete = &log[..=log.rfind('\n')?];
    complete.split(|c: char| c.is_whitespace() || "\"',;()".contains(c)).find_map(|word| {
        let inet = |rest: &str| rest.trim_end_matches(['/', '.']).parse().ok().map(Address::Inet);
        let unix = |rest: &str| Some(Address::Unix(dir.join(rest)));
        word.split_once("http://")
            .and_then(|(_, rest)| inet(rest))
            .or_else(|| word.split_once("unix:").and_then(|(_, rest)| unix(rest)))
    })
}

/// Kills `processes`. `true` if there were none.
fn end(processes: Vec<Process>) -> bool {
    for process in &processes {
        process.signal(Signal::KILL);
        process.wait_gone(PATIENCE);
    }
    processes.is_empty()
}

/// The processes whose working directory is `dir`.
fn processes_in(dir: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| parse_pid(entry.file_name().to_str()?));
    let here =
        |pid: Pid| fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).is_ok_and(|cwd| cwd == dir);
    // Checked again once it is held, because only then its id cannot pass to another process.
    pids.filter(|pid| here(*pid)).filter_map(Process::open).filter(|process| here(process.pid)).collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

/// Removes variables of this process that are settings, or the suite's own, from the environment of
/// `command`.
fn remove_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("REMUDA_") || ["PORT", "WEB_CONCURRENCY"].contains(&&*name) {
            command.env_remove(&*name);
        }
    }
}

#[cfg(test)]
mod tests;
