//! The binary upgrade: one arbiter starts another from the executable, and the two exchange
//! messages.
//!
//! The new arbiter is started as the old one was: by the same path, which may lead to another file
//! by now, with the same arguments, environment and directory. It inherits the listeners and both
//! ends of the hand-off queue. [`VARIABLE`] has their descriptors; the kernel knows their
//! addresses. Listeners that came from outside (`fd://N`, a service manager) keep their
//! descriptors, and are found as at the first start.
//!
//! A socket connects the two. The new arbiter reports once that it serves, and which listeners it
//! uses; it sees the end of the old one by the end of the socket. The old arbiter sees the end of
//! the new one as its parent.
//!
//! The workers of both share one hand-off queue if the new workers read the version of records that
//! the old ones write (D19). The new workers write the newest version that both read, for as long
//! as they live, so that connections can move back. Otherwise the new arbiter creates its own
//! queue, and the old workers hand nothing over.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use remuda_core::handoff::Records;
use remuda_core::worker::handoff::Outbox;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, getpid};
use tracing::{error, warn};

use crate::file::Identity;
use crate::listener::per_slot::PerSlotListeners;
use crate::listener::{InheritedListener, Listeners};
use crate::sys::{self, Fork, Signals};

/// The variable with what an arbiter inherits from another, for example `1 4711 1,2 9 5 6 7
/// 8:64768:1311 + 10:64768:1312`: the version of this format, the new arbiter's pid, the versions
/// of hand-off records that the old workers read (the last one is the one that they write), the
/// socket between the two, both ends of the hand-off queue, and listeners. A listener with a file
/// is followed by the file's device and inode. Listeners for operators follow the `+`.
pub(crate) const VARIABLE: &str = "REMUDA_UPGRADE";

const VERSION: &str = "1";

/// The mark before listeners for operators.
const FOR_OPERATORS: &str = " +";

/// The message of an arbiter that serves. The second word means that its workers use the inherited
/// queue.
const READY: &str = "ready";
const HAND_OFF: &str = "handoff";

/// Variables by which a service manager names the process it addresses (sd_listen_fds(3),
/// sd_watchdog_enabled(3)).
const MEANT_FOR: [&str; 2] = ["LISTEN_PID", "WATCHDOG_PID"];

/// The largest message between two arbiters, in bytes.
const MESSAGE_MAX: usize = 64 * 1024;

/// Bytes of a script in which the kernel looks for its interpreter (execve(2)).
const INTERPRETER_MAX: u64 = 256;

/// This arbiter, and the other one of an upgrade.
#[derive(Debug)]
pub(crate) struct Upgrade {
    start: Start,
    /// The socket to the old arbiter that started this one, while it lives.
    old: Option<OwnedFd>,
    /// Whether the workers of both arbiters share the hand-off queue.
    shares_queue: bool,
    /// The versions of records of this arbiter's workers.
    records: Records,
    new: Option<NewArbiter>,
}

/// The new arbiter, started by this one and not reaped yet.
#[derive(Debug)]
struct NewArbiter {
    /// None once the new arbiter has closed its end.
    socket: Option<OwnedFd>,
}

/// How this process was started.
#[derive(Debug)]
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    /// The directory by name. None if it was gone already.
    directory: Option<PathBuf>,
    /// The directory by device and inode.
    here: Option<Identity>,
}

/// What this arbiter inherits from another.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    /// The hand-off queue, if both use it.
    pub(crate) queue: Option<(Outbox, OwnedFd)>,
    pub(crate) listeners: Vec<InheritedListener>,
    /// Listeners for operators.
    pub(crate) for_operators: Vec<InheritedListener>,
}

/// A message from the other arbiter.
#[derive(Debug)]
pub(crate) enum Word {
    /// The new arbiter serves. `kept` are the inherited listeners that it uses; `receives`: its
    /// workers receive connections.
    Ready { receives: bool, kept: Vec<RawFd> },
    /// The old arbiter has ended.
    OldArbiterGone,
}

