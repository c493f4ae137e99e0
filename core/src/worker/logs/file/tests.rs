#![allow(clippy::disallowed_methods, reason = "the files are looked at from outside")]

use std::fs;

use super::*;
use crate::worker::logs::FLUSH;

/// A directory that is removed when dropped.
pub(in crate::worker::logs) struct Dir(pub(in crate::worker::logs) PathBuf);

impl Dir {
    pub(in crate::worker::logs) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("remuda-core-{name}-{}", process::id()));
        fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }

    pub(in crate::worker::logs) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("the file is there")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_moved_file_is_not_written_to_after_a_reopen() {
    let dir = Dir::new("moved");
    let path = dir.0.join("log");
    fs::write(&path, "before\n").unwrap();
    let file = LogFile::open(&path).unwrap();
    (&file).write_all(b"1\n").unwrap();
    fs::rename(&path, dir.0.join("log.1")).unwrap();
    (&file).write_all(b"2\n").unwrap();
    file.reopen();
    (&file).write_all(b"3\n").unwrap();
    assert_eq!((&*dir.read("log.1"), &*dir.read("log")), ("before\n1\n2\n", "3\n"));
}

#[test]
fn a_file_that_cannot_be_reopened_is_kept() {
    let dir = Dir::new("kept");
    let (place, moved) = (dir.0.join("place"), dir.0.join("moved"));
    fs::create_dir(&place).unwrap();
    let file = LogFile::open(&place.join("log")).unwrap();
    fs::rename(&place, &moved).unwrap();
    file.reopen();
    (&file).write_all(b"still here\n").unwrap();
    assert_eq!(dir.read("moved/log"), "still here\n");
    assert!(LogFile::open(&place.join("log")).is_err());
}

#[test]
fn writers_of_one_file_append() {
    let dir = Dir::new("shared");
    let path = dir.0.join("log");
    let files = [LogFile::open(&path).unwrap(), LogFile::open(&path).unwrap()];
    for line in ["a\n", "bb\n", "c\n"] {
        files.iter().for_each(|mut file| file.write_all(line.as_bytes()).unwrap());
    }
    assert_eq!(dir.read("log"), "a\na\nbb\nbb\nc\nc\n");
}

