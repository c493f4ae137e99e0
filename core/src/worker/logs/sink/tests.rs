#![allow(clippy::disallowed_methods, reason = "it is measured that nothing waits")]

use std::time::{Duration, Instant};

use rustix::fs::{CWD, fcntl_getfl, mkfifoat};
use rustix::io::read;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::pipe;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, tcflow};

use super::*;

/// The longest time for a call that does not wait, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Fills `sink` until it has no room, and returns the number of bytes.
fn fill(sink: &Sink) -> usize {
    let line = [b'x'; 1000];
    let mut total = 0;
    loop {
        let start = Instant::now();
        let result = sink.write(&line);
        assert!(start.elapsed() < AT_ONCE, "it waited for {:?}", start.elapsed());
        match result {
            Ok(n) => total += n,
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                return total;
            }
        }
    }
}

fn blocks(fd: impl AsFd) -> bool {
    !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn a_full_pipe_is_not_waited_for_and_still_blocks_for_others() {
    for polls in [false, true] {
        let (reader, writer) = pipe().unwrap();
        let others = writer.try_clone().unwrap();
        let sink = Sink { fd: writer, kind: SinkKind::Pipe { polls: AtomicBool::new(polls) } };
        assert!(fill(&sink) >= PIPE_BUF, "polls: {polls}");
        assert!(blocks(&others), "other programs share the description");
        let mut buffer = [0; 2 * PIPE_BUF];
        while sink.write(b"again") == Err(Errno::AGAIN) {
            read(&reader, &mut buffer).unwrap();
        }
    }
}

#[test]
fn a_fifo_is_not_waited_for_though_its_description_blocks() {
    let (_reader, writer) = pipe().unwrap();
    assert!(matches!(Sink::new(writer).kind, SinkKind::Pipe { .. }), "a pipe without a name is not a FIFO");
    let path = std::env::temp_dir().join(format!("remuda-core-sink-{}", std::process::id()));
    mkfifoat(CWD, &path, Mode::RWXU).unwrap();
    let fifo = open(&path, OFlags::RDWR, Mode::empty()).unwrap();
    rustix::fs::unlink(&path).unwrap();
    let others = fifo.try_clone().unwrap();
    let sink = Sink::new(fifo);
    assert!(matches!(sink.kind, SinkKind::Plain));
    fill(&sink);
    assert!(blocks(&others));
    // As if it may not be opened.
    let kind = SinkKind::Pipe { polls: AtomicBool::new(false) };
    fill(&Sink { fd: others, kind });
}

#[test]
fn a_stream_socket_whose_peer_does_not_read_is_not_waited_for() {
    let (ours, _theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).unwrap();
    let sink = Sink::new(ours);
    fill(&sink);
    assert!(blocks(&sink));
}

/// A pseudo-terminal: the observer's end and the programs' end.
fn terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let slave = open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (master, slave)
}

#[test]
fn a_terminal_that_is_stopped_is_not_waited_for() {
    for opens_anew in [true, false] {
        let (master, slave) = terminal();
        let others = slave.try_clone().unwrap();
        let sink = if opens_anew { Sink::new(slave) } else { Sink { fd: slave, kind: SinkKind::Terminal } };
        assert_eq!(matches!(sink.kind, SinkKind::Plain), opens_anew);
        assert_eq!(sink.write(b"one\n"), Ok(4));
        tcflow(&others, Action::OOff).unwrap(); // as Ctrl-S does
        fill(&sink);
        assert!(blocks(&others));
        tcflow(&others, Action::OOn).unwrap();
        let mut text = [0; 5];
        assert_eq!((read(&master, &mut text), &text), (Ok(5), b"one\r\n"));
        assert_eq!(sink.write(b"two\n"), Ok(4), "opens again: {opens_anew}");
    }
}

#[test]
fn a_pipe_without_a_reader_is_an_error() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    assert_eq!(Sink::new(writer).write(b"x"), Err(Errno::PIPE));
}
