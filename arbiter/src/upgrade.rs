//! The binary upgrade: how one arbiter starts another from the executable, and what the two tell each other.
//!
//! The new one is started as this one was: by the same path, which may lead to another file by now, with the same
//! arguments, environment and directory. It inherits the listeners and both ends of the hand-off queue; which they are
//! says [`VARIABLE`], and where they are bound says the kernel. What this server got itself from elsewhere keeps its
//! number and is found as it was the first time.
//!
//! Between the two is a socket. The new one says once that it serves, and with which of the listeners; its end of
//! the socket ends with the old one. The old one learns of the other's end as a parent does.
//!
//! The workers of both use one hand-off queue if the new ones read the version of records that the old ones write (D19); they
//! themselves write the newest that both read, as long as they live, so that the way back is open. If they do not, the new arbiter
//! makes a queue of its own, and the old one's workers hand nothing over.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
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

use crate::listener::slots::Slots;
use crate::listener::{Heirloom, Identity, Listeners};
use crate::sys::{self, Fork, Signals};

/// What an arbiter inherits from another: a version, its own pid, the versions of hand-off records that the other's workers
/// read, the one that they write last, the socket between the two, the ends of the hand-off queue, and listeners, those with a
/// file followed by its device and inode; after a `+`, those for operators: `1 4711 1,2 9 5 6 7 8:64768:1311 + 10:64768:1312`.
pub(crate) const VARIABLE: &str = "REMUDA_UPGRADE";

const VERSION: &str = "1";

/// What listeners for operators come after.
const FOR_OPERATORS: &str = " +";

/// What an arbiter says that serves, and whether its workers use the queue that it was passed.
const READY: &str = "ready";
const HAND_OFF: &str = "handoff";

/// For whom a service manager has meant what it passed on (sd_listen_fds(3), sd_watchdog_enabled(3)).
const MEANT_FOR: [&str; 2] = ["LISTEN_PID", "WATCHDOG_PID"];

/// Bytes that hold any message between two arbiters.
const MESSAGE_MAX: usize = 64 * 1024;

/// This arbiter and the other one, if there is one.
#[derive(Debug)]
pub(crate) struct Upgrade {
    start: Start,
    /// To the one that has started this one, and lives.
    elder: Option<OwnedFd>,
    /// Its workers and this one's use one hand-off queue.
    shares_queue: bool,
    /// What this one's workers read and write there.
    records: Records,
    heir: Option<Heir>,
}

/// An arbiter that this one has started, and has not reaped yet.
#[derive(Debug)]
struct Heir {
    /// None once it has closed its end.
    socket: Option<OwnedFd>,
}

/// How this process was started.
#[derive(Debug)]
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

/// What another arbiter shares with this one.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    /// The hand-off queue, if both use it.
    pub(crate) queue: Option<(Outbox, OwnedFd)>,
    pub(crate) listeners: Vec<Heirloom>,
    /// Those that operators connect to.
    pub(crate) for_operators: Vec<Heirloom>,
}

/// What the other arbiter has said.
#[derive(Debug)]
pub(crate) enum Word {
    /// It serves, with these of the listeners that it was passed, and its workers take connections over or not.
    Ready { receives: bool, kept: Vec<RawFd> },
    /// The one that has started this one is gone.
    ElderGone,
}

impl Upgrade {
    /// This process's place in an upgrade; what it inherits, if it was started by one.
    ///
    /// # Errors
    ///
    /// It was, and what it was passed is not what this version expects.
    pub(crate) fn of_process(records: Records) -> Result<(Self, Option<Legacy>), String> {
        let start = Start::of_process().map_err(|error| format!("cannot find the executable: {error}"))?;
        let mut upgrade = Self { start, elder: None, shares_queue: false, records, heir: None };
        let Some(value) = env::var(VARIABLE).ok() else { return Ok((upgrade, None)) };
        let refused = || format!("{VARIABLE} is {value:?}, which another version of this server has written");
        let passed = Passed::read(&value).ok_or_else(refused)?;
        if passed.pid != getpid().to_string() {
            return Ok((upgrade, None)); // a program that a worker has started has it, too
        }
        let beside = upgrade.records.beside(&passed.records);
        if beside.is_none() {
            let (ours, theirs) = (&upgrade.records, &passed.records);
            warn!(
                "upgrade: no connection moves to the new workers: they read records of versions {ours}, and the old ones write {}",
                theirs.written()
            );
        }
        let (socket, mut legacy) = passed.adopt().map_err(|error| format!("{}: {error}", refused()))?;
        match beside {
            Some(records) => (upgrade.records, upgrade.shares_queue) = (records, true),
            None => legacy.queue = None,
        }
        upgrade.elder = Some(socket);
        Ok((upgrade, Some(legacy)))
    }

