use std::os::fd::OwnedFd;

use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::*;

/// The longest wait of a test.
const PATIENCE: Duration = Duration::from_secs(10);

/// A log that writes to a pipe of the smallest size, and the pipe's other end. One write fills it:
/// poll(2) reports a pipe of one page as writable when it is empty.
fn piped() -> (AccessLog, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    fcntl_setpipe_size(&writer, 4096).unwrap();
    logging(reader, writer)
}

fn logging(reader: OwnedFd, writer: OwnedFd) -> (AccessLog, OwnedFd) {
    let format = Arc::new(Format::default());
    (AccessLog::start(Arc::new(LogFile::stream(writer)), format).unwrap(), reader)
}

impl AccessLog {
    fn note(&self, line: &str) {
        self.queue.push(|lines| lines.extend_from_slice(line.as_bytes()));
    }
}

/// Reads what is in the pipe.
fn drain(reader: &OwnedFd) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        match read(reader, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return all,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn flush_waits_for_all_lines() {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let (log, reader) = logging(reader, writer);
    log.flush(PATIENCE);
    for n in 0..50 {
        log.note(&format!("line {n}\n"));
    }
    log.flush(PATIENCE);
    let expected: String = (0..50).map(|n| format!("line {n}\n")).collect();
    assert_eq!(drain(&reader), expected.as_bytes());
}

#[test]
fn a_pipe_without_reads_delays_no_request_and_lines_are_counted() {
    const LINES: usize = 30_000;
    let (log, reader) = piped();
    let line = format!("{}\n", "x".repeat(99));
    (0..LINES).for_each(|_| log.note(&line));
    let dropped = log.queue.state().dropped as usize;
    let queued = ROOM / line.len();
    assert!((LINES - 2 * queued - 100..LINES - queued).contains(&dropped), "{dropped} of {LINES}");
    assert!(log.queue.state().lines.len() <= ROOM + line.len());

    // From here on a reader receives whole lines, and all lines that were kept.
    let mut all = Vec::new();
    let deadline = sys::now() + PATIENCE;
    while all.len() < (LINES - dropped) * line.len() && sys::now() < deadline {
        all.extend(drain(&reader));
    }
    assert_eq!(all.len(), (LINES - dropped) * line.len());
    assert!(all.chunks(line.len()).all(|got| got == line.as_bytes()), "lines are whole");
}

#[test]
fn flush_gives_up_without_a_reader() {
    let (log, _reader) = piped();
    log.note(&format!("{}\n", "x".repeat(4095)).repeat(3));
    let start = sys::now();
    log.flush(Duration::from_millis(100));
    let took = sys::now() - start;
    assert!((Duration::from_millis(100)..PATIENCE).contains(&took), "{took:?}");
}

#[test]
fn the_log_survives_a_broken_pipe() {
    let (log, reader) = piped();
    drop(reader);
    log.note("nobody hears it\n");
    log.flush(PATIENCE);
    assert!(log.queue.state().is_idle);
}
