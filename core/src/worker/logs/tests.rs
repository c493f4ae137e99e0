#![allow(clippy::disallowed_methods, reason = "the files are looked at from outside")]

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use super::file::tests::Dir;
use super::*;

#[test]
fn workers_continue_in_files_that_the_arbiter_has_opened() {
    let dir = Dir::new("handed");
    let open = |name: &str| Arc::new(LogFile::open(&dir.0.join(name)).unwrap());
    let mut logs = Logs { error: Some(open("error")), access: None };
    let worker = logs.start().unwrap();
    fs::rename(dir.0.join("error"), dir.0.join("old")).unwrap();
    let sinks = logs.to_continue_in();
    assert_eq!(sinks.len(), 1);
    logs.reopen();
    let opened =
        logs.to_continue_in().iter().map(|sink| sink.as_fd().try_clone_to_owned().unwrap()).collect();
    worker.continue_in(opened).unwrap();
    assert_eq!(worker.continue_in(Vec::new()).unwrap_err(), "0 of 1 descriptors received");
    (&**worker.error.as_ref().unwrap()).write_all(b"new\n").unwrap();
    assert_eq!((&*dir.read("error"), &*dir.read("old")), ("new\n", ""));

    logs.error = Some(Arc::new(LogFile::stream(rustix::pipe::pipe().unwrap().1)));
    assert!(logs.to_continue_in().is_empty(), "a stream is not reopened");
}