    /// The version of the records that workers write.
    pub(crate) fn written(&self) -> u16 {
        self.records.written()
    }

    /// Whether another arbiter was there before, and is so still.
    pub(crate) fn has_elder(&self) -> bool {
        self.elder.is_some()
    }

    /// Whether there is no other.
    pub(crate) fn is_alone(&self) -> bool {
        self.elder.is_none() && self.heir.is_none()
    }

    /// Starts another arbiter, which shares `listeners`, also those of `slots` and `for_operators`, and the queue from now on.
    ///
    /// # Errors
    ///
    /// It could not be forked. If the executable cannot be run, the child ends.
    pub(crate) fn launch(
        &mut self,
        listeners: &mut Listeners,
        slots: &mut Slots,
        mut for_operators: Vec<&mut Listeners>,
        queue: [BorrowedFd<'_>; 2],
        signals: &Signals,
    ) -> Result<Pid, String> {
        if getpid().is_init() {
            return Err("this is process 1, with which its container would end".to_owned());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| format!("cannot make a socket: {}", io::Error::from(errno)))?;
        match sys::fork().map_err(|error| error.to_string())? {
            Fork::Parent { child } => {
                listeners.share();
                slots.share();
                for_operators.iter_mut().for_each(|listeners| listeners.share());
                self.heir = Some(Heir { socket: Some(ours) });
                Ok(child)
            }
            Fork::Child { parent } => {
                signals.hand_back();
                let error = self.start.again(parent, || {
                    let mut passed = pass_on(&self.records, theirs.as_fd(), queue)?;
                    pass_on_listeners(listeners, &mut passed)?;
                    slots.to_pass_on().try_for_each(|fd| pass_on_one(fd, &mut passed))?;
                    passed.push_str(FOR_OPERATORS);
                    for_operators
                        .iter()
                        .try_for_each(|listeners| pass_on_listeners(listeners, &mut passed))?;
                    Ok(passed)
                });
                error!("upgrade: cannot run {}: {error}", self.start.program.display());
                sys::exit(1)
            }
        }
    }

    /// Tells the one that has started this one that this one serves, with `kept` of the listeners.
    pub(crate) fn tell_ready(&self, kept: &[RawFd]) {
        let Some(elder) = &self.elder else { return };
        let ready = if self.shares_queue { format!("{READY} {HAND_OFF}") } else { READY.to_owned() };
        let message = kept.iter().fold(ready, |message, fd| format!("{message} {fd}"));
        if let Err(errno) = send(elder, message.as_bytes(), SendFlags::NOSIGNAL) {
            warn!("upgrade: cannot tell the old arbiter: {errno}"); // it is gone, which is told elsewhere
        }
    }

    /// What to wait for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let heir = self.heir.as_ref().and_then(|heir| heir.socket.as_ref());
        self.elder.iter().chain(heir).map(|socket| PollFd::new(socket, PollFlags::IN))
    }