impl Upgrade {
    /// Reads this process's place in an upgrade, and what it inherits.
    ///
    /// # Errors
    ///
    /// The process was started by an upgrade, and this version cannot read the inheritance.
    pub(crate) fn of_process(records: Records) -> Result<(Self, Option<Inheritance>), String> {
        let start = Start::of_process().map_err(|error| format!("cannot find the executable: {error}"))?;
        let mut upgrade = Self { start, old: None, shares_queue: false, records, new: None };
        let Some(value) = env::var(VARIABLE).ok() else { return Ok((upgrade, None)) };
        let refused = || format!("{VARIABLE} is {value:?}, which another version of this server has written");
        let passed = Passed::read(&value).ok_or_else(refused)?;
        if passed.pid != getpid().to_string() {
            return Ok((upgrade, None)); // inherited by a program that a worker started
        }
        let beside = upgrade.records.beside(&passed.records);
        if beside.is_none() {
            let (ours, theirs) = (&upgrade.records, &passed.records);
            warn!(
                "upgrade: connections cannot move to the new workers, which read records of versions {ours}; the old workers write {}",
                theirs.written()
            );
        }
        let (socket, mut inheritance) = passed.adopt().map_err(|error| format!("{}: {error}", refused()))?;
        match beside {
            Some(records) => (upgrade.records, upgrade.shares_queue) = (records, true),
            None => inheritance.queue = None,
        }
        upgrade.old = Some(socket);
        Ok((upgrade, Some(inheritance)))
    }

    /// The version of the records that workers write.
    pub(crate) fn written(&self) -> u16 {
        self.records.written()
    }

    /// Whether an old arbiter is still alive.
    pub(crate) fn has_old_arbiter(&self) -> bool {
        self.old.is_some()
    }

    /// Whether there is no other arbiter.
    pub(crate) fn is_alone(&self) -> bool {
        self.old.is_none() && self.new.is_none()
    }

    /// Starts a new arbiter. From then on it shares `listeners`, those of `slots` and
    /// `for_operators`, and the queue.
    ///
    /// # Errors
    ///
    /// The fork failed. If the executable cannot be run, the child ends.
    pub(crate) fn launch(
        &mut self,
        listeners: &mut Listeners,
        slots: &mut PerSlotListeners,
        mut for_operators: Vec<&mut Listeners>,
        queue: [BorrowedFd<'_>; 2],
        signals: &Signals,
    ) -> Result<Pid, String> {
        if getpid().is_init() {
            return Err("the arbiter is process 1, with which its container would end".to_owned());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| format!("cannot create a socket: {}", io::Error::from(errno)))?;
        match sys::fork().map_err(|error| error.to_string())? {
            Fork::Parent { child } => {
                // From now on the new arbiter may accept from these sockets: a stop closes them and
                // does not shut them down (D3).
                listeners.share();
                slots.share();
                for_operators.iter_mut().for_each(|listeners| listeners.share());
                self.new = Some(NewArbiter { socket: Some(ours) });
                Ok(child)
            }
            Fork::Child { parent } => {
                // The signal mask survives exec(2): the program starts with the mask that this one
                // was started with.
                signals.hand_back();
                let why = self.start.again(parent, || {
                    let mut passed = pass_on(&self.records, theirs.as_fd(), queue)?;
                    pass_on_listeners(listeners, &mut passed)?;
                    slots.to_pass_on().try_for_each(|fd| pass_on_one(fd, &mut passed))?;
                    passed.push_str(FOR_OPERATORS);
                    for_operators
                        .iter()
                        .try_for_each(|listeners| pass_on_listeners(listeners, &mut passed))?;
                    Ok(passed)
                });
                error!("upgrade: {why}");
                sys::exit(1)
            }
        }
    }

    /// Reports to the old arbiter that this one serves, with the inherited listeners `kept`.
    pub(crate) fn tell_ready(&self, kept: &[RawFd]) {
        let Some(old) = &self.old else { return };
        let ready = if self.shares_queue { format!("{READY} {HAND_OFF}") } else { READY.to_owned() };
        let message = kept.iter().fold(ready, |message, fd| format!("{message} {fd}"));
        if let Err(errno) = send(old, message.as_bytes(), SendFlags::NOSIGNAL) {
            // The end of the old arbiter is reported elsewhere.
            warn!("upgrade: cannot report to the old arbiter: {errno}");
        }
    }

    /// The descriptors to wait for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let new = self.new.as_ref().and_then(|new| new.socket.as_ref());
        self.old.iter().chain(new).map(|socket| PollFd::new(socket, PollFlags::IN))
    }

    /// Receives the next message of the other arbiter.
    pub(crate) fn hear(&mut self) -> Option<Word> {
        if self.old.as_ref().is_some_and(|old| hear(old.as_fd()) == Heard::End) {
            self.old = None;
            return Some(Word::OldArbiterGone);
        }
        let socket = &mut self.new.as_mut()?.socket;
        match hear(socket.as_ref()?.as_fd()) {
            Heard::Nothing => None,
            Heard::Message(message) => {
                let mut words = message.split(' ').peekable();
                let is_ready = words.next() == Some(READY);
                let receives = words.next_if_eq(&HAND_OFF).is_some();
                let kept: Option<_> =
                    is_ready.then(|| words.map(|word| word.parse().ok()).collect::<Option<_>>()).flatten();
                if kept.is_none() {
                    warn!("upgrade: unknown message from the new arbiter: {message:?}");
                }
                kept.map(|kept| Word::Ready { receives, kept })
            }
            Heard::End => {
                *socket = None;
                None
            }
        }
    }

