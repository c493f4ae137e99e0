#![allow(clippy::disallowed_methods, reason = "the files are looked at from outside")]

use std::fs;

use super::*;

/// A directory that is removed in the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("remuda-core-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("the file is there")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_moved_away_is_left_alone_after_a_reopen() {
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

#[test]
fn a_fifo_without_a_reader_is_opened_and_never_waited_for() {
    let dir = Dir::new("fifo");
    let path = dir.0.join("log");
    rustix::fs::mkfifoat(CWD, &path, Mode::RWXU).unwrap();
    let file = LogFile::open(&path).unwrap();
    let full = loop {
        if let Err(error) = (&file).write(&[b'x'; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
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
