//! A standard error that is not read (D21): a full pipe, a terminal stopped with Ctrl-S, a stream
//! socket as journald has. Signals, deaths and clients are handled as usual, and lines without room
//! are counted.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _, pipe};
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionbio, read};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, tcflow};

use super::process::replacement;
use super::{get, took};
use crate::Harness;
use crate::client::{Address, PATIENCE};
use crate::process::{Server, until};

/// The number of clients. Each makes the server log something.
const CLIENTS: usize = 1000;

/// Seconds that a stop may take: each process, when it ends, waits at most 100 ms for the log.
const STOP: Range<f64> = 0.0..1.0;

pub(crate) fn d21_a_full_stderr_pipe_delays_nothing_and_drops_are_counted(harness: &Harness) {
    all_is_as_with_a_reader(harness, Kind::Pipe);
}

pub(crate) fn d21_a_stopped_terminal_delays_nothing(harness: &Harness) {
    all_is_as_with_a_reader(harness, Kind::Terminal);
}

pub(crate) fn d21_a_log_socket_whose_peer_stalls_delays_nothing(harness: &Harness) {
    all_is_as_with_a_reader(harness, Kind::Socket);
}

pub(crate) fn d21_an_unread_log_delays_neither_start_nor_end(harness: &Harness) {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let unread = Unread::new(Kind::Pipe);
        unread.stall();
        let mut server = launch(harness, &unread, &[]);
        let start = Instant::now();
        server.arbiter().signal(signal);
        assert_eq!(server.exit(PATIENCE), 0, "{signal:?}");
        took(&format!("the server ended by {signal:?}"), start, STOP);
    }
}

/// The helper logs nothing afterwards that would take the kept line along.
pub(crate) fn d21_the_admin_helper_writes_a_kept_line_once_there_is_room(harness: &Harness) {
    let unread = Unread::new(Kind::Pipe);
    let server = launch(harness, &unread, &["--admin-bind", "unix:admin.sock"]);
    let admin = Address::Unix(server.dir().join("admin.sock"));
    let connect = || until(PATIENCE, || admin.connect(PATIENCE).ok()).expect("the helper accepts");
    let mut probe = connect();
    assert_eq!(probe.get("/healthz").status, 200);

    unread.stall();
    let mut client = connect();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    client.last_response(400);
    assert_eq!(probe.get("/healthz").status, 200, "it does not wait for the log");
    let mut text = String::new();
    let is_written = || {
        text.push_str(&unread.read());
        text.contains("it seems to speak TLS").then_some(())
    };
    assert!(until(PATIENCE, is_written).is_some(), "{text}");
}

fn all_is_as_with_a_reader(harness: &Harness, kind: Kind) {
    let unread = Unread::new(kind);
    let mut server = launch(harness, &unread, &[]);
    unread.stall();

    let killed = server.workers(1);
    killed[0].signal(Signal::KILL);
    replacement(&server, &killed);

    let old = server.workers(1);
    server.arbiter().signal(Signal::HUP);
    let reloaded = || old[0].wait_gone(Duration::ZERO).then(|| server.workers(1));
    let new = until(PATIENCE, reloaded).expect("the old worker ends");
    assert_ne!(new[0].id(), old[0].id());
    server.connect().get("/");

    for n in 0..CLIENTS {
        let mut client = server.connect();
        if n % 4 == 0 {
            client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
            client.last_response(400);
        } else {
            client.send(get("/panic"));
            client.last_response(500);
        }
    }
    server.connect().get("/");

    // Each panic is two lines. Each line is either written or counted.
    let (mut text, all) = (String::new(), CLIENTS / 4 * 3 * 2);
    unread.go_on();
    let accounts_for_all = || {
        text.push_str(&unread.read());
        let (told, count) = (text.matches("panicked").count(), dropped(&text));
        (told > 0 && count > 0 && told + count >= all && text.contains("reloaded: ")).then_some(())
    };
    let all_are_there = until(PATIENCE, accounts_for_all).is_some();
    assert!(all_are_there, "{} dropped, of {all}: {text}", dropped(&text));

    unread.stall();
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, STOP);
}

/// The number of dropped lines that the log reports, in one or more lines.
fn dropped(text: &str) -> usize {
    let counts = text.lines().filter_map(|line| line.split_once("read in time: ")?.1.split(' ').next());
    counts.map(|count| count.parse::<usize>().expect("a number")).sum()
}

fn launch(harness: &Harness, unread: &Unread, args: &[&str]) -> Server {
    let stderr = unread.theirs.try_clone().expect("it can be duplicated");
    // Without a backtrace, a panic is one line.
    let harness = harness.clone().with_stderr(stderr).with_variable("RUST_BACKTRACE", "0");
    let server = harness.launch("unix:server.sock", &[&["--log-level", "debug"], args].concat());
    let address = Address::Unix(server.dir().join("server.sock"));
    server.reach(address)
}

#[derive(Clone, Copy)]
enum Kind {
    Pipe,
    Terminal,
    Socket,
}

/// A log destination whose reader stalls.
struct Unread {
    kind: Kind,
    /// The reading end. Only [`read`](Self::read) reads from it.
    ours: OwnedFd,
    /// The server's standard error.
    theirs: OwnedFd,
}

impl Unread {
    fn new(kind: Kind) -> Self {
        let (ours, theirs) = match kind {
            Kind::Pipe => {
                let (reader, writer) = pipe().expect("a pipe can be made");
                (reader.into(), writer.into())
            }
            Kind::Terminal => terminal().expect("a pseudo-terminal can be made"),
            Kind::Socket => {
                let flags = SocketFlags::CLOEXEC;
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("sockets can be made")
            }
        };
        ioctl_fionbio(&ours, true).expect("it is ours");
        Self { kind, ours, theirs }
    }

    /// Fills the destination until no line fits.
    fn stall(&self) {
        let line = [b'\n'; 512];
        match self.kind {
            Kind::Pipe => {
                let path = format!("/proc/self/fd/{}", self.theirs.as_raw_fd());
                let flags = OFlags::NONBLOCK.bits() as i32;
                let mut writer =
                    OpenOptions::new().write(true).custom_flags(flags).open(path).expect("it is there");
                let full = (0..).find_map(|_| writer.write(&line).err()).expect("a pipe has an end");
                assert_eq!(full.kind(), ErrorKind::WouldBlock);
            }
            Kind::Terminal => tcflow(&self.theirs, Action::OOff).expect("it is a terminal"),
            Kind::Socket => {
                let write = |_| send(&self.theirs, &line, SendFlags::DONTWAIT).err();
                assert_eq!((0..).find_map(write), Some(Errno::AGAIN));
            }
        }
    }

    fn go_on(&self) {
        if let Kind::Terminal = self.kind {
            tcflow(&self.theirs, Action::OOn).expect("it is a terminal");
        }
    }

    /// Reads everything that is there.
    fn read(&self) -> String {
        let (mut all, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        while let Ok(n @ 1..) = read(&self.ours, &mut buffer) {
            all.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// A pseudo-terminal: its master, and the side that programs have.
fn terminal() -> Result<(OwnedFd, OwnedFd), Errno> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(ptsname(&master, Vec::new())?, flags, Mode::empty())?;
    Ok((master, slave))
}