    /// Forgets the other arbiter, which has ended.
    pub(crate) fn forget(&mut self) {
        (self.old, self.new) = (None, None);
    }
}

#[derive(PartialEq, Eq)]
enum Heard {
    Nothing,
    Message(String),
    End,
}

fn hear(socket: BorrowedFd<'_>) -> Heard {
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        return match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => Heard::End,
            Ok((len, _)) => Heard::Message(String::from_utf8_lossy(&buffer[..len]).into_owned()),
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(Errno::AGAIN) => Heard::Nothing,
            Err(_) => Heard::End,
        };
    }
}

impl Start {
    fn of_process() -> io::Result<Self> {
        let arguments: Vec<_> = env::args_os().collect();
        let directory = directory().ok();
        let start = directory.as_deref().unwrap_or_else(|| Path::new(""));
        let program = match arguments.first().map(Path::new).and_then(|name| find(name, start)) {
            Some(program) => program,
            None => env::current_exe()?,
        };
        let variables = env::vars_os().filter(|(name, _)| name != VARIABLE).collect();
        Ok(Self { program, arguments, variables, directory, here: identity(Path::new(".")).ok() })
    }

    /// Executes the program again, in a child of `parent`. `pass_on` prepares the descriptors and
    /// returns the value of [`VARIABLE`]. Returns only if the execution failed, with the reason.
    fn again(&self, parent: Pid, pass_on: impl FnOnce() -> io::Result<String>) -> String {
        let passed = match pass_on() {
            Ok(passed) => passed,
            Err(error) => return format!("cannot pass the listeners on: {error}"),
        };
        if let Err(why) = self.go_back() {
            return why;
        }
        let mut command = Command::new(&self.program);
        command.args(self.arguments.iter().skip(1));
        command.env_clear().envs(self.variables.iter().cloned()).env(VARIABLE, passed);
        if let Some(name) = self.arguments.first() {
            command.arg0(name);
        }
        // A service manager addresses its variables to a pid. Those addressed to the parent have to
        // name this process instead.
        let parent = parent.to_string();
        let ours = |(name, value): &&(OsString, OsString)| {
            MEANT_FOR.iter().any(|known| name == known) && *value == *parent
        };
        for (name, _) in self.variables.iter().filter(ours) {
            command.env(name, getpid().to_string());
        }
        let error = command.exec();
        format!("cannot run {:?}: {}", self.program, why_not_run(&self.program, &error))
    }

    /// Changes to the start directory. If its name is gone, the process stays if it is still in
    /// that directory; otherwise it changes to `/`, so that relative paths do not lead into
    /// `chdir`.
    fn go_back(&self) -> Result<(), String> {
        let Some(directory) = &self.directory else {
            self.leave();
            return Ok(());
        };
        match env::set_current_dir(directory) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn!(
                    "upgrade: the start directory {directory:?} is gone; relative paths cannot be resolved"
                );
                self.leave();
                Ok(())
            }
            Err(error) => Err(format!("cannot change to the start directory {directory:?}: {error}")),
        }
    }

    fn leave(&self) {
        if identity(Path::new(".")).ok() != self.here {
            let _ = env::set_current_dir("/"); // always exists
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Explains why `program` cannot be run; `error` alone does not say what is missing (execve(2)).
fn why_not_run(program: &Path, error: &io::Error) -> String {
    let is_executable = |path: &Path| fs::metadata(path).is_ok_and(|file| file.mode() & 0o111 != 0);
    match fs::metadata(program) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => match fs::read_link(program) {
            Ok(end) => format!("it is a link to {end:?}, which is gone"),
            Err(_) => "it is gone".to_owned(),
        },
        Ok(file) if !file.is_file() => "it is not a file".to_owned(),
        Ok(file) if file.mode() & 0o111 == 0 => "it is not executable".to_owned(),
        Ok(_) => match interpreter(program) {
            Some(path) if error.kind() == io::ErrorKind::NotFound => {
                format!("its interpreter {path:?} is missing")
            }
            Some(path) if !is_executable(&path) => format!("its interpreter {path:?} is not executable"),
            None if error.kind() == io::ErrorKind::NotFound => "its dynamic loader is missing".to_owned(),
            _ => error.to_string(),
        },
        Err(_) => error.to_string(),
    }
}

/// The interpreter of a script, from its first line.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    fs::File::open(script).ok()?.take(INTERPRETER_MAX).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let path = line.split(|byte| byte.is_ascii_whitespace()).next()?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// Clears close-on-exec on the socket and the queue, and begins the value of [`VARIABLE`].
fn pass_on(records: &Records, socket: BorrowedFd<'_>, queue: [BorrowedFd<'_>; 2]) -> io::Result<String> {
    let mut passed = format!("{VERSION} {} {records}", getpid());
    [socket].into_iter().chain(queue).try_for_each(|fd| pass_on_one(fd, &mut passed))?;
    Ok(passed)
}