    /// What the other one has said, one thing at a time.
    pub(crate) fn hear(&mut self) -> Option<Word> {
        if self.elder.as_ref().is_some_and(|elder| hear(elder.as_fd()) == Heard::End) {
            self.elder = None;
            return Some(Word::ElderGone);
        }
        let socket = &mut self.heir.as_mut()?.socket;
        match hear(socket.as_ref()?.as_fd()) {
            Heard::Nothing => None,
            Heard::Message(message) => {
                let mut words = message.split(' ').peekable();
                let is_ready = words.next() == Some(READY);
                let receives = words.next_if_eq(&HAND_OFF).is_some();
                let kept: Option<_> =
                    is_ready.then(|| words.map(|word| word.parse().ok()).collect::<Option<_>>()).flatten();
                if kept.is_none() {
                    warn!("upgrade: the new arbiter says {message:?}, which is not understood");
                }
                kept.map(|kept| Word::Ready { receives, kept })
            }
            Heard::End => {
                *socket = None;
                None
            }
        }
    }

    /// The other one is gone.
    pub(crate) fn forget(&mut self) {
        (self.elder, self.heir) = (None, None);
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
        let directory = directory()?;
        let program = match arguments.first().map(Path::new).and_then(|name| find(name, &directory)) {
            Some(program) => program,
            None => env::current_exe()?,
        };
        let variables = env::vars_os().filter(|(name, _)| name != VARIABLE).collect();
        Ok(Self { program, arguments, variables, directory })
    }

    /// Becomes the program again, in a child of `parent`, with what `pass_on` lets it have and writes down. Returns only why
    /// that was not possible.
    fn again(&self, parent: Pid, pass_on: impl FnOnce() -> io::Result<String>) -> io::Error {
        let passed = match pass_on() {
            Ok(passed) => passed,
            Err(error) => return error,
        };
        let mut command = Command::new(&self.program);
        command.args(self.arguments.iter().skip(1)).current_dir(&self.directory);
        command.env_clear().envs(self.variables.iter().cloned()).env(VARIABLE, passed);
        if let Some(name) = self.arguments.first() {
            command.arg0(name);
        }
        let parent = parent.to_string();
        let ours = |(name, value): &&(OsString, OsString)| {
            MEANT_FOR.iter().any(|known| name == known) && *value == *parent
        };
        for (name, _) in self.variables.iter().filter(ours) {
            command.env(name, getpid().to_string());
        }
        command.exec()
    }
}

/// Lets the next program of this process have these, and writes that down.
fn pass_on(records: &Records, socket: BorrowedFd<'_>, queue: [BorrowedFd<'_>; 2]) -> io::Result<String> {
    let mut passed = format!("{VERSION} {} {records}", getpid());
    [socket].into_iter().chain(queue).try_for_each(|fd| pass_on_one(fd, &mut passed))?;
    Ok(passed)
}

/// The same with one more.
fn pass_on_one(fd: BorrowedFd<'_>, passed: &mut String) -> io::Result<()> {
    fcntl_setfd(fd, FdFlags::empty())?;
    let _ = write!(passed, " {}", fd.as_raw_fd()); // a string takes all
    Ok(())
}

/// The same with `listeners`.
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

/// The variable's value, taken apart.
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

    fn adopt(self) -> io::Result<(OwnedFd, Legacy)> {
        let adopt = |fd| sys::adopt(fd, |fd| fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(io::Error::from));
        let [outbox, inbox] = self.queue;
        let queue = (adopt(outbox)?, adopt(inbox)?);
        let heirlooms = |listeners: Vec<(RawFd, Option<Identity>)>| {
            let all = listeners.into_iter().map(|(fd, file)| Ok(Heirloom { socket: adopt(fd)?, file }));
            all.collect::<io::Result<_>>()
        };
        let legacy = Legacy {
            queue: Some((queue.0.into(), queue.1)),
            listeners: heirlooms(self.listeners)?,
            for_operators: heirlooms(self.for_operators)?,
        };
        Ok((adopt(self.socket)?, legacy))
    }
}

/// Where this process works, by the name that its starter used if that is one: a link to the newest release is followed
/// anew.
fn directory() -> io::Result<PathBuf> {
    let here = fs::metadata(".")?;
    let named = env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    let is_here = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()))
    };
    named.filter(is_here).map_or_else(env::current_dir, Ok)
}

/// The program that a shell in `directory` would mean by `name` (execvp(3)). Links in it are followed when it is run.
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