/// Reads what is in the pipe now.
fn drain(reader: &OwnedFd) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 64 * 1024];
    rustix::io::ioctl_fionbio(reader, true).unwrap();
    while let Ok(n @ 1..) = rustix::io::read(reader, &mut buffer) {
        all.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_fifo_without_a_reader_is_opened_and_never_waited_for() {
    let dir = Dir::new("fifo");
    let path = dir.0.join("log");
    rustix::fs::mkfifoat(CWD, &path, Mode::RWXU).unwrap();
    let file = LogFile::open(&path).unwrap();
    for _ in 0..100 {
        (&file).write_all(&[&[b'x'; 4095][..], b"\n"].concat()).unwrap();
    }
    assert!(file.lost.load(Ordering::Relaxed) > 0, "a FIFO has less room");
    let reader = openat(CWD, &path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let waited = drain(&reader);
    assert!(waited.lines().count() >= 10, "{} lines wait in it for a reader", waited.lines().count());
    assert!(waited.lines().all(|line| line.len() == 4095));
}

/// A log whose pipe is full, with `more` lines that it has no room for.
fn stuck(more: usize) -> (LogFile, OwnedFd, usize) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let file = LogFile::stream(writer);
    let mut lines = 0;
    let write = |n: usize| (&file).write_all(format!("{n:99}\n").as_bytes()).unwrap();
    while file.deadline().is_none() {
        write(lines);
        lines += 1;
    }
    (0..more).for_each(|n| write(lines + n));
    (file, reader, lines + more)
}

#[test]
fn lines_without_room_are_written_in_order_by_tend() {
    let (file, reader, lines) = stuck(100);
    let retry_at = file.deadline().expect("it is tried again");
    let before = drain(&reader);
    file.tend(Time::ZERO);
    assert_eq!(drain(&reader), "", "too early");
    file.tend(retry_at);
    let all = before + &drain(&reader);
    let expected: String = (0..lines).map(|n| format!("{n:99}\n")).collect();
    assert_eq!(all, expected);
    assert_eq!((file.deadline(), file.lost.load(Ordering::Relaxed)), (None, 0));
}

#[test]
fn the_next_line_is_written_after_the_waiting_ones() {
    let (file, reader, lines) = stuck(3);
    let before = drain(&reader);
    (&file).write_all(b"last\n").unwrap();
    let all = before + &drain(&reader);
    assert_eq!((all.lines().count(), all.ends_with("\nlast\n")), (lines + 1, true));
    assert_eq!(file.deadline(), None);
}

#[test]
fn lines_beyond_the_room_are_dropped_whole_and_counted() {
    const MORE: usize = 5000;
    let (file, reader, lines) = stuck(MORE);
    let lost = file.lost.load(Ordering::Relaxed) as usize;
    assert!((MORE - ROOM / 100 - 2..MORE).contains(&lost), "{lost} of {MORE}");
    let mut all = drain(&reader);
    while let Some(at) = file.deadline() {
        file.tend(at);
        all += &drain(&reader);
    }
    assert_eq!(all.lines().count(), lines - lost);
    assert!(all.lines().enumerate().all(|(n, line)| line == format!("{n:99}")), "the last lines are lost");
}

#[test]
fn a_line_longer_than_a_pipe_continues_where_it_stopped() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let file = LogFile::stream(writer);
    let long = format!("{}\n", "0123456789".repeat(10_000));
    (&file).write_all(long.as_bytes()).unwrap();
    (&file).write_all(b"next\n").unwrap();
    let mut all = drain(&reader);
    while let Some(at) = file.deadline() {
        file.tend(at);
        all += &drain(&reader);
    }
    assert!(all == long + "next\n", "{} bytes", all.len());
}

#[test]
fn flush_waits_a_moment_for_a_reader_and_counts_the_rest() {
    let (file, _reader, _) = stuck(9);
    let start = sys::now();
    file.flush(FLUSH);
    let took = sys::now() - start;
    assert!((FLUSH..10 * FLUSH).contains(&took), "{took:?}");
    assert_eq!((file.lost.load(Ordering::Relaxed), file.deadline()), (10, None));
}

#[test]
fn without_a_reader_lines_are_lost_and_nothing_waits() {
    let (file, reader, _) = stuck(9);
    drop(reader);
    (&file).write_all(b"nothing\n").unwrap();
    assert_eq!((file.lost.load(Ordering::Relaxed), file.deadline()), (11, None));
}

#[test]
fn a_child_does_not_write_the_waiting_lines_of_its_parent() {
    let (file, reader, _) = stuck(9);
    drain(&reader);
    file.state.lock().unwrap().owner = 0; // another process, as after a fork
    file.tend(Time::MAX);
    assert_eq!((drain(&reader), file.deadline()), (String::new(), None));
}

#[test]
fn a_stream_is_never_reopened() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let file = LogFile::stream(writer);
    file.reopen();
    (&file).write_all(b"one").unwrap();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(3));
}

#[test]
fn one_write_takes_whole_lines_if_there_are_any() {
    let long = "x".repeat(PIPE_BUF);
    for (lines, expected) in [
        ("a\nb\n".to_owned(), 4),
        (format!("a\n{long}\n"), 2),
        (format!("{long}\nb\n"), PIPE_BUF + 1),
        (format!("{}\nb\n", &long[1..]), PIPE_BUF),
        ("rest".to_owned(), 4),
    ] {
        assert_eq!(whole_lines(lines.as_bytes()), expected, "{} bytes", lines.len());
    }
}