/// Clears close-on-exec on `fd`, and appends it.
fn pass_on_one(fd: BorrowedFd<'_>, passed: &mut String) -> io::Result<()> {
    fcntl_setfd(fd, FdFlags::empty())?;
    let _ = write!(passed, " {}", fd.as_raw_fd()); // a string takes all
    Ok(())
}

/// Clears close-on-exec on `listeners`, and appends the server's own.
fn pass_on_listeners(listeners: &Listeners, passed: &mut String) -> io::Result<()> {
    for (fd, file, own) in listeners.to_pass_on() {
        fcntl_setfd(fd, FdFlags::empty())?;
        if own {
            let file = file.map_or_else(String::new, |(device, inode)| format!(":{device}:{inode}"));
            let _ = write!(passed, " {}{file}", fd.as_raw_fd());
        }
    }
    Ok(())
}

/// The parsed value of [`VARIABLE`].
#[derive(PartialEq, Eq, Debug)]
struct Passed<'a> {
    pid: &'a str,
    records: Records,
    socket: RawFd,
    queue: [RawFd; 2],
    listeners: Vec<(RawFd, Option<Identity>)>,
    for_operators: Vec<(RawFd, Option<Identity>)>,
}

impl<'a> Passed<'a> {
    fn read(value: &'a str) -> Option<Self> {
        let (value, for_operators) = value.split_once(FOR_OPERATORS).unwrap_or((value, ""));
        let mut words = value.split(' ');
        words.next().filter(|version| *version == VERSION)?;
        let pid = words.next()?;
        let records = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse().ok();
        let (socket, queue) = (number()?, [number()?, number()?]);
        let listener = |word: &str| match *word.split(':').collect::<Vec<_>>() {
            [fd] => Some((fd.parse().ok()?, None)),
            [fd, device, inode] => {
                Some((fd.parse().ok()?, Some((device.parse().ok()?, inode.parse().ok()?))))
            }
            _ => None,
        };
        let listeners = words.map(listener).collect::<Option<_>>()?;
        let for_operators = for_operators.split_whitespace().map(listener).collect::<Option<_>>()?;
        Some(Self { pid, records, socket, queue, listeners, for_operators })
    }

    fn adopt(self) -> io::Result<(OwnedFd, Inheritance)> {
        let adopt = |fd| sys::adopt(fd, |fd| fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(io::Error::from));
        let [outbox, inbox] = self.queue;
        let queue = (adopt(outbox)?, adopt(inbox)?);
        let inherited = |listeners: Vec<(RawFd, Option<Identity>)>| {
            let all =
                listeners.into_iter().map(|(fd, file)| Ok(InheritedListener { socket: adopt(fd)?, file }));
            all.collect::<io::Result<_>>()
        };
        let inheritance = Inheritance {
            queue: Some((queue.0.into(), queue.1)),
            listeners: inherited(self.listeners)?,
            for_operators: inherited(self.for_operators)?,
        };
        Ok((adopt(self.socket)?, inheritance))
    }
}

/// The directory of this process, by the name in `PWD` if that is correct: a link to the newest
/// release is then followed again.
fn directory() -> io::Result<PathBuf> {
    let here = identity(Path::new("."))?;
    let named = env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    let is_here = |path: &PathBuf| identity(path).is_ok_and(|there| there == here);
    named.filter(is_here).map_or_else(env::current_dir, Ok)
}

/// Finds the program that a shell in `directory` would run for `name` (execvp(3)). Links are
/// followed only when it runs.
fn find(name: &Path, directory: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 || name.is_absolute() {
        return Some(directory.join(name)).filter(|path| path.is_file());
    }
    let is_program =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|place| directory.join(place).join(name)).find(is_program)
}

#[cfg(test)]
mod tests;
